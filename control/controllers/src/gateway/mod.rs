//! The Gateway API: which Gateways are ours, whether their listeners are sound, and which routes hang on them.
//!
//! The nodes follow what is written into the status here and decide nothing of it again: a listener that is not
//! `Programmed` and a route that is not `Accepted` are not served. Reasons are the specification's own
//! (gateway-api, `apis/v1`).
//!
//! * [`class`], [`gateways`], [`routes`]: one controller each. [`grants`]: who may refer to whose objects.

pub(crate) mod class;
pub(crate) mod gateways;
mod grants;
mod listener;
pub(crate) mod routes;

use std::sync::Arc;

use api::{Key, Object, View};
use serde_json::{Value, json};

use crate::World;
use crate::status::{self, Condition};

const GROUP: &str = "gateway.networking.k8s.io";
const CLASSES: &str = "gatewayclasses.gateway.networking.k8s.io";
const GATEWAYS: &str = "gateways.gateway.networking.k8s.io";
const ROUTES: &str = "httproutes.gateway.networking.k8s.io";
const GRANTS: &str = "referencegrants.gateway.networking.k8s.io";

/// The `spec.controllerName` of GatewayClasses that are ours.
const CONTROLLER: &str = "kogia.dev/gateway";

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether a Gateway's class is ours.
fn is_ours(view: &View, gateway: &Object) -> bool {
    let class = gateway.field("spec.gatewayClassName").as_str();
    let class = class.and_then(|class| view.get(CLASSES, "", class));
    class.is_some_and(|class| class.field("spec.controllerName") == CONTROLLER)
}

/// The Gateway that a `parentRef` of a route means, if it is ours.
fn parent<'a>(view: &'a View, route: &Object, reference: &Value) -> Option<&'a Arc<Object>> {
    let kind = reference["kind"].as_str().unwrap_or("Gateway");
    let group = reference["group"].as_str().unwrap_or(GROUP);
    let namespace = reference["namespace"].as_str().unwrap_or(route.namespace());
    let gateway = view.get(GATEWAYS, namespace, reference["name"].as_str()?)?;
    (kind == "Gateway" && group == GROUP && is_ours(view, gateway)).then_some(gateway)
}

fn keys_of(view: &View, resource: &str) -> Vec<Key> {
    view.list(resource).map(|object| object.key.clone()).collect()
}

/// A condition as this API writes it: with the generation that was looked at.
fn put(world: &World<'_>, conditions: &mut Vec<Value>, generation: &Value, condition: &Condition<'_>) {
    status::put(conditions, condition, None, world.now_ms);
    for entry in conditions.iter_mut().filter(|entry| entry["type"] == condition.type_) {
        entry["observedGeneration"] = generation.clone();
        entry["message"] = json!(condition.message);
    }
}

fn condition<'a>(type_: &'a str, good: bool, reason: &'a str, message: &'a str) -> Condition<'a> {
    Condition { type_, status: if good { "True" } else { "False" }, reason, message }
}
