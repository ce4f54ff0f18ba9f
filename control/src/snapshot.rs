//! The running store as a snapshot file's bytes: what `GET /kogia/snapshot` streams.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::Status;
use futures::{StreamExt, TryStreamExt};
use http_api::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use raft_store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::io::ReaderStream;

/// Saves one snapshot at a time into a file beside the store and streams it from there.
#[derive(Clone)]
pub(crate) struct Snapshots {
    store: Store,
    file: PathBuf,
    turn: Arc<Semaphore>,
}

/// The file of a snapshot that is being read; it goes with its reader.
struct Held {
    file: PathBuf,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Snapshots {
    pub(crate) fn new(store: Store, data_dir: &Path) -> Self {
        Self { store, file: data_dir.join("snapshot.part"), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Everything the store holds now.
    ///
    /// # Errors
    /// Somebody else is reading one (429), or it cannot be written (500).
    pub(crate) async fn stream(self) -> Result<Body, Status> {
        let turn = self.turn.try_acquire_owned();
        let turn = turn.map_err(|_| Status::too_many_requests("another snapshot is being read", 1))?;
        let held = Held { file: self.file.clone(), _turn: turn };
        // Left by a process that was killed while somebody read.
        let _ = std::fs::remove_file(&self.file);
        self.store.save_snapshot(self.file.clone()).await.map_err(Status::internal)?;
        let file = tokio::fs::File::open(&self.file).await.map_err(Status::internal)?;
        let frames = ReaderStream::new(file).map_ok(Frame::data).map_err(Into::into);
        let frames = frames.inspect(move |_| {
            let _ = &held;
        });
        Ok(UnsyncBoxBody::new(StreamBody::new(frames).boxed_unsync()))
    }
}
