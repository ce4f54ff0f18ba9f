//! HTTPRoute: on which listeners it hangs, and whether what it refers to is there.

use api::{Action, Change, ChangeKind, Key, Object, View};
use serde_json::{Value, json};

use super::grants::{self, From, To};
use super::{CLASSES, CONTROLLER, GATEWAYS, GRANTS, ROUTES, condition, keys_of, list, listener, parent, put};
use crate::World;

/// A route wakes with itself and with whatever it refers to.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        ROUTES => vec![object.key.clone()],
        GATEWAYS | CLASSES | GRANTS => keys_of(view, ROUTES),
        "services" if change.kind != ChangeKind::Modified => keys_of(view, ROUTES),
        "namespaces" if change.kind != ChangeKind::Deleted => keys_of(view, ROUTES),
        _ => Vec::new(),
    }
}

/// One route.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(route) = world.view.at(key) else { return Vec::new() };
    let old = || list(route.field("status.parents"));
    // What other controllers say stays.
    let mut parents: Vec<Value> = old().filter(|entry| entry["controllerName"] != CONTROLLER).cloned().collect();
    let refs = unresolved(world.view, route);
    let generation = route.field("metadata.generation");
    for reference in list(route.field("spec.parentRefs")) {
        let Some(gateway) = parent(world.view, route, reference) else { continue };
        let known = old().find(|entry| entry["controllerName"] == CONTROLLER && entry["parentRef"] == *reference);
        let mut conditions = known.map_or_else(Vec::new, |entry| list(&entry["conditions"]).cloned().collect());
        let attached = Attached::find(world.view, gateway, route, reference);
        let (reason, message) = attached.said();
        let accepted = condition("Accepted", attached.is_some(), reason, message);
        put(world, &mut conditions, generation, &accepted);
        let (reason, message) = refs.as_ref().map_or(("ResolvedRefs", ""), |(reason, text)| (*reason, text.as_str()));
        put(world, &mut conditions, generation, &condition("ResolvedRefs", refs.is_none(), reason, message));
        parents.push(json!({"parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions}));
    }
    if parents.is_empty() && old().next().is_none() {
        return Vec::new();
    }
    // The list is required: a route that hangs nowhere has an empty one.
    let patch = json!({"status": {"parents": parents}});
    let same = route.field("status.parents") == &patch["status"]["parents"];
    let precondition = api::Precondition::unchanged(route);
    let write = Action::Patch { key: route.key.clone(), subresource: Some("status"), patch, precondition };
    if same { Vec::new() } else { vec![write] }
}

/// What became of a route's wish to hang on a Gateway.
pub(super) enum Attached {
    /// On these listeners.
    On(Vec<Value>),
    /// On none: reason and sentence.
    Not(&'static str, &'static str),
}

impl Attached {
    pub(super) fn find(view: &View, gateway: &Object, route: &Object, reference: &Value) -> Self {
        let meant = |listener: &&Value| {
            let section = reference["sectionName"].as_str().is_none_or(|section| listener["name"] == section);
            section && (reference["port"].is_null() || reference["port"] == listener["port"])
        };
        let mut listeners: Vec<&Value> = list(gateway.field("spec.listeners")).filter(meant).collect();
        if listeners.is_empty() {
            return Self::Not("NoMatchingParent", "the Gateway has no such listener");
        }
        let takes = |listener: &&Value| listener::supported(listener).as_array().is_some_and(|kinds| !kinds.is_empty());
        listeners.retain(|one| takes(one) && listener::admits(view, gateway, one, route.namespace()));
        if listeners.is_empty() {
            return Self::Not("NotAllowedByListeners", "no listener takes routes of this kind and namespace");
        }
        listeners.retain(|one| listener::shares_host(route.field("spec.hostnames"), one));
        if listeners.is_empty() {
            return Self::Not("NoMatchingListenerHostname", "no listener has one of the route's hostnames");
        }
        Self::On(listeners.into_iter().map(|listener| listener["name"].clone()).collect())
    }

    pub(super) fn on(&self, listener: &Value) -> bool {
        matches!(self, Self::On(names) if names.contains(&listener["name"]))
    }

    fn is_some(&self) -> bool {
        matches!(self, Self::On(_))
    }

    fn said(&self) -> (&'static str, &'static str) {
        match self {
            Self::On(_) => ("Accepted", "the route is served"),
            Self::Not(reason, message) => (reason, message),
        }
    }
}

/// The first reference of a route that leads nowhere: reason and sentence.
fn unresolved(view: &View, route: &Object) -> Option<(&'static str, String)> {
    let mut references = list(route.field("spec.rules")).flat_map(|rule| {
        let mirrors = list(&rule["filters"]).map(|filter| &filter["requestMirror"]["backendRef"]);
        list(&rule["backendRefs"]).chain(mirrors.filter(|mirror| mirror.is_object()))
    });
    references.find_map(|reference| {
        let (kind, group) = (reference["kind"].as_str().unwrap_or("Service"), reference["group"].as_str());
        let name = reference["name"].as_str().unwrap_or_default();
        let namespace = reference["namespace"].as_str().unwrap_or(route.namespace());
        if kind != "Service" || !group.unwrap_or_default().is_empty() {
            return Some(("InvalidKind", format!("a backend is a Service, not a {kind}")));
        }
        let from = From { kind: "HTTPRoute", namespace: route.namespace() };
        if !grants::allow(view, &from, &To { kind, namespace, name }) {
            let message = format!("no ReferenceGrant of {namespace} lets this route use Service {name}");
            return Some(("RefNotPermitted", message));
        }
        let missing = view.get("services", namespace, name).is_none();
        missing.then(|| ("BackendNotFound", format!("Service {namespace}/{name} does not exist")))
    })
}
