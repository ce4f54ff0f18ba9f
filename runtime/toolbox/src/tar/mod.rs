//! `tar`: what `kubectl cp` runs in the container at both ends of a copy.
//!
//! `header` knows the blocks, `unpack` and `pack` the two directions. Both stream: no file is ever held.

mod header;
mod pack;
mod unpack;

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};

use crate::{Done, Failure, Streams, about};

/// Bytes of a block, the unit of everything in an archive.
const BLOCK: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Create,
    Extract,
    List,
}

#[derive(Debug)]
struct Wanted<'a> {
    mode: Mode,
    archive: &'a str,
    folder: Option<&'a str>,
    verbose: bool,
    paths: Vec<&'a str>,
}

/// `tar cf ARCHIVE PATH…`, `tar xf ARCHIVE [PATH…]`, `tar tf ARCHIVE`, with `-C FOLDER`, `v`, `-` for the archive.
pub(crate) fn tar(args: &[String], streams: &mut Streams<'_>) -> Done {
    let wanted = wanted(args)?;
    match wanted.mode {
        Mode::Create => {
            let mut out: Box<dyn Write + '_> = match wanted.archive {
                "-" => Box::new(BufWriter::with_capacity(crate::text::PIECE_BYTES, &mut *streams.stdout)),
                path => Box::new(BufWriter::new(File::create(path).map_err(|error| about(path, &error))?)),
            };
            pack::pack(&wanted, &mut out, streams.stderr)
        }
        Mode::Extract | Mode::List => {
            let mut from: Box<dyn Read + '_> = match wanted.archive {
                "-" => Box::new(BufReader::with_capacity(crate::text::PIECE_BYTES, &mut *streams.stdin)),
                path => Box::new(BufReader::new(File::open(path).map_err(|error| about(path, &error))?)),
            };
            unpack::unpack(&wanted, &mut from, streams.stdout, streams.stderr)
        }
    }
}

fn wanted(args: &[String]) -> Result<Wanted<'_>, Failure> {
    let (mut mode, mut archive, mut folder, mut verbose, mut paths) = (None, "-", None, false, Vec::new());
    let mut args = args.iter().map(String::as_str);
    let mut first = true;
    while let Some(arg) = args.next() {
        if let Some(name) = arg.strip_prefix("--") {
            match name {
                // WASI has neither owners nor modes to keep.
                "no-same-permissions" | "no-same-owner" | "same-permissions" | "preserve-permissions" => {}
                _ => return Err(format!("unknown option {arg}").into()),
            }
        } else if let Some(letters) = arg.strip_prefix('-').or(first.then_some(arg)).filter(|l| !l.is_empty()) {
            for letter in letters.chars() {
                match letter {
                    'c' => mode = Some(Mode::Create),
                    'x' => mode = Some(Mode::Extract),
                    't' => mode = Some(Mode::List),
                    'v' => verbose = true,
                    'f' => archive = args.next().ok_or("-f wants an archive")?,
                    'C' => folder = Some(args.next().ok_or("-C wants a folder")?),
                    // Times, modes and owners are never kept.
                    'm' | 'p' | 'o' | 'h' => {}
                    'z' | 'j' | 'J' => return Err("compressed archives are not read or written here".into()),
                    other => return Err(format!("unknown option -{other}").into()),
                }
            }
        } else {
            paths.push(arg);
        }
        first = false;
    }
    let mode = mode.ok_or("one of -c, -x and -t must be given")?;
    if mode == Mode::Create && paths.is_empty() {
        return Err("an archive of nothing is not made".into());
    }
    Ok(Wanted { mode, archive, folder, verbose, paths })
}

/// How many bytes follow a content of `size` up to the next block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

#[cfg(test)]
mod tests;
