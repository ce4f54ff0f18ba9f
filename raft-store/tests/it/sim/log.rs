//! The log on a disk that forgets: what was synced is there again, what was not never passes for it.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};

use super::Rng;
use super::disk::SimDisk;
use crate::limits::SEGMENT_BYTES;
use crate::log::{Identity, Log, LogError, Record, Recovered};

const IDENTITY: Identity = Identity { member: 1, cluster: 1 };

fn open(disk: &SimDisk) -> Result<(Log, Recovered), LogError> {
    Log::open(Arc::new(disk.clone()), IDENTITY, false)
}

fn entry(index: u64, term: u64, size: usize) -> Record {
    let data = Bytes::from(vec![u8::try_from(index % 251).unwrap(); size]);
    Record::Entry(Entry { index, term, data, ..Entry::default() })
}

fn hard(term: u64, commit: u64) -> Record {
    Record::Hard(HardState { term, commit, ..HardState::default() })
}

fn indexes(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(|entry| entry.index).collect()
}

fn segments(disk: &SimDisk) -> Vec<String> {
    use crate::disk::Disk;
    disk.names().unwrap()
}

#[test]
fn what_was_synced_is_there_again() {
    let disk = SimDisk::default();
    let (mut log, empty) = open(&disk).unwrap();
    assert_eq!(indexes(&empty), []);
    log.write(&[hard(1, 0), entry(1, 1, 10), entry(2, 1, 0)]).unwrap();
    log.sync().unwrap();
    // A new leader replaces the second entry.
    log.write(&[entry(2, 2, 5), entry(3, 2, 100), hard(2, 1)]).unwrap();
    log.sync().unwrap();
    let (_, recovered) = open(&disk.crashed_after(0)).unwrap();
    assert_eq!(recovered.entries.iter().map(|e| (e.index, e.term)).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 2)]);
    assert_eq!((recovered.hard.term, recovered.hard.commit), (2, 1));
    assert_eq!(recovered.entries[2].data, Bytes::from(vec![3; 100]));
    log.write(&[Record::Restart { index: 9, term: 2 }, entry(10, 2, 1)]).unwrap();
    log.sync().unwrap();
    assert_eq!(indexes(&open(&disk).unwrap().1), [10]);
}

#[test]
fn every_prefix_of_unsynced_writes_reopens_with_all_that_was_synced() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.write(&(1..=20).map(|index| entry(index, 1, 100)).collect::<Vec<_>>()).unwrap();
    log.sync().unwrap();
    for index in 21..=40 {
        log.write(&[entry(index, 1, 300)]).unwrap();
    }
    for kept in 0..=disk.unsynced() {
        let (_, recovered) = open(&disk.crashed_after(kept)).unwrap();
        assert_eq!(indexes(&recovered), (1..=20 + kept as u64).collect::<Vec<_>>(), "kept {kept}");
    }
}

#[test]
fn any_mixture_of_lost_and_torn_writes_leaves_a_prefix_that_can_be_continued() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::default();
        let (mut durable, mut last, mut term) = (0, 0, 1);
        for _life in 0..6 {
            let (mut log, recovered) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let found = indexes(&recovered);
            assert!(found.len() as u64 >= durable && found.len() as u64 <= last, "seed {seed}: {found:?} {durable}");
            assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "seed {seed}");
            // Nothing written but never synced in an earlier life may come back later.
            (durable, last) = (found.len() as u64, found.len() as u64);
            let terms: Vec<u64> = recovered.entries.iter().map(|entry| entry.term).collect();
            assert!(terms.is_sorted() && terms.last().is_none_or(|last| *last < term || found.is_empty()));
            for _ in 0..rng.below(12) {
                let count = 1 + if seed % 2 == 0 { 0 } else { rng.below(6) };
                // Frames of one size fall exactly where those of an earlier life were.
                let size = |rng: &mut Rng| if seed % 2 == 0 { 64 } else { usize::try_from(rng.below(900)).unwrap() };
                let records: Vec<_> =
                    (last + 1..=last + count).map(|index| entry(index, term, size(&mut rng))).collect();
                log.write(&records).unwrap();
                last += count;
                if rng.chance(60) {
                    log.sync().unwrap();
                    durable = last;
                }
            }
            term += 1;
            disk.crash(&mut rng);
        }
    }
}

#[test]
fn recycled_segments_never_show_an_earlier_use() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    let mut rng = Rng::new(7);
    for round in 0..60_u64 {
        for step in 0..10 {
            log.write(&[entry(round * 10 + step + 1, 1, usize::try_from(rng.below(2000)).unwrap())]).unwrap();
            log.sync().unwrap();
        }
        log.truncate(round * 10).unwrap();
        let (_, recovered) = open(&disk.crashed_after(0)).unwrap();
        let found = indexes(&recovered);
        let first = *found.first().unwrap();
        assert!(first <= round * 10 + 1, "entries that were not truncated are gone");
        assert_eq!(found, (first..=round * 10 + 10).collect::<Vec<_>>());
    }
    assert!(segments(&disk).len() <= 5, "segments are reused, not piled up: {:?}", segments(&disk));
}

#[test]
fn a_flipped_bit_in_what_was_promised_is_found() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    for index in 1..=4 {
        log.write(&[hard(1, index - 1), entry(index, 1, 40)]).unwrap();
        log.sync().unwrap();
    }
    let name = segments(&disk).remove(0);
    let whole = disk.bytes(&name);
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let (mut found, mut cut) = (0, 0);
    for at in 0..end {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let damaged = SimDisk::default();
        damaged.overwrite(&name, &bytes);
        match open(&damaged) {
            Err(_) => found += 1,
            // The last frame cannot be told from one that was never synced; nothing before it may be missing.
            Ok((_, recovered)) if indexes(&recovered) == [1, 2, 3] => cut += 1,
            // Reserved bytes and padding carry nothing.
            Ok((_, recovered)) => assert_eq!(indexes(&recovered), [1, 2, 3, 4], "a flip at {at} changed the log"),
        }
    }
    assert!(found > 3 * cut && cut > 0, "{found} found, {cut} cut");
}

#[test]
fn a_missing_segment_and_a_foreign_log_are_refused() {
    use crate::disk::Disk;
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    for index in 1..=100 {
        log.write(&[entry(index, 1, 1000)]).unwrap();
        log.sync().unwrap();
    }
    let names = segments(&disk);
    assert!(names.len() >= 3 && disk.bytes(&names[0]).len() as u64 == SEGMENT_BYTES);
    let foreign = Log::open(Arc::new(disk.clone()), Identity { member: 2, cluster: 1 }, false);
    assert!(matches!(foreign, Err(LogError::Foreign { member: 1, .. })));
    let whole = disk.crashed_after(0);
    let mut headless = whole.bytes(&names[names.len() - 1]);
    headless[9] ^= 1;
    whole.overwrite(&names[names.len() - 1], &headless);
    assert!(matches!(open(&whole), Err(LogError::Damaged(_))), "a damaged header hides its frames");
    disk.remove(&names[1]).unwrap();
    let (_, recovered) = open(&disk).unwrap();
    assert!(recovered.entries.front().unwrap().index > 1, "what is left must show the gap to whoever needs the rest");
}

/// Every test of this file, for the ledger of planted bugs.
pub(crate) fn all() {
    what_was_synced_is_there_again();
    every_prefix_of_unsynced_writes_reopens_with_all_that_was_synced();
    any_mixture_of_lost_and_torn_writes_leaves_a_prefix_that_can_be_continued();
    recycled_segments_never_show_an_earlier_use();
    a_flipped_bit_in_what_was_promised_is_found();
    a_missing_segment_and_a_foreign_log_are_refused();
}
