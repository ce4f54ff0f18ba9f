//! The way to one peer: messages in a bounded queue, and the connection they go out on.
//!
//! Whoever has something to say writes it at once, as far as the socket takes it: a message is on its way without
//! waiting for another thread to wake. What the socket does not take is left to the peer's task, which waits for it;
//! until it is done nobody else writes. A failure is the task's matter too.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use protobuf::Message as _;
use raft::eraftpb::Message;
use tokio::io::AsyncWrite;
use tokio::sync::Notify;

use super::in_time;
use crate::limits::{PEER_QUEUE_MAX, PEER_WRITE_BYTES};

pub(super) type Stream = Box<dyn AsyncWrite + Send + Unpin>;

#[derive(Default)]
pub(super) struct Line {
    state: Mutex<State>,
    /// There is something for the task to do.
    task: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Message>,
    stream: Option<Stream>,
    /// Frames the stream has not taken yet, up to where it has.
    frames: Vec<u8>,
    taken: usize,
    /// The task is to write, or is writing.
    left_to_task: bool,
    failed: Option<io::Error>,
}

impl Line {
    /// Queues a message if there is room; raft repeats what matters. It goes out with the next [`Line::flush`].
    pub(super) fn push(&self, message: Message) {
        let mut state = self.state();
        if state.queue.len() < PEER_QUEUE_MAX {
            state.queue.push_back(message);
        }
    }

    /// Writes what is queued, and leaves to the task what cannot be written now.
    pub(super) fn flush(&self) {
        let mut state = self.state();
        if state.queue.is_empty() || state.left_to_task {
            return;
        }
        if state.stream.is_some() {
            // The waker of the task is not replaced: it waits for the socket only while all is left to it.
            let mut cx = Context::from_waker(Waker::noop());
            loop {
                match state.poll_step(&mut cx) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false)) => return,
                    Poll::Ready(Err(error)) => break state.failed = Some(error),
                    Poll::Pending => break,
                }
            }
        }
        state.left_to_task = true;
        self.task.notify_one();
    }

    /// Waits until there is something to say.
    pub(super) async fn wanted(&self) {
        while self.state().queue.is_empty() {
            self.task.notified().await;
        }
    }

    /// Writes everything to the stream until it fails.
    pub(super) async fn carry(&self, stream: Stream) -> io::Error {
        {
            let mut state = self.state();
            (state.stream, state.left_to_task) = (Some(stream), true);
        }
        let error = loop {
            if let Some(error) = self.state().failed.take() {
                break error;
            }
            let step = std::future::poll_fn(|cx| self.state().poll_left(cx));
            match in_time(step).await {
                Ok(true) => {}
                Ok(false) => self.task.notified().await,
                Err(error) => break error,
            }
        };
        self.state().stream = None;
        error
    }

    /// Forgets what is queued: without a connection it is soon old.
    pub(super) fn clear(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// One step of what was left to the task; `false` when there is nothing more.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.left_to_task {
            return Poll::Ready(Ok(false));
        }
        let more = ready!(self.poll_step(cx))?;
        self.left_to_task = more;
        Poll::Ready(Ok(more))
    }

    /// Writes some of what waits; `false` when all of it is with the system.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.taken == self.frames.len() {
            self.fill()?;
        }
        let Some(stream) = self.stream.as_mut().map(Pin::new) else { return Poll::Ready(Ok(false)) };
        if self.frames.is_empty() {
            ready!(stream.poll_flush(cx))?;
            return Poll::Ready(Ok(false));
        }
        match ready!(stream.poll_write(cx, &self.frames[self.taken..]))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => {
                self.taken += written;
                Poll::Ready(Ok(true))
            }
        }
    }

    /// Small messages go together: each on its own would become a TLS record and a packet.
    fn fill(&mut self) -> io::Result<()> {
        self.taken = 0;
        self.frames.clear();
        // One large message does not keep its room for ever.
        self.frames.shrink_to(PEER_WRITE_BYTES);
        while self.frames.len() < PEER_WRITE_BYTES
            && let Some(message) = self.queue.pop_front()
        {
            write_frame(&message, &mut self.frames)?;
        }
        Ok(())
    }
}

/// Adds a message with its length before it.
pub(super) fn write_frame(message: &Message, frames: &mut Vec<u8>) -> io::Result<()> {
    frames.extend_from_slice(&message.compute_size().to_le_bytes());
    message.write_to_vec(frames).map_err(io::Error::other)
}
