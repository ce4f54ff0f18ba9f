//! A replicated, watchable, multi-version store of bytes: the memory of a cluster.
//!
//! Keys and values are bytes; the crate knows nothing of what they mean. Every successful transaction takes one revision
//! of one counter, the same on every member. An acknowledged write is durable on a majority and survives any crash.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use raft_store::{Compare, Config, Range, Store, Target, Txn, put};
//!
//! let store = Store::open(Config::single("/tmp/store")).await?;
//! let create = Txn {
//!     compares: vec![Compare { key: "a".into(), target: Target::Exists(false) }],
//!     then: vec![put("a", "1")],
//! };
//! assert!(store.txn(create).await?.succeeded);
//! assert_eq!(store.range(Range::prefix("a")).await?.items.len(), 1);
//! store.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Members
//!
//! Every member takes writes and linearizable reads; one that follows passes them on to the leader and repeats them across
//! elections. Changes of membership may be asked of any member as well ([`Store::change_members`]): add a learner, promote
//! it once it has caught up, remove or replace a member. [`Store::close`] hands leadership over before it ends;
//! [`Store::transfer_leader`] does so on demand. Who leads is part of [`Store::status`], and [`Store::wait_for`] waits for
//! it to change. A member whose memory turns out to be damaged begins anew under another number by itself
//! ([`StoreStatus::healing`]), which is therefore read from the status and never assumed.
//!
//! # Layout
//!
//! Pure: `command`, `state`, `mvcc`, `watch`, `requests`, `tail`, `member`. Blocking: `disk`, `log`, `checkpoint`,
//! `recovery`, `roster`, `snapshot`, `offline`. Tasks and threads: `driver`, `life`, `store`, `transport`. raft's and redb's types stay
//! inside.
#![forbid(unsafe_code)]

mod checkpoint;
mod codec;
mod command;
mod disk;
mod driver;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod life;
pub mod limits;
mod log;
mod member;
mod mvcc;
mod offline;
mod planted;
mod recovery;
mod requests;
mod roster;
#[cfg(test)]
#[path = "../tests/it/sim/mod.rs"]
mod sim;
mod snapshot;
mod state;
mod store;
mod tail;
mod trace;
mod transport;
mod watch;

/// The program's allocator, since a simulated hour is mostly memory.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub use command::{Compare, Target, Txn, TxnReply, Write};
pub use error::{Cancelled, OpenError, StoreError, WatchError};
pub use member::MemberChange;
pub use mvcc::{Consistency, KeyValue, Range, RangeReply};
pub use snapshot::{SnapshotError, SnapshotStatus};
pub use store::{Config, MemberStatus, Store, StoreStatus, Watch, put};
pub use transport::TransportConfig;
pub use watch::{ChangeRecord, WatchRequest};
