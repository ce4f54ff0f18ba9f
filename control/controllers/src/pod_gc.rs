//! Removes pods that no node will ever report on: bound to a node that does not exist, or asked to go unbound.

use api::{Action, Change, ChangeKind, Key, Object, Precondition, View};

use crate::{World, limits, moment, pods};

/// A pod wakes with itself while it points nowhere, and when its node is deleted.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match (&*object.key.resource, change.kind) {
        ("pods", ChangeKind::Added | ChangeKind::Modified) if is_lost(view, object) => vec![object.key.clone()],
        ("nodes", ChangeKind::Deleted) => view.pods_on(object.name()).map(|pod| pod.key.clone()).collect(),
        _ => Vec::new(),
    }
}

fn is_lost(view: &View, pod: &Object) -> bool {
    match pods::node(pod) {
        Some(node) => view.get("nodes", "", node).is_none(),
        None => pod.deletion_timestamp().is_some(),
    }
}

/// One pod.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(pod) = world.view.at(key).filter(|pod| is_lost(world.view, pod)) else { return Vec::new() };
    // A pod and its node may be made in either order, so a young pod is left alone.
    let due = moment::created(pod) + limits::ORPHAN_POD_GRACE_MS;
    if pods::node(pod).is_some() && world.now_ms < due {
        return vec![Action::Again { after_ms: moment::until(due, world.now_ms) }];
    }
    vec![Action::Delete { key: key.clone(), precondition: Precondition::same(pod), grace_seconds: Some(0) }]
}
