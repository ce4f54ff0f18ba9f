//! The pods that wait for a node, by priority, then age; and those that wait for the world to change.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use api::Key;

use crate::limits::{BACKOFF_MAX_MS, BACKOFF_MS, RETRY_MS};
use crate::pod::Wanted;

/// Priority first, then age, then name.
type Rank = (Reverse<i64>, i64, Key);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// May be planned now.
    Active,
    /// May be planned from this moment on.
    Paused(i64),
    /// Fits nowhere; looked at again when something changes, at the latest at this moment.
    Stuck(i64),
}

struct Entry {
    wanted: Arc<Wanted>,
    state: State,
    attempts: u32,
    last_ms: i64,
    /// When people were last told why it waits.
    told_ms: Option<i64>,
}

impl Entry {
    fn rank(&self) -> Rank {
        (Reverse(self.wanted.priority), self.wanted.created_ms, self.wanted.key().clone())
    }

    /// When it may be planned again after its last attempt.
    fn rested_at(&self) -> i64 {
        let doublings = self.attempts.saturating_sub(1).min(20);
        self.last_ms + (BACKOFF_MS << doublings).min(BACKOFF_MAX_MS)
    }
}

/// All pods without a node.
#[derive(Default)]
pub(crate) struct Queue {
    entries: HashMap<Key, Entry>,
    active: BTreeSet<Rank>,
    timed: BTreeSet<(i64, Key)>,
    stuck: BTreeSet<Key>,
    /// Those of the stuck that look at other pods.
    social: BTreeSet<Key>,
}

impl Queue {
    /// A pod is new or changed: it may be planned now. A change that is only our own note about it does not count.
    pub(crate) fn put(&mut self, wanted: Arc<Wanted>) {
        let key = wanted.key().clone();
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.wanted.object.uid() == wanted.object.uid()
            && entry.wanted.object.value["spec"] == wanted.object.value["spec"]
            && entry.wanted.labels == wanted.labels
        {
            entry.wanted = wanted;
            return;
        }
        self.remove(&key);
        let entry = Entry { wanted, state: State::Active, attempts: 0, last_ms: 0, told_ms: None };
        self.active.insert(entry.rank());
        self.entries.insert(key, entry);
    }

    /// The pod waits no more.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Wanted>> {
        self.shelve(key);
        self.entries.remove(key).map(|entry| entry.wanted)
    }

    /// Takes the entry out of the index of its state.
    fn shelve(&mut self, key: &Key) {
        let Some(entry) = self.entries.get(key) else { return };
        match entry.state {
            State::Active => {
                self.active.remove(&entry.rank());
            }
            State::Paused(due) => {
                self.timed.remove(&(due, key.clone()));
            }
            State::Stuck(due) => {
                self.timed.remove(&(due, key.clone()));
                self.stuck.remove(key);
                self.social.remove(key);
            }
        }
    }

    fn set(&mut self, key: &Key, state: State) {
        self.shelve(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.state = state;
        match state {
            State::Active => {
                self.active.insert(entry.rank());
            }
            State::Paused(due) => {
                self.timed.insert((due, key.clone()));
            }
            State::Stuck(due) => {
                self.timed.insert((due, key.clone()));
                if entry.wanted.looks_at_pods() {
                    self.social.insert(key.clone());
                }
                self.stuck.insert(key.clone());
            }
        }
    }

    /// The next pod to plan. It stays in the queue until [`Queue::remove`] or [`Queue::failed`].
    pub(crate) fn next(&mut self, now_ms: i64) -> Option<Arc<Wanted>> {
        while let Some((due, key)) = self.timed.first().filter(|(due, _)| *due <= now_ms).cloned() {
            debug_assert!(due <= now_ms);
            self.set(&key, State::Active);
        }
        let (_, _, key) = self.active.first()?;
        self.entries.get(key).map(|entry| entry.wanted.clone())
    }

    /// The pod fits nowhere. Returns whether people should be told again although they know the reason.
    pub(crate) fn failed(&mut self, key: &Key, now_ms: i64) -> bool {
        self.attempted(key, now_ms);
        self.set(key, State::Stuck(now_ms + RETRY_MS));
        let Some(entry) = self.entries.get_mut(key) else { return false };
        let due = entry.told_ms.is_none_or(|told| now_ms - told >= RETRY_MS);
        if due {
            entry.told_ms = Some(now_ms);
        }
        due
    }

    /// The pod's node was found but the bind was refused.
    pub(crate) fn refused(&mut self, wanted: Arc<Wanted>, now_ms: i64) {
        let key = wanted.key().clone();
        self.put(wanted);
        self.attempted(&key, now_ms);
        let due = self.entries[&key].rested_at();
        self.set(&key, State::Paused(due));
    }

    fn attempted(&mut self, key: &Key, now_ms: i64) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.attempts += 1;
            entry.last_ms = now_ms;
        }
    }

    /// The world changed in a way that may help pods that fit nowhere (only those that look at other pods, if
    /// `social`): each may be planned again once it has rested.
    pub(crate) fn retry(&mut self, social: bool) {
        let concerned = if social { &self.social } else { &self.stuck };
        for key in concerned.iter().cloned().collect::<Vec<_>>() {
            let due = self.entries[&key].rested_at();
            self.set(&key, State::Paused(due));
        }
    }

    /// The pod has a place and waits for its volumes to be made there.
    pub(crate) fn waits_for_volumes(&mut self, key: &Key, now_ms: i64) {
        self.set(key, State::Stuck(now_ms + RETRY_MS));
    }

    /// A claim changed, or a volume did: the pods that need one may be planned at once.
    pub(crate) fn claims_changed(&mut self) {
        let concerned = |key: &&Key| !self.entries[*key].wanted.claims.is_empty();
        for key in self.stuck.iter().filter(concerned).cloned().collect::<Vec<_>>() {
            self.set(&key, State::Active);
        }
    }

    /// When the next paused pod may be planned; now, if one may be already.
    pub(crate) fn wake_at(&self) -> Option<i64> {
        if self.active.is_empty() { self.timed.first().map(|(due, _)| *due) } else { Some(0) }
    }
}
