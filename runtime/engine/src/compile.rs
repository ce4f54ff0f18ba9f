//! Machine code: compiled once, kept on disk, checked before it is trusted.
//!
//! A component compiles in a process of its own when the configuration names a program for it: the compiler then
//! works on untrusted bytes under limits of memory and time, without the node's environment. The artefact is named by
//! the digest of the *bytes* and by everything that decides the machine code (compiler, settings, CPU features), lies
//! in a directory only this user can enter, and carries its own digest: loading runs it, so what was damaged or
//! half-written is compiled again instead.

use crate::inspect::{CodeError, is_core_module};
use crate::parts::{EngineError, Parts};
use crate::pools::{Pool, Settings, code_config};
use crate::{EngineConfig, limits};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncReadExt};
use wasmtime::component::Component;
use wasmtime::{Module, Precompiled};

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
    let mut compatible = DefaultHasher::new();
    pool.wasm.precompile_compatibility_hash().hash(&mut compatible);
    let name = format!("{}-{:016x}.cwasm", hex_digest(&wasm), compatible.finish());
    let artefact = Artefact { path: config.cache_dir.join(name) };

    let (found, engine) = (artefact.clone(), pool.wasm.clone());
    if let Some(machine) = blocking(move || Ok(found.open(&engine))).await? {
        return Ok(machine);
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
    let engine = pool.wasm.clone();
    blocking(move || {
        let kept = sum.and_then(|sum| Ok(artefact.keep(&fresh, &sum)?));
        let _ = std::fs::remove_file(&fresh);
        kept?;
        artefact.open(&engine).ok_or_else(|| CodeError::Io(io::Error::other("the compiled code changed on disk")))
    })
    .await
}

/// Compiles in this process. Returns the digest of what it wrote to `out`.
fn compile_here(wasm: &[u8], out: &Path, settings: Settings) -> Result<String, CodeError> {
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

/// A file of machine code and, beside it, the digest it must have.
#[derive(Clone)]
struct Artefact {
    path: PathBuf,
}

impl Artefact {
    fn sum_path(&self) -> PathBuf {
        self.path.with_extension("sha256")
    }

    /// A name in the same directory that no other compilation uses.
    fn fresh(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.path.with_extension(format!("{}-{}.new", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes over what a compiler wrote, if it is what the compiler says it wrote.
    fn keep(&self, fresh: &Path, sum: &str) -> io::Result<()> {
        if hex_digest(&std::fs::read(fresh)?) != sum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the compiler reported another digest"));
        }
        let fresh_sum = fresh.with_extension("sum");
        let mut file = std::fs::File::create(&fresh_sum)?;
        file.write_all(sum.as_bytes())?;
        file.sync_all()?;
        std::fs::File::open(fresh)?.sync_all()?;
        std::fs::rename(&fresh_sum, self.sum_path())?;
        std::fs::rename(fresh, &self.path)?;
        self.path.parent().map_or(Ok(()), |dir| prune(dir, limits::ARTEFACTS_MAX))
    }

    /// `None` when there is none, or none to be trusted.
    fn open(&self, engine: &wasmtime::Engine) -> Option<Machine> {
        let expected = std::fs::read_to_string(self.sum_path()).ok()?;
        let bytes = std::fs::read(&self.path).ok()?;
        if hex_digest(&bytes) != expected {
            return None;
        }
        let is_module = wasmtime::Engine::detect_precompiled(&bytes) == Some(Precompiled::Module);
        drop(bytes);
        // SAFETY: the file was written by our compiler, whose digest it still has, and lies in a directory that only
        // this user can enter; whoever can change it can change this program too.
        #[allow(unsafe_code)]
        let machine = unsafe {
            match is_module {
                true => Module::deserialize_file(engine, &self.path).map(Machine::Module),
                false => Component::deserialize_file(engine, &self.path).map(Machine::Component),
            }
        };
        let machine = machine
            .inspect_err(|error| tracing::warn!(%error, path = %self.path.display(), "compiled code refused"))
            .ok()?;
        // Only for `prune`, which can do without.
        let _ = std::fs::File::open(&self.path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(machine)
    }
}

/// Deletes the artefacts used longest ago. What runs keeps its mapping.
fn prune(dir: &Path, most: usize) -> io::Result<()> {
    let mut artefacts = artefacts(dir)?;
    artefacts.sort_unstable_by(|(path, one), (other, another)| {
        (one.modified().ok(), path).cmp(&(another.modified().ok(), other))
    });
    let surplus = artefacts.len().saturating_sub(most);
    artefacts.drain(..surplus).try_for_each(|(path, _)| remove(&path))
}

/// Deletes the artefacts of components that are not kept, named by their digests. What runs keeps its mapping. Returns how
/// many bytes that were.
pub(crate) fn remove_others(dir: &Path, is_kept: impl Fn(&str) -> bool) -> io::Result<u64> {
    let mut bytes = 0;
    for (path, found) in artefacts(dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.split_once('-').is_some_and(|(digest, _)| is_kept(digest)) {
            remove(&path)?;
            bytes += found.len();
        }
    }
    Ok(bytes)
}

fn artefacts(dir: &Path) -> io::Result<Vec<(PathBuf, std::fs::Metadata)>> {
    let mut artefacts = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "cwasm") {
            artefacts.push((entry.path(), entry.metadata()?));
        }
    }
    Ok(artefacts)
}

fn remove(artefact: &Path) -> io::Result<()> {
    std::fs::remove_file(artefact.with_extension("sha256"))?;
    std::fs::remove_file(artefact)
}

fn hex_digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CodeError> + Send + 'static,
) -> Result<T, CodeError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| CodeError::Io(io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_code_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let engine = wasmtime::Engine::new(&code_config(settings)).unwrap();
        let artefact = Artefact { path: dir.path().join("a.cwasm") };
        let fresh = artefact.fresh();
        let sum = compile_here(&wat::parse_str("(component)").unwrap(), &fresh, settings).unwrap();
        assert!(artefact.keep(&fresh, "not the digest").is_err());
        artefact.keep(&fresh, &sum).unwrap();
        assert!(artefact.open(&engine).is_some());

        let mut bytes = std::fs::read(&artefact.path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&artefact.path, bytes).unwrap();
        assert!(artefact.open(&engine).is_none());
    }

    #[test]
    fn the_artefact_unused_for_longest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        for (age, name) in [(30, "old"), (10, "new"), (20, "middle")] {
            for extension in ["cwasm", "sha256"] {
                let file = std::fs::File::create(dir.path().join(name).with_extension(extension)).unwrap();
                file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
            }
        }
        prune(dir.path(), 2).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["middle.cwasm", "middle.sha256", "new.cwasm", "new.sha256"]);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_compiler_that_fails_or_lies_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let artefact = Artefact { path: dir.path().join("a.cwasm") };
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
