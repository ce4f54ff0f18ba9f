//! A connection: two bounded byte pipes and the addresses both sides see.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::dial::Ends;
use crate::limits::PIPE_BYTES_MAX;
use crate::pipe::{Reader, Writer, pipe};
use crate::sleepers::Visit;

/// One end of a connection between two pods, or between the node and a pod.
///
/// Use the halves poll-style (see [`crate::pipe`]) or the whole as tokio's `AsyncRead + AsyncWrite`.
#[derive(Debug)]
pub struct Conn {
    local: SocketAddr,
    peer: SocketAddr,
    reader: Reader,
    writer: Writer,
}

impl Conn {
    /// Both ends of a new connection: the dialling one and the accepting one.
    ///
    /// The dialler sees `dialled` as its peer, the acceptor sees `accepted` as its own address: they differ when the
    /// dialled address was a Service's.
    #[must_use]
    pub fn pair(Ends { source, dialled, accepted }: Ends) -> (Self, Self) {
        let (there, reads_there) = pipe(PIPE_BYTES_MAX);
        let (back, reads_back) = pipe(PIPE_BYTES_MAX);
        let dialler = Self { local: source, peer: dialled, reader: reads_back, writer: there };
        let acceptor = Self { local: accepted, peer: source, reader: reads_there, writer: back };
        (dialler, acceptor)
    }

    /// This end's address.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The other end's address; for the dialler the one that was dialled, even when it is a Service's.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Returns when the other side reads no more: it is gone, and nobody waits for an answer. One that has merely said
    /// all it has to say still reads.
    pub(crate) fn peer_gone(&self) -> impl Future<Output = ()> + use<> {
        self.writer.reader_gone()
    }

    /// Counts the connection as a visit for as long as this side reads.
    pub fn keep(&mut self, visit: Option<Visit>) {
        if let Some(visit) = visit {
            self.reader.keep(visit);
        }
    }

    /// The halves, each on its own: dropping one closes that direction only.
    #[must_use]
    pub fn into_split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
