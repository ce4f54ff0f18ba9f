//! A blob on its way into the layout: written beside its place, hashed as it comes, named only when it is whole and what
//! its digest says. A broken transfer leaves nothing behind.

use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::ImageError;
use crate::images::Images;
use crate::limits;

/// The receiving end. All calls block on files.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: NamedTempFile,
    folder: PathBuf,
    hasher: Sha256,
    size: u64,
    bytes_max: u64,
}

impl Incoming {
    pub(crate) fn new(folder: PathBuf, bytes_max: u64) -> Result<Self, ImageError> {
        let file = tempfile::Builder::new().prefix(".new-").tempfile_in(&folder);
        let file = file.map_err(ImageError::io("write", &folder))?;
        Ok(Self { file, folder, hasher: Sha256::new(), size: 0, bytes_max })
    }

    /// Bytes received so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.size += bytes.len() as u64;
        if self.size > self.bytes_max {
            return Err(ImageError::unusable("a blob", format!("it is larger than {} MiB", self.bytes_max >> 20)));
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(ImageError::io("write", self.file.path()))
    }

    /// Makes the blob durable under its digest, which must be the expected one if there is one. Returns the digest.
    pub(crate) fn finish(self, expected: Option<&str>) -> Result<String, ImageError> {
        let found = format!("sha256:{:x}", self.hasher.finalize());
        let path = self.folder.join(found.trim_start_matches("sha256:"));
        if let Some(expected) = expected.filter(|expected| **expected != *found) {
            return Err(ImageError::Damaged { path, expected: expected.to_owned(), found });
        }
        let persist = || -> std::io::Result<()> {
            self.file.as_file().sync_all()?;
            self.file.persist(&path)?;
            std::fs::File::open(&self.folder).and_then(|folder| folder.sync_all()).or(Ok(()))
        };
        persist().map_err(ImageError::io("write", &path))?;
        Ok(found)
    }
}

/// Hands pieces from an asynchronous source to a thread that may block on files.
pub(crate) struct Feed {
    pieces: mpsc::Sender<Bytes>,
    written: JoinHandle<Result<Incoming, ImageError>>,
}

impl Feed {
    /// Goes on writing `incoming` in a thread of its own.
    pub(crate) fn new(mut incoming: Incoming) -> Self {
        let (pieces, mut queue) = mpsc::channel::<Bytes>(limits::PIECES_QUEUED_MAX);
        let written = tokio::task::spawn_blocking(move || {
            while let Some(piece) = queue.blocking_recv() {
                incoming.write(&piece)?;
            }
            Ok(incoming)
        });
        Self { pieces, written }
    }

    /// Waits for room. `false` when writing has failed; [`Feed::close`] says why.
    pub(crate) async fn push(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Waits until everything is written.
    pub(crate) async fn close(self) -> Result<Incoming, ImageError> {
        drop(self.pieces);
        self.written.await.map_err(|error| ImageError::unusable("a blob", error.to_string()))?
    }
}

impl Images {
    /// Waits until a blob is durable under its digest.
    pub(crate) async fn settle(incoming: Incoming, expected: Option<String>) -> Result<String, ImageError> {
        let finished = tokio::task::spawn_blocking(move || incoming.finish(expected.as_deref())).await;
        finished.map_err(|error| ImageError::unusable("a blob", error.to_string()))?
    }
}
