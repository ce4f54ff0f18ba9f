//! What a guest writes to stdout and stderr goes to the pod's [`Output`], at once.
//!
//! The guest's side accepts at most one chunk per write; how much is *kept* is the implementer's bound. A write never
//! fails and never traps: a pod must not die of its own prints. An implementer whose reader is slow makes the guest wait
//! before its next write, as a full pipe does; it never makes a thread wait.

use crate::cpu::Meter;
use crate::limits;
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{OutputStream, StreamResult};

/// Which of a guest's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// `stdout`
    Stdout,
    /// `stderr`, and what the engine itself says about a guest.
    Stderr,
}

/// Takes a container's output. Implementers bound what they keep and never block: they are called on guest threads.
pub trait Output: Send + Sync {
    /// Takes bytes as the guest wrote them, at most 64 KiB; they need not end at a line or a character.
    fn write(&self, stream: Stream, bytes: &[u8]);

    /// Ready when the guest may write on. Else the guest waits and `cx` is woken; what is written all the same is taken.
    fn poll_room(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// The end of what an instance wrote to stderr: where a panic says why.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastWords(Arc<Mutex<Vec<u8>>>);

impl LastWords {
    fn hear(&self, bytes: &[u8]) {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&bytes[bytes.len().saturating_sub(limits::LAST_WORDS_BYTES_MAX)..]);
        let surplus = words.len().saturating_sub(limits::LAST_WORDS_BYTES_MAX);
        words.drain(..surplus);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// One stream of one instance.
#[derive(Clone)]
pub(crate) struct Pipe {
    output: Arc<dyn Output>,
    /// Pays for what is printed.
    meter: Arc<Meter>,
    stream: Stream,
    words: Option<LastWords>,
    terminal: bool,
}

impl Pipe {
    pub(crate) fn stdout(output: Arc<dyn Output>, meter: Arc<Meter>, terminal: bool) -> Pipe {
        Pipe { output, meter, stream: Stream::Stdout, words: None, terminal }
    }

    /// The same for stderr, the end of which is kept in `words` too.
    pub(crate) fn with_words(self, words: LastWords) -> Pipe {
        Pipe { stream: Stream::Stderr, words: Some(words), ..self }
    }

    fn take(&self, bytes: &[u8]) {
        if let Some(words) = &self.words {
            words.hear(bytes);
        }
        self.output.write(self.stream, bytes);
        self.meter.carried(bytes.len());
    }
}

impl IsTerminal for Pipe {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdoutStream for Pipe {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.output.poll_room(cx)).await;
    }
}

impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let room = self.output.poll_room(&mut Context::from_waker(Waker::noop()));
        Ok(if room.is_ready() { limits::CHUNK_BYTES_MAX } else { 0 })
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.output.poll_room(cx));
        let taken = bytes.len().min(limits::CHUNK_BYTES_MAX);
        self.take(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl Output for Nowhere {
        fn write(&self, _stream: Stream, _bytes: &[u8]) {}
    }

    #[test]
    fn who_prints_pays_for_it_and_its_last_words_are_kept() {
        let (meter, words) = (Meter::new(None, None), LastWords::default());
        let mut stdout = Pipe::stdout(Arc::new(Nowhere), meter.clone(), false);
        let mut stderr = stdout.clone().with_words(words.clone());
        stdout.write(vec![b'a'; 3 << 10].into()).unwrap();
        stderr.write("why".into()).unwrap();
        stderr.write(vec![b'b'; 1 << 10].into()).unwrap();
        assert_eq!(meter.used_nanos(), 4 * limits::CARRY_NANOS_PER_KIB + 3 * limits::CARRY_NANOS_PER_KIB / 1024);
        assert!(words.text().ends_with('b') && !words.text().contains('a'));
    }
}
