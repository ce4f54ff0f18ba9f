//! The member's dealings with what raft has ready: persist, send, apply, checkpoint.

use raft::Storage as _;
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};

use super::membership::conf_state;
use super::{Answer, Batch, Member, Output, Unsynced};
use crate::checkpoint::{Delta, encode_head};
use crate::command::Command;
use crate::limits::{CHECKPOINT_BYTES, CHECKPOINT_MS};
use crate::log::Record;
use crate::planted::{Bug, planted};
use crate::state::{Applied, State};

impl Member {
    /// Takes one portion of work from raft.
    pub(super) fn ready(&mut self, out: &mut Vec<Output>) {
        let mut ready = self.raw.ready();
        let number = ready.number();
        for message in ready.take_messages() {
            self.send(message, out);
        }
        let mut records = Vec::new();
        let mut installed = None;
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            installed = Some(metadata.index);
            records.push(Record::Restart { index: metadata.index, term: metadata.term });
            self.install(metadata.index, metadata.term, out);
        }
        if let Some(hard) = ready.hs() {
            self.raw.mut_store().hard = hard.clone();
            self.hard_dirty = true;
        }
        let entries = ready.take_entries();
        self.raw.mut_store().append(&entries);
        if ready.must_sync() || !entries.is_empty() {
            self.note_hard(&mut records);
            records.extend(entries.into_iter().map(Record::Entry));
        }
        for state in ready.take_read_states() {
            self.confirm(&state.request_ctx, state.index);
        }
        let messages = ready.take_persisted_messages();
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);
        self.persist(number, records, messages, installed, out);
        self.apply_all(committed, out);
    }

    /// The hard state, its commit index held back to what is durable: recovery takes a log that ends before it for
    /// damaged.
    fn note_hard(&mut self, records: &mut Vec<Record>) {
        if self.restart_log {
            self.restart_log = false;
            let (index, term) = self.raw.store().start;
            records.insert(0, Record::Restart { index, term });
        }
        if self.hard_dirty {
            self.hard_dirty = false;
            let hard = self.raw.store().hard.clone();
            let durable = self.raw.raft.raft_log.persisted;
            let commit = hard.commit.min(durable);
            records.push(Record::Hard(HardState { commit, ..hard }));
        }
    }

    fn persist(
        &mut self,
        number: u64,
        records: Vec<Record>,
        messages: Vec<Message>,
        installed: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        let written = !records.is_empty();
        let (early, messages) =
            if planted(Bug::MessagesBeforeFsync) { (messages, Vec::new()) } else { (Vec::new(), messages) };
        for message in early {
            self.send(message, out);
        }
        self.unsynced.push_back(Unsynced { number, written, messages, installed });
        if written {
            let batch = Batch { number, records };
            match &mut self.held {
                Some(held) => held.push(batch),
                None => out.push(Output::Write(batch)),
            }
        }
        let through = if planted(Bug::AckBeforeFsync) && self.held.is_none() { number } else { 0 };
        self.log_synced(through, out);
    }

    /// Batches up to `number` are durable: raft learns of it, and what waited for them is sent.
    pub(super) fn log_synced(&mut self, number: u64, out: &mut Vec<Output>) {
        while let Some(oldest) = self.unsynced.pop_front_if(|oldest| !oldest.written || oldest.number <= number) {
            self.raw.on_persist_ready(oldest.number);
            if let Some(index) = oldest.installed {
                self.raw.advance_apply_to(index);
            }
            for message in oldest.messages {
                self.send(message, out);
            }
        }
    }

    fn send(&mut self, mut message: Message, out: &mut Vec<Output>) {
        if message.get_msg_type() != MessageType::MsgSnapshot {
            out.push(Output::Send(message));
            return;
        }
        // The state sent is the one applied now, which may be ahead of what raft asked for.
        let conf = self.raw.store().conf.clone();
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (self.state.index, self.state.term);
        metadata.set_conf_state(conf);
        out.push(Output::SendSnapshot(message, Box::new(self.state.clone())));
    }

    /// Replaces the state by the one that came with a snapshot raft has accepted.
    fn install(&mut self, index: u64, term: u64, out: &mut Vec<Output>) {
        let Some(state) = self.incoming.take().filter(|state| (state.index, state.term) == (index, term)) else {
            out.push(Output::Fail(format!("a snapshot of index {index} came without its state")));
            return;
        };
        self.raw.mut_store().restart(index, term);
        self.raw.mut_store().conf = conf_state(&state.membership);
        self.state = *state;
        if !planted(Bug::OldDeltaKept) {
            self.delta = Delta::default();
        }
        if !planted(Bug::InstallNotAwaited) {
            self.held.get_or_insert_default();
        }
        // A checkpoint may be in flight; this one comes after it and replaces it.
        self.in_flight += 1;
        self.checkpointing = Some(index);
        out.push(Output::Install(Box::new(self.state.clone())));
        out.push(Output::Peers(self.state.membership.clone()));
    }

    fn apply_all(&mut self, entries: Vec<Entry>, out: &mut Vec<Output>) {
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        if self.state.index == self.checkpointed {
            self.dirty_ms = self.now.mono_ms;
        }
        for entry in entries {
            assert!(entry.index == self.state.index + 1, "entries are applied in order, each once");
            (self.state.index, self.state.term) = (entry.index, entry.term);
            match entry.get_entry_type() {
                // A new leader's first entry, or a change of membership raft replaced.
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => self.apply(entry, out),
                EntryType::EntryConfChangeV2 => self.apply_change(&entry, out),
                EntryType::EntryConfChange => out.push(unreadable(entry.index)),
            }
            self.raw.mut_store().applied = (self.state.index, self.state.term);
        }
        self.raw.advance_apply_to(last);
    }

    fn apply(&mut self, entry: Entry, out: &mut Vec<Output>) {
        let Ok(command) = Command::decode(entry.data) else {
            out.push(unreadable(entry.index));
            return;
        };
        let origin = command.origin;
        let (applied, revision) = self.state.apply(command);
        if let Some(revision) = revision {
            self.delta.note(revision);
        }
        let answer = match applied {
            Applied::Txn(reply) => Ok(Answer::Txn(reply)),
            Applied::Done => Ok(Answer::Done),
            Applied::Refused(error) => Err(error),
            Applied::Duplicate => return,
            Applied::Compare => {
                self.compare_here(out);
                Ok(Answer::Done)
            }
            Applied::Told { revision, hash } => {
                self.told(origin.member, revision, hash, out);
                Ok(Answer::Done)
            }
        };
        if (origin.member, origin.boot) == (self.id, self.boot)
            && let Some(id) = self.proposals.close(origin.sequence)
        {
            self.answers.push((id, answer));
        }
    }

    pub(super) fn checkpoint_due(&self) -> Option<u64> {
        let dirty = self.checkpointing.is_none() && self.state.index > self.checkpointed;
        let soon = self.delta.bytes >= CHECKPOINT_BYTES || self.stopping.is_some();
        dirty.then_some(if soon { self.now.mono_ms } else { self.dirty_ms + CHECKPOINT_MS })
    }

    pub(super) fn checkpoint(&mut self, out: &mut Vec<Output>) {
        if self.checkpoint_due().is_some_and(|due| due <= self.now.mono_ms) {
            self.in_flight = 1;
            self.checkpointing = Some(self.state.index);
            let changed = std::mem::take(&mut self.delta);
            let (head, floor) = (encode_head(&self.state), self.state.mvcc.floor());
            out.push(Output::Checkpoint(Delta { head, floor, ..changed }));
        }
    }

    /// The checkpoint is durable: the log is not needed below it, but for peers that lag a little.
    pub(super) fn checkpoint_done(&mut self, out: &mut Vec<Output>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(index) = self.checkpointing.take_if(|_| self.in_flight == 0) else { return };
        self.checkpointed = index;
        self.dirty_ms = self.now.mono_ms;
        for batch in self.held.take().into_iter().flatten() {
            out.push(Output::Write(batch));
        }
        let unneeded = match self.has_peers() {
            _ if planted(Bug::TruncatedAboveCheckpoint) => self.state.index,
            true => self.raw.store().below_lag(index),
            false => index,
        };
        if self.raw.store().first_index().is_ok_and(|first| first <= unneeded) {
            self.raw.mut_store().truncate(unneeded);
            out.push(Output::Truncate(unneeded));
        }
    }
}

pub(super) fn unreadable(index: u64) -> Output {
    Output::Fail(format!("entry {index} cannot be read by this version"))
}

/// The state a message's snapshot speaks of, as far as the message tells.
pub(crate) fn speaks_of(message: &Message, state: &State) -> bool {
    let metadata = message.get_snapshot().get_metadata();
    (metadata.index, metadata.term) == (state.index, state.term)
        && *metadata.get_conf_state() == conf_state(&state.membership)
}
