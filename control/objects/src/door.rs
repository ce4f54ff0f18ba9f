//! The write path: decide from the picture, write with a precondition, answer when the picture has it.
//!
//! Every write is a pure decision over a [`View`] followed by one transaction. If somebody else wrote first, the
//! decision is made anew from the new picture, a bounded number of times. A decision that writes nothing (a refusal, an
//! object that is as it should be) is checked against a fresh picture before it is given. One that waits for webhooks is
//! made again when they have answered; nothing is held meanwhile.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use api::{Key, Object, Status, View, kinds::Resource};
use bytes::Bytes;
use raft_store::{Compare, Store, Target, Txn, Write};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use crate::admission::quota;
use crate::allocate;
use crate::cache::Cache;
use crate::error::refused;
use crate::limits::{ATTEMPTS_MAX, MEETINGS, OBJECT_BYTES_MAX, QUESTIONS_MAX, WRITE_WAIT};
use crate::webhooks::{Caller, Halt, Hearing, Question};

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
    /// What webhooks warn of.
    pub(crate) warnings: Vec<String>,
}

/// Whom a writer has to wait for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Queue<'a> {
    /// Whether it may take an address or a port.
    pub(crate) allocates: bool,
    /// The namespace in whose quotas it may count.
    pub(crate) counts_in: Option<&'a str>,
}

impl<'a> Queue<'a> {
    /// The queue of those who write objects of a resource.
    pub(crate) fn of(resource: &Resource, namespace: &'a str, counts: bool) -> Self {
        Self { allocates: allocate::may_claim(&resource.name), counts_in: counts.then_some(namespace) }
    }
}

/// What a writer holds while it is its turn.
struct Turn<'a> {
    _allocation: Option<MutexGuard<'a, ()>>,
    _quota: Option<MutexGuard<'a, ()>>,
    meeting: Option<MutexGuard<'a, ()>>,
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
    /// The way to webhooks.
    pub(crate) webhooks: OnceLock<Caller>,
}

impl Door {
    pub(crate) fn new(store: Store, cache: Cache) -> Self {
        let locks = || [const { Mutex::const_new(()) }; MEETINGS];
        Self {
            store,
            cache,
            allocation: Mutex::default(),
            quotas: locks(),
            meetings: locks(),
            webhooks: OnceLock::new(),
        }
    }

    /// The turn to write, once all that came before have written; `contended` is what the writer met others at.
    async fn turn(&self, queue: Queue<'_>, contended: Option<&Key>) -> Turn<'_> {
        let allocation = if queue.allocates { Some(self.allocation.lock().await) } else { None };
        let counted = queue.counts_in.filter(|namespace| quota::has_quotas(&self.cache.view(), namespace));
        let quota = match counted {
            Some(namespace) => Some(self.quotas[meeting(&Key::new(api::quota::QUOTAS, namespace, ""))].lock().await),
            None => None,
        };
        let meeting = match contended {
            Some(key) => Some(self.meetings[meeting(key)].lock().await),
            None => None,
        };
        Turn { _allocation: allocation, _quota: quota, meeting }
    }

    /// A picture at least as new as every write that was acknowledged before the call, on any member.
    pub(crate) async fn fresh_view(&self) -> Result<View, Status> {
        let revision = self.store.read_index().await.map_err(|error| refused(&error))?;
        self.cache.read_at_least(revision).await
    }

    /// Decides and writes until nobody else wrote first.
    pub(crate) async fn transact<E: Into<Halt>>(
        &self,
        dry_run: bool,
        queue: Queue<'_>,
        mut decide: impl FnMut(&View, &Hearing) -> Result<Decision, E> + Send,
    ) -> Result<Done, Status> {
        let mut hearing = Hearing::new(self.cache.catalog());
        let (mut checked, mut contended) = (false, None);
        let mut turn = self.turn(queue, None).await;
        let mut view = self.cache.view();
        while hearing.attempt < ATTEMPTS_MAX {
            let decision = match decide(&view, &hearing).map_err(Into::into) {
                Ok(decision) => Ok(decision),
                Err(Halt::Refused(refusal)) => Err(refusal),
                Err(Halt::Ask(questions)) => {
                    // Nobody waits for a server of somebody else's but who asks it.
                    drop(turn);
                    Box::pin(self.ask(&mut hearing, questions)).await?;
                    turn = self.turn(queue, contended.as_ref()).await;
                    view = self.cache.view();
                    continue;
                }
            };
            if !checked && leaves_unwritten(&decision) {
                let fresh = self.fresh_view().await?;
                checked = true;
                if fresh.revision() != view.revision() {
                    view = fresh;
                    hearing.attempt += 1;
                    continue;
                }
            }
            match self.carry_out(decision?, dry_run).await? {
                Ok(done) => return Ok(Done { warnings: hearing.warnings(), ..done }),
                Err(key) => {
                    if turn.meeting.is_none() {
                        turn.meeting = Some(self.meetings[meeting(&key)].lock().await);
                    }
                    contended = Some(key);
                }
            }
            hearing.attempt += 1;
            (view, checked) = (self.fresh_view().await?, true);
        }
        let key = contended.ok_or_else(|| Status::unavailable("the cluster's state changes too fast"))?;
        Err(Status::modified(&key.resource, &key.name))
    }

    /// Puts questions to webhooks, all at once.
    async fn ask(&self, hearing: &mut Hearing, questions: Vec<Question>) -> Result<(), Status> {
        if hearing.count() + questions.len() > QUESTIONS_MAX {
            let message = format!("the write would ask webhooks more than {QUESTIONS_MAX} times");
            return Err(Status::unavailable(message));
        }
        let calls = questions.into_iter().map(|question| async {
            let uid = uuid::Uuid::new_v4().to_string();
            let came = match self.webhooks.get() {
                Some(caller) => caller(self.cache.view(), question.call(&uid)).await,
                None => Err("this server does not reach webhooks yet".to_owned()),
            };
            (question, uid, came)
        });
        for (question, uid, came) in futures::future::join_all(calls).await {
            hearing.hear(question, &uid, came);
        }
        Ok(())
    }

    /// Writes a decision; the inner `Err` says that somebody else wrote first.
    async fn carry_out(&self, decision: Decision, dry_run: bool) -> Result<Result<Done, Key>, Status> {
        let (key, base, mut value, effect, beside) = match decision {
            Decision::Keep(object) => return Ok(Ok(Done { object, effect: Effect::Unchanged, warnings: Vec::new() })),
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
            let object = Arc::new(Object::new(key, revision, value));
            return Ok(Ok(Done { object, effect, warnings: Vec::new() }));
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
        Ok(Ok(Done { object, effect, warnings: Vec::new() }))
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
