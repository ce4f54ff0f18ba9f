//! A bounded queue for backlogs and datagrams. A full queue refuses; it never waits and never grows.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Why [`Queue::push`] gave the item back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

/// What [`Queue::pop`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Popped<T> {
    Item(T),
    Empty,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    arrived: Notify,
    max: usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new(max: usize) -> Self {
        Self { state: Mutex::new(State { items: VecDeque::new(), closed: false }), arrived: Notify::new(), max }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an item would be taken now: lets the caller refuse before it builds one.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.state();
        !state.closed && state.items.len() < self.max
    }

    pub(crate) fn push(&self, item: T) -> Result<(), Refused> {
        let mut state = self.state();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.items.len() >= self.max {
            return Err(Refused::Full);
        }
        state.items.push_back(item);
        drop(state);
        self.arrived.notify_waiters();
        Ok(())
    }

    pub(crate) fn pop(&self) -> Popped<T> {
        let mut state = self.state();
        match state.items.pop_front() {
            Some(item) => Popped::Item(item),
            None if state.closed => Popped::Closed,
            None => Popped::Empty,
        }
    }

    /// Returns when `pop` would not answer `Empty`. Dropping the future loses nothing.
    pub(crate) async fn ready(&self) {
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            {
                let state = self.state();
                if state.closed || !state.items.is_empty() {
                    return;
                }
            }
            arrived.await;
        }
    }

    /// Takes no more and loses what waits.
    pub(crate) fn close(&self) {
        let lost = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.items)
        };
        // What an item does when it is dropped must not happen under the lock.
        drop(lost);
        self.arrived.notify_waiters();
    }
}
