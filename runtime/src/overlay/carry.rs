//! One connection of a pod on its way between two nodes: a QUIC stream on one side, the pipes of the fabric on the other.
//!
//! An end is passed on as an end, a reader that went away as a stop, and anything else that ends a stream as the break that
//! a TCP socket would report. What is dropped half-way is reset, never finished: the other side must not take a part for
//! the whole.

use bytes::{Bytes, BytesMut};
use network::Conn;
use network::pipe::{Broken, Read, Reader, Writer};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, VarInt};

use super::limits::{PIECE_BYTES_MAX, PIECES_MAX};

/// Why a stream ends before its end, as QUIC's application error code.
pub(super) const RESET: VarInt = VarInt::from_u32(1);
/// Nobody reads any more.
pub(super) const STOPPED: VarInt = VarInt::from_u32(2);

/// A sending half that is reset unless it is finished.
pub(super) struct Sending {
    stream: SendStream,
    finished: bool,
}

impl Sending {
    pub(super) fn new(stream: SendStream) -> Self {
        Self { stream, finished: false }
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), quinn::WriteError> {
        self.stream.write_chunk(bytes).await
    }

    pub(super) fn finish(mut self) {
        self.finished = true;
        // Fails only when it is closed already.
        let _ = self.stream.finish();
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(RESET);
        }
    }
}

/// Carries both directions until both have ended.
pub(super) async fn carry(conn: Conn, send: Sending, receive: RecvStream) {
    let (reader, writer) = conn.into_split();
    tokio::join!(outgoing(reader, send), incoming(receive, writer));
}

/// From the fabric to the other node. Dropping the reader tells the pod that nobody reads.
async fn outgoing(reader: Reader, mut send: Sending) {
    let mut stopped = std::pin::pin!(send.stream.stopped());
    loop {
        match reader.read(PIECE_BYTES_MAX) {
            Read::Bytes(bytes) => {
                if send.write(bytes).await.is_err() {
                    return;
                }
            }
            Read::End => return send.finish(),
            Read::Broken(_) => return,
            Read::Pending => tokio::select! {
                () = reader.ready() => {}
                _ = &mut stopped => return,
            },
        }
    }
}

/// From the other node to the fabric.
async fn incoming(mut receive: RecvStream, writer: Writer) {
    let mut gone = std::pin::pin!(writer.reader_gone());
    let mut pieces = [const { Bytes::new() }; PIECES_MAX];
    loop {
        let received = tokio::select! {
            received = receive.read_chunks(&mut pieces) => received,
            () = &mut gone => break,
        };
        match received {
            Ok(Some(count)) => {
                if !write(&writer, gather(&mut pieces[..count])).await {
                    break;
                }
            }
            Ok(None) => return writer.shutdown(),
            Err(error) => return writer.break_off(broken(&error)),
        }
    }
    let _ = receive.stop(STOPPED);
}

/// One piece of several: packets are small, and every hand-over costs both sides.
fn gather(pieces: &mut [Bytes]) -> Bytes {
    if let [only] = pieces {
        return std::mem::take(only);
    }
    let mut gathered = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        gathered.extend_from_slice(&std::mem::take(piece));
    }
    gathered.freeze()
}

/// Whether the pod took everything.
async fn write(writer: &Writer, mut bytes: Bytes) -> bool {
    while !bytes.is_empty() {
        writer.ready().await;
        if writer.write(&mut bytes).is_err() {
            return false;
        }
    }
    true
}

fn broken(error: &ReadError) -> Broken {
    match error {
        ReadError::ConnectionLost(ConnectionError::TimedOut) => Broken::TimedOut,
        _ => Broken::Reset,
    }
}
