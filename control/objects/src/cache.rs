//! The picture everybody looks at: loaded from the store once, then kept true by following the store's changes.
//!
//! One task owns the view. It decodes and encodes each object once, publishes the picture first and the changes
//! after it, so that whoever has been given a change finds it in the picture.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use api::catalog::Catalog;
use api::{Cause, Change, ChangeKind, Key, Object, Status, View, object::STORE_PREFIX};
use bytes::Bytes;
use raft_store::{ChangeRecord, Consistency, KeyValue, Range, Store, WatchRequest};
use tokio::sync::watch;

use crate::changes::{Changes, Ring};
use crate::definitions::Definitions;
use crate::error::{OpenError, refused};
use crate::limits::{LOAD_PAGE, REST_AFTER, REST_EVERY, RETAINED_VIEW_AGE, RETAINED_VIEWS_MAX, REVISION_WAIT};

/// kube-apiserver's words for a continue token whose picture is gone.
const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start \
    a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of \
    the results. Continuing with the provided token results in an inconsistent list - objects that were created, \
    modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// The published picture and the ring of changes that led to it.
pub(crate) struct Cache {
    views: watch::Receiver<View>,
    catalogs: watch::Receiver<Arc<Catalog>>,
    ring: Arc<Ring>,
    retained: Arc<Mutex<VecDeque<Retained>>>,
}

/// A picture for continue tokens.
struct Retained {
    since: Instant,
    view: View,
    /// How often its decoded forms were given up: the second time none is left that was looked at for its list.
    rests: u8,
}

impl Cache {
    /// Loads the picture and starts the task that follows the store until the store closes.
    pub(crate) async fn open(store: &Store) -> Result<Self, OpenError> {
        let view = match load(store, Consistency::Linearizable).await {
            // A member that has no majority yet serves what it has and catches up with the others later.
            Err(OpenError::Load(status)) if status.retry_after_seconds > 0 => load(store, Consistency::Local).await?,
            loaded => loaded?,
        };
        let ring = Arc::new(Ring::new(view.revision()));
        let (sender, views) = watch::channel(view.clone());
        let definitions = Definitions::of(&view);
        let (catalog_sender, catalogs) = watch::channel(definitions.catalog());
        let follower = Follower {
            store: store.clone(),
            view,
            definitions,
            views: sender,
            catalogs: catalog_sender,
            ring: ring.clone(),
            retained: Arc::default(),
            stirred: 0,
        };
        let retained = follower.retained.clone();
        tokio::spawn(follower.run());
        Ok(Self { views, catalogs, ring, retained })
    }

    /// The latest picture.
    pub(crate) fn view(&self) -> View {
        self.views.borrow().clone()
    }

    /// The resources of the latest picture.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.catalogs.borrow().clone()
    }

    /// A picture that has seen `revision`; 504 when that takes longer than `wait`.
    pub(crate) async fn at_least(&self, revision: u64, wait: std::time::Duration) -> Result<View, Status> {
        let mut views = self.views.clone();
        let reached = views.wait_for(|view| view.revision() >= revision);
        match tokio::time::timeout(wait, reached).await {
            Ok(Ok(view)) => Ok(view.clone()),
            Ok(Err(_)) => Err(Status::unavailable("the server is stopping")),
            Err(_) => Err(self.too_large(revision)),
        }
    }

    /// A picture that has seen `revision`, waited for as long as a read may.
    pub(crate) async fn read_at_least(&self, revision: u64) -> Result<View, Status> {
        self.at_least(revision, REVISION_WAIT).await
    }

    /// kube-apiserver's answer to a revision from the future (`storage.NewTooLargeResourceVersionError`).
    fn too_large(&self, revision: u64) -> Status {
        let current = self.views.borrow().revision();
        let mut status = Status::timeout(format!("Too large resource version: {revision}, current: {current}"), 1);
        status.causes.push(Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".into(),
            field: String::new(),
        });
        status
    }

    /// The picture at exactly `revision`, if it is the latest or one that was kept.
    pub(crate) fn view_at(&self, revision: u64) -> Result<View, Status> {
        let latest = self.view();
        if latest.revision() == revision {
            return Ok(latest);
        }
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        forget_old(&mut retained);
        let kept = retained.iter().find(|kept| kept.view.revision() == revision).map(|kept| kept.view.clone());
        kept.ok_or_else(|| Status::expired(TOO_OLD))
    }

    /// Keeps a picture for continue tokens. Keeping the same revision again makes it young again.
    pub(crate) fn retain(&self, view: &View) {
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        retained.retain(|kept| kept.view.revision() != view.revision());
        retained.push_back(Retained { since: Instant::now(), view: view.clone(), rests: 0 });
        forget_old(&mut retained);
    }

    /// A cursor over what happens after `revision`.
    pub(crate) fn changes(&self, revision: u64) -> Result<Changes, Status> {
        let oldest = |_| Status::expired(format!("too old resource version: {revision}"));
        self.ring.cursor(revision).map_err(oldest)
    }
}

/// Calls of [`View::rest`] until everything in a picture that nobody looks at any more is at rest.
const RESTS: u8 = 2;

fn forget_old(retained: &mut VecDeque<Retained>) {
    while retained.len() > RETAINED_VIEWS_MAX
        || retained.front().is_some_and(|kept| kept.since.elapsed() > RETAINED_VIEW_AGE)
    {
        retained.pop_front();
    }
}

/// A list of ten thousand decodes ten thousand, and its picture stays for minutes.
fn rest_kept(retained: &mut VecDeque<Retained>) {
    for kept in retained.iter_mut().filter(|kept| kept.rests < RESTS) {
        kept.rests += 1;
        kept.view.rest();
    }
}

/// Reads the whole registry at one revision.
async fn load(store: &Store, consistency: Consistency) -> Result<View, OpenError> {
    let mut view = View::default();
    let mut start = Bytes::from_static(STORE_PREFIX.as_bytes());
    let end = Bytes::from(prefix_end(STORE_PREFIX.as_bytes()));
    let mut revision = None;
    loop {
        let range = Range { start: start.clone(), end: Some(end.clone()), limit: LOAD_PAGE, revision, consistency };
        let reply = store.range(range).await.map_err(|error| OpenError::Load(refused(&error)))?;
        revision = Some(reply.revision);
        for item in &reply.items {
            view.apply(ChangeKind::Added, &Arc::new(decode(item)?));
        }
        let Some(last) = reply.items.last().filter(|_| reply.more) else {
            view.advance(reply.revision);
            return Ok(view);
        };
        start = Bytes::from([&last.key[..], b"\0"].concat());
    }
}

/// The first key after every key that begins with `prefix`, whose last byte is not 0xff.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn decode(item: &KeyValue) -> Result<Object, OpenError> {
    object(&item.key, &item.value, item.mod_revision)
        .ok_or_else(|| OpenError::Damaged(String::from_utf8_lossy(&item.key).into_owned()))
}

fn object(key: &[u8], value: &Bytes, revision: u64) -> Option<Object> {
    Object::from_json(Key::from_store_key(key)?, revision, value)
}

/// Owner of the picture.
struct Follower {
    store: Store,
    view: View,
    definitions: Definitions,
    views: watch::Sender<View>,
    catalogs: watch::Sender<Arc<Catalog>>,
    ring: Arc<Ring>,
    retained: Arc<Mutex<VecDeque<Retained>>>,
    /// How many changes there were since decoded forms were given up.
    stirred: usize,
}

impl Follower {
    /// Follows until the store closes. When the store no longer has what comes next, the picture is loaded anew
    /// and every watcher lists again.
    async fn run(mut self) {
        loop {
            let request = WatchRequest { prefix: STORE_PREFIX.as_bytes().into(), from: self.view.revision() + 1 };
            if let Ok(mut changes) = self.store.watch(request) {
                let mut rest = tokio::time::interval(REST_EVERY);
                loop {
                    tokio::select! {
                        records = changes.next() => match records {
                            Ok(records) => self.apply(&records),
                            Err(_) => break,
                        },
                        _ = rest.tick() => self.rest(),
                    }
                }
            }
            match load(&self.store, Consistency::Local).await {
                Ok(view) => {
                    tracing::warn!(revision = view.revision(), "the picture was loaded anew");
                    self.view = view;
                    self.definitions = Definitions::of(&self.view);
                    self.catalogs.send_replace(self.definitions.catalog());
                    self.views.send_replace(self.view.clone());
                    self.ring.reset(self.view.revision());
                }
                Err(error) => {
                    tracing::info!(%error, "the picture is no longer followed");
                    self.ring.close();
                    return;
                }
            }
        }
    }

    fn apply(&mut self, records: &[ChangeRecord]) {
        let changes: Vec<Arc<Change>> = records.iter().filter_map(|record| self.change(record)).collect();
        let Some(revision) = records.iter().map(|record| record.revision).max() else { return };
        self.view.advance(revision);
        let mut others = false;
        for change in &changes {
            others |= self.definitions.take(change);
        }
        // The catalog first: who sees that a definition is established finds its resource.
        if others {
            self.catalogs.send_replace(self.definitions.catalog());
        }
        self.views.send_replace(self.view.clone());
        self.stirred += changes.len();
        self.ring.push(changes, revision);
        if self.stirred >= REST_AFTER {
            self.rest();
        }
    }

    /// Nobody is told: the picture is the same, only smaller.
    fn rest(&mut self) {
        self.stirred = 0;
        let count = self.view.rest();
        self.ring.rest();
        rest_kept(&mut self.retained.lock().unwrap_or_else(PoisonError::into_inner));
        if count > 0 {
            tracing::debug!(count, "objects are decoded no longer");
            self.views.send_if_modified(|view| {
                view.clone_from(&self.view);
                false
            });
        }
    }

    fn change(&mut self, record: &ChangeRecord) -> Option<Arc<Change>> {
        let key = Key::from_store_key(&record.key)?;
        let before = self.view.at(&key);
        let (kind, object) = match &record.value {
            Some(bytes) => {
                let kind = if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
                let Some(object) = object(&record.key, bytes, record.revision) else {
                    tracing::error!(%key, revision = record.revision, "a stored object is not JSON");
                    return None;
                };
                (kind, object)
            }
            // A deletion carries the last state with the deletion's revision, as watchers expect.
            None => (ChangeKind::Deleted, before?.moved(record.revision)),
        };
        let object = Arc::new(object);
        let previous = self.view.apply(kind, &object);
        Some(Arc::new(Change { revision: record.revision, kind, object, previous }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_store::{Config, Txn, put};

    #[test]
    fn a_picture_that_is_kept_for_a_list_gives_up_what_the_list_decoded() {
        let object =
            Object::from_json(Key::new("pods", "a", "b"), 1, &Bytes::from_static(br#"{"metadata": {"name": "b"}}"#))
                .unwrap();
        let mut view = View::default();
        view.apply(ChangeKind::Added, &Arc::new(object));
        let mut retained = VecDeque::from([Retained { since: Instant::now(), view, rests: 0 }]);
        let decoded = |retained: &VecDeque<Retained>| retained[0].view.list("pods").any(|pod| pod.at_rest().is_some());
        assert_eq!(retained[0].view.list("pods").map(|pod| pod.generation()).sum::<i64>(), 0, "somebody looks");
        rest_kept(&mut retained);
        assert!(decoded(&retained), "somebody has just looked");
        rest_kept(&mut retained);
        assert!(!decoded(&retained));
    }

    #[tokio::test]
    async fn a_follower_that_the_history_left_behind_loads_anew() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(Config::single(directory.path())).await.unwrap();
        for name in ["a", "b"] {
            let key = Key::new("configmaps", "default", name).store_key();
            let then = vec![put(key, format!(r#"{{"metadata":{{"name":"{name}"}}}}"#))];
            store.txn(Txn { compares: Vec::new(), then }).await.unwrap();
        }
        store.compact(2).await.unwrap();
        let ring = Arc::new(Ring::new(0));
        let mut cursor = ring.cursor(0).unwrap();
        let (sender, mut views) = watch::channel(View::default());
        let follower = Follower {
            store: store.clone(),
            view: View::default(),
            definitions: Definitions::default(),
            views: sender,
            catalogs: watch::Sender::new(Definitions::default().catalog()),
            ring: ring.clone(),
            retained: Arc::default(),
            stirred: 0,
        };
        tokio::spawn(follower.run());
        let view = views.wait_for(|view| view.revision() == 2).await.unwrap().clone();
        assert_eq!(view.count("configmaps"), 2);
        assert_eq!(cursor.next().await.err(), Some(crate::ChangesEnd::Lagged));
        let mut cursor = ring.cursor(2).unwrap();
        let key = Key::new("configmaps", "default", "a").store_key();
        store
            .txn(Txn { compares: Vec::new(), then: vec![raft_store::Write::Delete { key: key.into() }] })
            .await
            .unwrap();
        assert_eq!(cursor.next().await.unwrap()[0].kind, ChangeKind::Deleted);
    }
}
