//! Every bound of the drivers, with its reason.

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
