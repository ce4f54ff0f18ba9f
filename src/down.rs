//! `kogia down`: ends the cluster of a data directory; its state stays.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use crate::running::{self, State};
use crate::{limits, nodes, process};

pub async fn run(data_dir: &Path) -> anyhow::Result<ExitCode> {
    if stop(data_dir).await? {
        println!("Stopped. `kogia up` starts it again with everything in it.");
    } else {
        println!("No cluster runs in {}.", data_dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the cluster with all its nodes on this machine and waits until it has ended; false when none ran.
pub async fn stop(data_dir: &Path) -> anyhow::Result<bool> {
    let (first, others) = tokio::join!(stop_one(data_dir), nodes::stop(data_dir));
    Ok(first? | others?)
}

/// Ends one process and waits until it has ended; false when none ran.
pub async fn stop_one(data_dir: &Path) -> anyhow::Result<bool> {
    let deadline = Instant::now() + limits::STOP_WAIT;
    let mut asked = false;
    loop {
        match running::state(data_dir)? {
            State::Stopped => return Ok(asked),
            State::Running(running) if !asked => {
                process::ask_to_end(running.pid).with_context(|| format!("cannot end process {}", running.pid))?;
                asked = true;
            }
            State::Running(_) | State::Starting => {}
        }
        anyhow::ensure!(Instant::now() < deadline, "the cluster did not end within {:?}", limits::STOP_WAIT);
        sleep(limits::POLL).await;
    }
}
