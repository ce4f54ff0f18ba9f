//! What a member sees to after every turn, whatever the turn was about.

use super::{Answer, Member, Output};
use crate::command::Operation;
use crate::error::StoreError;
use crate::limits::HASH_CHECK_ENTRIES;

impl Member {
    pub(super) fn check_hash(&mut self) {
        let due = self.state.index >= self.checked_index + HASH_CHECK_ENTRIES;
        if due && self.is_leader() && self.has_peers() {
            self.checked_index = self.state.index;
            let latest = self.state.mvcc.revision();
            if let Some(hash) = self.state.mvcc.changes(latest).map(|past| past.hash) {
                self.enqueue(0, Operation::Check { revision: latest, hash });
            }
        }
    }

    pub(super) fn expire(&mut self) {
        let now_ms = self.now.mono_ms;
        let mut over = self.proposals.expire(now_ms);
        over.extend(self.reads.expire(now_ms));
        over.extend(self.changes.extract_if(.., |_, (_, deadline)| *deadline <= now_ms).map(|(_, (id, _))| id));
        self.answers.extend(over.into_iter().map(|id| (id, Err(StoreError::Timeout))));
        let revision = self.state.mvcc.revision();
        let ready = self.reads.ready(self.state.index);
        self.answers.extend(ready.into_iter().map(|id| (id, Ok(Answer::Revision(revision)))));
    }

    /// An orderly stop: hand over leadership, wait for the disk, leave nothing to the next start's replay.
    pub(super) fn stop(&mut self, out: &mut Vec<Output>) {
        let Some(deadline_ms) = self.stopping else { return };
        let others = self.state.membership.voters.iter().copied().filter(|voter| *voter != self.id);
        let matched = |voter: &u64| self.raw.raft.prs().get(*voter).map_or(0, |progress| progress.matched);
        if self.is_leader()
            && self.now.mono_ms < deadline_ms
            && let Some(successor) = others.max_by_key(matched)
        {
            self.raw.transfer_leader(successor);
            return;
        }
        if self.unsynced.is_empty() && self.checkpointing.is_none() && self.checkpointed == self.state.index {
            out.push(Output::Stopped);
        }
    }
}
