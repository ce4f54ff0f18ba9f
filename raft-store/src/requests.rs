//! Requests a member has not answered yet: proposals until they are applied, reads until they are confirmed.
//!
//! Both survive elections: what a leader never saw, or may have lost, is offered again to the next one. Sequence numbers
//! make a proposal that was not lost after all harmless. Pure; time and leadership are arguments.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::limits::{PROPOSAL_BYTES_MAX, REQUEST_MS};

/// Term and leader a request was last offered to; it is offered again when they change.
pub(crate) type Leadership = (u64, u64);

struct Proposal {
    id: u64,
    bytes: Bytes,
    deadline_ms: u64,
}

/// Proposals by sequence number.
#[derive(Default)]
pub(crate) struct Proposals {
    last: u64,
    open: BTreeMap<u64, Proposal>,
    // Up to which sequence number all were offered, and to whom.
    offered: Option<(Leadership, u64)>,
}

impl Proposals {
    /// The sequence number for the next proposal.
    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(crate) fn add(&mut self, sequence: u64, id: u64, bytes: Bytes, now_ms: u64) {
        self.open.insert(sequence, Proposal { id, bytes, deadline_ms: now_ms + REQUEST_MS });
    }

    /// The oldest proposals this leadership has not seen, as many as go together.
    pub(crate) fn due(&self, leadership: Leadership) -> Vec<(u64, Bytes)> {
        let mut bytes = 0;
        let seen = self.offered.filter(|(to, _)| *to == leadership).map_or(0, |(_, through)| through);
        let together = self.open.range(seen + 1..).take_while(|(_, proposal)| {
            let first = bytes == 0;
            bytes += proposal.bytes.len();
            first || bytes <= PROPOSAL_BYTES_MAX
        });
        together.map(|(sequence, proposal)| (*sequence, proposal.bytes.clone())).collect()
    }

    /// All up to this sequence number were offered.
    pub(crate) fn offered(&mut self, through: u64, leadership: Leadership) {
        self.offered = Some((leadership, through));
    }

    /// Offers everything again: what was sent may be lost.
    pub(crate) fn offer_again(&mut self) {
        self.offered = None;
    }

    /// Ends a proposal; the request to answer, if it is still open.
    pub(crate) fn close(&mut self, sequence: u64) -> Option<u64> {
        self.open.remove(&sequence).map(|proposal| proposal.id)
    }

    /// Ends those whose time is over.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<u64> {
        // All wait equally long, so the oldest ends first.
        let over: Vec<u64> =
            self.open.iter().take_while(|(_, p)| p.deadline_ms <= now_ms).map(|(sequence, _)| *sequence).collect();
        over.into_iter().filter_map(|sequence| self.close(sequence)).collect()
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        self.open.first_key_value().map(|(_, proposal)| proposal.deadline_ms)
    }
}

struct Read {
    id: u64,
    deadline_ms: u64,
}

/// Linearizable reads: waiting to be asked for, asked for under a number, and confirmed for an index.
#[derive(Default)]
pub(crate) struct Reads {
    last: u64,
    waiting: Vec<Read>,
    asked: BTreeMap<u64, Vec<Read>>,
    confirmed: Vec<(u64, Read)>,
}

impl Reads {
    pub(crate) fn add(&mut self, id: u64, now_ms: u64) {
        self.waiting.push(Read { id, deadline_ms: now_ms + REQUEST_MS });
    }

    /// All waiting reads go together under the number returned.
    pub(crate) fn ask(&mut self) -> Option<u64> {
        if self.waiting.is_empty() {
            return None;
        }
        self.last += 1;
        self.asked.insert(self.last, std::mem::take(&mut self.waiting));
        Some(self.last)
    }

    /// Asks again for everything unconfirmed: the question or its answer may be lost.
    pub(crate) fn ask_again(&mut self) {
        self.waiting.extend(std::mem::take(&mut self.asked).into_values().flatten());
    }

    /// What was asked under this number may be answered once `index` is applied.
    pub(crate) fn confirm(&mut self, asked: u64, index: u64) {
        let reads = self.asked.remove(&asked).unwrap_or_default();
        self.confirmed.extend(reads.into_iter().map(|read| (index, read)));
    }

    /// Reads that may be answered now that `applied` is applied.
    pub(crate) fn ready(&mut self, applied: u64) -> Vec<u64> {
        self.confirmed.extract_if(.., |(index, _)| *index <= applied).map(|(_, read)| read.id).collect()
    }

    /// Ends those whose time is over.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<u64> {
        let over = |read: &Read| read.deadline_ms <= now_ms;
        let mut ids: Vec<u64> = self.waiting.extract_if(.., |read| over(read)).map(|read| read.id).collect();
        for reads in self.asked.values_mut() {
            ids.extend(reads.extract_if(.., |read| over(read)).map(|read| read.id));
        }
        self.asked.retain(|_, reads| !reads.is_empty());
        ids.extend(self.confirmed.extract_if(.., |(_, read)| over(read)).map(|(_, read)| read.id));
        ids
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        let all = self.waiting.iter().chain(self.asked.values().flatten()).chain(self.confirmed.iter().map(|(_, r)| r));
        all.map(|read| read.deadline_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposal_is_offered_once_to_each_leadership_until_it_is_closed() {
        let mut proposals = Proposals::default();
        let sequence = proposals.next_sequence();
        proposals.add(sequence, 7, "x".into(), 0);
        assert_eq!(proposals.due((1, 1)), [(1, Bytes::from("x"))]);
        proposals.offered(1, (1, 1));
        assert_eq!(proposals.due((1, 1)), []);
        assert_eq!(proposals.due((2, 3)), [(1, Bytes::from("x"))]);
        assert_eq!(proposals.close(1), Some(7));
        assert_eq!(proposals.close(1), None);
    }

    #[test]
    fn requests_end_when_their_time_is_over() {
        let mut proposals = Proposals::default();
        let mut reads = Reads::default();
        for now_ms in [0, 10] {
            let sequence = proposals.next_sequence();
            proposals.add(sequence, now_ms, Bytes::new(), now_ms);
            reads.add(now_ms, now_ms);
        }
        reads.ask();
        assert_eq!(proposals.expire(REQUEST_MS + 9), [0]);
        assert_eq!(reads.expire(REQUEST_MS + 9), [0]);
        assert_eq!((proposals.deadline(), reads.deadline()), (Some(REQUEST_MS + 10), Some(REQUEST_MS + 10)));
    }

    #[test]
    fn a_read_waits_for_its_index() {
        let mut reads = Reads::default();
        reads.add(1, 0);
        let asked = reads.ask().unwrap();
        reads.add(2, 0);
        reads.confirm(asked, 5);
        assert_eq!(reads.ready(4), []);
        assert_eq!(reads.ready(5), [1]);
        assert_eq!(reads.deadline(), Some(REQUEST_MS));
    }
}
