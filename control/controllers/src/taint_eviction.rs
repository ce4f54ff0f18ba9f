//! Deletes pods from nodes whose `NoExecute` taints they do not tolerate, or no longer tolerate.

use std::sync::Arc;

use api::{Action, Change, ChangeKind, Key, Object, Precondition, Severity, View};
use serde_json::Value;

use crate::{World, limits, moment, placement, pods};

/// A node wakes with itself and with the pods that arrive on it.
pub(crate) fn keys(change: &Change, _: &View) -> Vec<Key> {
    let object = &change.object;
    if change.kind == ChangeKind::Deleted {
        return Vec::new();
    }
    match &*object.key.resource {
        "nodes" => vec![object.key.clone()],
        "pods" => {
            let arrived = change.previous.as_ref().is_none_or(|old| pods::node(old).is_none());
            let node = pods::node(object).filter(|_| arrived);
            node.map(|node| Key::new("nodes", "", node)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// One node.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(node) = world.view.at(key) else { return Vec::new() };
    let taints = node.field("spec.taints").as_array().into_iter().flatten();
    let taints: Vec<&Value> = taints.filter(|taint| taint["effect"] == "NoExecute").collect();
    if taints.is_empty() {
        return Vec::new();
    }
    let (mut actions, mut next) = (Vec::new(), i64::MAX);
    for pod in world.view.pods_on(node.name()).filter(|pod| pods::is_active(pod)) {
        match tolerated_until(pod, &taints, world.now_ms) {
            due if due <= world.now_ms => {
                if actions.len() < limits::SWEEP_MAX {
                    actions.push(tell(pod));
                    let precondition = Precondition::same(pod);
                    actions.push(Action::Delete { key: pod.key.clone(), precondition, grace_seconds: None });
                } else {
                    next = world.now_ms;
                }
            }
            due => next = next.min(due),
        }
    }
    if next != i64::MAX {
        actions.push(Action::Again { after_ms: moment::until(next, world.now_ms) });
    }
    actions
}

/// Until when a pod tolerates all of the taints; `i64::MAX` for ever.
fn tolerated_until(pod: &Arc<Object>, taints: &[&Value], now_ms: i64) -> i64 {
    let tolerations = pod.field("spec.tolerations").as_array().map_or(&[][..], Vec::as_slice);
    let until = |taint: &&Value| {
        let added = moment::ms(&taint["timeAdded"]).unwrap_or(now_ms);
        let matching = tolerations.iter().filter(|toleration| placement::tolerates(toleration, taint));
        // Of several tolerations the shortest counts.
        matching
            .map(|toleration| toleration["tolerationSeconds"].as_i64().map_or(i64::MAX, |s| added + s.max(0) * 1000))
            .min()
            .unwrap_or(i64::MIN)
    };
    taints.iter().map(until).min().unwrap_or(i64::MAX)
}

fn tell(pod: &Object) -> Action {
    Action::Tell {
        about: pod.key.clone(),
        uid: pod.uid().to_owned(),
        kind: "Pod",
        severity: Severity::Normal,
        reason: "TaintManagerEviction",
        message: format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name()),
    }
}
