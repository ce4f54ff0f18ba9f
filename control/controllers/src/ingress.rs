//! Writes the cluster's own addresses into the status of the Ingresses it serves.

use api::{Action, Change, Key, View};
use serde_json::{Value, json};

use crate::{World, status};

/// An Ingress wakes with itself.
pub(crate) fn keys(change: &Change, _: &View) -> Vec<Key> {
    let is_ingress = &*change.object.key.resource == "ingresses.networking.k8s.io";
    if is_ingress { vec![change.object.key.clone()] } else { Vec::new() }
}

/// One Ingress.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(ingress) = world.view.at(key).filter(|ingress| ingress.deletion_timestamp().is_none()) else {
        return Vec::new();
    };
    let class = ingress.field("spec.ingressClassName").as_str();
    let class = class.or_else(|| ingress.annotation("kubernetes.io/ingress.class"));
    if class.is_some_and(|class| class != world.settings.ingress_class) {
        return Vec::new();
    }
    let address = |address: &String| {
        let field = if address.parse::<std::net::IpAddr>().is_ok() { "ip" } else { "hostname" };
        json!({ field: address })
    };
    let addresses: Vec<Value> = world.settings.ingress_addresses.iter().map(address).collect();
    status::set(ingress, json!({"loadBalancer": {"ingress": addresses}})).into_iter().collect()
}
