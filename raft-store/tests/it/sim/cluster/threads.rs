//! What the members' threads for the log and the checkpoint do, a little later than they were asked.

use std::io::ErrorKind;

use super::{Cluster, Event};
use crate::checkpoint::CheckpointError;
use crate::driver::{CheckpointWork, LogWork};
use crate::limits::MARK_MS;
use crate::log::LogError;
use crate::member::{Batch, Input};
use crate::roster::{Roster, Stage};

impl Cluster {
    pub(super) fn queue_log(&mut self, id: u64, life: u64, work: LogWork) {
        let delay = self.rng.below(3);
        let Some(live) = self.live(id, life) else { return };
        live.log_queue.push_back(work);
        if !std::mem::replace(&mut live.log_busy, true) {
            self.after(delay, Event::LogWrite(id, life));
        }
    }

    pub(super) fn log_write(&mut self, id: u64, life: u64) {
        let delay = 1 + self.rng.below(5);
        let Some(live) = self.live(id, life) else { return };
        let mut records = Vec::new();
        let mut last = 0;
        let mut truncate = None;
        for work in std::mem::take(&mut live.log_queue) {
            match work {
                LogWork::Write(batch) => {
                    records.extend(batch.records);
                    last = batch.number;
                }
                LogWork::Truncate(index) => truncate = Some(index),
            }
        }
        let written = live.log.write(&records).and_then(|()| truncate.map_or(Ok(()), |index| live.log.truncate(index)));
        match written {
            Ok(()) => self.after(delay, Event::LogSync(id, life, last)),
            Err(LogError::Io(error)) if error.kind() == ErrorKind::StorageFull => {
                live.log_queue.push_front(LogWork::Write(Batch { number: last, records }));
                live.log_queue.extend(truncate.map(LogWork::Truncate));
                self.after(200, Event::LogWrite(id, life));
                self.step(id, vec![Input::SpaceChecked { full: true }]);
            }
            Err(_) => self.crash(id),
        }
    }

    pub(super) fn log_sync(&mut self, id: u64, life: u64, number: u64) {
        let Some(live) = self.live(id, life) else { return };
        if live.log.sync().is_err() {
            self.summary.failed_syncs += 1;
            return self.crash(id);
        }
        live.log_busy = !live.log_queue.is_empty();
        if live.log_busy {
            self.after(0, Event::LogWrite(id, life));
        } else {
            // As in production: a mark when nothing waits, durable after a while. A full disk takes it next time.
            drop(live.log.mark());
            self.after(MARK_MS, Event::MarkSync(id, life));
        }
        if number > 0 {
            self.step(id, vec![Input::LogSynced { number }]);
        }
    }

    pub(super) fn queue_checkpoint(&mut self, id: u64, life: u64, work: CheckpointWork) {
        let delay = self.rng.below(100);
        let Some(live) = self.live(id, life) else { return };
        live.checkpoint_queue.push_back(work);
        if !std::mem::replace(&mut live.checkpoint_busy, true) {
            self.after(delay, Event::Checkpoint(id, life));
        }
    }

    pub(super) fn run_checkpoint(&mut self, id: u64, life: u64) {
        let delay = self.rng.below(100);
        let disk = self.process(id).disk.clone();
        let Some(live) = self.live(id, life) else { return };
        let Some(work) = live.checkpoint_queue.pop_front() else { return };
        let done = match &work {
            CheckpointWork::Commit(delta) => live.checkpoint.commit(delta),
            CheckpointWork::Install(state) => live.checkpoint.install(state),
            CheckpointWork::Peers(membership) => {
                live.roster.note(membership);
                live.roster.write(&disk).map_err(CheckpointError::Io)
            }
            CheckpointWork::Healed => {
                live.roster.stage = Stage::Whole;
                live.roster.write(&disk).map_err(CheckpointError::Io)
            }
            CheckpointWork::Hash(mvcc) => {
                let (revision, hash) = (mvcc.revision(), mvcc.added_up());
                self.after(0, Event::Input(id, life, Input::Hashed { revision, hash }));
                Ok(())
            }
            CheckpointWork::CheckSpace => Ok(()),
        };
        let Some(live) = self.live(id, life) else { return };
        match done {
            Ok(()) => {}
            Err(CheckpointError::Full) => {
                live.checkpoint_queue.push_front(work);
                self.after(200, Event::Checkpoint(id, life));
                return self.step(id, vec![Input::SpaceChecked { full: true }]);
            }
            Err(CheckpointError::Damaged(what)) => {
                let roster = Roster { stage: Stage::Damaged, damage: what, ..live.roster.clone() };
                // Where even that cannot be written, the next start finds out by itself.
                drop(roster.write(&disk));
                return self.crash(id);
            }
            Err(_) => {
                self.summary.failed_syncs += 1;
                return self.crash(id);
            }
        }
        live.checkpoint_busy = !live.checkpoint_queue.is_empty();
        if live.checkpoint_busy {
            self.after(delay, Event::Checkpoint(id, life));
        }
        let full = self.process(id).disk.is_full();
        let done = matches!(work, CheckpointWork::Commit(_) | CheckpointWork::Install(_));
        let done = done.then_some(Input::CheckpointDone);
        self.step(id, done.into_iter().chain([Input::SpaceChecked { full }]).collect());
    }
}
