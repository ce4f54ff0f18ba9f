//! Instances of 0.2 that answer several requests, one after the other, and every way they come to their end.

use crate::web::{request, send, text, web};
use crate::{CALLER, House, PATIENCE, until};
use engine::{Exit, Reuse};
use http::{Method, StatusCode};
use network::HttpService;
use std::time::Duration;
use tokio::time::timeout;

const ONE_INSTANCE: u64 = 2 << 16;

fn reuse() -> Reuse {
    Reuse { requests: 1000, instances: 4, idle: Duration::from_secs(600), concurrency: 1 }
}

#[tokio::test]
async fn an_instance_answers_one_request_after_the_other_and_makes_way_in_time() {
    let house = House::with_instances(1);
    let (container, _) = web(&house, |spec| spec.terms.reuse = Some(Reuse { requests: 3, ..reuse() })).await;
    for left in [ONE_INSTANCE, ONE_INSTANCE, 0] {
        let response = send(&container, request(Method::GET)).await.unwrap();
        assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, "hello\n"));
        timeout(PATIENCE, container.drained()).await.unwrap();
        assert_eq!(container.usage().memory_bytes, left, "the third request is its last");
    }
}

#[tokio::test]
async fn an_instance_that_rests_too_long_goes() {
    let house = House::new();
    let short = Reuse { idle: Duration::from_millis(1), ..reuse() };
    let (container, _) = web(&house, |spec| spec.terms.reuse = Some(short)).await;
    for _ in 0..2 {
        text(send(&container, request(Method::GET)).await.unwrap()).await;
        until("it is gone", || container.usage().memory_bytes == 0).await;
    }
}

#[tokio::test]
async fn no_more_than_so_many_rest_and_stopping_ends_them() {
    let house = House::new();
    let (container, _) = web(&house, |spec| spec.terms.reuse = Some(Reuse { instances: 2, ..reuse() })).await;
    let answers: Vec<_> = futures::future::join_all((0..8).map(|_| send(&container, request(Method::GET)))).await;
    for answer in answers {
        text(answer.unwrap()).await;
    }
    timeout(PATIENCE, container.drained()).await.unwrap();
    assert!((1..=2).contains(&(container.usage().memory_bytes / ONE_INSTANCE)));
    container.stop();
    assert_eq!(container.usage().memory_bytes, 0);
}

#[tokio::test]
async fn what_trapped_or_was_abandoned_is_never_used_again() {
    let house = House::new();
    let (container, _) = web(&house, |spec| spec.terms.reuse = Some(reuse())).await;
    text(send(&container, request(Method::GET)).await.unwrap()).await;
    timeout(PATIENCE, container.drained()).await.unwrap();
    assert!(send(&container, request(Method::POST)).await.is_err());
    assert!(matches!(timeout(PATIENCE, container.fault()).await.unwrap(), Exit::Trap { .. }));
    until("the one that trapped is gone", || container.usage().memory_bytes == 0).await;

    let waiting = tokio::spawn(container.clone().call(request(Method::DELETE), CALLER));
    until("the next runs", || container.usage().memory_bytes > 0).await;
    waiting.abort();
    until("the abandoned one is gone", || container.usage().memory_bytes == 0).await;
    assert_eq!(text(send(&container, request(Method::GET)).await.unwrap()).await, "hello\n");
}

#[tokio::test]
async fn every_request_has_a_budget_of_its_own() {
    let house = House::new();
    let code = house.load_as(&crate::guests::web(), true).await.unwrap();
    let (mut spec, output) = crate::spec();
    spec.terms.fuel = Some(2_000);
    spec.terms.reuse = Some(reuse());
    let container = house.engine.http(&code, spec).unwrap();
    // Together they spend many times the budget.
    for _ in 0..100 {
        assert_eq!(text(send(&container, request(Method::GET)).await.unwrap()).await, "hello\n");
    }
    let refused = send(&container, request(Method::DELETE)).await.unwrap_err().response();
    assert_eq!(refused.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(timeout(PATIENCE, container.fault()).await.unwrap(), Exit::OutOfFuel(2_000));
    assert!(output.stderr().contains("used up its budget of 2000 instructions"), "{}", output.stderr());
    assert_eq!(text(send(&container, request(Method::GET)).await.unwrap()).await, "hello\n");
}

#[tokio::test]
async fn a_request_is_given_up_when_its_pod_says_so() {
    let house = House::new();
    let (container, output) = web(&house, |spec| spec.terms.request_timeout = Some(Duration::from_millis(50))).await;
    let late = send(&container, request(Method::DELETE)).await.unwrap_err().response();
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
    timeout(PATIENCE, container.drained()).await.unwrap();
    assert!(output.stderr().contains("no response within 50ms"), "{}", output.stderr());
}
