//! The beginning of a connection between pods of two nodes, from both sides; and datagrams.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use network::tunnel::{self, Answer, MESSAGE_BYTES_MAX, Malformed, Opening};
use network::{Conn, Ends, Fabric, NetError};
use quinn::{Connection, ReadError, ReadExactError, RecvStream, SendDatagramError, SendStream};
use tokio::time::timeout;

use super::carry::{Sending, carry};
use super::limits::{DATAGRAM_WAIT, OPENING_TIMEOUT};
use super::link::Link;
use super::relay::Relay;
use super::standing::Standing;

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    /// The connection of the nodes ended meanwhile: another may do.
    #[error("the connection between the nodes ended")]
    Lost,
    /// The other node gave up this one call.
    #[error("the other node gave it up")]
    Dropped,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<ReadExactError> for Unanswered {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(count) => Malformed::Short(count).into(),
            ReadExactError::ReadError(ReadError::ConnectionLost(_)) => Self::Lost,
            ReadExactError::ReadError(_) => Self::Dropped,
        }
    }
}

/// Calls a pod of another node. The result is the dialler's end.
pub(super) async fn connect(link: Arc<Link>, ends: Ends) -> Result<Conn, NetError> {
    let opening = Opening::new(ends.source, ends.accepted).map_err(|_| NetError::InvalidAddress)?;
    // A connection may end just when it is wanted again; once more is enough, since the next one is new.
    for _ in 0..2 {
        let standing = link.connection().await?;
        let used = standing.used();
        match open(&standing.connection, &opening).await {
            Ok((Answer::Accepted, send, receive)) => {
                let (dialler, acceptor) = Conn::pair(ends);
                tokio::spawn(async move {
                    carry(acceptor, send, receive).await;
                    drop(used);
                });
                return Ok(dialler);
            }
            Ok((Answer::Refused(error), ..)) => return Err(error),
            Err(Unanswered::Lost) => {}
            Err(Unanswered::Dropped) => return Err(NetError::ConnectionRefused),
            Err(Unanswered::Malformed(error)) => {
                tracing::warn!(node = link.name(), %error, "a node's answer cannot be understood");
                return Err(NetError::ConnectionRefused);
            }
        }
    }
    Err(NetError::TimedOut)
}

async fn open(connection: &Connection, opening: &Opening) -> Result<(Answer, Sending, RecvStream), Unanswered> {
    let (send, mut receive) = connection.open_bi().await.map_err(|_| Unanswered::Lost)?;
    let mut send = Sending::new(send);
    send.write(opening.encode()).await.map_err(|_| Unanswered::Lost)?;
    let mut head = [0; tunnel::ANSWER_HEAD_BYTES];
    receive.read_exact(&mut head[..1]).await?;
    if Answer::is_whole(head[0]) {
        return Ok((Answer::decode(&head[..1])?, send, receive));
    }
    receive.read_exact(&mut head[1..]).await?;
    let mut answer = head.to_vec();
    answer.resize(head.len() + Answer::text_length(head)?, 0);
    receive.read_exact(&mut answer[head.len()..]).await?;
    Ok((Answer::decode(&answer)?, send, receive))
}

/// Answers one call from another node and carries it.
pub(super) async fn answer(
    link: Arc<Link>,
    standing: Arc<Standing>,
    fabric: Fabric,
    (send, mut receive): (SendStream, RecvStream),
) {
    let _used = standing.used();
    let mut send = Sending::new(send);
    let opening = match timeout(OPENING_TIMEOUT, read_opening(&mut receive)).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(Unanswered::Malformed(error))) => {
            tracing::warn!(node = link.name(), %error, "a node's call cannot be understood");
            return;
        }
        Ok(Err(Unanswered::Lost | Unanswered::Dropped)) | Err(_) => return,
    };
    let admitted = if speaks_for(&fabric, link.name(), opening.source) {
        fabric.admit(opening.source, opening.destination)
    } else {
        tracing::debug!(node = link.name(), source = %opening.source, "a node called from an address that is not its own");
        Err(NetError::Unreachable)
    };
    match admitted {
        Ok(conn) => {
            if send.write(Answer::Accepted.encode()).await.is_ok() {
                carry(conn, send, receive).await;
            }
        }
        Err(error) => {
            if send.write(Answer::Refused(error).encode()).await.is_ok() {
                send.finish();
            }
        }
    }
}

async fn read_opening(receive: &mut RecvStream) -> Result<Opening, Unanswered> {
    let mut bytes = [0; tunnel::OPENING_BYTES_MAX];
    receive.read_exact(&mut bytes[..1]).await?;
    let length = Opening::length(bytes[0])?;
    receive.read_exact(&mut bytes[1..length]).await?;
    Ok(Opening::decode(&bytes[..length])?)
}

/// Whether an address lies in a node's ranges: nobody speaks for others.
fn speaks_for(fabric: &Fabric, node: &str, source: SocketAddr) -> bool {
    fabric.topology().elsewhere(source.ip()).is_some_and(|owner| **owner == *node)
}

/// Takes one message with a datagram, or with a packet of nodes that do not reach each other.
pub(super) fn take_message(link: &Link, fabric: &Fabric, relay: &Relay, message: &Bytes) {
    if message.first().is_some_and(|first| tunnel::is_packet(*first)) {
        return relay.take(link, message);
    }
    match tunnel::decode_datagram(message) {
        Ok((ends, payload)) if speaks_for(fabric, link.name(), ends.source) => {
            fabric.deliver(ends.source, ends.destination, payload);
        }
        Ok((ends, _)) => {
            tracing::debug!(node = link.name(), source = %ends.source, "a node sent from an address that is not its own");
        }
        Err(error) => tracing::debug!(node = link.name(), %error, "a node's datagram cannot be understood"),
    }
}

/// Takes a message that was too large for one packet.
pub(super) async fn take_large(link: Arc<Link>, fabric: Fabric, relay: Arc<Relay>, mut receive: RecvStream) {
    if let Ok(Ok(message)) = timeout(OPENING_TIMEOUT, receive.read_to_end(MESSAGE_BYTES_MAX)).await {
        take_message(&link, &fabric, &relay, &message.into());
    }
}

/// Sends a datagram, or loses it. One that must wait, for the connection or for being cut into packets, does so on its
/// own, as long as there are not too many of them.
pub(super) fn send(link: &Arc<Link>, message: Bytes) {
    if let Some(standing) = link.current() {
        match standing.connection.send_datagram(message.clone()) {
            Err(SendDatagramError::TooLarge) => {}
            Ok(()) | Err(_) => return,
        }
    }
    let Some(permit) = link.may_wait() else { return };
    let link = link.clone();
    tokio::spawn(async move {
        let _permit = permit;
        let _ = timeout(DATAGRAM_WAIT, send_later(&link, message)).await;
    });
}

async fn send_later(link: &Arc<Link>, message: Bytes) {
    let Ok(standing) = link.connection().await else { return };
    if let Err(SendDatagramError::TooLarge) = standing.connection.send_datagram(message.clone()) {
        send_large(&standing.connection, message).await;
    }
}

async fn send_large(connection: &Connection, message: Bytes) {
    let Ok(stream) = connection.open_uni().await else { return };
    let mut sending = Sending::new(stream);
    if sending.write(message).await.is_ok() {
        sending.finish();
    }
}

/// Hands a packet to a node that passes it on or reads it, or loses it. Only on a connection that stands and is direct: a
/// way over a third node leads over no fourth, and never in circles.
pub(super) fn pass(link: &Arc<Link>, message: Bytes) {
    let Some(standing) = link.direct() else { return };
    if let Err(SendDatagramError::TooLarge) = standing.connection.send_datagram(message.clone()) {
        let Some(permit) = link.may_wait() else { return };
        tokio::spawn(async move {
            let _permit = permit;
            let _ = timeout(DATAGRAM_WAIT, send_large(&standing.connection, message)).await;
        });
    }
}
