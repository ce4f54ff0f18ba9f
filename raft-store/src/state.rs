//! The state every member computes alike: the map, who belongs to the cluster, and which proposals were already applied.
//!
//! Deterministic: the same commands in the same order give the same state, hash included. Time comes with the commands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::codec::{Malformed, Reader, Writer};
use crate::command::{Command, Operation, Origin, Txn, TxnReply};
use crate::error::StoreError;
use crate::limits::{HISTORY_BYTES_MAX, HISTORY_MS, SESSION_WINDOW};
use crate::mvcc::{Mvcc, Revision};
use crate::planted::{Bug, planted};

/// Who decides, who listens, and where they are reached. The only record of membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) voters: Vec<u64>,
    pub(crate) learners: Vec<u64>,
    pub(crate) voters_outgoing: Vec<u64>,
    pub(crate) learners_next: Vec<u64>,
    pub(crate) auto_leave: bool,
    /// Address of each member, `host:port`; empty for a member that was never told one.
    pub(crate) addresses: BTreeMap<u64, String>,
}

impl Membership {
    /// Every member, voting or not, in ascending order.
    pub(crate) fn all(&self) -> BTreeSet<u64> {
        self.every().collect()
    }

    /// Whether there is more than one member, voting or not.
    pub(crate) fn several(&self) -> bool {
        let mut every = self.every();
        let first = every.next();
        every.any(|member| Some(member) != first)
    }

    /// Who is reached at `address`.
    pub(crate) fn at(&self, address: &str) -> Option<u64> {
        let there = |(_, known): &(&u64, &String)| !address.is_empty() && *known == address;
        self.addresses.iter().find(there).map(|(member, _)| *member)
    }

    fn every(&self) -> impl Iterator<Item = u64> {
        let parts = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        parts.into_iter().flatten().copied()
    }
}

/// Which sequence numbers of a member's current life were applied: all up to `through`, and those in `above`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    boot: u64,
    through: u64,
    above: BTreeSet<u64>,
}

impl Session {
    /// Notes the proposal; false if it was seen before, belongs to an earlier life or is too old to tell.
    fn admit(&mut self, origin: &Origin) -> bool {
        if origin.boot > self.boot {
            *self = Session { boot: origin.boot, ..Session::default() };
        }
        if origin.boot < self.boot || origin.sequence <= self.through || !self.above.insert(origin.sequence) {
            return planted(Bug::DuplicatesApplied);
        }
        if self.above.len() > SESSION_WINDOW {
            self.through = self.above.first().map_or(self.through, |oldest| oldest - 1);
        }
        while self.above.first() == Some(&(self.through + 1)) {
            self.through += 1;
            self.above.pop_first();
        }
        true
    }
}

/// What applying one command gave.
#[derive(Debug)]
pub(crate) enum Applied {
    Txn(TxnReply),
    Done,
    Refused(StoreError),
    /// Seen before: it was answered then.
    Duplicate,
    /// Members are to compare the state they have here.
    Compare,
    /// What the proposer's keys added up to at this revision.
    Told {
        revision: u64,
        hash: u64,
    },
}

/// Everything a member knows, as of one log index.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) mvcc: Mvcc,
    pub(crate) membership: Membership,
    sessions: BTreeMap<u64, Session>,
    clock_ms: u64,
    /// Index and term of the last entry applied.
    pub(crate) index: u64,
    pub(crate) term: u64,
}

impl State {
    /// The state before the first entry. The founders' membership stands in no entry, so they count it as the first:
    /// whoever joins later then lacks an entry nobody has, and is sent the whole state instead.
    pub(crate) fn new(membership: Membership) -> State {
        let founded = u64::from(!membership.voters.is_empty() && !planted(Bug::FoundersUncounted));
        State { membership, index: founded, term: founded, ..State::default() }
    }

    /// Applies one command; the second part is the revision it made, if any.
    pub(crate) fn apply(&mut self, command: Command) -> (Applied, Option<Arc<Revision>>) {
        if !self.sessions.entry(command.origin.member).or_default().admit(&command.origin) {
            return (Applied::Duplicate, None);
        }
        self.clock_ms = self.clock_ms.max(command.at_ms);
        let outcome = match command.operation {
            Operation::Txn(txn) => self.txn(&txn),
            Operation::Compact { revision } => (self.compact(revision), None),
            Operation::Check { revision, hash } => (Applied::Told { revision, hash }, None),
            Operation::Compare => (Applied::Compare, None),
        };
        self.mvcc.trim(self.clock_ms.saturating_sub(HISTORY_MS), HISTORY_BYTES_MAX);
        outcome
    }

    fn txn(&mut self, txn: &Txn) -> (Applied, Option<Arc<Revision>>) {
        if !txn.compares.iter().all(|compare| self.mvcc.holds(compare)) {
            let current = txn.compares.iter().map(|c| (c.key.clone(), self.mvcc.mod_revision(&c.key))).collect();
            return (Applied::Txn(TxnReply { succeeded: false, revision: self.mvcc.revision(), current }), None);
        }
        let made = self.mvcc.write(&txn.then, self.clock_ms);
        let reply = TxnReply { succeeded: true, revision: self.mvcc.revision(), current: Vec::new() };
        (Applied::Txn(reply), made)
    }

    fn compact(&mut self, revision: u64) -> Applied {
        let latest = self.mvcc.revision();
        if revision > latest {
            return Applied::Refused(StoreError::Future { asked: revision, latest });
        }
        if revision < self.mvcc.floor() {
            return Applied::Refused(StoreError::Compacted { asked: revision, oldest: self.mvcc.floor() });
        }
        self.mvcc.compact(revision);
        Applied::Done
    }

    /// A hash of everything that must be equal on members at the same index.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut w = Writer::default();
        self.encode_head(&mut w);
        self.mvcc.hash() ^ u64::from(crc32c::crc32c(&w.0))
    }

    /// All but keys and history, with a checksum: what a checkpoint and a snapshot keep beside them.
    pub(crate) fn encode_head(&self, w: &mut Writer) {
        let mut head = Writer::default();
        self.encode_fields(&mut head);
        w.bytes(&head.0);
        w.u32(crc32c::crc32c(&head.0));
    }

    fn encode_fields(&self, w: &mut Writer) {
        for value in [self.index, self.term, self.clock_ms, self.mvcc.floor(), self.mvcc.revision(), self.mvcc.hash()] {
            w.u64(value);
        }
        let m = &self.membership;
        for list in [&m.voters, &m.learners, &m.voters_outgoing, &m.learners_next] {
            w.list(list);
        }
        w.u8(u8::from(m.auto_leave));
        w.count(m.addresses.len());
        for (member, address) in &m.addresses {
            w.u64(*member);
            w.bytes(address.as_bytes());
        }
        let sessions = if planted(Bug::SessionsForgotten) { &BTreeMap::new() } else { &self.sessions };
        w.count(sessions.len());
        for (member, session) in sessions {
            w.u64(*member);
            w.u64(session.boot);
            w.u64(session.through);
            w.list(&session.above.iter().copied().collect::<Vec<_>>());
        }
    }

    /// Reads what [`State::encode_head`] wrote; keys and history follow by [`Head::complete`].
    pub(crate) fn decode_head(outer: &mut Reader) -> Result<Head, Malformed> {
        let fields = outer.bytes()?;
        if crc32c::crc32c(&fields) != outer.u32()? {
            return Err(Malformed);
        }
        let r = &mut Reader::new(fields);
        let mut state = State { index: r.u64()?, term: r.u64()?, clock_ms: r.u64()?, ..State::default() };
        let (floor, revision, hash) = (r.u64()?, r.u64()?, r.u64()?);
        let (voters, learners, voters_outgoing, learners_next) = (r.list()?, r.list()?, r.list()?, r.list()?);
        let auto_leave = r.u8()? != 0;
        let address = |r: &mut Reader| {
            let member = r.u64()?;
            Ok((member, String::from_utf8(r.bytes()?.to_vec()).map_err(|_| Malformed)?))
        };
        let addresses = r.many(address)?.into_iter().collect();
        state.membership = Membership { voters, learners, voters_outgoing, learners_next, auto_leave, addresses };
        let session = |r: &mut Reader| {
            let member = r.u64()?;
            Ok((member, Session { boot: r.u64()?, through: r.u64()?, above: r.list()?.into_iter().collect() }))
        };
        state.sessions = r.many(session)?.into_iter().collect();
        Ok(Head { state, floor, revision, hash })
    }
}

/// A state whose keys and history are still to come.
pub(crate) struct Head {
    state: State,
    pub(crate) floor: u64,
    pub(crate) revision: u64,
    hash: u64,
}

impl Head {
    /// Adds keys and history, and refuses them if they do not give the hash that was recorded.
    pub(crate) fn complete(mut self, mvcc: Mvcc) -> Result<State, Malformed> {
        if mvcc.hash() != self.hash {
            return Err(Malformed);
        }
        self.state.mvcc = mvcc;
        Ok(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Compare, Target, Write};

    fn txn(sequence: u64, boot: u64, compares: Vec<Compare>, value: &'static str) -> Command {
        let then = vec![Write::Put { key: "a".into(), value: value.into() }];
        let operation = Operation::Txn(Txn { compares, then });
        Command { origin: Origin { member: 1, boot, sequence }, at_ms: 0, operation }
    }

    fn apply(state: &mut State, command: Command) -> String {
        match state.apply(command).0 {
            Applied::Txn(reply) => format!("{} {} {:?}", reply.succeeded, reply.revision, reply.current),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn only_a_success_takes_a_revision_and_a_failure_tells_the_current_one() {
        let mut state = State::default();
        let absent = || vec![Compare { key: "a".into(), target: Target::ModRevision(0) }];
        assert_eq!(apply(&mut state, txn(1, 1, absent(), "1")), "true 1 []");
        assert_eq!(apply(&mut state, txn(2, 1, absent(), "2")), "false 1 [(b\"a\", Some(1))]");
        let holds = vec![Compare { key: "a".into(), target: Target::Value("1".into()) }];
        assert_eq!(apply(&mut state, txn(3, 1, holds, "3")), "true 2 []");
    }

    #[test]
    fn a_proposal_counts_once_whatever_the_order() {
        let mut state = State::default();
        for (sequence, boot, expected) in [
            (2, 1, "true 1 []"),
            (2, 1, "Duplicate"),
            (1, 1, "true 2 []"),
            (1, 1, "Duplicate"),
            (1, 2, "true 3 []"),
            (9, 1, "Duplicate"),
            (1, 2, "Duplicate"),
        ] {
            assert_eq!(apply(&mut state, txn(sequence, boot, Vec::new(), "x")), expected, "{boot}/{sequence}");
        }
    }

    #[test]
    fn holes_in_the_sequence_do_not_grow_a_session_without_bound() {
        let mut session = Session::default();
        for sequence in 2..(3 * SESSION_WINDOW as u64) {
            assert!(session.admit(&Origin { member: 1, boot: 0, sequence }));
        }
        assert!(session.above.len() <= SESSION_WINDOW);
        assert!(!session.admit(&Origin { member: 1, boot: 0, sequence: 1 }));
    }
}
