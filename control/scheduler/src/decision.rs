//! What is written about a pod: where it goes, or why it waits, and whom it displaces.

use std::sync::Arc;

use api::{Action, Key, Object, Precondition, Severity};
use serde_json::{Value, json};

use crate::pod::Wanted;

/// What to do about one pod, in this order. If one action fails, the rest is left out and the pod is
/// [`crate::Scheduler::refused`].
#[derive(Debug)]
pub struct Decision {
    /// Which pod.
    pub pod: Key,
    /// A bind and an Event; or a condition and an Event, and the end of those who make room.
    pub actions: Vec<Action>,
}

/// Merge-patches an object, if it is still the version that was looked at.
pub(crate) fn patch(object: &Object, patch: Value) -> Action {
    let precondition = Precondition::unchanged(object);
    Action::Patch { key: object.key.clone(), subresource: None, patch, precondition }
}

pub(crate) fn bind(pod: &Object, node: &str) -> Vec<Action> {
    let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
    vec![
        Action::Bind { pod: pod.key.clone(), uid: pod.uid().to_owned(), node: node.to_owned() },
        tell(pod, Severity::Normal, "Scheduled", message),
    ]
}

/// The pod's condition says why it waits; it is written only when the reason is new, and told then and now and again.
/// `nominated` is the node that others leave for it.
pub(crate) fn explain(pod: &Object, why: String, nominated: Option<&str>, remind: bool, now_ms: i64) -> Vec<Action> {
    let old = api::meta::condition(&pod.value, "PodScheduled");
    let told = old.is_some_and(|old| old["reason"] == "Unschedulable" && old["message"] == why);
    let mut actions = Vec::new();
    let news = nominated.filter(|node| pod.field("status.nominatedNodeName") != *node);
    if !told || news.is_some() {
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
            "lastProbeTime": null,
        });
        let mut status = json!({"conditions": with_condition(pod, condition, now_ms)});
        if let Some(node) = news {
            status["nominatedNodeName"] = json!(node);
        }
        actions.push(write_status(pod, &status));
    }
    if !told || remind {
        actions.push(tell(pod, Severity::Warning, "FailedScheduling", why));
    }
    actions
}

/// Ends a pod in favour of another one.
pub(crate) fn displace(victim: &Arc<Object>, by: &Wanted, node: &str, now_ms: i64) -> Vec<Action> {
    if victim.deletion_timestamp().is_some() {
        return Vec::new();
    }
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{}: preempting to accommodate a higher priority pod", crate::NAME),
    });
    let status = json!({"conditions": with_condition(victim, condition, now_ms)});
    let mut noted = write_status(victim, &status);
    if let Action::Patch { precondition, .. } = &mut noted {
        // The victim goes whatever its status has become meanwhile.
        *precondition = Precondition::same(victim);
    }
    let message = format!("Preempted by pod {} on node {node}", by.object.uid());
    let precondition = Precondition::same(victim);
    vec![
        noted,
        Action::Delete { key: victim.key.clone(), precondition, grace_seconds: None },
        tell(victim, Severity::Normal, "Preempted", message),
    ]
}

/// The pod's conditions with this one; its time moves only with its status.
fn with_condition(pod: &Object, mut condition: Value, now_ms: i64) -> Vec<Value> {
    let mut conditions = pod.field("status.conditions").as_array().cloned().unwrap_or_default();
    let old = conditions.iter().find(|old| old["type"] == condition["type"]);
    let since = old.filter(|old| old["status"] == condition["status"]).map(|old| old["lastTransitionTime"].clone());
    condition["lastTransitionTime"] = since.unwrap_or_else(|| json!(api::time::rfc3339(now_ms)));
    conditions.retain(|old| old["type"] != condition["type"]);
    conditions.push(condition);
    conditions
}

fn write_status(pod: &Object, status: &Value) -> Action {
    Action::Patch {
        key: pod.key.clone(),
        subresource: Some("status"),
        patch: json!({ "status": status }),
        precondition: Precondition::unchanged(pod),
    }
}

fn tell(pod: &Object, severity: Severity, reason: &'static str, message: String) -> Action {
    Action::Tell { about: pod.key.clone(), uid: pod.uid().to_owned(), kind: "Pod", severity, reason, message }
}
