//! From an archive to files. Nothing is written outside the folder: names are made relative, and `..` is refused.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use super::header::{Header, Kind};
use super::{BLOCK, Mode, Wanted, padding};
use crate::text::PIECE_BYTES;
use crate::{Done, Failure, about};

/// Longest name or attribute block that is read: a path of 4 KiB and what stands beside it.
const ATTRIBUTES_BYTES_MAX: u64 = 64 << 10;

/// Reads the archive to its end.
pub(super) fn unpack(wanted: &Wanted<'_>, from: &mut dyn Read, shown: &mut dyn Write, said: &mut dyn Write) -> Done {
    let base = wanted.folder.map(PathBuf::from).unwrap_or_default();
    if wanted.mode == Mode::Extract && !base.as_os_str().is_empty() && !base.is_dir() {
        return Err(format!("{}: No such file or directory", base.display()).into());
    }
    let mut next = Attributes::default();
    let mut block = [0; BLOCK];
    while fill(from, &mut block)? {
        let Some(mut header) = Header::read(&block)? else { break };
        match header.kind {
            Kind::Attributes => next.take(&content(from, header.size)?)?,
            Kind::LongName => next.name = Some(unended(&content(from, header.size)?)),
            Kind::LongLink => next.link = Some(unended(&content(from, header.size)?)),
            Kind::Other(b'g') => drop(content(from, header.size)?),
            _ => {
                std::mem::take(&mut next).apply(&mut header);
                entry(wanted, &base, &header, from, shown, said)?;
            }
        }
    }
    // Whoever sends the archive is not cut off in its last, empty blocks.
    io::copy(from, &mut io::sink())?;
    Ok(())
}

/// What came before an entry and is about it.
#[derive(Default)]
struct Attributes {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl Attributes {
    /// Records of `LENGTH NAME=VALUE\n`, the length counting all of it.
    fn take(&mut self, mut records: &[u8]) -> Result<(), Failure> {
        while !records.is_empty() {
            let blank = records.iter().position(|byte| *byte == b' ').ok_or("attributes cannot be read")?;
            let length = std::str::from_utf8(&records[..blank])?.parse::<usize>()?;
            let record = records.get(blank + 1..length).ok_or("attributes cannot be read")?;
            let record = String::from_utf8_lossy(record.strip_suffix(b"\n").unwrap_or(record)).into_owned();
            match record.split_once('=') {
                Some(("path", value)) => self.name = Some(value.to_owned()),
                Some(("linkpath", value)) => self.link = Some(value.to_owned()),
                Some(("size", value)) => self.size = Some(value.parse()?),
                _ => {}
            }
            records = &records[length..];
        }
        Ok(())
    }

    fn apply(self, header: &mut Header) {
        if let Some(name) = self.name {
            header.name = name;
        }
        if let Some(link) = self.link {
            header.link = link;
        }
        header.size = self.size.unwrap_or(header.size);
    }
}

fn entry(
    wanted: &Wanted<'_>,
    base: &Path,
    header: &Header,
    from: &mut dyn Read,
    shown: &mut dyn Write,
    said: &mut dyn Write,
) -> Done {
    let asked_for = wanted.paths.is_empty() || wanted.paths.iter().any(|path| is_below(&header.name, path));
    if asked_for && (wanted.verbose || wanted.mode == Mode::List) {
        writeln!(shown, "{}", header.name)?;
    }
    if !asked_for || wanted.mode == Mode::List {
        return pass_over(from, header.size);
    }
    let relative = relative(&header.name).ok_or_else(|| format!("{}: Member name contains '..'", header.name))?;
    let path = base.join(relative);
    let failed = |error: io::Error| about(&path.to_string_lossy(), &error);
    match header.kind {
        Kind::Folder => {
            fs::create_dir_all(&path).map_err(failed)?;
            pass_over(from, header.size)
        }
        Kind::File => {
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                fs::create_dir_all(parent).map_err(failed)?;
            }
            // Not through a link that stands there: what it points to is not what was named.
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
                fs::remove_file(&path).map_err(failed)?;
            }
            let mut file = File::create(&path).map_err(failed)?;
            let mut left = header.size;
            let mut piece = vec![0; PIECE_BYTES];
            while left > 0 {
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                let length = from.read(&mut piece[..wanted])?;
                if length == 0 {
                    return Err("Unexpected EOF in archive".into());
                }
                file.write_all(&piece[..length]).map_err(failed)?;
                left -= length as u64;
            }
            pass_over_padding(from, header.size)
        }
        _ => {
            writeln!(said, "tar: {}: only files and folders are made here", header.name)?;
            pass_over(from, header.size)
        }
    }
}

/// The name without anything that leads elsewhere; `None` when it leads up.
fn relative(name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

fn is_below(name: &str, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Fills the block; false at the end of the archive.
fn fill(from: &mut dyn Read, block: &mut [u8; BLOCK]) -> Result<bool, Failure> {
    let mut filled = 0;
    while filled < BLOCK {
        match from.read(&mut block[filled..])? {
            0 if filled == 0 => return Ok(false),
            0 => return Err("Unexpected EOF in archive".into()),
            length => filled += length,
        }
    }
    Ok(true)
}

fn content(from: &mut dyn Read, size: u64) -> Result<Vec<u8>, Failure> {
    if size > ATTRIBUTES_BYTES_MAX {
        return Err("attributes of an entry are too long".into());
    }
    let mut bytes = vec![0; usize::try_from(size)?];
    from.read_exact(&mut bytes)?;
    pass_over_padding(from, size)?;
    Ok(bytes)
}

fn unended(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn pass_over(from: &mut dyn Read, size: u64) -> Done {
    skip(from, size)?;
    pass_over_padding(from, size)
}

fn pass_over_padding(from: &mut dyn Read, size: u64) -> Done {
    skip(from, padding(size))
}

fn skip(from: &mut dyn Read, size: u64) -> Done {
    let passed = io::copy(&mut from.take(size), &mut io::sink())?;
    if passed < size { Err("Unexpected EOF in archive".into()) } else { Ok(()) }
}
