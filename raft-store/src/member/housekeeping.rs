//! What a member sees to after every turn, whatever the turn was about.

use super::{Answer, Member, Output};
use crate::error::StoreError;

impl Member {
    pub(super) fn expire(&mut self) {
        let now_ms = self.now.mono_ms;
        let mut over = self.proposals.expire(now_ms);
        over.extend(self.reads.expire(now_ms));
        over.extend(self.changes.extract_if(.., |_, open| open.deadline_ms <= now_ms).map(|(_, open)| open.id));
        self.answers.extend(over.into_iter().map(|id| (id, Err(StoreError::Timeout))));
        let revision = self.state.mvcc.revision();
        let ready = self.reads.ready(self.state.index);
        self.answers.extend(ready.into_iter().map(|id| (id, Ok(Answer::Revision(revision)))));
    }

    /// An orderly stop: hand over leadership, wait for the disk, leave nothing to the next start's replay.
    pub(super) fn stop(&mut self, out: &mut Vec<Output>) {
        let Some(deadline_ms) = self.stopping else { return };
        if self.is_leader() && self.now.mono_ms < deadline_ms && self.hand_over() {
            return;
        }
        if self.unsynced.is_empty() && self.checkpointing.is_none() && self.checkpointed == self.state.index {
            out.push(Output::Stopped);
        }
    }
}
