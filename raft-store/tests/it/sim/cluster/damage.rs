//! Damage at rest: one place of one member's disk changes, goes, or no longer reads.
//!
//! The damaged member must remember exactly what it would have remembered undamaged, or find out and begin anew, and the
//! cluster must be whole again in the end, while everything else goes on failing as before. The last frames of a log are
//! spared as long as nothing on the disk says that they had been durable (see `log`).

use std::ops::Range;
use std::sync::Arc;

use super::super::Rng;
use super::super::disk::{PAGE, SimDisk};
use super::{Cluster, Event, Process};
use crate::checkpoint;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::log::Identity;
use crate::recovery::{self, Opened};
use crate::roster::Stage;
use crate::state::Membership;

/// How many times a member's disk is damaged in a run; never two at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Damage {
    pub(crate) times: u64,
}

impl Cluster {
    pub(super) fn plan_damage(&mut self) {
        if let Some(within) = 20_000_u64.checked_div(self.damage.times) {
            let at = 3000 + self.rng.below(within);
            self.after(at, Event::Damage);
        }
    }

    pub(super) fn damage(&mut self) {
        if self.healed {
            return;
        }
        let id = self.anyone();
        // One that is down may have been damaged and not have found out.
        let whole = |process: &Process| process.live.as_ref().is_some_and(|live| live.roster.stage == Stage::Whole);
        let all_whole = self.processes.values().all(|process| process.retired || whole(process));
        let voter = self.process(id).live.as_ref().is_some_and(|live| live.roster.voter);
        if !all_whole || !voter {
            return self.after(500, Event::Damage);
        }
        self.damage.times -= 1;
        self.plan_damage();
        self.crash(id);
        let mut rng = Rng::new(self.rng.next());
        let process = self.process(id);
        let (disk, configured) = (process.disk.clone(), process.configured);
        let before = at_rest(&disk, configured).expect("an undamaged member opens");
        let what = damage(&disk, &mut rng);
        match at_rest(&disk, configured) {
            Some(after) => {
                assert_eq!(after, before, "{what} of member {id} went unnoticed and changed what it remembers");
                // Nothing lies there.
                disk.mend();
                self.summary.unharmed += 1;
            }
            None => self.summary.damaged += 1,
        }
    }

    pub(super) fn open(&self, id: u64, initial: &Membership) -> Result<Opened, OpenError> {
        let process = &self.processes[&id];
        open(&process.disk, process.configured, initial, self.time(id).wall_ms)
    }

    /// The process goes on under the number it has now.
    pub(super) fn renamed(&mut self, id: u64, member: u64) -> u64 {
        if member != id {
            let old = self.process(id);
            old.retired = true;
            let mut new = Process::new(old.configured, old.wall_skew);
            new.disk = std::mem::take(&mut old.disk);
            new.disk.mend();
            self.processes.insert(member, new);
        }
        member
    }
}

fn open(disk: &SimDisk, configured: u64, initial: &Membership, wall_ms: u64) -> Result<Opened, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    recovery::open(&disk, Identity { member: configured, cluster: 1 }, initial, wall_ms)
}

/// What the member would remember: its number, life, term and vote, and the last entry of its log. `None` if it would
/// begin anew.
fn at_rest(disk: &SimDisk, configured: u64) -> Option<[u64; 6]> {
    // Peers to ask, for one whose roster is gone.
    let addresses = (1..=3).map(|id| (id, format!("m{id}"))).collect();
    let initial = Membership { voters: vec![1, 2, 3], addresses, ..Membership::default() };
    let Opened { memory, roster, healing } = open(&disk.crashed_after(0), configured, &initial, 0).ok()?;
    let (tail, hard) = (&memory.tail, &memory.tail.hard);
    let last = tail.entries.back().map_or(tail.start, |entry| (entry.index, entry.term));
    healing.is_none().then_some([roster.member, memory.boot, hard.term, hard.vote, last.0, last.1])
}

/// Damages one place of the disk that was ever written; says which.
fn damage(disk: &SimDisk, rng: &mut Rng) -> String {
    let names: Vec<String> = disk.names().unwrap();
    let logs: Vec<&String> = names.iter().filter(|name| name.starts_with("log-")).collect();
    let name = match rng.below(10) {
        0..5 if !logs.is_empty() => logs[rng.below(logs.len() as u64) as usize].clone(),
        5..9 => checkpoint::FILE.to_owned(),
        _ => names[rng.below(names.len() as u64) as usize].clone(),
    };
    let mut bytes = disk.bytes(&name);
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1) as u64;
    if end == 0 {
        return format!("nothing: {name} is empty");
    }
    let spared = if name.starts_with("log-") { unprovable(&bytes) } else { 0..0 };
    let at = rng.below(end);
    match rng.below(10) {
        0 | 1 => {
            let sector = at / PAGE * PAGE;
            disk.spoil(&name, sector);
            format!("an unreadable sector at {sector} in {name}")
        }
        2 => {
            let length = rng.below(bytes.len() as u64) as usize;
            bytes.truncate(length);
            disk.overwrite(&name, &bytes);
            format!("{name} cut to {length}")
        }
        3 => {
            disk.remove(&name).unwrap();
            format!("{name} removed")
        }
        4 => {
            let (from, to) = ((at / PAGE * PAGE) as usize, ((at / PAGE + 1) * PAGE).min(bytes.len() as u64) as usize);
            if spared.is_empty() || to <= spared.start || spared.end <= from {
                bytes[from..to].fill(0);
                disk.overwrite(&name, &bytes);
            }
            format!("zeros from {from} to {to} in {name}")
        }
        _ => {
            if !spared.contains(&(at as usize)) {
                disk.flip(&name, at, rng.below(8));
            }
            format!("a flipped bit at {at} in {name}")
        }
    }
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
