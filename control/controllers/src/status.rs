//! How a controller writes down what it found: the smallest merge patch, and only when something differs.

use api::{Action, Object, Precondition};
use serde_json::{Map, Value, json};

/// The JSON merge patch (RFC 7396) that turns `old` into `new`; `None` when they are equal.
pub(crate) fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for (name, value) in after {
        if let Some(part) = merge_diff(before.get(name).unwrap_or(&Value::Null), value) {
            patch.insert(name.clone(), part);
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    Some(Value::Object(patch))
}

/// Makes `status` of an object exactly this; `None` when it is so already.
pub(crate) fn set(object: &Object, mut status: Value) -> Option<Action> {
    prune(&mut status);
    let old = &object.value["status"];
    let empty = Value::Object(Map::new());
    let patch = merge_diff(if old.is_null() { &empty } else { old }, &status)?;
    Some(Action::Patch {
        key: object.key.clone(),
        subresource: Some("status"),
        patch: json!({ "status": patch }),
        precondition: Precondition::unchanged(object),
    })
}

/// Merge-patches the object itself, if it is still the version that was looked at.
pub(crate) fn patch(object: &Object, patch: Value) -> Action {
    let precondition = Precondition::unchanged(object);
    Action::Patch { key: object.key.clone(), subresource: None, patch, precondition }
}

/// Counters that are written even when they are zero.
const KEPT: [&str; 13] = [
    "replicas",
    "observedGeneration",
    "ready",
    "terminating",
    "availableReplicas",
    "currentNumberScheduled",
    "desiredNumberScheduled",
    "numberMisscheduled",
    "numberReady",
    "disruptionsAllowed",
    "currentHealthy",
    "desiredHealthy",
    "expectedPods",
];

/// Leaves out what Kubernetes leaves out: zeros, empty lists and nulls.
fn prune(status: &mut Value) {
    let Some(fields) = status.as_object_mut() else { return };
    fields.retain(|name, value| {
        let empty = value == 0 && !KEPT.contains(&name.as_str()) || value.as_array().is_some_and(Vec::is_empty);
        !value.is_null() && !empty
    });
}

/// One entry of `status.conditions`.
pub(crate) struct Condition<'a> {
    /// `Available`.
    pub type_: &'a str,
    /// `True`, `False`, `Unknown`.
    pub status: &'a str,
    /// `MinimumReplicasAvailable`.
    pub reason: &'a str,
    /// A sentence.
    pub message: &'a str,
}

/// The conditions an object has now.
pub(crate) fn conditions(object: &Object) -> Vec<Value> {
    object.field("status.conditions").as_array().cloned().unwrap_or_default()
}

/// The condition of that type.
pub(crate) fn find<'a>(conditions: &'a [Value], type_: &str) -> Option<&'a Value> {
    conditions.iter().find(|condition| condition["type"] == type_)
}

/// Whether the condition of that type is `True`.
pub(crate) fn is_true(conditions: &[Value], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition["status"] == "True")
}

/// Puts a condition in, if its status or reason is new. `lastTransitionTime` moves only with the status; `touched`
/// names the other time of this kind of object (`lastUpdateTime`, `lastProbeTime`), which moves with every change.
pub(crate) fn put(conditions: &mut Vec<Value>, condition: &Condition<'_>, touched: Option<&str>, now_ms: i64) {
    let now = api::time::rfc3339(now_ms);
    let old = find(conditions, condition.type_).cloned();
    if let Some(old) = &old
        && old["status"] == condition.status
        && old["reason"] == condition.reason
    {
        return;
    }
    let since = old.filter(|old| old["status"] == condition.status).map(|old| old["lastTransitionTime"].clone());
    let mut entry = json!({
        "type": condition.type_, "status": condition.status, "reason": condition.reason,
        "message": condition.message, "lastTransitionTime": since.unwrap_or_else(|| json!(now)),
    });
    if let Some(touched) = touched {
        entry[touched] = json!(now);
    }
    conditions.retain(|old| old["type"] != condition.type_);
    conditions.push(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_patch() {
        let old = json!({"a": 1, "b": {"c": 2, "d": [1]}, "e": 5});
        let new = json!({"a": 1, "b": {"c": 3, "d": [1]}, "f": 6});
        assert_eq!(merge_diff(&old, &new), Some(json!({"b": {"c": 3}, "e": null, "f": 6})));
        assert_eq!(merge_diff(&old, &old), None);
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_status() {
        let mut list = Vec::new();
        let condition = |status, reason| Condition { type_: "Available", status, reason, message: "" };
        put(&mut list, &condition("False", "A"), Some("lastUpdateTime"), 1_000);
        put(&mut list, &condition("False", "B"), Some("lastUpdateTime"), 5_000);
        assert_eq!(list[0]["lastTransitionTime"], "1970-01-01T00:00:01Z");
        assert_eq!(list[0]["lastUpdateTime"], "1970-01-01T00:00:05Z");
        put(&mut list, &condition("True", "C"), None, 9_000);
        assert_eq!((list.len(), &list[0]["lastTransitionTime"]), (1, &json!("1970-01-01T00:00:09Z")));
    }
}
