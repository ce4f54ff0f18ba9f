//! The Ingress server in front of fake pods, spoken to by a real HTTP client over real sockets.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use network::routes::gateway::Gateways;
use network::routes::ingress::{self as routes, Path, PathKind, Rule};
use network::services::{Endpoint, EndpointSlice, PortRef, Protocol, Service, ServicePort};
use network::{
    Body, BoxError, BoxFuture, Fabric, HttpError, HttpService, PodIdentity, PodNet, RouteTable, ServiceTable, body,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::tls::{Certificates, certified_key};
use super::{Config, Ingress, Patience, limits};

mod options;

/// A cluster of one Service per host: `a.test` → Service `a`, whose endpoints are 10.42.0.1<n>:8080.
struct World {
    fabric: Fabric,
    http: SocketAddr,
    https: SocketAddr,
    certificates: Arc<Certificates>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

fn pod(fabric: &Fabric, last: u8) -> PodNet {
    fabric.attach(PodIdentity {
        namespace: "default".into(),
        name: format!("pod-{last}"),
        hostname: format!("pod-{last}"),
        addresses: vec![IpAddr::from([10, 42, 0, last])],
    })
}

/// Installs Services `(name, last bytes of the endpoints)`, each behind the host `name.test`.
fn install(fabric: &Fabric, services: &[(&str, &[u8])]) {
    let mut slices = Vec::new();
    let mut made = Vec::new();
    let mut rules = Vec::new();
    for (name, pods) in services {
        let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None, h2c: false };
        made.push(Service {
            namespace: "default".into(),
            name: (*name).into(),
            ports: vec![port],
            ..Service::default()
        });
        let endpoint = |last: &u8| Endpoint::ready_at(IpAddr::from([10, 42, 0, *last]));
        slices.push(EndpointSlice {
            namespace: "default".into(),
            service: (*name).into(),
            ports: vec![("http".into(), Protocol::Tcp, 8080)],
            endpoints: pods.iter().map(endpoint).collect(),
        });
        let backend = ((*name).to_owned(), PortRef::Name("http".into()));
        let path = Path { path: "/".into(), kind: PathKind::Prefix, backend };
        rules.push(Rule { host: format!("{name}.test"), paths: vec![path] });
    }
    let ingress =
        routes::Ingress { namespace: "default".into(), name: "all".into(), rules, ..routes::Ingress::default() };
    fabric.set_services(ServiceTable::build(made, &slices));
    fabric.set_routes(RouteTable::build(vec![ingress], &[], Gateways::default()));
}

impl World {
    async fn start(services: &[(&str, &[u8])]) -> Self {
        Self::start_with(services, Patience::default()).await
    }

    async fn start_with(services: &[(&str, &[u8])], patience: Patience) -> Self {
        let fabric = Fabric::new(network::Config::default());
        install(&fabric, services);
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let https = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (http_at, https_at) = (http.local_addr().unwrap(), https.local_addr().unwrap());
        let certificates = Arc::new(Certificates::default());
        let metrics = Arc::default();
        let config = Config { http, https: Some(https), certificates: certificates.clone(), patience, metrics };
        let stop = CancellationToken::new();
        let server = tokio::spawn(Ingress::new(config, fabric.clone()).run(stop.clone()));
        Self { fabric, http: http_at, https: https_at, certificates, stop, server }
    }

    async fn send(
        &self,
        host: &str,
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> (StatusCode, HeaderMap, String) {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let path = request.uri_ref().unwrap().path().to_owned();
        let request = request.uri(format!("http://{}{path}", self.http)).header("host", host);
        let response = client.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        (head.status, head.headers, text)
    }

    async fn get(&self, host: &str, path: &str) -> (StatusCode, String) {
        let (status, _, text) = self.send(host, Request::get(path), Bytes::new()).await;
        (status, text)
    }

    async fn raw(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }
}

type Answer = Box<dyn Fn(Request<Body>) -> BoxFuture<'static, Result<Response<Body>, HttpError>> + Send + Sync>;

struct Fake(Answer);

impl HttpService for Fake {
    fn call(
        self: Arc<Self>,
        request: Request<Body>,
        _: IpAddr,
    ) -> BoxFuture<'static, Result<Response<Body>, HttpError>> {
        (self.0)(request)
    }
}

fn fake<F>(answer: impl Fn(Request<Body>) -> F + Send + Sync + 'static) -> Arc<dyn HttpService>
where
    F: Future<Output = Result<Response<Body>, HttpError>> + Send + 'static,
{
    Arc::new(Fake(Box::new(move |request| Box::pin(answer(request)))))
}

/// Answers with its name.
fn named(name: &'static str) -> Arc<dyn HttpService> {
    fake(move |_| async move { Ok(Response::new(body::full(name))) })
}

#[tokio::test]
async fn requests_take_turns_over_ready_pods() {
    let world = World::start(&[("a", &[11, 12])]).await;
    let (one, two) = (pod(&world.fabric, 11), pod(&world.fabric, 12));
    let first = one.serve_http(8080, named("one")).unwrap();
    let _second = two.serve_http(8080, named("two")).unwrap();
    let mut seen = HashMap::new();
    for _ in 0..10 {
        *seen.entry(world.get("a.test:8080", "/").await.1).or_insert(0) += 1;
    }
    assert_eq!(seen, HashMap::from([("one".to_owned(), 5), ("two".to_owned(), 5)]));
    // A pod that died before its endpoint was withdrawn costs nobody a request.
    drop(first);
    for _ in 0..10 {
        assert_eq!(world.get("A.TEST", "/x").await, (StatusCode::OK, "two".to_owned()));
    }
}

/// A pod that ends in the middle of a request costs nobody an answer who only wanted to read.
#[tokio::test]
async fn a_request_that_only_reads_is_sent_to_another_pod_when_the_first_is_lost() {
    let world = World::start(&[("a", &[11, 12])]).await;
    let (one, two) = (pod(&world.fabric, 11), pod(&world.fabric, 12));
    let listener = one.listen("0.0.0.0:8080".parse().unwrap(), 0).unwrap();
    let lost = tokio::spawn(async move {
        for heard in 0_u32.. {
            let Ok(mut conn) = listener.accept().await else { return heard };
            assert!(conn.read(&mut [0; 1000]).await.unwrap() > 0, "it is lost after it was asked");
        }
        0
    });
    let _second = two.serve_http(8080, named("two")).unwrap();
    for _ in 0..10 {
        assert_eq!(world.get("a.test", "/").await, (StatusCode::OK, "two".to_owned()));
    }
    // What may have changed something is told to the client instead.
    let mut answers = HashMap::new();
    for _ in 0..10 {
        let (status, ..) = world.send("a.test", Request::post("/"), Bytes::from_static(b"x")).await;
        *answers.entry(status.as_u16()).or_insert(0) += 1;
    }
    assert_eq!(answers, HashMap::from([(200, 5), (502, 5)]));
    lost.abort();
}

#[tokio::test]
async fn what_cannot_be_routed_is_said_in_a_sentence() {
    let world = World::start(&[("a", &[11])]).await;
    let (status, text) = world.get("B.test:8080", "/path").await;
    assert_eq!((status, text.as_str()), (StatusCode::NOT_FOUND, "no Ingress rule matches host b.test path /path\n"));
    let (status, headers, text) = world.send("a.test", Request::get("/"), Bytes::new()).await;
    assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "Service default/a has no ready endpoint\n"));
    assert_eq!(headers["retry-after"], "1");

    let failing = pod(&world.fabric, 11);
    let _binding = failing
        .serve_http(
            8080,
            fake(|request| async move {
                Err(match request.uri().path() {
                    "/full" => HttpError::Overloaded { retry_after: Duration::from_secs(7) },
                    "/late" => HttpError::Timeout,
                    "/broken" => HttpError::Reset,
                    _ => HttpError::Internal("secret detail".into()),
                })
            }),
        )
        .unwrap();
    let cases = [("/full", 503), ("/late", 504), ("/broken", 502), ("/trap", 500)];
    for (path, expected) in cases {
        let (status, headers, text) = world.send("a.test", Request::get(path), Bytes::new()).await;
        assert_eq!(status.as_u16(), expected, "{path}");
        assert_eq!(headers.get("retry-after").is_some_and(|wait| wait == "7"), path == "/full");
        assert!(!text.contains("secret"));
    }
    let mut tunnel = world.raw("CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\nConnection: close\r\n\r\n").await;
    let mut answer = String::new();
    tunnel.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    let mut nameless = world.raw("GET / HTTP/1.0\r\n\r\n").await;
    let mut answer = String::new();
    nameless.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400"), "{answer}");
}

#[tokio::test]
async fn the_pod_learns_who_asked_and_nothing_about_the_connection() {
    let world = World::start(&[("a", &[11])]).await;
    let echo = fake(|request: Request<Body>| async move {
        let mut lines: Vec<String> =
            request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines.insert(0, format!("{} {}", request.method(), request.uri()));
        let mut response = Response::new(body::full(lines.join("\n")));
        response.headers_mut().insert("keep-alive", "timeout=5".parse().unwrap());
        Ok(response)
    });
    let a = pod(&world.fabric, 11);
    let _binding = a.serve_http(8080, echo).unwrap();
    let request = Request::get("/path")
        .header("x-forwarded-for", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("x-forwarded-prefix", "/evil")
        .header("upgrade", "h2c")
        .header("connection", "close, upgrade, x-private")
        .header("x-private", "1")
        .header("te", "trailers")
        .header("x-request-id", "mine")
        .header("accept", "*/*");
    let (_, headers, text) = world.send("a.test", request, Bytes::new()).await;
    let expected = [
        "GET /path",
        "accept: */*",
        "host: a.test",
        "te: trailers",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: a.test",
        "x-forwarded-proto: http",
        "x-real-ip: 127.0.0.1",
        "x-request-id: mine",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    assert_eq!(headers["x-request-id"], "mine");
    assert!(headers.get("keep-alive").is_none());
    let (one, two) =
        (world.send("a.test", Request::get("/"), "").await.1, world.send("a.test", Request::get("/"), "").await.1);
    assert!(one["x-request-id"].len() == 32 && one["x-request-id"] != two["x-request-id"]);
}

#[tokio::test]
async fn bodies_stream_both_ways_and_are_bounded() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let mirror = fake(|request: Request<Body>| async move { Ok(Response::new(request.into_body())) });
    let _binding = a.serve_http(8080, mirror).unwrap();
    let sent = "0123456789".repeat(500_000);
    let (status, _, text) = world.send("a.test", Request::post("/"), sent.clone()).await;
    assert!(status == StatusCode::OK && text == sent);

    let length = limits::BODY_BYTES_MAX + 1;
    let mut large = world.raw(&format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n")).await;
    let mut start = [0; 12];
    large.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");

    let mut stream = world.raw("GET / HTTP/1.1\r\nHost: a.test\r\n").await;
    let line = format!("x: {}\r\n", "y".repeat(1000));
    let filled = async { while stream.write_all(line.as_bytes()).await.is_ok() {} };
    // Whether by an answer or by a reset, an endless head must end.
    tokio::time::timeout(Duration::from_secs(20), filled).await.unwrap();
}

/// A pod that listens by itself is spoken to in HTTP/1.1, and an upgraded connection is joined to the client's.
#[tokio::test]
async fn websockets_reach_a_pod_that_listens_by_itself() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let listener = a.listen("0.0.0.0:8080".parse().unwrap(), 0).unwrap();
    let server = tokio::spawn(async move {
        let mut conn = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(conn.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Key: 1\r\n\r\n";
        conn.write_all(answer.as_bytes()).await.unwrap();
        let mut four = [0; 4];
        conn.read_exact(&mut four).await.unwrap();
        conn.write_all(&four).await.unwrap();
    });
    let request = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client = world.raw(request).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && head.contains("upgrade: websocket") && head.contains("x-key: 1"),
        "{head}"
    );
    client.write_all(b"ping").await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"ping");
    server.await.unwrap();
}

#[tokio::test]
async fn http2_without_tls_keeps_trailers() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let service = fake(|request: Request<Body>| async move {
        assert_eq!(request.headers()["host"], "a.test");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"hi"))), Ok(Frame::trailers(trailers))];
        Ok(Response::new(body::boxed(StreamBody::new(futures::stream::iter(frames)))))
    });
    let _binding = a.serve_http(8080, service).unwrap();
    let stream = TcpStream::connect(world.http).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://a.test/x").header("te", "trailers").body(Full::new(Bytes::new())).unwrap();
    let collected = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "hi");
}

#[tokio::test]
async fn requests_in_flight_finish_when_the_server_stops() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (seen, wait) = (arrived.clone(), go.clone());
    let slow = fake(move |_| {
        let (seen, wait) = (seen.clone(), wait.clone());
        async move {
            seen.notify_one();
            wait.notified().await;
            Ok(Response::new(body::full("finished")))
        }
    });
    let _binding = a.serve_http(8080, slow).unwrap();
    let mut idle = world.raw("").await;
    let mut busy = world.raw("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    arrived.notified().await;
    world.stop.cancel();
    // An idle connection is closed at once; the busy one gets its answer first.
    assert_eq!(idle.read(&mut [0; 9]).await.unwrap_or(0), 0);
    go.notify_one();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("finished"), "{answer}");
    world.server.await.unwrap();
    assert!(TcpStream::connect(world.http).await.is_err());
}

#[tokio::test]
async fn whoever_says_nothing_or_never_finishes_is_cut_off() {
    let short = Duration::from_millis(100);
    let world = World::start_with(&[("a", &[11])], Patience { head: short, answer: short, drain: short }).await;
    let a = pod(&world.fabric, 11);
    let _binding = a.serve_http(8080, fake(|_| std::future::pending())).unwrap();
    for start in ["", "PRI * HT", "GET / HTTP/1.1\r\nHost: a.t"] {
        let mut stalled = world.raw(start).await;
        let mut answer = String::new();
        stalled.read_to_string(&mut answer).await.unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert_eq!(world.get("a.test", "/").await.0, StatusCode::GATEWAY_TIMEOUT);
    drop(world);

    let patience = Patience { drain: short, ..Patience::default() };
    let world = World::start_with(&[("a", &[11])], patience).await;
    let a = pod(&world.fabric, 11);
    let arrived = Arc::new(Notify::new());
    let seen = arrived.clone();
    let endless = fake(move |_| {
        seen.notify_one();
        std::future::pending()
    });
    let _binding = a.serve_http(8080, endless).unwrap();
    let mut endless = world.raw("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    arrived.notified().await;
    world.stop.cancel();
    assert_eq!(endless.read(&mut [0; 9]).await.unwrap_or(0), 0);
    world.server.await.unwrap();
}

fn made_for(host: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn a_certificate_is_taken_only_with_its_own_key() {
    let ((one, one_key), (_, two_key)) = (made_for("a.test"), made_for("b.test"));
    assert!(certified_key(one.as_bytes(), one_key.as_bytes()).is_ok());
    let said =
        |certificate: &str, key: &str| certified_key(certificate.as_bytes(), key.as_bytes()).unwrap_err().to_string();
    assert_eq!(said("", &one_key), "tls.crt holds no PEM certificate");
    assert_eq!(said("garbage", &one_key), "tls.crt holds no PEM certificate");
    assert_eq!(said(&one, ""), "tls.key holds no PEM private key");
    assert!(said(&one, &two_key).starts_with("the key cannot be used with the certificate"));
}

#[tokio::test]
async fn each_host_gets_its_own_certificate() {
    let world = World::start(&[("a", &[11])]).await;
    let a = pod(&world.fabric, 11);
    let scheme = fake(|request: Request<Body>| async move {
        let scheme = request.headers()["x-forwarded-proto"].to_str().unwrap().to_owned();
        Ok(Response::new(body::full(scheme)))
    });
    let _binding = a.serve_http(8080, scheme).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let mut by_host = HashMap::new();
    for host in ["a.test", "*.wild.test"] {
        let (certificate, key) = made_for(host);
        let certified = certified_key(certificate.as_bytes(), key.as_bytes()).unwrap();
        roots.add(certified.end_entity_cert().unwrap().clone()).unwrap();
        by_host.insert(host.to_owned(), certified);
    }
    world.certificates.set(by_host);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = async |name: &str| {
        let stream = TcpStream::connect(world.https).await.unwrap();
        connector.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
    };
    let mut stream = connect("a.test").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("https"), "{answer}");
    assert!(connect("x.wild.test").await.is_ok());
    assert!(connect("x.y.wild.test").await.is_err());
    assert!(connect("other.test").await.is_err());
}
