//! What the operating systems do differently about processes: asking one to end, and starting one that stays.

use std::process::Command;

/// Asks a process to end in order.
#[cfg(unix)]
pub fn ask_to_end(pid: u32) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("not a process id"))?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
}

/// Asks a process to end. There is no signal here that a console program could answer, so it is ended at once; the
/// store is made for that.
#[cfg(not(unix))]
pub fn ask_to_end(pid: u32) -> anyhow::Result<()> {
    let status = Command::new("taskkill").args(["/F", "/PID", &pid.to_string()]).status()?;
    anyhow::ensure!(status.success(), "cannot end process {pid}");
    Ok(())
}

/// Ends a process at once, as a power cut would.
#[cfg(unix)]
pub fn end_at_once(pid: u32) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("not a process id"))?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

/// Ends a process at once, as a power cut would.
#[cfg(not(unix))]
pub fn end_at_once(pid: u32) -> anyhow::Result<()> {
    ask_to_end(pid)
}

/// Makes a command's process outlive the terminal it was started from.
#[cfg(unix)]
pub fn stay(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

/// Makes a command's process outlive the terminal it was started from.
#[cfg(not(unix))]
pub fn stay(_: &mut Command) {}

/// Waits until somebody asks this process to end: Ctrl-C, or SIGTERM where there is such a thing.
pub async fn asked_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            let _ = tokio::signal::ctrl_c().await;
            return;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    {
        let _ = tokio::signal::ctrl_c().await;
    }
}
