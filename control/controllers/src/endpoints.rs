//! Endpoints: the older, single-object form of EndpointSlices, for clients that still read it.

use std::collections::BTreeMap;

use api::{Action, Change, Key, Precondition, View};
use serde_json::{Value, json};

use crate::{World, endpoint_slices, limits, status};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

/// A Service wakes with itself, with its Endpoints, and with the pods it selects or selected.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        "endpoints" => vec![Key::new("services", object.key.namespace.clone(), object.key.name.clone())],
        _ => endpoint_slices::keys_of_service(change, view),
    }
}

/// One Service.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let existing = world.view.get("endpoints", &key.namespace, &key.name);
    let service = world.view.at(key).filter(|service| service.deletion_timestamp().is_none());
    let Some(service) = service else {
        let ours = existing.filter(|endpoints| endpoints.label(MANAGED_BY).is_some());
        return ours
            .map(|object| Action::Delete {
                key: object.key.clone(),
                precondition: Precondition::same(object),
                grace_seconds: None,
            })
            .into_iter()
            .collect();
    };
    if endpoint_slices::selector(service).is_none() {
        return Vec::new();
    }
    let subsets = subsets(world.view, service);
    let mut labels = service.value["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), json!("endpoint-controller"));
    if service.field("spec.clusterIP") == "None" {
        labels.insert("service.kubernetes.io/headless".to_owned(), json!(""));
    }
    match existing {
        None => {
            let body = json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": &*key.name, "namespace": &*key.namespace, "labels": labels},
                "subsets": subsets,
            });
            vec![Action::Create { key: Key::new("endpoints", key.namespace.clone(), key.name.clone()), body }]
        }
        Some(object) => {
            let none = json!([]);
            let stored = object.value.get("subsets").filter(|stored| !stored.is_null()).unwrap_or(&none);
            let mut change = json!({});
            if *stored != subsets {
                change["subsets"] = subsets;
            }
            if !labels.iter().all(|(name, value)| object.label(name) == value.as_str()) {
                change["metadata"]["labels"] = Value::Object(labels);
            }
            if change == json!({}) { Vec::new() } else { vec![status::patch(object, change)] }
        }
    }
}

/// Addresses with the same ports.
#[derive(Default)]
struct Subset {
    ready: Vec<Value>,
    unready: Vec<Value>,
    ports: Vec<Value>,
}

/// One subset for each list of port numbers, in a stable order.
fn subsets(view: &View, service: &api::Object) -> Value {
    let mut groups: BTreeMap<String, Subset> = BTreeMap::new();
    let ipv6 = endpoint_slices::families(service)[0];
    for backend in endpoint_slices::backends(view, service, ipv6).into_iter().take(limits::ENDPOINTS_ADDRESSES_MAX) {
        let mut ports = endpoint_slices::ports(service, Some(backend.pod));
        for port in &mut ports {
            if let Some(port) = port.as_object_mut()
                && port["name"] == ""
            {
                port.remove("name");
            }
        }
        let pod = backend.pod;
        let mut address = json!({
            "ip": backend.address, "nodeName": pod.field("spec.nodeName"),
            "targetRef": {"kind": "Pod", "namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid()},
        });
        if let Some(name) = endpoint_slices::host_name(service, pod) {
            address["hostname"] = json!(name);
        }
        let leaving = pod.deletion_timestamp().is_some();
        if leaving && !backend.ready {
            continue;
        }
        let group = groups.entry(json!(ports).to_string()).or_insert_with(|| Subset { ports, ..Subset::default() });
        if backend.ready { group.ready.push(address) } else { group.unready.push(address) }
    }
    let subset = |group: Subset| {
        let mut subset = json!({});
        for (name, list) in [("addresses", group.ready), ("notReadyAddresses", group.unready), ("ports", group.ports)] {
            if !list.is_empty() {
                subset[name] = Value::Array(list);
            }
        }
        subset
    };
    groups.into_values().map(subset).collect()
}
