//! What can be done with the directory of a member that does not run: save what it holds, or make it a cluster of its
//! own.
//!
//! A member's log may reach further than the member knows to be committed. Here everything counts that is in it: an
//! acknowledged write may be among the last entries, and one that was never acknowledged does no harm, since its caller
//! was promised nothing. What only the other members hold is not here and cannot be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft::eraftpb::EntryType;

use crate::checkpoint::{Checkpoint, FILE};
use crate::command::Command;
use crate::disk::{Directory, Disk};
use crate::error::OpenError;
use crate::log::{Identity, Log};
use crate::recovery::{self, Forgotten, Memory};
use crate::roster::{self, Roster, Stage};
use crate::snapshot::{SnapshotError, SnapshotStatus, save_file};
use crate::state::{Membership, State};
use crate::store::Store;

impl Store {
    /// Saves everything the log and the checkpoint of a stopped member hold to a new file, which is complete and durable
    /// when this returns. Blocks; refuses the directory of a member that runs.
    pub fn save_stopped(data_dir: &Path, file: &Path) -> Result<SnapshotStatus, SnapshotError> {
        let stopped = open(data_dir)?;
        match stopped.damage {
            None => save_file(&stopped.state, file),
            Some(what) => {
                let remedy = "`kogia store force-new-cluster` goes on without what the log held";
                Err(OpenError::Damaged { what, remedy }.into())
            }
        }
    }

    /// Makes a stopped member, with everything its log and checkpoint hold, the only member of its cluster. What was
    /// acknowledged without this member is lost, and the other members must never run again. If the log is damaged, what
    /// it held beyond the checkpoint is lost too, and its files are set aside. Blocks.
    pub fn force_new_cluster(data_dir: &Path) -> Result<SnapshotStatus, SnapshotError> {
        let Stopped { disk, identity, mut checkpoint, mut state, damage } = open(data_dir)?;
        state.membership = alone(&state.membership, identity.member);
        if let Some(what) = damage {
            tracing::error!(what, revision = state.mvcc.revision(), "the log is damaged; what followed is lost");
            checkpoint.restart_frames()?;
            roster::clear_aside(disk.as_ref())?;
            roster::set_log_aside(disk.as_ref())?;
            Log::open(disk.clone(), identity, false).map_err(|error| SnapshotError::Checkpoint(error.to_string()))?;
        }
        checkpoint.install(&state)?;
        let mut roster = Roster::read(disk.as_ref())?.unwrap_or(Roster {
            configured: identity.member,
            cluster: identity.cluster,
            ..Roster::default()
        });
        roster.member = identity.member;
        roster.note(&state.membership);
        roster.write(disk.as_ref())?;
        Ok(SnapshotStatus::of(&state))
    }
}

/// The membership of a member that is the whole cluster from now on.
pub(crate) fn alone(before: &Membership, member: u64) -> Membership {
    let address = before.addresses.get(&member).cloned().unwrap_or_default();
    Membership { voters: vec![member], addresses: [(member, address)].into(), ..Membership::default() }
}

/// What a stopped member has.
struct Stopped {
    disk: Arc<dyn Disk>,
    identity: Identity,
    checkpoint: Checkpoint,
    /// After the last entry of the log that reads.
    state: State,
    /// The log is damaged: what it held beyond the checkpoint is not in the state.
    damage: Option<String>,
}

fn open(data_dir: &Path) -> Result<Stopped, SnapshotError> {
    if !data_dir.join(FILE).exists() {
        return Err(SnapshotError::NoStore(data_dir.to_owned()));
    }
    let disk: Arc<dyn Disk> = Arc::new(lock(data_dir)?);
    let roster = Roster::read(disk.as_ref())?;
    if let Some(healing) = roster.as_ref().filter(|roster| roster.stage != Stage::Whole) {
        let what = format!("{}, and it has not been healed yet", healing.damage);
        let remedy = "Start it while a majority of the other members is well, or use the directory of one of them";
        return Err(OpenError::Damaged { what, remedy }.into());
    }
    let identity = Checkpoint::identity(disk.as_ref())?.ok_or_else(|| SnapshotError::NoStore(data_dir.to_owned()))?;
    let (checkpoint, state, damage) = match recovery::remember(&disk, identity, &Membership::default(), true) {
        Ok(memory) => {
            let (checkpoint, state) = replay(memory)?;
            (checkpoint, state, None)
        }
        Err(Forgotten::Damaged { what, whole: Some(_) }) => {
            let (checkpoint, _, state) = Checkpoint::open(disk.clone(), identity, &Membership::default(), true)?;
            (checkpoint, state, Some(what))
        }
        Err(Forgotten::Damaged { what, whole: None }) => {
            let remedy = "Use the directory of another member, or a snapshot that was saved";
            return Err(OpenError::Damaged { what, remedy }.into());
        }
        Err(Forgotten::Refused(error)) => return Err(error.into()),
    };
    Ok(Stopped { disk, identity, checkpoint, state, damage })
}

/// Applies what the log holds beyond the checkpoint.
fn replay(memory: Memory) -> Result<(Checkpoint, State), SnapshotError> {
    let Memory { checkpoint, mut state, tail, .. } = memory;
    let unapplied = tail.entries.into_iter().filter(|entry| entry.index > state.index).collect::<Vec<_>>();
    for entry in unapplied {
        (state.index, state.term) = (entry.index, entry.term);
        // Changes of membership end here: whoever goes on from this state begins with one of its own.
        if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
            continue;
        }
        let index = entry.index;
        if Command::decode(entry.data).map(|command| state.apply(command)).is_err() {
            let what = format!("entry {index} of the log does not fit the state before it");
            let remedy = "Use the directory of another member, or a snapshot that was saved";
            return Err(OpenError::Damaged { what, remedy }.into());
        }
    }
    Ok((checkpoint, state))
}

/// Claims a directory for as long as the value lives.
pub(crate) fn lock(data_dir: &Path) -> Result<Directory, OpenError> {
    Directory::lock(PathBuf::from(data_dir)).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::InUse(data_dir.display().to_string()),
        _ => OpenError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Range, Txn, put};

    /// A member that wrote and was never closed in order; its directory is free when this returns.
    fn killed(dir: &Path, writes: u64) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = Store::open(Config::single(dir)).await.unwrap();
            for i in 0..writes {
                store.txn(Txn { compares: Vec::new(), then: vec![put(format!("k{i}"), "v")] }).await.unwrap();
            }
            assert!(matches!(Store::save_stopped(dir, &dir.join("x")), Err(SnapshotError::Open(OpenError::InUse(_)))));
        });
        // The threads of a dropped store end on their own; the directory is free when they have.
        let start = std::time::Instant::now();
        while let Err(OpenError::InUse(_)) = lock(dir) {
            assert!(start.elapsed().as_secs() < 10, "the store does not end");
            std::thread::yield_now();
        }
    }

    fn keys(dir: &Path) -> usize {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = Store::open(Config::single(dir)).await.unwrap();
            let found = store.range(Range::prefix("")).await.unwrap().items.len();
            store.close().await;
            found
        })
    }

    #[test]
    fn a_stopped_member_is_saved_with_all_it_acknowledged_and_restored_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new, file) = (dir.path().join("old"), dir.path().join("new"), dir.path().join("file"));
        killed(&old, 50);
        let saved = Store::save_stopped(&old, &file).unwrap();
        assert_eq!((saved.revision, saved.keys), (50, 50));
        assert_eq!(SnapshotStatus::read(&file).unwrap(), saved);
        Store::restore_snapshot(&file, new.clone(), 1, 1).unwrap();
        assert_eq!(keys(&new), 50);
        assert!(matches!(Store::restore_snapshot(&file, new, 1, 1), Err(SnapshotError::NotEmpty(_))));
        assert_eq!(keys(&old), 50);
    }

    #[test]
    fn a_member_forced_alone_keeps_all_it_has() {
        let dir = tempfile::tempdir().unwrap();
        killed(dir.path(), 20);
        assert_eq!(Store::force_new_cluster(dir.path()).unwrap().revision, 20);
        assert_eq!(keys(dir.path()), 20);
        killed(dir.path(), 5);
        assert_eq!(Store::force_new_cluster(dir.path()).unwrap().revision, 25);
    }

    #[test]
    fn a_folder_without_a_store_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Store::force_new_cluster(dir.path()), Err(SnapshotError::NoStore(_))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::write(dir.path().join("file"), "KGSNAP\0").unwrap();
        assert!(matches!(SnapshotStatus::read(&dir.path().join("file")), Err(SnapshotError::Malformed)));
    }
}
