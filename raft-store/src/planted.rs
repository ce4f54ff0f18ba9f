//! Bugs planted on purpose, to prove that the simulation would find them.
//!
//! Each names a mistake one could make in the place where [`planted`] is asked. In a build that ships the answer is a
//! constant no and the branch is gone; in the crate's own tests one bug at a time is switched on for one thread.

/// The ledger: every bug here is found by `sim::planted_bugs_are_found`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A batch counts as durable before it was written.
    AckBeforeFsync,
    /// Votes and acknowledgements leave before what they promise is durable.
    MessagesBeforeFsync,
    /// A failed sync is taken for a good one.
    SyncErrorIgnored,
    /// Frames of an earlier use of a segment are read as new ones.
    LeftoversAccepted,
    /// Frames that were never synced stay behind a torn tail.
    TornTailKept,
    /// A log that lost durable frames opens as if they had never been.
    TruncatedTailAccepted,
    /// The log is truncated up to what is applied, not what is checkpointed.
    TruncatedAboveCheckpoint,
    /// The applied index is written in another transaction than the keys.
    IndexApart,
    /// Changes from before a received snapshot are checkpointed after it.
    OldDeltaKept,
    /// The log goes on behind a received snapshot before that is durable.
    InstallNotAwaited,
    /// A restart takes the membership from the configuration.
    MembershipFromConfig,
    /// Founders do not count their membership as an entry, so a joiner never learns of it.
    FoundersUncounted,
    /// A repeated proposal is applied again.
    DuplicatesApplied,
    /// The memory of applied proposals is not checkpointed.
    SessionsForgotten,
    /// A leader answers reads without asking whether it still leads.
    ReadsUnconfirmed,
    /// A watch skips what was compacted instead of ending.
    CompactionPastWatcher,
}

/// Whether the bug is switched on.
#[cfg(not(test))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

#[cfg(test)]
pub(crate) use active::{planted, with_bug};

#[cfg(test)]
mod active {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        ACTIVE.get() == Some(bug)
    }

    /// Runs `work` with the bug switched on.
    pub(crate) fn with_bug<T>(bug: Bug, work: impl FnOnce() -> T) -> T {
        ACTIVE.set(Some(bug));
        let done = work();
        ACTIVE.set(None);
        done
    }
}
