//! A cluster of a bench's own: this very program as `kogia up`, with everything on that a user has on.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::running::{self, Running, State};
use crate::{limits, process};

/// Looks at readiness this often; finer than what is measured.
const LOOK: Duration = Duration::from_millis(1);

/// A child process that does not outlive its round.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = process::ask_to_end(self.0.id());
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts a cluster in an empty data directory and waits until it is ready.
    pub async fn start(data_dir: &Path) -> anyhow::Result<(Self, Running)> {
        let start = Instant::now();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--data-dir").arg(data_dir).args(["up", "--no-merge"]);
        command.args(["--api-port", "0", "--http-port", "0", "--https-port", "0"]);
        let mut server = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        loop {
            if let State::Running(running) = running::state(data_dir)? {
                return Ok((server, running));
            }
            anyhow::ensure!(server.0.try_wait()?.is_none(), "the cluster did not start");
            anyhow::ensure!(start.elapsed() < limits::START_WAIT, "the cluster was not ready in time");
            sleep(LOOK).await;
        }
    }
}

/// Resident memory, from `/proc/PID/status` (proc_pid_status(5)).
pub fn rss_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}
