//! What containers print, kept in files that `kubectl logs` reads.
//!
//! One folder per container. Each start of it (an *attempt*) has its own files, named `ATTEMPT.NUMBER.log`; when one is
//! full the next number begins and the one before the last is removed, so nobody renames a file that is being read.
//! The attempt before the current one is kept for `--previous`.
//!
//! A line in a file is `TIME STREAM TAG TEXT`, as the CRI log format has it: tag `F` ends a line, `P` is a piece of
//! one. A first attempt that prints nothing leaves nothing behind: most pods answer requests and never print, and a folder
//! and a file for each would be a good part of what their start costs.
//!
//! Writing happens on the guest's thread, into the page cache: its cost is billed to the guest that prints, and the
//! rotation bounds what is kept. No queue stands between, so no output is lost silently.

mod reader;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use engine::Stream;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::limits::{OUTPUT_FILE_BYTES_MAX, OUTPUT_FILES_MAX, OUTPUT_LINE_BYTES_MAX};
pub(crate) use reader::{Reader, Wanted};

/// Where an attempt's output stands: what a follower waits on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) attempt: u32,
    pub(crate) number: u32,
    pub(crate) written_bytes: u64,
    /// An attempt has begun, whether or not it has printed anything.
    pub(crate) begun: bool,
    /// The container is gone for good; nothing will be written any more.
    pub(crate) over: bool,
}

/// The output of one container over all its attempts.
#[derive(Debug)]
pub(crate) struct ContainerOutput {
    folder: PathBuf,
    progress: watch::Sender<Progress>,
}

impl ContainerOutput {
    pub(crate) fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { folder, progress: watch::Sender::new(Progress::default()) })
    }

    /// Begins an attempt. Of those before it only the last is kept.
    pub(crate) fn begin(self: &Arc<Self>, attempt: u32) -> io::Result<Attempt> {
        let place = LogFile { attempt, number: 0 };
        let (output, open) = (self.clone(), Default::default());
        let mut writer = Writer { output, place, file: None, refused: false, file_bytes: 0, open };
        if attempt > 0 || self.folder.try_exists()? {
            self.make_room(attempt)?;
            writer.file()?;
        }
        self.progress.send_replace(Progress { attempt, begun: true, ..Progress::default() });
        Ok(Attempt(Mutex::new(writer)))
    }

    /// Of the files of other attempts only those of the one before stay; it has one even if it printed nothing.
    fn make_room(&self, attempt: u32) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let (before, others): (Vec<_>, Vec<_>) =
            LogFile::list(&self.folder)?.into_iter().partition(|file| file.attempt + 1 == attempt);
        for file in others {
            fs::remove_file(file.path(&self.folder))?;
        }
        if let (true, Some(attempt)) = (before.is_empty(), attempt.checked_sub(1)) {
            File::create(LogFile { attempt, number: 0 }.path(&self.folder))?;
        }
        Ok(())
    }

    /// Tells followers that this was all.
    pub(crate) fn finish(&self) {
        self.progress.send_modify(|progress| progress.over = true);
    }

    /// A reader of the current or the previous attempt; `None` when there is none.
    pub(crate) fn reader(&self, previous: bool, wanted: &Wanted) -> io::Result<Option<Reader>> {
        Reader::open(&self.folder, previous, wanted, self.progress.subscribe())
    }
}

/// One file of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogFile {
    pub(crate) attempt: u32,
    pub(crate) number: u32,
}

impl LogFile {
    pub(crate) fn path(self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.{}.log", self.attempt, self.number))
    }

    /// All files of a container, oldest first. A folder that is not there has none.
    pub(crate) fn list(folder: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let numbers = name.to_str().and_then(|name| name.strip_suffix(".log")?.split_once('.'));
            if let Some((Ok(attempt), Ok(number))) = numbers.map(|(a, n)| (a.parse(), n.parse())) {
                files.push(Self { attempt, number });
            }
        }
        files.sort_unstable();
        Ok(files)
    }
}

/// Takes the output of one attempt.
#[derive(Debug)]
pub(crate) struct Attempt(Mutex<Writer>);

impl engine::Output for Attempt {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(stream, bytes);
    }
}

#[derive(Debug)]
struct Writer {
    output: Arc<ContainerOutput>,
    place: LogFile,
    /// `None` before the first line of a first attempt.
    file: Option<File>,
    /// The disk would not take it: the guest goes on, its output has ended.
    refused: bool,
    file_bytes: u64,
    /// The unfinished line of each stream.
    open: [Vec<u8>; 2],
}

impl Writer {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let time = Timestamp::now();
        let mut lines = Vec::with_capacity(bytes.len() + 64);
        let name = stream_name(stream);
        let open = &mut self.open[stream as usize];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            open.extend_from_slice(text);
            while open.len() > OUTPUT_LINE_BYTES_MAX {
                let rest = open.split_off(OUTPUT_LINE_BYTES_MAX);
                append(&mut lines, time, name, 'P', open);
                *open = rest;
            }
            if ended {
                append(&mut lines, time, name, 'F', open);
                open.clear();
            }
        }
        self.append(&lines);
    }

    fn append(&mut self, lines: &[u8]) {
        if self.refused || lines.is_empty() {
            return;
        }
        let written = self.file().and_then(|file| file.write_all(lines)).and_then(|()| {
            self.file_bytes += lines.len() as u64;
            if self.file_bytes >= OUTPUT_FILE_BYTES_MAX { self.rotate() } else { Ok(()) }
        });
        if let Err(error) = written {
            tracing::warn!(folder = %self.output.folder.display(), %error, "output of a container is lost");
            self.refused = true;
        }
        let (number, count) = (self.place.number, lines.len() as u64);
        self.output.progress.send_modify(|progress| {
            progress.number = number;
            progress.written_bytes += count;
        });
    }

    /// The file that is being written, made when it is not there yet.
    fn file(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                fs::create_dir_all(&self.output.folder)?;
                File::create(self.place.path(&self.output.folder))?
            }
        };
        Ok(self.file.insert(file))
    }

    fn rotate(&mut self) -> io::Result<()> {
        let folder = self.output.folder.clone();
        if let Some(number) = (self.place.number + 1).checked_sub(OUTPUT_FILES_MAX) {
            let oldest = LogFile { number, ..self.place };
            // A file that is gone already is as good as removed.
            let _ = fs::remove_file(oldest.path(&folder));
        }
        self.place.number += 1;
        self.file = Some(File::create(self.place.path(&folder))?);
        self.file_bytes = 0;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let text = std::mem::take(&mut self.open[stream as usize]);
            if !text.is_empty() {
                let mut line = Vec::new();
                append(&mut line, Timestamp::now(), stream_name(stream), 'P', &text);
                self.append(&line);
            }
        }
    }
}

fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

fn append(lines: &mut Vec<u8>, time: Timestamp, stream: &str, tag: char, text: &[u8]) {
    // Writing to memory cannot fail.
    let _ = write!(lines, "{time:.9} {stream} {tag} ");
    lines.extend_from_slice(text);
    lines.push(b'\n');
}

#[cfg(test)]
mod tests;
