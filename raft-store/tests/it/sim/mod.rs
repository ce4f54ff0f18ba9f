//! Whole members in one thread under one seed: the same machine, log and checkpoint as in production, on a simulated
//! network, disk and clock that fail as the seed decides. This module is part of the crate's own tests, since it drives
//! what the crate does not show.
//!
//! ```sh
//! cargo test -p raft-store sim                                   # the seeds of every test run
//! SEED=8812 cargo test -p raft-store sim                         # one run again, step by step the same
//! SIM_HOURS=50 cargo test --release -p raft-store --lib sim::seeds -- --nocapture
//! TRIALS=10000 cargo test --release -p raft-store --lib sim::whatever -- --nocapture      # damaged disks, counted
//! BUG=IndexApart cargo test -p raft-store sim::planted -- --nocapture                     # who finds it
//! ```

mod checkpoint;
mod checks;
mod cluster;
mod decoders;
pub(crate) mod disk;
mod images;
mod input;
mod linear;
mod log;
mod scenario;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Instant;

use crate::mvcc::mix;
use crate::planted::{Bug, with_bug};
use cluster::{Cluster, Damage, RUN_MS, Summary};

/// The source of every decision of a run.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(mix(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Every fourth run has a member whose disk is damaged.
fn run(seed: u64) -> Result<Summary, String> {
    run_with(seed, Damage { times: u64::from(seed % 4 == 3) })
}

fn run_with(seed: u64, damage: Damage) -> Result<Summary, String> {
    let told = |panic: Box<dyn std::any::Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other.downcast_ref::<&str>().unwrap_or(&"it panicked").to_string(),
    };
    catch_unwind(AssertUnwindSafe(|| Cluster::new(seed, damage).run())).map_err(told)
}

/// Seeds of every test run; a commit's worth of them takes about a minute on two cores without optimisation.
const SEEDS: u64 = 200;

/// `SEED` runs one, `SIM_SEEDS` that many, `SIM_HOURS` as many as make so many simulated hours.
fn seeds() -> Range<u64> {
    let hours = number("SIM_HOURS").map(|hours| hours * 3_600_000 / RUN_MS);
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..hours.or(number("SIM_SEEDS")).unwrap_or(SEEDS),
    }
}

/// Runs every seed, one at a time on each core; what is wrong with the first that fails, by number.
fn run_all(seeds: &Range<u64>, run: impl Fn(u64) -> Result<Summary, String> + Sync) -> Result<Summary, (u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let one_after_another = || -> Result<Summary, (u64, String)> {
        let mut total = Summary::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(total);
            }
            total.add(&run(seed).map_err(|what| (seed, what))?);
        }
    };
    std::thread::scope(|scope| {
        let threads = available_parallelism().map_or(1, usize::from);
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one_after_another)).collect();
        let done: Vec<_> = running.into_iter().map(|thread| thread.join().expect("a run's panic is caught")).collect();
        let failed = done.iter().filter_map(|done| done.as_ref().err()).min();
        match failed {
            Some(failed) => Err(failed.clone()),
            None => Ok(done.iter().flatten().fold(Summary::default(), |mut total, part| {
                total.add(part);
                total
            })),
        }
    })
}

#[test]
fn seeds_lose_nothing_invent_nothing_and_agree() {
    let seeds = seeds();
    let begin = Instant::now();
    let total = run_all(&seeds, run).unwrap_or_else(|(seed, what)| panic!("SEED={seed}: {what}"));
    let count = seeds.end - seeds.start;
    let hours = (count * RUN_MS) as f64 / 3_600_000.0;
    let rate = hours / begin.elapsed().as_secs_f64();
    let times = rate * 3600.0;
    println!("{count} seeds, {hours:.2} simulated hours, {rate:.4} per second, {times:.0} times real time: {total:?}");
    assert!(number("SEED").is_some() || total.covers_everything(), "something never happened: {total:?}");
}

/// Seeds beyond those of every test run that found something once: in 511 a bit flips in the checkpoint's map of free pages,
/// which is met only when something is written; in 5875 the wish to add a member arrives when it has begun anew.
const FOUND: [u64; 2] = [511, 5875];

#[test]
fn what_a_seed_found_once_stays_mended() {
    for seed in FOUND {
        run(seed).unwrap_or_else(|what| panic!("SEED={seed}: {what}"));
    }
}

/// Trials of every test run.
const TRIALS: u64 = 30;

/// `TRIALS=10000` makes so many and prints what came of them.
#[test]
fn whatever_is_damaged_in_a_minority_is_healed_and_nothing_is_lost() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TRIALS").unwrap_or(TRIALS),
    };
    let trial = |seed| run_with(seed, Damage { times: 3 });
    let total = run_all(&seeds, trial).unwrap_or_else(|(seed, what)| panic!("SEED={seed}: {what}"));
    println!(
        "{} runs: {} disks damaged beyond use and {} members healed, {} times the damage changed nothing; {} writes \
         acknowledged, none lost, {} reads, none wrong",
        seeds.end - seeds.start,
        total.damaged,
        total.healed,
        total.unharmed,
        total.acknowledged,
        total.reads,
    );
    assert!(number("SEED").is_some() || total.damaged > 0 && total.healed > 0, "nothing was healed: {total:?}");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [1, 2] {
        assert_eq!(run(seed), run(seed), "SEED={seed}");
    }
}

/// The ledger of planted bugs: each is found by the tests of the log, by a story, by a crash image, or by some seed.
/// A check that finds nothing any more has lost its teeth. `BUG=IndexApart` looks for one alone.
#[test]
fn planted_bugs_are_found() {
    const SEEDS_MAX: u64 = 400;
    // The seed that found it last, tried first.
    const HINTS: [(Bug, u64); 4] = [
        (Bug::MessagesBeforeFsync, 2),
        (Bug::SyncErrorIgnored, 2),
        (Bug::StaleSnapshotAccepted, 2),
        (Bug::InstallNotAwaited, 18),
    ];
    let find = |bug: Bug| {
        let by_log = || catch_unwind(log::all).err().map(|_| "the tests of the log".to_owned());
        let by_stories = || catch_unwind(scenario::all).err().map(|_| "a story".to_owned());
        let by_images = || catch_unwind(images::all).err().map(|_| "a crash image".to_owned());
        let try_seed = |seed| run(seed).err().map(|what| format!("seed {seed}: {what}"));
        let hint = HINTS.into_iter().find(|(known, _)| *known == bug).map_or(0, |(_, seed)| seed);
        let by_seed = || std::iter::once(hint).chain(0..SEEDS_MAX).find_map(try_seed);
        let found = with_bug(bug, || by_log().or_else(by_stories).or_else(by_images).or_else(by_seed));
        println!("{bug:?} is found by {}", found.as_deref().unwrap_or("nobody"));
        found.is_some()
    };
    let only = std::env::var("BUG").ok();
    let wanted = |bug: &Bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"));
    let missed: Vec<Bug> = Bug::ALL.iter().copied().filter(wanted).filter(|bug| !find(*bug)).collect();
    assert!(missed.is_empty(), "nobody finds {missed:?}");
}
