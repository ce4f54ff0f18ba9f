//! Changed bytes behind a right checksum: decoders refuse or accept them, and never panic.

use bytes::Bytes;

use super::Rng;
use crate::codec::Writer;
use crate::command::{Command, Operation, Origin, Txn, Write};
use crate::snapshot::{Assembly, CHUNK_HEAD_BYTES, chunks};
use crate::state::{Membership, State};

fn example() -> State {
    let membership =
        Membership { voters: vec![1, 2], addresses: [(1, "a:1".to_owned())].into(), ..Membership::default() };
    let mut state = State::new(membership);
    for sequence in 1..=20 {
        let key: Bytes = format!("k{}", sequence % 5).into();
        let write = if sequence % 7 == 0 { Write::Delete { key } } else { Write::Put { key, value: "value".into() } };
        let origin = Origin { member: 1 + sequence % 2, boot: 1, sequence };
        let operation = Operation::Txn(Txn { compares: Vec::new(), then: vec![write] });
        state.apply(Command { origin, at_ms: sequence, operation });
    }
    state
}

#[test]
fn a_snapshot_changed_behind_its_checksum_is_refused_and_harms_nobody() {
    let state = example();
    let whole: Vec<Vec<u8>> = chunks(&state).collect();
    let (mut refused, mut taken) = (0, 0);
    for seed in 0..5000 {
        let mut rng = Rng::new(seed);
        let mut assembly = Assembly::default();
        let mut ended = false;
        for (number, bytes) in whole.iter().enumerate() {
            let mut rows = bytes[CHUNK_HEAD_BYTES..].to_vec();
            if number == 0 {
                let at = usize::try_from(rng.below(rows.len() as u64)).unwrap();
                rows[at] ^= 1 << rng.below(8);
                rows.truncate(rows.len() - usize::try_from(rng.below(2)).unwrap());
            }
            let mut head = Writer::default();
            head.count(rows.len());
            head.u32(if rows.is_empty() {
                u32::from_le_bytes(bytes[4..8].try_into().unwrap())
            } else {
                crc32c::crc32c(&rows)
            });
            match assembly.add(&head.0.try_into().unwrap(), rows.into()) {
                Ok(None) => {}
                Ok(Some(found)) => {
                    taken += 1;
                    // Only the time of a revision is covered by nothing but the checksum.
                    assert_eq!(found.fingerprint(), state.fingerprint());
                    ended = true;
                }
                Err(_) => {
                    refused += 1;
                    ended = true;
                }
            }
            if ended {
                break;
            }
        }
        assert!(ended, "a snapshot ends or is refused");
    }
    assert!(refused > 4 * taken, "{refused} refused, {taken} taken");
}
