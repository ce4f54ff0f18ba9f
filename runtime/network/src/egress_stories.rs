//! Stories of pods that call the outside. Here the outside is listeners on this machine's loopback: the sockets of these
//! tests dial them whatever address was asked for.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::egress::Sockets;
use crate::limits::EGRESS_PER_POD_MAX;
use crate::policy::{NetworkPolicy, Peer, PodFacts, Policies, Rule, Selector};
use crate::{BoxFuture, Config, Fabric, HttpError, NetError, PodIdentity, PodNet, body};

/// Everything outside is this listener and this UDP socket; what was dialled is kept.
#[derive(Clone)]
struct Stage {
    tcp: SocketAddr,
    udp: SocketAddr,
    dialled: Arc<Mutex<Vec<String>>>,
    names: Arc<Mutex<HashMap<&'static str, Vec<&'static str>>>>,
}

impl Sockets for Stage {
    fn is_host(&self, ip: IpAddr) -> bool {
        ip == IpAddr::from([203, 0, 113, 7])
    }

    fn connect(&self, destination: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        self.dialled.lock().unwrap().push(destination.to_string());
        Box::pin(TcpStream::connect(self.tcp))
    }

    fn udp(&self, destination: SocketAddr) -> io::Result<UdpSocket> {
        self.dialled.lock().unwrap().push(destination.to_string());
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(self.udp)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let found = self.names.lock().unwrap().get(name.as_str()).cloned().unwrap_or_default();
        Box::pin(std::future::ready(Ok(found.iter().map(|ip| ip.parse().unwrap()).collect())))
    }
}

struct World {
    stage: Stage,
    fabric: Fabric,
    pod: PodNet,
    tcp: TcpListener,
    udp: UdpSocket,
}

async fn world() -> World {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let stage = Stage {
        tcp: tcp.local_addr().unwrap(),
        udp: udp.local_addr().unwrap(),
        dialled: Arc::default(),
        names: Arc::default(),
    };
    let config = Config { outside: true, ..Config::default() };
    let fabric = Fabric::with_sockets(config, Arc::new(stage.clone()));
    let pod = fabric.attach(PodIdentity {
        namespace: "default".into(),
        name: "a".into(),
        hostname: "a".into(),
        addresses: vec![IpAddr::from([10, 42, 0, 2])],
    });
    World { stage, fabric, pod, tcp, udp }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

#[tokio::test]
async fn a_pod_talks_to_the_outside_and_both_ends_close() {
    let world = world().await;
    let mut conn = world.pod.connect(at("[::ffff:1.1.1.1]:80")).await.unwrap();
    let (mut server, _) = soon(world.tcp.accept()).await.unwrap();
    assert_eq!(*world.stage.dialled.lock().unwrap(), ["1.1.1.1:80"]);
    conn.write_all(b"ping").await.unwrap();
    conn.shutdown().await.unwrap();
    let mut text = String::new();
    soon(server.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "ping");
    server.write_all(b"pong").await.unwrap();
    drop(server);
    text.clear();
    soon(conn.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "pong");

    // A guest that goes away closes the connection, even when the outside is silent.
    let conn = world.pod.connect(at("1.1.1.1:80")).await.unwrap();
    let (mut server, _) = soon(world.tcp.accept()).await.unwrap();
    drop(conn);
    assert_eq!(soon(server.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn http_and_datagrams_go_out_too() {
    let world = world().await;
    world.stage.names.lock().unwrap().insert("example.com", vec!["127.0.0.1", "2600::1", "93.184.215.14"]);
    let answer = async {
        let (mut server, _) = world.tcp.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.unwrap());
        }
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
        String::from_utf8(head).unwrap().to_lowercase()
    };
    let (response, head) =
        soon(async { tokio::join!(world.pod.http("example.com", Request::new(body::full(""))), answer) }).await;
    assert!(head.contains("host: example.com"), "{head}");
    assert_eq!(response.unwrap().into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(*world.stage.dialled.lock().unwrap(), ["93.184.215.14:80"], "loopback is left out, IPv4 is first");

    let socket = world.pod.bind_udp(at("0.0.0.0:0")).unwrap();
    socket.send(Bytes::from_static(b"what"), at("1.1.1.1:53")).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = soon(world.udp.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..length], b"what");
    world.udp.send_to(b"that", from).await.unwrap();
    soon(socket.ready()).await;
    let answer = socket.try_recv().unwrap().unwrap();
    assert_eq!((answer.bytes.as_ref(), answer.source), (&b"that"[..], at("1.1.1.1:53")));
}

#[tokio::test]
async fn https_goes_to_whom_the_certificate_names_and_to_nobody_else() {
    use rustls::pki_types::PrivateKeyDer;
    let world = world().await;
    for (name, ip) in [("api.example", "198.18.0.1"), ("other.example", "198.18.0.2")] {
        world.stage.names.lock().unwrap().insert(name, vec![ip]);
    }
    let made = rcgen::generate_simple_self_signed(["api.example".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    world.fabric.trust().set_authority(&made.cert.pem());
    let server = rustls::ServerConfig::builder_with_provider(provider);
    let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let acceptor =
        tokio_rustls::TlsAcceptor::from(Arc::new(server.with_single_cert(vec![made.cert.der().clone()], key).unwrap()));
    let ask = async |authority: &str, plain: bool| {
        let answer = async {
            let (mut server, _) = world.tcp.accept().await.unwrap();
            if plain {
                server.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
                return String::new();
            }
            let Ok(mut server) = acceptor.accept(server).await else { return String::new() };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                // Who does not like the certificate is gone before it asks.
                let Ok(byte) = server.read_u8().await else { return String::new() };
                head.push(byte);
            }
            server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
            String::from_utf8(head).unwrap().to_lowercase()
        };
        let asked = world.pod.https(authority, Request::new(body::full("")));
        Box::pin(soon(async { tokio::join!(asked, answer) })).await
    };
    let (response, head) = ask("api.example", false).await;
    assert!(head.contains("host: api.example\r\n"), "{head}");
    assert_eq!(response.unwrap().into_body().collect().await.unwrap().to_bytes(), "hello");
    let (refused, head) = ask("other.example:8443", false).await;
    assert!(matches!(refused, Err(HttpError::Untrusted(_))) && head.is_empty(), "{refused:?} {head}");
    let (refused, _) = ask("api.example", true).await;
    assert!(matches!(refused, Err(HttpError::Tls(_))), "{refused:?}");
    let dialled = world.stage.dialled.lock().unwrap().clone();
    assert_eq!(dialled, ["198.18.0.1:443", "198.18.0.2:8443", "198.18.0.1:443"]);
}

#[tokio::test]
async fn what_is_forbidden_is_never_dialled_however_it_is_called() {
    let world = world().await;
    let rebinding = vec!["127.0.0.1", "169.254.169.254", "::ffff:169.254.169.254", "203.0.113.7", "10.42.0.1"];
    world.stage.names.lock().unwrap().insert("rebind.example", rebinding);
    let addresses = "169.254.169.254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 64:ff9b::7f00:1 203.0.113.7 10.42.7.7 \
        ::ffff:203.0.113.7 2002:7f00:1:: fe80::1 ::7f00:1 fd00:ec2::254 100.100.100.200";
    let socket = world.pod.bind_udp(at("0.0.0.0:0")).unwrap();
    for ip in addresses.split_whitespace().map(|ip| ip.parse::<IpAddr>().unwrap()) {
        let address = SocketAddr::new(ip, 80);
        assert!(matches!(world.pod.connect(address).await, Err(NetError::Denied(_))), "{ip}");
        let refused = world.pod.http(&address.to_string(), Request::new(body::full(""))).await.unwrap_err();
        assert!(matches!(refused, HttpError::Denied(_)), "{ip}: {refused}");
        let refused = world.pod.https(&address.to_string(), Request::new(body::full(""))).await.unwrap_err();
        assert!(matches!(refused, HttpError::Denied(_)), "{ip}: {refused}");
        socket.send(Bytes::from_static(b"x"), address).unwrap();
    }
    assert!(matches!(world.pod.resolve("rebind.example").await, Err(NetError::NameNotFound(_))));
    for host in ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"] {
        let refused = world.pod.http(host, Request::new(body::full(""))).await.unwrap_err();
        assert!(matches!(refused, HttpError::NameNotFound(_)), "{host}: {refused}");
    }
    assert!(world.stage.dialled.lock().unwrap().is_empty());
}

#[tokio::test]
async fn policies_hold_outside_too() {
    let world = world().await;
    world.stage.names.lock().unwrap().insert("example.com", vec!["1.1.1.1"]);
    let facts = PodFacts { namespace: "default".into(), name: "a".into(), ..PodFacts::default() };
    let install = |egress| {
        let policy = NetworkPolicy {
            namespace: "default".into(),
            name: "out".into(),
            pods: Selector::default(),
            ingress: None,
            egress: Some(egress),
        };
        world.fabric.set_policies(Policies::build(&[policy], std::slice::from_ref(&facts), &HashMap::new()));
    };
    install(vec![]);
    let refused = world.pod.connect(at("1.1.1.1:80")).await.unwrap_err();
    assert!(matches!(&refused, NetError::Denied(reason) if reason.contains("policy default/out")), "{refused}");
    assert!(matches!(world.pod.resolve("example.com").await, Err(NetError::Denied(_))), "a name is a message too");
    let blocks = ["0.0.0.0/0", "::/0"]
        .map(|block| Peer::Block { block: block.parse().unwrap(), except: vec!["9.9.9.9/32".parse().unwrap()] });
    install(vec![Rule { peers: Some(blocks.into()), ports: None }]);
    assert!(world.pod.connect(at("1.1.1.1:80")).await.is_ok());
    assert!(world.pod.resolve("example.com").await.is_ok());
    for hole in ["9.9.9.9:80", "[::ffff:9.9.9.9]:80", "[64:ff9b::909:909]:80"] {
        assert!(matches!(world.pod.connect(at(hole)).await, Err(NetError::Denied(_))), "{hole}");
    }
}

#[tokio::test]
async fn a_pod_has_only_so_many_ways_out() {
    let world = world().await;
    let mut held = Vec::new();
    for _ in 0..EGRESS_PER_POD_MAX {
        let conn = soon(world.pod.connect(at("1.1.1.1:80"))).await.unwrap();
        held.push((conn, soon(world.tcp.accept()).await.unwrap()));
    }
    let refused = world.pod.connect(at("1.1.1.1:80")).await.unwrap_err();
    assert_eq!(refused, NetError::LimitReached("connections to the outside"));
    held.clear();
    let again = async {
        while world.pod.connect(at("1.1.1.1:80")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(again).await;
}
