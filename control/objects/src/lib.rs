//! The one door to state: whoever wants to read or change the cluster's objects comes through here.
//!
//! Reads are answered from an immutable [`View`] that follows the store. A write is a pure decision over a view (what
//! Kubernetes' rules make of the request) followed by one transaction of the store; it is answered once this member's
//! own view has it, so that everybody reads their own writes. Nothing here knows HTTP, and nobody else knows the store.
//!
//! # Layout
//! * [`request`]: what callers say and hear. `verbs`: create, update, patch, delete. `commands`: binding, eviction,
//!   actions of drivers.
//! * `door`: decide, write, wait. `plan`: the decisions. `life`: metadata, generation, deletion. `admission`,
//!   `allocate`: what the cluster decides. `asked`: a write as others are told of it; `policies`, `webhooks`: those others.
//!   `scale`, `events`: other shapes of the same state.
//! * `fields`, `shape`, `apply`, `managed`: server-side apply and `managedFields`.
//! * `cache`: the view and its follower. `definitions`: which resources it makes. [`changes`]: the ring that watchers read.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use api::catalog::Catalog;
use api::{Status, View};
use raft_store::Store;

mod admission;
mod allocate;
mod apply;
mod asked;
mod cache;
pub mod changes;
mod cluster_ips;
mod commands;
mod definitions;
mod door;
mod error;
mod events;
mod fields;
mod life;
mod limits;
mod managed;
mod plan;
mod policies;
pub mod request;
mod scale;
mod shape;
mod verbs;
mod webhooks;

#[cfg(test)]
mod scenarios;

pub use admission::CLUSTER;
pub use api::check::Validation;
pub use changes::{Changes, ChangesEnd};
pub use error::OpenError;
pub use request::{DeleteOptions, Deleted, Patch, Propagation, User, WriteOptions, Written};
pub use scale::scale_of;
pub use webhooks::{Call as WebhookCall, Caller as WebhookCaller, Place as WebhookPlace};

use cache::Cache;
use door::Door;

/// The door. Cloning it is cheap; all clones are the same door.
#[derive(Clone)]
pub struct Objects {
    door: Arc<Door>,
}

impl Objects {
    /// Loads the whole state and follows the store from there until it closes.
    ///
    /// # Errors
    /// When the store does not answer or holds something that is not an object.
    pub async fn open(store: Store) -> Result<Self, OpenError> {
        let cache = Cache::open(&store).await?;
        Ok(Self { door: Arc::new(Door::new(store, cache)) })
    }

    /// Says how webhooks are called. Until then those that must be asked cannot be, and what they guard is refused.
    /// Only the first caller counts.
    pub fn call_webhooks_by(&self, caller: WebhookCaller) {
        let _ = self.door.webhooks.set(caller);
    }

    /// The resources that are served: Kubernetes' own and those that definitions established by now.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.door.cache.catalog()
    }

    /// The latest picture this member has. It holds every write that was acknowledged through this door.
    #[must_use]
    pub fn view(&self) -> View {
        self.door.cache.view()
    }

    /// A picture no older than `revision`.
    ///
    /// # Errors
    /// 504 with the cause `ResourceVersionTooLarge` when this member does not get there in time.
    pub async fn view_at_least(&self, revision: u64) -> Result<View, Status> {
        self.door.cache.read_at_least(revision).await
    }

    /// A picture that holds every write acknowledged before the call, on any member.
    ///
    /// # Errors
    /// 503 or 504 when no majority of the members answers.
    pub async fn fresh_view(&self) -> Result<View, Status> {
        self.door.fresh_view().await
    }

    /// The picture at exactly `revision`: the latest, or one that was kept.
    ///
    /// # Errors
    /// 410 when it is kept no more.
    pub fn view_at(&self, revision: u64) -> Result<View, Status> {
        self.door.cache.view_at(revision)
    }

    /// Keeps a picture for continue tokens, for five minutes at least while fewer than 256 others are kept.
    pub fn retain(&self, view: &View) {
        self.door.cache.retain(view);
    }

    /// A cursor over everything that happens after `revision`.
    ///
    /// # Errors
    /// 410 when some of that is no longer known.
    pub fn changes(&self, revision: u64) -> Result<Changes, Status> {
        self.door.cache.changes(revision)
    }
}

/// Milliseconds since the epoch.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
