//! Bytes nobody wrote, behind a right checksum where there is one: every decoder refuses or accepts them, and none
//! panics or takes memory for what is not there. Bounded and seeded, so that a failure is found again.

use std::sync::Arc;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeV2, Entry, HardState, Message};

use super::Rng;
use super::disk::SimDisk;
use crate::codec::{Reader, Writer};
use crate::command::{Command, Compare, Operation, Origin, Target, Txn, Write};
use crate::disk::Disk;
use crate::log::{Identity, Log, LogError, Record};
use crate::state::{Membership, State};
use crate::transport::{read_hello, read_message};

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

/// Decodes `CASES` changed examples; some must be taken and many refused, or the changes miss the decoder.
fn fuzz(examples: &[Vec<u8>], mut decode: impl FnMut(Vec<u8>) -> bool) {
    for example in examples {
        assert!(decode(example.clone()), "the example itself is good");
    }
    let mut taken = 0;
    for seed in 0..CASES {
        let mut rng = Rng::new(seed);
        let mut bytes = examples[rng.below(examples.len() as u64) as usize].clone();
        change(&mut rng, &mut bytes);
        taken += u64::from(decode(bytes));
    }
    assert!(taken > 0 && taken < CASES, "{taken} of {CASES} are taken");
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
    ];
    let origin = |sequence| Origin { member: 1, boot: 2, sequence };
    (1..)
        .zip(operations)
        .map(|(sequence, operation)| Command { origin: origin(sequence), at_ms: 9, operation })
        .collect()
}

#[test]
fn commands_are_refused_or_read_as_what_they_write_back() {
    let examples: Vec<Vec<u8>> = commands().iter().map(|command| command.encode().to_vec()).collect();
    fuzz(&examples, |bytes| match Command::decode(bytes.into()) {
        Ok(command) => {
            assert_eq!(Command::decode(command.encode()).as_ref(), Ok(&command));
            true
        }
        Err(_) => false,
    });
}

#[test]
fn the_head_of_a_state_with_its_membership_is_refused_or_read() {
    let addresses = [(1, "a:1".to_owned()), (2, "b:1".to_owned())].into();
    let membership = Membership { voters: vec![1, 2], learners: vec![3], addresses, ..Membership::default() };
    let mut state = State::new(membership);
    for command in commands() {
        state.apply(command);
    }
    let mut whole = Writer::default();
    state.encode_head(&mut whole);
    let fields = Reader::copy(&whole.0).bytes().unwrap().to_vec();
    fuzz(&[fields], |fields| {
        let mut w = Writer::default();
        w.bytes(&fields);
        w.u32(crc32c::crc32c(&fields));
        State::decode_head(&mut Reader::new(w.0.into())).is_ok()
    });
}

#[test]
fn a_change_of_membership_is_refused_or_read() {
    let mut change = ConfChangeV2 { context: Bytes::from("a:1"), ..ConfChangeV2::default() };
    change.mut_changes().push(ConfChangeSingle { node_id: 4, ..ConfChangeSingle::default() });
    fuzz(&[change.write_to_bytes().unwrap()], |bytes| ConfChangeV2::parse_from_bytes(&bytes).is_ok());
}

/// A log of one frame after the header, and the name of its only segment.
fn log_of_one_frame(identity: Identity) -> (String, Vec<u8>) {
    let disk = SimDisk::default();
    let (mut log, _) = Log::open(Arc::new(disk.clone()), identity).unwrap();
    let entry =
        |index, data: &'static str| Record::Entry(Entry { index, term: 1, data: data.into(), ..Entry::default() });
    let hard = Record::Hard(HardState { term: 1, vote: 1, commit: 1, ..HardState::default() });
    log.write(&[hard, Record::Restart { index: 4, term: 1 }, entry(5, "one"), entry(6, "two")]).unwrap();
    log.sync().unwrap();
    let name = disk.names().unwrap().remove(0);
    let bytes = disk.bytes(&name);
    (name, bytes)
}

#[test]
fn a_frame_of_the_log_is_refused_or_read() {
    let identity = Identity { member: 1, cluster: 1 };
    let (name, whole) = log_of_one_frame(identity);
    let frame = &whole[LOG_HEADER_BYTES..];
    let length = u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize;
    let payload = frame[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length].to_vec();
    fuzz(&[payload], |payload| {
        let mut bytes = whole.clone();
        let frame = &mut bytes[LOG_HEADER_BYTES..];
        frame[..4].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        frame[FRAME_HEAD_BYTES..].fill(0);
        frame[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + payload.len()].copy_from_slice(&payload);
        let crc = crc32c::crc32c(&frame[8..FRAME_HEAD_BYTES + payload.len()]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        let disk = SimDisk::default();
        disk.overwrite(&name, &bytes);
        match Log::open(Arc::new(disk), identity) {
            Ok((_, recovered)) => {
                let indexes: Vec<u64> = recovered.entries.iter().map(|entry| entry.index).collect();
                assert!(indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{indexes:?} leave a gap");
                true
            }
            Err(LogError::Damaged(_)) => false,
            Err(other) => panic!("damage is told as {other}"),
        }
    });
}

/// What is wired to end at once, since all bytes are there.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(work)
}

#[test]
fn what_a_peer_says_is_refused_or_read() {
    let mut hello = Writer(b"KGRAFT\0\x01".to_vec());
    for field in [1, 2, 3] {
        hello.u64(field);
    }
    hello.u8(1);
    hello.u8(9);
    hello.0.extend_from_slice(b"host:1234");
    fuzz(&[hello.0], |bytes| at_once(read_hello(&mut bytes.as_slice())).is_ok());

    let mut message = Message { from: 1, to: 2, term: 3, index: 4, log_term: 3, commit: 4, ..Message::default() };
    message.mut_entries().push(Entry { index: 5, term: 3, data: commands()[0].encode(), ..Entry::default() });
    let framed = |body: Vec<u8>| {
        let mut w = Writer::default();
        w.bytes(&body);
        w.0
    };
    let body = message.write_to_bytes().unwrap();
    fuzz(std::slice::from_ref(&body), |body| at_once(read_message(&mut framed(body).as_slice())).is_ok());
    fuzz(&[framed(body)], |bytes| at_once(read_message(&mut bytes.as_slice())).is_ok());
}
