//! One member of the cluster as a pure state machine around raft: inputs and the time go in, outputs come out.
//!
//! It never touches a disk, a socket or a clock, so the simulation runs it whole. Each turn has one order: take the
//! inputs, let time pass, propose and ask what waits, let raft work (persist, send, apply), answer. What must be durable
//! first is held until the log says so. Answers come last, after the picture that contains what they promise.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{RawNode, StateRole};

use crate::checkpoint::Delta;
use crate::codec::{Reader, Writer};
use crate::command::{Command, Operation, Origin, TxnReply};
use crate::error::StoreError;
use crate::limits::{CHECKPOINT_LAG_BYTES_MAX, DISK_CHECK_MS, TRANSFER_MS};
use crate::log::Record;
use crate::mvcc::{Mvcc, mix};
use crate::planted::{Bug, planted};
use crate::requests::{Proposals, Reads};
use crate::state::{Membership, State};
use crate::tail::Tail;

mod comparison;
mod healing;
mod housekeeping;
mod membership;
mod ready;
use comparison::Comparison;
pub(crate) use healing::Healing;
use membership::OpenChange;
pub(crate) use membership::conf_state;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use membership::read_change;
pub(crate) use ready::speaks_of;

/// How often a member that lost its leader stands for election soon, before it waits as long as any other.
const HASTY_ATTEMPTS: u32 = 4;

/// The time, as the driver sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// Milliseconds that never go back; their zero has no meaning.
    pub(crate) mono_ms: u64,
    /// Milliseconds since 1970.
    pub(crate) wall_ms: u64,
}

/// A change of who belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Adds a member that receives everything and decides nothing.
    AddLearner {
        /// Its number, never used before in this cluster.
        member: u64,
        /// Where its peers reach it, `host:port`; refused if another member is reached there.
        address: String,
    },
    /// Lets a learner that has caught up decide, by joint consensus.
    Promote {
        /// The learner.
        member: u64,
    },
    /// Removes a member, by joint consensus. A leader hands over first.
    Remove {
        /// The member.
        member: u64,
    },
    /// Removes a member that lost what it had promised and adds its successor, as a learner, in one step.
    Replace {
        /// The member that is lost; if there is none of this number, whoever is reached at `address`.
        gone: u64,
        /// The successor's number: above that of every member that was ever reached at `address`.
        member: u64,
        /// Where its peers reach it, `host:port`.
        address: String,
    },
}

/// What happened. Requests carry a number under which they are answered, exactly once.
pub(crate) enum Input {
    Proposed {
        id: u64,
        operation: Operation,
    },
    ReadRequested {
        id: u64,
    },
    ChangeRequested {
        id: u64,
        change: MemberChange,
    },
    TransferRequested {
        id: u64,
        to: u64,
    },
    Received(Message),
    /// A snapshot message and the state it speaks of, complete and verified.
    SnapshotReceived(Message, Box<State>),
    SnapshotSent {
        to: u64,
        delivered: bool,
    },
    PeerUnreachable(u64),
    /// The last connection from this peer ended.
    PeerLost(u64),
    /// Every batch up to this one is durable.
    LogSynced {
        number: u64,
    },
    /// The checkpoint or installation asked for is durable.
    CheckpointDone,
    SpaceChecked {
        full: bool,
    },
    /// The keys as of a revision were added up.
    Hashed {
        revision: u64,
        hash: u64,
    },
    StopRequested,
}

/// Log records that belong together; `LogSynced` reports the number.
pub(crate) struct Batch {
    pub(crate) number: u64,
    pub(crate) records: Vec<Record>,
}

/// What to do.
pub(crate) enum Output {
    Send(Message),
    /// Stream the state, then the message; answered by `SnapshotSent`.
    SendSnapshot(Message, Box<State>),
    /// Write and sync; answered by `LogSynced`.
    Write(Batch),
    /// Entries up to this index are not needed in the log.
    Truncate(u64),
    /// Answered by `CheckpointDone`.
    Checkpoint(Delta),
    /// Replace the checkpoint; answered by `CheckpointDone`.
    Install(Box<State>),
    /// Answered by `SpaceChecked`.
    CheckSpace,
    /// The picture or the status changed.
    Publish,
    Answer(u64, Result<Answer, StoreError>),
    /// Who belongs to the cluster changed: keep it where it is found when all else is damaged.
    Peers(Membership),
    /// Add up every key, in the background; answered by `Hashed`.
    Hash(Box<Mvcc>),
    /// The member that began anew is whole again.
    Healed,
    /// The state is not to be believed; says why. The member must end and begin anew.
    Diverged(String),
    /// Everything asked for before the stop is done.
    Stopped,
    /// The member must not go on; says why.
    Fail(String),
}

/// The good answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Txn(TxnReply),
    Revision(u64),
    Done,
}

/// How a member begins.
pub(crate) struct Start {
    pub(crate) member: u64,
    pub(crate) boot: u64,
    pub(crate) tick_ms: u64,
    pub(crate) heartbeat_ticks: usize,
    pub(crate) election_ticks: usize,
    pub(crate) seed: u64,
    pub(crate) state: State,
    pub(crate) tail: Tail,
    /// What was durable did not match the checkpoint: the log begins anew behind it.
    pub(crate) restart_log: bool,
    /// It begins anew after damage.
    pub(crate) healing: Option<Healing>,
}

/// Messages that wait for a batch to be durable.
struct Unsynced {
    number: u64,
    written: bool,
    messages: Vec<Message>,
    installed: Option<u64>,
}

pub(crate) struct Member {
    raw: RawNode<Tail>,
    state: State,
    now: Now,
    id: u64,
    boot: u64,
    seed: u64,
    tick_ms: u64,
    ticked_ms: u64,
    role: (u64, StateRole),
    // How often it still stands for election soon, having lost its leader.
    hasty: u32,
    proposals: Proposals,
    reads: Reads,
    offered_ms: u64,
    changes: BTreeMap<u64, OpenChange>,
    incoming: Option<Box<State>>,
    unsynced: VecDeque<Unsynced>,
    // Batches that must not reach the log before a received state is durable.
    held: Option<Vec<Batch>>,
    restart_log: bool,
    hard_dirty: bool,
    delta: Delta,
    dirty_ms: u64,
    // Index the checkpoint in flight will cover, and the one that is durable.
    checkpointing: Option<u64>,
    in_flight: u32,
    checkpointed: u64,
    comparison: Comparison,
    compared_index: u64,
    compared_ms: u64,
    healing: Option<Healing>,
    petition_ms: u64,
    full: bool,
    space_ms: u64,
    published: (u64, u64, u64, StateRole),
    stopping: Option<u64>,
    answers: Vec<(u64, Result<Answer, StoreError>)>,
}

impl Member {
    /// A member as its disk left it. `logger` receives raft's own trace.
    pub(crate) fn new(start: Start, now: Now, logger: &slog::Logger) -> raft::Result<Member> {
        let config = raft::Config {
            id: start.member,
            election_tick: start.election_ticks,
            heartbeat_tick: start.heartbeat_ticks,
            applied: start.state.index,
            max_size_per_msg: crate::limits::PROPOSAL_BYTES_MAX as u64,
            max_inflight_msgs: crate::limits::INFLIGHT_MESSAGES_MAX,
            max_uncommitted_size: crate::limits::UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: crate::limits::APPLY_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        config.validate()?;
        let raw = RawNode::new(&config, start.tail, logger)?;
        let index = start.state.index;
        let mut member = Member {
            raw,
            state: start.state,
            now,
            id: start.member,
            boot: start.boot,
            seed: start.seed,
            tick_ms: start.tick_ms,
            ticked_ms: now.mono_ms,
            role: (u64::MAX, StateRole::Follower),
            hasty: 0,
            proposals: Proposals::default(),
            reads: Reads::default(),
            offered_ms: now.mono_ms,
            changes: BTreeMap::new(),
            incoming: None,
            unsynced: VecDeque::new(),
            held: None,
            restart_log: start.restart_log,
            hard_dirty: false,
            delta: Delta::default(),
            dirty_ms: now.mono_ms,
            checkpointing: None,
            in_flight: 0,
            checkpointed: index,
            comparison: Comparison::default(),
            compared_index: index,
            compared_ms: now.mono_ms,
            healing: start.healing,
            petition_ms: now.mono_ms,
            full: false,
            space_ms: now.mono_ms,
            published: (u64::MAX, 0, 0, StateRole::Follower),
            stopping: None,
            answers: Vec::new(),
        };
        member.settle_timeout();
        Ok(member)
    }

    /// One turn.
    pub(crate) fn step(&mut self, now: Now, inputs: impl IntoIterator<Item = Input>, out: &mut Vec<Output>) {
        self.now = now;
        for input in inputs {
            self.take(input, out);
        }
        self.tick();
        loop {
            self.campaign_if_alone();
            self.offer();
            if !self.raw.has_ready() {
                break;
            }
            self.ready(out);
        }
        self.compare();
        self.heal(out);
        self.expire();
        self.checkpoint(out);
        self.stop(out);
        self.publish(out);
    }

    /// When the next turn is due without any input; `None` while there is nothing to wait for.
    pub(crate) fn wake_at(&self) -> Option<u64> {
        let tick = self.has_peers().then_some(self.ticked_ms + self.tick_ms);
        let unanswered = self.proposals.deadline().into_iter().chain(self.reads.deadline());
        let change = self.changes.values().map(|open| open.deadline_ms);
        let waiting = unanswered.chain(change).min();
        let stop = self.stopping.filter(|deadline_ms| *deadline_ms > self.now.mono_ms);
        let petition = self.healing.as_ref().map(|_| self.petition_ms);
        [tick, waiting, self.checkpoint_due(), stop, petition].into_iter().flatten().min()
    }

    /// Everything applied.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|leader| *leader != raft::INVALID_ID)
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(crate) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Changes a value in memory, as a bad chip would.
    #[cfg(test)]
    pub(crate) fn corrupt(&mut self, key: &bytes::Bytes, value: &bytes::Bytes) {
        self.state.mvcc.corrupt(key, value);
    }

    fn has_peers(&self) -> bool {
        self.state.membership.several()
    }

    fn take(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Proposed { id, operation } => self.proposed(id, operation, out),
            Input::ReadRequested { id } => self.reads.add(id, self.now.mono_ms),
            Input::ChangeRequested { id, change } => {
                if let Err(error) = self.change(id, change) {
                    self.answers.push((id, Err(error)));
                }
            }
            Input::TransferRequested { id, to } => {
                let done = self.transfer(to).map(|()| Answer::Done);
                self.answers.push((id, done));
            }
            Input::Received(message) => self.received(message),
            Input::SnapshotReceived(message, state) => {
                if planted(Bug::StaleSnapshotAccepted) && state.index < self.state.index {
                    self.state = *state;
                } else if !self.is_installing() {
                    self.incoming = Some(state);
                    self.feed(message);
                }
            }
            Input::SnapshotSent { to, delivered } => {
                let status = if delivered { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
                self.raw.report_snapshot(to, status);
            }
            Input::PeerUnreachable(peer) => self.raw.report_unreachable(peer),
            Input::PeerLost(peer) => self.peer_lost(peer),
            Input::LogSynced { number } => self.log_synced(number, out),
            Input::CheckpointDone => self.checkpoint_done(out),
            Input::SpaceChecked { full } => self.full = full,
            Input::Hashed { revision, hash } => self.hashed(revision, hash, out),
            Input::StopRequested => self.stopping = self.stopping.or(Some(self.now.mono_ms + TRANSFER_MS)),
        }
    }

    fn proposed(&mut self, id: u64, operation: Operation, out: &mut Vec<Output>) {
        if self.full {
            if self.now.mono_ms >= self.space_ms + DISK_CHECK_MS {
                self.space_ms = self.now.mono_ms;
                out.push(Output::CheckSpace);
            }
            self.answers.push((id, Err(StoreError::DiskFull)));
            return;
        }
        self.enqueue(id, operation);
    }

    fn enqueue(&mut self, id: u64, operation: Operation) {
        let sequence = self.proposals.next_sequence();
        let origin = Origin { member: self.id, boot: self.boot, sequence };
        let command = Command { origin, at_ms: self.now.wall_ms, operation };
        self.proposals.add(sequence, id, command.encode(), self.now.mono_ms);
    }

    fn received(&mut self, message: Message) {
        // A snapshot without its state is of no use; the sender is told by the transport.
        let kind = message.get_msg_type();
        if kind == MessageType::MsgSnapshot || message.to != self.id || self.is_installing() {
            return;
        }
        let normal = |entry: &Entry| entry.get_entry_type() == EntryType::EntryNormal;
        if kind == MessageType::MsgPropose && !message.entries.iter().all(normal) {
            return self.passed_on(&message);
        }
        self.feed(message);
    }

    /// Between taking over a snapshot and having it on disk a member hears and does nothing: raft would campaign over
    /// entries that are no longer there. To its peers it looks slow.
    fn is_installing(&self) -> bool {
        self.unsynced.iter().any(|batch| batch.installed.is_some())
    }

    /// A leader whose connection ended is gone, most likely: its system closed what its process held. A follower then
    /// forgets it at once, so that it may vote for another, and stands for election soon, one after the other so that they
    /// do not take votes from each other. If the leader lives after all its other followers ignore that, and its next
    /// message is followed as before.
    fn peer_lost(&mut self, peer: u64) {
        if self.leader() != Some(peer) || self.raw.raft.state != StateRole::Follower || self.is_installing() {
            return;
        }
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, raft::INVALID_ID);
        self.role = (u64::MAX, StateRole::Follower);
        self.settle_timeout();
        let mut others = self.state.membership.voters.iter().filter(|voter| **voter != peer);
        if let Some(turn) = others.position(|voter| *voter == self.id) {
            let wait = 1 + turn * self.raw.raft.heartbeat_timeout();
            self.raw.raft.election_elapsed = self.raw.raft.randomized_election_timeout().saturating_sub(wait);
            self.hasty = HASTY_ATTEMPTS;
        }
    }

    /// Whoever stood in vain because the others had not heard of the loss yet stands again after two heartbeats, in step
    /// with the turns of the first time.
    fn hasten(&mut self) {
        if self.hasty == 0 || self.raw.raft.election_elapsed != 0 {
            return;
        }
        if self.leader().is_some() {
            self.hasty = 0;
            return;
        }
        self.hasty -= 1;
        let raft = &mut self.raw.raft;
        raft.election_elapsed = raft.randomized_election_timeout().saturating_sub(2 * raft.heartbeat_timeout());
    }

    fn feed(&mut self, message: Message) {
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft refused a message");
        }
        self.settle_timeout();
    }

    fn tick(&mut self) {
        // More than this at once would only punish a member for having been paused.
        const TICKS_MAX: u64 = 2;
        let due = self.now.mono_ms.saturating_sub(self.ticked_ms) / self.tick_ms;
        self.ticked_ms += due * self.tick_ms;
        if !self.has_peers() || self.is_installing() {
            return;
        }
        for _ in 0..due.min(TICKS_MAX) {
            self.raw.tick();
            self.settle_timeout();
            self.hasten();
        }
        let retry_ms = self.tick_ms * self.raw.raft.election_timeout() as u64;
        if due > 0 && self.now.mono_ms >= self.offered_ms + retry_ms {
            self.offered_ms = self.now.mono_ms;
            self.reads.ask_again();
            self.pass_on_changes();
            if !self.is_leader() {
                self.proposals.offer_again();
            }
        }
    }

    /// raft draws its election timeout from the thread's generator; ours is drawn from the seed, so that runs repeat.
    fn settle_timeout(&mut self) {
        let role = (self.raw.raft.term, self.raw.raft.state);
        if role == self.role {
            return;
        }
        if role.0 != self.role.0 || (role.1 == StateRole::Leader) != (self.role.1 == StateRole::Leader) {
            self.reads.ask_again();
        }
        self.role = role;
        self.seed = mix(self.seed);
        let election = self.raw.raft.election_timeout();
        let extra = usize::try_from(self.seed % election as u64).unwrap_or(0);
        self.raw.raft.set_randomized_election_timeout(election + extra);
    }

    /// The only voter needs no timeout to know that it leads. It campaigns once its log is durable, as raft requires.
    fn campaign_if_alone(&mut self) {
        let m = &self.state.membership;
        let alone = m.voters == [self.id] && m.voters_outgoing.is_empty();
        if alone && self.raw.raft.state == StateRole::Follower && self.unsynced.is_empty() && !self.raw.has_ready() {
            if let Err(error) = self.raw.campaign() {
                tracing::debug!(%error, "raft refused to campaign");
            }
            self.settle_timeout();
        }
    }

    /// Hands raft the proposals and reads that wait.
    fn offer(&mut self) {
        let Some(leader) = self.leader() else { return };
        let leadership = (self.raw.raft.term, leader);
        while self.delta.bytes < CHECKPOINT_LAG_BYTES_MAX {
            let due = self.proposals.due(leadership);
            let Some((through, _)) = due.last().cloned() else { break };
            let mut message = Message { from: self.id, ..Message::default() };
            message.set_msg_type(MessageType::MsgPropose);
            let entry = |(_, data): &(u64, bytes::Bytes)| Entry { data: data.clone(), ..Entry::default() };
            message.set_entries(due.iter().map(entry).collect::<Vec<_>>().into());
            if self.raw.step(message).is_err() {
                break;
            }
            self.proposals.offered(through, leadership);
        }
        let gated = self.is_leader() && !self.raw.raft.commit_to_current_term();
        if gated && !planted(Bug::ReadsWithoutTermGate) {
            return;
        }
        if let Some(asked) = self.reads.ask() {
            let mut w = Writer::default();
            Origin { member: self.id, boot: self.boot, sequence: asked }.encode(&mut w);
            if planted(Bug::ReadsUnconfirmed) && self.is_leader() || gated {
                return self.confirm(&w.0, self.raw.raft.raft_log.committed);
            }
            self.raw.read_index(w.0);
        }
    }

    fn confirm(&mut self, context: &[u8], index: u64) {
        if let Ok(origin) = Origin::decode(&mut Reader::copy(context))
            && (origin.member, origin.boot) == (self.id, self.boot)
        {
            self.reads.confirm(origin.sequence, index);
        }
    }

    fn publish(&mut self, out: &mut Vec<Output>) {
        let now = (self.state.index, self.raw.raft.term, self.raw.raft.leader_id, self.raw.raft.state);
        if now != self.published {
            self.published = now;
            out.push(Output::Publish);
        }
        // Number 0 stands for the member's own proposals, which nobody waits for.
        let answers = self.answers.drain(..).filter(|(id, _)| *id != 0);
        out.extend(answers.map(|(id, answer)| Output::Answer(id, answer)));
    }
}
