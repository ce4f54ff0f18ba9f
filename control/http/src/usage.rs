//! What pods and nodes use: read from every attached node again and again, answered as `metrics.k8s.io/v1beta1`.
//!
//! Kubernetes runs a server of its own for this (metrics-server); here the control plane asks the nodes itself. The
//! table ([`api::usage`]) is small and forgets: nothing of it is stored.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api::path::Target;
use api::usage::{Usage, UsageTable, Window};
use api::{Object, Status};
use futures::StreamExt;
use futures::future::BoxFuture;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::limits::{USAGE_ANSWER_MAX, USAGE_BYTES_MAX, USAGE_EVERY, USAGE_NODES_AT_ONCE};
use crate::relay::Relay;
use crate::reply::{Reply, boxed};
use crate::service::{Call, Inner};
use crate::verbs::{Filter, Place, Start, now_ms};
use crate::{Body, BoxError};

/// The group whose resources are made of the table.
pub(crate) const GROUP: &str = "metrics.k8s.io";
/// Its one version.
pub(crate) const VERSION: &str = "v1beta1";

/// What pods and nodes use now. Clones share one table.
#[derive(Clone, Debug, Default)]
pub struct Measured(Arc<RwLock<Arc<UsageTable>>>);

impl Measured {
    /// The table as it is.
    #[must_use]
    pub fn table(&self) -> Arc<UsageTable> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what a node tells: kubelet's `GET /stats/summary`.
    pub fn take(&self, node: &str, summary: &Value, now_ms: i64) {
        self.change(|table| table.take(node, summary, now_ms));
    }

    /// Whoever looks at the table keeps the one it has.
    fn change(&self, change: impl FnOnce(&mut UsageTable)) {
        change(Arc::make_mut(&mut self.0.write().unwrap_or_else(PoisonError::into_inner)));
    }
}

/// Asks every attached node for what it uses, every [`USAGE_EVERY`], until `stop`.
pub async fn measure(relay: Relay, measured: Measured, stop: CancellationToken) {
    let mut turn = tokio::time::interval(USAGE_EVERY);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turn.tick() => {}
        }
        let asked = futures::stream::iter(relay.nodes()).for_each_concurrent(USAGE_NODES_AT_ONCE, |node| {
            let (relay, measured) = (&relay, &measured);
            async move {
                let asked = tokio::time::timeout(USAGE_ANSWER_MAX, summary(relay, &node)).await;
                match asked.unwrap_or_else(|_| Err("no answer in time".into())) {
                    Ok(summary) => measured.take(&node, &summary, now_ms()),
                    Err(error) => debug!(node, %error, "a node did not tell what it uses"),
                }
            }
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = asked => {}
        }
        measured.change(|table| table.settle(now_ms()));
    }
}

async fn summary(relay: &Relay, node: &str) -> Result<Value, BoxError> {
    let empty: Body = boxed(Empty::new());
    let answer = relay.send(node, Request::get("http://node/stats/summary").body(empty)?);
    let response = answer.ok_or("it is not connected")?.await?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answered {}", response.status()).into());
    }
    // Boxed, because the compiler cannot see that `Limited` is `Send` for every lifetime of its error.
    let said: BoxFuture<'static, Result<_, BoxError>> =
        Box::pin(Limited::new(response.into_body(), USAGE_BYTES_MAX).collect());
    Ok(serde_json::from_slice(&said.await?.to_bytes())?)
}

/// One resource of the group, as discovery shows it: plural, kind, whether it lives in a namespace.
pub(crate) const RESOURCES: [(&str, &str, bool); 2] = [("nodes", "NodeMetrics", false), ("pods", "PodMetrics", true)];

/// GET of `nodes` and `pods` of the group.
pub(crate) async fn answer(inner: &Inner, call: &Call, target: Target) -> Result<Reply, Status> {
    let found = RESOURCES.iter().find(|(plural, ..)| *plural == target.plural && target.version == VERSION);
    let (plural, kind, namespaced) = *found.ok_or_else(Status::no_such_path)?;
    if !target.subresource.is_empty() || (!namespaced && !target.namespace.is_empty()) {
        return Err(Status::no_such_path());
    }
    if !matches!(call.method, http::Method::GET | http::Method::HEAD) || call.query.flag("watch")? {
        return Err(Status::method_not_allowed());
    }
    let catalog = inner.objects.catalog();
    let resource = catalog.by_name(plural).ok_or_else(Status::no_such_path)?.clone();
    let name = target.name;
    let place = Place { resource, namespace: target.namespace, name: name.clone() };
    let filter = Filter::of(&call.query, &place)?;
    let (view, table) = (inner.objects.fresh_view().await?, inner.config.usage.table());
    let measure = |object: &Arc<Object>| match plural {
        "nodes" => node(object, &table),
        _ => pod(object, &table),
    };
    let items: Vec<Value> = filter.select(&view, &Start::default()).filter_map(measure).collect();
    let api_version = format!("{GROUP}/{VERSION}");
    let whole = |mut item: Value| {
        (item["kind"], item["apiVersion"]) = (kind.into(), api_version.clone().into());
        item
    };
    if name.is_empty() {
        let list = json!({"kind": format!("{kind}List"), "apiVersion": api_version, "metadata": {}, "items": items});
        return Ok(Reply::value(StatusCode::OK, &list));
    }
    let absent = || Status::not_found(&format!("{kind}.{GROUP}").to_lowercase(), &name);
    Ok(Reply::value(StatusCode::OK, &whole(items.into_iter().next().ok_or_else(absent)?)))
}

fn node(object: &Arc<Object>, table: &UsageTable) -> Option<Value> {
    let (window, usage) = table.node(object.name())?;
    let mut item = item(object, window);
    item["usage"] = figures(usage);
    Some(item)
}

fn pod(object: &Arc<Object>, table: &UsageTable) -> Option<Value> {
    let pod = table.pod(object.namespace(), object.name())?;
    let mut item = item(object, pod.window);
    let containers = pod.containers.iter();
    item["containers"] = containers.map(|(name, usage)| json!({"name": name, "usage": figures(*usage)})).collect();
    Some(item)
}

fn item(object: &Arc<Object>, window: Window) -> Value {
    let mut metadata = json!({"name": object.name(), "creationTimestamp": api::time::rfc3339(window.at_ms)});
    if !object.namespace().is_empty() {
        metadata["namespace"] = object.namespace().into();
    }
    if object.value["metadata"]["labels"].is_object() {
        metadata["labels"] = object.value["metadata"]["labels"].clone();
    }
    let length = Duration::from_millis(window.length_ms.unsigned_abs()).as_nanos();
    let length = api::time::duration(i64::try_from(length).unwrap_or(i64::MAX));
    json!({"metadata": metadata, "timestamp": api::time::rfc3339(window.at_ms), "window": length})
}

fn figures(usage: Usage) -> Value {
    json!({"cpu": format!("{}n", usage.nano_cpus), "memory": format!("{}Ki", usage.memory_bytes >> 10)})
}
