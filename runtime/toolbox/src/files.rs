//! Commands that make, move and remove files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Done, Failure, Streams, about, options};

/// `mkdir [-p] FOLDER…`
pub(crate) fn make_folders(args: &[String], _streams: &mut Streams<'_>) -> Done {
    let (letters, paths) = options(args, "p")?;
    for path in some(&paths)? {
        let made = if letters.contains('p') { fs::create_dir_all(path) } else { fs::create_dir(path) };
        made.map_err(|error| about(path, &error))?;
    }
    Ok(())
}

/// `rmdir FOLDER…`
pub(crate) fn remove_folders(args: &[String], _streams: &mut Streams<'_>) -> Done {
    let (_, paths) = options(args, "")?;
    some(&paths)?.iter().try_for_each(|path| fs::remove_dir(path).map_err(|error| about(path, &error)))
}

/// `rm [-rf] PATH…`
pub(crate) fn remove(args: &[String], _streams: &mut Streams<'_>) -> Done {
    let (letters, paths) = options(args, "rRf")?;
    let (deep, force) = (letters.contains(['r', 'R']), letters.contains('f'));
    for path in if force { &paths[..] } else { some(&paths)? } {
        let is_folder = match fs::symlink_metadata(path) {
            Err(error) if force && error.kind() == std::io::ErrorKind::NotFound => continue,
            found => found.map_err(|error| about(path, &error))?.is_dir(),
        };
        if is_folder && !deep {
            return Err(format!("{path}: Is a directory").into());
        }
        let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(|error| about(path, &error))?;
    }
    Ok(())
}

/// `touch FILE…`: makes what is not there.
pub(crate) fn touch(args: &[String], _streams: &mut Streams<'_>) -> Done {
    let (_, paths) = options(args, "c")?;
    for path in some(&paths)? {
        let file = File::options().create(true).append(true).open(path).map_err(|error| about(path, &error))?;
        // Not every file system lets its times be set; the file is there, which is what people want.
        let _ = file.set_modified(std::time::SystemTime::now());
    }
    Ok(())
}

/// `cp [-r] FROM… TO`
pub(crate) fn copy(args: &[String], _streams: &mut Streams<'_>) -> Done {
    let (letters, paths) = options(args, "rRap")?;
    let deep = letters.contains(['r', 'R', 'a']);
    each_to_last(&paths, |from, to| copy_one(from, to, deep))
}

fn copy_one(from: &Path, to: &Path, deep: bool) -> Done {
    let shown = from.to_string_lossy();
    if !from.is_dir() {
        return fs::copy(from, to).map(drop).map_err(|error| about(&shown, &error));
    }
    if !deep {
        return Err(format!("{shown}: Is a directory (-r copies it)").into());
    }
    if to.starts_with(from) {
        return Err(format!("{shown}: cannot be copied into itself").into());
    }
    fs::create_dir_all(to).map_err(|error| about(&to.to_string_lossy(), &error))?;
    for entry in fs::read_dir(from).map_err(|error| about(&shown, &error))? {
        let name = entry.map_err(|error| about(&shown, &error))?.file_name();
        copy_one(&from.join(&name), &to.join(&name), true)?;
    }
    Ok(())
}

/// `mv FROM… TO`
pub(crate) fn rename(args: &[String], _streams: &mut Streams<'_>) -> Done {
    let (_, paths) = options(args, "f")?;
    each_to_last(&paths, |from, to| {
        if fs::rename(from, to).is_ok() {
            return Ok(());
        }
        // From one volume to another a file cannot be renamed.
        copy_one(from, to, true)?;
        let gone = if from.is_dir() { fs::remove_dir_all(from) } else { fs::remove_file(from) };
        gone.map_err(|error| about(&from.to_string_lossy(), &error))
    })
}

fn each_to_last(paths: &[&str], mut each: impl FnMut(&Path, &Path) -> Done) -> Done {
    let Some((last, sources)) = paths.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        return Err("from where to where?".into());
    };
    let target = Path::new(last);
    if sources.len() > 1 && !target.is_dir() {
        return Err(format!("{last}: Not a directory").into());
    }
    for source in sources {
        let source = Path::new(source);
        let to: PathBuf = match source.file_name() {
            Some(name) if target.is_dir() => target.join(name),
            _ => target.to_owned(),
        };
        each(source, &to)?;
    }
    Ok(())
}

fn some<'a, 'b>(paths: &'b [&'a str]) -> Result<&'b [&'a str], Failure> {
    if paths.is_empty() { Err("which one?".into()) } else { Ok(paths) }
}
