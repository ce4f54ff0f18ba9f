//! Lets a deleted volume go once no claim is bound to it (`pv-protection-controller`).

use api::{Action, Change, Key, View};

use super::VOLUMES;
use super::claim_protection::release;
use crate::World;

const FINALIZER: &str = "kubernetes.io/pv-protection";

/// A volume wakes with itself, once it is deleted.
pub(crate) fn keys(change: &Change, _view: &View) -> Vec<Key> {
    let object = &change.object;
    let concerned = &*object.key.resource == VOLUMES && object.deletion_timestamp().is_some();
    if concerned { vec![object.key.clone()] } else { Vec::new() }
}

/// One deleted volume.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(volume) = world.view.at(key).filter(|volume| volume.deletion_timestamp().is_some()) else {
        return Vec::new();
    };
    if *volume.field("status.phase") == "Bound" {
        return Vec::new();
    }
    release(volume, FINALIZER).into_iter().collect()
}
