//! The further nodes of a cluster on this machine (`kogia up --nodes`): processes of their own, each with a data
//! directory below `DIR/nodes`, started as on any other machine: `kogia server --join` or `kogia agent --join`.
//!
//! They live on when the process that started them is killed, as other machines would; the next `kogia up` finds them.
//! One that was killed itself is started again by the next `kogia up`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use control::member::Record;
use control::private;
use control::token::Purpose;
use control::trust::JoinToken;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Target};
use crate::running::{self, Running, State};
use crate::{down, limits, node, process, token};

/// What all nodes of the cluster on this machine share.
#[derive(Clone, Debug)]
pub struct Plan {
    pub data_dir: PathBuf,
    pub bind: IpAddr,
    pub api_port: u16,
    pub http_port: u16,
    pub https_port: u16,
    /// How many nodes there are to be, the first one included.
    pub nodes: u32,
    /// How many of them are members of the control plane.
    pub members: u32,
}

/// The data directories of further nodes, with their numbers, in order.
pub fn existing(data_dir: &Path) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(data_dir.join("nodes")).into_iter().flatten().flatten();
    let number = |path: PathBuf| Some((path.file_name()?.to_str()?.parse().ok()?, path));
    let mut found: Vec<(u32, PathBuf)> = entries.filter_map(|entry| number(entry.path())).collect();
    found.sort();
    found
}

/// Where the APIs of the running members listen, the first node's first.
pub fn apis(data_dir: &Path, first: &Running) -> Vec<SocketAddr> {
    let others = existing(data_dir).into_iter().filter_map(|(_, folder)| match running::state(&folder) {
        Ok(State::Running(running)) => Some(running.api),
        _ => None,
    });
    std::iter::once(first.api).chain(others).filter(|api| api.port() != 0).collect()
}

/// A node's process, and what it prints.
struct Started {
    folder: PathBuf,
    child: Child,
}

impl Plan {
    /// Starts the nodes that belong to the cluster already and do not run. They need nobody's leave, and the first
    /// node may need them: without a majority of the members nothing is decided.
    pub fn start_known(&self) -> anyhow::Result<usize> {
        let mut started = 0;
        for (number, folder) in existing(&self.data_dir) {
            if joined(&folder) && matches!(running::state(&folder)?, State::Stopped) {
                self.start(number, None)?;
                started += 1;
            }
        }
        Ok(started)
    }

    /// Starts what is missing and waits until all nodes run; returns how many were started here. The API of the first
    /// node must answer.
    pub async fn complete(&self, first: SocketAddr) -> anyhow::Result<usize> {
        let mut started = Vec::new();
        let mut join = None;
        for number in 2..=self.nodes {
            let folder = self.folder(number);
            if !matches!(running::state(&folder)?, State::Stopped) {
                continue;
            }
            if join.is_none() && !joined(&folder) {
                join = Some((first, self.leave().await?));
            }
            started.push(self.start(number, join.as_ref().filter(|_| !joined(&folder)))?);
        }
        let count = started.len();
        for started in started {
            started.ready().await?;
        }
        // Those that were started before the first node was up.
        for (_, folder) in existing(&self.data_dir) {
            ready(&folder, || Ok(())).await?;
        }
        Ok(count)
    }

    /// Asks the first node for a token for the others.
    async fn leave(&self) -> anyhow::Result<JoinToken> {
        let client = Client::connect(&Target::of(&self.data_dir), &self.data_dir).await?;
        let authority = token::authority(&self.data_dir)?;
        let ttl = limits::LAPTOP_TOKEN_TTL;
        token::create(&client, &authority, Purpose::Member, ttl, "kogia up --nodes").await
    }

    fn folder(&self, number: u32) -> PathBuf {
        self.data_dir.join("nodes").join(number.to_string())
    }

    /// What a further node is started with.
    fn arguments(&self, number: u32) -> Vec<String> {
        let is_agent = number > self.members;
        let name = format!("{}-{number}", node::machine_name());
        let role = if is_agent { "agent" } else { "server" };
        let mut arguments =
            vec![role.to_owned(), "--name".to_owned(), name, "--bind".to_owned(), self.bind.to_string()];
        if !is_agent {
            let port = |base: u16| match base {
                0 => 0,
                base => base.saturating_add(limits::LAPTOP_PORT_STEP * u16::try_from(number - 1).unwrap_or(0)),
            };
            let ports = [
                ("--api-port", self.api_port),
                ("--peer-port", peer_port(self.api_port)),
                ("--http-port", self.http_port),
                ("--https-port", self.https_port),
            ];
            arguments.extend(ports.into_iter().flat_map(|(flag, base)| [flag.to_owned(), port(base).to_string()]));
        }
        arguments
    }

    fn start(&self, number: u32, join: Option<&(SocketAddr, JoinToken)>) -> anyhow::Result<Started> {
        let folder = self.folder(number);
        if Record::load(&folder)?.is_some_and(|record| record.removed) {
            // What it held is of no use: it joins anew.
            std::fs::remove_dir_all(&folder).with_context(|| format!("cannot delete {}", folder.display()))?;
        }
        running::create_private(&folder)?;
        let output = folder.join("kogia.out");
        let file = std::fs::File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        // As it was started the first time, whatever the flags are now: others know it by its ports.
        let kept = folder.join("start.json");
        let arguments: Vec<String> = match std::fs::read(&kept) {
            Ok(bytes) if joined(&folder) => serde_json::from_slice(&bytes)?,
            _ => self.arguments(number),
        };
        private::write(&kept, &serde_json::to_string(&arguments)?)?;
        command.arg("--data-dir").arg(&folder).args(&arguments).arg("--shared").arg(&self.data_dir);
        if let Some((api, token)) = join {
            command.args(["--join", &api.to_string()]).env("KOGIA_TOKEN", token.to_string());
        }
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        process::stay(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start node {number}"))?;
        Ok(Started { folder, child })
    }
}

/// The first node's port for the other members: beside its API.
pub fn peer_port(api_port: u16) -> u16 {
    if api_port == 0 { 0 } else { api_port.saturating_add(1) }
}

impl Started {
    async fn ready(mut self) -> anyhow::Result<()> {
        let output = self.folder.join("kogia.out");
        let child = &mut self.child;
        let ended = || {
            if let Some(status) = child.try_wait()? {
                let said = std::fs::read_to_string(&output).unwrap_or_default();
                anyhow::bail!("{} ended ({status}):\n{}", output.display(), said.trim_end());
            }
            Ok(())
        };
        ready(&self.folder, ended).await
    }
}

/// Waits until the node of a folder says that it runs.
async fn ready(folder: &Path, mut alive: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let deadline = Instant::now() + limits::START_WAIT;
    while !matches!(running::state(folder)?, State::Running(_)) {
        alive()?;
        let late = format!("{} was not ready within {:?}; see its kogia.out", folder.display(), limits::START_WAIT);
        anyhow::ensure!(Instant::now() < deadline, late);
        sleep(limits::POLL).await;
    }
    Ok(())
}

/// Whether the node of a folder belongs to a cluster already.
fn joined(folder: &Path) -> bool {
    let member = Record::load(folder).ok().flatten().is_some_and(|record| record.number != 0 && !record.removed);
    member || folder.join("node.json").exists()
}

/// Ends all further nodes of a data directory and waits until they have ended; whether any ran.
pub async fn stop(data_dir: &Path) -> anyhow::Result<bool> {
    let folders = existing(data_dir);
    // All at once: each hands over what it leads to one that is still there.
    let stopped = futures::future::join_all(folders.iter().map(|(_, folder)| down::stop_one(folder))).await;
    stopped.into_iter().try_fold(false, |any, stopped| Ok(any | stopped?))
}
