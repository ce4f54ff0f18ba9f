//! What routes ask for beside forwarding, seen by a client.

use super::*;

/// Routes every host `NAME.test` to its Service as these annotations say.
fn annotate(world: &World, name: &str, path: &str, annotations: &[(&str, &str)]) {
    let annotations = annotations.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let backend = (name.to_owned(), PortRef::Number(80));
    let path = Path { path: path.into(), kind: PathKind::ImplementationSpecific, backend };
    let ingress = routes::Ingress {
        namespace: "default".into(),
        name: name.into(),
        rules: vec![Rule { host: format!("{name}.test"), paths: vec![path] }],
        annotations,
        ..routes::Ingress::default()
    };
    world.fabric.set_routes(RouteTable::build(vec![ingress], &[], Gateways::default()));
}

/// Answers with what it was asked.
fn echo() -> Arc<dyn HttpService> {
    fake(|request: Request<Body>| async move {
        let host = request.headers()["host"].to_str().unwrap_or_default().to_owned();
        Ok(Response::new(body::full(format!("{} {host} {}", request.method(), request.uri()))))
    })
}

#[tokio::test]
async fn annotations_rewrite_and_redirect() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let _binding = a.serve_http(8080, echo()).unwrap();
    annotate(&world, "a", "/shop(/|$)(.*)", &[("rewrite-target", "/$2"), ("upstream-vhost", "inside")]);
    assert_eq!(world.get("a.test", "/shop/cart").await.1, "GET inside /cart");
    assert_eq!(world.get("a.test", "/other").await.0, StatusCode::NOT_FOUND);

    annotate(&world, "a", "/", &[("ssl-redirect", "true")]);
    let (status, headers, _) = world.send("a.test", Request::get("/x"), "").await;
    let expected = format!("https://a.test:{}/x", world.https.port());
    assert_eq!((status, headers["location"].to_str().unwrap()), (StatusCode::PERMANENT_REDIRECT, expected.as_str()));

    annotate(&world, "a", "/", &[("permanent-redirect", "https://new.test/")]);
    assert_eq!(world.get("a.test", "/x").await.0, StatusCode::MOVED_PERMANENTLY);
}

#[tokio::test]
async fn annotations_keep_clients_out() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let _binding = a.serve_http(8080, echo()).unwrap();
    annotate(&world, "a", "/", &[("whitelist-source-range", "10.0.0.0/8")]);
    assert_eq!(world.get("a.test", "/").await.0, StatusCode::FORBIDDEN);
    annotate(&world, "a", "/", &[("whitelist-source-range", "127.0.0.0/8"), ("proxy-body-size", "4")]);
    assert_eq!(world.get("a.test", "/").await.0, StatusCode::OK);
    let (status, ..) = world.send("a.test", Request::post("/"), "12345").await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    annotate(&world, "a", "/", &[("limit-rpm", "1"), ("limit-burst-multiplier", "180")]);
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(world.get("a.test", "/").await.0.as_u16());
    }
    assert_eq!(answers, [200, 200, 200, 503, 503]);
}

#[tokio::test]
async fn browsers_are_told_what_other_origins_may() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let _binding = a.serve_http(8080, echo()).unwrap();
    annotate(&world, "a", "/", &[("enable-cors", "true"), ("cors-allow-origin", "https://*.app.test")]);
    let asked = |origin: &str| {
        Request::builder()
            .method("OPTIONS")
            .uri("/")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
    };
    let (status, headers, _) = world.send("a.test", asked("https://x.app.test"), "").await;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (StatusCode::NO_CONTENT, &"https://x.app.test".parse().unwrap())
    );
    let (_, headers, _) = world.send("a.test", asked("https://evil.test"), "").await;
    assert!(headers.get("access-control-allow-origin").is_none());
    let (_, headers, text) = world.send("a.test", Request::get("/").header("origin", "https://x.app.test"), "").await;
    assert_eq!(headers["access-control-allow-credentials"], "true");
    assert_eq!(text, "GET a.test /");
}

#[tokio::test]
async fn heads_that_can_be_read_in_two_ways_are_refused() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let _binding = a.serve_http(8080, echo()).unwrap();
    for head in [
        "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "GET /a/../admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "GET /a/%2e%2E/admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n",
    ] {
        let mut stream = world.raw(head).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let first = answer.lines().next().unwrap_or_default();
        assert!(first.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
    }
    assert_eq!(world.get("a.test", "/a/.well-known/x..y").await.0, StatusCode::OK);
    // Of two lengths hyper believes the chunks, as RFC 9112 §6.3 says, and nothing that follows them.
    let smuggled = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
                    GET /hidden HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let mut stream = world.raw(smuggled).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("POST a.test /"), "{answer}");
}

/// A gRPC server that listens by itself is spoken to in HTTP/2, and its trailers come through.
#[tokio::test]
async fn grpc_reaches_a_pod_that_listens_by_itself() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let listener = a.listen("0.0.0.0:8080".parse().unwrap(), 0).unwrap();
    annotate(&world, "a", "/", &[("backend-protocol", "GRPC")]);
    tokio::spawn(async move {
        while let Ok(conn) = listener.accept().await {
            let answer = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                assert_eq!(request.headers()["te"], "trailers");
                assert_eq!(request.uri().authority().unwrap(), "a.test");
                let sent = request.into_body().collect().await.unwrap().to_bytes();
                let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                let frames = [Ok::<_, BoxError>(Frame::data(sent)), Ok(Frame::trailers(trailers))];
                Ok::<_, BoxError>(Response::new(StreamBody::new(futures::stream::iter(frames))))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(conn), answer));
        }
    });
    let stream = TcpStream::connect(world.http).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://a.test/pkg.Service/Call").header("te", "trailers");
    let request = request.body(Full::new(Bytes::from_static(b"message"))).unwrap();
    let collected = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "message");
}

#[tokio::test]
async fn events_are_seen_when_they_are_sent() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let (send, events) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, BoxError>>(1);
    let events = std::sync::Mutex::new(Some(events));
    let source = fake(move |_| {
        let events = events.lock().unwrap().take().unwrap();
        async move {
            let frames = futures::stream::unfold(events, |mut events| async { Some((events.recv().await?, events)) });
            let mut response = Response::new(body::boxed(StreamBody::new(frames)));
            response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
            Ok(response)
        }
    });
    let _binding = a.serve_http(8080, source).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::get(format!("http://{}/", world.http)).header("host", "a.test");
    let mut response = client.request(request.body(Full::default()).unwrap()).await.unwrap();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        send.send(Ok(Frame::data(Bytes::from(event)))).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
}
