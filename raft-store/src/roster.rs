//! Who this member is, who its peers are, and how far it has come in healing: the little that must be known when the rest
//! of its memory is damaged.
//!
//! ```text
//! file = copy · zeros up to 4096 · copy      copy = "KGROST" 0 1 · length u32 · crc32c u32 of the body · body
//! body = configured u64 · cluster u64 · member u64 · stage u8 · gone u64 · voter u8 · address bytes
//!        · count · (member u64 · address bytes)* · damage bytes
//! ```
//!
//! Written one copy after the other, each synced, so that one of them is whole whatever happens in between. A file of
//! which neither copy reads counts as none: the checkpoint says who the member is, and the roster is written anew.

use std::collections::BTreeMap;
use std::io;

use crate::codec::{Malformed, Reader, Writer};
use crate::disk::Disk;
use crate::log::Identity;
use crate::state::Membership;

/// File of the roster within the member's directory.
pub(crate) const FILE: &str = "roster";
const MAGIC: &[u8; 8] = b"KGROST\0\x01";
const COPY_BYTES: usize = 4096;
const HEAD_BYTES: usize = 16;

/// How far a member has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It remembers everything it promised.
    #[default]
    Whole,
    /// It does not, and must never speak under its number again.
    Damaged,
    /// It has a new number; what it remembered is being set aside.
    SettingAside,
    /// It begins anew under its new number and waits to be taken in.
    Joining,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roster {
    /// The number its directory was first opened with: what the caller goes on calling it.
    pub(crate) configured: u64,
    pub(crate) cluster: u64,
    /// Its number now.
    pub(crate) member: u64,
    pub(crate) stage: Stage,
    /// The number it had before it began anew.
    pub(crate) gone: u64,
    /// Whether it is to have a vote.
    pub(crate) voter: bool,
    /// Where it is reached.
    pub(crate) address: String,
    /// Every member it knows of and where it is reached, itself included.
    pub(crate) members: BTreeMap<u64, String>,
    /// What was found to be damaged.
    pub(crate) damage: String,
}

impl Roster {
    /// The roster of a directory; `None` if there is none that reads.
    pub(crate) fn read(disk: &dyn Disk) -> io::Result<Option<Roster>> {
        if !disk.names()?.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let file = disk.open(FILE)?;
        let copy = |number: usize| {
            let mut bytes = vec![0; COPY_BYTES];
            // A copy that cannot be read is as good as one that does not check.
            file.read_at((number * COPY_BYTES) as u64, &mut bytes).ok()?;
            decode(&bytes).ok()
        };
        Ok(copy(0).or_else(|| copy(1)))
    }

    /// Writes the roster; it is durable when this returns.
    pub(crate) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.open(FILE)?;
        let mut bytes = encode(self);
        if bytes.len() > COPY_BYTES {
            return Err(io::Error::other("the members' addresses are too long"));
        }
        bytes.resize(COPY_BYTES, 0);
        let length = 2 * COPY_BYTES as u64;
        if file.len()? != length {
            file.allocate(length)?;
        }
        for copy in 0..2 {
            file.write_at(copy * COPY_BYTES as u64, &bytes)?;
            file.sync()?;
        }
        disk.sync_names()
    }

    /// What the membership says of this member and of its peers.
    pub(crate) fn note(&mut self, membership: &Membership) {
        self.members.clone_from(&membership.addresses);
        if let Some(address) = membership.addresses.get(&self.member) {
            self.address.clone_from(address);
        }
        if self.stage == Stage::Whole {
            self.voter = membership.voters.contains(&self.member);
        }
    }

    /// Whose directory this is.
    pub(crate) fn identity(&self) -> Identity {
        Identity { member: self.member, cluster: self.cluster }
    }

    /// Everybody else.
    pub(crate) fn peers(&self) -> BTreeMap<u64, String> {
        let mut peers = self.members.clone();
        peers.retain(|member, address| *member != self.member && *member != self.gone && *address != self.address);
        peers
    }
}

/// The number under which a member begins anew: never used before and above the one it had. It ends with the digits of
/// the number the member was founded with, so that people recognise it, and begins with the time.
pub(crate) fn successor(member: u64, wall_ms: u64) -> u64 {
    const MEMBERS: u64 = 1000;
    (wall_ms / 1000).max(member / MEMBERS + 1) * MEMBERS + member % MEMBERS
}

fn encode(roster: &Roster) -> Vec<u8> {
    let mut body = Writer::default();
    body.u64(roster.configured);
    body.u64(roster.cluster);
    body.u64(roster.member);
    body.u8(roster.stage as u8);
    body.u64(roster.gone);
    body.u8(u8::from(roster.voter));
    body.bytes(roster.address.as_bytes());
    body.count(roster.members.len());
    for (member, address) in &roster.members {
        body.u64(*member);
        body.bytes(address.as_bytes());
    }
    body.bytes(roster.damage.as_bytes());
    let mut w = Writer(MAGIC.to_vec());
    w.count(body.0.len());
    w.u32(crc32c::crc32c(&body.0));
    w.0.extend(body.0);
    w.0
}

fn decode(bytes: &[u8]) -> Result<Roster, Malformed> {
    let head = bytes.get(..HEAD_BYTES).filter(|head| head[..8] == MAGIC[..]).ok_or(Malformed)?;
    let mut head = Reader::copy(&head[8..]);
    let (length, crc) = (head.u32()? as usize, head.u32()?);
    let body = bytes.get(HEAD_BYTES..HEAD_BYTES + length).ok_or(Malformed)?;
    if crc32c::crc32c(body) != crc {
        return Err(Malformed);
    }
    decode_body(&mut Reader::copy(body))
}

/// Reads the fields; a checksum has vouched for them.
pub(crate) fn decode_body(r: &mut Reader) -> Result<Roster, Malformed> {
    let text = |r: &mut Reader| String::from_utf8(r.bytes()?.to_vec()).map_err(|_| Malformed);
    let (configured, cluster, member) = (r.u64()?, r.u64()?, r.u64()?);
    let stage = match r.u8()? {
        0 => Stage::Whole,
        1 => Stage::Damaged,
        2 => Stage::SettingAside,
        3 => Stage::Joining,
        _ => return Err(Malformed),
    };
    let (gone, voter, address) = (r.u64()?, r.u8()? != 0, text(r)?);
    let members = r.many(|r| Ok((r.u64()?, text(r)?)))?.into_iter().collect();
    let damage = text(r)?;
    if !r.is_empty() {
        return Err(Malformed);
    }
    Ok(Roster { configured, cluster, member, stage, gone, voter, address, members, damage })
}

/// What a member sets aside when it begins anew is kept under this prefix, for whoever wants to look at it.
pub(crate) const ASIDE: &str = "damaged-";

/// Sets aside everything the member remembered. May be repeated after a crash; what was set aside by the first attempt
/// stays.
pub(crate) fn set_aside(disk: &dyn Disk) -> io::Result<()> {
    move_aside(disk, |name| name == crate::checkpoint::FILE || is_log(name))
}

/// Sets aside the log alone.
pub(crate) fn set_log_aside(disk: &dyn Disk) -> io::Result<()> {
    move_aside(disk, is_log)
}

fn move_aside(disk: &dyn Disk, which: impl Fn(&str) -> bool) -> io::Result<()> {
    let names = disk.names()?;
    for name in names.iter().filter(|name| which(name)) {
        let aside = format!("{ASIDE}{name}");
        if names.contains(&aside) {
            // Made by an attempt that did not come further, and empty.
            disk.remove(name)?;
        } else {
            disk.rename(name, &aside)?;
        }
    }
    disk.sync_names()
}

/// Forgets what an earlier healing set aside.
pub(crate) fn clear_aside(disk: &dyn Disk) -> io::Result<()> {
    for name in disk.names()?.iter().filter(|name| name.starts_with(ASIDE)) {
        disk.remove(name)?;
    }
    disk.sync_names()
}

fn is_log(name: &str) -> bool {
    name.starts_with("log-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Roster {
        Roster {
            configured: 3,
            cluster: 7,
            member: 1_764_110_000_003,
            stage: Stage::Joining,
            gone: 3,
            voter: true,
            address: "c:1".to_owned(),
            members: [(1, "a:1".to_owned()), (2, "b:1".to_owned()), (3, "c:1".to_owned())].into(),
            damage: "a frame is gone".to_owned(),
        }
    }

    #[test]
    fn a_roster_reads_back_from_either_copy_and_from_none_when_both_are_damaged() {
        let disk = crate::sim::disk::SimDisk::default();
        assert_eq!(Roster::read(&disk).unwrap(), None);
        example().write(&disk).unwrap();
        disk.flip(FILE, 20, 1);
        assert_eq!(Roster::read(&disk).unwrap(), Some(example()));
        disk.flip(FILE, 20, 1);
        disk.flip(FILE, COPY_BYTES as u64 + 20, 1);
        assert_eq!(Roster::read(&disk).unwrap(), Some(example()));
        disk.flip(FILE, 20, 1);
        assert_eq!(Roster::read(&disk).unwrap(), None);
    }

    #[test]
    fn a_healing_member_asks_everybody_but_its_former_self() {
        assert_eq!(example().peers().into_keys().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_successor_has_a_number_above_and_ends_alike() {
        for (member, wall_ms, expected) in [
            (3, 1_764_110_000_500, 1_764_110_000_003),
            (1_764_110_000_003, 1_764_110_000_900, 1_764_110_001_003),
            (1_764_110_000_003, 5, 1_764_110_001_003),
            (2017, 0, 3017),
        ] {
            assert_eq!(successor(member, wall_ms), expected);
        }
    }
}
