//! Following changes: a cursor over the shared history, so that a watcher costs no queue of its own.
//!
//! A cursor promises every change of its prefix from its first revision on, each once, in order, and all changes of a
//! revision together. It refuses to skip: what the history no longer holds ends it with a reason.

use bytes::Bytes;

use crate::error::Cancelled;
use crate::limits::WATCH_CHANGES_MAX;
use crate::mvcc::Mvcc;
use crate::planted::{Bug, planted};

/// What to follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchRequest {
    /// Keys that begin with this.
    pub prefix: Bytes,
    /// The first revision wanted.
    pub from: u64,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRecord {
    /// The revision that made it.
    pub revision: u64,
    /// The key.
    pub key: Bytes,
    /// Its new value; `None` if it was deleted.
    pub value: Option<Bytes>,
    /// What it held before; `None` if it did not exist.
    pub previous: Option<Bytes>,
}

/// Where a watcher stands.
pub(crate) struct Cursor {
    prefix: Bytes,
    next: u64,
    started: bool,
}

impl Cursor {
    /// Refuses a first revision that is no longer kept.
    pub(crate) fn new(request: WatchRequest, mvcc: &Mvcc) -> Result<Cursor, Cancelled> {
        let cursor = Cursor { prefix: request.prefix, next: request.from.max(1), started: false };
        cursor.check(mvcc)?;
        Ok(Cursor { started: true, ..cursor })
    }

    /// The first revision not yet seen: everything below it has been delivered.
    pub(crate) fn next_revision(&self) -> u64 {
        self.next
    }

    fn check(&self, mvcc: &Mvcc) -> Result<(), Cancelled> {
        let (from, oldest) = (self.next, mvcc.floor() + 1);
        match (from < oldest, self.started) {
            (false, _) => Ok(()),
            (true, false) => Err(Cancelled::TooOld { from, oldest }),
            (true, true) if planted(Bug::CompactionPastWatcher) => Ok(()),
            (true, true) => Err(Cancelled::Lagging { from, oldest }),
        }
    }

    /// The changes that are there; empty once the cursor has seen everything.
    pub(crate) fn collect(&mut self, mvcc: &Mvcc) -> Result<Vec<ChangeRecord>, Cancelled> {
        self.check(mvcc)?;
        self.next = self.next.max(mvcc.floor() + 1);
        let mut found = Vec::new();
        while found.len() < WATCH_CHANGES_MAX {
            let Some(past) = mvcc.changes(self.next) else { break };
            let wanted = past.changes.iter().filter(|change| change.key.starts_with(&self.prefix));
            found.extend(wanted.map(|change| ChangeRecord {
                revision: past.revision,
                key: change.key.clone(),
                value: change.now.as_ref().map(|kv| kv.value.clone()),
                previous: change.before.as_ref().map(|kv| kv.value.clone()),
            }));
            self.next += 1;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Write;

    fn put(mvcc: &mut Mvcc, keys: &[&str]) {
        let writes: Vec<_> =
            keys.iter().map(|key| Write::Put { key: key.to_string().into(), value: "v".into() }).collect();
        mvcc.write(&writes, 0);
    }

    fn seen(found: &[ChangeRecord]) -> Vec<(u64, &[u8], bool)> {
        found.iter().map(|c| (c.revision, &c.key[..], c.previous.is_some())).collect()
    }

    #[test]
    fn each_change_of_the_prefix_once_and_whole_revisions() {
        let mut mvcc = Mvcc::default();
        let mut cursor = Cursor::new(WatchRequest { prefix: "a".into(), from: 2 }, &mvcc).unwrap();
        put(&mut mvcc, &["a1"]);
        put(&mut mvcc, &["a1", "a2", "b"]);
        put(&mut mvcc, &["b"]);
        let found = cursor.collect(&mvcc).unwrap();
        assert_eq!(seen(&found), [(2, &b"a1"[..], true), (2, b"a2", false)]);
        assert_eq!(cursor.next_revision(), 4);
        assert_eq!(cursor.collect(&mvcc).unwrap(), []);
    }

    #[test]
    fn a_revision_larger_than_a_batch_stays_whole() {
        let mut mvcc = Mvcc::default();
        let keys: Vec<String> = (0..WATCH_CHANGES_MAX + 1).map(|i| format!("{i}")).collect();
        put(&mut mvcc, &keys.iter().map(String::as_str).collect::<Vec<_>>());
        put(&mut mvcc, &["later"]);
        let mut cursor = Cursor::new(WatchRequest::default(), &mvcc).unwrap();
        assert_eq!(cursor.collect(&mvcc).unwrap().len(), WATCH_CHANGES_MAX + 1);
        assert_eq!(cursor.collect(&mvcc).unwrap().len(), 1);
    }

    #[test]
    fn the_reason_tells_a_late_start_from_a_slow_reader() {
        let mut mvcc = Mvcc::default();
        for _ in 0..4 {
            put(&mut mvcc, &["a"]);
        }
        let mut slow = Cursor::new(WatchRequest { prefix: Bytes::new(), from: 2 }, &mvcc).unwrap();
        mvcc.compact(3);
        assert_eq!(slow.collect(&mvcc).err(), Some(Cancelled::Lagging { from: 2, oldest: 4 }));
        let late = Cursor::new(WatchRequest { prefix: Bytes::new(), from: 3 }, &mvcc).err();
        assert_eq!(late, Some(Cancelled::TooOld { from: 3, oldest: 4 }));
        assert!(Cursor::new(WatchRequest { prefix: Bytes::new(), from: 4 }, &mvcc).is_ok());
    }
}
