//! A checkpoint with a flipped bit is refused, or says exactly what it said before.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Rng;
use super::disk::SimDisk;
use crate::checkpoint::{Checkpoint, CheckpointError, Delta, FILE, encode_head};
use crate::command::{Command, Operation, Origin, Txn, Write};
use crate::log::Identity;
use crate::state::{Membership, State};

fn open(disk: &SimDisk) -> Result<(Checkpoint, u64, State), CheckpointError> {
    let founders = Membership { voters: vec![1, 2, 3], ..Membership::default() };
    Checkpoint::open(Arc::new(disk.clone()), Identity { member: 1, cluster: 1 }, &founders, false)
}

/// A checkpoint of some keys, written in a few portions over a few lives.
fn example() -> SimDisk {
    let disk = SimDisk::default();
    let mut sequence = 0;
    for _life in 0..3 {
        let (mut checkpoint, boot, mut state) = open(&disk).unwrap();
        for _portion in 0..3 {
            let mut delta = Delta::default();
            for _ in 0..10 {
                sequence += 1;
                let put = Write::Put { key: format!("k{}", sequence % 7).into(), value: vec![7; 100].into() };
                let operation = Operation::Txn(Txn { compares: Vec::new(), then: vec![put] });
                let origin = Origin { member: 1, boot, sequence };
                let (_, made) = state.apply(Command { origin, at_ms: sequence, operation });
                delta.note(made.unwrap());
                state.index += 1;
            }
            checkpoint.commit(&Delta { head: encode_head(&state), ..delta }).unwrap();
        }
    }
    disk
}

#[test]
fn a_checkpoint_with_a_flipped_bit_is_refused_or_says_what_it_said() {
    const CASES: u64 = 1500;
    let whole = example().bytes(FILE);
    let opened = |bytes: &[u8]| {
        let disk = SimDisk::default();
        disk.overwrite(FILE, bytes);
        // The database may panic over what it finds, which ends the opening like any other error.
        let opened = catch_unwind(AssertUnwindSafe(|| open(&disk))).ok()?;
        opened.ok().map(|(_, boot, state)| (boot, state.fingerprint(), state.index, state.membership))
    };
    let before = opened(&whole).unwrap();
    let written: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let (mut refused, mut same) = (0, 0);
    for seed in 0..CASES {
        let mut rng = Rng::new(seed);
        let at = written[rng.below(written.len() as u64) as usize];
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << rng.below(8);
        match opened(&bytes) {
            None => refused += 1,
            Some(after) => {
                assert_eq!(after, before, "a flip at {at} went unnoticed");
                same += 1;
            }
        }
    }
    assert!(refused > 0 && same > 0, "{refused} refused, {same} the same");
}
