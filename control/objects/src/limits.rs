//! Every bound of this crate, with its reason.

use std::time::Duration;

/// How many changes the ring keeps. A watcher that is further behind lists again (410).
/// 32,768 changes are a rollout of some thousand pods; each entry is one pointer.
pub(crate) const RING_CHANGES_MAX: usize = 32_768;

/// How many encoded bytes of objects the changes in the ring may keep alive; decoded, an object takes some five times
/// as much.
pub(crate) const RING_BYTES_MAX: usize = 16 << 20;

/// How often the picture gives up the decoded forms that nobody has looked at since the last time. A look at one object
/// in a thousand decodes it anew, in some 50 µs.
pub(crate) const REST_EVERY: Duration = Duration::from_secs(3);

/// After how many changes they are given up at once: a node that fills with pods changes thousands in a second, and each
/// of them is looked at for a moment by the scheduler and the controllers.
pub(crate) const REST_AFTER: usize = 4096;

/// How many changes one call of `Changes::next` hands out at most, but for the rest of a revision: a watcher never
/// holds the ring's lock for long.
pub(crate) const BATCH_CHANGES_MAX: usize = 256;

/// How often a write is planned anew when somebody else wrote first. Upstream's patch handler retries 5 times;
/// 8 lets a handful of managers of one object meet.
pub(crate) const ATTEMPTS_MAX: usize = 8;

/// Over how many locks writers that met on one object are spread: enough that strangers seldom wait for each other.
pub(crate) const MEETINGS: usize = 64;

/// Largest encoded object: etcd's default `--max-request-bytes`, which tools in the field know.
pub(crate) const OBJECT_BYTES_MAX: usize = 1_572_864;

/// How long a read waits for a revision that this member has not reached. kube-apiserver waits 3 s, then answers
/// 504 with a cause that tells clients to try again in a second.
pub(crate) const REVISION_WAIT: Duration = Duration::from_secs(3);

/// How long a write waits for the member's own view after the store has taken it. The write is done by then; only
/// a stuck follower makes this long.
pub(crate) const WRITE_WAIT: Duration = Duration::from_secs(10);

/// How many pictures are kept for continue tokens. A picture shares all that did not change since.
pub(crate) const RETAINED_VIEWS_MAX: usize = 256;

/// How long a picture is kept for continue tokens: etcd's compaction interval under kube-apiserver is 5 minutes.
pub(crate) const RETAINED_VIEW_AGE: Duration = Duration::from_secs(6 * 60);

/// How many `Update` entries `managedFields` keeps; older ones are merged into `ancient-changes`, as upstream does.
pub(crate) const UPDATE_MANAGERS_MAX: usize = 10;

/// How long an Event is kept: kube-apiserver's `--event-ttl`.
pub(crate) const EVENT_TTL_MS: i64 = 60 * 60 * 1000;

/// Longest message of an Event, as upstream validates it.
pub(crate) const EVENT_MESSAGE_MAX: usize = 1_024;

/// How many objects one page of the first load reads from the store.
pub(crate) const LOAD_PAGE: usize = 1_000;

/// How many objects of a collection are deleted at one time: enough to share the store's disk flushes.
pub(crate) const DELETIONS_AT_ONCE: usize = 32;

/// When an eviction may be tried again while its budget is being counted, in seconds; upstream says 10.
pub(crate) const BUDGET_RETRY_SECONDS: u32 = 10;

/// From how many free addresses more a writer chooses each time that another member took its choice.
pub(crate) const ALLOCATION_SPREAD: usize = 8;

/// How many questions one write may put to webhooks: some fifty of them, again for each time that somebody else wrote
/// first, and far fewer than a loop would.
pub(crate) const QUESTIONS_MAX: usize = 256;
