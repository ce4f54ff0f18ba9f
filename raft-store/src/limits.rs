//! Every bound of this crate, with its reason.
//!
//! A bound that is reached has a documented answer: refuse with a typed error, wait, or drop what the protocol repeats.

use std::time::Duration;

/// Longest key in bytes: a Kubernetes path is below 700, so 4 KiB leaves room and keeps the index small.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Longest value in bytes: Kubernetes accepts requests up to 3 MiB.
pub const VALUE_BYTES_MAX: usize = 3 << 20;
/// Keys and values of one transaction, in bytes: one value of full size beside its compares.
pub const TXN_BYTES_MAX: usize = 4 << 20;
/// Compares plus writes of one transaction: it is applied while every other request waits.
pub const TXN_OPERATIONS_MAX: usize = 1024;

/// History younger than this is kept while it fits [`HISTORY_BYTES_MAX`]: a watcher may be away for five minutes.
pub const HISTORY_MS: u64 = 5 * 60 * 1000;
/// Bytes of history kept in memory and in the checkpoint; beyond it the oldest revisions go, however young.
pub const HISTORY_BYTES_MAX: usize = 64 << 20;
/// Changes one call of a watch returns at most, unless a single revision holds more: bounds what a caller must hold.
pub const WATCH_CHANGES_MAX: usize = 1024;

/// Requests of clients inside a member at one time; further callers wait for a place.
pub const REQUESTS_MAX: usize = 4096;
/// Messages from peers inside a member's inbox; a reader beyond it waits, and TCP makes the peer wait.
pub const PEER_INPUTS_MAX: usize = 1024;
/// Room of a member's inbox: all of the above and the reports of its own threads, so no sender ever blocks on it.
pub const INBOX_MAX: usize = REQUESTS_MAX + PEER_INPUTS_MAX + 256;
/// Inputs a member takes in one turn: bounds the time until the disk and the peers hear of the first of them.
pub const TURN_INPUTS_MAX: usize = 1024;
/// Turns of log writes waiting for the disk; beyond it the member waits, since nothing it could accept would be answered.
pub const LOG_QUEUE_MAX: usize = 256;
/// How long a proposal or a linearizable read is kept alive across elections before its caller is told.
pub const REQUEST_MS: u64 = 10_000;
/// Proposals whose fate a member may still ask about: duplicates older than this many sequence numbers are refused unseen.
pub const SESSION_WINDOW: usize = 2 * REQUESTS_MAX;

/// Bytes of entries put into one raft proposal: one append message, and one frame of the log.
pub const PROPOSAL_BYTES_MAX: usize = 1 << 20;
/// Bytes of entries accepted but not committed; beyond it proposals wait in the member.
pub const UNCOMMITTED_BYTES_MAX: u64 = 32 << 20;
/// Append messages in flight to one peer.
pub const INFLIGHT_MESSAGES_MAX: usize = 256;
/// Bytes of committed entries applied in one go, so that acknowledgements are not held up by a long catch-up.
pub const APPLY_BYTES_MAX: u64 = 4 << 20;

/// Size of one log segment: large enough to make rolling rare, small enough for a laptop's disk. The crate's own tests
/// use small ones, so that a short run rolls and recycles.
pub const SEGMENT_BYTES: u64 = if cfg!(test) { 32 << 10 } else { 16 << 20 };
/// Payload of one log frame; a segment holds at least one.
pub const FRAME_BYTES_MAX: usize = if cfg!(test) { 16 << 10 } else { 8 << 20 };
/// Truncated segments kept for reuse: overwriting allocated blocks is the fastest durable write there is.
pub const FREE_SEGMENTS_MAX: usize = 2;
/// A log that has been quiet for this long has its mark synced: one sync after each pause, none under load.
pub const MARK_MS: u64 = 200;
/// Entries kept below the checkpoint for peers that fell behind; a peer further back receives a snapshot. Few in the
/// crate's own tests, so that a short run sends snapshots.
pub const PEER_LAG_ENTRIES: u64 = if cfg!(test) { 16 } else { 4096 };
/// Bytes of those entries: they are held in memory.
pub const PEER_LAG_BYTES: usize = 32 << 20;

/// Changes wait at most this long for the checkpoint; the log covers them meanwhile. Its syncs compete with those of the
/// log, so seldom is better; a crash within it costs a replay of that much log. Shorter in the crate's own tests.
pub const CHECKPOINT_MS: u64 = if cfg!(test) { 500 } else { 2000 };
/// Changes of this many bytes start a checkpoint at once: many, since keys next to each other then share pages.
pub const CHECKPOINT_BYTES: usize = 32 << 20;
/// Changes waiting for the checkpoint; beyond it proposals wait, which bounds memory and the replay after a crash.
pub const CHECKPOINT_LAG_BYTES_MAX: usize = 128 << 20;
/// Memory the checkpoint's page cache may take: everything is answered from memory above it.
pub const CHECKPOINT_CACHE_BYTES: usize = 16 << 20;

/// Writes are refused while the file system has less than this left, so that what is accepted can be written.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;
/// Free space is asked for at most this often.
pub const DISK_CHECK_MS: u64 = 1000;

/// Members of one cluster, learners included.
pub const MEMBERS_MAX: usize = 9;
/// Entries a learner may be behind the leader and still be promoted.
pub const PROMOTE_LAG_ENTRIES: u64 = 1024;
/// Time between two comparisons of the members' states: each adds up every key on every member.
pub const HASH_CHECK_MS: u64 = if cfg!(test) { 2000 } else { 60_000 };
/// A member that begins anew repeats its wish this often, until it came true.
pub const PETITION_MS: u64 = 1000;

/// Length of one frame on the wire: a raft message carries at most one proposal group above the largest transaction.
pub const WIRE_FRAME_BYTES_MAX: usize = 16 << 20;
/// Messages queued towards one peer; further ones are dropped, which raft repairs.
pub const PEER_QUEUE_MAX: usize = 1024;
/// Small messages to a peer that wait are written together, up to this many bytes.
pub const PEER_WRITE_BYTES: usize = 64 << 10;
/// Bytes of one snapshot chunk, each with its own checksum.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// Snapshots received at one time: each is held in memory until it is complete.
pub const SNAPSHOTS_MAX: usize = 1;
/// Time to connect to a peer, and to hear from it while it sends a snapshot.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause before dialling a peer again; it doubles up to [`DIAL_PAUSE_MAX`].
pub const DIAL_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause before dialling a peer again.
pub const DIAL_PAUSE_MAX: Duration = Duration::from_secs(2);
/// An orderly stop waits this long for a successor to take over leadership.
pub const TRANSFER_MS: u64 = 1000;
