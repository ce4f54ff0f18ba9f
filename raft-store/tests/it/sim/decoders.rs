//! Bytes nobody wrote, behind a right checksum where there is one: every decoder refuses or accepts them, and none
//! panics or takes memory for what is not there. The entry points are those of the fuzz targets; the changes are bounded
//! and seeded, so that a failure is found again. `FUZZ_CASES=1000000` makes so many of each.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, HardState, Message};

use super::Rng;
use super::disk::SimDisk;
use crate::checkpoint::{encode_history, encode_live};
use crate::codec::{Reader, Writer};
use crate::command::{Command, Compare, Operation, Origin, Target, Txn, Write};
use crate::disk::Disk;
use crate::fuzz;
use crate::log::{Identity, Log, Record};
use crate::roster::Roster;
use crate::snapshot::{CHUNK_HEAD_BYTES, chunks};
use crate::state::{Membership, State};

const CASES: u64 = 5000;
const LOG_HEADER_BYTES: usize = 4096;
const FRAME_HEAD_BYTES: usize = 32;

/// Changes a good example in one to three places, as fuzzers do.
fn change(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(3) {
        let length = bytes.len() as u64;
        if length == 0 {
            return;
        }
        let at = rng.below(length) as usize;
        match rng.below(6) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
            2 => bytes.truncate(at),
            3 => bytes.extend((0..rng.below(20)).map(|_| 0xa5)),
            4 => {
                let end = (at + 4).min(bytes.len());
                bytes[at..end].fill(0xff);
            }
            _ => {
                let part: Vec<u8> = bytes[at..].iter().copied().take(16).collect();
                let to = rng.below(length) as usize;
                bytes.splice(to..to, part);
            }
        }
    }
}

fn commands() -> Vec<Command> {
    let compares = vec![
        Compare { key: "a".into(), target: Target::ModRevision(7) },
        Compare { key: "b".into(), target: Target::Value("held".into()) },
        Compare { key: "c".into(), target: Target::Exists(true) },
    ];
    let then = vec![Write::Put { key: "a".into(), value: "new".into() }, Write::Delete { key: "b".into() }];
    let operations = [
        Operation::Txn(Txn { compares, then }),
        Operation::Compact { revision: 3 },
        Operation::Check { revision: 5, hash: u64::MAX },
        Operation::Compare,
    ];
    let origin = |sequence| Origin { member: 1, boot: 2, sequence };
    (1..)
        .zip(operations)
        .map(|(sequence, operation)| Command { origin: origin(sequence), at_ms: 9, operation })
        .collect()
}

/// Decodes changed examples; some must be taken and many refused, or the changes miss the decoder.
fn fuzz(name: &str, decode: fn(&[u8]) -> bool, examples: &[Vec<u8>]) {
    for example in examples {
        assert!(decode(example), "{name}: the example itself is good");
    }
    let cases = super::number("FUZZ_CASES").unwrap_or(CASES);
    let mut taken = 0;
    for seed in 0..cases {
        let mut rng = Rng::new(seed);
        let mut bytes = examples[rng.below(examples.len() as u64) as usize].clone();
        change(&mut rng, &mut bytes);
        taken += u64::from(decode(&bytes));
    }
    // Behind a checksum of its own next to nothing passes.
    let checked = name == "log_frame";
    assert!((checked || taken > 0) && taken < cases, "{name}: {taken} of {cases} are taken");
}

fn state() -> State {
    let addresses = [(1, "a:1".to_owned()), (2, "b:1".to_owned())].into();
    let membership = Membership { voters: vec![1, 2], learners: vec![3], addresses, ..Membership::default() };
    let mut state = State::new(membership);
    for command in commands() {
        state.apply(command);
    }
    for sequence in 10..13 {
        let then = vec![Write::Put { key: "k".into(), value: format!("{sequence}").into() }];
        let operation = Operation::Txn(Txn { compares: Vec::new(), then });
        state.apply(Command { origin: Origin { member: 1, boot: 2, sequence }, at_ms: 9, operation });
    }
    state
}

/// The first frame of a log, and what is in it.
fn frame() -> (Vec<u8>, Vec<u8>) {
    let disk = SimDisk::default();
    let (mut log, _) = Log::open(Arc::new(disk.clone()), Identity { member: 1, cluster: 1 }, false).unwrap();
    let entry =
        |index, data: &'static str| Record::Entry(Entry { index, term: 1, data: data.into(), ..Entry::default() });
    let hard = Record::Hard(HardState { term: 1, vote: 1, commit: 1, ..HardState::default() });
    log.write(&[hard, Record::Restart { index: 4, term: 1 }, entry(5, "one"), entry(6, "two")]).unwrap();
    log.sync().unwrap();
    let name = disk.names().unwrap().remove(0);
    let whole = disk.bytes(&name)[LOG_HEADER_BYTES..].to_vec();
    let length = u32::from_le_bytes(whole[..4].try_into().unwrap()) as usize;
    let end = FRAME_HEAD_BYTES + length;
    (whole[..end].to_vec(), whole[FRAME_HEAD_BYTES..end].to_vec())
}

/// Good bytes for a target.
fn examples(target: &str) -> Vec<Vec<u8>> {
    let state = state();
    let stream: Vec<Vec<u8>> = chunks(&state).collect();
    let change = |kinds: &[(ConfChangeType, u64)]| {
        let mut change = ConfChangeV2 { context: Bytes::from("a:1"), ..ConfChangeV2::default() };
        for (kind, node_id) in kinds {
            let mut single = ConfChangeSingle { node_id: *node_id, ..ConfChangeSingle::default() };
            single.set_change_type(*kind);
            change.mut_changes().push(single);
        }
        change.write_to_bytes().unwrap()
    };
    match target {
        "command" => commands().iter().map(|command| command.encode().to_vec()).collect(),
        "head" => {
            let mut whole = Writer::default();
            state.encode_head(&mut whole);
            vec![Reader::copy(&whole.0).bytes().unwrap().to_vec()]
        }
        "live_row" => state.mvcc.live().map(|kv| encode_live(kv)).collect(),
        "history_row" => state.mvcc.history().map(|past| encode_history(past)).collect(),
        "member_change" => vec![
            change(&[(ConfChangeType::AddLearnerNode, 4)]),
            change(&[(ConfChangeType::RemoveNode, 4), (ConfChangeType::AddLearnerNode, 1004)]),
        ],
        "log_frame" => vec![frame().0],
        "log_payload" => vec![frame().1],
        "roster" => {
            let disk = SimDisk::default();
            let members = [(1, "a:1".to_owned())].into();
            Roster { member: 1, members, damage: "x".to_owned(), ..Roster::default() }.write(&disk).unwrap();
            let bytes = disk.bytes(crate::roster::FILE);
            let length = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
            vec![bytes[16..16 + length].to_vec()]
        }
        "snapshot_rows" => vec![stream[0][CHUNK_HEAD_BYTES..].to_vec()],
        "snapshot_stream" => vec![stream.concat()],
        "hello" => {
            let mut hello = Writer(b"KGRAFT\0\x01".to_vec());
            for field in [1, 2, 3] {
                hello.u64(field);
            }
            hello.u8(1);
            hello.u8(9);
            hello.0.extend_from_slice(b"host:1234");
            vec![hello.0]
        }
        "wire_message" => {
            let mut message =
                Message { from: 1, to: 2, term: 3, index: 4, log_term: 3, commit: 4, ..Message::default() };
            message.mut_entries().push(Entry { index: 5, term: 3, data: commands()[0].encode(), ..Entry::default() });
            let mut w = Writer::default();
            w.bytes(&message.write_to_bytes().unwrap());
            vec![w.0]
        }
        other => panic!("{other} has no examples"),
    }
}

#[test]
fn every_decoder_refuses_or_accepts_whatever_it_is_given() {
    for (name, decode) in fuzz::TARGETS {
        fuzz(name, decode, &examples(name));
    }
}

#[test]
fn every_target_has_its_file() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<String> = names.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    let mut targets: Vec<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    files.sort();
    targets.sort_unstable();
    assert_eq!(files, targets);
}
