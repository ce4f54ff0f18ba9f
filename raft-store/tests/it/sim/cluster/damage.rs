//! Damage at rest: a bit that flips in what one founder had made durable, or a sector that no longer reads.
//!
//! The damaged member must refuse to open, or remember exactly what it would have remembered undamaged. If it refuses,
//! the operator does what the error says: removes it, and adds it again under a new number with an empty disk, while
//! everything else goes on failing as before. The last frames of a log are spared: as long as nothing later says that
//! they had been durable, damage to them cannot be told from a write that a crash tore.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::super::Rng;
use super::super::disk::{PAGE, SimDisk};
use super::{Cluster, Event, Process};
use crate::checkpoint;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::log::Identity;
use crate::member::MemberChange;
use crate::recovery::{self, Opened};
use crate::state::Membership;

/// The number under which a damaged member comes back.
const REPLACEMENT: u64 = 5;

/// Whose disk was damaged, and who was found to be and serves no more.
#[derive(Default)]
pub(super) struct Damage {
    victim: Option<u64>,
    set_aside: Option<u64>,
}

impl Cluster {
    /// Every fourth run has its damage; the others stay what they were.
    pub(super) fn plan_damage(&mut self, seed: u64) {
        if seed % 4 == 3 {
            let at = 3000 + self.rng.below(20_000);
            self.after(at, Event::Damage);
        }
    }

    pub(super) fn damage(&mut self) {
        let id = 1 + self.rng.below(3);
        self.crash(id);
        let mut rng = Rng::new(self.rng.next());
        let disk = self.process(id).disk.clone();
        let before = at_rest(&disk, id).expect("an undamaged member opens");
        let what = damage(&disk, &mut rng);
        self.damage.victim = Some(id);
        match at_rest(&disk, id) {
            Ok(after) => {
                assert_eq!(after, before, "{what} of member {id} went unnoticed and changed what it remembers");
                // Nothing lies there.
                disk.mend();
            }
            Err(_) => self.summary.damaged += 1,
        }
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.damage.victim.is_some()
    }

    pub(super) fn is_set_aside(&self, id: u64) -> bool {
        self.damage.set_aside == Some(id)
    }

    pub(super) fn open(&self, id: u64, initial: &Membership) -> Result<Opened, OpenError> {
        let disk = self.processes[&id].disk.clone();
        if self.damage.victim == Some(id) { open_damaged(&disk, id, initial) } else { open(&disk, id, initial) }
    }

    /// A member that cannot be opened is tried again if its disk merely failed, and set aside if it was damaged.
    pub(super) fn not_opened(&mut self, id: u64, error: &OpenError) {
        match error {
            _ if self.damage.victim == Some(id) => self.damage.set_aside = Some(id),
            OpenError::Io(_) => self.crash(id),
            error => panic!("member {id} cannot be opened: {error}"),
        }
    }

    /// The next step towards a cluster that is whole again, given who belongs to it.
    pub(super) fn repair(&self, membership: &Membership) -> Option<MemberChange> {
        let (gone, all) = (self.damage.set_aside?, membership.all());
        if all.contains(&gone) {
            Some(MemberChange::Remove { member: gone })
        } else if !all.contains(&REPLACEMENT) {
            Some(MemberChange::AddLearner { member: REPLACEMENT, address: format!("m{REPLACEMENT}") })
        } else if membership.learners.contains(&REPLACEMENT) {
            Some(MemberChange::Promote { member: REPLACEMENT })
        } else {
            None
        }
    }

    /// Starts the replacement on an empty disk, once it is to be added.
    pub(super) fn start_replacement(&mut self, change: &MemberChange) {
        let added = matches!(change, MemberChange::AddLearner { member: REPLACEMENT, .. });
        if added && !self.processes.contains_key(&REPLACEMENT) {
            self.summary.replaced += 1;
            let wall_skew = self.rng.below(10_000);
            self.processes.insert(REPLACEMENT, Process::new(wall_skew));
            self.start(REPLACEMENT);
        }
    }
}

fn open(disk: &SimDisk, id: u64, initial: &Membership) -> Result<Opened, OpenError> {
    recovery::open(Arc::new(disk.clone()), Identity { member: id, cluster: 1 }, initial)
}

/// Reading a damaged database may panic, which ends the opening like any other error.
fn open_damaged(disk: &SimDisk, id: u64, initial: &Membership) -> Result<Opened, OpenError> {
    let panicked = |_| Err(OpenError::Io(std::io::Error::other("the database panicked")));
    catch_unwind(AssertUnwindSafe(|| open(disk, id, initial))).unwrap_or_else(panicked)
}

/// What the member would remember: its life, term and vote, and the last entry of its log.
fn at_rest(disk: &SimDisk, id: u64) -> Result<[u64; 5], OpenError> {
    let opened = open_damaged(&disk.crashed_after(0), id, &Membership::default())?;
    let (tail, hard) = (&opened.tail, &opened.tail.hard);
    let last = tail.entries.back().map_or(tail.start, |entry| (entry.index, entry.term));
    Ok([opened.boot, hard.term, hard.vote, last.0, last.1])
}

/// Damages one place of the disk that was ever written; says which.
fn damage(disk: &SimDisk, rng: &mut Rng) -> String {
    let logs: Vec<String> = disk.names().unwrap().into_iter().filter(|name| name.starts_with("log-")).collect();
    let of_log = !logs.is_empty() && rng.chance(50);
    let name = if of_log { logs[rng.below(logs.len() as u64) as usize].clone() } else { checkpoint::FILE.to_owned() };
    let bytes = disk.bytes(&name);
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1) as u64;
    if bytes.is_empty() {
        return format!("nothing: {name} is empty");
    }
    let spared = if of_log { unprovable(&bytes) } else { 0..0 };
    let at = rng.below(end);
    if rng.chance(30) {
        let sector = at / PAGE * PAGE;
        disk.spoil(&name, sector);
        return format!("an unreadable sector at {sector} in {name}");
    }
    if !spared.contains(&(at as usize)) {
        disk.flip(&name, at, rng.below(8));
    }
    format!("a flipped bit at {at} in {name}")
}

/// The last frames of a segment, those of which no frame says that they are durable.
fn unprovable(bytes: &[u8]) -> Range<usize> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (epoch, mut sequence, mut at) = (number(8), number(16), 4096);
    let mut frames = Vec::new();
    while at + 32 <= bytes.len() {
        let (length, crc) = ((number(at) & 0xffff_ffff) as usize, number(at) >> 32);
        let whole = bytes.get(at + 8..at + 32 + length).filter(|whole| u64::from(crc32c::crc32c(whole)) == crc);
        if length == 0 || whole.is_none() || (number(at + 8), number(at + 16)) != (epoch, sequence) {
            break;
        }
        frames.push((at, sequence));
        sequence += 1;
        at += (32 + length).next_multiple_of(8);
    }
    let synced = frames.last().map_or(0, |(last, _)| number(last + 24));
    frames.iter().find(|(_, sequence)| *sequence > synced).map_or(at..at, |(first, _)| *first..at)
}
