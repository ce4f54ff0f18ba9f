//! Packets that a third node passes on between two that cannot reach each other.
//!
//! ```text
//! packet    0x11 length(1) name    then the packet to the end: to be passed on to the node of this name
//!           0x12 length(1) name    the same, passed on, from the node of this name
//! ```
//!
//! What is in the packet is between the two: they encrypt it, and who passes it on can lose it and nothing else.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Malformed, VERSION};

const ONWARD: u8 = VERSION << 4 | 1;
const PASSED: u8 = VERSION << 4 | 2;

/// The longest name of a node (RFC 1123, a subdomain).
pub(super) const NAME_BYTES_MAX: usize = 253;

/// The longest packet that is passed on: what fits into Ethernet's.
pub const PACKET_BYTES_MAX: usize = 1500;

/// The longest message that carries a packet.
pub(super) const MESSAGE_BYTES_MAX: usize = 2 + NAME_BYTES_MAX + PACKET_BYTES_MAX;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// To whoever is asked to pass it on to the node named.
    Onward,
    /// From whoever has passed it on for the node named.
    Passed,
}

/// Whether a message that begins with `first` carries a packet.
#[must_use]
pub fn is_packet(first: u8) -> bool {
    [ONWARD, PASSED].contains(&first)
}

/// The message that carries a packet.
///
/// # Errors
/// [`Malformed::Long`] when the name is no node's or the packet is too long.
pub fn encode_packet(passage: Passage, node: &str, packet: &[u8]) -> Result<Bytes, Malformed> {
    let named = u8::try_from(node.len()).ok().filter(|_| node.len() <= NAME_BYTES_MAX);
    let length =
        named.filter(|_| packet.len() <= PACKET_BYTES_MAX).ok_or(Malformed::Long(node.len() + packet.len()))?;
    let mut bytes = BytesMut::with_capacity(2 + node.len() + packet.len());
    bytes.put_u8(if passage == Passage::Onward { ONWARD } else { PASSED });
    bytes.put_u8(length);
    bytes.put_slice(node.as_bytes());
    bytes.put_slice(packet);
    Ok(bytes.freeze())
}

/// Reads a message that carries a packet: which way it goes, the node and the packet, which shares the message's memory.
///
/// # Errors
/// [`Malformed`].
pub fn decode_packet(message: &Bytes) -> Result<(Passage, &str, Bytes), Malformed> {
    let (passage, length) = match message[..] {
        [ONWARD, length, ..] => (Passage::Onward, usize::from(length)),
        [PASSED, length, ..] => (Passage::Passed, usize::from(length)),
        [ONWARD | PASSED] | [] => return Err(Malformed::Short(message.len())),
        [other, ..] => return Err(Malformed::Version(other)),
    };
    if length > NAME_BYTES_MAX || message.len() > 2 + length + PACKET_BYTES_MAX {
        return Err(Malformed::Long(message.len()));
    }
    let name = message.get(2..2 + length).ok_or(Malformed::Short(message.len()))?;
    let name = std::str::from_utf8(name).map_err(|_| Malformed::Text)?;
    Ok((passage, name, message.slice(2 + length..)))
}
