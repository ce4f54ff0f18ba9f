//! Every bound of the drivers, with its reason.

use std::time::Duration;

/// Controller turns that run at the same time. Turns wait for the disk, so there are more than processors; each may
/// hold a view and its actions, so there are not thousands.
pub(crate) const TURNS_MAX: usize = 64;

/// Writes of one turn on their way at the same time: enough to share the store's disk flushes.
pub(crate) const WRITES_MAX: usize = 32;

/// Scheduling decisions on their way at the same time, for the same reason.
pub(crate) const BINDS_MAX: usize = 64;

/// The first pause after a turn that failed; doubled with each further failure.
pub(crate) const RETRY_MIN_MS: u64 = 10;

/// The longest pause after a turn that failed. A remedy that is a change wakes the key at once; this is for remedies
/// that are not, such as a store that answers again.
pub(crate) const RETRY_MAX_MS: u64 = 30_000;

/// How often a member renews its Lease, as kube-apiserver does (KEP-1965).
pub(crate) const MEMBER_LEASE_RENEW: Duration = Duration::from_secs(10);

/// How long a member's Lease stands, in seconds: a member that was not seen for longer is not added to the store's
/// membership because of it.
pub(crate) const MEMBER_LEASE_SECONDS: i32 = 60;

/// How soon something about the membership is tried again that cannot be done yet, such as the promotion of a learner
/// that still catches up: a join takes a few of these.
pub(crate) const MEMBER_RETRY: Duration = Duration::from_millis(20);

/// How long the duties of a leader may take to end after its term; then they are broken off.
pub(crate) const TERM_END_MAX: Duration = Duration::from_secs(1);

/// How often certificate requests and bootstrap tokens that are over are looked for.
pub(crate) const TIDY_EVERY: Duration = Duration::from_secs(60);

/// How long a certificate request is kept that was answered (csrcleaner: one hour).
pub(crate) const REQUEST_DONE_KEPT_MS: i64 = 60 * 60 * 1000;

/// How long a certificate request is kept that nobody answers (csrcleaner: one day).
pub(crate) const REQUEST_PENDING_KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// By how much the two clocks of a machine must part before it counts as a pause: more than clocks are adjusted by, less
/// than any grace period that a pause would use up.
pub(crate) const PAUSE_MIN_MS: u64 = 5_000;
