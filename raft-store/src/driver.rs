//! The threads that carry a member: one for the machine, one for the log, one for the checkpoint. They choose nothing.
//!
//! The machine's thread waits for its inbox or the time the machine asks for, takes a turn and performs the outputs in
//! order. The log's thread writes and syncs all batches that came together. An error of the disk ends the member: what
//! a failed sync left behind is unknown, so it is never repeated. A full disk is waited out, since nothing was written.
//! The checkpoint's thread keeps the roster too, and adds up the state when members compare theirs.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::checkpoint::{Checkpoint, CheckpointError, Delta};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::limits::{DISK_CHECK_MS, DISK_RESERVE_BYTES, MARK_MS, TURN_INPUTS_MAX};
use crate::log::{Log, LogError};
use crate::member::{Answer, Batch, Input, Member, MemberChange, Now, Output};
use crate::mvcc::Mvcc;
use crate::roster::{Roster, Stage};
use crate::state::{Membership, State};
use crate::store::Picture;
use crate::transport::Transport;

/// Where the answer to a request goes; holds the request's place until then.
pub(crate) struct Reply {
    pub(crate) to: oneshot::Sender<Result<Answer, StoreError>>,
    pub(crate) _place: OwnedSemaphorePermit,
}

/// What a client may ask of the member.
pub(crate) enum Request {
    Propose(crate::command::Operation),
    Read,
    Change(MemberChange),
    Transfer(u64),
}

/// What arrives in a member's inbox.
pub(crate) enum Envelope {
    Request(Request, Reply),
    Capture(oneshot::Sender<State>),
    Input(Input),
    /// A message of a peer; the place bounds how many of them wait.
    Peer(Input, OwnedSemaphorePermit),
    /// A peer connected and told where it is reached.
    Introduced(u64, String, OwnedSemaphorePermit),
    /// The disk failed, or nobody is left to ask: end now.
    End(String),
    /// What is kept on disk turned out not to be believed.
    Damaged(String),
}

pub(crate) enum LogWork {
    Write(Batch),
    Truncate(u64),
}

pub(crate) enum CheckpointWork {
    Commit(Delta),
    Install(Box<State>),
    CheckSpace,
    Hash(Box<Mvcc>),
    Peers(Box<Membership>),
    Healed,
}

/// Why a life of a member ended.
pub(crate) enum Ended {
    /// There is to be no other.
    Over(String),
    /// What it remembers is not to be believed.
    Damaged(String),
}

/// The machine's thread.
pub(crate) struct Driver {
    pub(crate) member: Member,
    pub(crate) inbox: Receiver<Envelope>,
    pub(crate) log: SyncSender<LogWork>,
    pub(crate) checkpoint: SyncSender<CheckpointWork>,
    pub(crate) pictures: watch::Sender<Picture>,
    pub(crate) transport: Option<Transport>,
    pub(crate) clock: Clock,
    pub(crate) replies: HashMap<u64, Reply>,
    pub(crate) last_id: u64,
}

/// Reads both clocks of the operating system.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(crate) fn now(&self) -> Now {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: ms(self.0.elapsed()), wall_ms: ms(wall) }
    }
}

impl Driver {
    /// Runs the member to its end; returns why it ended, and the inbox for its next life.
    pub(crate) fn run(mut self) -> (Ended, Receiver<Envelope>) {
        let ended = self.turns();
        if matches!(ended, Ended::Damaged(_)) {
            for (_, reply) in self.replies.drain() {
                drop(reply.to.send(Err(StoreError::Timeout)));
            }
        }
        (ended, self.inbox)
    }

    fn turns(&mut self) -> Ended {
        let mut inputs = Vec::new();
        let mut outputs = Vec::new();
        loop {
            let mut ended = None;
            if let Some(first) = self.wait() {
                ended = self.take(first, &mut inputs);
                while ended.is_none() && inputs.len() < TURN_INPUTS_MAX {
                    let Ok(next) = self.inbox.try_recv() else { break };
                    ended = self.take(next, &mut inputs);
                }
            }
            if let Some(ended) = ended {
                return ended;
            }
            self.member.step(self.clock.now(), inputs.drain(..), &mut outputs);
            for output in outputs.drain(..) {
                if let Err(ended) = self.perform(output) {
                    return ended;
                }
            }
            // Last, so that the disk is at work already.
            if let Some(transport) = &self.transport {
                transport.flush();
            }
        }
    }

    fn wait(&self) -> Option<Envelope> {
        let Some(wake_at) = self.member.wake_at() else {
            return Some(self.inbox.recv().unwrap_or_else(|_| Envelope::End("nobody is left to ask".to_owned())));
        };
        let wait_ms = wake_at.saturating_sub(self.clock.now().mono_ms);
        match self.inbox.recv_timeout(Duration::from_millis(wait_ms)) {
            Ok(envelope) => Some(envelope),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Envelope::End("nobody is left to ask".to_owned())),
        }
    }

    fn take(&mut self, envelope: Envelope, inputs: &mut Vec<Input>) -> Option<Ended> {
        match envelope {
            Envelope::Request(request, reply) => {
                self.last_id += 1;
                let id = self.last_id;
                self.replies.insert(id, reply);
                inputs.push(match request {
                    Request::Propose(operation) => Input::Proposed { id, operation },
                    Request::Read => Input::ReadRequested { id },
                    Request::Change(change) => Input::ChangeRequested { id, change },
                    Request::Transfer(to) => Input::TransferRequested { id, to },
                });
            }
            // The asker may be gone; then nobody misses the state.
            Envelope::Capture(to) => drop(to.send(self.member.state().clone())),
            Envelope::Input(input) => inputs.push(input),
            Envelope::Peer(input, _place) => inputs.push(input),
            Envelope::Introduced(member, address, _place) => {
                if let Some(transport) = &mut self.transport {
                    transport.introduce(member, address);
                }
            }
            Envelope::End(reason) => return Some(Ended::Over(reason)),
            Envelope::Damaged(what) => return Some(Ended::Damaged(what)),
        }
        None
    }

    fn perform(&mut self, output: Output) -> Result<(), Ended> {
        match output {
            Output::Write(batch) => hand(&self.log, LogWork::Write(batch))?,
            Output::Truncate(index) => hand(&self.log, LogWork::Truncate(index))?,
            Output::Checkpoint(delta) => hand(&self.checkpoint, CheckpointWork::Commit(delta))?,
            Output::Install(state) => hand(&self.checkpoint, CheckpointWork::Install(state))?,
            Output::CheckSpace => hand(&self.checkpoint, CheckpointWork::CheckSpace)?,
            Output::Publish => self.publish(),
            Output::Answer(id, answer) => {
                if let Some(reply) = self.replies.remove(&id) {
                    // A caller that went away needs no answer.
                    drop(reply.to.send(answer));
                }
            }
            Output::Send(message) => {
                if let Some(transport) = &self.transport {
                    transport.send(message);
                }
            }
            Output::SendSnapshot(message, state) => {
                if let Some(transport) = &self.transport {
                    transport.send_snapshot(message, state);
                }
            }
            Output::Peers(membership) => {
                if let Some(transport) = &mut self.transport {
                    transport.set_peers(membership.addresses.clone());
                }
                hand(&self.checkpoint, CheckpointWork::Peers(Box::new(membership)))?;
            }
            Output::Hash(mvcc) => hand(&self.checkpoint, CheckpointWork::Hash(mvcc))?,
            Output::Healed => {
                tracing::info!(member = self.member.id(), "the member is whole again");
                hand(&self.checkpoint, CheckpointWork::Healed)?;
                self.publish();
            }
            Output::Stopped => return Err(Ended::Over("it was asked to".to_owned())),
            Output::Fail(reason) => return Err(Ended::Over(reason)),
            Output::Diverged(what) => return Err(Ended::Damaged(what)),
        }
        Ok(())
    }
}

impl Driver {
    fn publish(&self) {
        let picture = Picture::of(&self.member);
        let (member, term, leader) = (picture.status.member_id, picture.status.term, picture.status.leader);
        let before = self.pictures.send_replace(picture).status;
        if (before.term, before.leader) != (term, leader) {
            tracing::info!(member, term, leader, "leadership changed");
        }
    }
}

/// Every write waits for the log's thread, which seldom runs for long: where the system allows it it goes first. On a busy
/// machine this is the difference between a sync's own time and several slices of the scheduler. The machine's thread
/// does not: it would wake for each request alone and lose what makes many of them cheap, taking them together.
fn hurry() {
    set_niceness(-15);
}

/// Nobody waits for the checkpoint until very much of it waits ([`crate::limits::CHECKPOINT_LAG_BYTES_MAX`]); then nobody
/// else works either. It is often two fifths of what a busy member does, and goes on behind the rest.
fn give_way() {
    set_niceness(10);
}

/// Of the calling thread. Without the privilege to hurry it stays like any other.
#[cfg(target_os = "linux")]
fn set_niceness(niceness: i32) {
    let _ = rustix::process::setpriority_process(None, niceness);
}

/// Elsewhere the call would mean the whole process.
#[cfg(not(target_os = "linux"))]
fn set_niceness(_: i32) {}

fn hand<T>(to: &SyncSender<T>, work: T) -> Result<(), Ended> {
    to.send(work).map_err(|_| Ended::Over("a thread of the store ended".to_owned()))
}

/// Starts the log's thread. It ends with the sender of its work.
pub(crate) fn log_thread(
    mut log: Log,
    work: Receiver<LogWork>,
    inbox: SyncSender<Envelope>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("store-log".to_owned()).spawn(move || {
        hurry();
        if let Err(error) = run_log(&mut log, &work, &inbox) {
            // The inbox is gone only if the member has ended already.
            drop(inbox.send(Envelope::End(format!("the log cannot be written: {error}"))));
        }
    })
}

/// Writes what comes; when nothing more waits the log is marked, and when it stays quiet the mark is made durable.
fn run_log(log: &mut Log, work: &Receiver<LogWork>, inbox: &SyncSender<Envelope>) -> Result<(), LogError> {
    loop {
        let mut waits = work.try_recv().ok();
        if waits.is_none() {
            match log.mark() {
                // Space will be asked for again by whoever has something to say.
                Err(LogError::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {}
                done => done?,
            }
            waits = work.recv_timeout(Duration::from_millis(MARK_MS)).ok();
        }
        if waits.is_none() {
            log.sync()?;
            let Ok(next) = work.recv() else { return Ok(()) };
            waits = Some(next);
        }
        if let Some(first) = waits {
            write_together(log, first, work, inbox)?;
        }
    }
}

/// Writes everything that waits, syncs once, and reports the last batch.
fn write_together(
    log: &mut Log,
    first: LogWork,
    work: &Receiver<LogWork>,
    inbox: &SyncSender<Envelope>,
) -> Result<(), LogError> {
    let mut records = Vec::new();
    let mut number = None;
    let mut truncate = None;
    for item in std::iter::once(first).chain(work.try_iter()) {
        match item {
            LogWork::Write(batch) => {
                records.extend(batch.records);
                number = Some(batch.number);
            }
            LogWork::Truncate(index) => truncate = Some(index),
        }
    }
    let mut told = false;
    loop {
        match log.write(&records) {
            Err(LogError::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!("no space for the log of the store; writes wait until space returns");
                }
                drop(inbox.send(Envelope::Input(Input::SpaceChecked { full: true })));
                std::thread::sleep(Duration::from_millis(DISK_CHECK_MS));
            }
            done => break done?,
        }
    }
    log.sync()?;
    if let Some(number) = number {
        drop(inbox.send(Envelope::Input(Input::LogSynced { number })));
    }
    truncate.map_or(Ok(()), |index| log.truncate(index))
}

/// Starts the checkpoint's thread, which keeps the roster too and returns it. It ends with the sender of its work.
pub(crate) fn checkpoint_thread(
    mut checkpoint: Checkpoint,
    mut roster: Roster,
    disk: Arc<dyn Disk>,
    work: Receiver<CheckpointWork>,
    inbox: SyncSender<Envelope>,
) -> io::Result<JoinHandle<Roster>> {
    let report = move |input| drop(inbox.send(input));
    std::thread::Builder::new().name("store-checkpoint".to_owned()).spawn(move || {
        give_way();
        while let Ok(item) = work.recv() {
            let done = match &item {
                CheckpointWork::Commit(delta) => until_space(&report, || checkpoint.commit(delta)),
                CheckpointWork::Install(state) => until_space(&report, || checkpoint.install(state)),
                CheckpointWork::Peers(membership) => {
                    roster.note(membership);
                    roster.write(disk.as_ref()).map_err(CheckpointError::Io)
                }
                CheckpointWork::Healed => {
                    roster.stage = Stage::Whole;
                    roster.write(disk.as_ref()).map_err(CheckpointError::Io)
                }
                CheckpointWork::Hash(mvcc) => {
                    let (revision, hash) = (mvcc.revision(), mvcc.added_up());
                    report(Envelope::Input(Input::Hashed { revision, hash }));
                    Ok(())
                }
                CheckpointWork::CheckSpace => Ok(()),
            };
            if let Err(error) = done {
                report(match error {
                    CheckpointError::Damaged(_) => Envelope::Damaged(error.to_string()),
                    error => Envelope::End(format!("the checkpoint cannot be written: {error}")),
                });
                break;
            }
            if matches!(item, CheckpointWork::Commit(_) | CheckpointWork::Install(_)) {
                report(Envelope::Input(Input::CheckpointDone));
            }
            let full = disk.free_bytes().is_some_and(|free| free < DISK_RESERVE_BYTES);
            report(Envelope::Input(Input::SpaceChecked { full }));
        }
        roster
    })
}

fn until_space(
    report: &impl Fn(Envelope),
    mut write: impl FnMut() -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    loop {
        match write() {
            Err(CheckpointError::Full) => {
                report(Envelope::Input(Input::SpaceChecked { full: true }));
                std::thread::sleep(Duration::from_millis(DISK_CHECK_MS));
            }
            done => return done,
        }
    }
}
