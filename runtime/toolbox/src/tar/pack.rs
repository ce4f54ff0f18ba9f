//! From files to an archive.

use std::fs::{self, File, Metadata};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::header::{Header, Kind, is_long, long};
use super::{BLOCK, Wanted, padding};
use crate::text::PIECE_BYTES;
use crate::{Done, about};

/// Writes all paths and what is below them.
pub(super) fn pack(wanted: &Wanted<'_>, out: &mut dyn Write, said: &mut dyn Write) -> Done {
    let base = wanted.folder.map(PathBuf::from).unwrap_or_default();
    let mut packing = Packing { out, said, verbose: wanted.verbose };
    for path in &wanted.paths {
        let name = path.trim_start_matches('/');
        if name.len() < path.len() && !name.is_empty() {
            writeln!(packing.said, "tar: Removing leading `/' from member names")?;
        }
        packing.entry(&base.join(path), if name.is_empty() { "." } else { name })?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    Ok(out.flush()?)
}

struct Packing<'a> {
    out: &'a mut dyn Write,
    said: &'a mut dyn Write,
    verbose: bool,
}

impl Packing<'_> {
    fn entry(&mut self, path: &Path, name: &str) -> Done {
        let shown = path.to_string_lossy();
        let found = fs::symlink_metadata(path).map_err(|error| about(&shown, &error))?;
        if self.verbose {
            writeln!(self.said, "{name}")?;
        }
        if found.is_dir() {
            self.head(&format!("{}/", name.trim_end_matches('/')), Kind::Folder, 0, &found, "")?;
            let mut names = Vec::new();
            for entry in fs::read_dir(path).map_err(|error| about(&shown, &error))? {
                names.push(entry.map_err(|error| about(&shown, &error))?.file_name());
            }
            names.sort();
            for inner in names {
                let below = format!("{}/{}", name.trim_end_matches('/'), inner.to_string_lossy());
                self.entry(&path.join(&inner), &below)?;
            }
            return Ok(());
        }
        if found.is_symlink() {
            let link = fs::read_link(path).map_err(|error| about(&shown, &error))?;
            return self.head(name, Kind::Link, 0, &found, &link.to_string_lossy());
        }
        let mut file = File::open(path).map_err(|error| about(&shown, &error))?;
        self.head(name, Kind::File, found.len(), &found, "")?;
        self.content(&shown, &mut file, found.len())
    }

    fn head(&mut self, name: &str, kind: Kind, size: u64, found: &Metadata, link: &str) -> Done {
        let changed = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let changed = changed.map_or(0, |time| time.as_secs());
        if is_long(link) {
            self.out.write_all(&long(Kind::LongLink, link))?;
        }
        if is_long(name) {
            self.out.write_all(&long(Kind::LongName, name))?;
        }
        let header = Header { name: name.to_owned(), kind, size, changed, link: link.to_owned() };
        Ok(self.out.write_all(&header.write())?)
    }

    /// The bytes the header has promised: a file that grows is cut, one that shrinks is filled up with zeros.
    fn content(&mut self, shown: &str, file: &mut File, size: u64) -> Done {
        let mut left = size;
        let mut piece = vec![0; PIECE_BYTES];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let length = file.read(&mut piece[..wanted]).map_err(|error| about(shown, &error))?;
            if length == 0 {
                writeln!(self.said, "tar: {shown}: File shrank by {left} bytes; padding with zeros")?;
                let zeros = &mut std::io::repeat(0).take(left);
                std::io::copy(zeros, self.out)?;
                break;
            }
            self.out.write_all(&piece[..length])?;
            left -= length as u64;
        }
        Ok(self.out.write_all(&[0; BLOCK][..usize::try_from(padding(size))?])?)
    }
}
