//! What can go wrong, named by what the caller can do about it.
//!
//! One enum per boundary: opening a member, asking the store, following a watch. Nothing here knows raft, redb or HTTP.

use std::io;

/// A member could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the directory.
    #[error("the store in {0} is in use by another process")]
    InUse(String),
    /// The directory belongs to another member or another cluster.
    #[error(
        "the store belongs to member {found_member} of cluster {found_cluster:x}, not to member {member} of cluster {cluster:x}"
    )]
    Foreign {
        /// The member asked for.
        member: u64,
        /// The cluster asked for.
        cluster: u64,
        /// The member the directory was written by.
        found_member: u64,
        /// The cluster the directory was written for.
        found_cluster: u64,
    },
    /// Bytes that were durable are gone or changed. The member must not serve from them.
    #[error("the store is damaged: {what}. {remedy}")]
    Damaged {
        /// What was found.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another version of the program wrote it, in a form this one does not know.
    #[error("the store was written by another version of the program")]
    Version,
    /// The configuration contradicts itself.
    #[error("{0}")]
    Config(&'static str),
    /// The operating system refused.
    #[error("cannot open the store: {0}")]
    Io(#[from] io::Error),
}

/// A request was not carried out, or its outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The request itself is wrong: repeating it will not help.
    #[error("{0}")]
    Invalid(String),
    /// The revision is older than the history kept: list again.
    #[error("revision {asked} is compacted; the oldest kept is {oldest}")]
    Compacted {
        /// The revision asked for.
        asked: u64,
        /// The oldest revision that can be read.
        oldest: u64,
    },
    /// The revision does not exist yet.
    #[error("revision {asked} is in the future; the latest is {latest}")]
    Future {
        /// The revision asked for.
        asked: u64,
        /// The latest revision.
        latest: u64,
    },
    /// Only the leader does this: ask it.
    #[error("this member is not the leader")]
    NotLeader {
        /// The leader, where known.
        leader: Option<u64>,
    },
    /// Something must finish first: repeat later.
    #[error("{0}")]
    Busy(&'static str),
    /// No answer in time. A write may or may not take effect.
    #[error("no answer from the cluster in time; a write may still take effect")]
    Timeout,
    /// The disk is full: reads go on, writes are accepted again once there is space.
    #[error("the disk of the store is full; reads go on, writes are refused until space returns")]
    DiskFull,
    /// The member has stopped; open it again.
    #[error("the store has stopped: {0}")]
    Stopped(String),
}

/// Why a watch ended. A new one can be started from a fresh list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cancelled {
    /// The first revision wanted is no longer kept.
    #[error("revision {from} is no longer kept; the oldest is {oldest}")]
    TooOld {
        /// The revision the watch wanted next.
        from: u64,
        /// The oldest revision a watch can start from.
        oldest: u64,
    },
    /// The watcher was slower than the history is long.
    #[error("the watcher fell behind the history kept (wanted {from}, oldest is {oldest})")]
    Lagging {
        /// The revision the watch wanted next.
        from: u64,
        /// The oldest revision a watch can start from.
        oldest: u64,
    },
    /// The member has stopped.
    #[error("the store has stopped")]
    Stopped,
}

/// A watch could not be started.
pub type WatchError = Cancelled;
