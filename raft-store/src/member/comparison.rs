//! Members compare their states now and then, so that one that differs is found before anybody believes it.
//!
//! The leader proposes a comparison. Where that entry is applied every member has the same revision: each takes its state
//! as of there, adds up the hash of every key anew, in the background, and proposes what it found. A member whose own
//! hash is not the one that a majority of the voters found has diverged, through bad memory or a mistake of ours. It
//! stops believing itself and heals like a member whose files are damaged; a leader is judged like everybody else. Where
//! no hash has a majority nobody can say who is right: that is told, and nothing is done.

use std::collections::BTreeMap;

use super::{Member, Output};
use crate::command::Operation;
use crate::limits::HASH_CHECK_MS;
use crate::planted::{Bug, planted};

/// What was found at one revision.
#[derive(Default)]
pub(super) struct Comparison {
    revision: u64,
    own: Option<u64>,
    found: BTreeMap<u64, u64>,
}

impl Member {
    /// Begins a comparison, if it is time and this member leads.
    pub(super) fn compare(&mut self) {
        let due = self.now.mono_ms >= self.compared_ms + HASH_CHECK_MS && self.state.index > self.compared_index;
        if due && self.is_leader() && self.has_peers() {
            (self.compared_ms, self.compared_index) = (self.now.mono_ms, self.state.index);
            self.enqueue(0, Operation::Compare);
        }
    }

    /// The comparison was applied: from here everybody looks at the same revision.
    pub(super) fn compare_here(&mut self, out: &mut Vec<Output>) {
        let revision = self.state.mvcc.revision();
        (self.compared_ms, self.compared_index) = (self.now.mono_ms, self.state.index);
        self.comparison = Comparison { revision, ..Comparison::default() };
        out.push(Output::Hash(Box::new(self.state.mvcc.clone())));
    }

    /// This member's own state was added up.
    pub(super) fn hashed(&mut self, revision: u64, hash: u64, out: &mut Vec<Output>) {
        if self.comparison.revision == revision {
            self.comparison.own = Some(hash);
            self.enqueue(0, Operation::Check { revision, hash });
            self.judge(out);
        }
    }

    /// A member told what it found.
    pub(super) fn told(&mut self, member: u64, revision: u64, hash: u64, out: &mut Vec<Output>) {
        if self.comparison.revision == revision {
            self.comparison.found.insert(member, hash);
            self.judge(out);
        }
    }

    fn judge(&mut self, out: &mut Vec<Output>) {
        let Comparison { revision, own, found } = &self.comparison;
        let voters = &self.state.membership.voters;
        let found: Vec<u64> = voters.iter().filter_map(|voter| found.get(voter).copied()).collect();
        let agrees = |hash: &u64| 2 * found.iter().filter(|other| *other == hash).count() > voters.len();
        let right = found.iter().find(|hash| agrees(hash));
        match (right, own) {
            (Some(right), Some(own)) if own != right && !planted(Bug::DivergenceIgnored) => {
                out.push(Output::Diverged(format!(
                    "at revision {revision} the state added up to {own:016x}, that of most members to {right:016x}"
                )));
            }
            (None, _) if found.len() == voters.len() => {
                tracing::error!(revision, ?found, "members differ and no majority agrees");
            }
            _ => {}
        }
    }
}
