//! What controllers ask of a pod, and which pod may go first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use api::{Change, ChangeKind, Object};
use serde_json::Value;

use crate::moment;

/// `status.phase`; a pod without one has just been born.
pub(crate) fn phase(pod: &Object) -> &str {
    pod.value["status"]["phase"].as_str().unwrap_or("Pending")
}

/// It ran to its end.
pub(crate) fn is_finished(pod: &Object) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// It runs or may still run, and nobody asked it to go.
pub(crate) fn is_active(pod: &Object) -> bool {
    !is_finished(pod) && pod.deletion_timestamp().is_none()
}

fn ready_condition(pod: &Object) -> Option<&Value> {
    pod.value["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready")
}

/// Its `Ready` condition is `True`.
pub(crate) fn is_ready(pod: &Object) -> bool {
    ready_condition(pod).is_some_and(|condition| condition["status"] == "True")
}

/// Since when it has been ready, in milliseconds since 1970.
pub(crate) fn ready_since(pod: &Object) -> Option<i64> {
    if !is_ready(pod) {
        return None;
    }
    Some(ready_condition(pod).and_then(|condition| moment::ms(&condition["lastTransitionTime"])).unwrap_or(0))
}

/// When a ready pod counts as available: ready for `min_ready_seconds`. `None` when it is not ready.
pub(crate) fn available_at(pod: &Object, min_ready_seconds: i64) -> Option<i64> {
    Some(ready_since(pod)? + min_ready_seconds * 1000)
}

/// The node it is bound to.
pub(crate) fn node(pod: &Object) -> Option<&str> {
    pod.value["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
}

/// How many of these pods are ready and available, and when the next one becomes available.
pub(crate) fn tally<'a>(
    pods: impl IntoIterator<Item = &'a Arc<Object>>,
    min_ready_seconds: i64,
    now_ms: i64,
) -> (i64, i64, Option<i64>) {
    let (mut ready, mut available, mut next) = (0, 0, None::<i64>);
    for at in pods.into_iter().filter_map(|pod| available_at(pod, min_ready_seconds)) {
        ready += 1;
        if at <= now_ms {
            available += 1;
        } else {
            next = Some(next.map_or(at, |due| due.min(at)));
        }
    }
    (ready, available, next)
}

/// Sorts pods so that those whose loss hurts least come first, by Kubernetes' order of preference: unbound, pending,
/// unready, cheap by `pod-deletion-cost`, crowded on one node, ready for the shortest time, often restarted, young.
///
/// `kin` are all pods of the same purpose (of every ReplicaSet of one Deployment): they decide what "crowded" means.
pub(crate) fn sort_for_deletion(pods: &mut [Arc<Object>], kin: &[Arc<Object>]) {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in kin.iter().filter(|pod| is_active(pod)) {
        if let Some(node) = node(pod) {
            *crowd.entry(node).or_default() += 1;
        }
    }
    pods.sort_by_cached_key(|pod| {
        let on_node = node(pod);
        let phase = match phase(pod) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let cost = pod.annotation("controller.kubernetes.io/pod-deletion-cost");
        let cost = cost.and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0);
        (
            (on_node.is_some(), phase, is_ready(pod), cost),
            Reverse(on_node.and_then(|node| crowd.get(node)).copied().unwrap_or(0)),
            Reverse(ready_since(pod)),
            Reverse(restarts(pod)),
            Reverse(moment::created(pod)),
            pod.key.name.clone(),
        )
    });
}

/// How often its containers were restarted.
pub(crate) fn restarts(pod: &Object) -> i64 {
    let containers = pod.value["status"]["containerStatuses"].as_array();
    containers.into_iter().flatten().filter_map(|status| status["restartCount"].as_i64()).sum()
}

/// Whether a change of a pod can matter to whoever counts it or sends traffic to it. Usage, messages and counters of
/// a running pod change often and matter to neither.
pub(crate) fn matters(change: &Change) -> bool {
    let (Some(old), new) = (&change.previous, &change.object) else { return true };
    let differs = |at: fn(&Object) -> &Value| at(old) != at(new);
    change.kind == ChangeKind::Deleted
        || old.uid() != new.uid()
        || differs(|pod| &pod.value["metadata"]["labels"])
        || differs(|pod| &pod.value["metadata"]["ownerReferences"])
        || differs(|pod| &pod.value["metadata"]["finalizers"])
        || differs(|pod| &pod.value["metadata"]["deletionTimestamp"])
        || differs(|pod| &pod.value["status"]["podIPs"])
        || phase(old) != phase(new)
        || ready_since(old) != ready_since(new)
        || node(old) != node(new)
}
