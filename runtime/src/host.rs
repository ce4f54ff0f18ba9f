//! The machine under the node: how much it has, and folders that are nobody else's business.
//!
//! The only file of this crate that knows operating systems apart.

use crate::limits::GUEST_MEMORY_PERCENT;
use std::io;
use std::path::Path;

/// What the node offers its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// CPUs this process may use.
    pub cpus: usize,
    /// Bytes of memory of the machine.
    pub memory_bytes: u64,
}

/// Memory that is claimed where the system does not say: what a small machine has.
const MEMORY_BYTES_UNKNOWN: u64 = 4 << 30;

/// Disk that is claimed where the system does not say.
const DISK_BYTES_UNKNOWN: u64 = 16 << 30;

impl Capacity {
    /// Reads the machine. Blocks for a file or a short command.
    #[must_use]
    pub fn read() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cpus, memory_bytes: memory_bytes().unwrap_or(MEMORY_BYTES_UNKNOWN) }
    }

    /// Bytes all guests together may hold before those that want more are `OomKilled`.
    #[must_use]
    pub fn guest_memory_bytes(&self) -> u64 {
        self.memory_bytes / 100 * GUEST_MEMORY_PERCENT
    }
}

/// Bytes of the disk under a folder, as the node offers them to its pods.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    disk(folder).map_or(DISK_BYTES_UNKNOWN, |disk| disk.bytes)
}

/// The disk under a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) bytes: u64,
    /// What may still be written.
    pub(crate) available_bytes: u64,
}

/// The disk under a folder, where the system says.
#[cfg(unix)]
pub(crate) fn disk(folder: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.checked_mul(found.f_frsize);
    Some(Disk { bytes: bytes(found.f_blocks)?, available_bytes: bytes(found.f_bavail)? })
}

#[cfg(not(unix))]
pub(crate) fn disk(_folder: &Path) -> Option<Disk> {
    None
}

#[cfg(target_os = "linux")]
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(target_os = "macos")]
fn memory_bytes() -> Option<u64> {
    let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn memory_bytes() -> Option<u64> {
    None
}

/// CPU time of this process in nanoseconds since its start, and bytes of memory it holds where the system says.
pub(crate) fn process_usage() -> (u64, Option<u64>) {
    (process_cpu_nanos(), process_memory_bytes())
}

#[cfg(unix)]
fn process_cpu_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(not(unix))]
fn process_cpu_nanos() -> u64 {
    0
}

#[cfg(target_os = "linux")]
fn process_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(not(target_os = "linux"))]
fn process_memory_bytes() -> Option<u64> {
    None
}

/// Makes a folder that only this user may enter: volumes hold Secrets.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}
