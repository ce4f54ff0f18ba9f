//! Lets a deleted claim go once no pod uses it (`pvc-protection-controller`).
//!
//! Every claim is born with the finalizer `kubernetes.io/pvc-protection`. A pod uses a claim from the moment it has a
//! node until it is gone from the store: before that no node has mounted it, and after that no node may.

use api::{Action, Change, ChangeKind, Key, Object, View};
use serde_json::Value;

use super::CLAIMS;
use crate::{World, status};

const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// A claim wakes with itself, and when a pod that used it goes.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match (&*object.key.resource, change.kind) {
        (CLAIMS, _) if object.deletion_timestamp().is_some() => vec![object.key.clone()],
        ("pods", ChangeKind::Deleted) => {
            let keys = claims(object).map(|name| Key::new(CLAIMS, object.key.namespace.clone(), name));
            keys.filter(|key| view.at(key).is_some_and(|claim| claim.deletion_timestamp().is_some())).collect()
        }
        _ => Vec::new(),
    }
}

/// The names of the claims that a pod mounts.
pub(crate) fn claims(pod: &Object) -> impl Iterator<Item = &str> {
    let volumes = pod.field("spec.volumes").as_array().into_iter().flatten();
    volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
}

/// One deleted claim.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(claim) = world.view.at(key).filter(|claim| claim.deletion_timestamp().is_some()) else {
        return Vec::new();
    };
    let mut pods = world.view.list_in("pods", claim.namespace());
    let used = pods.any(|pod| crate::pods::node(pod).is_some() && claims(pod).any(|name| name == claim.name()));
    if used { Vec::new() } else { release(claim, FINALIZER).into_iter().collect() }
}

/// Takes one finalizer from an object; `None` when it has it not.
pub(crate) fn release(object: &Object, finalizer: &str) -> Option<Action> {
    if !object.finalizers().any(|held| held == finalizer) {
        return None;
    }
    let rest: Vec<&str> = object.finalizers().filter(|held| *held != finalizer).collect();
    let rest = if rest.is_empty() { Value::Null } else { serde_json::json!(rest) };
    Some(status::patch(object, serde_json::json!({"metadata": {"finalizers": rest}})))
}
