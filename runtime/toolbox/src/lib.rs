//! The toolbox: small versions of the commands that people type into `kubectl exec` and that `kubectl cp` needs.
//!
//! A component has no file system but its volumes and no programs beside it, so this one stands in for `/bin`. It is
//! plain `std`, built for `wasm32-wasip2` by the node's build script, and runs in the pod's network, volumes,
//! environment and limits. Options are those people use, with the meaning they have elsewhere; anything else is refused
//! by name, never ignored. There is no shell; on a terminal and without a command it asks for one line by line. A failure
//! is exit code 1: WASI knows no other from `std`.

#![forbid(unsafe_code)]

mod digest;
mod files;
mod listing;
mod net;
mod prompt;
mod tar;
mod text;
mod words;

use std::io::{self, Read, Write};
use std::process::ExitCode;

pub use prompt::talk;

/// Where a command reads and writes.
pub struct Streams<'a> {
    /// What is piped into it.
    pub stdin: &'a mut dyn Read,
    /// Its result.
    pub stdout: &'a mut dyn Write,
    /// Its complaints.
    pub stderr: &'a mut dyn Write,
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The sentence for stderr.
    Said(String),
    /// It failed without a word: `false`, `test`.
    Silent,
}

impl<T: ToString> From<T> for Failure {
    fn from(message: T) -> Self {
        Self::Said(message.to_string())
    }
}

type Done = Result<(), Failure>;
type Command = fn(&[String], &mut Streams<'_>) -> Done;

/// Every command by name.
const TABLE: &[(&str, Command)] = &[
    ("basename", words::basename),
    ("cat", text::cat),
    ("cp", files::copy),
    ("date", words::date),
    ("dirname", words::dirname),
    ("echo", words::echo),
    ("env", words::environment),
    ("false", words::fail),
    ("head", text::head),
    ("hostname", words::hostname),
    ("id", words::id),
    ("ls", listing::list),
    ("mkdir", files::make_folders),
    ("mv", files::rename),
    ("nc", net::connect),
    ("nslookup", net::look_up),
    ("printenv", words::environment),
    ("pwd", words::folder),
    ("rm", files::remove),
    ("rmdir", files::remove_folders),
    ("sha256sum", digest::sum),
    ("sleep", words::sleep),
    ("tail", text::tail),
    ("tar", tar::tar),
    ("tee", text::tee),
    ("test", words::test),
    ("touch", files::touch),
    ("true", words::succeed),
    ("uname", words::uname),
    ("wc", text::count),
    ("wget", net::get),
    ("whoami", words::whoami),
];

/// The names of all commands, sorted.
pub fn commands() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// Whether there is a command of that name, or at the end of that path.
#[must_use]
pub fn knows(command: &str) -> bool {
    find(command).is_some()
}

fn find(command: &str) -> Option<(&'static str, Command)> {
    let name = command.rsplit('/').next().unwrap_or_default();
    TABLE.iter().find(|(known, _)| *known == name).copied()
}

/// Whether `args` name no command: `toolbox` alone.
#[must_use]
pub fn is_bare(args: &[String]) -> bool {
    matches!(args, [] | [_]) && args.iter().all(|word| is_own(word))
}

fn is_own(word: &str) -> bool {
    word.rsplit('/').next() == Some("toolbox")
}

/// Runs the command that `args` name: `ls -l /data`, or `toolbox ls -l /data`.
pub fn run(args: &[String], streams: &mut Streams<'_>) -> ExitCode {
    let args = if args.first().is_some_and(|word| is_own(word)) { &args[1..] } else { args };
    let Some((command, rest)) = args.split_first() else {
        let list = commands().collect::<Vec<_>>().join(" ");
        return finish("toolbox", writeln!(streams.stdout, "{list}").map_err(Failure::from), streams);
    };
    match find(command) {
        Some((name, run)) => {
            let done = run(rest, streams);
            let done = done.and_then(|()| streams.stdout.flush().map_err(Failure::from));
            finish(name, done, streams)
        }
        None => finish(command, Err("not found".into()), streams),
    }
}

fn finish(name: &str, done: Done, streams: &mut Streams<'_>) -> ExitCode {
    match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Silent) => {}
        Err(Failure::Said(message)) => {
            // Whoever closed stderr does not want to hear it.
            let _ = streams.stdout.flush();
            let _ = writeln!(streams.stderr, "{name}: {message}");
        }
    }
    ExitCode::FAILURE
}

/// The one-letter options of a command (`-rf`, `-r -f`) and what is not one; `--` ends them.
///
/// # Errors
/// Names an option that is not in `known`.
fn options<'a>(args: &'a [String], known: &str) -> Result<(String, Vec<&'a str>), Failure> {
    let (mut found, mut rest, mut over) = (String::new(), Vec::new(), false);
    for arg in args {
        match arg.strip_prefix('-').filter(|letters| !over && !letters.is_empty()) {
            Some("-") => over = true,
            Some(letters) => {
                if let Some(letter) = letters.chars().find(|letter| !known.contains(*letter)) {
                    return Err(format!("unknown option -{letter}").into());
                }
                found.push_str(letters);
            }
            None => rest.push(arg.as_str()),
        }
    }
    Ok((found, rest))
}

/// `path: why`, as commands say it.
fn about(path: &str, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "No such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "Permission denied".to_owned(),
        io::ErrorKind::AlreadyExists => "File exists".to_owned(),
        io::ErrorKind::IsADirectory => "Is a directory".to_owned(),
        io::ErrorKind::NotADirectory => "Not a directory".to_owned(),
        io::ErrorKind::DirectoryNotEmpty => "Directory not empty".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "Read-only file system".to_owned(),
        _ => error.to_string(),
    };
    Failure::Said(format!("{path}: {why}"))
}

#[cfg(test)]
mod tests;
