//! What travels between the API server and a node while somebody is connected to a container: labelled pieces of bytes.
//!
//! Each direction of such a conversation is the body of a request or an answer, a row of frames: one byte that names
//! the channel, four bytes of length (big endian), the bytes. The channels are those of Kubernetes' `v5.channel.k8s.io`:
//! the client sends on 0 and 4 and closes 0; the node sends on 1 and 2, and last the outcome on 3, a `Status`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::CHANNEL_FRAME_BYTES_MAX;

/// What the client types or pipes in.
pub const STDIN: u8 = 0;
/// What the program says.
pub const STDOUT: u8 = 1;
/// What the program complains about.
pub const STDERR: u8 = 2;
/// How it ended: a `Status` as JSON, once.
pub const STATUS: u8 = 3;
/// The size of the client's terminal, as JSON.
pub const RESIZE: u8 = 4;
/// Its one byte is the channel on which nothing follows.
pub const CLOSE: u8 = 255;

const HEAD_BYTES: usize = 5;

/// Bytes of one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which one.
    pub channel: u8,
    /// At most [`CHANNEL_FRAME_BYTES_MAX`] of them.
    pub bytes: Bytes,
}

/// A frame is longer than any that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a frame is longer than {CHANNEL_FRAME_BYTES_MAX} bytes")
    }
}

impl std::error::Error for TooLong {}

/// The bytes as frames; several where they do not fit into one.
#[must_use]
pub fn encode(channel: u8, bytes: &[u8]) -> Bytes {
    let count = bytes.len().div_ceil(CHANNEL_FRAME_BYTES_MAX).max(1);
    let mut frames = BytesMut::with_capacity(bytes.len() + count * HEAD_BYTES);
    let mut put = |piece: &[u8]| {
        frames.put_u8(channel);
        frames.put_u32(u32::try_from(piece.len()).expect("a piece is within its bound"));
        frames.put_slice(piece);
    };
    if bytes.is_empty() {
        put(bytes);
    }
    bytes.chunks(CHANNEL_FRAME_BYTES_MAX).for_each(&mut put);
    frames.freeze()
}

/// Says that nothing follows on a channel.
#[must_use]
pub fn close(channel: u8) -> Bytes {
    encode(CLOSE, &[channel])
}

/// Bytes in, frames out.
#[derive(Debug, Default)]
pub struct Decoder {
    held: BytesMut,
}

impl Decoder {
    /// Takes what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`TooLong`]: the sender does not keep the bound, and the conversation cannot go on.
    pub fn frame(&mut self) -> Result<Option<Frame>, TooLong> {
        let Some(mut head) = self.held.get(..HEAD_BYTES) else { return Ok(None) };
        let (channel, length) = (head.get_u8(), head.get_u32() as usize);
        if length > CHANNEL_FRAME_BYTES_MAX {
            return Err(TooLong);
        }
        if self.held.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.held.advance(HEAD_BYTES);
        Ok(Some(Frame { channel, bytes: self.held.split_to(length).freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(decoder: &mut Decoder) -> Vec<Frame> {
        std::iter::from_fn(|| decoder.frame().unwrap()).collect()
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let long = vec![7; CHANNEL_FRAME_BYTES_MAX + 1];
        let sent = [encode(STDOUT, b"hello"), encode(STDERR, b""), close(STDIN), encode(STDOUT, &long)].concat();
        for cut in [1, 3, 5, 6, 1000, sent.len()] {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for piece in sent.chunks(cut) {
                decoder.push(piece);
                frames.extend(all(&mut decoder));
            }
            let shapes: Vec<_> = frames.iter().map(|frame| (frame.channel, frame.bytes.len())).collect();
            let expected = [(STDOUT, 5), (STDERR, 0), (CLOSE, 1), (STDOUT, CHANNEL_FRAME_BYTES_MAX), (STDOUT, 1)];
            assert_eq!(shapes, expected, "cut into {cut}");
            assert_eq!((&frames[0].bytes[..], &frames[2].bytes[..]), (&b"hello"[..], &[STDIN][..]));
        }
    }

    /// A small generator (Marsaglia's xorshift), so that a failure comes again.
    fn damaged(whole: &[u8], seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap()
        };
        let mut bytes = whole.to_vec();
        for _ in 0..1 + next() % 4 {
            let at = next() % bytes.len();
            bytes[at] = u8::try_from(next() % 256).unwrap();
        }
        bytes.truncate(1 + next() % bytes.len());
        bytes
    }

    #[test]
    fn no_bytes_make_it_hold_more_than_one_frame() {
        let whole = [encode(STDIN, &[1; 300]), encode(RESIZE, b"{}"), close(STDIN)].concat();
        for seed in 0..20_000 {
            let mut decoder = Decoder::default();
            for piece in damaged(&whole, seed).chunks(64) {
                decoder.push(piece);
                while let Ok(Some(frame)) = decoder.frame() {
                    assert!(frame.bytes.len() <= CHANNEL_FRAME_BYTES_MAX, "seed {seed}");
                }
                assert!(decoder.held.len() <= whole.len(), "seed {seed}");
            }
        }
        let mut decoder = Decoder::default();
        decoder.push(&[STDIN, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.frame(), Err(TooLong));
    }
}
