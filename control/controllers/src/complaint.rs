//! What people are told when a child of theirs could not be made (`FailedCreate`).

use api::{Action, Key, Severity};
use serde_json::Value;

/// Owners that make children: kind, group and version, resource.
const OWNERS: [(&str, &str, &str); 7] = [
    ("ReplicaSet", "apps/v1", "replicasets.apps"),
    ("ReplicationController", "v1", "replicationcontrollers"),
    ("Deployment", "apps/v1", "deployments.apps"),
    ("StatefulSet", "apps/v1", "statefulsets.apps"),
    ("DaemonSet", "apps/v1", "daemonsets.apps"),
    ("Job", "batch/v1", "jobs.batch"),
    ("CronJob", "batch/v1", "cronjobs.batch"),
];

/// The Event about a creation that was refused: on the child's controller, in the words of that kind of controller.
/// `None` when nobody owns the child.
#[must_use]
pub fn complaint(action: &Action, refusal: &str) -> Option<Action> {
    let Action::Create { key, body } = action else { return None };
    let owners = body["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let is_it = |(kind, version, _): &&(&str, &str, &str)| owner["kind"] == *kind && owner["apiVersion"] == *version;
    let (kind, _, resource) = OWNERS.iter().find(is_it)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, uid) = (text(&owner["name"]), text(&owner["uid"]));
    let message = match *kind {
        "StatefulSet" => format!("create Pod {} in StatefulSet {name} failed error: {refusal}", key.name),
        "CronJob" => format!("Error creating job: {refusal}"),
        _ => format!("Error creating: {refusal}"),
    };
    let about = Key::new(*resource, key.namespace.clone(), name);
    Some(Action::Tell { about, uid, kind, severity: Severity::Warning, reason: "FailedCreate", message })
}
