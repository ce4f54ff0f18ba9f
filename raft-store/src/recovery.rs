//! Putting a member together again: the checkpoint, and the log from there on.
//!
//! The checkpoint is the older of the two, the log reaches further; together they must leave no gap. A log that ends
//! before the checkpoint, or disagrees with it, was replaced by a snapshot and begins anew. Nothing that has lost what it
//! had promised is opened: a member with peers is begun anew under another number (see `member::healing`), one without is
//! refused, with what is lost and what can be done.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::checkpoint::{self, Checkpoint, CheckpointError};
use crate::disk::{self, Disk};
use crate::error::OpenError;
use crate::log::{Identity, Log, LogError, Recovered};
use crate::member::{Healing, conf_state};
use crate::planted::{Bug, planted};
use crate::roster::{self, Roster, Stage};
use crate::state::{Membership, State};
use crate::tail::Tail;

/// What a member's disk remembers.
pub(crate) struct Memory {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) log: Log,
    pub(crate) boot: u64,
    pub(crate) state: State,
    pub(crate) tail: Tail,
    /// The log must begin anew behind the checkpoint.
    pub(crate) restart_log: bool,
}

/// A member ready to run.
pub(crate) struct Opened {
    pub(crate) memory: Memory,
    pub(crate) roster: Roster,
    /// It begins anew, and what it has to ask for.
    pub(crate) healing: Option<Healing>,
}

/// Why a memory cannot be used.
pub(crate) enum Forgotten {
    /// Something that was durable is gone; the revision up to which the checkpoint is whole, if it is.
    Damaged { what: String, whole: Option<u64> },
    /// Anything else.
    Refused(OpenError),
}

impl From<io::Error> for Forgotten {
    fn from(error: io::Error) -> Self {
        if disk::is_damage(&error) {
            Forgotten::Damaged { what: format!("its files no longer read: {error}"), whole: None }
        } else {
            Forgotten::Refused(OpenError::Io(error))
        }
    }
}

/// Opens a member's directory; `initial` is the membership an empty one starts with. A member that is damaged and knows
/// peers is begun anew.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    configured: Identity,
    initial: &Membership,
    wall_ms: u64,
) -> Result<Opened, OpenError> {
    let (mut roster, known) = whose(disk.as_ref(), configured, initial)?;
    if matches!(roster.stage, Stage::Whole | Stage::Joining) {
        match remember(disk, roster.identity(), initial, known) {
            Ok(memory) => {
                let before = roster.clone();
                if roster.stage == Stage::Whole {
                    roster.note(&memory.state.membership);
                }
                if !known || roster != before {
                    roster.write(disk.as_ref())?;
                }
                return Ok(Opened { healing: healing(&roster), memory, roster });
            }
            Err(Forgotten::Refused(error)) => return Err(error),
            Err(Forgotten::Damaged { what, whole }) => {
                if roster.peers().is_empty() {
                    return Err(damaged(what, whole));
                }
                roster.damage = what;
                roster.stage = Stage::Damaged;
            }
        }
    }
    tracing::error!(member = roster.member, damage = roster.damage, "the store is damaged; it heals from its peers");
    if roster.stage == Stage::Damaged {
        roster::clear_aside(disk.as_ref())?;
        roster.gone = roster.member;
        if !planted(Bug::NumberKept) {
            roster.member = roster::successor(roster.member, wall_ms);
        }
        roster.stage = Stage::SettingAside;
        // From here on nobody speaks under the old number again.
        roster.write(disk.as_ref())?;
    }
    roster::set_aside(disk.as_ref())?;
    let memory =
        remember(disk, roster.identity(), &Membership::default(), false).map_err(|forgotten| match forgotten {
            Forgotten::Refused(error) => error,
            Forgotten::Damaged { what, .. } => OpenError::Io(io::Error::other(what)),
        })?;
    roster.stage = Stage::Joining;
    roster.write(disk.as_ref())?;
    Ok(Opened { healing: healing(&roster), memory, roster })
}

/// Whose directory it is, and whether it was opened before.
fn whose(disk: &dyn Disk, configured: Identity, initial: &Membership) -> Result<(Roster, bool), OpenError> {
    if let Some(roster) = Roster::read(disk)? {
        if roster.cluster != configured.cluster || ![roster.configured, roster.member].contains(&configured.member) {
            return Err(foreign(configured, roster.identity()));
        }
        return Ok((roster, true));
    }
    // Without a roster the checkpoint tells which successor of the configured member this is.
    let found = Checkpoint::identity(disk).ok().flatten().filter(|found| {
        let successor = found.member > configured.member && found.member % 1000 == configured.member % 1000;
        successor && found.cluster == configured.cluster
    });
    let roster = Roster {
        configured: configured.member,
        cluster: configured.cluster,
        member: found.unwrap_or(configured).member,
        voter: true,
        address: initial.addresses.get(&configured.member).cloned().unwrap_or_default(),
        members: initial.addresses.clone(),
        ..Roster::default()
    };
    Ok((roster, false))
}

fn healing(roster: &Roster) -> Option<Healing> {
    (roster.stage == Stage::Joining).then(|| Healing {
        gone: roster.gone,
        address: roster.address.clone(),
        peers: roster.peers().into_keys().collect(),
        voter: roster.voter,
        damage: roster.damage.clone(),
    })
}

/// Reads checkpoint and log; where nothing is, and nothing is known to have been, both are created.
pub(crate) fn remember(
    disk: &Arc<dyn Disk>,
    identity: Identity,
    initial: &Membership,
    known: bool,
) -> Result<Memory, Forgotten> {
    let read = read(disk, identity, initial, known);
    // The log is created once the checkpoint is there. A checkpoint that does not read and has no log beside it was
    // never completed, and nothing was promised.
    let cut_short = !known && matches!(read, Err(Forgotten::Damaged { whole: None, .. }));
    if !cut_short || disk.names()?.iter().any(|name| name.starts_with("log-")) {
        return read;
    }
    disk.remove(checkpoint::FILE)?;
    disk.sync_names()?;
    self::read(disk, identity, initial, known)
}

fn read(disk: &Arc<dyn Disk>, identity: Identity, initial: &Membership, known: bool) -> Result<Memory, Forgotten> {
    // A database that is damaged may panic, which ends the opening like any other error.
    let read = || Checkpoint::open(disk.clone(), identity, initial, known);
    let (mut checkpoint, boot, state) = catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(CheckpointError::contradictory()))
        .map_err(|error| match error {
            CheckpointError::Foreign { member, cluster } => {
                Forgotten::Refused(foreign(identity, Identity { member, cluster }))
            }
            CheckpointError::Full => Forgotten::Refused(OpenError::Io(io::ErrorKind::StorageFull.into())),
            CheckpointError::Version => Forgotten::Refused(OpenError::Version),
            CheckpointError::Io(error) => error.into(),
            damaged @ CheckpointError::Damaged(_) => Forgotten::Damaged { what: damaged.to_string(), whole: None },
        })?;
    let gone = |what| Forgotten::Damaged { what, whole: Some(state.mvcc.revision()) };
    let (log, recovered) = Log::open(disk.clone(), identity, known).map_err(|error| match error {
        LogError::Damaged(what) => gone(what),
        LogError::Foreign { member, cluster } => Forgotten::Refused(foreign(identity, Identity { member, cluster })),
        LogError::Io(error) if disk::is_damage(&error) => gone(format!("the log no longer reads: {error}")),
        LogError::Io(error) => Forgotten::Refused(OpenError::Io(error)),
    })?;
    let durable = log.durable();
    let (ends, knows) = (durable.get(), checkpoint.frames());
    if ends < knows && !planted(Bug::TruncatedTailAccepted) {
        return Err(gone(format!("the log ends at frame {ends}, the checkpoint knows of frame {knows}")));
    }
    checkpoint.witness(durable);
    let (tail, restart_log) = join(&state, recovered).map_err(gone)?;
    Ok(Memory { checkpoint, log, boot, state, tail, restart_log })
}

fn foreign(asked: Identity, found: Identity) -> OpenError {
    OpenError::Foreign {
        member: asked.member,
        cluster: asked.cluster,
        found_member: found.member,
        found_cluster: found.cluster,
    }
}

/// The error of a member that has no peers to heal from.
fn damaged(what: String, whole: Option<u64>) -> OpenError {
    match whole {
        Some(revision) => OpenError::Damaged {
            what: format!("{what}; the checkpoint is whole up to revision {revision}"),
            remedy: "There is no other member to heal from, and what was written after that revision is lost. Go on from \
                     it with `kogia store force-new-cluster`, or restore a saved snapshot into an empty directory",
        },
        None => OpenError::Damaged {
            what,
            remedy: "There is no other member to heal from: restore a saved snapshot into an empty directory; writes since \
                     it was saved are lost",
        },
    }
}

/// The entries that follow the checkpoint, and whether the log must begin anew.
fn join(state: &State, recovered: Recovered) -> Result<(Tail, bool), String> {
    let applied = (state.index, state.term);
    let mut tail =
        Tail { start: applied, hard: recovered.hard, conf: conf_state(&state.membership), applied, ..Tail::default() };
    let mut entries = recovered.entries;
    let agrees = entries.iter().find(|entry| entry.index == applied.0).is_none_or(|entry| entry.term == applied.1);
    let reaches = entries.back().is_some_and(|last| last.index >= applied.0);
    let fits = agrees && reaches;
    let restart = !entries.is_empty() && !fits;
    if restart || entries.is_empty() {
        entries.clear();
    } else if entries.front().is_some_and(|first| first.index > applied.0 + 1) {
        return Err(format!("the log begins after the checkpoint ends, at entry {}", applied.0));
    } else if entries.front().is_some_and(|first| first.index <= applied.0) {
        tail.start = entries.pop_front().map_or(applied, |first| (first.index, first.term));
    }
    tail.entries = entries;
    if tail.hard.commit > tail.last() && !planted(Bug::TruncatedTailAccepted) {
        return Err(format!("entries up to {} were committed, the log ends at {}", tail.hard.commit, tail.last()));
    }
    tail.hard.commit = tail.hard.commit.clamp(applied.0, tail.last());
    tail.hard.term = tail.hard.term.max(applied.1);
    Ok((tail, restart))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::{Entry, HardState};

    fn recovered(entries: &[(u64, u64)], commit: u64) -> Recovered {
        let entry = |&(index, term): &(u64, u64)| Entry { index, term, ..Entry::default() };
        let hard = HardState { term: 9, commit, ..HardState::default() };
        Recovered { hard, entries: entries.iter().map(entry).collect() }
    }

    #[test]
    fn checkpoint_and_log_meet_without_a_gap() {
        let mut state = State::default();
        (state.index, state.term) = (5, 2);
        // entries of the log, commit index -> start of the tail, its last entry, whether the log begins anew
        for (entries, commit, expected) in [
            (&[][..], 0, Ok(((5, 2), 5, false))),
            (&[(6, 2), (7, 3)], 6, Ok(((5, 2), 7, false))),
            (&[(4, 2), (5, 2), (6, 3)], 6, Ok(((4, 2), 6, false))),
            (&[(3, 1), (4, 1)], 3, Ok(((5, 2), 5, true))),
            (&[(5, 1), (6, 1)], 4, Ok(((5, 2), 5, true))),
            (&[(7, 3)], 7, Err("the log begins after the checkpoint ends, at entry 5".to_owned())),
            (&[(6, 2)], 7, Err("entries up to 7 were committed, the log ends at 6".to_owned())),
        ] {
            let joined = join(&state, recovered(entries, commit));
            let found = joined.map(|(tail, restart)| (tail.start, tail.last(), restart));
            assert_eq!(found, expected, "{entries:?}");
        }
    }
}
