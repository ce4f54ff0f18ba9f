//! Bugs planted on purpose, to prove that the simulation would find them.
//!
//! Each names a mistake one could make in the place where [`planted`] is asked. In a build that ships the answer is a
//! constant no and the branch is gone. In the crate's own tests one bug at a time is switched on for one thread, which is
//! how `sim::planted_bugs_are_found` goes through the ledger in one build. Each is a cargo feature too, off by default,
//! which builds it in for everybody: `raft-store/planted` builds and tests with each of them. No feature can be part of
//! an optimised build.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("a planted bug must never be built into a release");

macro_rules! ledger {
    ($($(#[$doc:meta])* $bug:ident = $feature:literal,)*) => {
        /// The ledger: every bug here is found by `sim::planted_bugs_are_found`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            #[cfg(test)]
            pub(crate) const ALL: &[Bug] = &[$(Bug::$bug,)*];

            const fn is_built_in(self) -> bool {
                match self {
                    $(Bug::$bug => cfg!(feature = $feature),)*
                }
            }
        }
    };
}

ledger! {
    /// A batch counts as durable before it was written.
    AckBeforeFsync = "planted_ack_before_fsync",
    /// Votes and acknowledgements leave before what they promise is durable.
    MessagesBeforeFsync = "planted_messages_before_fsync",
    /// A failed sync is taken for a good one.
    SyncErrorIgnored = "planted_sync_error_ignored",
    /// Frames of an earlier use of a segment are read as new ones.
    LeftoversAccepted = "planted_leftovers_accepted",
    /// Frames that were never synced stay behind a torn tail.
    TornTailKept = "planted_torn_tail_kept",
    /// A log that lost durable frames opens as if they had never been.
    TruncatedTailAccepted = "planted_truncated_tail_accepted",
    /// The log is truncated up to what is applied, not what is checkpointed.
    TruncatedAboveCheckpoint = "planted_truncated_above_checkpoint",
    /// The applied index is written in another transaction than the keys.
    IndexApart = "planted_index_apart",
    /// Changes from before a received snapshot are checkpointed after it.
    OldDeltaKept = "planted_old_delta_kept",
    /// The log goes on behind a received snapshot before that is durable.
    InstallNotAwaited = "planted_install_not_awaited",
    /// A snapshot older than the state replaces it.
    StaleSnapshotAccepted = "planted_stale_snapshot_accepted",
    /// A restart takes the membership from the configuration.
    MembershipFromConfig = "planted_membership_from_config",
    /// Founders do not count their membership as an entry, so a joiner never learns of it.
    FoundersUncounted = "planted_founders_uncounted",
    /// A repeated proposal is applied again.
    DuplicatesApplied = "planted_duplicates_applied",
    /// The memory of applied proposals is not checkpointed.
    SessionsForgotten = "planted_sessions_forgotten",
    /// A leader answers reads without asking whether it still leads.
    ReadsUnconfirmed = "planted_reads_unconfirmed",
    /// A new leader answers reads before it has committed an entry of its own term.
    ReadsWithoutTermGate = "planted_reads_without_term_gate",
    /// A watch skips what was compacted instead of ending.
    CompactionPastWatcher = "planted_compaction_past_watcher",
    /// A member that forgot its promises goes on under its old number.
    NumberKept = "planted_number_kept",
    /// A member whose state differs from the others' believes itself.
    DivergenceIgnored = "planted_divergence_ignored",
}

/// Whether the bug is switched on.
#[cfg(not(test))]
pub(crate) const fn planted(bug: Bug) -> bool {
    bug.is_built_in()
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
        ACTIVE.get() == Some(bug) || bug.is_built_in()
    }

    /// Runs `work` with the bug switched on.
    pub(crate) fn with_bug<T>(bug: Bug, work: impl FnOnce() -> T) -> T {
        ACTIVE.set(Some(bug));
        let done = work();
        ACTIVE.set(None);
        done
    }
}
