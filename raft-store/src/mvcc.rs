//! The multi-version map: what every key holds now, and every change since the floor.
//!
//! Cloning is cheap (persistent maps), so a reader keeps a whole picture while writes go on. The past is read by undoing
//! changes from the present backwards. Example: `a` was written at 1 and 3, `b` at 2. To read at revision 1, undo 3
//! (`a` gets its value of 1 back) and 2 (`b` did not exist): `a` with the value of 1 remains.
//!
//! Refuses revisions below the floor and in the future.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, Vector};

use crate::codec::Malformed;
use crate::command::{Compare, Target, Write};
use crate::error::StoreError;

/// A key with its value and the revisions that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The revision since which the key exists without a gap.
    pub create_revision: u64,
    /// The revision of the last write.
    pub mod_revision: u64,
}

impl KeyValue {
    /// Its share of the state's hash: any change of key, value or revision changes it.
    fn hash(&self) -> u64 {
        let key = u64::from(crc32c::crc32c(&self.key));
        let value = u64::from(crc32c::crc32c(&self.value));
        mix((key << 32 | value) ^ mix(self.mod_revision ^ mix(self.create_revision)))
    }

    fn size(&self) -> usize {
        self.key.len() + self.value.len() + 64
    }
}

/// Spreads every input bit over the whole word (the finaliser of SplitMix64).
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What one revision did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: Bytes,
    pub(crate) now: Option<Arc<KeyValue>>,
    pub(crate) before: Option<Arc<KeyValue>>,
}

/// All changes of one revision, and the state's hash after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revision {
    pub(crate) revision: u64,
    pub(crate) at_ms: u64,
    pub(crate) hash: u64,
    pub(crate) changes: Vec<Change>,
}

impl Revision {
    fn size(&self) -> usize {
        let change = |c: &Change| c.key.len() + c.before.as_ref().map_or(0, |kv| kv.size()) + 96;
        self.changes.iter().map(change).sum::<usize>() + 64
    }
}

/// Which keys to read, and as of when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first key.
    pub start: Bytes,
    /// The first key no longer wanted; `None` reads to the end.
    pub end: Option<Bytes>,
    /// Most items returned; 0 means all.
    pub limit: usize,
    /// As of this revision; `None` means now.
    pub revision: Option<u64>,
    /// How fresh the answer must be.
    pub consistency: Consistency,
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write acknowledged before the request began.
    #[default]
    Linearizable,
    /// What this member has applied.
    Local,
}

impl Range {
    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Range {
        let start = prefix.into();
        let end = prefix_end(&start);
        Range { start, end, limit: 0, revision: None, consistency: Consistency::Linearizable }
    }

    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Range {
        let start = key.into();
        let mut end = start.to_vec();
        end.push(0);
        Range { end: Some(end.into()), ..Range::prefix(start) }
    }

    /// The keys from `start` up to but without `end`.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Range {
        Range { end: Some(end.into()), ..Range::prefix(start) }
    }

    /// At most `limit` items.
    #[must_use]
    pub fn limit(self, limit: usize) -> Range {
        Range { limit, ..self }
    }

    /// As of `revision`.
    #[must_use]
    pub fn at(self, revision: u64) -> Range {
        Range { revision: Some(revision), ..self }
    }

    /// From what this member has applied, without asking the leader.
    #[must_use]
    pub fn local(self) -> Range {
        Range { consistency: Consistency::Local, ..self }
    }

    fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }
}

/// The smallest key above every key that begins with `prefix`; `None` if there is none.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// What a range held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// The revision the answer is of.
    pub revision: u64,
    /// The items in order of their keys.
    pub items: Vec<KeyValue>,
    /// Whether the limit cut the answer short.
    pub more: bool,
}

/// Every key now and every change after `floor`.
#[derive(Clone, Default)]
pub(crate) struct Mvcc {
    live: OrdMap<Bytes, Arc<KeyValue>>,
    history: Vector<Arc<Revision>>,
    floor: u64,
    revision: u64,
    hash: u64,
    live_bytes: usize,
    history_bytes: usize,
}

impl Mvcc {
    /// Puts together what a checkpoint or a snapshot held: `live` now, and `history` oldest first, its `now` left out.
    /// Every revision carries the hash of the keys after it; undoing revision by revision must meet each of them.
    pub(crate) fn restore(
        live: impl Iterator<Item = KeyValue>,
        history: Vec<Revision>,
        floor: u64,
        revision: u64,
    ) -> Result<Mvcc, Malformed> {
        let mut mvcc = Mvcc { floor, revision, ..Mvcc::default() };
        for kv in live {
            mvcc.hash = mvcc.hash.wrapping_add(kv.hash());
            mvcc.live_bytes += kv.size();
            mvcc.live.insert(kv.key.clone(), Arc::new(kv));
        }
        let sum = |hash: u64, kv: &Option<Arc<KeyValue>>| hash.wrapping_add(kv.as_ref().map_or(0, |kv| kv.hash()));
        let (mut expected, mut number) = (mvcc.hash, revision);
        let mut later: BTreeMap<Bytes, Option<Arc<KeyValue>>> = BTreeMap::new();
        for mut past in history.into_iter().rev() {
            if (past.hash, past.revision) != (expected, number) || number <= floor {
                return Err(Malformed);
            }
            for change in &mut past.changes {
                let now = later.insert(change.key.clone(), change.before.clone());
                change.now = now.unwrap_or_else(|| mvcc.live.get(&change.key).cloned());
            }
            let now = past.changes.iter().fold(0, |hash, change| sum(hash, &change.now));
            expected = past.changes.iter().fold(expected.wrapping_sub(now), |hash, change| sum(hash, &change.before));
            number -= 1;
            mvcc.history_bytes += past.size();
            mvcc.history.push_front(Arc::new(past));
        }
        if number == floor { Ok(mvcc) } else { Err(Malformed) }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The same from the keys themselves: it differs if one changed in memory without being written.
    pub(crate) fn added_up(&self) -> u64 {
        self.live.values().fold(0, |hash: u64, kv| hash.wrapping_add(kv.hash()))
    }

    /// Changes a value as bad memory would.
    #[cfg(test)]
    pub(crate) fn corrupt(&mut self, key: &Bytes, value: &Bytes) {
        let kv = self.live.get(key).expect("the key exists");
        let changed = KeyValue { value: value.clone(), ..kv.as_ref().clone() };
        self.live.insert(key.clone(), Arc::new(changed));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.live_bytes + self.history_bytes
    }

    pub(crate) fn keys(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Arc<KeyValue>> {
        self.live.values()
    }

    pub(crate) fn history(&self) -> impl Iterator<Item = &Arc<Revision>> {
        self.history.iter()
    }

    /// The changes of one revision above the floor.
    pub(crate) fn changes(&self, revision: u64) -> Option<&Arc<Revision>> {
        self.history.get(usize::try_from(revision.checked_sub(self.floor + 1)?).ok()?)
    }

    pub(crate) fn holds(&self, compare: &Compare) -> bool {
        let current = self.live.get(&compare.key);
        match &compare.target {
            Target::ModRevision(revision) => current.map_or(0, |kv| kv.mod_revision) == *revision,
            Target::Value(value) => current.is_some_and(|kv| kv.value == *value),
            Target::Exists(exists) => current.is_some() == *exists,
        }
    }

    pub(crate) fn mod_revision(&self, key: &Bytes) -> Option<u64> {
        self.live.get(key).map(|kv| kv.mod_revision)
    }

    /// Applies the writes at the next revision; `None` if they change nothing.
    pub(crate) fn write(&mut self, writes: &[Write], at_ms: u64) -> Option<Arc<Revision>> {
        let revision = self.revision + 1;
        let mut changes = Vec::with_capacity(writes.len());
        for write in writes {
            let change = match write {
                Write::Put { key, value } => Some(self.put(key, value, revision)),
                Write::Delete { key } => self.delete(key),
            };
            changes.extend(change);
        }
        if changes.is_empty() {
            return None;
        }
        self.revision = revision;
        let done = Arc::new(Revision { revision, at_ms, hash: self.hash, changes });
        self.history_bytes += done.size();
        self.history.push_back(done.clone());
        Some(done)
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, revision: u64) -> Change {
        let before = self.live.get(key).cloned();
        let create_revision = before.as_ref().map_or(revision, |kv| kv.create_revision);
        let now =
            Arc::new(KeyValue { key: key.clone(), value: value.clone(), create_revision, mod_revision: revision });
        self.account(before.as_deref(), Some(&now));
        self.live.insert(key.clone(), now.clone());
        Change { key: key.clone(), now: Some(now), before }
    }

    fn delete(&mut self, key: &Bytes) -> Option<Change> {
        let before = self.live.remove(key)?;
        self.account(Some(&before), None);
        Some(Change { key: key.clone(), now: None, before: Some(before) })
    }

    fn account(&mut self, before: Option<&KeyValue>, now: Option<&KeyValue>) {
        if let Some(kv) = before {
            self.hash = self.hash.wrapping_sub(kv.hash());
            self.live_bytes -= kv.size();
        }
        if let Some(kv) = now {
            self.hash = self.hash.wrapping_add(kv.hash());
            self.live_bytes += kv.size();
        }
    }

    /// Forgets the history up to and including `revision`.
    pub(crate) fn compact(&mut self, revision: u64) {
        while self.floor < revision.min(self.revision) {
            self.forget();
        }
    }

    /// Forgets what is older than `before_ms`, and the oldest while the history takes more than `bytes_max`.
    pub(crate) fn trim(&mut self, before_ms: u64, bytes_max: usize) {
        let old = |mvcc: &Mvcc| mvcc.history.front().is_some_and(|oldest| oldest.at_ms < before_ms);
        while !self.history.is_empty() && (self.history_bytes > bytes_max || old(self)) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        if let Some(oldest) = self.history.pop_front() {
            self.history_bytes -= oldest.size();
            self.floor = oldest.revision;
        }
    }

    /// Answers a range at the revision it names, or now.
    pub(crate) fn range(&self, range: &Range) -> Result<RangeReply, StoreError> {
        let revision = range.revision.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(StoreError::Future { asked: revision, latest: self.revision });
        }
        if revision < self.floor {
            return Err(StoreError::Compacted { asked: revision, oldest: self.floor });
        }
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Ok(RangeReply { revision, ..RangeReply::default() });
        }
        let mut items: Vec<KeyValue> = if revision == self.revision {
            self.live_range(range).take(limit.saturating_add(1)).map(|kv| kv.as_ref().clone()).collect()
        } else {
            let mut past: BTreeMap<&Bytes, &KeyValue> =
                self.live_range(range).map(|kv| (&kv.key, kv.as_ref())).collect();
            for undone in self.history.iter().rev().take_while(|past| past.revision > revision) {
                for change in undone.changes.iter().filter(|change| range.contains(&change.key)) {
                    match &change.before {
                        Some(before) => past.insert(&change.key, before),
                        None => past.remove(&change.key),
                    };
                }
            }
            past.into_values().take(limit.saturating_add(1)).cloned().collect()
        };
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(RangeReply { revision, items, more })
    }

    fn live_range<'a>(&'a self, range: &'a Range) -> impl Iterator<Item = &'a Arc<KeyValue>> {
        let from_start = self.live.range(range.start.clone()..);
        from_start.map(|(_, kv)| kv).take_while(|kv| range.end.as_ref().is_none_or(|end| kv.key < *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(mvcc: &mut Mvcc, key: &str, value: &str, at_ms: u64) {
        let write = Write::Put { key: key.to_owned().into(), value: value.to_owned().into() };
        mvcc.write(&[write], at_ms);
    }

    fn delete(mvcc: &mut Mvcc, key: &str) {
        mvcc.write(&[Write::Delete { key: key.to_owned().into() }], 0);
    }

    fn show(mvcc: &Mvcc, range: &Range) -> String {
        match mvcc.range(range) {
            Ok(reply) => {
                let text = |b: &Bytes| String::from_utf8_lossy(b).into_owned();
                let item = |kv: &KeyValue| {
                    format!("{}={}@{}/{}", text(&kv.key), text(&kv.value), kv.create_revision, kv.mod_revision)
                };
                let items: Vec<_> = reply.items.iter().map(item).collect();
                format!("{} [{}]{}", reply.revision, items.join(" "), if reply.more { " more" } else { "" })
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_past_reads_as_it_was() {
        let mut mvcc = Mvcc::default();
        put(&mut mvcc, "a", "1", 0);
        put(&mut mvcc, "b", "2", 0);
        put(&mut mvcc, "a", "3", 0);
        delete(&mut mvcc, "b");
        put(&mut mvcc, "b", "5", 0);
        delete(&mut mvcc, "absent");
        let all = Range::prefix("");
        for (revision, expected) in [
            (0, "0 []"),
            (1, "1 [a=1@1/1]"),
            (2, "2 [a=1@1/1 b=2@2/2]"),
            (3, "3 [a=3@1/3 b=2@2/2]"),
            (4, "4 [a=3@1/3]"),
            (5, "5 [a=3@1/3 b=5@5/5]"),
            (6, "revision 6 is in the future; the latest is 5"),
        ] {
            assert_eq!(show(&mvcc, &all.clone().at(revision)), expected);
        }
        assert_eq!(show(&mvcc, &all.clone().limit(1)), "5 [a=3@1/3] more");
        assert_eq!(show(&mvcc, &Range::key("b").at(3)), "3 [b=2@2/2]");
        assert_eq!(show(&mvcc, &Range::between("a", "b")), "5 [a=3@1/3]");
        assert_eq!(show(&mvcc, &Range::between("b", "a")), "5 []");
        mvcc.compact(3);
        assert_eq!(show(&mvcc, &all.clone().at(2)), "revision 2 is compacted; the oldest kept is 3");
        assert_eq!(show(&mvcc, &all.at(3)), "3 [a=3@1/3 b=2@2/2]");
    }

    #[test]
    fn restoring_gives_the_same_picture() {
        let mut mvcc = Mvcc::default();
        for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            put(&mut mvcc, key, value, 0);
        }
        delete(&mut mvcc, "b");
        mvcc.compact(1);
        let live: Vec<KeyValue> = mvcc.live().map(|kv| kv.as_ref().clone()).collect();
        let mut history: Vec<Revision> = mvcc.history().map(|past| past.as_ref().clone()).collect();
        for change in history.iter_mut().flat_map(|past| &mut past.changes) {
            change.now = None;
        }
        let again = Mvcc::restore(live.into_iter(), history, mvcc.floor(), mvcc.revision()).unwrap();
        assert_eq!((again.hash(), again.bytes()), (mvcc.hash(), mvcc.bytes()));
        assert!(again.history().eq(mvcc.history()));
    }

    #[test]
    fn the_hash_depends_on_content_not_on_the_way() {
        let (mut one, mut two) = (Mvcc::default(), Mvcc::default());
        put(&mut one, "a", "1", 0);
        put(&mut two, "a", "2", 0);
        assert_ne!(one.hash(), two.hash());
        delete(&mut one, "a");
        delete(&mut two, "a");
        assert_eq!((one.hash(), two.hash()), (0, 0));
    }

    #[test]
    fn history_goes_by_age_and_by_size() {
        let mut mvcc = Mvcc::default();
        for at_ms in 1..=10 {
            put(&mut mvcc, "a", "value", at_ms);
        }
        mvcc.trim(5, usize::MAX);
        assert_eq!(mvcc.floor(), 4);
        mvcc.trim(0, 0);
        assert_eq!((mvcc.floor(), mvcc.history_bytes), (10, 0));
    }

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(prefix_end(b"a"), Some(Bytes::from("b")));
        assert_eq!(prefix_end(b"a\xff"), Some(Bytes::from("b")));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
