//! A cluster of simulated members, its clients, its operator and its misfortunes.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::eraftpb::Message;

use super::Rng;
use super::checks::{Checks, Op};
use super::disk::SimDisk;
use crate::checkpoint::Checkpoint;
use crate::driver::{CheckpointWork, LogWork};
use crate::error::{Cancelled, OpenError};
use crate::limits::REQUEST_MS;
use crate::log::Log;
use crate::member::{Input, Member, Now, Output, Start};
use crate::recovery::Opened;
use crate::roster::Roster;
use crate::snapshot::{Assembly, CHUNK_HEAD_BYTES, chunks};
use crate::state::{Membership, State};
use crate::watch::{Cursor, WatchRequest};

/// Simulated time with faults; then everything heals and must come to agreement.
pub(crate) const RUN_MS: u64 = 30_000;
const HEAL_MS: u64 = 120_000;
const CLIENTS: u64 = 5;
const FOUNDERS: [u64; 3] = [1, 2, 3];
const JOINER: u64 = 4;
const TICK_MS: u64 = 50;

mod damage;
mod people;
mod threads;
pub(crate) use damage::Damage;

enum Event {
    Deliver(Message),
    DeliverSnapshot(Message, Box<State>),
    Input(u64, u64, Input),
    Wake(u64, u64),
    LogWrite(u64, u64),
    LogSync(u64, u64, u64),
    Checkpoint(u64, u64),
    Client(u64),
    Patience(u64, u64),
    MarkSync(u64, u64),
    Restart(u64),
    CrashAgain(u64),
    Misfortune,
    Operator,
    Damage,
}

/// What happened in a run, to see that everything did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) acknowledged: u64,
    pub(crate) reads: u64,
    pub(crate) revisions: u64,
    crashes: u64,
    failed_syncs: u64,
    partitions: u64,
    pauses: u64,
    snapshots: u64,
    member_changes: u64,
    transfers: u64,
    compactions: u64,
    full_disks: u64,
    pub(crate) damaged: u64,
    pub(crate) unharmed: u64,
    pub(crate) healed: u64,
    trace: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Summary) {
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.revisions += other.revisions;
        self.crashes += other.crashes;
        self.failed_syncs += other.failed_syncs;
        self.partitions += other.partitions;
        self.pauses += other.pauses;
        self.snapshots += other.snapshots;
        self.member_changes += other.member_changes;
        self.transfers += other.transfers;
        self.compactions += other.compactions;
        self.full_disks += other.full_disks;
        self.damaged += other.damaged;
        self.unharmed += other.unharmed;
        self.healed += other.healed;
    }

    pub(crate) fn covers_everything(&self) -> bool {
        let counts = [self.acknowledged, self.reads, self.crashes, self.failed_syncs, self.partitions, self.pauses];
        let rare = [self.snapshots, self.member_changes, self.transfers, self.compactions, self.full_disks];
        let repairs = [self.damaged, self.unharmed, self.healed];
        counts.iter().chain(&rare).chain(&repairs).all(|count| *count > 0)
    }
}

struct Live {
    member: Member,
    log: Log,
    checkpoint: Checkpoint,
    roster: Roster,
    log_queue: VecDeque<LogWork>,
    log_busy: bool,
    checkpoint_queue: VecDeque<CheckpointWork>,
    checkpoint_busy: bool,
    cursor: Cursor,
    wake: Option<u64>,
    index: u64,
}

struct Process {
    // The number it was founded with.
    configured: u64,
    // It began anew under another number.
    retired: bool,
    disk: SimDisk,
    life: u64,
    live: Option<Live>,
    paused_until: u64,
    wall_skew: u64,
}

impl Process {
    fn new(configured: u64, wall_skew: u64) -> Process {
        let disk = SimDisk::default();
        Process { configured, retired: false, disk, life: 0, live: None, paused_until: 0, wall_skew }
    }
}

pub(crate) struct Cluster {
    rng: Rng,
    now: u64,
    sequence: u64,
    // By time and order; boxed, since the map moves what it holds.
    events: BTreeMap<(u64, u64), Box<Event>>,
    processes: BTreeMap<u64, Process>,
    // Directed pairs that cannot talk.
    cut: Vec<(u64, u64)>,
    loss_percent: u64,
    delay_ms: u64,
    healed: bool,
    checks: Checks,
    // Which client waits for which request.
    waiting: BTreeMap<u64, (u64, Op)>,
    current: BTreeMap<u64, u64>,
    last_request: u64,
    known: BTreeMap<Bytes, u64>,
    damage: Damage,
    summary: Summary,
    logger: slog::Logger,
}

impl Cluster {
    pub(crate) fn new(seed: u64, damage: Damage) -> Cluster {
        let mut rng = Rng::new(seed);
        let mut processes = BTreeMap::new();
        for id in FOUNDERS.into_iter().chain([JOINER]) {
            let wall_skew = rng.below(10_000);
            processes.insert(id, Process::new(id, wall_skew));
        }
        let mut cluster = Cluster {
            now: 1000,
            sequence: 0,
            events: BTreeMap::new(),
            processes,
            cut: Vec::new(),
            loss_percent: rng.below(3) * 5,
            delay_ms: 1 + rng.below(20),
            healed: false,
            checks: Checks::default(),
            waiting: BTreeMap::new(),
            current: BTreeMap::new(),
            last_request: 0,
            known: BTreeMap::new(),
            damage,
            summary: Summary::default(),
            logger: slog::Logger::root(slog::Discard, slog::o!()),
            rng,
        };
        for id in FOUNDERS.into_iter().chain([JOINER]) {
            cluster.start(id);
        }
        for client in 0..CLIENTS {
            cluster.after(0, Event::Client(client));
        }
        cluster.after(500, Event::Misfortune);
        cluster.after(2000, Event::Operator);
        cluster.plan_damage();
        cluster
    }

    /// Runs to the end; panics with what is wrong.
    pub(crate) fn run(mut self) -> Summary {
        let heal_at = self.now + RUN_MS;
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = self.now.max(at);
            if !self.healed && self.now >= heal_at {
                self.heal();
            }
            self.happen(*event);
            if self.healed && self.settled() {
                let revision =
                    self.processes.values().filter_map(|p| p.live.as_ref()).map(|l| l.member.state().mvcc.revision());
                self.checks.conclude(revision.max().unwrap_or(0));
                self.summary.acknowledged = self.checks.acknowledged;
                self.summary.reads = self.checks.reads;
                self.summary.revisions = self.checks.revisions() as u64;
                return self.summary;
            }
            assert!(self.now < heal_at + HEAL_MS, "the healed cluster does not come to agreement: {}", self.describe());
        }
        panic!("nothing is left to happen");
    }

    fn describe(&self) -> String {
        let one = |(id, process): (&u64, &Process)| match &process.live {
            None => format!("{id}: down"),
            Some(live) => format!(
                "{id}: term {} leader {:?} index {} {:?} healing {:?}",
                live.member.term(),
                live.member.leader(),
                live.member.state().index,
                live.member.state().membership,
                live.member.healing()
            ),
        };
        let members = self.processes.iter().map(one).collect::<Vec<_>>().join("; ");
        format!("{members}; {} requests wait, of {:?}", self.waiting.len(), self.waiting)
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), Box::new(event));
    }

    fn heal(&mut self) {
        self.healed = true;
        self.cut.clear();
        self.loss_percent = 0;
        let ids: Vec<u64> = self.processes.keys().copied().collect();
        for id in ids {
            self.process(id).paused_until = 0;
            self.process(id).disk.set_full(false);
            if self.process(id).live.is_none() && !self.process(id).retired {
                self.start(id);
            }
        }
    }

    /// Nobody waits, and every member of the cluster has applied the same.
    fn settled(&self) -> bool {
        let mut members = self.processes.values().filter_map(|process| process.live.as_ref());
        let Some(leader) = members.clone().find(|live| live.member.is_leader()) else { return false };
        let state = leader.member.state();
        let all = state.membership.all();
        self.waiting.is_empty()
            && self.processes.iter().all(|(id, process)| !process.retired || !all.contains(id))
            && members.all(|live| {
                let belongs = all.contains(&live.member.id());
                live.member.healing().is_none() && (!belongs || live.member.state().index == state.index)
            })
    }

    fn process(&mut self, id: u64) -> &mut Process {
        self.processes.get_mut(&id).expect("events name processes that exist")
    }

    fn live(&mut self, id: u64, life: u64) -> Option<&mut Live> {
        let process = self.process(id);
        if process.life == life { process.live.as_mut() } else { None }
    }

    fn start(&mut self, id: u64) {
        let founders = Membership {
            voters: FOUNDERS.to_vec(),
            addresses: FOUNDERS.iter().map(|id| (*id, format!("m{id}"))).collect(),
            ..Membership::default()
        };
        let configured = self.process(id).configured;
        let initial = if FOUNDERS.contains(&configured) { founders } else { Membership::default() };
        let Opened { memory: opened, roster, healing } = match self.open(id, &initial) {
            Ok(opened) => opened,
            Err(OpenError::Io(_)) => return self.crash(id),
            Err(error) => panic!("member {id} cannot be opened: {error}"),
        };
        let id = self.renamed(id, roster.member);
        let now = self.time(id);
        let start = Start {
            healing,
            member: id,
            boot: opened.boot,
            tick_ms: TICK_MS,
            heartbeat_ticks: 2,
            election_ticks: 10,
            seed: self.rng.next(),
            state: opened.state,
            tail: opened.tail,
            restart_log: opened.restart_log,
        };
        let member = Member::new(start, now, &self.logger).expect("the configuration is valid");
        let mvcc = &member.state().mvcc;
        let from = WatchRequest { from: mvcc.floor() + 1, ..WatchRequest::default() };
        let cursor = Cursor::new(from, mvcc).expect("a watch may start at the floor");
        let live = Live {
            member,
            log: opened.log,
            checkpoint: opened.checkpoint,
            roster,
            log_queue: VecDeque::new(),
            log_busy: false,
            checkpoint_queue: VecDeque::new(),
            checkpoint_busy: false,
            cursor,
            wake: None,
            index: u64::MAX,
        };
        self.process(id).live = Some(live);
        self.step(id, Vec::new());
    }

    fn crash(&mut self, id: u64) {
        self.summary.crashes += 1;
        let mut rng = Rng::new(self.rng.next());
        let process = self.process(id);
        process.live = None;
        process.life += 1;
        process.disk.crash(&mut rng);
        // A killed process has its connections closed by its system; a power cut closes nothing.
        if self.rng.chance(50) {
            for peer in self.processes.keys().copied().collect::<Vec<_>>() {
                let (life, delay) = (self.process(peer).life, 1 + self.rng.below(5));
                if self.reachable(id, peer) {
                    self.after(delay, Event::Input(peer, life, Input::PeerLost(id)));
                }
            }
        }
        let (delay, again) = (self.rng.below(1500), self.rng.chance(20));
        self.after(delay, Event::Restart(id));
        // A second crash while the first is being recovered from.
        if again && !self.healed {
            let soon = delay + 1 + self.rng.below(30);
            self.after(soon, Event::CrashAgain(id));
        }
    }

    fn time(&self, id: u64) -> Now {
        let skew = self.processes[&id].wall_skew;
        Now { mono_ms: self.now, wall_ms: 1_700_000_000_000 + self.now + skew }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(message) => {
                let to = message.to;
                self.step(to, vec![Input::Received(message)]);
            }
            Event::DeliverSnapshot(message, state) => {
                self.summary.snapshots += 1;
                let to = message.to;
                self.step(to, vec![Input::SnapshotReceived(message, state)]);
            }
            Event::CrashAgain(id) => {
                if self.process(id).live.is_some() {
                    self.crash(id);
                }
            }
            Event::Input(id, life, input) => {
                if self.live(id, life).is_some() {
                    self.step(id, vec![input]);
                }
            }
            Event::Wake(id, life) => {
                if let Some(live) = self.live(id, life) {
                    live.wake = None;
                    self.step(id, Vec::new());
                }
            }
            Event::MarkSync(id, life) => {
                if self.live(id, life).is_some_and(|live| !live.log_busy && live.log.sync().is_err()) {
                    self.summary.failed_syncs += 1;
                    self.crash(id);
                }
            }
            Event::LogWrite(id, life) => self.log_write(id, life),
            Event::LogSync(id, life, number) => self.log_sync(id, life, number),
            Event::Checkpoint(id, life) => self.run_checkpoint(id, life),
            Event::Client(client) => self.client(client),
            Event::Patience(client, request) => {
                // Its member crashed or cannot decide. It may still take effect.
                if self.current.get(&client) == Some(&request) {
                    self.waiting.remove(&request);
                    self.client(client);
                }
            }
            Event::Restart(id) => {
                if self.process(id).live.is_none() && !self.process(id).retired {
                    self.start(id);
                }
            }
            Event::Misfortune => self.misfortune(),
            Event::Operator => self.operate(),
            Event::Damage => self.damage(),
        }
    }

    fn step(&mut self, id: u64, inputs: Vec<Input>) {
        let now = self.time(id);
        let (paused_until, life) = (self.process(id).paused_until, self.process(id).life);
        if paused_until > self.now {
            // A stopped process does nothing; what arrives waits in its sockets.
            let wait = paused_until - self.now;
            for input in inputs {
                self.after(wait, Event::Input(id, life, input));
            }
            if let Some(live) = self.live(id, life) {
                live.wake = Some(paused_until);
                self.after(wait, Event::Wake(id, life));
            }
            return;
        }
        let mut out = Vec::new();
        let Some(live) = self.live(id, life) else { return };
        live.member.step(now, inputs, &mut out);
        self.observe(id, life);
        for output in out {
            // A failure ends the life in the midst of its outputs.
            if self.process(id).life == life {
                self.perform(id, life, output);
            }
        }
        let next = self.now + 1;
        if let Some(live) = self.live(id, life)
            && let Some(at) = live.member.wake_at().map(|at| at.max(next))
            && live.wake.is_none_or(|planned| at < planned)
        {
            live.wake = Some(at);
            self.after(at - (next - 1), Event::Wake(id, life));
        }
    }

    /// Reads what a watcher and a comparison of states would see.
    fn observe(&mut self, id: u64, life: u64) {
        let Some(live) = self.processes.get_mut(&id).filter(|p| p.life == life).and_then(|p| p.live.as_mut()) else {
            return;
        };
        let state = live.member.state();
        if live.index != state.index {
            live.index = state.index;
            self.checks.fingerprint(state.index, state.fingerprint());
        }
        loop {
            let expected = live.cursor.next_revision();
            match live.cursor.collect(&state.mvcc) {
                Ok(found) => {
                    for (revision, changes) in (expected..).zip(found.chunk_by(|a, b| a.revision == b.revision)) {
                        assert_eq!(changes[0].revision, revision, "a watch of member {id} skipped revisions");
                        self.checks.shown(revision, changes);
                    }
                    if found.is_empty() {
                        return;
                    }
                }
                Err(Cancelled::Lagging { .. }) => {
                    let from = WatchRequest { from: state.mvcc.floor() + 1, ..WatchRequest::default() };
                    live.cursor = Cursor::new(from, &state.mvcc).expect("a watch may start at the floor");
                }
                Err(other) => panic!("a watch ended with {other:?}"),
            }
        }
    }

    fn perform(&mut self, id: u64, life: u64, output: Output) {
        match output {
            Output::Send(message) => self.send(message),
            Output::SendSnapshot(message, state) => self.send_snapshot(id, life, message, &state),
            Output::Write(batch) => self.queue_log(id, life, LogWork::Write(batch)),
            Output::Truncate(index) => self.queue_log(id, life, LogWork::Truncate(index)),
            Output::Checkpoint(delta) => self.queue_checkpoint(id, life, CheckpointWork::Commit(delta)),
            Output::Install(state) => self.queue_checkpoint(id, life, CheckpointWork::Install(state)),
            Output::CheckSpace => self.queue_checkpoint(id, life, CheckpointWork::CheckSpace),
            Output::Answer(request, answer) => self.answered(id, request, answer),
            Output::Peers(membership) => {
                self.queue_checkpoint(id, life, CheckpointWork::Peers(Box::new(membership)));
            }
            Output::Hash(mvcc) => self.queue_checkpoint(id, life, CheckpointWork::Hash(mvcc)),
            Output::Healed => {
                self.summary.healed += 1;
                self.queue_checkpoint(id, life, CheckpointWork::Healed);
            }
            Output::Publish => {}
            Output::Stopped => self.crash(id),
            Output::Fail(reason) | Output::Diverged(reason) => panic!("member {id} failed: {reason}"),
        }
    }

    fn reachable(&self, from: u64, to: u64) -> bool {
        !self.cut.contains(&(from, to))
    }

    fn send(&mut self, message: Message) {
        let reachable = self.reachable(message.from, message.to) && self.processes.contains_key(&message.to);
        if !reachable || self.rng.chance(self.loss_percent) {
            return;
        }
        self.summary.trace = crate::mvcc::mix(self.summary.trace ^ self.now ^ message.index ^ message.term << 32);
        if self.rng.chance(if self.healed { 0 } else { 2 }) {
            let delay = self.rng.below(200);
            self.after(delay, Event::Deliver(message.clone()));
        }
        let slow = if self.rng.chance(3) { 300 } else { self.delay_ms };
        let delay = 1 + self.rng.below(slow);
        self.after(delay, Event::Deliver(message));
    }

    fn send_snapshot(&mut self, id: u64, life: u64, message: Message, state: &State) {
        let to = message.to;
        let delivered = self.reachable(id, to)
            && self.processes.get(&to).is_some_and(|peer| peer.live.is_some())
            && !self.rng.chance(self.loss_percent);
        let delay = 1 + self.rng.below(300);
        if delivered {
            let copy = copied(state);
            if self.rng.chance(if self.healed { 0 } else { 5 }) {
                // Once more, when much has happened since.
                let late = delay + self.rng.below(3000);
                self.after(late, Event::DeliverSnapshot(message.clone(), copied(state)));
            }
            self.after(delay, Event::DeliverSnapshot(message, copy));
        }
        self.after(delay + 1, Event::Input(id, life, Input::SnapshotSent { to, delivered }));
    }
}

/// The state as it arrives at a peer: through its bytes.
fn copied(state: &State) -> Box<State> {
    let mut assembly = Assembly::default();
    for chunk in chunks(state) {
        let (head, rows) = chunk.split_at(CHUNK_HEAD_BYTES);
        let head = head.try_into().expect("the head has its length");
        if let Some(state) = assembly.add(head, Bytes::copy_from_slice(rows)).expect("an undamaged snapshot reads back")
        {
            return Box::new(state);
        }
    }
    panic!("a snapshot ends");
}

const _: () = assert!(REQUEST_MS < HEAL_MS, "every request ends while the cluster is healed");
