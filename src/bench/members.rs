//! Members of our store in processes of their own, told what to do over their standard input (`kogia store member`).

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use control::pki::Authority;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::store::load::{Load, Measured};
use crate::store::member::{Answer, Ask, Status, Told, What};

/// A cluster of ours; its processes end with it.
pub struct Members {
    members: Vec<Member>,
    leader: usize,
}

/// Requests that wait for their answers.
type Open = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

struct Member {
    process: Child,
    input: ChildStdin,
    open: Open,
    last: u64,
}

impl Members {
    /// Starts a cluster on free ports and waits for its leader.
    pub async fn start(count: usize, dir: &Path) -> anyhow::Result<Self> {
        let founders = super::free_addresses(count)?;
        let pki = dir.join("pki");
        // Made once, before all members read it.
        Authority::open(&pki)?;
        let mut members = Vec::new();
        for i in 0..count {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("--data-dir").arg(dir.join(format!("kogia-{i}"))).args(["store", "member"]);
            command.arg("--id").arg((i + 1).to_string());
            if count > 1 {
                command.arg("--pki").arg(&pki);
                for (j, address) in founders.iter().enumerate() {
                    command.arg("--member").arg(format!("{}={address}", j + 1));
                }
            }
            members.push(Member::start(command)?);
        }
        let first = members.first_mut().context("a cluster has members")?;
        // A write is answered under a leader, and the member that answers knows who it is.
        first.write("ready").await?;
        let Answer::Status(Status { leader: Some(leader), .. }) = first.ask(What::Status {}).await? else {
            anyhow::bail!("a member does not know its leader");
        };
        Ok(Self { members, leader: usize::try_from(leader)? - 1 })
    }

    pub async fn load(&mut self, load: Load) -> anyhow::Result<Measured> {
        match self.members[self.leader].ask(What::Load(load)).await? {
            Answer::Measured(measured) => Ok(measured),
            other => anyhow::bail!("a load was answered by {other:?}"),
        }
    }

    pub async fn fan_out(&mut self, watchers: usize, writes: usize, value_bytes: usize) -> anyhow::Result<f64> {
        match self.members[self.leader].ask(What::FanOut { watchers, writes, value_bytes }).await? {
            Answer::PerSecond(rate) => Ok(rate),
            other => anyhow::bail!("a fan-out was answered by {other:?}"),
        }
    }

    /// Kills the leader and returns how long it takes until a survivor acknowledges a write.
    pub async fn next_write(mut self) -> anyhow::Result<Duration> {
        let mut killed = self.members.remove(self.leader);
        let begin = Instant::now();
        killed.process.kill().await?;
        self.members.first_mut().context("nobody survives")?.write("next").await?;
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
        Ok(Self { process, input, open, last: 0 })
    }

    async fn ask(&mut self, what: What) -> anyhow::Result<Answer> {
        self.last += 1;
        let (to, answer) = oneshot::channel();
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(self.last, to);
        let line = serde_json::to_string(&Ask { id: self.last, what })? + "\n";
        self.input.write_all(line.as_bytes()).await.context("a member ended")?;
        match answer.await.context("a member ended")? {
            Answer::Error(error) => anyhow::bail!(error),
            answer => Ok(answer),
        }
    }

    async fn write(&mut self, key: &str) -> anyhow::Result<()> {
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
