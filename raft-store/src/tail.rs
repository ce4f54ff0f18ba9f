//! The raft log in memory: every entry above the truncation point, and what raft asks of its storage.
//!
//! The durable copy is `log`; entries are put here when they are handed to it, and raft is told when they are durable.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError, util::limit_size};

use crate::limits::{PEER_LAG_BYTES, PEER_LAG_ENTRIES};

/// Entries after `start`, and where the state stands.
#[derive(Default)]
pub(crate) struct Tail {
    /// Index and term of the last entry no longer held.
    pub(crate) start: (u64, u64),
    pub(crate) entries: VecDeque<Entry>,
    pub(crate) hard: HardState,
    pub(crate) conf: ConfState,
    /// Index and term of the last entry applied: what a snapshot taken now stands for.
    pub(crate) applied: (u64, u64),
}

impl Tail {
    /// Adds entries; those they replace go first.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            assert!(first.index > self.start.0 && first.index <= self.last() + 1, "raft appends without gaps");
            self.entries.truncate(usize::try_from(first.index - self.start.0 - 1).expect("the tail is in memory"));
            self.entries.extend(entries.iter().cloned());
        }
    }

    /// Forgets entries up to and including `index`.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self.start.0 < index {
            let Some(first) = self.entries.pop_front() else { break };
            self.start = (first.index, first.term);
        }
    }

    /// The last index that peers which lag need no more: what follows it up to `index` is few enough entries and bytes
    /// to keep for them.
    pub(crate) fn below_lag(&self, index: u64) -> u64 {
        let (mut unneeded, mut bytes) = (index, 0);
        while index - unneeded < PEER_LAG_ENTRIES
            && let Some(entry) = self.at(unneeded)
            && bytes + entry.data.len() <= PEER_LAG_BYTES
        {
            bytes += entry.data.len();
            unneeded -= 1;
        }
        unneeded
    }

    /// Begins anew behind a snapshot.
    pub(crate) fn restart(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.start = (index, term);
        self.applied = (index, term);
    }

    pub(crate) fn last(&self) -> u64 {
        self.start.0 + self.entries.len() as u64
    }

    fn at(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.start.0 + 1)?).ok()?)
    }
}

impl Storage for Tail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.start.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let max_size = max_size.into();
        let mut size = 0;
        let within = |entry: &&Entry| {
            let fits = size == 0 || max_size.is_none_or(|max| size <= max);
            size += entry.data.len() as u64 + 32;
            fits
        };
        let mut found: Vec<Entry> =
            (low..high).filter_map(|index| self.at(index)).take_while(within).cloned().collect();
        limit_size(&mut found, max_size);
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.start.0 {
            return Ok(self.start.1);
        }
        if index < self.start.0 {
            return Err(StorageError::Compacted.into());
        }
        Ok(self.at(index).ok_or(StorageError::Unavailable)?.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Position only: the driver sends the state itself beside the message.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.applied.0 < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = self.applied;
        metadata.set_conf_state(self.conf.clone());
        Ok(snapshot)
    }
}
