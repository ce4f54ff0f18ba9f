//! SPDY/3.1 frames: eight bytes of head, then what the head says.
//!
//! A data frame is handed on piece by piece as its bytes arrive, so that 16 MiB of it are never held; a control frame
//! is held whole and bounded.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Broken;
use crate::limits::SPDY_CONTROL_BYTES_MAX;

const HEAD_BYTES: usize = 8;
const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const NUMBER: u32 = 0x7fff_ffff;
/// FLAG_FIN: nothing follows in this direction of the stream.
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// One frame; header blocks are still compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::stream) enum Frame {
    /// The peer opens a stream; `last` when it will send nothing on it.
    SynStream { stream: u32, last: bool, block: Bytes },
    /// A stream is accepted.
    SynReply { stream: u32, last: bool, block: Bytes },
    /// A stream ends at once in both directions.
    Reset { stream: u32, code: u32 },
    /// Settings of the connection, which nothing here depends on.
    Settings(Bytes),
    /// To be sent back as it is by whoever did not begin it.
    Ping(u32),
    /// No more streams; `last_stream` is the last one that was handled.
    GoAway { last_stream: u32, code: u32 },
    /// More headers of a stream.
    Headers { stream: u32, last: bool, block: Bytes },
    /// The peer takes `delta` bytes more.
    WindowUpdate { stream: u32, delta: u32 },
    /// Bytes of a stream: the whole frame when encoded, a piece of it when decoded.
    Data { stream: u32, last: bool, bytes: Bytes },
    /// A control frame of a type that is not known; to be ignored (§2.2.1).
    Other(u16),
}

impl Frame {
    /// The frame on the wire. A data frame may have 16 MiB less one byte.
    pub(in crate::stream) fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        let (type_, last) = match self {
            Self::Data { stream, last, bytes } => {
                let mut frame = BytesMut::with_capacity(HEAD_BYTES + bytes.len());
                frame.put_u32(*stream & NUMBER);
                put_length(&mut frame, *last, bytes.len());
                frame.put_slice(bytes);
                return frame.freeze();
            }
            Self::SynStream { stream, last, block } => {
                body.put_u32(*stream);
                body.put_u32(0);
                body.put_u16(0);
                body.put_slice(block);
                (SYN_STREAM, *last)
            }
            Self::SynReply { stream, last, block } | Self::Headers { stream, last, block } => {
                body.put_u32(*stream);
                body.put_slice(block);
                (if matches!(self, Self::SynReply { .. }) { SYN_REPLY } else { HEADERS }, *last)
            }
            Self::Reset { stream, code } => {
                body.put_u32(*stream);
                body.put_u32(*code);
                (RST_STREAM, false)
            }
            Self::GoAway { last_stream, code } => {
                body.put_u32(*last_stream);
                body.put_u32(*code);
                (GOAWAY, false)
            }
            Self::WindowUpdate { stream, delta } => {
                body.put_u32(*stream);
                body.put_u32(*delta);
                (WINDOW_UPDATE, false)
            }
            Self::Ping(id) => {
                body.put_u32(*id);
                (PING, false)
            }
            Self::Settings(settings) => {
                body.put_slice(settings);
                (SETTINGS, false)
            }
            Self::Other(type_) => (*type_, false),
        };
        let mut frame = BytesMut::with_capacity(HEAD_BYTES + body.len());
        frame.put_u16(CONTROL | VERSION);
        frame.put_u16(type_);
        put_length(&mut frame, last, body.len());
        frame.put_slice(&body);
        frame.freeze()
    }
}

fn put_length(frame: &mut BytesMut, last: bool, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX).min(0xff_ffff);
    frame.put_u32(u32::from(if last { FIN } else { 0 }) << 24 | length);
}

/// Bytes in, frames out.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    held: BytesMut,
    /// The rest of the data frame that is being received.
    data: Option<Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    stream: u32,
    length: usize,
    last: bool,
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next frame, or the next piece of one; `None` when more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Broken> {
        if let Some(rest) = self.data {
            return Ok(self.piece(rest));
        }
        if self.held.len() < HEAD_BYTES {
            return Ok(None);
        }
        let mut head = &self.held[..HEAD_BYTES];
        let (first, second) = (head.get_u32(), head.get_u32());
        let (last, length) = ((second >> 24) as u8 & FIN != 0, (second & 0xff_ffff) as usize);
        if first >> 31 == 0 {
            self.held.advance(HEAD_BYTES);
            let rest = Rest { stream: first, length, last };
            // An empty frame says only that the stream is over.
            if length == 0 {
                return Ok(Some(Frame::Data { stream: first, last, bytes: Bytes::new() }));
            }
            self.data = Some(rest);
            return Ok(self.piece(rest));
        }
        if (first >> 16) as u16 != CONTROL | VERSION {
            return Err(Broken::Frame);
        }
        if length > SPDY_CONTROL_BYTES_MAX {
            return Err(Broken::TooLarge);
        }
        if self.held.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.held.advance(HEAD_BYTES);
        let body = self.held.split_to(length).freeze();
        control((first & 0xffff) as u16, last, body).map(Some)
    }

    fn piece(&mut self, rest: Rest) -> Option<Frame> {
        let length = rest.length.min(self.held.len());
        if length == 0 {
            return None;
        }
        let bytes = self.held.split_to(length).freeze();
        let left = rest.length - length;
        self.data = (left > 0).then_some(Rest { length: left, ..rest });
        Some(Frame::Data { stream: rest.stream, last: rest.last && left == 0, bytes })
    }
}

fn control(type_: u16, last: bool, mut body: Bytes) -> Result<Frame, Broken> {
    let least = match type_ {
        SYN_STREAM => 10,
        SYN_REPLY | HEADERS | PING | SETTINGS => 4,
        RST_STREAM | GOAWAY | WINDOW_UPDATE => 8,
        _ => return Ok(Frame::Other(type_)),
    };
    if body.len() < least {
        return Err(Broken::Frame);
    }
    if type_ == SETTINGS {
        return Ok(Frame::Settings(body));
    }
    let first = body.get_u32();
    let stream = first & NUMBER;
    Ok(match type_ {
        SYN_STREAM => {
            // The associated stream, priority and credential slot mean nothing here.
            body.advance(6);
            Frame::SynStream { stream, last, block: body }
        }
        SYN_REPLY => Frame::SynReply { stream, last, block: body },
        HEADERS => Frame::Headers { stream, last, block: body },
        PING => Frame::Ping(first),
        RST_STREAM => Frame::Reset { stream, code: body.get_u32() },
        GOAWAY => Frame::GoAway { last_stream: stream, code: body.get_u32() },
        _ => Frame::WindowUpdate { stream, delta: body.get_u32() & NUMBER },
    })
}
