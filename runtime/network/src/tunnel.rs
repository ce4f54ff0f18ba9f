//! What nodes say to each other about the connections and datagrams of their pods. Pure: bytes in, facts out.
//!
//! A TCP connection is a stream of its own. The dialler opens it with an [`Opening`], the acceptor answers with an
//! [`Answer`], and from then on both sides are the connection's bytes. A datagram is one message: an address pair and the
//! payload. Both begin with a byte whose high half is the version and whose low half is the address family:
//!
//! ```text
//! opening   0x14 source(4) port(2) destination(4) port(2)      0x16 with addresses of 16 bytes
//! answer    0x00                                               accepted
//!           code length(2) text                                refused
//! datagram  as an opening, then the payload to the end
//! ```
//!
//! How a third node passes packets on is in `passing`.
//!
//! Refused: other versions, addresses that no pod can have, port 0 as a destination, texts that are too long. A decoder
//! never reads further than the lengths above allow, whatever the bytes say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

mod passing;

use bytes::{BufMut, Bytes, BytesMut};

pub use self::passing::{PACKET_BYTES_MAX, Passage, decode_packet, encode_packet, is_packet};
use crate::fabric::NetError;
use crate::limits::{DATAGRAM_BYTES_MAX, REFUSAL_BYTES_MAX};

/// The high half of the first byte.
const VERSION: u8 = 1;
const V4: u8 = VERSION << 4 | 4;
const V6: u8 = VERSION << 4 | 6;

/// The longest [`Opening`], and the most that a datagram's addresses take.
pub const OPENING_BYTES_MAX: usize = 1 + 2 * (16 + 2);

/// The longest message that carries a datagram or a packet.
pub const MESSAGE_BYTES_MAX: usize = OPENING_BYTES_MAX + DATAGRAM_BYTES_MAX;

const _: () = assert!(passing::MESSAGE_BYTES_MAX <= MESSAGE_BYTES_MAX);

/// Bytes that are not what a node says. Whoever sent them is not spoken to further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another version of this protocol, or something else altogether.
    #[error("version or address family {0:#04x} is not spoken here")]
    Version(u8),
    /// The bytes end too early.
    #[error("{0} bytes are too few")]
    Short(usize),
    /// Bytes follow where nothing should.
    #[error("{0} bytes are too many")]
    Long(usize),
    /// An address or a port that no pod and no node has in the cluster's network.
    #[error("{0} is not an address of the cluster's network")]
    Address(SocketAddr),
    /// An answer that does not exist.
    #[error("answer {0} does not exist")]
    Answer(u8),
    /// A refusal's text is not UTF-8.
    #[error("the text is not UTF-8")]
    Text,
}

/// The two ends of a connection or a datagram, as both nodes know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// A pod of the sending node, or the node itself.
    pub source: SocketAddr,
    /// A pod of the receiving node.
    pub destination: SocketAddr,
}

impl Opening {
    /// The ends, if they can be said: both of one family, plain addresses, a destination with a port.
    ///
    /// # Errors
    /// [`Malformed::Address`] names the end that cannot.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Result<Self, Malformed> {
        if !is_plain(source) {
            return Err(Malformed::Address(source));
        }
        if !is_plain(destination) || destination.port() == 0 || source.is_ipv4() != destination.is_ipv4() {
            return Err(Malformed::Address(destination));
        }
        Ok(Self { source, destination })
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(OPENING_BYTES_MAX);
        self.put(&mut bytes);
        bytes.freeze()
    }

    fn put(&self, bytes: &mut BytesMut) {
        bytes.put_u8(if self.source.is_ipv4() { V4 } else { V6 });
        for end in [self.source, self.destination] {
            match end.ip() {
                IpAddr::V4(ip) => bytes.put_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes.put_slice(&ip.octets()),
            }
            bytes.put_u16(end.port());
        }
    }

    /// How many bytes an opening has in all that begins with `first`.
    ///
    /// # Errors
    /// [`Malformed::Version`].
    pub fn length(first: u8) -> Result<usize, Malformed> {
        match first {
            V4 => Ok(1 + 2 * (4 + 2)),
            V6 => Ok(OPENING_BYTES_MAX),
            other => Err(Malformed::Version(other)),
        }
    }

    /// Reads a whole opening and nothing more.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (opening, rest) = Self::take(bytes)?;
        if rest.is_empty() { Ok(opening) } else { Err(Malformed::Long(bytes.len())) }
    }

    fn take(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let first = *bytes.first().ok_or(Malformed::Short(0))?;
        let length = Self::length(first)?;
        let (head, rest) = bytes.split_at_checked(length).ok_or(Malformed::Short(bytes.len()))?;
        let (source, destination) = head[1..].split_at((length - 1) / 2);
        Ok((Self::new(end(source), end(destination))?, rest))
    }
}

/// Reads an address and a port; the caller has cut 6 or 18 bytes.
fn end(bytes: &[u8]) -> SocketAddr {
    let (ip, port) = bytes.split_at(bytes.len() - 2);
    let ip = match <[u8; 4]>::try_from(ip) {
        Ok(octets) => IpAddr::V4(Ipv4Addr::from(octets)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).unwrap_or_default())),
    };
    SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]]))
}

/// An address that a pod or a node can have, written in the one way.
fn is_plain(end: SocketAddr) -> bool {
    let ip = end.ip();
    let mapped = ip != ip.to_canonical();
    !(mapped || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST)
}

/// What the acceptor says to an [`Opening`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection stands.
    Accepted,
    /// It does not, and why.
    Refused(NetError),
}

const ACCEPTED: u8 = 0;
const CONNECTION_REFUSED: u8 = 1;
const UNREACHABLE: u8 = 2;
const DENIED: u8 = 3;
const FULL: u8 = 4;

/// The bytes of an answer before its text: code and length. An accepting answer is its first byte alone.
pub const ANSWER_HEAD_BYTES: usize = 3;

impl Answer {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (code, text) = match self {
            Self::Accepted => return Bytes::from_static(&[ACCEPTED]),
            Self::Refused(NetError::Denied(reason)) => (DENIED, cut(reason)),
            Self::Refused(NetError::Unreachable | NetError::Detached) => (UNREACHABLE, ""),
            Self::Refused(NetError::LimitReached(_)) => (FULL, ""),
            Self::Refused(_) => (CONNECTION_REFUSED, ""),
        };
        let mut bytes = BytesMut::with_capacity(ANSWER_HEAD_BYTES + text.len());
        bytes.put_u8(code);
        bytes.put_u16(text.len() as u16);
        bytes.put_slice(text.as_bytes());
        bytes.freeze()
    }

    /// Whether an answer that begins with `first` has nothing behind it.
    #[must_use]
    pub fn is_whole(first: u8) -> bool {
        first == ACCEPTED
    }

    /// How many bytes of text follow this head.
    ///
    /// # Errors
    /// [`Malformed::Long`] when that is more than a refusal may say.
    pub fn text_length(head: [u8; ANSWER_HEAD_BYTES]) -> Result<usize, Malformed> {
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        if length <= REFUSAL_BYTES_MAX { Ok(length) } else { Err(Malformed::Long(length)) }
    }

    /// Reads a whole answer and nothing more.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (head, text) = match bytes {
            [] => return Err(Malformed::Short(0)),
            [ACCEPTED] => return Ok(Self::Accepted),
            [ACCEPTED, ..] => return Err(Malformed::Long(bytes.len())),
            bytes => bytes.split_first_chunk::<ANSWER_HEAD_BYTES>().ok_or(Malformed::Short(bytes.len()))?,
        };
        let length = Self::text_length(*head)?;
        match text.len() {
            short if short < length => return Err(Malformed::Short(bytes.len())),
            long if long > length => return Err(Malformed::Long(bytes.len())),
            _ => {}
        }
        let text = std::str::from_utf8(text).map_err(|_| Malformed::Text)?;
        let error = match head[0] {
            CONNECTION_REFUSED => NetError::ConnectionRefused,
            UNREACHABLE => NetError::Unreachable,
            DENIED => NetError::Denied(text.to_owned()),
            FULL => NetError::LimitReached("connections of the other node"),
            other => return Err(Malformed::Answer(other)),
        };
        Ok(Self::Refused(error))
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REFUSAL_BYTES_MAX)]
}

/// The message that carries a datagram.
///
/// # Errors
/// [`Malformed::Long`] when the payload is no datagram's.
pub fn encode_datagram(ends: &Opening, payload: &[u8]) -> Result<Bytes, Malformed> {
    if payload.len() > DATAGRAM_BYTES_MAX {
        return Err(Malformed::Long(payload.len()));
    }
    let mut bytes = BytesMut::with_capacity(OPENING_BYTES_MAX + payload.len());
    ends.put(&mut bytes);
    bytes.put_slice(payload);
    Ok(bytes.freeze())
}

/// Reads a message that carries a datagram. The payload shares the message's memory.
///
/// # Errors
/// [`Malformed`].
pub fn decode_datagram(message: &Bytes) -> Result<(Opening, Bytes), Malformed> {
    let (ends, payload) = Opening::take(message)?;
    if payload.len() > DATAGRAM_BYTES_MAX {
        return Err(Malformed::Long(message.len()));
    }
    Ok((ends, message.slice(message.len() - payload.len()..)))
}

#[cfg(test)]
mod tests;
