//! Machine code: compiled once, kept on disk, checked before it is trusted.
//!
//! A component compiles in a process of its own when the configuration names a program for it: the compiler then
//! works on untrusted bytes under limits of memory and time, without the node's environment. What it made may also be had
//! from a [`CodeSource`], who answers for it.

use crate::artefact::{Artefact, hex_digest};
use crate::inspect::{CodeError, is_core_module};
use crate::parts::{EngineError, Parts};
use crate::pools::{Pool, Settings, code_config};
use crate::{EngineConfig, limits};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncRead, AsyncReadExt};
use wasmtime::Module;
use wasmtime::component::Component;

/// The hidden command of a program that compiles: `PROGRAM compile-component WASM OUT SETTINGS`.
pub const COMPILE_COMMAND: &str = "compile-component";

/// Makes `path` a directory only this user can enter.
pub(crate) fn private_dir(path: &Path) -> Result<(), EngineError> {
    let make = || {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)?;
        #[cfg(unix)]
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        remove_unfinished(path)
    };
    make().map_err(|error| EngineError::Cache { path: path.to_owned(), error })
}

/// Deletes what compilations left that an earlier process did not live to finish.
fn remove_unfinished(dir: &Path) -> io::Result<()> {
    let ours = format!(".{}-", std::process::id());
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.to_string_lossy();
        if (name.ends_with(".new") || name.ends_with(".sum")) && !name.contains(&ours) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Reads a component's file, up to its bound.
pub(crate) async fn read(path: &Path) -> Result<Arc<[u8]>, CodeError> {
    let path = path.to_owned();
    blocking(move || {
        let size = std::fs::metadata(&path)?.len();
        if size > limits::COMPONENT_BYTES_MAX {
            return Err(CodeError::Invalid(format!("{size} bytes are more than {}", limits::COMPONENT_BYTES_MAX)));
        }
        Ok(std::fs::read(&path)?.into())
    })
    .await
}

/// Code that can be linked.
pub(crate) enum Machine {
    /// Of a component.
    Component(Component),
    /// Of a core module.
    Module(Module),
}

/// Loads the machine code of `wasm`, compiling it if this node has not yet. `path` is where `wasm` was read.
pub(crate) async fn machine(
    parts: &Arc<Parts>,
    config: &EngineConfig,
    settings: Settings,
    pool: &Pool,
    wasm: Arc<[u8]>,
    path: &Path,
) -> Result<Machine, CodeError> {
    let artefact = Artefact::of(&config.cache_dir, &wasm, &pool.wasm);
    let (found, engine) = (artefact.clone(), pool.wasm.clone());
    if let Some(machine) = blocking(move || Ok(found.open(&engine))).await? {
        return Ok(machine);
    }
    if let Some(source) = &config.source {
        let fresh = artefact.fresh();
        if let Some(sum) = source.fetch(artefact.name(), &fresh).await {
            match take_over(&artefact, fresh, Ok(sum), pool).await {
                Ok(machine) => {
                    parts.counts.fetched.fetch_add(1, Ordering::Relaxed);
                    return Ok(machine);
                }
                Err(error) => tracing::warn!(%error, "machine code from elsewhere cannot be used"),
            }
        }
    }
    let _turn = parts.compilations.acquire().await.expect("the semaphore is never closed");
    let fresh = artefact.fresh();
    let sum = match &config.compiler {
        Some(program) => compile_apart(program, path, &fresh, settings).await,
        None => {
            let out = fresh.clone();
            blocking(move || compile_here(&wasm, &out, settings)).await
        }
    };
    parts.counts.compiled.fetch_add(1, Ordering::Relaxed);
    take_over(&artefact, fresh, sum, pool).await
}

/// Keeps what was written to `fresh` if it has the digest `sum`, and opens it. Whatever becomes of it, `fresh` is gone.
async fn take_over(
    artefact: &Artefact,
    fresh: PathBuf,
    sum: Result<String, CodeError>,
    pool: &Pool,
) -> Result<Machine, CodeError> {
    let (artefact, engine) = (artefact.clone(), pool.wasm.clone());
    blocking(move || {
        let kept = sum.and_then(|sum| Ok(artefact.keep(&fresh, &sum)?));
        let _ = std::fs::remove_file(&fresh);
        kept?;
        artefact.open(&engine).ok_or_else(|| CodeError::Io(io::Error::other("the compiled code changed on disk")))
    })
    .await
}

/// Compiles in this process. Returns the digest of what it wrote to `out`.
pub(crate) fn compile_here(wasm: &[u8], out: &Path, settings: Settings) -> Result<String, CodeError> {
    let invalid = |error: wasmtime::Error| CodeError::Invalid(format!("{error:#}"));
    let engine = wasmtime::Engine::new(&code_config(settings)).map_err(invalid)?;
    let code = match is_core_module(wasm) {
        true => engine.precompile_module(wasm),
        false => engine.precompile_component(wasm),
    };
    let code = code.map_err(invalid)?;
    std::fs::write(out, &code)?;
    Ok(hex_digest(&code))
}

/// Compiles in a process of `program`. The digest it reports must be that of the file it left: [`Artefact::keep`]
/// compares them.
async fn compile_apart(program: &Path, wasm: &Path, out: &Path, settings: Settings) -> Result<String, CodeError> {
    let mut command = tokio::process::Command::new(program);
    command.arg(COMPILE_COMMAND).arg(wasm).arg(out).arg(settings.word()).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (said, complaint) = (hear(child.stdout.take()), hear(child.stderr.take()));
    let ended = tokio::time::timeout(limits::COMPILE_TIMEOUT, async { tokio::join!(said, complaint, child.wait()) });
    let (said, complaint, status) = ended
        .await
        .map_err(|_| CodeError::Invalid(format!("compiling took longer than {:?}", limits::COMPILE_TIMEOUT)))?;
    let status = status?;
    if status.success() {
        return Ok(said.trim().to_owned());
    }
    let complaint = complaint.trim();
    Err(CodeError::Invalid(match complaint {
        "" => format!("the compiler ended with {status}"),
        complaint => complaint.to_owned(),
    }))
}

/// What a compiler prints, up to a bound; one that says more finds nobody listening.
async fn hear(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        // What could be read is all that is wanted.
        let _ = pipe.take(limits::COMPILER_TEXT_BYTES_MAX).read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The compiler process: `WASM OUT SETTINGS` are its arguments. Writes machine code to OUT and its digest to stdout, or a
/// sentence to stderr.
pub fn compile_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let (wasm, out) = (args.next(), args.next());
    let settings = args.next().and_then(|word| Settings::parse(word.to_str()?));
    let (Some(wasm), Some(out), Some(settings), None) = (wasm, out, settings, args.next()) else {
        eprintln!("usage: {COMPILE_COMMAND} WASM OUT SETTINGS");
        return ExitCode::from(2);
    };
    let compile = || {
        confine()?;
        compile_here(&std::fs::read(wasm)?, Path::new(&out), settings)
    };
    match compile() {
        Ok(sum) => {
            println!("{sum}");
            ExitCode::SUCCESS
        }
        Err(CodeError::Invalid(reason)) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Limits of the compiler process, which it cannot lift again.
#[cfg(unix)]
fn confine() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::As, limit(limits::COMPILER_MEMORY_BYTES))?;
    setrlimit(Resource::Cpu, limit(limits::COMPILE_TIMEOUT.as_secs() * 4))?;
    Ok(())
}

#[cfg(not(unix))]
fn confine() -> io::Result<()> {
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CodeError> + Send + 'static,
) -> Result<T, CodeError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| CodeError::Io(io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[tokio::test]
    async fn a_compiler_that_fails_or_lies_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let artefact = Artefact::of(dir.path(), b"wasm", &wasmtime::Engine::default());
        let fresh = artefact.fresh();
        let compile =
            |program: &'static str| compile_apart(Path::new(program), Path::new("wasm"), &fresh, Settings::default());
        assert!(matches!(compile("false").await, Err(CodeError::Invalid(_))));
        assert!(matches!(compile("no such program").await, Err(CodeError::Io(_))));
        let said = compile("echo").await.unwrap();
        std::fs::write(&fresh, "anything").unwrap();
        assert!(artefact.keep(&fresh, &said).is_err());
    }
}
