//! Places that several callers share: however much one of them asks for, there is room for the next.
//!
//! A caller may hold as many places as are free. One that floods therefore ends up with half of them, two with a third
//! each, and whoever comes beside `n` that flood finds a share of `1/(n + 1)` waiting. Nothing is set aside and nothing
//! queues: a caller beyond its share is told at once, and may come again when it has given something back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A number of places.
#[derive(Debug)]
pub struct Places {
    max: usize,
    held: Mutex<Held>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// Only callers that hold something, so there are never more of them than places.
    by: HashMap<IpAddr, usize>,
}

impl Held {
    fn take(&mut self, max: usize, caller: IpAddr) -> bool {
        let mine = self.by.get(&caller).copied().unwrap_or(0);
        let granted = self.all + mine < max;
        if granted {
            self.all += 1;
            self.by.insert(caller, mine + 1);
        }
        granted
    }

    fn give_back(&mut self, caller: IpAddr) {
        self.all -= 1;
        if let Some(mine) = self.by.get_mut(&caller) {
            *mine -= 1;
            if *mine == 0 {
                self.by.remove(&caller);
            }
        }
    }
}

impl Places {
    /// So many places, all free.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: Mutex::default(), emptied: Notify::new() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for as long as it is kept; `None` when the caller holds as many as are free.
    #[must_use]
    pub fn take(self: &Arc<Self>, caller: IpAddr) -> Option<Place> {
        self.held().take(self.max, caller).then(|| Place { places: self.clone(), caller })
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.held().all
    }

    /// Waits until none is taken.
    pub async fn emptied(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.taken() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// A place that is taken.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    caller: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let empty = {
            let mut held = self.places.held();
            held.give_back(self.caller);
            held.all == 0
        };
        if empty {
            self.places.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(last: u8) -> IpAddr {
        IpAddr::from([10, 42, 0, last])
    }

    /// Takes all that a caller gets.
    fn flood(places: &Arc<Places>, last: u8) -> Vec<Place> {
        std::iter::from_fn(|| places.take(caller(last))).collect()
    }

    #[test]
    fn who_floods_leaves_room_for_the_next() {
        let places = Places::new(120);
        let one = flood(&places, 1);
        assert_eq!(one.len(), 60);
        let two = flood(&places, 2);
        assert_eq!(two.len(), 30, "half of what the first left");
        assert!(places.take(caller(3)).is_some(), "and a third one is let in beside both");
        assert!(places.take(caller(1)).is_none());
        drop(one);
        assert_eq!(flood(&places, 2).len(), 30, "what is given back is there for whoever comes");
    }

    #[test]
    fn those_that_flood_together_end_up_with_equal_shares() {
        let places = Places::new(120);
        let mut held: Vec<Vec<Place>> = vec![Vec::new(), Vec::new()];
        for _ in 0..200 {
            for (last, held) in held.iter_mut().enumerate() {
                held.extend(places.take(caller(last as u8)));
            }
        }
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [40, 40]);
        drop(held);
        assert_eq!(places.taken(), 0);
        assert!(places.held().by.is_empty(), "nobody is remembered who holds nothing");
    }

    #[tokio::test]
    async fn who_waits_for_the_last_to_go_hears_of_it() {
        let places = Places::new(2);
        places.emptied().await;
        let place = places.take(caller(1)).unwrap();
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.emptied().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(place);
        waiting.await.unwrap();
    }
}
