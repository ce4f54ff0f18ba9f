//! What must be true of a run, checked while it happens.
//!
//! The store tells the revision of every answer, so the order of revisions must be a witness: each write stands at its
//! revision, each read shows exactly the state of its revision, and no operation stands before one that had ended when it
//! began. Watches give the truth about revisions; every member must show the same. In the end the whole history is
//! checked for being linearizable by a checker that believes no revision (`linear`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::linear::{self, Action, Operation};
use crate::command::TxnReply;
use crate::error::StoreError;
use crate::watch::ChangeRecord;

/// One operation of a client.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put { key: Bytes, value: Bytes },
    Cas { key: Bytes, expected: u64, value: Bytes },
    Delete { key: Bytes },
    Read { key: Bytes },
}

impl Op {
    fn value(&self) -> Option<&Bytes> {
        match self {
            Op::Put { value, .. } | Op::Cas { value, .. } => Some(value),
            Op::Delete { .. } | Op::Read { .. } => None,
        }
    }
}

struct Open {
    op: Op,
    // When it began: operations begin and end one at a time.
    call: u64,
    // The highest revision anyone had been told when the operation began.
    told: u64,
}

type Changes = Vec<(Bytes, Option<Bytes>, Option<Bytes>)>;

/// Everything known about a run.
#[derive(Default)]
pub(crate) struct Checks {
    truth: BTreeMap<u64, Changes>,
    values: BTreeSet<Bytes>,
    refused: Vec<Bytes>,
    fingerprints: BTreeMap<u64, u64>,
    open: BTreeMap<u64, Open>,
    history: Vec<Operation>,
    time: u64,
    told: u64,
    pub(crate) acknowledged: u64,
    pub(crate) reads: u64,
}

impl Checks {
    pub(crate) fn began(&mut self, id: u64, op: Op) {
        self.time += 1;
        self.open.insert(id, Open { op, call: self.time, told: self.told });
    }

    /// A member showed a revision: the first to do so defines it, everybody else must agree.
    pub(crate) fn shown(&mut self, revision: u64, changes: &[ChangeRecord]) {
        let changes: Changes = changes.iter().map(|c| (c.key.clone(), c.value.clone(), c.previous.clone())).collect();
        if let Some(known) = self.truth.get(&revision) {
            assert_eq!(*known, changes, "revision {revision} differs between members or lives");
            return;
        }
        for (key, value, previous) in &changes {
            assert_eq!(*previous, self.value_at(key, revision - 1), "revision {revision} tells a wrong previous value");
            if let Some(value) = value {
                assert!(self.values.insert(value.clone()), "a write took effect twice, again at revision {revision}");
            }
        }
        self.truth.insert(revision, changes);
    }

    /// A member's whole state at a log index.
    pub(crate) fn fingerprint(&mut self, index: u64, fingerprint: u64) {
        // Before the first entry a founder knows its fellows, a joiner nobody.
        if index == 0 {
            return;
        }
        let known = *self.fingerprints.entry(index).or_insert(fingerprint);
        assert_eq!(known, fingerprint, "states at index {index} differ");
    }

    fn value_at(&self, key: &Bytes, revision: u64) -> Option<Bytes> {
        let past = self.truth.range(..=revision).rev();
        let last = past.flat_map(|(_, changes)| changes.iter().filter(|change| change.0 == *key)).next();
        last.and_then(|change| change.1.clone())
    }

    fn mod_revision_at(&self, key: &Bytes, revision: u64) -> Option<u64> {
        let changed =
            |changes: &Changes| changes.iter().find(|change| change.0 == *key).map(|change| change.1.is_some());
        let mut past = self.truth.range(..=revision).rev();
        past.find_map(|(at, changes)| changed(changes).map(|exists| exists.then_some(*at))).flatten()
    }

    fn ended(&mut self, id: u64, revision: u64) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.told = self.told.max(revision);
        Some(open)
    }

    /// A transaction was answered.
    pub(crate) fn answered(&mut self, id: u64, answer: Result<TxnReply, StoreError>) {
        let reply = match answer {
            Ok(reply) => reply,
            // May still happen: nothing can be said.
            Err(StoreError::Timeout) => return,
            Err(_) => {
                let open = self.open.remove(&id);
                self.refused.extend(open.and_then(|open| open.op.value().cloned()));
                return;
            }
        };
        let Some(open) = self.ended(id, reply.revision) else { return };
        let revision = reply.revision;
        self.note(&open, revision, &reply);
        let Open { op, told, .. } = open;
        assert!(revision >= told, "{op:?} was decided at revision {revision}, after {told} had been told");
        let wrote = |checks: &Checks| checks.truth.get(&revision).and_then(|changes| changes.first().cloned());
        match &op {
            Op::Put { key, value } | Op::Cas { key, value, .. } if reply.succeeded => {
                assert!(revision > told, "{op:?} was placed at {revision}, not after {told}");
                let written = wrote(self).map(|change| (change.0, change.1));
                assert_eq!(written, Some((key.clone(), Some(value.clone()))), "{op:?} is not at revision {revision}");
                if let Op::Cas { expected, .. } = op {
                    let before = self.mod_revision_at(key, revision - 1).unwrap_or(0);
                    assert_eq!(before, expected, "{op:?} succeeded at {revision} against another revision");
                }
                self.acknowledged += 1;
            }
            Op::Cas { key, expected, .. } => {
                let current = self.mod_revision_at(key, revision);
                assert_ne!(current.unwrap_or(0), *expected, "{op:?} failed at {revision} though it held");
                assert_eq!(reply.current, [(key.clone(), current)], "{op:?} was told a wrong revision");
            }
            Op::Delete { key } => {
                assert_eq!(self.value_at(key, revision), None, "{op:?} left the key at {revision}");
                self.acknowledged += 1;
            }
            Op::Put { .. } | Op::Read { .. } => panic!("{op:?} cannot fail a compare"),
        }
    }

    /// A linearizable read was answered from a state of this revision.
    pub(crate) fn read(&mut self, id: u64, revision: u64, value: Option<&Bytes>) {
        let Some(Open { op, call, told }) = self.ended(id, revision) else { return };
        let Op::Read { key } = &op else { panic!("{op:?} was answered as a read") };
        assert!(revision >= told, "{op:?} saw revision {revision}, after {told} had been told");
        assert_eq!(
            self.value_at(key, revision).as_ref(),
            value,
            "{op:?} saw another value than that of revision {revision}"
        );
        self.reads += 1;
        self.time += 1;
        let (end, action) = (Some(self.time), Action::Read { value: value.cloned() });
        self.history.push(Operation { key: key.clone(), call, end, action, hint: revision });
    }

    /// Remembers a transaction that was answered.
    fn note(&mut self, open: &Open, revision: u64, reply: &TxnReply) {
        self.time += 1;
        let (key, action) = match &open.op {
            Op::Put { key, value } => {
                (key, Action::Wrote { expected: None, value: Some(value.clone()), version: revision })
            }
            Op::Cas { key, expected, value } if reply.succeeded => {
                (key, Action::Wrote { expected: Some(*expected), value: Some(value.clone()), version: revision })
            }
            Op::Cas { key, expected, .. } => {
                let current = reply.current.first().and_then(|(_, revision)| *revision).unwrap_or(0);
                (key, Action::Refused { expected: *expected, current })
            }
            Op::Delete { key } => (key, Action::Wrote { expected: None, value: None, version: 0 }),
            Op::Read { .. } => return,
        };
        let (key, end) = (key.clone(), Some(self.time));
        self.history.push(Operation { key, call: open.call, end, action, hint: revision });
    }

    /// What nobody was told the outcome of: writes that took effect by what the watches showed, removals perhaps.
    fn unknown(&self) -> Vec<Operation> {
        let mut written = BTreeMap::new();
        for (revision, changes) in &self.truth {
            written.extend(changes.iter().filter_map(|(_, value, _)| Some((value.as_ref()?, *revision))));
        }
        let operation = |open: &Open| {
            let (key, expected, value) = match &open.op {
                Op::Put { key, value } => (key, None, Some(value)),
                Op::Cas { key, expected, value } => (key, Some(*expected), Some(value)),
                Op::Delete { key } => (key, None, None),
                Op::Read { .. } => return None,
            };
            let version = match value {
                Some(value) => *written.get(value)?,
                None => u64::MAX,
            };
            let action = Action::Wrote { expected, value: value.cloned(), version };
            Some(Operation { key: key.clone(), call: open.call, end: None, action, hint: version })
        };
        self.open.values().filter_map(operation).collect()
    }

    /// At the end: everything told is there, nothing refused is.
    pub(crate) fn conclude(&mut self, revision: u64) {
        assert!(revision >= self.told, "revision {} was told, the cluster ends at {revision}", self.told);
        for value in &self.refused {
            assert!(!self.values.contains(value), "a refused write took effect");
        }
        let mut history = std::mem::take(&mut self.history);
        history.extend(self.unknown());
        linear::check(history).unwrap_or_else(|what| panic!("{what}"));
    }

    pub(crate) fn revisions(&self) -> usize {
        self.truth.len()
    }
}
