//! Kubernetes Events about pods: written by one task, repeats counted instead of multiplied.
//!
//! Events inform; nothing waits for them. When their queue is full, further ones are lost, and said so in the trace.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::limits::{EVENT_MESSAGE_BYTES_MAX, EVENT_WRITES_MAX, EVENTS_KNOWN_MAX, EVENTS_QUEUE_MAX, REQUEST_TIME_MAX};

/// Something to be told about a pod, or about the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Note {
    /// Empty for the node.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The container it is about: `spec.containers{web}`.
    pub(crate) field_path: Option<String>,
    /// `Normal` or `Warning`.
    pub(crate) severity: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Note {
    /// About the node itself. The kubelet has no uid for it but its name.
    pub(crate) fn of_node(node: &str, severity: &'static str, reason: &'static str, message: String) -> Self {
        let (name, uid) = (node.to_owned(), node.to_owned());
        Self { namespace: String::new(), name, uid, field_path: None, severity, reason, message }
    }

    /// Where the event is kept: those of what has no namespace are in `default`.
    fn home(&self) -> &str {
        if self.namespace.is_empty() { "default" } else { &self.namespace }
    }
}

/// Takes notes. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    notes: mpsc::Sender<Note>,
    lost: Arc<AtomicU64>,
}

/// What a recorder's writer reads.
#[derive(Debug)]
pub(crate) struct Notes {
    notes: mpsc::Receiver<Note>,
    lost: Arc<AtomicU64>,
}

impl Recorder {
    /// A recorder, and what its writer reads.
    pub(crate) fn new() -> (Self, Notes) {
        let (sender, notes) = mpsc::channel(EVENTS_QUEUE_MAX);
        let lost = Arc::<AtomicU64>::default();
        (Self { notes: sender, lost: lost.clone() }, Notes { notes, lost })
    }

    pub(crate) fn tell(&self, mut note: Note) {
        if let Some((end, _)) = note.message.char_indices().find(|(at, _)| *at >= EVENT_MESSAGE_BYTES_MAX) {
            note.message.truncate(end);
        }
        if self.notes.try_send(note).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes events until `stop`; one that is being written then is left.
pub(crate) async fn run(client: Client, node: String, notes: Notes, stop: CancellationToken) {
    let writer = Writer { client, node, known: HashMap::new(), order: VecDeque::new(), written: 0 };
    tokio::select! {
        () = stop.cancelled() => {}
        () = writer.run(notes) => {}
    }
}

struct Writer {
    client: Client,
    node: String,
    /// The object that stands for a note, and how often it came.
    known: HashMap<Note, (String, i32)>,
    order: VecDeque<Note>,
    written: u64,
}

impl Writer {
    async fn run(mut self, mut notes: Notes) {
        while let Some(note) = notes.notes.recv().await {
            let lost = notes.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                tracing::warn!(lost, "more happened than could be told; events are lost");
            }
            match tokio::time::timeout(REQUEST_TIME_MAX, self.write(note)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "an event could not be written"),
                Err(_) => tracing::debug!("an event could not be written in time"),
            }
        }
    }

    async fn write(&mut self, note: Note) -> Result<(), kube::Error> {
        let events: Api<k8s::Event> = Api::namespaced(self.client.clone(), note.home());
        if let Some((name, count)) = self.known.get_mut(&note) {
            *count = count.saturating_add(1);
            if *count > EVENT_WRITES_MAX && *count % 10 != 0 {
                return Ok(());
            }
            let patch = json!({"count": *count, "lastTimestamp": now()});
            match events.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // It was removed (they live for an hour): write it anew.
                Err(error) if crate::retry::is_gone(&error) => {}
                written => return written.map(drop),
            }
        }
        self.written += 1;
        let name = format!("{}.{:x}{:x}", note.name, Timestamp::now().as_nanosecond(), self.written);
        let created = events.create(&PostParams::default(), &self.event(&note, name.clone())).await;
        self.remember(note, name);
        created.map(drop)
    }

    fn remember(&mut self, note: Note, name: String) {
        if self.known.insert(note.clone(), (name, 1)).is_none() {
            self.order.push_back(note);
        }
        if self.order.len() > EVENTS_KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn event(&self, note: &Note, name: String) -> k8s::Event {
        let kind = if note.namespace.is_empty() { k8s::Node::kind(&()) } else { k8s::Pod::kind(&()) };
        k8s::Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(note.home().to_owned()), ..ObjectMeta::default() },
            involved_object: k8s::ObjectReference {
                api_version: Some(k8s::Pod::api_version(&()).into_owned()),
                kind: Some(kind.into_owned()),
                namespace: Some(note.namespace.clone()).filter(|namespace| !namespace.is_empty()),
                name: Some(note.name.clone()),
                uid: Some(note.uid.clone()),
                field_path: note.field_path.clone(),
                ..k8s::ObjectReference::default()
            },
            type_: Some(note.severity.to_owned()),
            reason: Some(note.reason.to_owned()),
            message: Some(note.message.clone()),
            count: Some(1),
            first_timestamp: Some(now()),
            last_timestamp: Some(now()),
            source: Some(k8s::EventSource { component: Some("kubelet".into()), host: Some(self.node.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            ..k8s::Event::default()
        }
    }
}

/// Kubernetes' times have whole seconds.
pub(crate) fn now() -> Time {
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    /// An API that takes everything and remembers it: `POST Started` or `PATCH 2`.
    fn api(seen: Arc<Mutex<Vec<String>>>) -> Client {
        let answer = move |request: http::Request<Body>| {
            let seen = seen.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut event: Value = serde_json::from_slice(&body).unwrap();
                let what = if method == http::Method::POST { &event["reason"] } else { &event["count"] };
                seen.lock().unwrap().push(format!("{method} {what}").replace('"', ""));
                event["metadata"] = json!({"name": "x", "namespace": "default"});
                event["involvedObject"] = json!({});
                Ok::<_, Infallible>(http::Response::new(Body::from(event.to_string().into_bytes())))
            }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn repeats_are_counted_and_many_repeats_are_counted_in_tens() {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (recorder, notes) = Recorder::new();
        let text = |text: &str| text.to_owned();
        let note = |reason, message: &str| Note {
            namespace: text("default"),
            name: text("web"),
            uid: text("u1"),
            field_path: Some(text("spec.containers{web}")),
            severity: "Normal",
            reason,
            message: text(message),
        };
        recorder.tell(note("Pulled", "here"));
        for _ in 0..22 {
            recorder.tell(note("Started", "off it goes"));
        }
        recorder.tell(note("Started", &"long ".repeat(400)));
        drop(recorder);
        run(api(seen.clone()), text("n1"), notes, CancellationToken::new()).await;
        let mut expected = vec![text("POST Pulled"), text("POST Started")];
        expected.extend((2..=10).chain([20]).map(|count| format!("PATCH {count}")));
        expected.push(text("POST Started"));
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}
