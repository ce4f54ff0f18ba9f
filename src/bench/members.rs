//! Members of our store in processes of their own, told what to do over their standard input (`kogia store member`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use control::pki::Authority;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::store::load::{Load, Measured};
use crate::store::member::{Answer, Ask, Told, What};

/// A cluster of ours; its processes end with it.
pub struct Members {
    members: Vec<Arc<Member>>,
    leader: usize,
    founders: Vec<SocketAddr>,
    dir: PathBuf,
}

/// Requests that wait for their answers.
type Open = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

/// One of them.
pub struct Member {
    process: tokio::sync::Mutex<Child>,
    input: tokio::sync::Mutex<ChildStdin>,
    open: Open,
    last: AtomicU64,
}

impl Members {
    /// Starts a cluster on free ports and waits for its leader.
    pub async fn start(count: usize, dir: &Path) -> anyhow::Result<Self> {
        let founders = super::free_addresses(count)?;
        let pki = dir.join("pki");
        // Made once, before all members read it.
        Authority::open(&pki)?;
        let mut cluster = Self { members: Vec::new(), leader: 0, founders, dir: dir.to_owned() };
        for number in 0..count {
            let member = cluster.spawn(number)?;
            cluster.members.push(member);
        }
        // A write is answered under a leader, and the member that answers knows who it is.
        cluster.members[0].write("ready").await?;
        cluster.leader = cluster.leader(0).await?.context("a member does not know its leader")?;
        Ok(cluster)
    }

    fn spawn(&self, number: usize) -> anyhow::Result<Arc<Member>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--data-dir").arg(self.dir.join(format!("kogia-{number}"))).args(["store", "member"]);
        command.arg("--id").arg((number + 1).to_string());
        if self.founders.len() > 1 {
            command.arg("--pki").arg(self.dir.join("pki"));
            for (other, address) in self.founders.iter().enumerate() {
                command.arg("--member").arg(format!("{}={address}", other + 1));
            }
        }
        Ok(Arc::new(Member::start(command)?))
    }

    /// All of them, in order.
    pub fn all(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// Who leads, as one of them has it.
    pub async fn leader(&self, through: usize) -> anyhow::Result<Option<usize>> {
        let Answer::Status(status) = self.members[through].ask(What::Status {}).await? else {
            anyhow::bail!("a member does not know how it is");
        };
        Ok(status.leader.and_then(|leader| usize::try_from(leader).ok()?.checked_sub(1)))
    }

    /// Starts a member again that was killed, on what it left.
    pub fn again(&mut self, number: usize) -> anyhow::Result<()> {
        self.members[number] = self.spawn(number)?;
        Ok(())
    }

    pub async fn load(&self, load: Load) -> anyhow::Result<Measured> {
        match self.members[self.leader].ask(What::Load(load)).await? {
            Answer::Measured(measured) => Ok(measured),
            other => anyhow::bail!("a load was answered by {other:?}"),
        }
    }

    pub async fn fan_out(&self, watchers: usize, writes: usize, value_bytes: usize) -> anyhow::Result<f64> {
        match self.members[self.leader].ask(What::FanOut { watchers, writes, value_bytes }).await? {
            Answer::PerSecond(rate) => Ok(rate),
            other => anyhow::bail!("a fan-out was answered by {other:?}"),
        }
    }

    /// Kills the leader and returns how long it takes until a survivor acknowledges a write.
    pub async fn next_write(mut self) -> anyhow::Result<Duration> {
        let killed = self.members.remove(self.leader);
        let begin = Instant::now();
        killed.kill().await?;
        self.members.first().context("nobody survives")?.write("next").await?;
        Ok(begin.elapsed())
    }
}

impl Member {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let (input, output) = process.stdin.take().zip(process.stdout.take()).context("a member has no pipes")?;
        let open = Open::default();
        tokio::spawn(read(output, open.clone()));
        Ok(Self { process: process.into(), input: input.into(), open, last: AtomicU64::new(0) })
    }

    /// Ends it as a power cut would, and waits until it has ended.
    pub async fn kill(&self) -> anyhow::Result<()> {
        Ok(self.process.lock().await.kill().await?)
    }

    /// Asks it something and waits for the answer; the end of the member is an error.
    pub async fn ask(&self, what: What) -> anyhow::Result<Answer> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (to, answer) = oneshot::channel();
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, to);
        let line = serde_json::to_string(&Ask { id, what })? + "\n";
        self.input.lock().await.write_all(line.as_bytes()).await.context("a member ended")?;
        match answer.await.context("a member ended")? {
            Answer::Error(error) => anyhow::bail!(error),
            answer => Ok(answer),
        }
    }

    async fn write(&self, key: &str) -> anyhow::Result<()> {
        match self.ask(What::Put { key: key.to_owned(), value: "v".to_owned() }).await? {
            Answer::Revision(_) => Ok(()),
            other => anyhow::bail!("a write was answered by {other:?}"),
        }
    }
}

/// Hands answers to who waits for them; when the member ends, nobody waits on.
async fn read(output: ChildStdout, open: Open) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(told) = serde_json::from_str::<Told>(&line) else { continue };
        if let Some(to) = open.lock().unwrap_or_else(PoisonError::into_inner).remove(&told.id) {
            let _ = to.send(told.answer);
        }
    }
    open.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
