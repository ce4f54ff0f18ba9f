//! EndpointSlices: which pods stand behind a Service, and which of them may get traffic.
//!
//! Pods with the same family and the same port numbers share slices. A slice keeps the endpoints it has; new ones
//! fill slices with room before a new slice is made, so a change of one pod rewrites one slice of at most
//! [`limits::SLICE_ENDPOINTS_MAX`].

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use api::{Action, Change, ChangeKind, Key, Object, Precondition, View};
use serde_json::{Value, json};

use crate::owner::{self, Kind};
use crate::{World, limits, pods, status, zones};

const SERVICE: Kind = Kind { resource: "services", api_version: "v1", kind: "Service" };
const SLICES: &str = "endpointslices.discovery.k8s.io";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// A Service wakes with itself, with its slices, with the pods it selects or selected, when a node changes its zone, and where
/// zones get shares, when a node's processors change.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        SLICES => owner::controller_key(object, &SERVICE).into_iter().collect(),
        "nodes" => {
            let (old, new) = (change.previous.as_deref(), Some(&**object));
            let new = new.filter(|_| change.kind != ChangeKind::Deleted);
            let moved = old.and_then(zones::of) != new.and_then(zones::of);
            let resized = old.and_then(zones::weight) != new.and_then(zones::weight);
            let concerned = |service: &&Arc<Object>| moved || (resized && zones::is_auto(service));
            view.list("services").filter(concerned).map(|service| service.key.clone()).collect()
        }
        _ => keys_of_service(change, view),
    }
}

/// The Services that a change of a Service or a pod concerns.
pub(crate) fn keys_of_service(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        "services" => vec![object.key.clone()],
        "pods" if pods::matters(change) => {
            let one = |pod: &Object| -> Vec<Key> {
                let services = view.selecting(pod.namespace(), &pod.value["metadata"]["labels"]);
                services.filter(|service| selector(service).is_some()).map(|service| service.key.clone()).collect()
            };
            let mut keys = one(object);
            keys.extend(change.previous.iter().flat_map(|old| one(old)));
            keys.sort_unstable();
            keys.dedup();
            keys
        }
        _ => Vec::new(),
    }
}

/// What a Service selects; `None` when its endpoints are somebody else's business.
pub(crate) fn selector(service: &Object) -> Option<LabelSelector> {
    let labels = service.field("spec.selector");
    let own = labels.as_object().is_some_and(|labels| !labels.is_empty());
    (own && service.field("spec.type") != "ExternalName").then(|| LabelSelector::from_labels(labels))
}

/// One pod as a backend.
pub(crate) struct Backend<'a> {
    pub(crate) pod: &'a Arc<Object>,
    pub(crate) address: &'a str,
    pub(crate) ready: bool,
}

/// A Service's pods that have an address of the family, have not ended, and are not only planned.
pub(crate) fn backends<'a>(view: &'a View, service: &Object, ipv6: bool) -> Vec<Backend<'a>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let unready_too = service.field("spec.publishNotReadyAddresses") == true;
    let selected = view.select("pods", service.namespace(), &selector);
    let selected = selected.filter(|pod| !pods::is_finished(pod) && pods::node(pod).is_some());
    let backend = |pod: &'a Arc<Object>| {
        let address = addresses(pod).into_iter().find(|address| address.contains(':') == ipv6)?;
        let leaving = pod.deletion_timestamp().is_some();
        Some(Backend { pod, address, ready: unready_too || (pods::is_ready(pod) && !leaving) })
    };
    selected.filter_map(backend).collect()
}

fn addresses(pod: &Object) -> Vec<&str> {
    let status = &pod.value["status"];
    let all = status["podIPs"].as_array().into_iter().flatten().filter_map(|entry| entry["ip"].as_str());
    let mut list: Vec<&str> = all.collect();
    if list.is_empty() {
        list.extend(status["podIP"].as_str().filter(|address| !address.is_empty()));
    }
    list
}

/// The port numbers of one pod for each port of a Service: a named target port is looked up in the pod's containers
/// and left out where the pod does not have it.
pub(crate) fn ports(service: &Object, pod: Option<&Object>) -> Vec<Value> {
    let list = service.field("spec.ports").as_array();
    let port = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let number = match &port["targetPort"] {
            Value::Number(number) => json!(number),
            Value::String(name) => json!(named_port(pod?, name, protocol)?),
            _ => port["port"].clone(),
        };
        let name = port["name"].as_str().unwrap_or_default();
        let mut entry = json!({"name": name, "protocol": protocol, "port": number});
        if let Some(app) = port["appProtocol"].as_str() {
            entry["appProtocol"] = json!(app);
        }
        Some(entry)
    };
    list.into_iter().flatten().filter_map(port).collect()
}

fn named_port(pod: &Object, name: &str, protocol: &str) -> Option<i64> {
    let containers = pod.field("spec.containers").as_array().into_iter().flatten();
    let sidecars = pod.field("spec.initContainers").as_array().into_iter().flatten();
    let sidecars = sidecars.filter(|container| container["restartPolicy"] == "Always");
    let mut all = containers.chain(sidecars).flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let port = all.find(|port| port["name"] == name && port["protocol"].as_str().unwrap_or("TCP") == protocol)?;
    port["containerPort"].as_i64()
}

/// One Service.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(service) = world.view.at(key).filter(|service| service.deletion_timestamp().is_none()) else {
        // The garbage collector removes what a deleted Service leaves.
        return Vec::new();
    };
    let existing: Vec<_> = world.view.owned(service.uid()).filter(|object| &*object.key.resource == SLICES).collect();
    if selector(service).is_none() {
        return existing.into_iter().map(|slice| remove(slice)).collect();
    }
    let mut plan = Plan { world, service, actions: Vec::new(), made: 0 };
    let mut rest = existing;
    for ipv6 in families(service) {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        for backend in backends(world.view, service, ipv6) {
            let ports = ports(service, Some(backend.pod));
            let group =
                groups.entry(json!(ports).to_string()).or_insert_with(|| Group { ports, endpoints: Vec::new() });
            group.endpoints.push(endpoint(world.view, service, &backend));
        }
        zones::hint(world.view, service, groups.values_mut().flat_map(|group| &mut group.endpoints));
        if groups.is_empty() {
            // A slice without endpoints says that the Service is known and has none.
            groups.insert(String::new(), Group { ports: ports(service, None), endpoints: Vec::new() });
        }
        for group in groups.into_values() {
            let fits = |slice: &&Arc<Object>| {
                slice.field("addressType") == family && same_ports(slice.field("ports"), &group.ports)
            };
            let (own, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(fits);
            rest = others;
            plan.place(family, group, &own);
        }
    }
    plan.actions.extend(rest.into_iter().map(|slice| remove(slice)));
    plan.actions
}

/// Whether each address family is wanted, primary first; `true` is IPv6.
pub(crate) fn families(service: &Object) -> Vec<bool> {
    let listed = service.field("spec.ipFamilies").as_array().into_iter().flatten();
    let mut families: Vec<bool> = listed.map(|family| family == "IPv6").collect();
    if families.is_empty() {
        families.push(service.field("spec.clusterIP").as_str().is_some_and(|address| address.contains(':')));
    }
    families
}

fn same_ports(stored: &Value, wanted: &[Value]) -> bool {
    stored.as_array().map_or(wanted.is_empty(), |stored| {
        stored.len() == wanted.len() && stored.iter().zip(wanted).all(|(stored, wanted)| contains(stored, wanted))
    })
}

/// Every field of `wanted` stands in `stored`; defaulted fields may stand there too.
fn contains(stored: &Value, wanted: &Value) -> bool {
    wanted.as_object().is_some_and(|fields| fields.iter().all(|(name, value)| stored[name] == *value))
}

fn endpoint(view: &View, service: &Object, backend: &Backend<'_>) -> Value {
    let pod = backend.pod;
    let leaving = pod.deletion_timestamp().is_some();
    let mut endpoint = json!({
        "addresses": [backend.address],
        "conditions": {"ready": backend.ready, "serving": pods::is_ready(pod), "terminating": leaving},
        "targetRef": {"kind": "Pod", "namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid()},
    });
    if let Some(node) = pods::node(pod) {
        endpoint["nodeName"] = json!(node);
        if let Some(zone) = view.get("nodes", "", node).and_then(|node| zones::of(node)) {
            endpoint["zone"] = json!(zone);
        }
    }
    if let Some(name) = host_name(service, pod) {
        endpoint["hostname"] = json!(name);
    }
    endpoint
}

/// `spec.hostname` of a pod whose `spec.subdomain` is this Service: its own DNS name.
pub(crate) fn host_name<'a>(service: &Object, pod: &'a Object) -> Option<&'a str> {
    let named = pod.field("spec.subdomain").as_str() == Some(service.name());
    pod.field("spec.hostname").as_str().filter(|name| named && !name.is_empty())
}

/// Endpoints that share a list of ports.
struct Group {
    ports: Vec<Value>,
    endpoints: Vec<Value>,
}

struct Plan<'a> {
    world: &'a World<'a>,
    service: &'a Arc<Object>,
    actions: Vec<Action>,
    made: usize,
}

impl Plan<'_> {
    fn place(&mut self, family: &str, group: Group, slices: &[&Arc<Object>]) {
        let mut wanted: BTreeMap<String, Value> =
            group.endpoints.into_iter().map(|one| (identity(&one), one)).collect();
        let mut contents: Vec<Vec<Value>> = Vec::new();
        for slice in slices {
            let kept = slice.field("endpoints").as_array().into_iter().flatten();
            contents.push(kept.filter_map(|endpoint| wanted.remove(&identity(endpoint))).collect());
        }
        let mut news = wanted.into_values();
        for content in &mut contents {
            let room = limits::SLICE_ENDPOINTS_MAX.saturating_sub(content.len());
            content.extend(news.by_ref().take(room));
        }
        let mut some = contents.iter().any(|content| !content.is_empty());
        for (slice, content) in slices.iter().zip(contents) {
            if content.is_empty() && std::mem::replace(&mut some, true) {
                self.actions.push(remove(slice));
            } else {
                self.update(slice, &content);
            }
        }
        loop {
            let content: Vec<Value> = news.by_ref().take(limits::SLICE_ENDPOINTS_MAX).collect();
            if content.is_empty() && some {
                return;
            }
            some = true;
            self.create(family, &group.ports, &content);
        }
    }

    fn update(&mut self, slice: &Object, content: &[Value]) {
        let stored = slice.field("endpoints").as_array().map_or(&[][..], Vec::as_slice);
        // These may have to go, which is no field that differs.
        let placed = |old: &Value, new: &Value| old["zone"] == new["zone"] && old["hints"] == new["hints"];
        let same = stored.len() == content.len()
            && stored.iter().zip(content).all(|(old, new)| contains(old, new) && placed(old, new));
        if !same {
            self.actions.push(status::patch(slice, json!({ "endpoints": content })));
        }
    }

    fn create(&mut self, family: &str, ports: &[Value], content: &[Value]) {
        let service = self.service;
        let prefix = format!("{}-", service.name());
        let name = owner::child_name(&prefix, service, self.world.view, self.made);
        self.made += 1;
        let mut labels = service.value["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        labels.insert("kubernetes.io/service-name".to_owned(), json!(service.name()));
        labels.insert("endpointslice.kubernetes.io/managed-by".to_owned(), json!(MANAGER));
        if service.field("spec.clusterIP") == "None" {
            labels.insert("service.kubernetes.io/headless".to_owned(), json!(""));
        }
        let body = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "generateName": prefix, "namespace": service.namespace(), "labels": labels,
                "ownerReferences": [owner::reference(service, &SERVICE)],
            },
            "addressType": family, "ports": ports, "endpoints": content,
        });
        self.actions.push(Action::Create { key: Key::new(SLICES, service.key.namespace.clone(), name), body });
    }
}

/// Which pod an endpoint is, at which address.
fn identity(endpoint: &Value) -> String {
    format!("{}/{}", endpoint["targetRef"]["uid"], endpoint["addresses"][0])
}

fn remove(slice: &Object) -> Action {
    Action::Delete { key: slice.key.clone(), precondition: Precondition::same(slice), grace_seconds: None }
}
