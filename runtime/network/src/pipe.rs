//! One direction of a connection: a bounded pipe of byte chunks that are handed on, not copied.
//!
//! Both ends can be used in two ways: poll-style under `wasi:io` (`ready().await`, then a call that never waits) and as
//! tokio's `AsyncRead`/`AsyncWrite`. Every `ready` future may be dropped at any time without losing a wake-up, any
//! number of them may wait at once, and none returns unless the next call makes progress.
//!
//! Closing follows TCP: dropping or shutting down the [`Writer`] lets the reader drain and then see the end; breaking it
//! lets the reader drain and then see why nothing more comes; dropping the [`Reader`] makes further writes fail.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::limits::GATHER_BELOW_BYTES;
use crate::sleepers::Visit;

/// The other end is gone: nothing written now would ever be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end of the connection is closed")]
pub struct Closed;

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// At least one byte.
    Bytes(Bytes),
    /// Nothing yet; wait for [`Reader::ready`].
    Pending,
    /// Nothing, and nothing will come.
    End,
    /// Nothing will come although the writer had not finished: what was read is not the whole.
    Broken(Broken),
}

/// How a connection broke; what a TCP socket would report as `ECONNRESET` or `ETIMEDOUT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The other side, or something between, gave the connection up.
    Reset,
    /// The other side has not been heard of for too long.
    TimedOut,
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Reset => io::ErrorKind::ConnectionReset.into(),
            Broken::TimedOut => io::ErrorKind::TimedOut.into(),
        }
    }
}

/// The end that is read.
#[derive(Debug)]
pub struct Reader(Arc<Shared>, Option<Visit>);

/// The end that is written.
#[derive(Debug)]
pub struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    readable: Notify,
    writable: Notify,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    /// Small writes that came while the reader was behind; logically after `chunks`.
    gathered: BytesMut,
    /// Bytes in `chunks` and `gathered`.
    held: usize,
    /// The writer is done.
    ended: bool,
    /// It did not finish, but broke.
    broken: Option<Broken>,
    /// The reader is gone.
    abandoned: bool,
    /// The task inside `AsyncRead::poll_read`, and inside `AsyncWrite::poll_write`.
    reading: Option<Waker>,
    writing: Option<Waker>,
}

/// A pipe that holds at most `capacity` bytes.
#[must_use]
pub fn pipe(capacity: usize) -> (Writer, Reader) {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        readable: Notify::new(),
        writable: Notify::new(),
        capacity: capacity.max(1),
    });
    (Writer(shared.clone()), Reader(shared, None))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room as the writer is told of it: none until a quarter is free, so that a full pipe is not refilled by drops.
    fn room(&self, state: &State) -> usize {
        let free = self.capacity - state.held;
        if free >= self.capacity.div_ceil(4) { free } else { 0 }
    }

    fn push(state: &mut State, bytes: Bytes) {
        state.held += bytes.len();
        let behind = !state.chunks.is_empty() || !state.gathered.is_empty();
        if behind && bytes.len() < GATHER_BELOW_BYTES {
            state.gathered.extend_from_slice(&bytes);
            return;
        }
        if !state.gathered.is_empty() {
            let gathered = state.gathered.split().freeze();
            state.chunks.push_back(gathered);
        }
        state.chunks.push_back(bytes);
    }

    fn pop(state: &mut State, max: usize) -> Bytes {
        let bytes = match state.chunks.front_mut() {
            Some(chunk) if chunk.len() > max => chunk.split_to(max),
            Some(_) => state.chunks.pop_front().unwrap_or_default(),
            None => {
                let length = state.gathered.len().min(max);
                state.gathered.split_to(length).freeze()
            }
        };
        state.held -= bytes.len();
        bytes
    }

    /// Wakes whoever waits on one side; called after the lock is released.
    fn wake(waker: Option<Waker>, notify: &Notify) {
        notify.notify_waiters();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn end(&self, broken: Option<Broken>) {
        let waker = {
            let mut state = self.state();
            if std::mem::replace(&mut state.ended, true) {
                return;
            }
            state.broken = broken;
            state.reading.take()
        };
        Self::wake(waker, &self.readable);
    }

    fn abandon(&self) {
        let (waker, lost) = {
            let mut state = self.state();
            if std::mem::replace(&mut state.abandoned, true) {
                return;
            }
            state.held = 0;
            state.gathered = BytesMut::new();
            (state.writing.take(), std::mem::take(&mut state.chunks))
        };
        drop(lost);
        Self::wake(waker, &self.writable);
    }

    /// Takes up to `max` bytes in one chunk, waking the writer when this made room.
    fn read(&self, max: usize) -> Read {
        let mut state = self.state();
        if state.abandoned {
            return Read::End;
        }
        if state.held == 0 {
            return match state.broken {
                Some(broken) => Read::Broken(broken),
                None if state.ended => Read::End,
                None => Read::Pending,
            };
        }
        let was_full = self.room(&state) == 0;
        let bytes = Self::pop(&mut state, max.max(1));
        let made_room = was_full && self.room(&state) > 0;
        let waker = if made_room { state.writing.take() } else { None };
        drop(state);
        if made_room {
            Self::wake(waker, &self.writable);
        }
        Read::Bytes(bytes)
    }
}

impl Reader {
    /// Counts the pipe as a visit for as long as it is read.
    pub(crate) fn keep(&mut self, visit: Visit) {
        self.1 = Some(visit);
    }

    /// Takes at most `max` bytes without waiting. `max` 0 counts as 1.
    pub fn read(&self, max: usize) -> Read {
        self.0.read(max)
    }

    /// Returns when [`Reader::read`] would not answer [`Read::Pending`].
    pub async fn ready(&self) {
        loop {
            let mut readable = std::pin::pin!(self.0.readable.notified());
            readable.as_mut().enable();
            {
                let state = self.0.state();
                if state.held > 0 || state.ended || state.abandoned {
                    return;
                }
            }
            readable.await;
        }
    }

    /// Loses what is held and refuses what comes: TCP's `SHUT_RD`, and what dropping the reader does.
    pub fn abandon(&self) {
        self.0.abandon();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Writer {
    /// How many bytes [`Writer::write`] takes now; 0 means wait for [`Writer::ready`].
    ///
    /// # Errors
    /// [`Closed`] when the reader is gone or [`Writer::shutdown`] was called.
    pub fn room(&self) -> Result<usize, Closed> {
        let state = self.0.state();
        if state.abandoned || state.ended { Err(Closed) } else { Ok(self.0.room(&state)) }
    }

    /// Moves what fits from the front of `bytes` into the pipe, without waiting, and says how much that was.
    ///
    /// # Errors
    /// [`Closed`] when the reader is gone or [`Writer::shutdown`] was called.
    pub fn write(&self, bytes: &mut Bytes) -> Result<usize, Closed> {
        let mut state = self.0.state();
        if state.abandoned || state.ended {
            return Err(Closed);
        }
        let length = bytes.len().min(self.0.capacity - state.held);
        if length == 0 {
            return Ok(0);
        }
        let was_empty = state.held == 0;
        Shared::push(&mut state, bytes.split_to(length));
        let waker = if was_empty { state.reading.take() } else { None };
        drop(state);
        if was_empty {
            Shared::wake(waker, &self.0.readable);
        }
        Ok(length)
    }

    /// Returns when [`Writer::room`] would not answer `Ok(0)`.
    pub async fn ready(&self) {
        loop {
            let mut writable = std::pin::pin!(self.0.writable.notified());
            writable.as_mut().enable();
            {
                let state = self.0.state();
                if state.ended || state.abandoned || self.0.room(&state) > 0 {
                    return;
                }
            }
            writable.await;
        }
    }

    /// Returns when the reader is gone, whether or not something is being written.
    pub fn reader_gone(&self) -> impl Future<Output = ()> + use<> {
        let shared = self.0.clone();
        async move {
            loop {
                let mut changed = std::pin::pin!(shared.writable.notified());
                changed.as_mut().enable();
                if shared.state().abandoned {
                    return;
                }
                changed.await;
            }
        }
    }

    /// No more bytes will come: TCP's `SHUT_WR`, and what dropping the writer does.
    pub fn shutdown(&self) {
        self.0.end(None);
    }

    /// No more bytes will come, and those that came are not all: TCP's reset. Nothing after [`Writer::shutdown`].
    pub fn break_off(&self, broken: Broken) {
        self.0.end(Some(broken));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

/// Remembers the waker unless the same one is there already.
fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        while buffer.remaining() > 0 {
            match self.0.read(buffer.remaining()) {
                Read::Bytes(bytes) => buffer.put_slice(&bytes),
                Read::End => break,
                Read::Broken(_) if buffer.filled().len() > before => break,
                Read::Broken(broken) => return Poll::Ready(Err(broken.into())),
                Read::Pending if buffer.filled().len() > before => break,
                Read::Pending => {
                    let mut state = self.0.state();
                    if state.held == 0 && !state.ended && !state.abandoned {
                        remember(&mut state.reading, cx);
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = {
            let mut state = self.0.state();
            if state.abandoned || state.ended {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let room = self.0.room(&state);
            if !bytes.is_empty() && room == 0 {
                remember(&mut state.writing, cx);
                return Poll::Pending;
            }
            room
        };
        // There is one writer, so the room that was just seen can only have grown.
        let mut chunk = Bytes::copy_from_slice(&bytes[..bytes.len().min(room)]);
        let written = self.write(&mut chunk);
        Poll::Ready(written.map_err(|Closed| io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::random::Random;

    fn held(writer: &Writer) -> usize {
        writer.0.state().held
    }

    #[test]
    fn bytes_come_out_as_they_went_in_and_never_too_many_are_held() {
        for seed in 1..200 {
            let mut random = Random(seed);
            let capacity = 1 + random.below(5000);
            let (writer, reader) = pipe(capacity);
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            for _ in 0..400 {
                let size = if random.below(2) == 0 { random.below(8) } else { random.below(3000) };
                if random.below(2) == 0 {
                    let mut chunk = Bytes::from((0..size).map(|_| random.below(256) as u8).collect::<Vec<_>>());
                    let whole = chunk.clone();
                    let room = writer.room().unwrap();
                    let written = writer.write(&mut chunk).unwrap();
                    assert!(written >= room.min(size), "seed {seed}: room {room} was not kept, {written} of {size}");
                    assert_eq!(written + chunk.len(), size);
                    sent.extend_from_slice(&whole[..written]);
                } else if let Read::Bytes(bytes) = reader.read(size) {
                    assert!(!bytes.is_empty() && bytes.len() <= size.max(1));
                    received.extend_from_slice(&bytes);
                }
                assert!(held(&writer) <= capacity, "seed {seed}");
                assert_eq!(held(&writer), sent.len() - received.len(), "seed {seed}");
                // Ready means that the next call makes progress, and only that.
                assert_eq!(reader.ready().now_or_never().is_some(), held(&writer) > 0, "seed {seed}");
                assert_eq!(writer.ready().now_or_never().is_some(), writer.room() != Ok(0), "seed {seed}");
            }
            drop(writer);
            while let Read::Bytes(bytes) = reader.read(usize::MAX) {
                received.extend_from_slice(&bytes);
            }
            assert_eq!(reader.read(1), Read::End);
            assert!(sent == received, "seed {seed}");
        }
    }

    #[test]
    fn small_writes_are_gathered_and_large_ones_are_not_copied() {
        let (writer, reader) = pipe(1 << 20);
        for byte in 0..100_u8 {
            writer.write(&mut Bytes::from(vec![byte])).unwrap();
        }
        let large = Bytes::from(vec![7; GATHER_BELOW_BYTES]);
        writer.write(&mut large.clone()).unwrap();
        assert_eq!(writer.0.state().chunks.len(), 3);
        assert!(matches!(reader.read(usize::MAX), Read::Bytes(first) if first.len() == 1));
        assert!(matches!(reader.read(usize::MAX), Read::Bytes(rest) if rest.len() == 99));
        assert!(matches!(reader.read(usize::MAX), Read::Bytes(same) if same.as_ptr() == large.as_ptr()));
    }

    #[tokio::test]
    async fn a_dropped_ready_future_loses_no_wake_up() {
        let (writer, reader) = pipe(4);
        for _ in 0..3 {
            assert!(reader.ready().now_or_never().is_none());
        }
        let waiting = tokio::spawn(async move {
            tokio::join!(reader.ready(), reader.ready());
            reader
        });
        tokio::task::yield_now().await;
        assert_eq!(writer.write(&mut Bytes::from_static(b"abcdef")), Ok(4));
        let reader = waiting.await.unwrap();
        for _ in 0..3 {
            assert!(writer.ready().now_or_never().is_none());
        }
        let waiting = tokio::spawn(async move {
            writer.ready().await;
            writer
        });
        tokio::task::yield_now().await;
        assert_eq!(reader.read(9), Read::Bytes(Bytes::from_static(b"abcd")));
        assert_eq!(waiting.await.unwrap().room(), Ok(4));
    }

    /// Two threads, poll-style on both ends, ready futures dropped at random: a lost wake-up would hang here.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_lost_between_threads() {
        let (writer, reader) = pipe(1000);
        let total = 2_000_000;
        let writing = tokio::spawn(async move {
            let mut random = Random(7);
            let mut sent = 0;
            while sent < total {
                if random.below(3) == 0 {
                    let _ = writer.ready().now_or_never();
                }
                writer.ready().await;
                let size = (1 + random.below(writer.room().unwrap())).min(total - sent);
                let mut chunk: Bytes = (sent..sent + size).map(|n| (n % 251) as u8).collect();
                sent += writer.write(&mut chunk).unwrap();
            }
        });
        let mut random = Random(9);
        let mut received = 0;
        loop {
            if random.below(3) == 0 {
                let _ = reader.ready().now_or_never();
            }
            reader.ready().await;
            match reader.read(1 + random.below(2000)) {
                Read::Bytes(bytes) => {
                    assert!(bytes.iter().zip(received..).all(|(byte, n)| usize::from(*byte) == n % 251));
                    received += bytes.len();
                }
                Read::Pending => panic!("ready, and yet nothing to read"),
                Read::End | Read::Broken(_) => break,
            }
        }
        writing.await.unwrap();
        assert_eq!(received, total);
    }

    #[tokio::test]
    async fn closing_is_seen_from_the_other_side() {
        let (writer, reader) = pipe(10);
        writer.write(&mut Bytes::from_static(b"last")).unwrap();
        writer.shutdown();
        assert_eq!(writer.write(&mut Bytes::from_static(b"more")), Err(Closed));
        assert_eq!(reader.read(10), Read::Bytes(Bytes::from_static(b"last")));
        reader.ready().await;
        assert_eq!(reader.read(10), Read::End);

        let (writer, reader) = pipe(4);
        writer.write(&mut Bytes::from_static(b"full")).unwrap();
        let waiting = tokio::spawn(async move {
            writer.ready().await;
            writer.room()
        });
        tokio::task::yield_now().await;
        drop(reader);
        assert_eq!(waiting.await.unwrap(), Err(Closed));
    }

    #[tokio::test]
    async fn a_broken_pipe_is_drained_before_it_says_why() {
        for (broken, kind) in
            [(Broken::Reset, io::ErrorKind::ConnectionReset), (Broken::TimedOut, io::ErrorKind::TimedOut)]
        {
            let (writer, mut reader) = pipe(10);
            writer.write(&mut Bytes::from_static(b"last")).unwrap();
            writer.break_off(broken);
            assert_eq!(writer.room(), Err(Closed));
            let mut read = Vec::new();
            assert_eq!(reader.read_to_end(&mut read).await.unwrap_err().kind(), kind);
            assert_eq!(read, b"last");
            reader.ready().await;
            assert_eq!(reader.read(1), Read::Broken(broken));
        }
        let (writer, reader) = pipe(10);
        writer.shutdown();
        writer.break_off(Broken::Reset);
        assert_eq!(reader.read(1), Read::End);
    }

    #[tokio::test]
    async fn a_megabyte_goes_through_the_adapters() {
        let (mut writer, mut reader) = pipe(1000);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            drop(writer);
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap();
        assert!(received == expected);
    }
}
