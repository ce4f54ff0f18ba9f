//! ReplicationController: the ReplicaSet of the core group, with a plain map as its selector.

use api::{Action, Change, Key, View};

use crate::owner::{self, Kind};
use crate::{World, pods, replicaset};

const KIND: Kind = Kind { resource: "replicationcontrollers", api_version: "v1", kind: "ReplicationController" };

/// A ReplicationController wakes with itself and with its pods.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    match &*change.object.key.resource {
        "replicationcontrollers" => vec![change.object.key.clone()],
        "pods" if pods::matters(change) => owner::keys_of_child(&change.object, change.previous.as_ref(), view, &KIND),
        _ => Vec::new(),
    }
}

/// One ReplicationController.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    replicaset::keep(world, key, &KIND)
}
