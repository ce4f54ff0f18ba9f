//! Services of `wasi:http` 0.3: by fresh instances, and by instances that go on.

use crate::web::{request, send, text};
use crate::{CALLER, Collected, House, PATIENCE, guests, spec, until};
use engine::{CodeError, ContainerSpec, Engine, EngineConfig, Exit, HttpContainer, Reuse};
use http::{Method, StatusCode};
use network::HttpService;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

async fn service(house: &House, adjust: impl FnOnce(&mut ContainerSpec)) -> (Arc<HttpContainer>, Arc<Collected>) {
    let code = house.load(&guests::service()).await.unwrap();
    let (mut spec, output) = spec();
    adjust(&mut spec);
    (house.engine.http(&code, spec).unwrap(), output)
}

fn reuse() -> Reuse {
    Reuse { requests: 1000, instances: 2, idle: Duration::from_secs(600), concurrency: 4 }
}

#[tokio::test]
async fn a_fresh_instance_answers_and_is_gone() {
    let house = House::with_instances(1);
    let (container, output) = service(&house, |_| ()).await;
    for _ in 0..3 {
        let response = send(&container, request(Method::GET)).await.unwrap();
        assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, ""));
        timeout(PATIENCE, container.drained()).await.unwrap();
        assert_eq!(container.usage().memory_bytes, 0);
    }
    let refused = send(&container, request(Method::PUT)).await.unwrap_err().response();
    assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(output.stderr().contains("the component answered with the error"), "{}", output.stderr());
    // It goes on for a while after its answer, in the only place there is.
    timeout(PATIENCE, container.drained()).await.unwrap();

    assert!(send(&container, request(Method::POST)).await.is_err());
    let fault = timeout(PATIENCE, container.fault()).await.unwrap();
    assert!(matches!(&fault, Exit::Trap { backtrace, .. } if backtrace.contains("handle_post")), "{fault:?}");

    let waiting = tokio::spawn(container.clone().call(request(Method::DELETE), CALLER));
    until("it loops", || container.usage().memory_bytes > 0).await;
    waiting.abort();
    timeout(PATIENCE, container.drained()).await.unwrap();
}

#[tokio::test]
async fn an_instance_goes_on_until_it_has_answered_enough_or_rested_too_long() {
    let house = House::new();
    let one = Reuse { requests: 3, instances: 1, ..reuse() };
    let (container, _) = service(&house, |spec| spec.terms.reuse = Some(one)).await;
    for _ in 0..3 {
        assert_eq!(send(&container, request(Method::GET)).await.unwrap().status(), StatusCode::OK);
    }
    until("it has made way", || container.usage().memory_bytes == 0).await;

    let short = Reuse { idle: Duration::from_millis(1), ..reuse() };
    let (container, _) = service(&house, |spec| spec.terms.reuse = Some(short)).await;
    assert_eq!(send(&container, request(Method::GET)).await.unwrap().status(), StatusCode::OK);
    until("it is gone", || container.usage().memory_bytes == 0).await;
}

#[tokio::test]
async fn a_trap_ends_one_instance_and_nothing_else() {
    let house = House::new();
    let (container, output) = service(&house, |spec| spec.terms.reuse = Some(reuse())).await;
    assert_eq!(send(&container, request(Method::GET)).await.unwrap().status(), StatusCode::OK);
    assert!(send(&container, request(Method::POST)).await.is_err());
    assert!(matches!(timeout(PATIENCE, container.fault()).await.unwrap(), Exit::Trap { .. }));
    assert!(output.stderr().contains("handle_post"), "{}", output.stderr());
    assert_eq!(send(&container, request(Method::GET)).await.unwrap().status(), StatusCode::OK);
    container.stop();
    until("all are gone", || container.usage().memory_bytes == 0).await;
}

#[tokio::test]
async fn all_instances_full_is_overloaded() {
    let house = House::new();
    let narrow = Reuse { instances: 1, concurrency: 1, ..reuse() };
    let (container, _) = service(&house, |spec| spec.terms.reuse = Some(narrow)).await;
    let waiting = tokio::spawn(container.clone().call(request(Method::DELETE), CALLER));
    until("the one instance is busy", || container.usage().memory_bytes > 0).await;
    let busy = send(&container, request(Method::GET)).await.unwrap_err().response();
    assert_eq!(
        (busy.status(), &busy.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    container.stop();
    assert!(timeout(PATIENCE, waiting).await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn a_node_may_have_0_3_switched_off() {
    let dir = tempfile::tempdir().unwrap();
    let config = EngineConfig { wasi_0_3: false, ..EngineConfig::new(dir.path().join("cache")) };
    let engine = Engine::new(config).unwrap();
    let path = dir.path().join("guest.wasm");
    std::fs::write(&path, wat::parse_str(guests::service()).unwrap()).unwrap();
    let refused = engine.load("test:off", &path, false).await.unwrap_err();
    assert!(matches!(refused, CodeError::SwitchedOff));
    assert_eq!(refused.to_string(), "component is built for WASI 0.3, which is switched off on this node");
}
