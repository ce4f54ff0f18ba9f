//! WATCH: a stream of JSON lines, each a change of a wanted object.
//!
//! A watcher has no queue of its own: it pulls from the shared ring of changes as fast as its client reads, and one
//! that the ring has overtaken is told to list again (`ERROR` with 410). Source: "Efficient detection of changes" in
//! the Kubernetes API concepts; KEP-956 (bookmarks); KEP-3157 (`sendInitialEvents`).

use std::sync::Arc;
use std::time::Duration;

use api::{Change, ChangeKind, Object, Resource, Status};
use bytes::{Bytes, BytesMut};
use futures::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use objects::{Changes, ChangesEnd};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::page::{Filter, Start, forbidden};
use super::read::revision;
use super::{Form, Place, now_ms};
use crate::BoxError;
use crate::limits::{BOOKMARK_EVERY, FRAME_BYTES, WATCH_MIN};
use crate::query::Query;
use crate::reply::{JSON, Reply, boxed};
use crate::service::{Call, Inner};
use crate::table::partial;

/// Where a watch begins.
#[derive(Debug, PartialEq, Eq)]
enum Begin {
    /// The wanted objects of a picture as `ADDED`, then what follows. `at` is the least revision of the picture:
    /// `None` for the newest, 0 for any; `marked` ends them with a bookmark.
    State { at: Option<u64>, marked: bool },
    /// What comes after this revision; `None` after now.
    After(Option<u64>),
}

impl Begin {
    fn of(query: &Query, revision: Option<u64>) -> Result<Self, Status> {
        let matching = query.get("resourceVersionMatch");
        match (query.optional_flag("sendInitialEvents")?, matching) {
            (Some(true), Some("NotOlderThan")) => Ok(Self::State { at: revision, marked: true }),
            (Some(_), None) => {
                Err(forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"))
            }
            (Some(false), _) => Ok(Self::After(revision.filter(|revision| *revision > 0))),
            (_, Some(_)) => {
                Err(forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"))
            }
            (None, None) => Ok(match revision {
                None | Some(0) => Self::State { at: revision, marked: false },
                Some(revision) => Self::After(Some(revision)),
            }),
        }
    }
}

/// GET with `watch=true`.
pub(super) async fn watch(inner: &Inner, call: &Call, place: &Place) -> Result<Reply, Status> {
    let filter = Filter::of(&call.query, place)?;
    let bookmarks = call.query.flag("allowWatchBookmarks")?;
    let encoder = Encoder { form: Form::of(call, &place.resource)?, resource: place.resource.clone(), headings: true };
    let objects = &inner.objects;
    let (after, initial, marked) = match Begin::of(&call.query, revision(call)?)? {
        Begin::After(None) => (objects.fresh_view().await?.revision(), Vec::new(), false),
        Begin::After(Some(revision)) => (revision, Vec::new(), false),
        Begin::State { at, marked } => {
            let picture = match at {
                None => objects.fresh_view().await?,
                Some(0) => objects.view(),
                Some(revision) => objects.view_at_least(revision).await?,
            };
            let initial: Vec<_> = filter.select(&picture, &Start::default()).cloned().collect();
            (picture.revision(), initial, marked && bookmarks)
        }
    };
    let changes = match objects.changes(after) {
        Ok(changes) => changes,
        // The stream has begun for the client: it hears of it as an event.
        Err(status) => {
            let mut out = BytesMut::new();
            Encoder::line(&mut out, "ERROR", status.to_value().to_string().as_bytes());
            return Ok(Reply::json(http::StatusCode::OK, out.freeze()));
        }
    };
    let now = Instant::now();
    let watcher = Watcher {
        changes,
        filter,
        encoder,
        initial: initial.into_iter(),
        after,
        marked,
        bookmarks,
        bookmark_at: now + BOOKMARK_EVERY,
        ends_at: now + duration(&call.query)?,
        stop: call.stop.clone(),
        over: false,
    };
    let frames = stream::unfold(watcher, |mut watcher| async {
        let frame = watcher.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(frame)), watcher))
    });
    Ok(Reply::stream(JSON, boxed(StreamBody::new(frames))))
}

/// `timeoutSeconds`, or half an hour to an hour.
fn duration(query: &Query) -> Result<Duration, Status> {
    let asked = query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
    let spread = u64::from(uuid::Uuid::new_v4().as_fields().0);
    let usual = WATCH_MIN + Duration::from_secs(spread % WATCH_MIN.as_secs());
    Ok(asked.filter(|seconds| *seconds > 0).map_or(usual, |seconds| Duration::from_secs(seconds).min(WATCH_MIN * 2)))
}

/// One client's watch.
struct Watcher {
    changes: Changes,
    filter: Filter,
    encoder: Encoder,
    /// What is still to be sent of the state it began with.
    initial: std::vec::IntoIter<Arc<Object>>,
    /// The revision of that state.
    after: u64,
    /// The state's end is still to be marked.
    marked: bool,
    bookmarks: bool,
    bookmark_at: Instant,
    ends_at: Instant,
    stop: CancellationToken,
    over: bool,
}

impl Watcher {
    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        self.begin(&mut out);
        while out.is_empty() && !self.over {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => self.end(&mut out),
                batch = self.changes.next() => self.told(batch, &mut out),
                () = tokio::time::sleep_until(self.ends_at) => self.end(&mut out),
                () = tokio::time::sleep_until(self.bookmark_at), if self.bookmarks => {
                    self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
                    self.encoder.bookmark(&mut out, self.seen(), false);
                }
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// Sends a piece of the state the watch began with.
    fn begin(&mut self, out: &mut BytesMut) {
        while out.len() < FRAME_BYTES {
            let Some(object) = self.initial.next() else { break };
            self.encoder.event(out, "ADDED", &object);
        }
        if self.marked && self.initial.len() == 0 {
            self.marked = false;
            self.encoder.bookmark(out, self.after, true);
        }
    }

    fn told(&mut self, batch: Result<Vec<Arc<Change>>, ChangesEnd>, out: &mut BytesMut) {
        match batch {
            Ok(batch) => {
                for change in batch {
                    if let Some((type_, object)) = event(&self.filter, &change) {
                        self.encoder.event(out, type_, &object);
                    }
                }
            }
            Err(ChangesEnd::Lagged) => {
                let status = Status::from(ChangesEnd::Lagged).to_value().to_string();
                Encoder::line(out, "ERROR", status.as_bytes());
                self.over = true;
            }
            Err(ChangesEnd::Closed) => self.over = true,
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        self.over = true;
        if self.bookmarks {
            self.encoder.bookmark(out, self.seen(), false);
        }
    }

    /// The revision up to which this client has been told everything.
    fn seen(&self) -> u64 {
        self.changes.revision().max(self.after)
    }
}

/// What a change means to somebody with this filter: an object may enter or leave what they see without being created
/// or deleted.
fn event(filter: &Filter, change: &Change) -> Option<(&'static str, Arc<Object>)> {
    let now = change.kind != ChangeKind::Deleted && filter.wants(&change.object);
    let before = match &change.previous {
        Some(previous) => filter.wants(previous),
        None => change.kind == ChangeKind::Deleted && filter.wants(&change.object),
    };
    match (before, now) {
        (false, false) => None,
        (false, true) => Some(("ADDED", change.object.clone())),
        (true, true) => Some(("MODIFIED", change.object.clone())),
        (true, false) if change.kind == ChangeKind::Deleted => Some(("DELETED", change.object.clone())),
        // As it last was when the client saw it, with the revision at which it left.
        (true, false) => {
            change.previous.as_ref().map(|previous| ("DELETED", Arc::new(previous.moved(change.revision))))
        }
    }
}

/// Changes as lines.
struct Encoder {
    form: Form,
    resource: Arc<Resource>,
    /// Tables name their columns once.
    headings: bool,
}

impl Encoder {
    fn line(out: &mut BytesMut, type_: &str, object: &[u8]) {
        Self::framed(out, type_, |out| out.extend_from_slice(object));
    }

    /// A line whose object is written by somebody else.
    fn framed(out: &mut BytesMut, type_: &str, object: impl FnOnce(&mut BytesMut)) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(type_.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        object(out);
        out.extend_from_slice(b"}\n");
    }

    fn event(&mut self, out: &mut BytesMut, type_: &str, object: &Object) {
        match &mut self.form {
            Form::Object => {
                let encoded = self.resource.encoded(object);
                Self::framed(out, type_, |out| encoded.write(|piece| out.extend_from_slice(piece)));
            }
            Form::Metadata(version) => Self::line(out, type_, &partial(object, *version)),
            Form::Table(table) => {
                table.now_ms = now_ms();
                let metadata = json!({"resourceVersion": object.revision.to_string()});
                let bytes = table.encode(&metadata, std::mem::take(&mut self.headings), [object]);
                Self::line(out, type_, &bytes);
            }
        }
    }

    /// An object of the resource's kind with nothing but a revision.
    fn bookmark(&mut self, out: &mut BytesMut, revision: u64, initial_events_end: bool) {
        let (kind, api_version) = (self.resource.kind.as_str(), self.resource.api_version());
        let mut value: Value =
            json!({"kind": kind, "apiVersion": api_version, "metadata": {"creationTimestamp": null}});
        if initial_events_end {
            value["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let key = api::Key::new(self.resource.name.clone(), "", "");
        let object = Object::new(key, revision, value);
        self.event(out, "BOOKMARK", &object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Catalog, Key};

    fn begin(query: &str) -> Result<Begin, u16> {
        let query = Query::parse(query);
        let revision = query.number("resourceVersion").unwrap().map(i64::cast_unsigned);
        Begin::of(&query, revision).map_err(|status| status.code)
    }

    #[test]
    fn where_a_watch_begins() {
        assert_eq!(begin(""), Ok(Begin::State { at: None, marked: false }));
        assert_eq!(begin("resourceVersion=0"), Ok(Begin::State { at: Some(0), marked: false }));
        assert_eq!(begin("resourceVersion=7"), Ok(Begin::After(Some(7))));
        let list = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        assert_eq!(begin(list), Ok(Begin::State { at: None, marked: true }));
        assert_eq!(begin("sendInitialEvents=false&resourceVersionMatch=NotOlderThan"), Ok(Begin::After(None)));
        assert_eq!(begin("sendInitialEvents=true"), Err(422));
        assert_eq!(begin("resourceVersion=7&resourceVersionMatch=Exact"), Err(422));
    }

    fn pod(revision: u64, app: &str) -> Arc<Object> {
        let value = json!({"metadata": {"name": "p", "namespace": "d", "labels": {"app": app}}});
        Arc::new(Object::new(Key::new("pods", "d", "p"), revision, value))
    }

    #[test]
    fn objects_enter_and_leave_a_selection() {
        let resource = Catalog::builtin().find("", "v1", "pods").unwrap().clone();
        let place = Place { resource, namespace: "d".into(), name: String::new() };
        let filter = Filter::of(&Query::parse("labelSelector=app%3Dweb"), &place).unwrap();
        let change = |kind, object, previous| Change { revision: 9, kind, object, previous };
        use ChangeKind::{Added, Deleted, Modified};
        let cases = [
            (change(Added, pod(9, "web"), None), Some("ADDED")),
            (change(Added, pod(9, "db"), None), None),
            (change(Modified, pod(9, "web"), Some(pod(8, "web"))), Some("MODIFIED")),
            (change(Modified, pod(9, "web"), Some(pod(8, "db"))), Some("ADDED")),
            (change(Modified, pod(9, "db"), Some(pod(8, "web"))), Some("DELETED")),
            (change(Deleted, pod(9, "web"), Some(pod(8, "web"))), Some("DELETED")),
            (change(Deleted, pod(9, "db"), Some(pod(8, "db"))), None),
        ];
        for (change, expected) in cases {
            let event = event(&filter, &change);
            assert_eq!(event.as_ref().map(|(type_, _)| *type_), expected);
            if let Some((_, object)) = event {
                assert_eq!((object.revision, object.label("app")), (9, Some("web")));
            }
        }
    }
}
