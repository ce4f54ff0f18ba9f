//! A whole state as a stream of verified chunks: between members, and to and from a file.
//!
//! ```text
//! stream = "KGSNAP" 0 1 · chunk* · end
//! chunk  = length u32 (above 0) · crc32c u32 of the rows · row*
//! row    = 1 · head | 2 · key bytes · create u64 · mod u64 · value bytes | 3 · revision u64 · history row
//! end    = length u32 (0) · rows u32
//! ```
//!
//! The head comes first. A state is given out only when every chunk checks, the count of rows is right and the keys add
//! up to the hash in the head.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::checkpoint::{
    Checkpoint, CheckpointError, decode_history, decode_live, encode_head, encode_history, encode_live,
};
use crate::codec::{Malformed, Reader, Writer};
use crate::disk::Disk;
use crate::error::{OpenError, StoreError};
use crate::limits::{SNAPSHOT_CHUNK_BYTES, WIRE_FRAME_BYTES_MAX};
use crate::log::Identity;
use crate::mvcc::{KeyValue, Mvcc, Revision};
use crate::offline;
use crate::state::{Head, State};
use crate::store::Store;

const MAGIC: &[u8; 8] = b"KGSNAP\0\x01";

/// A snapshot file could not be written, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file is cut short, changed, or no snapshot.
    #[error("the file is no complete snapshot")]
    Malformed,
    /// A snapshot is restored into an empty directory only.
    #[error("{0} is not empty; a snapshot is restored into an empty directory")]
    NotEmpty(PathBuf),
    /// No member has ever been opened there.
    #[error("there is no store in {0}")]
    NoStore(PathBuf),
    /// The directory is in use or damaged.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The member could not give its state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The checkpoint could not be written.
    #[error("cannot write the checkpoint: {0}")]
    Checkpoint(String),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Malformed> for SnapshotError {
    fn from(_: Malformed) -> Self {
        SnapshotError::Malformed
    }
}

impl From<CheckpointError> for SnapshotError {
    fn from(error: CheckpointError) -> Self {
        SnapshotError::Checkpoint(error.to_string())
    }
}

/// What a snapshot file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// The latest revision in it.
    pub revision: u64,
    /// The oldest revision that can be read from it.
    pub oldest_revision: u64,
    /// Keys that exist.
    pub keys: usize,
    /// Index of the last log entry in it.
    pub applied: u64,
    /// Hash of the state.
    pub hash: u64,
}

impl SnapshotStatus {
    pub(crate) fn of(state: &State) -> SnapshotStatus {
        SnapshotStatus {
            revision: state.mvcc.revision(),
            oldest_revision: state.mvcc.floor(),
            keys: state.mvcc.keys(),
            applied: state.index,
            hash: state.fingerprint(),
        }
    }

    /// Reads and verifies a whole snapshot file.
    pub fn read(path: &Path) -> Result<SnapshotStatus, SnapshotError> {
        Ok(SnapshotStatus::of(&read_file(path)?))
    }
}

impl Store {
    /// Writes everything this member has applied to a new file, which is complete and durable when this returns.
    pub async fn save_snapshot(&self, path: PathBuf) -> Result<SnapshotStatus, SnapshotError> {
        let state = self.capture().await?;
        let saved = tokio::task::spawn_blocking(move || save_file(&state, &path));
        saved.await.map_err(|panic| SnapshotError::Io(io::Error::other(panic)))?
    }

    /// Fills an empty directory from a snapshot file, for a member that is the whole cluster from then on. What was
    /// acknowledged after the snapshot was saved is not in it, and members of the old cluster must not run on.
    pub fn restore_snapshot(
        file: &Path,
        data_dir: PathBuf,
        member_id: u64,
        cluster_id: u64,
    ) -> Result<SnapshotStatus, SnapshotError> {
        let mut state = read_file(file)?;
        state.membership = offline::alone(&state.membership, member_id);
        let disk: Arc<dyn Disk> = Arc::new(offline::lock(&data_dir)?);
        if disk.names()?.iter().any(|name| name != "lock") {
            return Err(SnapshotError::NotEmpty(data_dir));
        }
        let identity = Identity { member: member_id, cluster: cluster_id };
        let (mut checkpoint, ..) = Checkpoint::open(disk, identity, &state.membership, false)?;
        checkpoint.install(&state)?;
        Ok(SnapshotStatus::of(&state))
    }
}

pub(crate) fn save_file(state: &State, path: &Path) -> Result<SnapshotStatus, SnapshotError> {
    let partial = path.with_extension("partial");
    let mut file = BufWriter::new(File::create(&partial)?);
    file.write_all(MAGIC)?;
    for chunk in chunks(state) {
        file.write_all(&chunk)?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&partial, path)?;
    Ok(SnapshotStatus::of(state))
}

fn read_file(path: &Path) -> Result<State, SnapshotError> {
    let mut file = BufReader::new(File::open(path)?);
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(cut_short)?;
    if magic != *MAGIC {
        return Err(SnapshotError::Malformed);
    }
    let mut assembly = Assembly::default();
    loop {
        let mut head = [0; CHUNK_HEAD_BYTES];
        file.read_exact(&mut head).map_err(cut_short)?;
        let mut rows = vec![0; chunk_length(&head)?];
        file.read_exact(&mut rows).map_err(cut_short)?;
        if let Some(state) = assembly.add(&head, rows.into())? {
            return Ok(state);
        }
    }
}

fn cut_short(error: io::Error) -> SnapshotError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Malformed,
        _ => SnapshotError::Io(error),
    }
}

/// Bytes before the rows of a chunk.
pub(crate) const CHUNK_HEAD_BYTES: usize = 8;

/// How many bytes of rows follow the head of a chunk.
pub(crate) fn chunk_length(head: &[u8; CHUNK_HEAD_BYTES]) -> Result<usize, Malformed> {
    let length = Reader::copy(head).u32()? as usize;
    if length > WIRE_FRAME_BYTES_MAX { Err(Malformed) } else { Ok(length) }
}

/// The chunks of a state, the end included, made one at a time.
pub(crate) fn chunks(state: &State) -> impl Iterator<Item = Vec<u8>> + Send + use<> {
    let head = std::iter::once(row(1, |w| w.0.extend(encode_head(state))));
    let mvcc = state.mvcc.clone();
    let keys: Vec<Arc<KeyValue>> = mvcc.live().cloned().collect();
    let history: Vec<Arc<Revision>> = mvcc.history().cloned().collect();
    let keys = keys.into_iter().map(|kv| {
        row(2, |w| {
            w.bytes(&kv.key);
            w.0.extend(encode_live(&kv));
        })
    });
    let history = history.into_iter().map(|past| {
        row(3, |w| {
            w.u64(past.revision);
            w.0.extend(encode_history(&past));
        })
    });
    let mut rows = head.chain(keys).chain(history);
    let mut count = 0;
    let mut ended = false;
    std::iter::from_fn(move || {
        let mut body = Vec::new();
        while body.len() < SNAPSHOT_CHUNK_BYTES {
            let Some(row) = rows.next() else { break };
            count += 1;
            body.extend(row);
        }
        if body.is_empty() && std::mem::replace(&mut ended, true) {
            return None;
        }
        let mut w = Writer::default();
        w.count(body.len());
        w.u32(if body.is_empty() { count } else { crc32c::crc32c(&body) });
        w.0.extend(body);
        Some(w.0)
    })
}

fn row(kind: u8, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    w.u8(kind);
    fill(&mut w);
    w.0
}

/// A state as its chunks arrive.
#[derive(Default)]
pub(crate) struct Assembly {
    head: Option<Head>,
    live: Vec<KeyValue>,
    history: Vec<Revision>,
    rows: u32,
}

impl Assembly {
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// Takes a chunk; the state, once the end was taken and everything adds up.
    pub(crate) fn add(&mut self, head: &[u8; CHUNK_HEAD_BYTES], rows: Bytes) -> Result<Option<State>, Malformed> {
        let mut h = Reader::copy(head);
        let (length, check) = (h.u32()? as usize, h.u32()?);
        if length != rows.len() {
            return Err(Malformed);
        }
        if rows.is_empty() {
            let head = self.head.take().filter(|_| check == self.rows).ok_or(Malformed)?;
            let (live, history) = (std::mem::take(&mut self.live), std::mem::take(&mut self.history));
            let mvcc = Mvcc::restore(live.into_iter(), history, head.floor, head.revision)?;
            return head.complete(mvcc).map(Some);
        }
        if crc32c::crc32c(&rows) != check {
            return Err(Malformed);
        }
        let mut r = Reader::new(rows);
        while !r.is_empty() {
            self.rows += 1;
            match (r.u8()?, self.head.is_some()) {
                (1, false) => self.head = Some(State::decode_head(&mut r)?),
                (2, true) => {
                    let key = Bytes::copy_from_slice(&r.bytes()?);
                    let kv = decode_live(key, &mut r)?;
                    // A copy: a slice would keep the whole chunk in memory.
                    self.live.push(KeyValue { value: Bytes::copy_from_slice(&kv.value), ..kv });
                }
                (3, true) => {
                    let revision = r.u64()?;
                    self.history.push(decode_history(revision, &mut r)?);
                }
                _ => return Err(Malformed),
            }
        }
        Ok(None)
    }
}
