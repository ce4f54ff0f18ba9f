//! Writes the cluster's own addresses into the status of the Ingresses it serves.

use std::sync::Arc;

use api::{Action, Change, Key, Object, View};
use serde_json::{Value, json};

use crate::{World, status};

const CLASSES: &str = "ingressclasses.networking.k8s.io";

/// The `spec.controller` of IngressClasses that are ours.
const CONTROLLER: &str = "kogia.dev/ingress";

/// An Ingress wakes with itself, all of them with a class.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    match &*change.object.key.resource {
        "ingresses.networking.k8s.io" => vec![change.object.key.clone()],
        CLASSES => view.list("ingresses.networking.k8s.io").map(|ingress| ingress.key.clone()).collect(),
        _ => Vec::new(),
    }
}

/// Ours are: our class, a class of our controller, a class that nobody has defined, and no class where no other
/// controller's is the default: what the nodes serve.
fn is_ours(world: &World<'_>, class: Option<&str>) -> bool {
    let ours = |class: &Arc<Object>| class.field("spec.controller") == CONTROLLER;
    let Some(class) = class else {
        let default = "ingressclass.kubernetes.io/is-default-class";
        let mut defaults =
            world.view.list(CLASSES).filter(|class| class.annotation(default) == Some("true")).peekable();
        return defaults.peek().is_none() || defaults.any(ours);
    };
    world.view.get(CLASSES, "", class).is_none_or(ours)
}

/// One Ingress.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(ingress) = world.view.at(key).filter(|ingress| ingress.deletion_timestamp().is_none()) else {
        return Vec::new();
    };
    let class = ingress.field("spec.ingressClassName").as_str();
    let class = class.or_else(|| ingress.annotation("kubernetes.io/ingress.class"));
    if !is_ours(world, class) {
        return Vec::new();
    }
    let address = |address: &String| {
        let field = if address.parse::<std::net::IpAddr>().is_ok() { "ip" } else { "hostname" };
        json!({ field: address })
    };
    let addresses: Vec<Value> = world.settings.ingress_addresses.iter().map(address).collect();
    status::set(ingress, json!({"loadBalancer": {"ingress": addresses}})).into_iter().collect()
}
