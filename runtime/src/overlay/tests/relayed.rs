//! Two nodes of which neither can be dialled, and members that both can dial.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use network::{NetError, PodNet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::standing::Course;
use super::stage::{Node, Two, until};
use super::{any, at, connect_again, talk};

/// What the connection in use takes.
fn course(from: &Node, to: &str) -> Option<Course> {
    from.link(to).map(|standing| standing.course)
}

async fn are_connected(node: &Node, other: &str) {
    until("a node to be connected to a member", || course(node, other) == Some(Course::Direct)).await;
}

/// A datagram may be lost; then it is sent again.
async fn say(from: &PodNet, to: SocketAddr, payload: &[u8], server: &network::UdpSocket) {
    let socket = from.bind_udp(any("0.0.0.0:0")).unwrap();
    let heard = async {
        loop {
            socket.send(Bytes::copy_from_slice(payload), to).unwrap();
            if timeout(Duration::from_millis(200), server.ready()).await.is_ok()
                && let Some(datagram) = server.try_recv().unwrap()
            {
                return datagram;
            }
        }
    };
    let heard = timeout(Duration::from_secs(60), heard).await.unwrap();
    assert_eq!(heard.bytes, payload);
}

#[tokio::test]
async fn a_member_passes_on_between_nodes_that_nobody_can_dial() {
    let (Two { one, two, a, b, .. }, members) = &Two::start_hidden(&["hub"]).await;
    // Nothing was said yet: they are there to be found.
    are_connected(one, "hub").await;
    are_connected(two, "hub").await;
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let client = connect_again(a, at(two.v4(2), 8080)).await;
    talk(client, listener.accept().await.unwrap()).await;
    assert_eq!((course(one, "two"), course(two, "one")), (Some(Course::Relayed), Some(Course::Relayed)));
    let back = a.listen(any("0.0.0.0:9000"), 0).unwrap();
    let client = b.connect(at(one.v4(2), 9000)).await.unwrap();
    talk(client, back.accept().await.unwrap()).await;
    // Datagrams of every size, and more than fits anywhere on the way.
    let server = b.bind_udp(any("0.0.0.0:53")).unwrap();
    for length in [0, 1100, 1200, 8000] {
        say(a, at(two.v4(2), 53), &vec![7; length], &server).await;
    }
    let mut client = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let mut server = listener.accept().await.unwrap();
    let sent: Vec<u8> = (0..8_000_000_u32).map(|number| number.wrapping_mul(2_654_435_761) as u8).collect();
    let mut received = Vec::new();
    let (wrote, read) = tokio::join!(
        async {
            client.write_all(&sent).await?;
            client.shutdown().await
        },
        server.read_to_end(&mut received)
    );
    assert_eq!((wrote.is_ok(), read.is_ok(), received == sent), (true, true, true));
    // The member's own pods are reached by nodes that it cannot dial, and reach them.
    let [hub] = &members[..] else { unreachable!() };
    let c = hub.pod("c", 2);
    let client = c.connect(at(two.v4(2), 8080)).await.unwrap();
    talk(client, listener.accept().await.unwrap()).await;
}

#[tokio::test]
async fn another_member_passes_on_when_one_ends() {
    let (Two { one, two, a, b, .. }, mut members) = Two::start_hidden(&["hub", "nave"]).await;
    for (node, member) in [(&one, "hub"), (&one, "nave"), (&two, "hub"), (&two, "nave")] {
        are_connected(node, member).await;
    }
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    while let Some(member) = members.pop() {
        let client = connect_again(&a, at(two.v4(2), 8080)).await;
        talk(client, listener.accept().await.unwrap()).await;
        member.stop().await;
    }
    until("the way to end with the last member", || course(&one, "two").is_none()).await;
    let refused = a.connect(at(two.v4(2), 8080)).await.unwrap_err();
    assert!(matches!(refused, NetError::TimedOut | NetError::Unreachable), "{refused}");
}

#[tokio::test]
async fn a_way_of_their_own_is_taken_once_there_is_one() {
    let (Two { api, one, two, a, b, .. }, _members) = &Two::start_hidden(&["hub"]).await;
    are_connected(one, "hub").await;
    are_connected(two, "hub").await;
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let mut client = connect_again(a, at(two.v4(2), 8080)).await;
    let mut server = listener.accept().await.unwrap();
    api.lead("one", "two", two.address);
    api.tell_again("two");
    until("a way of their own", || {
        one.look_again("two");
        course(one, "two") == Some(Course::Direct) && course(two, "one") == Some(Course::Direct)
    })
    .await;
    // What was said over the member goes on.
    client.write_all(b"still").await.unwrap();
    let mut text = [0; 5];
    server.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still");
    talk(client, server).await;
}
