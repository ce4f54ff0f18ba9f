//! Files and folders that only their owner may read: keys, secrets, whatever holds them.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Creates a folder, and those above it, that only its owner may enter. One that exists stays as it is.
///
/// # Errors
/// What the operating system says.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Writes a file that only its owner can read, whole or not at all; durable when this returns.
///
/// # Errors
/// What the operating system says.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let part = path.with_extension("part");
    // Left by a process that was killed while it wrote.
    let _ = fs::remove_file(&part);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)
}
