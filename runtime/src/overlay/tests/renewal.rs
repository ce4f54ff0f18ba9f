//! Stories of certificates that are replaced while pods talk: nothing is cut, and nothing outlives its certificate.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use network::Conn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::identity;
use super::stage::{Node, Two, until};
use super::{any, at, connect_again, talk};

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// When the certificate is over that `node` is shown by `other`.
fn shown(node: &Node, other: &str) -> Option<SystemTime> {
    identity::peer_ends(&node.link(other)?.connection)
}

/// Whether the connection in use may stand for days.
fn lasts(node: &Node, other: &str) -> bool {
    node.link(other).and_then(|link| link.left(SystemTime::now())).is_some_and(|left| left > WEEK / 2)
}

/// A word and its echo over a connection that stays.
async fn echo(client: &mut Conn, server: &mut Conn, word: &[u8]) {
    let mut heard = vec![0; word.len()];
    client.write_all(word).await.unwrap();
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, word);
    server.write_all(word).await.unwrap();
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, word);
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_nothing_is_cut() {
    let Two { authority, one, two, a, b, .. } = &Two::start().await;
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let back = a.listen(any("0.0.0.0:8080"), 0).unwrap();
    let mut held = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let mut holding = listener.accept().await.unwrap();
    let first = one.link("two").unwrap();
    // Each in its turn, and one of them twice.
    for (weeks, renews) in [(2, "two"), (3, "one"), (4, "two")] {
        let (node, other, others) = if renews == "two" { (two, one, "one") } else { (one, two, "two") };
        let before = node.link(others).unwrap();
        node.renew(authority.node_for(renews, WEEK * weeks));
        let least = SystemTime::now() + WEEK * weeks - Duration::from_secs(60);
        let renewed = || {
            let left = node.link(others).is_some_and(|link| !Arc::ptr_eq(&link, &before));
            left && shown(other, renews).is_some_and(|ends| ends > least)
        };
        until("both nodes to use a connection with the new certificate", renewed).await;
        // New connections of both directions; and the one that was there before is none the worse.
        talk(a.connect(at(two.v4(2), 8080)).await.unwrap(), listener.accept().await.unwrap()).await;
        talk(b.connect(at(one.v4(2), 8080)).await.unwrap(), back.accept().await.unwrap()).await;
        echo(&mut held, &mut holding, b"still here").await;
    }
    assert!(first.stands(), "what a pod uses stays");
    drop((held, holding));
    until("the first connection to be given up", || !first.stands()).await;
    talk(a.connect(at(two.v4(2), 8080)).await.unwrap(), listener.accept().await.unwrap()).await;
}

#[tokio::test]
async fn nothing_outlives_its_certificate_and_who_renews_goes_on() {
    let Two { authority, one, two, a, b, .. } = &Two::start_for(Duration::from_secs(4)).await;
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    let mut old = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let _holding = listener.accept().await.unwrap();
    let first = one.link("two").unwrap();
    one.renew(authority.node("one"));
    two.renew(authority.node("two"));
    until("a connection for a week", || lasts(one, "two")).await;
    let mut new = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let mut server = listener.accept().await.unwrap();
    // The connection with the first certificates ends with them, and what it carries; the new one goes on.
    let error = timeout(Duration::from_secs(30), old.read(&mut [0; 9])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(!first.stands() && first.left(SystemTime::now()).is_none(), "it ended before its time");
    echo(&mut new, &mut server, b"and on").await;
    talk(a.connect(at(two.v4(2), 8080)).await.unwrap(), listener.accept().await.unwrap()).await;
}

#[tokio::test]
async fn a_node_that_does_not_renew_is_let_in_no_more() {
    let Two { authority, one, two, a, b, .. } = &Two::start_for(Duration::from_secs(3)).await;
    one.renew(authority.node("one"));
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    talk(a.connect(at(two.v4(2), 8080)).await.unwrap(), listener.accept().await.unwrap()).await;
    until("its connection to end", || one.link("two").is_none()).await;
    let refused = timeout(Duration::from_secs(2), a.connect(at(two.v4(2), 8080))).await;
    assert!(refused.is_err() || refused.is_ok_and(|connected| connected.is_err()), "its certificate is over");
    two.renew(authority.node("two"));
    let client = connect_again(a, at(two.v4(2), 8080)).await;
    talk(client, listener.accept().await.unwrap()).await;
}

/// Who cannot dial shows its new certificate to one that dials it, before the old one is over.
#[tokio::test]
async fn a_node_that_cannot_dial_is_dialled_in_time() {
    let Two { authority, one, two, a, b, .. } = &Two::start_one_way(Duration::from_secs(12)).await;
    let listener = b.listen(any("0.0.0.0:8080"), 0).unwrap();
    one.renew(authority.node("one"));
    let mut held = a.connect(at(two.v4(2), 8080)).await.unwrap();
    let mut holding = listener.accept().await.unwrap();
    let first = one.link("two").unwrap();
    two.renew(authority.node("two"));
    until("a connection for a week", || lasts(one, "two")).await;
    assert!(first.stands(), "it was made beside the first one, not after it");
    echo(&mut held, &mut holding, b"still here").await;
}
