//! The write path: decide from the picture, write with a precondition, answer when the picture has it.
//!
//! Every write is a pure decision over a [`View`] followed by one transaction. If somebody else wrote first, the
//! decision is made anew from the new picture, a bounded number of times. A decision that writes nothing (a refusal, an
//! object that is as it should be) is checked against a fresh picture before it is given.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use api::{Key, Object, Status, View, kinds::Resource};
use bytes::Bytes;
use raft_store::{Compare, Store, Target, Txn, Write};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use crate::admission::quota;
use crate::allocate;
use crate::cache::Cache;
use crate::error::refused;
use crate::limits::{ATTEMPTS_MAX, MEETINGS, OBJECT_BYTES_MAX, WRITE_WAIT};

/// What is to be written, decided from one picture.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Nothing: the object is as it should be.
    Keep(Arc<Object>),
    /// A new object (`base` is `None`) or a new version of `base`.
    Put {
        /// Where.
        key: Key,
        /// The version that the value was made from.
        base: Option<Arc<Object>>,
        /// The whole object.
        value: Value,
        /// What is written with it or not at all: the quotas that it counts in.
        beside: Vec<Beside>,
    },
    /// The end of `base`.
    Remove {
        /// The version that is removed.
        base: Arc<Object>,
        /// Its last state.
        last: Value,
    },
}

/// Another object's new version, written in the same transaction.
#[derive(Debug)]
pub(crate) struct Beside {
    /// The version that it was made from.
    pub(crate) base: Arc<Object>,
    /// The whole object.
    pub(crate) value: Value,
}

/// What became of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Unchanged,
    Created,
    Changed,
    Removed,
}

/// A decision that was carried out.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) object: Arc<Object>,
    pub(crate) effect: Effect,
}

/// What a writer holds while it is its turn.
pub(crate) struct Turn<'a> {
    _allocation: Option<MutexGuard<'a, ()>>,
    _quota: Option<MutexGuard<'a, ()>>,
}

/// The way in.
pub(crate) struct Door {
    pub(crate) store: Store,
    pub(crate) cache: Cache,
    /// Writes that may take an address or a port take turns on this member, so that they do not all reach for the
    /// same one. Between members the transaction's compare decides.
    allocation: Mutex<()>,
    /// Creations that count in quotas take turns for each namespace: all of them write the same quota.
    quotas: [Mutex<()>; MEETINGS],
    /// Writers of one object that met each other take turns from then on, so that none of them starves.
    meetings: [Mutex<()>; MEETINGS],
}

impl Door {
    pub(crate) fn new(store: Store, cache: Cache) -> Self {
        let locks = || [const { Mutex::const_new(()) }; MEETINGS];
        Self { store, cache, allocation: Mutex::default(), quotas: locks(), meetings: locks() }
    }

    /// The turn to write an object that may take an address or a port, or counts in quotas.
    pub(crate) async fn turn(&self, resource: &Resource, namespace: &str, counts: bool) -> Turn<'_> {
        let allocation = if allocate::may_claim(&resource.name) { Some(self.allocation.lock().await) } else { None };
        let counted = counts && quota::has_quotas(&self.cache.view(), namespace);
        let place = meeting(&Key::new(api::quota::QUOTAS, namespace, ""));
        let quota = if counted { Some(self.quotas[place].lock().await) } else { None };
        Turn { _allocation: allocation, _quota: quota }
    }

    /// A picture at least as new as every write that was acknowledged before the call, on any member.
    pub(crate) async fn fresh_view(&self) -> Result<View, Status> {
        let revision = self.store.read_index().await.map_err(|error| refused(&error))?;
        self.cache.read_at_least(revision).await
    }

    /// Decides and writes until nobody else wrote first.
    pub(crate) async fn transact(
        &self,
        dry_run: bool,
        mut decide: impl FnMut(&View) -> Result<Decision, Status> + Send,
    ) -> Result<Done, Status> {
        let mut view = self.cache.view();
        let mut checked = false;
        let mut contended = None;
        let mut turn = None;
        for _ in 0..ATTEMPTS_MAX {
            let decision = decide(&view);
            if !checked && leaves_unwritten(&decision) {
                let fresh = self.fresh_view().await?;
                checked = true;
                if fresh.revision() != view.revision() {
                    view = fresh;
                    continue;
                }
            }
            let decision = decision?;
            match self.carry_out(decision, dry_run).await? {
                Ok(done) => return Ok(done),
                Err(key) => {
                    if turn.is_none() {
                        turn = Some(self.meetings[meeting(&key)].lock().await);
                    }
                    contended = Some(key);
                }
            }
            (view, checked) = (self.fresh_view().await?, true);
        }
        let key = contended.ok_or_else(|| Status::unavailable("the cluster's state changes too fast"))?;
        Err(Status::modified(&key.resource, &key.name))
    }

    /// Writes a decision; the inner `Err` says that somebody else wrote first.
    async fn carry_out(&self, decision: Decision, dry_run: bool) -> Result<Result<Done, Key>, Status> {
        let (key, base, mut value, effect, beside) = match decision {
            Decision::Keep(object) => return Ok(Ok(Done { object, effect: Effect::Unchanged })),
            Decision::Put { key, base: None, value, beside } => (key, None, value, Effect::Created, beside),
            Decision::Put { key, base, value, beside } => (key, base, value, Effect::Changed, beside),
            Decision::Remove { base, last } => (base.key.clone(), Some(base), last, Effect::Removed, Vec::new()),
        };
        api::meta::metadata_mut(&mut value).remove("resourceVersion");
        let bytes = Bytes::from(value.to_string());
        if effect != Effect::Removed && bytes.len() > OBJECT_BYTES_MAX {
            return Err(Status::too_large(OBJECT_BYTES_MAX));
        }
        if dry_run {
            let revision = base.map_or_else(|| self.cache.view().revision(), |base| base.revision);
            return Ok(Ok(Done { object: Arc::new(Object::new(key, revision, value)), effect }));
        }
        let mut txn = transaction(&key, base.as_deref(), (effect != Effect::Removed).then_some((&value, bytes)));
        for other in beside {
            write_beside(&mut txn, other);
        }
        let reply = self.store.txn(txn).await.map_err(|error| refused(&error))?;
        if !reply.succeeded {
            return Ok(Err(key));
        }
        // The write is done whatever the wait says; without the picture the answer is made here.
        let view = self.cache.at_least(reply.revision, WRITE_WAIT).await.ok();
        let seen = view.as_ref().and_then(|view| view.at(&key)).filter(|object| object.revision == reply.revision);
        let object = seen.cloned().unwrap_or_else(|| Arc::new(Object::new(key, reply.revision, value)));
        Ok(Ok(Done { object, effect }))
    }
}

/// Where the writers of an object meet.
fn meeting(key: &Key) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % MEETINGS as u64).unwrap_or_default()
}

/// Whether no transaction will tell that the picture was stale, although it may have mattered.
fn leaves_unwritten(decision: &Result<Decision, Status>) -> bool {
    match decision {
        Ok(decision) => matches!(decision, Decision::Keep(_)),
        Err(refusal) => !matches!(refusal.code, 400 | 413 | 415),
    }
}

/// The transaction of one decision: the object in the version it was decided from, the namespace it is born into,
/// and the addresses and ports that it takes and gives back.
fn transaction(key: &Key, base: Option<&Object>, put: Option<(&Value, Bytes)>) -> Txn {
    let store_key = Bytes::from(key.store_key());
    let revision = base.map_or(0, |base| base.revision);
    let mut compares = vec![Compare { key: store_key.clone(), target: Target::ModRevision(revision) }];
    if base.is_none() && !key.namespace.is_empty() {
        let namespace = Key::new("namespaces", "", key.namespace.clone());
        compares.push(Compare { key: namespace.store_key().into(), target: Target::Exists(true) });
    }
    let had = base.map(|base| allocate::claims(&key.resource, &base.value)).unwrap_or_default();
    let has = put.as_ref().map(|(value, _)| allocate::claims(&key.resource, value)).unwrap_or_default();
    let mut then = vec![match put {
        Some((_, value)) => Write::Put { key: store_key.clone(), value },
        None => Write::Delete { key: store_key.clone() },
    }];
    for claim in has.difference(&had) {
        let claim = Bytes::from(claim.clone());
        compares.push(Compare { key: claim.clone(), target: Target::ModRevision(0) });
        then.push(Write::Put { key: claim, value: store_key.clone() });
    }
    then.extend(had.difference(&has).map(|claim| Write::Delete { key: Bytes::from(claim.clone()) }));
    Txn { compares, then }
}

/// Adds another object's new version to a transaction, in the version it was decided from.
fn write_beside(txn: &mut Txn, other: Beside) {
    let Beside { base, mut value } = other;
    let key = Bytes::from(base.key.store_key());
    api::meta::metadata_mut(&mut value).remove("resourceVersion");
    txn.compares.push(Compare { key: key.clone(), target: Target::ModRevision(base.revision) });
    txn.then.push(Write::Put { key, value: Bytes::from(value.to_string()) });
}
