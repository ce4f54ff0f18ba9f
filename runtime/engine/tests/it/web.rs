//! HTTP containers: an instance per request, streaming, faults and back-pressure.

use crate::{CALLER, Collected, House, PATIENCE, guests, spec, until};
use bytes::Bytes;
use engine::{ContainerSpec, Exit, HttpContainer};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use network::{HttpError, HttpService};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) async fn web(
    house: &House,
    adjust: impl FnOnce(&mut ContainerSpec),
) -> (Arc<HttpContainer>, Arc<Collected>) {
    let code = house.load(&guests::web()).await.unwrap();
    let (mut spec, output) = spec();
    adjust(&mut spec);
    (house.engine.http(&code, spec).unwrap(), output)
}

pub(crate) fn request(method: Method) -> Request<network::Body> {
    Request::builder().method(method).uri("/some/path").body(network::body::empty()).unwrap()
}

pub(crate) async fn send(
    container: &Arc<HttpContainer>,
    request: Request<network::Body>,
) -> Result<Response<network::Body>, HttpError> {
    timeout(PATIENCE, container.clone().call(request, CALLER)).await.unwrap()
}

pub(crate) async fn text(response: Response<network::Body>) -> String {
    let bytes = timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn every_request_gets_a_fresh_instance_and_nothing_is_held_in_between() {
    let house = House::with_instances(1);
    let (container, _) = web(&house, |_| ()).await;
    assert_eq!(container.usage().memory_bytes, 0);
    for _ in 0..5 {
        let response = send(&container, request(Method::GET)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(text(response).await, "hello\n");
        timeout(PATIENCE, container.drained()).await.unwrap();
        assert_eq!((container.in_flight(), container.usage().memory_bytes), (0, 0));
    }
    assert!(container.usage().cpu_nanos > 0);
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let house = House::new();
    let (container, _) = web(&house, |_| ()).await;
    let (send_frame, mut frames) = mpsc::channel::<Bytes>(1);
    let body = StreamBody::new(futures::stream::poll_fn(move |cx| {
        frames.poll_recv(cx).map(|piece| piece.map(|piece| Ok::<_, std::io::Error>(http_body::Frame::data(piece))))
    }));
    let request = Request::builder().method(Method::PUT).uri("/").body(network::body::boxed(body)).unwrap();
    let mut response = send(&container, request).await.unwrap().into_body();
    // The answer to each piece comes before the next is sent.
    for round in 0..10_u8 {
        let piece = Bytes::from(vec![round; 1000]);
        send_frame.send(piece.clone()).await.unwrap();
        let mut echoed = Vec::new();
        while echoed.len() < piece.len() {
            let frame = timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap();
            echoed.extend_from_slice(frame.data_ref().unwrap());
        }
        assert_eq!(echoed, piece);
    }
    drop(send_frame);
    assert!(timeout(PATIENCE, response.frame()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_trap_costs_one_request_and_is_told() {
    let house = House::new();
    let (container, output) = web(&house, |_| ()).await;
    let error = send(&container, request(Method::POST)).await.unwrap_err();
    assert_eq!(error.response().status(), StatusCode::INTERNAL_SERVER_ERROR);
    let fault = timeout(PATIENCE, container.fault()).await.unwrap();
    assert!(matches!(&fault, Exit::Trap { backtrace, .. } if backtrace.contains("handle_post")), "{fault:?}");
    assert!(output.stderr().starts_with("POST /some/path: wasm trap"), "{}", output.stderr());
    assert_eq!(text(send(&container, request(Method::GET)).await.unwrap()).await, "hello\n");
}

#[tokio::test]
async fn a_trap_in_the_middle_of_a_body_cuts_it() {
    let house = House::new();
    let (container, _) = web(&house, |_| ()).await;
    let response = send(&container, request(Method::PATCH)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(timeout(PATIENCE, response.into_body().collect()).await.unwrap().is_err());
    assert!(matches!(timeout(PATIENCE, container.fault()).await.unwrap(), Exit::Trap { .. }));
}

#[tokio::test]
async fn the_memory_limit_holds_over_all_instances() {
    let house = House::new();
    let (container, _) = web(&house, |spec| spec.memory_limit_bytes = Some(1 << 20)).await;
    assert!(send(&container, request(Method::OPTIONS)).await.is_err());
    assert_eq!(timeout(PATIENCE, container.fault()).await.unwrap(), Exit::OomKilled);

    // An instance has two pages, so eight fill the limit: those that never end leave no room for the next.
    let hanging: Vec<_> =
        (0..8).map(|_| tokio::spawn(container.clone().call(request(Method::DELETE), CALLER))).collect();
    until("eight instances run", || container.usage().memory_bytes >= 1 << 20).await;
    // That is too much at once, not a fault of whoever comes last.
    let full = send(&container, request(Method::GET)).await.unwrap_err().response();
    assert_eq!(
        (full.status(), &full.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_instance_without_a_fault() {
    let house = House::new();
    let (container, output) = web(&house, |_| ()).await;
    let waiting = tokio::spawn(container.clone().call(request(Method::DELETE), CALLER));
    until("the instance runs", || container.usage().memory_bytes > 0).await;
    waiting.abort();
    timeout(PATIENCE, container.drained()).await.unwrap();

    let response = send(&container, request(Method::GET)).await.unwrap();
    drop(response);
    timeout(PATIENCE, container.drained()).await.unwrap();
    assert_eq!(output.stderr(), "");
}

#[tokio::test]
async fn more_than_the_node_holds_is_turned_away_for_a_second() {
    let house = House::with_instances(2);
    let (container, _) = web(&house, |_| ()).await;
    let hanging: Vec<_> =
        (0..2).map(|_| tokio::spawn(container.clone().call(request(Method::DELETE), CALLER))).collect();
    until("both instances run", || container.usage().memory_bytes == 2 * (2 << 16)).await;
    let busy = send(&container, request(Method::GET)).await.unwrap_err().response();
    assert_eq!(busy.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(busy.headers()["retry-after"], "1");

    container.stop();
    timeout(PATIENCE, container.drained()).await.unwrap();
    for waiting in hanging {
        assert!(waiting.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_container_takes_so_many_requests_at_once() {
    let house = House::with_instances(200);
    let (container, output) = web(&house, |_| ()).await;
    // Each waits for a body that does not come.
    let open = || {
        let body = StreamBody::new(futures::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>());
        Request::builder().method(Method::PUT).uri("/").body(network::body::boxed(body)).unwrap()
    };
    let mut waiting = Vec::new();
    for _ in 0..engine::limits::REQUESTS_MAX / 2 {
        waiting.push(send(&container, open()).await.unwrap());
    }
    assert_eq!(container.in_flight(), engine::limits::REQUESTS_MAX / 2);
    assert!(matches!(send(&container, open()).await, Err(HttpError::Overloaded { .. })), "so many for one caller");
    // Whoever else comes is answered all the same.
    let other = container.clone().call(request(Method::GET), [10, 42, 0, 3].into());
    assert_eq!(text(timeout(PATIENCE, other).await.unwrap().unwrap()).await, "hello\n");
    assert_eq!(output.stderr(), "");
    drop(waiting);
    timeout(PATIENCE, container.drained()).await.unwrap();
    assert_eq!(text(send(&container, request(Method::GET)).await.unwrap()).await, "hello\n");
}

#[tokio::test]
async fn a_bad_request_is_not_the_guests_fault() {
    let house = House::new();
    let (container, output) = web(&house, |_| ()).await;
    let mut request = request(Method::GET);
    request.headers_mut().insert("host", http::HeaderValue::from_bytes(b"caf\xe9").unwrap());
    assert_eq!(send(&container, request).await.unwrap().status(), StatusCode::BAD_REQUEST);
    assert_eq!((container.in_flight(), output.stderr().as_str()), (0, ""));
}
