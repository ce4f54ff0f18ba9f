//! Stories of callers that are not what a node should be: another cluster's, another's name, another's addresses, noise.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use network::tunnel::{Answer, Opening, encode_datagram};
use network::{NetError, UdpSocket};
use quinn::{Connection, ConnectionError, Endpoint, EndpointConfig, TokioRuntime};
use tokio::time::timeout;

use super::super::Identity;
use super::stage::{Authority, FakeApi, Node, Two};
use super::{any, at, receive, talk};

/// A caller with any identity and any intention.
async fn call(identity: &Identity, address: SocketAddr, name: &str) -> Result<Connection, ConnectionError> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, std::sync::Arc::new(TokioRuntime)).unwrap();
    let client = identity.tls().unwrap().client;
    let connection = endpoint.connect_with(client, address, name).unwrap().await?;
    // A client is done before the server has judged its certificate; the verdict follows.
    match timeout(Duration::from_secs(1), connection.closed()).await {
        Ok(error) => Err(error),
        Err(_) => Ok(connection),
    }
}

async fn still_talks(world: &Two) {
    let listener = world.b.listen(any("0.0.0.0:7070"), 0).unwrap();
    let client = world.a.connect(at(world.two.v4(2), 7070)).await.unwrap();
    talk(client, listener.accept().await.unwrap()).await;
}

#[tokio::test]
async fn only_nodes_of_this_cluster_are_let_in() {
    let world = Two::start().await;
    let address = world.two.address;
    let strangers = [
        Authority::new().node("one"),
        world.authority.identity("kogia-admin", "one"),
        world.authority.identity("system:node:", "one"),
        world.authority.node("two"),
        Identity { authority_pem: world.authority.node("x").authority_pem, ..Authority::new().node("one") },
    ];
    for stranger in &strangers {
        assert!(call(stranger, address, "two").await.is_err());
    }
    // A node that shows another name than the one it was dialled by is not spoken to.
    assert!(call(&world.authority.node("three"), address, "four").await.is_err());
    still_talks(&world).await;
}

/// A node of the right cluster and name whose authority is another one: nothing passes in either direction.
#[tokio::test]
async fn two_clusters_do_not_meet() {
    let api = FakeApi::default();
    let one = Node::start(&api, Authority::new().node("one"), "one", 1);
    let two = Node::start(&api, Authority::new().node("two"), "two", 2);
    one.knows(&two).await;
    let (a, b) = (one.pod("a", 2), two.pod("b", 2));
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let refused = timeout(Duration::from_secs(2), a.connect(at(two.v4(2), 8080))).await;
    assert!(refused.is_err() || refused.is_ok_and(|connected| connected.is_err()));
    assert!(listener.try_accept().unwrap().is_none());
}

#[tokio::test]
async fn nobody_speaks_from_anothers_address() {
    let world = Two::start().await;
    let listener = world.b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let socket = world.b.bind_udp(any("0.0.0.0:8080")).unwrap();
    let here = at(world.two.v4(2), 8080);
    // A third node that the cluster knows, in the hands of somebody else.
    let third = Node::start(&world.api, world.authority.node("three"), "three", 3);
    world.two.knows(&third).await;
    let connection = call(&world.authority.node("three"), world.two.address, "two").await.unwrap();
    let ask = async |source: SocketAddr, destination: SocketAddr| {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&Opening::new(source, destination).unwrap().encode()).await.unwrap();
        let mut answer = [0; 1];
        receive.read_exact(&mut answer).await.unwrap();
        if Answer::is_whole(answer[0]) {
            return Ok(());
        }
        let rest = receive.read_to_end(4096).await.unwrap();
        match Answer::decode(&[&answer[..], &rest].concat()).unwrap() {
            Answer::Refused(error) => Err(error),
            Answer::Accepted => Ok(()),
        }
    };
    for foreign in [at(world.one.v4(2), 1), at(world.two.v4(2), 1), any("10.43.0.5:1"), any("8.8.8.8:1")] {
        assert_eq!(ask(foreign, here).await, Err(NetError::Unreachable), "{foreign}");
        let message = encode_datagram(&Opening::new(foreign, here).unwrap(), b"forged").unwrap();
        connection.send_datagram(message).unwrap();
    }
    // Its own pods may call, but only pods: no Service, no other node, no outside.
    let own = at(third.v4(9), 1);
    for away in [any("10.43.0.5:80"), at(world.one.v4(2), 8080), any("8.8.8.8:53")] {
        assert_eq!(ask(own, away).await, Err(NetError::Unreachable), "{away}");
    }
    assert_eq!(ask(own, here).await, Ok(()));
    assert_eq!(listener.accept().await.unwrap().peer(), own);
    let message = encode_datagram(&Opening::new(own, here).unwrap(), b"honest").unwrap();
    connection.send_datagram(message).unwrap();
    assert_eq!(&first(&socket).await[..], b"honest", "the forged ones were lost");
    still_talks(&world).await;
}

async fn first(socket: &UdpSocket) -> Bytes {
    receive(socket).await.bytes
}

#[tokio::test]
async fn noise_and_silence_harm_nobody() {
    let world = Two::start().await;
    let socket = world.b.bind_udp(any("0.0.0.0:8080")).unwrap();
    let third = Node::start(&world.api, world.authority.node("three"), "three", 3);
    world.two.knows(&third).await;
    let connection = call(&world.authority.node("three"), world.two.address, "two").await.unwrap();
    let noise: [&[u8]; 5] = [b"GET / HTTP/1.1\r\n\r\n", &[0; 100], &[0xff; 3], &[0x14; 12], &[0x16, 1, 2]];
    for bytes in noise {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let _ = send.finish();
        assert!(receive.read_to_end(10).await.is_err(), "noise was answered");
        connection.send_datagram(Bytes::copy_from_slice(bytes)).unwrap();
        let mut large = connection.open_uni().await.unwrap();
        // One that says too much is stopped before it has said all.
        let _ = large.write_all(&bytes.repeat(20_000)).await;
        let _ = large.finish();
    }
    // Streams that are opened and say nothing are held for a while and cost nobody else anything.
    let mut silent = Vec::new();
    for _ in 0..100 {
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(&[0x14]).await.unwrap();
        silent.push((send, receive));
    }
    still_talks(&world).await;
    let message = encode_datagram(&Opening::new(at(third.v4(9), 1), at(world.two.v4(2), 8080)).unwrap(), b"x").unwrap();
    connection.send_datagram(message).unwrap();
    assert_eq!(&first(&socket).await[..], b"x", "the connection itself goes on");
}
