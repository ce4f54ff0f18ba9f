//! Stories of pods that meet in one fabric.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::header::HOST;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::limits::{BACKLOG_MAX, DATAGRAM_BYTES_MAX, DATAGRAMS_MAX, PORTS_PER_POD_MAX, SERVED_CONNECTIONS_MAX};
use crate::services::{Endpoint, EndpointSlice, PortRef, Protocol, Service, ServicePort};
use crate::{
    Body, BoxFuture, Config, Conn, DialError, Fabric, HttpError, HttpService, HttpTarget, NetError, PodIdentity,
    PodNet, ServiceTable, body,
};

fn pod(fabric: &Fabric, name: &str, last: u8) -> PodNet {
    let v6 = format!("fd42::{last}").parse().unwrap();
    fabric.attach(PodIdentity {
        namespace: "default".into(),
        name: name.into(),
        hostname: name.into(),
        addresses: vec![IpAddr::from([10, 42, 0, last]), v6],
    })
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Service `web` at 10.43.0.5 and fd43::5, port 80, to port 8080 of the given endpoints; TCP and UDP.
fn install(fabric: &Fabric, endpoints: &[&str], sticky: bool) {
    let port =
        |protocol, name: &str| ServicePort { name: name.into(), protocol, port: 80, node_port: None, h2c: false };
    let service = Service {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec!["10.43.0.5".parse().unwrap(), "fd43::5".parse().unwrap()],
        ports: vec![port(Protocol::Tcp, "http"), port(Protocol::Udp, "dns")],
        affinity: sticky.then_some(Duration::from_secs(60)),
        ..Service::default()
    };
    let endpoint = |ip: &&str| {
        let address = ip.parse().unwrap();
        Endpoint::ready_at(address)
    };
    let slice = EndpointSlice {
        namespace: "default".into(),
        service: "web".into(),
        ports: vec![("http".into(), Protocol::Tcp, 8080), ("dns".into(), Protocol::Udp, 8080)],
        endpoints: endpoints.iter().map(endpoint).collect(),
    };
    fabric.set_services(ServiceTable::build(vec![service], &[slice]));
}

async fn talk(mut client: Conn, mut server: Conn) {
    client.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    server.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
    server.write_all(b"pong!").await.unwrap();
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"pong!");
}

#[tokio::test]
async fn two_pods_talk_over_both_families_and_services() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    install(&fabric, &["10.42.0.3", "fd42::3"], false);
    let v4 = b.listen(at("0.0.0.0:8080"), 0).unwrap();
    let v6 = b.listen(at("[::]:8080"), 0).unwrap();
    let cases = [
        ("10.42.0.3:8080", &v4, "10.42.0.3:8080", "10.42.0.2"),
        ("[fd42::3]:8080", &v6, "[fd42::3]:8080", "fd42::2"),
        ("10.43.0.5:80", &v4, "10.42.0.3:8080", "10.42.0.2"),
        ("[fd43::5]:80", &v6, "[fd42::3]:8080", "fd42::2"),
    ];
    for (dialled, listener, accepted, source) in cases {
        let client = a.connect(at(dialled)).await.unwrap();
        let server = listener.accept().await.unwrap();
        assert_eq!((client.peer(), server.local()), (at(dialled), at(accepted)));
        assert_eq!((client.local(), client.local().ip()), (server.peer(), source.parse().unwrap()));
        talk(client, server).await;
    }
}

#[tokio::test]
async fn loopback_is_each_pods_own() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    let listener = a.listen(at("127.0.0.1:9000"), 0).unwrap();
    let client = a.connect(at("127.0.0.1:9000")).await.unwrap();
    talk(client, listener.accept().await.unwrap()).await;
    for (who, address) in
        [(&b, "127.0.0.1:9000"), (&b, "10.42.0.2:9000"), (&a, "10.42.0.2:9000"), (&a, "127.0.0.2:9000")]
    {
        assert_eq!(who.connect(at(address)).await.unwrap_err(), NetError::ConnectionRefused, "{address}");
    }
    // Whoever listens on any address also answers on the loopback.
    let any = b.listen(at("0.0.0.0:9000"), 0).unwrap();
    talk(b.connect(at("127.0.0.1:9000")).await.unwrap(), any.accept().await.unwrap()).await;
}

#[tokio::test]
async fn ports_are_taken_and_freed() {
    let fabric = Fabric::new(Config::default());
    let a = pod(&fabric, "a", 2);
    let any = a.listen(at("0.0.0.0:80"), 0).unwrap();
    let taken = |address| a.listen(at(address), 0).unwrap_err();
    assert_eq!(taken("10.42.0.2:80"), NetError::AddressInUse);
    assert_eq!(taken("127.0.0.1:80"), NetError::AddressInUse);
    assert_eq!(taken("10.42.0.3:81"), NetError::AddressNotAvailable);
    assert_eq!(a.serve_http(80, Echo::named("x")).unwrap_err(), NetError::AddressInUse);
    let v6 = a.listen(at("[::]:80"), 0).unwrap();
    drop((any, v6));
    let http = a.serve_http(80, Echo::named("x")).unwrap();
    assert_eq!(taken("[fd42::2]:80"), NetError::AddressInUse);
    drop(http);
    let first = a.listen(at("0.0.0.0:0"), 0).unwrap();
    let second = a.listen(at("0.0.0.0:0"), 0).unwrap();
    assert!(first.local().port() >= 32768 && first.local().port() != second.local().port());

    let many: Vec<_> = (0..PORTS_PER_POD_MAX).map_while(|_| a.listen(at("0.0.0.0:0"), 0).ok()).collect();
    assert_eq!(many.len(), PORTS_PER_POD_MAX - 2);
    assert_eq!(taken("0.0.0.0:0"), NetError::LimitReached("bound ports"));
}

#[tokio::test]
async fn a_full_backlog_refuses_and_a_closed_one_hangs_up() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    let listener = b.listen(at("0.0.0.0:80"), 2).unwrap();
    let mut first = a.connect(at("10.42.0.3:80")).await.unwrap();
    let _second = a.connect(at("10.42.0.3:80")).await.unwrap();
    assert_eq!(a.connect(at("10.42.0.3:80")).await.unwrap_err(), NetError::ConnectionRefused);
    drop(listener.accept().await.unwrap());
    a.connect(at("10.42.0.3:80")).await.unwrap();
    drop(listener);
    assert_eq!(first.read(&mut [0; 9]).await.unwrap(), 0);
    assert_eq!(a.connect(at("10.42.0.3:80")).await.unwrap_err(), NetError::ConnectionRefused);

    let greedy = b.listen(at("0.0.0.0:81"), usize::MAX).unwrap();
    let held: Vec<_> = (0..=BACKLOG_MAX).map_while(|_| fabric.connect(at("10.42.0.3:81")).ok()).collect();
    assert_eq!(held.len(), BACKLOG_MAX);
    drop(greedy);
}

#[tokio::test]
async fn a_pod_that_leaves_is_gone_and_its_address_is_free() {
    let fabric = Fabric::new(Config::default());
    let a = pod(&fabric, "a", 2);
    let old = pod(&fabric, "b", 3);
    let listener = old.listen(at("0.0.0.0:80"), 0).unwrap();
    let binding = old.serve_http(81, Echo::named("old")).unwrap();
    let waiting = tokio::spawn(async move { listener.accept().await });
    tokio::task::yield_now().await;
    old.detach();
    assert_eq!(waiting.await.unwrap().unwrap_err(), NetError::Detached);
    assert_eq!(old.listen(at("0.0.0.0:82"), 0).unwrap_err(), NetError::Detached);
    assert_eq!(old.connect(at("10.42.0.2:80")).await.unwrap_err(), NetError::Detached);
    for port in [80, 81] {
        assert_eq!(a.connect(SocketAddr::from(([10, 42, 0, 3], port))).await.unwrap_err(), NetError::Unreachable);
    }
    let new = pod(&fabric, "c", 3);
    let listener = new.listen(at("0.0.0.0:81"), 0).unwrap();
    // What the old pod still held must not touch the new one.
    drop((binding, old));
    talk(a.connect(at("10.42.0.3:81")).await.unwrap(), listener.accept().await.unwrap()).await;
    drop((new, listener));
    assert_eq!(a.connect(at("10.42.0.3:81")).await.unwrap_err(), NetError::Unreachable);
}

#[tokio::test]
async fn dead_endpoints_are_skipped() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    install(&fabric, &["10.42.0.3", "10.42.0.4", "10.42.0.5"], false);
    let port = PortRef::Name("http".into());
    let client = IpAddr::from([127, 0, 0, 1]);
    let none = fabric.dial_service("default", "web", &port, client).await.unwrap_err();
    assert_eq!(none.to_string(), "Service default/web has no ready endpoint");
    let _binding = b.serve_http(8080, Echo::named("b")).unwrap();
    for _ in 0..9 {
        assert!(matches!(fabric.dial_service("default", "web", &port, client).await, Ok(HttpTarget::Service(..))));
        a.connect(at("10.43.0.5:80")).await.unwrap();
    }
    let missing = fabric.dial_service("default", "nope", &port, client).await.unwrap_err();
    assert_eq!(missing, DialError::NoSuchService("default/nope".into()));
    let wrong = fabric.dial_service("default", "web", &PortRef::Number(81), client).await.unwrap_err();
    assert_eq!(wrong.to_string(), "Service default/web has no port 81");
}

#[tokio::test]
async fn a_new_table_does_not_begin_again_with_the_first_endpoint() {
    let fabric = Fabric::new(Config::default());
    let (a, b, c) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3), pod(&fabric, "c", 4));
    let listeners = [&b, &c].map(|pod| pod.listen(at("0.0.0.0:8080"), 0).unwrap());
    for _ in 0..10 {
        install(&fabric, &["10.42.0.3", "10.42.0.4"], false);
        a.connect(at("10.43.0.5:80")).await.unwrap();
    }
    for listener in listeners {
        let taken = std::iter::from_fn(|| listener.try_accept().unwrap());
        assert_eq!(taken.count(), 5);
    }
}

/// Answers with its name, the path, the `Host` header and the body.
struct Echo(String);

impl Echo {
    fn named(name: &str) -> Arc<dyn HttpService> {
        Arc::new(Self(name.to_owned()))
    }
}

impl HttpService for Echo {
    fn call(
        self: Arc<Self>,
        request: Request<Body>,
        _: IpAddr,
    ) -> BoxFuture<'static, Result<Response<Body>, HttpError>> {
        Box::pin(async move {
            let (head, incoming) = request.into_parts();
            let host = head.headers.get(HOST).map_or("-", |host| host.to_str().unwrap_or("?")).to_owned();
            let path = head.uri.path().to_owned();
            if path == "/full" {
                return Err(HttpError::Overloaded { retry_after: Duration::from_millis(1500) });
            }
            if path == "/reset" {
                return Err(HttpError::Reset);
            }
            let bytes = incoming.collect().await.map_err(|_| HttpError::Reset)?.to_bytes();
            let text = format!("{} {path} {host} {}", self.0, bytes.len());
            Ok(Response::new(body::full(text)))
        })
    }
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn post(uri: &str, size: usize) -> Request<Body> {
    Request::post(uri).body(body::full(vec![b'x'; size])).unwrap()
}

#[tokio::test]
async fn http_goes_in_place_by_name_address_and_service() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    install(&fabric, &["10.42.0.3"], false);
    let _binding = b.serve_http(8080, Echo::named("b")).unwrap();
    for authority in ["web", "web.default.svc.cluster.local", "10.43.0.5", "10.42.0.3:8080", "[fd42::3]:8080"] {
        let answer = a.http(authority, post("/x", 3)).await.unwrap();
        assert_eq!(text(answer).await, format!("b /x {authority} 3"));
    }
    let not_found = a.http("nobody", post("/", 0)).await;
    assert!(matches!(not_found, Err(HttpError::NameNotFound(name)) if name == "nobody"));
    let refused = a.http("web:81", post("/", 0)).await;
    assert!(matches!(refused, Err(HttpError::ConnectionRefused)));
    assert!(matches!(a.http("1.1.1.1", post("/", 0)).await, Err(HttpError::ConnectionRefused)));
    assert!(matches!(a.http("a b", post("/", 0)).await, Err(HttpError::NameNotFound(_))));
}

/// A guest that speaks raw TCP dials an HTTP component: HTTP/1.1 is served over the connection.
#[tokio::test]
async fn raw_tcp_meets_an_http_component() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    let _binding = b.serve_http(8080, Echo::named("b")).unwrap();
    let mut conn = a.connect(at("10.42.0.3:8080")).await.unwrap();
    conn.write_all(b"GET /one HTTP/1.1\r\nHost: h\r\n\r\nGET /full HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    conn.write_all(b"GET /two HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    conn.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(answer.contains("b /one h 0") && answer.ends_with("b /two h 0"), "{answer}");
    assert!(answer.contains("503 Service Unavailable") && answer.contains("retry-after: 2"), "{answer}");

    let mut broken = a.connect(at("10.42.0.3:8080")).await.unwrap();
    broken.write_all(b"GET /reset HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert_eq!(broken.read(&mut [0; 9]).await.unwrap(), 0);
    let mut garbage = a.connect(at("10.42.0.3:8080")).await.unwrap();
    garbage.write_all(b"\x16\x03\x01 not http\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    garbage.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"));
}

/// Is asked and never answers; says when it is asked, and when it is given up.
struct Silent(Arc<Semaphore>, Arc<Semaphore>);

impl HttpService for Silent {
    fn call(self: Arc<Self>, _: Request<Body>, _: IpAddr) -> BoxFuture<'static, Result<Response<Body>, HttpError>> {
        struct GivenUp(Arc<Semaphore>);
        impl Drop for GivenUp {
            fn drop(&mut self) {
                self.0.add_permits(1);
            }
        }
        self.0.add_permits(1);
        let given_up = GivenUp(self.1.clone());
        Box::pin(async move {
            let _given_up = given_up;
            std::future::pending().await
        })
    }
}

/// A client that has said all waits for its answer; one that is gone does not, and what it asked ends with it.
#[tokio::test]
async fn who_asks_and_leaves_leaves_nothing_behind() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    let (asked, given_up) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let _binding = b.serve_http(8080, Arc::new(Silent(asked.clone(), given_up.clone()))).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut waiting = a.connect(at("10.42.0.3:8080")).await.unwrap();
    waiting.write_all(request).await.unwrap();
    waiting.shutdown().await.unwrap();
    let mut gone = a.connect(at("10.42.0.3:8080")).await.unwrap();
    gone.write_all(request).await.unwrap();
    drop(asked.acquire_many(2).await.unwrap());
    drop(gone);
    given_up.acquire().await.unwrap().forget();
    assert!(tokio::time::timeout(Duration::from_millis(50), given_up.acquire()).await.is_err(), "one still waits");
    drop(waiting);
    drop(given_up.acquire().await.unwrap());
}

/// A pod that opens all the connections it can keeps nobody else out.
#[tokio::test]
async fn connections_to_a_component_are_shared_between_callers() {
    let fabric = Fabric::new(Config::default());
    let (a, b, c) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3), pod(&fabric, "c", 4));
    let _binding = b.serve_http(8080, Echo::named("b")).unwrap();
    let mut hoard = Vec::new();
    while let Ok(conn) = a.connect(at("10.42.0.3:8080")).await {
        hoard.push(conn);
    }
    assert_eq!(hoard.len(), SERVED_CONNECTIONS_MAX / 2);
    assert!(c.connect(at("10.42.0.3:8080")).await.is_ok());
}

/// Whoever has found a component before its port was freed is answered; nobody finds it afterwards.
#[tokio::test]
async fn a_port_that_is_closed_waits_for_those_who_found_it() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    let binding = b.serve_http(8080, Echo::named("b")).unwrap();
    let here = at("10.42.0.3:8080");
    let request = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n";
    let (target, abandoned) = (fabric.dial(here).unwrap(), fabric.dial(here).unwrap());
    let mut idle = a.connect(here).await.unwrap();
    idle.write_all(request).await.unwrap();
    let mut some = [0; 9];
    idle.read_exact(&mut some).await.unwrap();
    let mut fresh = a.connect(here).await.unwrap();
    let mut mute = a.connect(here).await.unwrap();
    let mut closed = tokio::spawn(binding.close());
    let refused = async {
        while a.connect(here).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    refused.await;
    // One that has been answered already is closed, and one that has not asked yet is answered.
    let mut rest = String::new();
    idle.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("b /x h 0"), "{rest}");
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut closed).await.is_err(), "somebody may still ask");
    fresh.write_all(request).await.unwrap();
    let mut answer = String::new();
    fresh.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("b /x h 0"), "{answer}");
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut closed).await.is_err(), "somebody may still call");
    assert_eq!(text(target.send(post("/x", 0)).await.unwrap()).await, "b /x - 0");
    drop(abandoned);
    // One that never asks holds it up for a moment only.
    assert_eq!(mute.read(&mut [0; 9]).await.unwrap(), 0);
    tokio::time::timeout(Duration::from_secs(10), closed).await.expect("nobody is left").unwrap();
}

/// An HTTP component calls a pod that listens by raw TCP: HTTP/1.1 is spoken over the connection.
#[tokio::test]
async fn an_http_component_meets_raw_tcp() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    let listener = b.listen(at("0.0.0.0:8080"), 0).unwrap();
    let server = tokio::spawn(async move {
        let conn = listener.accept().await.unwrap();
        crate::http::serve_over(conn, Echo::named("tcp"), std::future::pending()).await;
        let mut conn = listener.accept().await.unwrap();
        assert!(conn.read(&mut [0; 1000]).await.unwrap() > 0);
        conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort").await.unwrap();
        drop(conn);
        drop(listener.accept().await.unwrap());
    });
    let answer = a.http("10.42.0.3:8080", post("http://ignored/path?q", 700_000)).await.unwrap();
    assert_eq!(text(answer).await, "tcp /path 10.42.0.3:8080 700000");
    let cut = a.http("10.42.0.3:8080", post("/", 0)).await.unwrap();
    assert_eq!(cut.status(), StatusCode::OK);
    assert!(cut.into_body().collect().await.is_err());
    assert!(matches!(a.http("10.42.0.3:8080", post("/", 0)).await, Err(HttpError::Reset)));
    server.await.unwrap();
}

#[tokio::test]
async fn a_name_with_several_addresses_takes_turns() {
    let fabric = Fabric::new(Config::default());
    let a = pod(&fabric, "a", 2);
    let service = Service { namespace: "default".into(), name: "db".into(), ..Service::default() };
    let endpoint = |last: u8| Endpoint::ready_at(IpAddr::from([10, 42, 0, last]));
    let slice = EndpointSlice {
        namespace: "default".into(),
        service: "db".into(),
        endpoints: vec![endpoint(3), endpoint(4)],
        ..EndpointSlice::default()
    };
    fabric.set_services(ServiceTable::build(vec![service], &[slice]));
    let (one, two) = (a.resolve("db").await.unwrap(), a.resolve("db").await.unwrap());
    assert!(one[0] != two[0] && one[1] == two[0]);
    assert_eq!(a.resolve("nope").await, Err(NetError::NameNotFound("nope".into())));
}

#[tokio::test]
async fn datagrams_arrive_answer_and_are_lost_in_order() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    install(&fabric, &["10.42.0.3"], false);
    let client = a.bind_udp(at("0.0.0.0:0")).unwrap();
    let server = b.bind_udp(at("10.42.0.3:8080")).unwrap();
    assert_eq!(b.bind_udp(at("0.0.0.0:8080")).unwrap_err(), NetError::AddressInUse);
    for dialled in [at("10.42.0.3:8080"), at("10.43.0.5:80")] {
        client.send(Bytes::from_static(b"question"), dialled).unwrap();
        server.ready().await;
        let question = server.try_recv().unwrap().unwrap();
        assert_eq!(question.source, SocketAddr::new([10, 42, 0, 2].into(), client.local().port()));
        server.send(Bytes::from_static(b"answer"), question.source).unwrap();
        // The answer of a Service's endpoint comes from the Service's address.
        assert_eq!(client.try_recv().unwrap().unwrap().source, dialled);
    }
    client.send(Bytes::new(), at("10.42.0.3:9")).unwrap();
    assert_eq!(client.send(Bytes::new(), at("1.1.1.1:53")), Err(NetError::Unreachable));
    let large = Bytes::from(vec![0; DATAGRAM_BYTES_MAX + 1]);
    assert_eq!(client.send(large, at("10.42.0.3:8080")), Err(NetError::DatagramTooLarge));
    for number in 0..DATAGRAMS_MAX + 10 {
        client.send(Bytes::from(number.to_string()), at("10.42.0.3:8080")).unwrap();
    }
    let mut received = 0;
    while let Some(datagram) = server.try_recv().unwrap() {
        assert_eq!(datagram.bytes, received.to_string());
        received += 1;
    }
    assert_eq!(received, DATAGRAMS_MAX);
    assert!(server.ready().now_or_never().is_none());
    b.detach();
    server.ready().await;
    assert_eq!(server.try_recv(), Err(NetError::Detached));
}
