//! Machine code on disk. An artefact is named by the digest of the component's *bytes* and by everything that decides the
//! machine code (compiler, settings, CPU features), lies in a directory only this user can enter, and carries its own digest:
//! loading runs it, so what was damaged or half-written is not loaded.

use crate::compile::Machine;
use crate::limits;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use std::fmt::Debug;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use wasmtime::component::Component;
use wasmtime::{Module, Precompiled};

/// Where machine code may be had beside from this node's own compiler. It is run as it is: whoever is a source answers for it
/// with everything this process can do.
pub trait CodeSource: Debug + Send + Sync {
    /// Writes the artefact of this name to `to` and returns the digest it was made with (SHA-256, hexadecimal); `None` when
    /// it is not to be had, whatever the reason. Then nothing is left at `to`.
    fn fetch<'a>(&'a self, name: &'a str, to: &'a Path) -> BoxFuture<'a, Option<String>>;
}

/// An artefact for somebody else.
#[derive(Debug)]
pub struct KeptCode {
    /// Opened at its beginning.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// The digest it was made with (SHA-256, hexadecimal). What `file` holds is not checked: whoever takes it does that.
    pub sum: String,
}

/// What an artefact's name ends with.
const EXTENSION: &str = "cwasm";

/// A file of machine code and, beside it, the digest it must have.
#[derive(Clone)]
pub(crate) struct Artefact {
    path: PathBuf,
}

impl Artefact {
    /// Of these bytes, compiled for this engine.
    pub(crate) fn of(dir: &Path, wasm: &[u8], engine: &wasmtime::Engine) -> Self {
        let mut compatible = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut compatible);
        let name = format!("{}-{:016x}.{EXTENSION}", hex_digest(wasm), compatible.finish());
        Self { path: dir.join(name) }
    }

    /// What it is called wherever it is kept.
    pub(crate) fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    fn sum_path(&self) -> PathBuf {
        self.path.with_extension("sha256")
    }

    /// A name in the same directory that no other compilation uses.
    pub(crate) fn fresh(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.path.with_extension(format!("{}-{}.new", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes over what a compiler wrote, if it is what the compiler says it wrote.
    pub(crate) fn keep(&self, fresh: &Path, sum: &str) -> io::Result<()> {
        if hex_digest(&std::fs::read(fresh)?) != sum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the compiler reported another digest"));
        }
        let fresh_sum = fresh.with_extension("sum");
        let mut file = File::create(&fresh_sum)?;
        file.write_all(sum.as_bytes())?;
        file.sync_all()?;
        File::open(fresh)?.sync_all()?;
        std::fs::rename(&fresh_sum, self.sum_path())?;
        std::fs::rename(fresh, &self.path)?;
        self.path.parent().map_or(Ok(()), |dir| prune(dir, limits::ARTEFACTS_MAX))
    }

    /// `None` when there is none, or none to be trusted.
    pub(crate) fn open(&self, engine: &wasmtime::Engine) -> Option<Machine> {
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
        let _ = File::open(&self.path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(machine)
    }
}

/// The artefact of this name, for somebody else; `None` when there is none, or no artefact is called so.
pub(crate) fn kept(dir: &Path, name: &str) -> io::Result<Option<KeptCode>> {
    let stem = name.strip_suffix(EXTENSION).and_then(|stem| stem.strip_suffix('.'));
    let is_name = stem.is_some_and(|stem| stem.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'));
    if !is_name {
        return Ok(None);
    }
    let artefact = Artefact { path: dir.join(name) };
    let found = std::fs::read_to_string(artefact.sum_path()).and_then(|sum| Ok((sum, File::open(&artefact.path)?)));
    match found {
        Ok((sum, file)) => Ok(Some(KeptCode { size: file.metadata()?.len(), file, sum })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
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
        if entry.path().extension().is_some_and(|extension| extension == EXTENSION) {
            artefacts.push((entry.path(), entry.metadata()?));
        }
    }
    Ok(artefacts)
}

fn remove(artefact: &Path) -> io::Result<()> {
    std::fs::remove_file(artefact.with_extension("sha256"))?;
    std::fs::remove_file(artefact)
}

pub(crate) fn hex_digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::compile_here;
    use crate::pools::{Settings, code_config};

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
}
