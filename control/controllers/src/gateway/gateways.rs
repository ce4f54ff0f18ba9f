//! Gateway: the state of its listeners, and how many routes hang on each.

use api::{Action, Change, ChangeKind, Key, Object, View};
use serde_json::{Value, json};

use super::listener::{self, Faults};
use super::routes::Attached;
use super::{CLASSES, GATEWAYS, GRANTS, ROUTES, condition, is_ours, keys_of, list, parent, put};
use crate::{World, status};

/// A Gateway wakes with itself and with whatever its listeners depend on.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        GATEWAYS => vec![object.key.clone()],
        ROUTES => {
            let both = [Some(object), change.previous.as_ref()].into_iter().flatten();
            let parents = both.flat_map(|route| list(route.field("spec.parentRefs")).map(move |one| (route, one)));
            parents.filter_map(|(route, one)| Some(parent(view, route, one)?.key.clone())).collect()
        }
        CLASSES | GRANTS => keys_of(view, GATEWAYS),
        "namespaces" if change.kind != ChangeKind::Deleted => keys_of(view, GATEWAYS),
        "secrets" if object.field("type") == "kubernetes.io/tls" => keys_of(view, GATEWAYS),
        _ => Vec::new(),
    }
}

/// One Gateway.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(gateway) = world.view.at(key).filter(|gateway| is_ours(world.view, gateway)) else { return Vec::new() };
    let generation = gateway.field("metadata.generation");
    let mut sound = 0;
    let mut listeners = Vec::new();
    for listener in list(gateway.field("spec.listeners")) {
        let faults = listener::look(world.view, gateway, listener);
        sound += usize::from(!faults.any());
        listeners.push(one(world, gateway, listener, &faults));
    }
    let all = sound == listeners.len();
    let mut conditions = status::conditions(gateway);
    let reason = if all { "Accepted" } else { "ListenersNotValid" };
    let message = format!("{sound} of {} listeners are valid", listeners.len());
    put(world, &mut conditions, generation, &condition("Accepted", sound > 0, reason, &message));
    let reason = if sound > 0 { "Programmed" } else { "Invalid" };
    put(world, &mut conditions, generation, &condition("Programmed", sound > 0, reason, &message));
    let address = |address: &String| {
        let kind = if address.parse::<std::net::IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
        json!({"type": kind, "value": address})
    };
    let addresses: Vec<Value> = world.settings.ingress_addresses.iter().map(address).collect();
    let wanted = json!({"addresses": addresses, "conditions": conditions, "listeners": listeners});
    status::set(gateway, wanted).into_iter().collect()
}

fn one(world: &World<'_>, gateway: &Object, listener: &Value, faults: &Faults) -> Value {
    let old = list(gateway.field("status.listeners")).find(|old| old["name"] == listener["name"]);
    let mut conditions = old.map_or_else(Vec::new, |old| list(&old["conditions"]).cloned().collect());
    let generation = gateway.field("metadata.generation");
    let mut say = |type_, fault: &Option<(&'static str, String)>, inverted: bool, good: &'static str| {
        let (reason, message) = fault.as_ref().map_or((good, ""), |(reason, message)| (*reason, message.as_str()));
        put(world, &mut conditions, generation, &condition(type_, fault.is_none() != inverted, reason, message));
    };
    say("Accepted", &faults.accepted, false, "Accepted");
    say("Conflicted", &faults.conflicted, true, "NoConflicts");
    say("ResolvedRefs", &faults.refs, false, "ResolvedRefs");
    let invalid = faults.any().then(|| ("Invalid", "another condition says why".to_owned()));
    say("Programmed", &invalid, false, "Programmed");
    let attached = world.view.list(ROUTES).filter(|route| {
        list(route.field("spec.parentRefs")).any(|reference| {
            parent(world.view, route, reference).is_some_and(|parent| parent.key == gateway.key)
                && Attached::find(world.view, gateway, route, reference).on(listener)
        })
    });
    json!({
        "name": listener["name"], "attachedRoutes": attached.count(),
        "supportedKinds": listener::supported(listener), "conditions": conditions,
    })
}
