//! Crash images: a member runs alone on a disk that writes down everything it is asked to do. Then the machine stops
//! after every single operation of the disk, with every unsynced write kept, with none, and with random mixtures kept and
//! torn: each image must open, with everything that had been acknowledged by then and nothing that was never asked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::Rng;
use super::disk::{SimDisk, Step};
use crate::checkpoint::Checkpoint;
use crate::command::{Command, Operation, Txn, Write};
use crate::disk::Disk;
use crate::log::{Identity, Log};
use crate::member::{Answer, Batch, Input, Member, Now, Output, Start};
use crate::recovery::{self, Memory, Opened};
use crate::state::{Membership, State};

const IDENTITY: Identity = Identity { member: 1, cluster: 1 };
const WRITES: u64 = 120;
const MIXTURES: u64 = 2;

fn open(disk: &SimDisk) -> Opened {
    let founders = Membership { voters: vec![1], ..Membership::default() };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    recovery::open(&disk, IDENTITY, &founders, 0).unwrap_or_else(|error| panic!("{error}"))
}

/// A member alone, whose disk is slow: some writes wait for their sync while others are asked for.
struct Alone {
    disk: SimDisk,
    member: Member,
    log: Log,
    checkpoint: Checkpoint,
    now_ms: u64,
    // Written, not synced.
    batches: Vec<Batch>,
    inputs: Vec<Input>,
}

impl Alone {
    fn start(disk: &SimDisk, now_ms: u64) -> Alone {
        let Opened { memory, roster, healing } = open(disk);
        let Memory { checkpoint, log, boot, state, tail, restart_log } = memory;
        let (heartbeat_ticks, election_ticks) = (2, 10);
        let (member, tick_ms, seed) = (roster.member, 50, 1);
        let start =
            Start { member, boot, tick_ms, heartbeat_ticks, election_ticks, seed, state, tail, restart_log, healing };
        let now = Now { mono_ms: now_ms, wall_ms: now_ms };
        let member = Member::new(start, now, &slog::Logger::root(slog::Discard, slog::o!())).unwrap();
        Alone { disk: disk.clone(), member, log, checkpoint, now_ms, batches: Vec::new(), inputs: Vec::new() }
    }

    /// One turn; says on the disk's record what was acknowledged.
    fn turn(&mut self, sync: bool) {
        self.now_ms += 20;
        let mut out = Vec::new();
        let now = Now { mono_ms: self.now_ms, wall_ms: self.now_ms };
        self.member.step(now, std::mem::take(&mut self.inputs), &mut out);
        for output in out {
            match output {
                Output::Write(batch) => {
                    self.log.write(&batch.records).unwrap();
                    self.batches.push(batch);
                }
                Output::Truncate(index) => self.log.truncate(index).unwrap(),
                Output::Checkpoint(delta) => {
                    self.checkpoint.commit(&delta).unwrap();
                    self.inputs.push(Input::CheckpointDone);
                }
                Output::Answer(id, Ok(Answer::Txn(_))) => self.disk.note(Step::Acknowledged(id)),
                Output::Fail(reason) => panic!("{reason}"),
                _ => {}
            }
        }
        if sync {
            self.log.sync().unwrap();
            self.log.mark().unwrap();
            let synced = self.batches.drain(..).next_back();
            self.inputs.extend(synced.map(|batch| Input::LogSynced { number: batch.number }));
        }
    }
}

fn key(id: u64) -> Bytes {
    format!("k{id}").into()
}

/// Three lives of a member that writes, each cut off without a word; everything its disk was asked to do.
fn recorded() -> Vec<Step> {
    let disk = SimDisk::default();
    disk.record();
    let mut rng = Rng::new(3);
    let (mut id, mut now_ms) = (0, 1000);
    for _life in 0..3 {
        let mut alone = Alone::start(&disk, now_ms);
        (0..3).for_each(|_| alone.turn(true));
        for _ in 0..WRITES / 3 {
            id += 1;
            // Large enough to fill segments, so that the log rolls and recycles.
            let size = rng.below(2500) as usize;
            let put = Write::Put { key: key(id), value: vec![7; size].into() };
            let operation = Operation::Txn(Txn { compares: Vec::new(), then: vec![put] });
            alone.inputs.push(Input::Proposed { id, operation });
            let sync = rng.chance(60);
            alone.turn(sync);
        }
        (0..3).for_each(|_| alone.turn(true));
        now_ms = alone.now_ms;
    }
    disk.recorded()
}

/// Everything an image holds: a member alone counts all of its log.
fn held(disk: &SimDisk) -> BTreeSet<Bytes> {
    let Memory { mut state, tail, .. } = open(disk).memory;
    let applied = state.index;
    for entry in tail.entries.into_iter().filter(|entry| entry.index > applied && !entry.data.is_empty()) {
        State::apply(&mut state, Command::decode(entry.data).unwrap());
    }
    state.mvcc.live().map(|kv| kv.key.clone()).collect()
}

#[test]
fn a_crash_after_any_operation_of_the_disk_loses_nothing_that_was_acknowledged() {
    all();
}

/// For the ledger of planted bugs as well.
pub(crate) fn all() {
    let steps = recorded();
    let disk = SimDisk::default();
    let mut acknowledged = BTreeSet::new();
    let mut images = 0_u64;
    for (at, step) in steps.iter().enumerate() {
        if let Step::Acknowledged(id) = step {
            acknowledged.insert(key(*id));
        }
        disk.repeat(step);
        // What is on the disk changes with writes and syncs only; the promise with every acknowledgement.
        let mut check = |image: &SimDisk, what: &str| {
            images += 1;
            let found = held(image);
            let lost: Vec<_> = acknowledged.difference(&found).collect();
            assert!(lost.is_empty(), "after step {at} ({step:?}) with {what}: {lost:?} are lost");
        };
        check(&disk.crashed_after(usize::MAX), "everything kept");
        check(&disk.crashed_after(0), "nothing kept");
        for mixture in 0..MIXTURES {
            let image = disk.crashed_after_all();
            image.crash(&mut Rng::new(at as u64 * MIXTURES + mixture));
            check(&image, "a mixture kept");
        }
    }
    println!("{images} images of {} steps, {} writes acknowledged, none lost", steps.len(), acknowledged.len());
    assert!(acknowledged.len() > 100, "{} were acknowledged", acknowledged.len());
}
