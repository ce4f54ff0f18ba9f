//! Putting a member together again: the checkpoint, and the log from there on.
//!
//! The checkpoint is the older of the two, the log reaches further; together they must leave no gap. A log that ends
//! before the checkpoint, or disagrees with it, was replaced by a snapshot and begins anew. Refuses to open what has lost
//! entries it knew to be committed.

use std::sync::Arc;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::log::{Identity, Log, LogError, Recovered};
use crate::member::conf_state;
use crate::planted::{Bug, planted};
use crate::state::{Membership, State};
use crate::tail::Tail;

/// A member as its disk left it.
pub(crate) struct Opened {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) log: Log,
    pub(crate) boot: u64,
    pub(crate) state: State,
    pub(crate) tail: Tail,
    /// The log must begin anew behind the checkpoint.
    pub(crate) restart_log: bool,
}

/// Opens both files of a member; `initial` is the membership an empty directory starts with.
pub(crate) fn open(disk: Arc<dyn Disk>, identity: Identity, initial: &Membership) -> Result<Opened, OpenError> {
    let foreign = |member, cluster| OpenError::Foreign {
        member: identity.member,
        cluster: identity.cluster,
        found_member: member,
        found_cluster: cluster,
    };
    let (checkpoint, boot, state) = Checkpoint::open(disk.clone(), identity, initial).map_err(|error| match error {
        CheckpointError::Damaged(what) => damaged(what, initial),
        CheckpointError::Foreign { member, cluster } => foreign(member, cluster),
        CheckpointError::Full => OpenError::Io(std::io::ErrorKind::StorageFull.into()),
        CheckpointError::Io(error) => OpenError::Io(error),
    })?;
    let (log, recovered) = Log::open(disk, identity).map_err(|error| match error {
        LogError::Damaged(what) => damaged(what, &state.membership),
        LogError::Foreign { member, cluster } => foreign(member, cluster),
        LogError::Io(error) => OpenError::Io(error),
    })?;
    let (tail, restart_log) = join(&state, recovered).map_err(|what| damaged(what, &state.membership))?;
    Ok(Opened { checkpoint, log, boot, state, tail, restart_log })
}

fn damaged(what: String, membership: &Membership) -> OpenError {
    let remedy = if membership.all().len() > 1 {
        "Nothing is lost while a majority of the other members is well: remove this member from the cluster, and add it \
         again with a new number and an empty directory"
    } else {
        "There is no other member to heal from: restore a saved snapshot into an empty directory; writes since it was \
         saved are lost"
    };
    OpenError::Damaged { what, remedy }
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
