//! How failures of the store are told: once, here.

use api::Status;
use raft_store::StoreError;

/// Why the door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store did not give its content away.
    #[error("the cluster's state cannot be read: {0}")]
    Load(Status),
    /// What the store has under this key is not an object.
    #[error("the stored object {0} is damaged")]
    Damaged(String),
}

/// What a refusal of the store means to a client.
pub(crate) fn refused(error: &StoreError) -> Status {
    match error {
        StoreError::Invalid(_) => Status::internal(error),
        StoreError::Compacted { .. } | StoreError::Future { .. } => Status::expired(error.to_string()),
        StoreError::Timeout => Status::timeout(error.to_string(), 1),
        StoreError::NotLeader { .. } | StoreError::Busy(_) | StoreError::DiskFull | StoreError::Stopped(_) => {
            let mut status = Status::unavailable(error.to_string());
            status.retry_after_seconds = 1;
            status
        }
    }
}
