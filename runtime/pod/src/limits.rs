//! Every bound of this crate, with its reason. Times are the kubelet's, so that dashboards and habits stay true.

/// First wait between a crash and the second restart, and between two pulls.
pub const BACKOFF_INITIAL_MS: i64 = 10_000;

/// Longest such wait.
pub const BACKOFF_MAX_MS: i64 = 300_000;

/// A container that ran this long starts with a clean record: twice the longest wait.
pub const BACKOFF_RESET_MS: i64 = 2 * BACKOFF_MAX_MS;

/// How long a failed pull is shown as `ErrImagePull` before it is shown as `ImagePullBackOff`.
pub const PULL_ERROR_SHOWN_MS: i64 = 2_000;

/// Wait before a container whose configuration was incomplete is tried again: people are waiting for it.
pub const START_RETRY_MS: i64 = 10_000;

/// What a container has after its `preStop` hook at the least, even where the hook took all of the grace (the kubelet's).
pub const GRACE_AFTER_HOOK_MS: i64 = 2_000;

/// Longest termination message in bytes (Kubernetes' own bound).
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// First wait after a pod's address or volumes could not be had, doubling to [`START_RETRY_MS`]: what belongs to a new
/// namespace comes a moment after it.
pub const GROUND_RETRY_MS: i64 = 500;

/// `terminationGracePeriodSeconds` when the pod does not say.
pub const GRACE_SECONDS: i64 = 30;

/// What the containers of a pod that is evicted for its use of the disk have to end (the kubelet's).
pub const EVICTION_GRACE_MS: i64 = 1_000;
