//! `ls`: what is in a folder.

use std::fs::{self, Metadata};
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::{Done, Streams, about, options, words};

/// `ls [-la1dR] [PATH…]`
pub(crate) fn list(args: &[String], streams: &mut Streams<'_>) -> Done {
    let (letters, paths) = options(args, "la1dRhA")?;
    let paths = if paths.is_empty() { vec!["."] } else { paths };
    let several = paths.len() > 1 || letters.contains('R');
    for (turn, path) in paths.iter().enumerate() {
        let found = fs::symlink_metadata(path).map_err(|error| about(path, &error))?;
        if !Path::new(path).is_dir() || letters.contains('d') {
            line(path, &found, &letters, streams)?;
            continue;
        }
        if several {
            let gap = if turn > 0 { "\n" } else { "" };
            writeln!(streams.stdout, "{gap}{path}:")?;
        }
        folder(path, &letters, streams)?;
    }
    Ok(())
}

fn folder(path: &str, letters: &str, streams: &mut Streams<'_>) -> Done {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| about(path, &error))? {
        let entry = entry.map_err(|error| about(path, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') || letters.contains(['a', 'A']) {
            entries.push((name, entry.path()));
        }
    }
    entries.sort();
    for (name, path) in &entries {
        // One that went meanwhile is not in the folder any more.
        if let Ok(found) = fs::symlink_metadata(path) {
            line(name, &found, letters, streams)?;
        }
    }
    if letters.contains('R') {
        for (_, path) in entries.iter().filter(|(_, path)| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()))
        {
            let path = path.to_string_lossy();
            writeln!(streams.stdout, "\n{path}:")?;
            folder(&path, letters, streams)?;
        }
    }
    Ok(())
}

fn line(name: &str, found: &Metadata, letters: &str, streams: &mut Streams<'_>) -> Done {
    if !letters.contains('l') {
        return Ok(writeln!(streams.stdout, "{name}")?);
    }
    let kind = match found.file_type() {
        kind if kind.is_dir() => 'd',
        kind if kind.is_symlink() => 'l',
        _ => '-',
    };
    let changed = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let changed = words::moment(changed.map_or(0, |time| time.as_secs()));
    // No owners and no modes: WASI has neither.
    Ok(writeln!(streams.stdout, "{kind} {:>12} {changed} {name}", found.len())?)
}
