//! `pods/portforward` in the channels of a WebSocket, against a node that sends back what it gets.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_api::{Body, BoxError, Config, Relay};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use objects::User;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::harness::{Api, PATIENCE};

const PATH: &str = "/api/v1/namespaces/default/pods/web/portforward";

/// A node whose port 80 is an echo and whose other ports refuse.
async fn node(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/portForward/default/web/80" {
        return Ok(Response::new(body));
    }
    if head.uri.path() == "/portForward/default/web/8080" {
        return Ok(Response::new(web(body)));
    }
    if head.uri.path() == "/stats/summary" {
        let told = Full::from("{}").map_err(|never| match never {}).boxed_unsync();
        return Ok(Response::new(told));
    }
    let refusal = Full::from("connection refused").map_err(|never| match never {}).boxed_unsync();
    Ok(Response::builder().status(StatusCode::BAD_GATEWAY).body(refusal)?)
}

/// A connection to a pod that tells what it was asked.
fn web(client: Body) -> Body {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (reader, mut writer) = tokio::io::split(near);
    tokio::spawn(async move {
        let mut client = client;
        while let Some(Ok(frame)) = client.frame().await {
            let Ok(bytes) = frame.into_data() else { continue };
            tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes).await.unwrap();
        }
    });
    let service = service_fn(|request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let secret = head.headers.contains_key("authorization");
        let told = format!("{} {} {} {secret}", head.method, head.uri, String::from_utf8_lossy(&body));
        Ok::<_, std::convert::Infallible>(
            Response::builder().status(418).header("x-pod", "web").body(Full::new(Bytes::from(told))).unwrap(),
        )
    });
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service));
    let pieces = tokio_util::io::ReaderStream::new(reader);
    http_body_util::StreamBody::new(pieces.map(|piece| piece.map(http_body::Frame::data).map_err(Into::into)))
        .boxed_unsync()
}

async fn api() -> Api {
    let relay = Relay::default();
    relay.attach("n1", http_api::Standing::Own, BoxCloneSyncService::new(tower::service_fn(node)));
    let api = Api::with(Config { node_relay: relay, ..Config::default() }).await;
    for (name, node) in [("web", Some("n1")), ("lost", Some("n2")), ("waiting", None)] {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}]});
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        let answer = api.post("/api/v1/namespaces/default/pods", &pod).await;
        assert_eq!(answer.code, 201, "{}", answer.text());
    }
    api
}

/// Asks over a connection that can be upgraded.
async fn ask(api: &Api, path: &str, protocol: &str) -> Response<Incoming> {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let service = api.service.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let groups = vec!["system:masters".into()];
        request.extensions_mut().insert(User { name: "admin".into(), groups, ..User::default() });
        service.clone().oneshot(request)
    });
    let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service);
    tokio::spawn(server.with_upgrades());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(path)
        .header("host", "kogia")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let request = if protocol.is_empty() { request } else { request.header("sec-websocket-protocol", protocol) };
    sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
}

async fn websocket(response: Response<Incoming>) -> WebSocketStream<TokioIo<Upgraded>> {
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

/// The next message's bytes; `None` when the WebSocket is closed.
async fn next(socket: &mut WebSocketStream<TokioIo<Upgraded>>) -> Option<Vec<u8>> {
    match tokio::time::timeout(PATIENCE, socket.next()).await.expect("an answer in time")?.unwrap() {
        Message::Binary(bytes) => Some(bytes.to_vec()),
        Message::Close(_) => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn ports_are_forwarded_in_channels() {
    let api = api().await;
    for protocol in ["v5.channel.k8s.io, v4.channel.k8s.io", "v4.channel.k8s.io", ""] {
        let response = ask(&api, &format!("{PATH}?ports=80,81"), protocol).await;
        let chosen = response.headers().get("sec-websocket-protocol").map(|name| name.to_str().unwrap().to_owned());
        assert_eq!(chosen.unwrap_or_default(), protocol.split(',').next().unwrap());
        let mut socket = websocket(response).await;
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(next(&mut socket).await.unwrap());
        }
        seen.sort();
        let refused = [&[3][..], b"error forwarding port 81 to pod web: connection refused"].concat();
        assert_eq!(seen, [vec![0, 80, 0], vec![1, 80, 0], vec![2, 81, 0], vec![3, 81, 0], refused]);
        socket.send(Message::Binary(Bytes::from_static(b"\0hello"))).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap(), b"\0hello");
        // The client's end is the echo's end, and the last connection's end is the session's.
        socket.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
        assert_eq!(next(&mut socket).await, None);
    }
    api.close().await;
}

#[tokio::test]
async fn many_bytes_go_both_ways_at_once() {
    const MESSAGE: usize = 64 * 1024;
    const BYTES: usize = 128 * MESSAGE;
    let api = api().await;
    let socket = websocket(ask(&api, &format!("{PATH}?ports=80"), "v5.channel.k8s.io").await).await;
    let (mut writer, mut reader) = socket.split();
    let byte = |n: usize| (n / 7 % 251) as u8;
    let writing = tokio::spawn(async move {
        for first in (0..BYTES).step_by(MESSAGE) {
            let message = std::iter::once(0).chain((first..first + MESSAGE).map(byte)).collect();
            writer.send(Message::Binary(message)).await.unwrap();
        }
        writer
    });
    let mut received = Vec::new();
    while received.len() < BYTES {
        let message = tokio::time::timeout(PATIENCE, reader.next()).await.expect("an answer in time").unwrap().unwrap();
        match &message.into_data()[..] {
            [0, 80, 0] | [1, ..] => {}
            [0, bytes @ ..] => received.extend_from_slice(bytes),
            other => panic!("{other:?}"),
        }
    }
    assert!(received.iter().enumerate().all(|(n, value)| *value == byte(n)) && received.len() == BYTES);
    drop(writing.await.unwrap());
    api.close().await;
}

#[tokio::test]
async fn what_cannot_be_forwarded_is_refused_before_the_upgrade() {
    let api = api().await;
    let path = |pod: &str, query: &str| format!("/api/v1/namespaces/default/pods/{pod}/portforward{query}");
    let table = [
        (404, path("nobody", "?ports=80"), ""),
        (400, path("waiting", "?ports=80"), ""),
        (400, path("web", ""), ""),
        (400, path("web", "?ports=0"), ""),
        (400, path("web", "?ports=80,many"), ""),
        (403, path("web", "?ports=80"), "v9.channel.k8s.io"),
    ];
    for (code, path, protocol) in table {
        assert_eq!(ask(&api, &path, protocol).await.status().as_u16(), code, "{path} {protocol}");
    }
    // Without an upgrade, and without the right.
    assert_eq!(api.get(PATH).await.code, 400);
    assert_eq!(api.as_user("eve", &["system:authenticated"]).get(PATH).await.code, 403);
    let mut socket = websocket(ask(&api, &path("lost", "?ports=80"), "").await).await;
    for channel in [0, 1] {
        assert_eq!(next(&mut socket).await.unwrap(), [channel, 80, 0]);
    }
    let message = next(&mut socket).await.unwrap();
    assert!(String::from_utf8_lossy(&message).contains("\"n2\" is not connected"), "{message:?}");
    api.close().await;
}

#[tokio::test]
async fn pods_services_and_nodes_are_proxied() {
    let api = api().await;
    let service =
        json!({"metadata": {"name": "shop"}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    assert_eq!(api.post("/api/v1/namespaces/default/services", &service).await.code, 201);
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(api.get(&format!("{services}/shop/proxy/")).await.code, 503, "it has no endpoints");
    let slice = json!({
        "metadata": {"name": "shop-1", "labels": {"kubernetes.io/service-name": "shop"}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "web"}}],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    assert_eq!(api.post(slices, &slice).await.code, 201);
    let pods = "/api/v1/namespaces/default/pods";
    for path in [
        format!("{pods}/web:8080/proxy/a%20b/c?x=1&y=%26"),
        format!("{services}/shop/proxy/a%20b/c?x=1&y=%26"),
        format!("{services}/http:shop:http/proxy/a%20b/c?x=1&y=%26"),
    ] {
        let answer = api.get(&path).await;
        assert_eq!((answer.code, &*answer.text()), (418, "GET /a%20b/c?x=1&y=%26  false"), "{path}");
    }
    assert_eq!(api.get(&format!("{pods}/web:81/proxy/")).await.code, 503);
    assert_eq!(api.get(&format!("{pods}/https:web:8080/proxy/")).await.code, 501);
    assert_eq!(api.get(&format!("{pods}/nobody/proxy/")).await.code, 404);
    assert_eq!(api.get("/api/v1/nodes/n1/proxy/stats/summary").await.text(), "{}");
    assert_eq!(api.get("/api/v1/nodes/nobody/proxy/").await.code, 404);
    assert_eq!(api.as_user("eve", &["system:authenticated"]).get(&format!("{pods}/web/proxy/")).await.code, 403);
    api.close().await;
}
