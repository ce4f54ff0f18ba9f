//! One ring of recent changes that every watcher reads at its own pace.
//!
//! There is no queue per watcher: a slow one costs nothing and, once the ring has moved past it, lists again. The
//! ring is bounded by count and by the bytes of the objects it keeps alive.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use api::{Change, Status};
use tokio::sync::watch;

use crate::limits::{BATCH_CHANGES_MAX, RING_BYTES_MAX, RING_CHANGES_MAX};

/// Why a cursor has no more changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangesEnd {
    /// The ring has moved past the cursor: list again and start from there.
    #[error("too old resource version: the watch fell behind")]
    Lagged,
    /// This member stops.
    #[error("the server is stopping")]
    Closed,
}

impl From<ChangesEnd> for Status {
    fn from(end: ChangesEnd) -> Self {
        match end {
            ChangesEnd::Lagged => Self::expired(end.to_string()),
            ChangesEnd::Closed => Self::unavailable(end.to_string()),
        }
    }
}

#[derive(Default)]
struct Entries {
    changes: VecDeque<Arc<Change>>,
    /// Position of `changes[0]` since the ring was made.
    first: u64,
    /// Up to where the changes have given up the decoded forms of their objects, and how far that goes next.
    rested: (u64, u64),
    /// Encoded bytes of the objects in `changes`.
    bytes: usize,
    /// Revision of the last change that is no longer here.
    floor: u64,
    /// Nothing will be added any more.
    closed: bool,
}

/// The shared side: one writer, any number of cursors.
pub(crate) struct Ring {
    entries: RwLock<Entries>,
    /// The revision up to which `entries` is complete.
    head: watch::Sender<u64>,
}

impl Ring {
    /// An empty ring that knows nothing of `floor` and before.
    pub(crate) fn new(floor: u64) -> Self {
        Self { entries: RwLock::new(Entries { floor, ..Entries::default() }), head: watch::Sender::new(floor) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        // Whoever panicked with the lock held left whole entries behind: none is half written.
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds all changes of the revisions up to `revision`, in the store's order.
    pub(crate) fn push(&self, changes: impl IntoIterator<Item = Arc<Change>>, revision: u64) {
        let mut entries = self.write();
        for change in changes {
            entries.bytes += change.object.json().len();
            entries.changes.push_back(change);
        }
        entries.trim(RING_CHANGES_MAX, RING_BYTES_MAX);
        drop(entries);
        self.head.send_replace(revision);
    }

    /// Gives up the decoded forms of what was here already at the last call: whoever still reads that is slow.
    pub(crate) fn rest(&self) {
        let mut entries = self.write();
        let (from, to) = entries.rested;
        entries.rested = (to, entries.first + entries.changes.len() as u64);
        for position in from.max(entries.first)..to {
            let place = usize::try_from(position - entries.first).unwrap_or(usize::MAX);
            if let Some(change) = entries.changes.get_mut(place) {
                *change = Arc::new(change.at_rest());
            }
        }
    }

    /// Forgets everything: what comes next does not follow on what was here.
    pub(crate) fn reset(&self, floor: u64) {
        let mut entries = self.write();
        entries.first += entries.changes.len() as u64 + 1;
        entries.changes.clear();
        entries.bytes = 0;
        entries.floor = floor;
        drop(entries);
        self.head.send_replace(floor);
    }

    /// Ends every cursor once it has read what is here.
    pub(crate) fn close(&self) {
        self.write().closed = true;
        self.head.send_modify(|_| {});
    }

    /// A cursor over everything after `revision`; `Lagged` when some of that is gone already.
    pub(crate) fn cursor(self: &Arc<Self>, revision: u64) -> Result<Changes, ChangesEnd> {
        let head = self.head.subscribe();
        let entries = self.read();
        if revision < entries.floor {
            return Err(ChangesEnd::Lagged);
        }
        let skip = entries.changes.partition_point(|change| change.revision <= revision);
        let next = entries.first + skip as u64;
        drop(entries);
        Ok(Changes { ring: self.clone(), next, after: revision, seen: revision, head })
    }
}

impl Entries {
    fn trim(&mut self, changes_max: usize, bytes_max: usize) {
        // The newest change always stays, so that one large object cannot starve every watcher.
        while self.changes.len() > 1 && (self.changes.len() > changes_max || self.bytes > bytes_max) {
            let Some(change) = self.changes.pop_front() else { return };
            self.first += 1;
            self.bytes -= change.object.json().len();
            self.floor = change.revision;
        }
    }
}

/// One reader's place in the ring. It holds nothing but its position.
pub struct Changes {
    ring: Arc<Ring>,
    next: u64,
    after: u64,
    seen: u64,
    head: watch::Receiver<u64>,
}

impl Changes {
    /// The revision up to which this reader has been given everything: what a bookmark may say.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.seen
    }

    /// The next changes, oldest first, never empty; waits until there are some. A revision is never split over two
    /// batches. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Arc<Change>>, ChangesEnd> {
        loop {
            // Marked as seen before looking, so that a push in between wakes the wait below.
            let head = *self.head.borrow_and_update();
            let batch = self.take()?;
            match batch.last() {
                Some(last) => {
                    self.seen = last.revision;
                    return Ok(batch);
                }
                None => self.seen = self.seen.max(head),
            }
            self.head.changed().await.map_err(|_| ChangesEnd::Closed)?;
        }
    }

    fn take(&mut self) -> Result<Vec<Arc<Change>>, ChangesEnd> {
        let entries = self.ring.read();
        let start = self.next.checked_sub(entries.first).ok_or(ChangesEnd::Lagged)?;
        let start = usize::try_from(start).unwrap_or(usize::MAX).min(entries.changes.len());
        let mut batch: Vec<Arc<Change>> = Vec::new();
        for change in entries.changes.range(start..) {
            let whole = batch.last().is_none_or(|last| last.revision != change.revision);
            if whole && batch.len() >= BATCH_CHANGES_MAX {
                break;
            }
            self.next += 1;
            if change.revision > self.after {
                batch.push(change.clone());
            }
        }
        if batch.is_empty() && entries.closed {
            return Err(ChangesEnd::Closed);
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key, Object};
    use serde_json::json;

    fn change(revision: u64) -> Arc<Change> {
        let value = json!({"metadata": {"name": "a"}});
        let object = Arc::new(Object::new(Key::new("configmaps", "default", "a"), revision, value));
        Arc::new(Change { revision, kind: ChangeKind::Modified, object, previous: None })
    }

    fn revisions(batch: &[Arc<Change>]) -> Vec<u64> {
        batch.iter().map(|change| change.revision).collect()
    }

    #[tokio::test]
    async fn a_cursor_sees_what_came_after_its_revision_once_and_in_order() {
        let ring = Arc::new(Ring::new(3));
        ring.push([change(4), change(5)], 5);
        let mut cursor = ring.cursor(4).unwrap();
        assert_eq!(revisions(&cursor.next().await.unwrap()), [5]);
        ring.push([change(6), change(6)], 6);
        ring.push([change(7)], 7);
        assert_eq!(revisions(&cursor.next().await.unwrap()), [6, 6, 7]);
        assert_eq!(cursor.revision(), 7);
    }

    #[tokio::test]
    async fn a_waiting_cursor_is_woken_and_one_from_the_future_waits_for_it() {
        let ring = Arc::new(Ring::new(1));
        let mut cursor = ring.cursor(3).unwrap();
        let reader = tokio::spawn(async move { cursor.next().await.map(|batch| revisions(&batch)) });
        for revision in 2..=4 {
            tokio::task::yield_now().await;
            ring.push([change(revision)], revision);
        }
        assert_eq!(reader.await.unwrap(), Ok(vec![4]));
    }

    #[tokio::test]
    async fn whoever_is_too_far_behind_is_told_to_list_again() {
        let ring = Arc::new(Ring::new(10));
        assert_eq!(ring.cursor(9).err(), Some(ChangesEnd::Lagged));
        let mut cursor = ring.cursor(10).unwrap();
        ring.push((11..=20).map(change), 20);
        ring.write().trim(3, usize::MAX);
        assert_eq!(cursor.next().await.err(), Some(ChangesEnd::Lagged));
        assert!(ring.cursor(17).is_ok() && ring.cursor(16).is_err());
        ring.write().trim(usize::MAX, 1);
        assert_eq!(revisions(&ring.cursor(19).unwrap().next().await.unwrap()), [20]);
    }

    #[tokio::test]
    async fn a_reset_ends_every_cursor() {
        let ring = Arc::new(Ring::new(0));
        let mut cursor = ring.cursor(0).unwrap();
        ring.reset(50);
        assert_eq!(cursor.next().await.err(), Some(ChangesEnd::Lagged));
    }
}
