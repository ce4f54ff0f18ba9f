//! Where the API servers are: the EndpointSlices and Endpoints of the Service `kubernetes` in `default`. Pure.
//!
//! One EndpointSlice has one list of ports, so members that listen on different ports (several on one machine) stand in
//! slices of their own. kube-apiserver keeps these objects itself too, by its Leases.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::{Action, Key, Object, Precondition, View};
use raft_store::StoreStatus;
use serde_json::{Value, json};

use crate::member::Announced;

const SLICES: &str = "endpointslices.discovery.k8s.io";
const SERVICE: &str = "kubernetes";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const US: &str = "kogia-membership";

/// Whether a change is about one of these objects.
pub(super) fn concerns(object: &Object) -> bool {
    matches!(&*object.key.resource, SLICES | "endpoints")
        && &*object.key.namespace == "default"
        && object.name().starts_with(SERVICE)
}

/// What brings the objects to what they should be.
pub(super) fn plan(view: &View, members: &[Announced], status: &StoreStatus) -> Vec<Action> {
    let belongs = |member: &&Announced| status.members.iter().any(|known| known.member_id == member.number);
    let leaving = |member: &&Announced| !member.remove;
    let mut groups: BTreeMap<(bool, u16), Vec<IpAddr>> = BTreeMap::new();
    for api in members.iter().filter(belongs).filter(leaving).filter_map(|member| member.api) {
        groups.entry((api.is_ipv6(), api.port())).or_default().push(api.ip());
    }
    // Without any there is nothing to say, and what was said last is better than nothing.
    if groups.is_empty() {
        return Vec::new();
    }
    let mut actions = Vec::new();
    let mut wanted = Vec::new();
    for (place, ((ipv6, port), mut addresses)) in groups.into_iter().enumerate() {
        addresses.sort_unstable();
        addresses.dedup();
        let name = if place == 0 { SERVICE.to_owned() } else { format!("{SERVICE}-{port}") };
        let body = slice(&name, ipv6, port, &addresses);
        actions.extend(put(view, &Key::new(SLICES, "default", name.as_str()), body, &["endpoints", "ports"]));
        wanted.push((name, port, addresses));
    }
    let ours = |slice: &&std::sync::Arc<Object>| slice.label(MANAGED_BY) == Some(US);
    for slice in view.list_in(SLICES, "default").filter(ours) {
        if !wanted.iter().any(|(name, ..)| name == slice.name()) {
            let precondition = Precondition::same(slice);
            actions.push(Action::Delete { key: slice.key.clone(), precondition, grace_seconds: None });
        }
    }
    let subset = |(_, port, addresses): &(String, u16, Vec<IpAddr>)| {
        let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        json!({"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]})
    };
    let body = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": SERVICE, "namespace": "default"},
        "subsets": wanted.iter().map(subset).collect::<Vec<_>>(),
    });
    actions.extend(put(view, &Key::new("endpoints", "default", SERVICE), body, &["subsets"]));
    actions
}

fn slice(name: &str, ipv6: bool, port: u16, addresses: &[IpAddr]) -> Value {
    let endpoint = |ip: &IpAddr| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": SERVICE, MANAGED_BY: US},
        },
        "addressType": if ipv6 { "IPv6" } else { "IPv4" },
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

/// Creates an object, or replaces these fields of it where they differ.
fn put(view: &View, key: &Key, body: Value, fields: &[&str]) -> Option<Action> {
    let Some(known) = view.at(key) else { return Some(Action::Create { key: key.clone(), body }) };
    if fields.iter().all(|field| known.value[*field] == body[*field]) {
        return None;
    }
    let patch: serde_json::Map<String, Value> =
        fields.iter().map(|field| ((*field).to_owned(), body[*field].clone())).collect();
    let precondition = Precondition::unchanged(known);
    Some(Action::Patch { key: key.clone(), subresource: None, patch: patch.into(), precondition })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ChangeKind;
    use raft_store::MemberStatus;
    use std::sync::Arc;

    fn member(number: u64, api: &str) -> Announced {
        Announced {
            key: crate::member::key("n"),
            uid: String::new(),
            number,
            name: "n".into(),
            peer: String::new(),
            api: api.parse().ok(),
            version: String::new(),
            instance: String::new(),
            renewed_ms: 0,
            remove: false,
            lead: false,
        }
    }

    /// Does what was planned and returns `name addresses:port` of every slice.
    fn after(view: &mut View, members: &[Announced], numbers: &[u64]) -> Vec<String> {
        let known = |number: &u64| MemberStatus { member_id: *number, address: String::new(), voter: true };
        let status = StoreStatus { members: numbers.iter().map(known).collect(), ..StoreStatus::default() };
        for action in plan(view, members, &status) {
            let revision = view.revision() + 1;
            match action {
                Action::Create { key, body } => {
                    view.apply(ChangeKind::Added, &Arc::new(Object::new(key, revision, body)));
                }
                Action::Patch { key, patch, .. } => {
                    let mut value = view.at(&key).unwrap().value.clone();
                    value.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
                    view.apply(ChangeKind::Modified, &Arc::new(Object::new(key, revision, value)));
                }
                Action::Delete { key, .. } => {
                    let last = view.at(&key).unwrap().value.clone();
                    view.apply(ChangeKind::Deleted, &Arc::new(Object::new(key, revision, last)));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(plan(view, members, &status).is_empty(), "the second look finds nothing to do");
        let addresses = |slice: &Arc<Object>| {
            let list = slice.value["endpoints"].as_array().unwrap().iter();
            let list: Vec<&str> = list.map(|endpoint| endpoint["addresses"][0].as_str().unwrap()).collect();
            format!("{} {}:{}", slice.name(), list.join(","), slice.value["ports"][0]["port"])
        };
        view.list_in(SLICES, "default").map(addresses).collect()
    }

    #[test]
    fn members_stand_in_slices_by_port() {
        let mut view = View::default();
        let three = [member(1, "10.0.0.1:6443"), member(2, "10.0.0.2:6443"), member(3, "10.0.0.3:6443")];
        assert_eq!(after(&mut view, &three, &[1, 2, 3]), ["kubernetes 10.0.0.1,10.0.0.2,10.0.0.3:6443"]);
        assert_eq!(after(&mut view, &three, &[1, 3]), ["kubernetes 10.0.0.1,10.0.0.3:6443"]);
        let laptop = [member(1, "127.0.0.1:6443"), member(2, "127.0.0.1:6453")];
        let both = ["kubernetes 127.0.0.1:6443", "kubernetes-6453 127.0.0.1:6453"];
        assert_eq!(after(&mut view, &laptop, &[1, 2]), both);
        let endpoints = view.get("endpoints", "default", "kubernetes").unwrap();
        assert_eq!(endpoints.value["subsets"].as_array().unwrap().len(), 2);
        assert_eq!(after(&mut view, &laptop, &[1]), both[..1]);
        assert_eq!(after(&mut view, &[], &[1]), both[..1], "nobody is better than a wrong answer");
    }
}
