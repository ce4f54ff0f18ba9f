//! The files of one OCI image layout: reading with every digest checked, writing so that a crash or a second process
//! never leaves half a file.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::artifact::{Descriptor, Index};
use crate::error::ImageError;
use crate::limits;

const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";
const LOCK_FILE: &str = ".lock";

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
        fs::create_dir_all(&blobs).map_err(ImageError::io("create", &blobs))?;
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

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest.replace(':', "/"))
    }

    pub(crate) fn blob_folder(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn has_blob(&self, digest: &str) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Writes a blob unless it is there, and returns its digest.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> Result<String, ImageError> {
        let digest = digest_of(bytes);
        let path = self.blob_path(&digest);
        // A damaged blob of the same name is replaced: the caller has just handed us the right bytes.
        if self.check_blob(&digest).is_err() {
            replace_file(&path, bytes)?;
        }
        Ok(digest)
    }

    /// A small blob, checked and decoded.
    pub(crate) fn document<T: DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, ImageError> {
        let path = self.blob_path(check_shape(&descriptor.digest)?);
        let bytes = read_bounded(&path, limits::DOCUMENT_BYTES_MAX)?;
        compare(&path, &descriptor.digest, digest_of(&bytes))?;
        parse(&path, &bytes)
    }

    /// The path of a blob whose contents are what the digest says.
    ///
    /// Hashing is skipped while size and modification time are those of the last check.
    pub(crate) fn check_blob(&self, digest: &str) -> Result<PathBuf, ImageError> {
        let path = self.blob_path(check_shape(digest)?);
        let metadata = fs::metadata(&path).map_err(ImageError::io("read", &path))?;
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
