//! Reading output back: what `kubectl logs` asks for, and following what is still being written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{LogFile, Progress};
use crate::limits::OUTPUT_CHUNK_BYTES;

/// What part of the output is wanted, and in which form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    /// Only the last so many lines.
    pub(crate) tail_lines: Option<u64>,
    /// Only lines written at or after.
    pub(crate) since: Option<Timestamp>,
    /// Only so many bytes.
    pub(crate) limit_bytes: Option<u64>,
}

/// Hands out an attempt's output piece by piece. A follower goes on to later attempts.
#[derive(Debug)]
pub(crate) struct Reader {
    folder: PathBuf,
    wanted: Wanted,
    since: Option<String>,
    progress: watch::Receiver<Progress>,
    /// Files still to be read, oldest first.
    files: VecDeque<LogFile>,
    file: Option<(LogFile, BufReader<File>)>,
    /// Lines to pass over before the wanted tail begins.
    skip: u64,
    left_bytes: Option<u64>,
    /// Whether the next piece continues a line (its timestamp was given already).
    inside_line: bool,
}

impl Reader {
    pub(super) fn open(
        folder: &Path,
        previous: bool,
        wanted: &Wanted,
        progress: watch::Receiver<Progress>,
    ) -> io::Result<Option<Self>> {
        let all = LogFile::list(folder)?;
        let newest = all.last().map(|file| file.attempt);
        let attempt = if previous { newest.and_then(|newest| newest.checked_sub(1)) } else { newest };
        let files: VecDeque<LogFile> = all.into_iter().filter(|file| Some(file.attempt) == attempt).collect();
        let has_begun = !previous && progress.borrow().begun;
        if files.is_empty() && !has_begun {
            return Ok(None);
        }
        // Times have one length and one zone, so they compare as text.
        let since = wanted.since.map(|since| format!("{since:.9}"));
        let follow = wanted.follow && !previous;
        let left_bytes = wanted.limit_bytes;
        let tail = wanted.tail_lines;
        let wanted = Wanted { follow, ..wanted.clone() };
        let mut reader = Self {
            folder: folder.to_owned(),
            wanted,
            since,
            progress,
            files,
            file: None,
            skip: 0,
            left_bytes,
            inside_line: false,
        };
        if let Some(tail) = tail {
            reader.skip = reader.count_lines()?.saturating_sub(tail);
        }
        Ok(Some(reader))
    }

    /// The next piece of output; `None` at its end. A follower waits.
    pub(crate) async fn next(self) -> io::Result<Option<(Bytes, Self)>> {
        let mut reader = self;
        loop {
            let seen = *reader.progress.borrow_and_update();
            let read = tokio::task::spawn_blocking(move || reader.read_chunk().map(|chunk| (chunk, reader)));
            let (chunk, back) = read.await.map_err(io::Error::other)??;
            reader = back;
            if !chunk.is_empty() {
                return Ok(Some((chunk.into(), reader)));
            }
            if !reader.wanted.follow || reader.left_bytes == Some(0) || seen.over {
                return Ok(None);
            }
            // The writer is gone with its pod: what is in the files is all there will be.
            if reader.progress.changed().await.is_err() {
                reader.wanted.follow = false;
            }
        }
    }

    /// Reads up to a chunk of wanted text; empty at the end of what is written.
    fn read_chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut line = Vec::new();
        while out.len() < OUTPUT_CHUNK_BYTES && self.left_bytes != Some(0) && self.read_line(&mut line)? {
            self.render(&line, &mut out);
        }
        Ok(out)
    }

    /// The next whole line of the files, without its end; false when there is none yet.
    fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            if let Some((_, file)) = &mut self.file {
                line.clear();
                file.read_until(b'\n', line)?;
                if line.pop_if(|last| *last == b'\n').is_some() {
                    return Ok(true);
                }
                // Half a line is being written just now, or the file has ended.
                file.seek_relative(-(line.len() as i64))?;
            }
            if !self.next_file()? {
                return Ok(false);
            }
        }
    }

    /// Goes on to the next file; false when the current one is the newest. A file is left only once a newer one
    /// exists, and then nothing is added to it any more.
    fn next_file(&mut self) -> io::Result<bool> {
        let current = self.file.as_ref().map(|(place, _)| *place);
        if self.files.is_empty() && self.wanted.follow {
            let newer = LogFile::list(&self.folder)?.into_iter().filter(|file| Some(*file) > current);
            self.files = newer.collect();
            // The last lines may have been added after we saw the end and before the newer file was made.
            if let (false, Some((_, file))) = (self.files.is_empty(), &mut self.file)
                && !file.fill_buf()?.is_empty()
            {
                return Ok(true);
            }
        }
        while let Some(place) = self.files.pop_front() {
            match File::open(place.path(&self.folder)) {
                Ok(file) => {
                    self.file = Some((place, BufReader::new(file)));
                    return Ok(true);
                }
                // Rotated away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// How many lines that are new enough the files hold now.
    fn count_lines(&self) -> io::Result<u64> {
        let mut count = 0;
        for place in &self.files {
            let mut file = match File::open(place.path(&self.folder)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => BufReader::new(file?),
            };
            let mut line = Vec::new();
            while file.read_until(b'\n', &mut line)? > 0 {
                let parts = Parts::split(&line);
                count += u64::from(parts.is_some_and(|parts| parts.ends_line && parts.is_since(self.since.as_deref())));
                line.clear();
            }
        }
        Ok(count)
    }

    /// Appends a line's text in the wanted form, if it is wanted.
    fn render(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(parts) = Parts::split(line).filter(|parts| parts.is_since(self.since.as_deref())) else { return };
        if self.skip > 0 {
            self.skip -= u64::from(parts.ends_line);
            return;
        }
        let start = out.len();
        if self.wanted.timestamps && !self.inside_line {
            out.extend_from_slice(parts.time);
            out.push(b' ');
        }
        out.extend_from_slice(parts.text);
        if parts.ends_line {
            out.push(b'\n');
        }
        self.inside_line = !parts.ends_line;
        if let Some(left) = &mut self.left_bytes {
            let count = (out.len() - start) as u64;
            let kept = count.min(*left);
            out.truncate(start + usize::try_from(kept).unwrap_or(usize::MAX));
            *left -= kept;
        }
    }
}

/// The parts of one line of a file.
struct Parts<'a> {
    time: &'a [u8],
    ends_line: bool,
    text: &'a [u8],
}

impl<'a> Parts<'a> {
    fn split(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (time, _stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self { time, ends_line: tag == b"F", text })
    }

    fn is_since(&self, since: Option<&str>) -> bool {
        since.is_none_or(|since| self.time >= since.as_bytes())
    }
}
