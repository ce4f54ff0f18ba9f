//! Stories of two nodes in one process that meet over real sockets: what pods of different nodes may expect.

mod relayed;
mod renewal;
mod stage;
mod strangers;
mod weather;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use network::policy::{NetworkPolicy, PodFacts, Policies, Selector};
use network::services::PortRef;
use network::{Body, BoxFuture, Conn, HttpError, HttpService, NetError, PodNet, body};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use self::stage::{Two, until, web};

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn any(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Connects as soon as that succeeds again.
async fn connect_again(from: &PodNet, to: SocketAddr) -> Conn {
    let again = async {
        loop {
            if let Ok(client) = from.connect(to).await {
                return client;
            }
        }
    };
    timeout(Duration::from_secs(60), again).await.unwrap()
}

/// Both directions, and both ends, each on its own.
async fn talk(mut client: Conn, mut server: Conn) {
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = Vec::new();
    server.read_to_end(&mut text).await.unwrap();
    assert_eq!(text, b"ping");
    server.write_all(b"pong!").await.unwrap();
    drop(server);
    text.clear();
    client.read_to_end(&mut text).await.unwrap();
    assert_eq!(text, b"pong!");
}

#[tokio::test]
async fn pods_of_two_nodes_talk_by_address_and_by_service() {
    let Two { one, two, a, b, .. } = &Two::start().await;
    one.fabric.set_services(web(&[two.v4(2), two.v6(2)]));
    let v4 = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let v6 = b.listen(any("[::]:8080"), 0).unwrap();
    let cases = [
        (at(two.v4(2), 8080), &v4, at(two.v4(2), 8080), one.v4(2)),
        (at(two.v6(2), 8080), &v6, at(two.v6(2), 8080), one.v6(2)),
        (any("10.43.0.5:80"), &v4, at(two.v4(2), 8080), one.v4(2)),
        (any("[fd43::5]:80"), &v6, at(two.v6(2), 8080), one.v6(2)),
    ];
    for (dialled, listener, accepted, source) in cases {
        let client = a.connect(dialled).await.unwrap();
        let server = listener.accept().await.unwrap();
        assert_eq!((client.peer(), server.local()), (dialled, accepted));
        assert_eq!((client.local(), client.local().ip()), (server.peer(), source));
        talk(client, server).await;
    }
    // The other way over the same connection; and what nobody listens to, and what nobody has.
    let back = a.listen(any("0.0.0.0:9000"), 0).unwrap();
    let client = b.connect(at(one.v4(2), 9000)).await.unwrap();
    talk(client, back.accept().await.unwrap()).await;
    assert_eq!(a.connect(at(two.v4(2), 81)).await.unwrap_err(), NetError::ConnectionRefused);
    assert!(a.connect(at(two.v4(99), 80)).await.is_err());
    // The node itself has an address in its own range, and the other node's pods see it.
    let node = a.listen(any("0.0.0.0:9001"), 0).unwrap();
    two.fabric.set_services(web(&[]));
    let balancer =
        one.fabric.services().balancer(any("10.43.0.5:80"), network::services::Protocol::Tcp).unwrap().clone();
    let _held = one.fabric.connect_balanced(&balancer, one.v4(1)).await.unwrap();
    assert_eq!(v4.accept().await.unwrap().peer().ip(), one.v4(1));
    drop(node);
}

#[tokio::test]
async fn megabytes_arrive_whole_and_in_order() {
    let Two { two, a, b, .. } = &Two::start().await;
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let mut client = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let mut server = listener.accept().await.unwrap();
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut received = Vec::new();
    server.read_to_end(&mut received).await.unwrap();
    assert!(received == expected);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn datagrams_of_every_size_and_their_answers() {
    let Two { one, two, a, b, .. } = &Two::start().await;
    one.fabric.set_services(web(&[two.v4(2)]));
    let server = b.bind_udp(any("0.0.0.0:8080")).unwrap();
    let client = a.bind_udp(any("0.0.0.0:5000")).unwrap();
    for destination in [at(two.v4(2), 8080), any("10.43.0.5:80")] {
        for size in [0, 1, 1000, 9000, 60_000] {
            let payload = Bytes::from(vec![7; size]);
            client.send(payload.clone(), destination).unwrap();
            let got = receive(&server).await;
            assert_eq!((got.bytes, got.source), (payload.clone(), at(one.v4(2), 5000)));
            server.send(payload.clone(), got.source).unwrap();
            let answer = receive(&client).await;
            assert_eq!((answer.bytes, answer.source), (payload, destination));
        }
    }
}

async fn receive(socket: &network::UdpSocket) -> network::Datagram {
    let received = async {
        loop {
            if let Some(datagram) = socket.try_recv().unwrap() {
                return datagram;
            }
            socket.ready().await;
        }
    };
    timeout(Duration::from_secs(30), received).await.expect("a datagram")
}

struct Hello;

impl HttpService for Hello {
    fn call(
        self: Arc<Self>,
        request: Request<Body>,
        _: IpAddr,
    ) -> BoxFuture<'static, Result<Response<Body>, HttpError>> {
        let text = format!("hello from two, {}\n", request.uri().path());
        Box::pin(std::future::ready(Ok(Response::new(body::full(text)))))
    }
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn http_components_of_other_nodes_are_called() {
    let Two { one, two, a, b, .. } = &Two::start().await;
    one.fabric.set_services(web(&[two.v4(2)]));
    let _bound = b.serve_http(8080, Arc::new(Hello)).unwrap();
    let request = |path: &str| Request::builder().uri(path).header("host", "web").body(body::empty()).unwrap();
    for authority in [&format!("{}:8080", two.v4(2)), "web"] {
        let answer = a.http(authority, request("/x")).await.unwrap();
        assert_eq!(text(answer).await, "hello from two, /x\n");
    }
    // As the Ingress does it.
    let target = one.fabric.dial_service("default", "web", &PortRef::Number(80), one.v4(1)).await.unwrap();
    assert_eq!(text(target.send(request("/y")).await.unwrap()).await, "hello from two, /y\n");
}

/// A policy that selects pod `name` and lets nothing in or out.
fn closed(name: &str, ingress: bool) -> Policies {
    let nothing = |there: bool| there.then(Vec::new);
    let policy = NetworkPolicy {
        namespace: "default".into(),
        name: "closed".into(),
        pods: Selector::default(),
        ingress: nothing(ingress),
        egress: nothing(!ingress),
    };
    let facts = PodFacts { namespace: "default".into(), name: name.into(), ..PodFacts::default() };
    Policies::build(&[policy], &[facts], &std::collections::HashMap::new())
}

#[tokio::test]
async fn both_nodes_ask_their_policies() {
    let Two { one, two, a, b, .. } = &Two::start().await;
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let (client, server) = (a.bind_udp(any("0.0.0.0:5000")).unwrap(), b.bind_udp(any("0.0.0.0:8080")).unwrap());
    for (node, policies) in [(two, closed("b", true)), (one, closed("a", false))] {
        node.fabric.set_policies(policies);
        let Err(NetError::Denied(reason)) = a.connect(at(two.v4(2), 8080)).await else { panic!("it was let through") };
        assert!(reason.contains("policy default/closed selects the"), "{reason}");
        node.fabric.set_policies(Policies::default());
        talk(a.connect(at(two.v4(2), 8080)).await.unwrap(), listener.accept().await.unwrap()).await;
    }
    // Who has called is answered, whatever lets nothing in; who has not is lost.
    one.fabric.set_policies(closed("a", true));
    client.send(Bytes::from_static(b"question"), at(two.v4(2), 8080)).unwrap();
    let question = receive(&server).await;
    let other = b.bind_udp(any("0.0.0.0:8081")).unwrap();
    other.send(Bytes::from_static(b"uncalled"), question.source).unwrap();
    server.send(Bytes::from_static(b"answer"), question.source).unwrap();
    assert_eq!(&receive(&client).await.bytes[..], b"answer");
    assert_eq!(client.try_recv().unwrap(), None);
}

#[tokio::test]
async fn a_reader_that_stops_holds_up_itself_only() {
    let Two { two, a, b, .. } = &Two::start().await;
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let mut stalled = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let unread = listener.accept().await.unwrap();
    // Writes until nothing more is taken; what is held on the way is bounded.
    let piece = vec![7; 64 << 10];
    let mut taken = 0_usize;
    while let Ok(written) = timeout(Duration::from_secs(1), stalled.write(&piece)).await {
        taken += written.unwrap();
    }
    let most = super::limits::STREAM_WINDOW_BYTES as usize + 2 * network::limits::PIPE_BYTES_MAX + piece.len();
    assert!((1 << 20..=2 * most).contains(&taken), "{taken} bytes were taken");
    for _ in 0..20 {
        talk(a.connect(at(two.v4(2), 8080)).await.unwrap(), listener.accept().await.unwrap()).await;
    }
    // The writer learns that the reader has gone.
    drop(unread);
    let failed = async { while stalled.write_all(&piece).await.is_ok() {} };
    timeout(Duration::from_secs(30), failed).await.unwrap();
}

#[tokio::test]
async fn a_node_that_ends_breaks_its_connections_and_leaves_services() {
    let Two { api, one, two, a, b, .. } = Two::start().await;
    let here = one.pod("c", 3);
    one.fabric.set_services(web(&[one.v4(3), two.v4(2)]));
    let (near, far) = (here.listen(any("0.0.0.0:8080"), 0).unwrap(), b.listen(any("0.0.0.0:8080"), 0).unwrap());
    let mut held = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let _accepted = far.accept().await.unwrap();
    let remote = two.v4(2);
    two.stop().await;
    let error = timeout(Duration::from_secs(30), held.read(&mut [0; 9])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    until("the node to be counted out", || !network::Overlay::is_reachable(&*one.fabric.overlay().unwrap(), "two"))
        .await;
    for _ in 0..6 {
        talk(a.connect(any("10.43.0.5:80")).await.unwrap(), near.accept().await.unwrap()).await;
    }
    api.remove("two");
    until("the node to be forgotten", || one.fabric.topology().elsewhere(remote).is_none()).await;
    assert!(a.connect(at(remote, 8080)).await.is_err());
}
