//! Node health: a node whose lease is not renewed is lost, and its pods no longer count as ready.
//!
//! The node's own agent writes its conditions; this controller only overrules a silent one. Taints follow the
//! conditions: `not-ready`, `unreachable`, `unschedulable`. What the taints do to pods is not decided here.

use std::sync::Arc;

use api::{Action, Change, ChangeKind, Key, Object, Precondition, Severity, View};
use serde_json::{Value, json};

use crate::status::{self, Condition};
use crate::{World, limits, moment, pods};

const LEASES: &str = "leases.coordination.k8s.io";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The Lease's node, if a change is the sign of life of one.
#[must_use]
pub fn sign_of_life(change: &Change) -> Option<&str> {
    let key = &change.object.key;
    let lives = &*key.resource == LEASES && &*key.namespace == LEASE_NAMESPACE && change.kind != ChangeKind::Deleted;
    lives.then_some(&*key.name)
}

/// A node wakes with itself; with its lease only while it is lost, since every other renewal changes nothing.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let key = &change.object.key;
    match &*key.resource {
        "nodes" if change.kind != ChangeKind::Deleted => vec![key.clone()],
        LEASES if &*key.namespace == LEASE_NAMESPACE => {
            let node = view.get("nodes", "", &key.name);
            let lost = node.filter(|node| change.kind != ChangeKind::Modified || ready(node) == "Unknown");
            lost.map(|node| node.key.clone()).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn ready(node: &Object) -> &str {
    let conditions = node.value["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    status::find(conditions, "Ready").and_then(|condition| condition["status"].as_str()).unwrap_or("Unknown")
}

/// One node.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(node) = world.view.at(key).filter(|node| node.deletion_timestamp().is_none()) else { return Vec::new() };
    let due = due(world, node);
    let mut actions = Vec::new();
    let mut state = ready(node);
    if due <= world.now_ms {
        if state != "Unknown" {
            state = "Unknown";
            actions.push(overrule(world, node));
            let message = format!("Node {} status is now: NodeNotReady", node.name());
            actions.push(tell(node, Severity::Normal, "NodeNotReady", message));
        }
    } else {
        actions.push(Action::Again { after_ms: moment::until(due, world.now_ms) });
    }
    actions.extend(taint(world, node, state));
    if state != "True" {
        actions.extend(world.view.pods_on(node.name()).filter_map(|pod| unready(world, pod)));
    }
    actions
}

/// When the node is lost unless something is heard of it.
fn due(world: &World<'_>, node: &Object) -> i64 {
    let born = moment::created(node) + limits::NODE_GRACE_MS;
    match world.heard {
        // A new node may have been lost once under its name; it has time to show itself.
        Some(heard) if !heard.lost.contains_key(node.name()) => heard.due(world.view, node.name()).max(born),
        Some(heard) => heard.due(world.view, node.name()),
        None => last_seen(world.view, node) + limits::NODE_GRACE_MS,
    }
}

/// The last sign of life: the lease, or the birth of a node that has not made one yet.
fn last_seen(view: &View, node: &Object) -> i64 {
    let lease = view.get(LEASES, LEASE_NAMESPACE, node.name());
    let renewed = lease.and_then(|lease| moment::ms(lease.field("spec.renewTime")));
    renewed.unwrap_or_else(|| moment::created(node))
}

fn overrule(world: &World<'_>, node: &Object) -> Action {
    let mut conditions = status::conditions(node);
    for type_ in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
        let known = status::find(&conditions, type_).is_some();
        let never = ("NodeStatusNeverUpdated", "Kubelet never posted node status.");
        let (reason, message) =
            if known { ("NodeStatusUnknown", "Kubelet stopped posting node status.") } else { never };
        let beat = status::find(&conditions, type_).map(|condition| condition["lastHeartbeatTime"].clone());
        status::put(&mut conditions, &Condition { type_, status: "Unknown", reason, message }, None, world.now_ms);
        if let (Some(beat), Some(entry)) = (beat.filter(|beat| !beat.is_null()), conditions.last_mut()) {
            entry["lastHeartbeatTime"] = beat;
        }
    }
    Action::Patch {
        key: node.key.clone(),
        subresource: Some("status"),
        patch: json!({"status": {"conditions": conditions}}),
        precondition: Precondition::unchanged(node),
    }
}

/// Makes the taints follow readiness and `spec.unschedulable`; other taints stay.
fn taint(world: &World<'_>, node: &Object, state: &str) -> Option<Action> {
    let old = node.field("spec.taints").as_array().cloned().unwrap_or_default();
    let wanted = |key: &str, effect: &str| match key {
        NOT_READY => state == "False",
        UNREACHABLE => state == "Unknown",
        _ => node.field("spec.unschedulable") == true && effect == "NoSchedule",
    };
    let ours = |taint: &Value| {
        let key = taint["key"].as_str().unwrap_or_default();
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
    };
    let keep = |taint: &&Value| {
        let (key, effect) = (taint["key"].as_str().unwrap_or_default(), taint["effect"].as_str().unwrap_or_default());
        !ours(taint) || wanted(key, effect)
    };
    let mut new: Vec<Value> = old.iter().filter(keep).cloned().collect();
    for key in [NOT_READY, UNREACHABLE, UNSCHEDULABLE] {
        for effect in ["NoSchedule", "NoExecute"] {
            let there = new.iter().any(|taint| taint["key"] == key && taint["effect"] == effect);
            if wanted(key, effect) && !there {
                let mut taint = json!({"key": key, "effect": effect});
                if effect == "NoExecute" {
                    taint["timeAdded"] = json!(api::time::rfc3339(world.now_ms));
                }
                new.push(taint);
            }
        }
    }
    if new == old {
        return None;
    }
    let taints = if new.is_empty() { Value::Null } else { Value::Array(new) };
    Some(Action::Patch {
        key: node.key.clone(),
        subresource: None,
        patch: json!({"spec": {"taints": taints}}),
        // The status of this turn may have been written in between; the taints are nobody else's.
        precondition: Precondition::same(node),
    })
}

/// Nobody answers for the pods of a node that is not ready: traffic must not go there.
fn unready(world: &World<'_>, pod: &Arc<Object>) -> Option<Action> {
    if !pods::is_ready(pod) || pods::is_finished(pod) {
        return None;
    }
    let mut conditions = status::conditions(pod);
    let entry = conditions.iter_mut().find(|condition| condition["type"] == "Ready")?;
    entry["status"] = json!("False");
    entry["lastTransitionTime"] = json!(api::time::rfc3339(world.now_ms));
    Some(Action::Patch {
        key: pod.key.clone(),
        subresource: Some("status"),
        patch: json!({"status": {"conditions": conditions}}),
        precondition: Precondition::unchanged(pod),
    })
}

fn tell(node: &Object, severity: Severity, reason: &'static str, message: String) -> Action {
    Action::Tell { about: node.key.clone(), uid: node.uid().to_owned(), kind: "Node", severity, reason, message }
}
