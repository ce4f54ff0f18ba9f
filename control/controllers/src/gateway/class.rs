//! GatewayClass: accepts those whose controller is ours.

use api::{Action, Change, Key, View};
use serde_json::json;

use super::{CLASSES, CONTROLLER, condition, put};
use crate::{World, status};

/// A class wakes with itself.
pub(crate) fn keys(change: &Change, _: &View) -> Vec<Key> {
    if &*change.object.key.resource == CLASSES { vec![change.object.key.clone()] } else { Vec::new() }
}

/// One class.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let class = world.view.at(key).filter(|class| class.field("spec.controllerName") == CONTROLLER);
    let Some(class) = class else { return Vec::new() };
    let mut conditions = status::conditions(class);
    let accepted = condition("Accepted", true, "Accepted", "Gateways of this class are served by Kogia's nodes");
    put(world, &mut conditions, class.field("metadata.generation"), &accepted);
    status::set(class, json!({"conditions": conditions})).into_iter().collect()
}
