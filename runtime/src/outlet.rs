//! What a guest prints, on its way to one client: labelled pieces that wait until the client takes them.
//!
//! A client that is slower than the guest makes the guest wait (`poll_room`), as a full pipe does; what is written all
//! the same is taken. A client that is gone makes nobody wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use api::channels;
use bytes::Bytes;
use futures::Stream;
use http_body::Frame;
use http_body_util::StreamBody;
use network::{Body, BoxError};

use crate::limits::OUTLET_BYTES_MAX;

/// The end that is written. Clones are the same outlet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outlet(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Bytes>,
    held: usize,
    /// Nothing follows.
    ended: bool,
    /// The client is gone.
    abandoned: bool,
    reader: Option<Waker>,
    /// Guests that wait for room: one per instance that writes here.
    writers: Vec<Waker>,
}

impl State {
    fn has_room(&self) -> bool {
        self.held < OUTLET_BYTES_MAX || self.ended || self.abandoned
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet {
    /// Sends bytes on a channel. After the end, or without a client, they are lost.
    pub(crate) fn send(&self, channel: u8, bytes: &[u8]) {
        let mut state = self.0.state();
        if state.ended || state.abandoned || bytes.is_empty() {
            return;
        }
        let frame = channels::encode(channel, bytes);
        state.held += frame.len();
        state.frames.push_back(frame);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Nothing follows.
    pub(crate) fn end(&self) {
        let mut state = self.0.state();
        state.ended = true;
        let wakers: Vec<Waker> = state.reader.take().into_iter().chain(state.writers.drain(..)).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether anybody reads.
    pub(crate) fn is_open(&self) -> bool {
        let state = self.0.state();
        !state.ended && !state.abandoned
    }

    /// Ready when the client has taken enough of what waits for it.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.has_room() {
            return Poll::Ready(());
        }
        if !state.writers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.writers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The other end, as the body of an answer. Dropping it abandons the outlet and then whatever is in `kept`.
    pub(crate) fn body<T: Send + 'static>(&self, kept: T) -> Body {
        let pieces = Pieces { shared: self.0.clone(), _kept: Some(kept) };
        network::body::boxed(StreamBody::new(pieces))
    }
}

/// The end that is read.
struct Pieces<T> {
    shared: Arc<Shared>,
    _kept: Option<T>,
}

// Nothing in it is pinned: the waker is kept in the shared state.
impl<T> Unpin for Pieces<T> {}

impl<T> Stream for Pieces<T> {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.state();
        let Some(frame) = state.frames.pop_front() else {
            if state.ended {
                return Poll::Ready(None);
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.held -= frame.len();
        let writers = if state.has_room() { std::mem::take(&mut state.writers) } else { Vec::new() };
        drop(state);
        writers.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }
}

impl<T> Drop for Pieces<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.abandoned = true;
        state.held = 0;
        let lost = std::mem::take(&mut state.frames);
        let writers = std::mem::take(&mut state.writers);
        drop(state);
        drop(lost);
        writers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn room(outlet: &Outlet) {
        std::future::poll_fn(|cx| outlet.poll_room(cx)).await;
    }

    fn is_full(outlet: &Outlet) -> bool {
        outlet.poll_room(&Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn a_slow_client_makes_the_writer_wait_and_a_lost_one_does_not() {
        let outlet = Outlet::default();
        let mut body = outlet.body(());
        while !is_full(&outlet) {
            outlet.send(channels::STDOUT, &[1; 60_000]);
        }
        let waiting = tokio::spawn({
            let outlet = outlet.clone();
            async move { room(&outlet).await }
        });
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((piece[0], piece.len()), (channels::STDOUT, 60_005));
        waiting.await.unwrap();
        while !is_full(&outlet) {
            outlet.send(channels::STDERR, &[2; 60_000]);
        }
        drop(body);
        room(&outlet).await;
        assert!(!outlet.is_open());
    }

    #[tokio::test]
    async fn what_was_sent_before_the_end_arrives() {
        let outlet = Outlet::default();
        let body = outlet.body(());
        outlet.send(channels::STDOUT, b"last");
        outlet.end();
        outlet.send(channels::STDOUT, b"too late");
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(bytes, channels::encode(channels::STDOUT, b"last"));
    }
}
