//! The upgraded connection: plain bytes, or the messages of a WebSocket.
//!
//! What is read and written is the same to everybody above: pieces of bytes. Pings and the closing handshake of
//! WebSockets (RFC 6455 §5.5) end here.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::limits::{STREAM_IDLE_MAX, STREAM_PIECE_BYTES, STREAM_PIECES_MAX, WEBSOCKET_MESSAGE_BYTES_MAX};

type Io = TokioIo<Upgraded>;

/// All has been said (RFC 6455 §7.4.1).
const NORMAL: CloseFrame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };

/// Reads pieces.
pub(super) enum Incoming {
    Raw(ReadHalf<Io>),
    WebSocket {
        reader: SplitStream<WebSocketStream<Io>>,
        /// What was said before the client was heard to read.
        held: VecDeque<Bytes>,
    },
}

/// Writes pieces.
pub(super) enum Outgoing {
    Raw(WriteHalf<Io>),
    WebSocket(SplitSink<WebSocketStream<Io>, Message>),
}

/// Both directions of an upgraded connection.
pub(super) async fn open(upgraded: Upgraded, websocket: bool) -> (Incoming, Outgoing) {
    let io = TokioIo::new(upgraded);
    if !websocket {
        let (reader, writer) = tokio::io::split(io);
        return (Incoming::Raw(reader), Outgoing::Raw(writer));
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(WEBSOCKET_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(WEBSOCKET_MESSAGE_BYTES_MAX));
    let (writer, reader) = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await.split();
    (Incoming::WebSocket { reader, held: VecDeque::new() }, Outgoing::WebSocket(writer))
}

/// Sends what is waiting until nobody can have more, then closes.
pub(super) async fn write(mut pieces: mpsc::Receiver<Bytes>, mut outgoing: Outgoing) {
    while let Some(piece) = pieces.recv().await {
        if outgoing.send(piece).await.is_none() {
            return;
        }
    }
    outgoing.close().await;
}

impl Incoming {
    /// The next piece; `None` when the peer closed, vanished, broke the protocol or said nothing for too long.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        tokio::time::timeout(STREAM_IDLE_MAX, self.piece()).await.ok().flatten()
    }

    async fn piece(&mut self) -> Option<Bytes> {
        match self {
            Self::Raw(reader) => {
                let mut piece = Vec::with_capacity(STREAM_PIECE_BYTES);
                let length = reader.read_buf(&mut piece).await.ok()?;
                (length > 0).then(|| piece.into())
            }
            Self::WebSocket { held, .. } if !held.is_empty() => held.pop_front(),
            Self::WebSocket { reader, .. } => loop {
                match reader.next().await?.ok()? {
                    Message::Binary(bytes) => return Some(bytes),
                    Message::Text(text) => return Some(text.into()),
                    Message::Close(_) => return None,
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                }
            },
        }
    }
}

impl Incoming {
    /// Waits until a WebSocket's client has answered [`Outgoing::ping`]. What it says meanwhile is not lost.
    pub(super) async fn pong(&mut self) {
        let Self::WebSocket { reader, held } = self else { return };
        while held.len() < STREAM_PIECES_MAX {
            match reader.next().await {
                Some(Ok(Message::Binary(bytes))) => held.push_back(bytes),
                Some(Ok(Message::Text(text))) => held.push_back(text.into()),
                Some(Ok(Message::Ping(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Pong(_) | Message::Close(_)) | Err(_)) | None => return,
            }
        }
    }
}

impl Outgoing {
    /// Asks a WebSocket's client to show that it reads.
    pub(super) async fn ping(&mut self) {
        if let Self::WebSocket(writer) = self {
            // One that is gone is noticed by whoever reads from it.
            let _ = writer.send(Message::Ping(Bytes::new())).await;
        }
    }

    /// Sends a piece; `None` when the peer cannot be reached any more.
    pub(super) async fn send(&mut self, piece: Bytes) -> Option<()> {
        match self {
            Self::Raw(writer) => {
                writer.write_all(&piece).await.ok()?;
                writer.flush().await.ok()
            }
            Self::WebSocket(writer) => writer.send(Message::Binary(piece)).await.ok(),
        }
    }

    /// Says that nothing follows.
    pub(super) async fn close(mut self) {
        // A peer that is gone already does not need to hear it.
        let _ = match &mut self {
            Self::Raw(writer) => writer.shutdown().await.is_ok(),
            // Clients take a closing without a code for a connection that broke.
            Self::WebSocket(writer) => writer.send(Message::Close(Some(NORMAL))).await.is_ok(),
        };
    }
}
