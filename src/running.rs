//! Whether a cluster runs in a data directory, and where it can be reached.
//!
//! The process that runs it holds a lock on `DIR/lock` for as long as it lives and writes `DIR/run.json` when it is
//! ready. A lock cannot be left behind by a crash, so nobody has to clean up after one.

use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use control::private;
use serde::{Deserialize, Serialize};

/// What a running cluster says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    /// The process.
    pub pid: u32,
    /// The version of the program that runs.
    pub version: String,
    /// The node's name.
    #[serde(default)]
    pub name: String,
    /// Where the Kubernetes API listens.
    pub api: SocketAddr,
    /// Where the Ingress listens for HTTP.
    pub http: SocketAddr,
    /// Where the Ingress listens for HTTPS.
    pub https: SocketAddr,
    /// Where the registry listens, if it does.
    #[serde(default)]
    pub registry: Option<SocketAddr>,
}

impl Running {
    /// A process that is a node and nothing else: it listens nowhere.
    pub fn agent(name: &str) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let version = env!("CARGO_PKG_VERSION").into();
        Self {
            pid: std::process::id(),
            version,
            name: name.into(),
            api: nowhere,
            http: nowhere,
            https: nowhere,
            registry: None,
        }
    }
}

/// Held by the one process that runs the cluster of a data directory.
pub struct Claim {
    run_file: PathBuf,
    _lock: File,
}

impl Claim {
    /// Claims the data directory; `None` when another process holds it.
    pub fn take(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        create_private(data_dir)?;
        let Some(lock) = try_lock(data_dir)? else { return Ok(None) };
        let run_file = run_file(data_dir);
        // Left by a process that was killed: nobody runs, so it says nothing true.
        let _ = fs::remove_file(&run_file);
        Ok(Some(Self { run_file, _lock: lock }))
    }

    /// Says that the cluster is ready.
    pub fn announce(&self, running: &Running) -> anyhow::Result<()> {
        let part = self.run_file.with_extension("part");
        fs::write(&part, serde_json::to_vec_pretty(running)?)?;
        fs::rename(part, &self.run_file)?;
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.run_file);
    }
}

/// What can be said about a data directory.
pub enum State {
    /// Nothing runs.
    Stopped,
    /// A process holds the directory but has not said that it is ready.
    Starting,
    /// A cluster runs.
    Running(Running),
}

/// Looks at a data directory.
pub fn state(data_dir: &Path) -> anyhow::Result<State> {
    if !data_dir.join("lock").exists() || try_lock(data_dir)?.is_some() {
        return Ok(State::Stopped);
    }
    let Ok(text) = fs::read(run_file(data_dir)) else { return Ok(State::Starting) };
    Ok(serde_json::from_slice(&text).map_or(State::Starting, State::Running))
}

fn run_file(data_dir: &Path) -> PathBuf {
    data_dir.join("run.json")
}

fn try_lock(data_dir: &Path) -> anyhow::Result<Option<File>> {
    let path = data_dir.join("lock");
    let context = || format!("cannot open {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(&path).with_context(context)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Creates the data directory for its owner alone: it will hold keys and secrets.
pub fn create_private(folder: &Path) -> anyhow::Result<()> {
    private::create_folder(folder).with_context(|| format!("cannot create {}", folder.display()))
}
