//! The files of one OCI image layout: reading with every digest checked, writing so that a crash or a second process
//! never leaves half a file.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::artifact::{Descriptor, Index};
use crate::error::ImageError;
use crate::limits;

const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";
const LOCK_FILE: &str = ".lock";
/// Beside what the specification of layouts knows; other tools leave it alone.
const USES: &str = "used";

/// What tells that a file was not touched since its digest was checked.
type Stamp = (u64, Option<SystemTime>);

#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    checked: Mutex<HashMap<String, Stamp>>,
}

impl Layout {
    /// An existing layout, for reading.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), checked: Mutex::default() }
    }

    /// A layout of our own: made if it is not there.
    pub(crate) fn create(root: &Path) -> Result<Self, ImageError> {
        let layout = Self::at(root);
        let blobs = root.join("blobs/sha256");
        for folder in [&blobs, &root.join(USES)] {
            fs::create_dir_all(folder).map_err(ImageError::io("create", folder))?;
        }
        let _lock = layout.lock()?;
        if !root.join(LAYOUT_FILE).exists() {
            layout.replace(LAYOUT_FILE, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        if !root.join(INDEX_FILE).exists() {
            layout.write_index(&Index::default())?;
        }
        Ok(layout)
    }

    /// Keeps other processes from changing the index until the answer is dropped. Readers need no lock.
    pub(crate) fn lock(&self) -> Result<File, ImageError> {
        let path = self.root.join(LOCK_FILE);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(ImageError::io("open", &path))?;
        file.lock().map_err(ImageError::io("lock", &path))?;
        Ok(file)
    }

    pub(crate) fn index(&self) -> Result<Index, ImageError> {
        let path = self.root.join(INDEX_FILE);
        let bytes = read_bounded(&path, limits::DOCUMENT_BYTES_MAX)?;
        parse(&path, &bytes)
    }

    pub(crate) fn write_index(&self, index: &Index) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec(index).expect("an index is plain data");
        self.replace(INDEX_FILE, &bytes)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest.replace(':', "/"))
    }

    pub(crate) fn blob_folder(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// The file that says who uses a digest, which has been looked at.
    pub(crate) fn use_path(&self, digest: &str) -> PathBuf {
        self.root.join(USES).join(hex(digest))
    }

    /// Every digest that somebody uses or has used.
    pub(crate) fn uses(&self) -> Result<Vec<String>, ImageError> {
        let files = files(&self.root.join(USES))?;
        Ok(files.into_iter().filter_map(|(name, _)| digest_named(&name)).collect())
    }

    /// Every blob.
    pub(crate) fn blobs(&self) -> Result<BTreeMap<String, Found>, ImageError> {
        let files = files(&self.blob_folder())?;
        Ok(files.into_iter().filter_map(|(name, found)| Some((digest_named(&name)?, found))).collect())
    }

    /// Removes files that somebody began to write and left, when they are older than that. Returns their size.
    pub(crate) fn remove_leftovers(&self, age_min: Duration) -> Result<u64, ImageError> {
        let mut bytes = 0;
        for (name, found) in files(&self.blob_folder())? {
            if digest_named(&name).is_none() && found.changed.elapsed().is_ok_and(|age| age >= age_min) {
                let path = self.blob_folder().join(name);
                fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
                bytes += found.bytes;
            }
        }
        Ok(bytes)
    }

    /// The bytes of a blob that may be a document, unchecked; `None` for all others.
    pub(crate) fn small(&self, digest: &str) -> Option<Vec<u8>> {
        let mut file = File::open(self.blob_path(digest)).ok()?;
        let size = file.metadata().ok()?.len();
        let mut first = [0];
        file.read_exact(&mut first).ok()?;
        if size > limits::DOCUMENT_BYTES_MAX || first != *b"{" {
            return None;
        }
        let mut bytes = first.to_vec();
        file.take(limits::DOCUMENT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    pub(crate) fn has_blob(&self, digest: &str) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Writes a blob unless it is there, and returns its digest.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> Result<String, ImageError> {
        let digest = digest_of(bytes);
        let path = self.blob_path(&digest);
        // A damaged blob of the same name is replaced: the caller has just handed us the right bytes.
        match self.check_blob(&digest) {
            // It is as good as new, also to who looks for what nobody has named for long.
            Ok(path) => {
                let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
            }
            Err(_) => replace_file(&path, bytes)?,
        }
        Ok(digest)
    }

    /// A small blob, checked and decoded.
    pub(crate) fn document<T: DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, ImageError> {
        let path = self.blob_path(check_shape(&descriptor.digest)?);
        fs::metadata(&path).map_err(unreadable(&path, &descriptor.digest))?;
        let bytes = read_bounded(&path, limits::DOCUMENT_BYTES_MAX)?;
        compare(&path, &descriptor.digest, digest_of(&bytes))?;
        parse(&path, &bytes)
    }

    /// The path of a blob whose contents are what the digest says.
    ///
    /// Hashing is skipped while size and modification time are those of the last check.
    pub(crate) fn check_blob(&self, digest: &str) -> Result<PathBuf, ImageError> {
        let path = self.blob_path(check_shape(digest)?);
        let metadata = fs::metadata(&path).map_err(unreadable(&path, digest))?;
        let stamp = (metadata.len(), metadata.modified().ok());
        if self.checked().get(digest) == Some(&stamp) {
            return Ok(path);
        }
        compare(&path, digest, digest_of_file(&path)?)?;
        let mut checked = self.checked();
        if checked.len() >= limits::CHECKED_BLOBS_MAX {
            checked.clear();
        }
        checked.insert(digest.to_owned(), stamp);
        Ok(path)
    }

    /// The bytes of a blob, checked.
    pub(crate) fn bytes(&self, digest: &str, bytes_max: u64) -> Result<Vec<u8>, ImageError> {
        read_bounded(&self.check_blob(digest)?, bytes_max)
    }

    fn checked(&self) -> std::sync::MutexGuard<'_, HashMap<String, Stamp>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        replace_file(&self.root.join(name), bytes)
    }
}

/// A file as its folder shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) bytes: u64,
    pub(crate) changed: SystemTime,
}

/// The files of a folder, by their names.
fn files(folder: &Path) -> Result<Vec<(String, Found)>, ImageError> {
    let listed = fs::read_dir(folder).map_err(ImageError::io("list", folder))?;
    let seen = |entry: fs::DirEntry| {
        let found = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        let found = Found { bytes: found.len(), changed: found.modified().ok()? };
        Some((entry.file_name().into_string().ok()?, found))
    };
    // What is removed meanwhile is not there.
    Ok(listed.flatten().filter_map(seen).collect())
}

/// A blob that is missing may be fetched again; one that cannot be read needs a person.
fn unreadable<'a>(path: &'a Path, digest: &'a str) -> impl FnOnce(io::Error) -> ImageError + 'a {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => ImageError::NotFound(format!("{digest} is not in this node's image store")),
        _ => ImageError::io("read", path)(error),
    }
}

/// Writes beside the file, makes it durable, then renames: a reader sees the old contents or the new, nothing between.
fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let folder = path.parent().expect("every file of a layout has a folder");
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        // The rename itself is durable once the folder is; where folders cannot be opened the file system does it.
        File::open(folder).and_then(|folder| folder.sync_all()).or(Ok(()))
    };
    write().map_err(ImageError::io("write", path))
}

/// Reads a file that must not be larger than `bytes_max`.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
    read.map_err(ImageError::io("read", path))?;
    if bytes.len() as u64 > bytes_max {
        let why = format!("it is larger than {} MiB", bytes_max >> 20);
        return Err(ImageError::unusable(path.display().to_string(), why));
    }
    Ok(bytes)
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

fn digest_of_file(path: &Path) -> Result<String, ImageError> {
    let mut hasher = Sha256::new();
    let hashed = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
    hashed.map_err(ImageError::io("read", path))?;
    Ok(format!("sha256:{:x}", hasher.finalize()))
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

fn digest_named(file: &str) -> Option<String> {
    let digest = format!("sha256:{file}");
    check_shape(&digest).is_ok().then_some(digest)
}

/// Digests come from files we did not write: only the one shape that is a file name becomes one.
pub(crate) fn check_shape(digest: &str) -> Result<&str, ImageError> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(digest);
    }
    Err(ImageError::unusable(digest, "only sha256 digests are understood"))
}

fn compare(path: &Path, expected: &str, found: String) -> Result<(), ImageError> {
    if expected == found {
        return Ok(());
    }
    Err(ImageError::Damaged { path: path.to_owned(), expected: expected.to_owned(), found })
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|e| ImageError::unusable(path.display().to_string(), format!("it cannot be read ({e})")))
}
