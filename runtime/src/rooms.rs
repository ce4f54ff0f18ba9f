//! The running containers of a pod, seen from inside: what a further command in one of them shares with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::{Accounts, Code, ContainerSpec, Mount, Usage};
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::console::Console;
use crate::ground::Sight;

/// One running container.
#[derive(Clone)]
pub(crate) struct Room {
    /// What it runs.
    pub(crate) code: Arc<Code>,
    /// Names by which a command means the container's own program.
    pub(crate) programs: Vec<String>,
    /// Environment, mounts and network of it.
    pub(crate) spec: ContainerSpec,
    pub(crate) accounts: Accounts,
    pub(crate) started: Timestamp,
    /// Its stdin and whoever is attached to it.
    pub(crate) console: Arc<Console>,
    /// A folder of empty folders, one where each volume is mounted: what stands at `/` for the toolbox. Made with the first.
    pub(crate) root: PathBuf,
    /// What the toolbox sees and the container may not have looked at.
    pub(crate) sight: Arc<Sight>,
    /// Places for commands of clients.
    pub(crate) seats: Arc<Semaphore>,
    /// Cancelled when the container ends; what runs in it ends, too.
    pub(crate) over: CancellationToken,
}

impl Room {
    /// The mounts of a toolbox in this container: those of the container and, unless it has its own, a root.
    ///
    /// # Errors
    /// The disk's, when what they show cannot be made. It blocks.
    pub(crate) fn toolbox_mounts(&self) -> std::io::Result<Vec<Mount>> {
        make_root(&self.root, &self.spec.mounts)?;
        Ok(with_root(self.spec.mounts.clone(), &self.root))
    }
}

/// The mounts with a root under them, unless they have one.
pub(crate) fn with_root(mut mounts: Vec<Mount>, root: &Path) -> Vec<Mount> {
    if !mounts.iter().any(|mount| mount.guest == "/") {
        mounts.push(Mount { host: root.to_owned(), guest: "/".to_owned(), read_only: true });
    }
    mounts
}

/// Makes the folders of a container's [`Room::root`].
pub(crate) fn make_root(root: &Path, mounts: &[Mount]) -> std::io::Result<()> {
    std::fs::create_dir_all(root)?;
    for mount in mounts {
        // A guest's path; where it would lead out of the root it is no path a container may have.
        let inner = Path::new(mount.guest.trim_start_matches('/'));
        if inner.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            std::fs::create_dir_all(root.join(inner))?;
        }
    }
    Ok(())
}

/// The running containers of one pod, by name. Clones share them. Boxed: a map has places for eleven, a pod one container.
#[derive(Clone, Default)]
pub(crate) struct Rooms(Arc<Mutex<BTreeMap<String, Box<Room>>>>);

impl Rooms {
    pub(crate) fn open(&self, container: &str, room: Room) {
        self.lock().insert(container.to_owned(), Box::new(room));
    }

    /// The container has ended.
    pub(crate) fn close(&self, container: &str) {
        let room = self.lock().remove(container);
        if let Some(room) = room {
            room.over.cancel();
            room.console.end();
        }
    }

    pub(crate) fn close_all(&self) {
        let names: Vec<String> = self.lock().keys().cloned().collect();
        names.iter().for_each(|name| self.close(name));
    }

    pub(crate) fn get(&self, container: &str) -> Option<Room> {
        self.lock().get(container).map(|room| Room::clone(room))
    }

    /// What each container has used, and since when.
    pub(crate) fn usage(&self) -> Vec<(String, Timestamp, Usage)> {
        self.lock().iter().map(|(name, room)| (name.clone(), room.started, room.accounts.usage())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Box<Room>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Rooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.lock().keys()).finish()
    }
}
