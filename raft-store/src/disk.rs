//! The disk as this crate sees it: a flat directory of files that are written in place and synced.
//!
//! Two implementations keep everyone honest: a real directory, and the simulated disk of the tests that loses, tears and
//! flips what was not synced. Nothing else in this crate opens a file of a member.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A directory that belongs to one member.
pub(crate) trait Disk: Debug + Send + Sync + 'static {
    /// Opens a file, creating it empty if it is not there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Every file's name, in no order.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, which no other file has.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, removals and new names durable.
    fn sync_names(&self) -> io::Result<()>;
    /// Bytes that can still be written; `None` where this cannot be known.
    fn free_bytes(&self) -> Option<u64>;
}

/// One file. Methods take `&self`: a file has one owner that writes.
pub(crate) trait DiskFile: Debug + Send + Sync + 'static {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Sets the length; new bytes read as zero.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Reserves blocks up to `length` and sets it, so that later writes within need no space.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Fills `buffer` from `offset`; an error if the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes every write so far durable. After an error nothing may be assumed about them.
    fn sync(&self) -> io::Result<()>;
}

/// Whether an error of reading says that bytes are gone, rather than that the system is short of something.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    // Input/output error, under the same number on every Unix.
    const EIO: i32 = 5;
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
        || cfg!(unix) && error.raw_os_error() == Some(EIO)
}

/// A directory of the operating system.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    // Held for its lock, which ends with the process.
    _lock: File,
}

impl Directory {
    /// Creates the directory if needed and locks it; [`io::ErrorKind::WouldBlock`] if another process has it.
    pub(crate) fn lock(path: PathBuf) -> io::Result<Directory> {
        std::fs::create_dir_all(&path)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"))?;
        lock.try_lock().map_err(|refused| match refused {
            std::fs::TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            std::fs::TryLockError::Error(error) => error,
        })?;
        Ok(Directory { path, _lock: lock })
    }
}

impl Disk for Directory {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        Ok(Arc::new(OsFile(OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?)))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path)?;
        entries.map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned())).collect()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    #[cfg(unix)]
    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    // Elsewhere a directory cannot be opened as a file; names are durable with the file's own sync.
    #[cfg(not(unix))]
    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.path).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    #[cfg(not(target_os = "linux"))]
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

#[derive(Debug)]
struct OsFile(File);

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, length) {
            // A file system without it: the length alone has to do.
            Err(rustix::io::Errno::OPNOTSUPP) => self.0.set_len(length),
            done => Ok(done?),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, buffer, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.0, buffer, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
            }
        }
        Ok(())
    }

    #[cfg(windows)]
    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(&self.0, bytes, offset)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
