//! Stories of a path between two nodes that loses, delays and reorders packets, or is cut.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::super::limits::GONE_AFTER;
use super::stage::{Two, until, web};
use super::{any, at, connect_again, talk};

#[tokio::test]
async fn bytes_survive_a_path_that_loses_delays_and_reorders() {
    let (Two { two, a, b, .. }, weather) = &Two::start_apart().await;
    weather.storm(Duration::from_millis(8), 50);
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let mut client = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let mut server = listener.accept().await.unwrap();
    let sent: Vec<u8> = (0..400_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut received = Vec::new();
    timeout(Duration::from_secs(60), server.read_to_end(&mut received)).await.unwrap().unwrap();
    assert!(received == expected);
    drop(writing.await.unwrap());
}

/// The node is passed over within a second, connections wait, and all is as before when the path is back.
#[tokio::test]
async fn a_short_cut_is_survived_and_services_go_elsewhere_meanwhile() {
    let (Two { one, two, a, b, .. }, weather) = &Two::start_apart().await;
    let here = one.pod("c", 3);
    one.fabric.set_services(web(&[one.v4(3), two.v4(2)]));
    let (near, far) = (here.listen(any("0.0.0.0:8080"), 0).unwrap(), b.listen(any("0.0.0.0:8080"), 0).unwrap());
    let client = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let server = far.accept().await.unwrap();
    let reachable = || network::Overlay::is_reachable(&*one.fabric.overlay().unwrap(), "two");
    assert!(reachable());

    let silent = one.fabric.falls_silent(two.v4(2));
    tokio::pin!(silent);
    assert!(timeout(Duration::from_millis(200), &mut silent).await.is_err());
    weather.cut(true);
    timeout(Duration::from_secs(30), silent).await.expect("those who wait for the node are told");
    until("the node to be passed over", || !reachable()).await;
    for _ in 0..6 {
        talk(a.connect(any("10.43.0.5:80")).await.unwrap(), near.accept().await.unwrap()).await;
    }
    weather.cut(false);
    talk(client, server).await;
    until("the node to be counted on again", reachable).await;
    let both = async {
        while far.try_accept().unwrap().is_none() {
            drop(a.connect(any("10.43.0.5:80")).await.unwrap());
        }
    };
    timeout(Duration::from_secs(30), both).await.expect("the far endpoint is used again");
}

/// Before anybody has noticed that a node is dead, a call to a Service already finds another endpoint.
#[tokio::test]
async fn the_first_call_after_a_cut_finds_another_endpoint() {
    let (Two { one, two, a, .. }, weather) = &Two::start_apart().await;
    let here = one.pod("c", 3);
    one.fabric.set_services(web(&[one.v4(3), two.v4(2)]));
    let near = here.listen(any("0.0.0.0:8080"), 0).unwrap();
    weather.cut(true);
    for _ in 0..4 {
        let client = timeout(Duration::from_secs(5), a.connect(any("10.43.0.5:80"))).await.unwrap().unwrap();
        talk(client, near.accept().await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_long_cut_ends_connections_as_timed_out_and_the_next_ones_succeed() {
    let (Two { two, a, b, .. }, weather) = &Two::start_apart().await;
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let mut client = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let mut server = listener.accept().await.unwrap();
    weather.cut(true);
    let cut = Instant::now();
    let (mut near, mut far) = ([0], [0]);
    let ended = timeout(Duration::from_secs(60), async { tokio::join!(client.read(&mut near), server.read(&mut far)) });
    let (near, far) = ended.await.unwrap();
    assert_eq!([near.unwrap_err().kind(), far.unwrap_err().kind()], [ErrorKind::TimedOut; 2]);
    assert!(cut.elapsed() + Duration::from_secs(1) >= GONE_AFTER, "it was given up too early");
    weather.cut(false);
    let client = connect_again(a, at(two.v4(2), 8080)).await;
    talk(client, listener.accept().await.unwrap()).await;
}
