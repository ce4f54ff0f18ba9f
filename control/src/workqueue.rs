//! Which keys need a turn: a pure machine between what wakes keys and what works on them.
//!
//! A key waits at most once, however often it is woken. It never has two turns at a time: woken while its turn runs,
//! it gets another one afterwards. A turn may ask to be repeated later; one that failed is repeated after a pause that
//! doubles each time, and at once if a change wakes it, since that change may be the remedy.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

use crate::limits::{RETRY_MAX_MS, RETRY_MIN_MS};

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Done,
    /// All is well; look again after so many milliseconds.
    Again(u64),
    /// Something could not be written.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Neither waiting nor running; perhaps with a timer.
    Idle,
    Waiting,
    Running,
    /// Running, and woken meanwhile.
    RunningAndWoken,
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    due: Option<i64>,
    failures: u32,
}

/// Keys and their turns. It holds only keys that wait, run, rest or failed last.
#[derive(Debug)]
pub(crate) struct Workqueue<K> {
    entries: HashMap<K, Entry>,
    waiting: VecDeque<K>,
    timers: BTreeSet<(i64, K)>,
}

impl<K> Default for Workqueue<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), waiting: VecDeque::new(), timers: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Ord + Hash> Workqueue<K> {
    /// Something changed that concerns the key.
    pub(crate) fn wake(&mut self, key: K) {
        let entry = self.entries.entry(key.clone()).or_insert(Entry { phase: Phase::Idle, due: None, failures: 0 });
        if let Some(due) = entry.due.take() {
            self.timers.remove(&(due, key.clone()));
        }
        match entry.phase {
            Phase::Idle => {
                entry.phase = Phase::Waiting;
                self.waiting.push_back(key);
            }
            Phase::Running => entry.phase = Phase::RunningAndWoken,
            Phase::Waiting | Phase::RunningAndWoken => {}
        }
    }

    /// The next key to work on. Its turn runs until [`Workqueue::done`].
    pub(crate) fn take(&mut self, now_ms: i64) -> Option<K> {
        while let Some((_, key)) = self.timers.first().filter(|(due, _)| *due <= now_ms).cloned() {
            self.wake(key);
        }
        let key = self.waiting.pop_front()?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.phase = Phase::Running;
        }
        Some(key)
    }

    /// The key's turn ended.
    pub(crate) fn done(&mut self, key: &K, outcome: Outcome, now_ms: i64) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.failures = if outcome == Outcome::Failed { entry.failures.saturating_add(1) } else { 0 };
        if entry.phase == Phase::RunningAndWoken {
            entry.phase = Phase::Waiting;
            self.waiting.push_back(key.clone());
            return;
        }
        entry.phase = Phase::Idle;
        let after_ms = match outcome {
            Outcome::Done => {
                self.entries.remove(key);
                return;
            }
            Outcome::Again(after_ms) => after_ms,
            Outcome::Failed => (RETRY_MIN_MS << (entry.failures - 1).min(20)).min(RETRY_MAX_MS),
        };
        let due = now_ms.saturating_add_unsigned(after_ms);
        entry.due = Some(due);
        self.timers.insert((due, key.clone()));
    }

    /// When the next timer is due, in milliseconds since 1970. Keys that wait already are not counted.
    pub(crate) fn wake_at(&self) -> Option<i64> {
        self.timers.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_once_and_never_runs_twice_at_a_time() {
        let mut queue = Workqueue::default();
        for key in ["a", "b", "a", "a"] {
            queue.wake(key);
        }
        assert_eq!((queue.take(0), queue.take(0), queue.take(0)), (Some("a"), Some("b"), None));
        queue.wake("a");
        queue.wake("a");
        assert_eq!(queue.take(0), None, "its turn is still running");
        queue.done(&"a", Outcome::Done, 0);
        assert_eq!((queue.take(0), queue.take(0)), (Some("a"), None));
        queue.done(&"a", Outcome::Done, 0);
        queue.done(&"b", Outcome::Done, 0);
        assert!(queue.entries.is_empty(), "idle keys are forgotten");
    }

    #[test]
    fn again_is_a_timer_that_a_change_overtakes() {
        let mut queue = Workqueue::default();
        queue.wake("a");
        queue.take(0);
        queue.done(&"a", Outcome::Again(500), 1_000);
        assert_eq!((queue.take(1_499), queue.wake_at()), (None, Some(1_500)));
        assert_eq!(queue.take(1_500), Some("a"));
        queue.done(&"a", Outcome::Again(500), 2_000);
        queue.wake("a");
        assert_eq!((queue.take(2_000), queue.wake_at()), (Some("a"), None));
    }

    #[test]
    fn failures_rest_longer_each_time_up_to_a_bound() {
        let mut queue = Workqueue::default();
        let mut now = 0;
        let mut pauses = Vec::new();
        queue.wake("a");
        for _ in 0..20 {
            assert_eq!(queue.take(now), Some("a"));
            queue.done(&"a", Outcome::Failed, now);
            let due = queue.wake_at().expect("a failed key has a timer");
            pauses.push(due - now);
            now = due;
        }
        assert_eq!(pauses[..4], [10, 20, 40, 80]);
        assert_eq!(pauses.last(), Some(&30_000));
        queue.take(now);
        queue.done(&"a", Outcome::Done, now);
        assert!(queue.entries.is_empty());
    }
}
