//! How the frames of a conversation look on a client's connection.
//!
//! In a WebSocket a message's first byte is the channel. In SPDY each channel is a stream that the client opens and
//! names by the header `streamType`; there the conversation begins when all of them are open.

use std::collections::HashMap;

use api::channels;
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;

use super::{Incoming, Streams};
use crate::limits::{PONG_MAX, STREAM_PIECE_BYTES};
use crate::stream::spdy::{Event, Frame, Session};

/// REFUSED_STREAM (SPDY §2.6.3): the stream was not acted upon.
const REFUSED: u32 = 3;

/// What came of a piece of the client's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Data {
        channel: u8,
        bytes: Bytes,
    },
    /// Nothing follows on the channel.
    Finished {
        channel: u8,
    },
    /// To be sent back as it is.
    Answer(Bytes),
}

/// The client's side of the connection, as it is read.
pub(super) struct Client {
    incoming: Incoming,
    /// `None` for channels of a WebSocket.
    spdy: Option<Spdy>,
}

struct Spdy {
    session: Session,
    events: Vec<Event>,
    /// The channel of each open stream.
    open: HashMap<u32, u8>,
}

impl Client {
    pub(super) fn new(incoming: Incoming, in_channels: bool) -> Self {
        let spdy = || Spdy { session: Session::new(), events: Vec::new(), open: HashMap::new() };
        Self { incoming, spdy: (!in_channels).then(spdy) }
    }

    /// Waits until the client has opened what it asked for; `None` when it goes away or breaks the protocol first.
    ///
    /// What it says before is dropped: no client speaks before its streams are accepted.
    pub(super) async fn open(&mut self, streams: Streams, to_client: &mpsc::Sender<Bytes>) -> Option<Wire> {
        if self.spdy.is_none() {
            // kubectl drops what arrives before it has made its streams, which it does while it begins to read.
            let _ = tokio::time::timeout(PONG_MAX, self.incoming.pong()).await;
            // An empty message on the lowest channel that is written tells the client that it is heard.
            let channel = if streams.stdout { channels::STDOUT } else { channels::STATUS };
            to_client.send(labelled(channel, &[])).await.ok()?;
            return Some(Wire::Channels);
        }
        loop {
            if let Some(spdy) = &self.spdy {
                let number = |channel| spdy.open.iter().find(|(_, open)| **open == channel).map(|(stream, _)| *stream);
                if streams.channels().all(|channel| number(channel).is_some()) {
                    let numbers = streams.channels().filter_map(|channel| Some((channel, number(channel)?)));
                    return Some(Wire::Streams(numbers.collect()));
                }
            }
            for said in self.next().await? {
                if let Said::Answer(bytes) = said {
                    to_client.send(bytes).await.ok()?;
                }
            }
        }
    }

    /// What the client says next; `None` when it is gone or broke the protocol.
    pub(super) async fn next(&mut self) -> Option<Vec<Said>> {
        let bytes = self.incoming.next().await?;
        let Some(spdy) = &mut self.spdy else { return Some(message(&bytes).into_iter().collect()) };
        spdy.session.receive(&bytes, &mut spdy.events).ok()?;
        let Spdy { events, open, .. } = spdy;
        Some(events.drain(..).filter_map(|event| heard(event, open)).collect())
    }
}

/// What a message of a WebSocket says.
fn message(bytes: &Bytes) -> Option<Said> {
    let channel = *bytes.first()?;
    let rest = bytes.slice(1..);
    match channel {
        channels::CLOSE => rest.first().map(|channel| Said::Finished { channel: *channel }),
        // Some clients send empty messages to keep a connection alive.
        _ if rest.is_empty() => None,
        channels::STDIN | channels::RESIZE => Some(Said::Data { channel, bytes: rest }),
        _ => None,
    }
}

/// What an event of a SPDY session says.
fn heard(event: Event, open: &mut HashMap<u32, u8>) -> Option<Said> {
    match event {
        Event::Send(bytes) => Some(Said::Answer(bytes)),
        Event::Opened { stream, headers } => {
            let type_ = headers.iter().find(|(name, _)| name == "streamtype").map(|(_, value)| value.as_str());
            let channel = match type_ {
                Some("stdin") => Some(channels::STDIN),
                Some("stdout") => Some(channels::STDOUT),
                Some("stderr") => Some(channels::STDERR),
                Some("error") => Some(channels::STATUS),
                Some("resize") => Some(channels::RESIZE),
                _ => None,
            };
            match channel.filter(|channel| !open.values().any(|other| other == channel)) {
                Some(channel) => {
                    open.insert(stream, channel);
                    None
                }
                None => Some(Said::Answer(Frame::Reset { stream, code: REFUSED }.encode())),
            }
        }
        Event::Data { stream, bytes } => {
            let channel = *open.get(&stream)?;
            matches!(channel, channels::STDIN | channels::RESIZE).then_some(Said::Data { channel, bytes })
        }
        Event::Finished { stream } | Event::Reset { stream } => {
            let channel = *open.get(&stream)?;
            (channel == channels::STDIN).then_some(Said::Finished { channel })
        }
    }
}

/// How bytes are written to the client.
pub(super) enum Wire {
    Channels,
    /// The stream of each channel.
    Streams(HashMap<u8, u32>),
}

impl Wire {
    /// Bytes of a channel; none where the client has not asked for it.
    pub(super) fn data(&self, channel: u8, bytes: &Bytes) -> Vec<Bytes> {
        let pieces = (0..bytes.len()).step_by(STREAM_PIECE_BYTES);
        let pieces = pieces.map(|from| bytes.slice(from..bytes.len().min(from + STREAM_PIECE_BYTES)));
        match self {
            Self::Channels => pieces.map(|piece| labelled(channel, &piece)).collect(),
            Self::Streams(numbers) => {
                let Some(stream) = numbers.get(&channel) else { return Vec::new() };
                pieces.map(|bytes| Frame::Data { stream: *stream, last: false, bytes }.encode()).collect()
            }
        }
    }

    /// What says that nothing follows; the end of a WebSocket is its own closing.
    pub(super) fn end(&self) -> Vec<Bytes> {
        let Self::Streams(numbers) = self else { return Vec::new() };
        let mut numbers: Vec<u32> = numbers.values().copied().collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|stream| Frame::Data { stream, last: true, bytes: Bytes::new() }.encode()).collect()
    }
}

fn labelled(channel: u8, bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.put_slice(bytes);
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_websocket() {
        let data = |channel, bytes: &'static [u8]| Some(Said::Data { channel, bytes: Bytes::from_static(bytes) });
        let table: [(&'static [u8], Option<Said>); 7] = [
            (b"", None),
            (b"\0", None),
            (b"\0hi", data(0, b"hi")),
            (b"\x04{}", data(4, b"{}")),
            (b"\xff\0", Some(Said::Finished { channel: 0 })),
            (b"\xff", None),
            (b"\x01not yours", None),
        ];
        for (bytes, expected) in table {
            assert_eq!(message(&Bytes::from_static(bytes)), expected, "{bytes:?}");
        }
    }

    #[test]
    fn streams_of_a_session() {
        let mut open = HashMap::new();
        let opened = |stream, type_: &str| Event::Opened { stream, headers: vec![("streamtype".into(), type_.into())] };
        for (stream, type_) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            assert_eq!(heard(opened(stream, type_), &mut open), None);
        }
        let refused = Some(Said::Answer(Frame::Reset { stream: 7, code: REFUSED }.encode()));
        assert_eq!(heard(opened(7, "stdin"), &mut open), refused);
        let bytes = Bytes::from_static(b"x");
        let data = |stream| Event::Data { stream, bytes: bytes.clone() };
        assert_eq!(heard(data(3), &mut open), Some(Said::Data { channel: 0, bytes: bytes.clone() }));
        assert_eq!(heard(data(5), &mut open), None, "a client does not write there");
        assert_eq!(heard(data(99), &mut open), None);
        assert_eq!(heard(Event::Finished { stream: 3 }, &mut open), Some(Said::Finished { channel: 0 }));
        let wire = Wire::Streams(HashMap::from([(1, 5), (3, 1)]));
        assert_eq!(wire.data(channels::STDERR, &bytes), Vec::<Bytes>::new());
        let long = Bytes::from(vec![1; STREAM_PIECE_BYTES + 1]);
        assert_eq!((wire.data(channels::STDOUT, &long).len(), wire.end().len()), (2, 2));
        assert_eq!(Wire::Channels.data(channels::STDOUT, &bytes), [Bytes::from_static(b"\x01x")]);
    }
}
