//! SPDY/3.1, the server's side, as far as Kubernetes' streaming subresources need it.
//!
//! Pure: bytes go in, events and bytes come out. `frame` knows the frames, `headers` the compressed header blocks, and
//! [`Session`] what a server answers by itself. There is no flow control, because the one implementation on the other
//! side (moby/spdystream) has none: the connection's own backpressure is what holds a fast sender.
//!
//! Source: SPDY Protocol, Draft 3.1.

mod frame;
mod headers;
mod session;

#[cfg(test)]
mod tests;

pub(super) use frame::Frame;
pub(super) use session::{Event, Session};

/// Why a connection cannot go on: the peer broke the protocol or one of our bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// A control frame of another version, or shorter than what it must hold.
    Frame,
    /// A control frame or a header block longer than the bounds.
    TooLarge,
    /// A header block that is not zlib with SPDY/3's dictionary, or not what it says inside.
    Headers,
    /// A stream's number is not a client's, or not larger than the last one's.
    StreamNumber,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Frame => "a SPDY frame is malformed",
            Self::TooLarge => "a SPDY control frame is too large",
            Self::Headers => "the headers of a SPDY stream cannot be read",
            Self::StreamNumber => "a SPDY stream has a number it cannot have",
        })
    }
}
