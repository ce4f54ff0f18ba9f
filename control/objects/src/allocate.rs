//! Addresses and ports of Services: the first free one, decided from the picture, taken by the transaction. Pure.
//!
//! What a Service holds is also written under a key of its own per address and port. The transaction that stores
//! the Service demands that those keys are free and takes them, so two members can never give the same one away;
//! the one that stores a Service without them, or removes it, gives them back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::claims::{self, Claim, number};
use api::{Cause, Key, Object, View};
use serde_json::{Value, json};

use crate::cluster_ips;

/// Ports that may be node ports.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// Whether objects of this resource can hold addresses or ports.
pub(crate) fn may_claim(resource: &str) -> bool {
    resource == "services"
}

/// The store keys of the addresses and ports that an object holds.
pub(crate) fn claims(resource: &str, value: &Value) -> BTreeSet<String> {
    if !may_claim(resource) {
        return BTreeSet::new();
    }
    let key = |claim| match claim {
        Claim::Address(address) => format!("/claims/services/address/{address}"),
        Claim::NodePort(port, protocol) => format!("/claims/services/port/{port}/{protocol}"),
    };
    claims::of(value).into_iter().map(key).collect()
}

/// What all Services but one hold.
#[derive(Clone, Copy)]
pub(crate) struct Others<'a> {
    pub(crate) view: &'a View,
    /// The one that does not count.
    pub(crate) own: Option<&'a Key>,
}

impl<'a> Others<'a> {
    /// From one claim on, in order.
    fn from(self, claim: Claim) -> impl Iterator<Item = &'a Claim> {
        let own = self.own.map(|key| (&*key.namespace, &*key.name));
        self.view.claims_from(claim).filter(move |(_, holder)| Some(*holder) != own).map(|(claim, _)| claim)
    }

    /// The addresses from one on, in order.
    pub(crate) fn addresses_from(self, address: IpAddr) -> impl Iterator<Item = IpAddr> + 'a {
        self.from(Claim::Address(address)).map_while(|claim| match claim {
            Claim::Address(address) => Some(*address),
            Claim::NodePort(..) => None,
        })
    }

    pub(crate) fn has_address(self, address: IpAddr) -> bool {
        self.addresses_from(address).next() == Some(address)
    }

    fn node_ports(self) -> BTreeSet<(u16, &'a str)> {
        let held = self.from(Claim::NodePort(0, "".into())).filter_map(|claim| match claim {
            Claim::NodePort(port, protocol) => Some((*port, &**protocol)),
            Claim::Address(_) => None,
        });
        held.collect()
    }
}

/// Fills in what a Service gets from the cluster: `clusterIP(s)`, `ipFamilies`, `ipFamilyPolicy`, `nodePort`s.
/// An update that leaves them out keeps what the Service has. The first `skip` that are free are left to others.
pub(crate) fn service(view: &View, old: Option<&Object>, new: &mut Value, skip: usize) -> Result<(), Vec<Cause>> {
    let before = old.map_or(&Value::Null, |old| &old.value["spec"]);
    if !new["spec"].is_object() {
        return Ok(());
    }
    if new["spec"]["type"] == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            remove(&mut new["spec"], field);
        }
        return Ok(());
    }
    keep_allocated(before, &mut new["spec"]);
    let others = Others { view, own: old.map(|old| &old.key) };
    cluster_ips::shorten(before, &mut new["spec"]);
    cluster_ips::assign(others, &mut new["spec"], skip)?;
    if matches!(new["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
        let allocated = new["spec"]["type"] == "NodePort" || new["spec"]["allocateLoadBalancerNodePorts"] != false;
        assign_node_ports(others, &mut new["spec"], allocated.then_some(skip))?;
    } else {
        for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            remove(port, "nodePort");
        }
        remove(&mut new["spec"], "healthCheckNodePort");
    }
    Ok(())
}

fn remove(object: &mut Value, field: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(field);
    }
}

fn is_unset(value: &Value) -> bool {
    value.is_null() || value == "" || *value == 0 || *value == json!([])
}

/// `patchAllocatedValues` of kube-apiserver: kubectl apply leaves out what the cluster chose.
fn keep_allocated(before: &Value, spec: &mut Value) {
    if before.is_null() || before["type"] == "ExternalName" {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
        if is_unset(&spec[field]) && !is_unset(&before[field]) {
            spec[field] = before[field].clone();
        }
    }
    let held = before["ports"].as_array().cloned().unwrap_or_default();
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        let same = |held: &&Value| held["port"] == port["port"] && held["protocol"] == port["protocol"];
        if is_unset(&port["nodePort"])
            && let Some(number) = held.iter().find(same).map(|held| &held["nodePort"]).filter(|held| !is_unset(held))
        {
            port["nodePort"] = number.clone();
        }
    }
}

fn nth_or_last<T>(free: impl Iterator<Item = T>, skip: usize) -> Option<T> {
    free.take(skip + 1).last()
}

/// Gives every port that has none a node port, unless `skip` is `None`; checks those that are asked for.
fn assign_node_ports(others: Others<'_>, spec: &mut Value, skip: Option<usize>) -> Result<(), Vec<Cause>> {
    let used = others.node_ports();
    let mut taken: BTreeSet<u16> = used.iter().map(|(port, _)| *port).collect();
    let ports = spec["ports"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let Some(number) = number(&port["nodePort"]) else { continue };
        let refuse = |why| vec![Cause::invalid(format!("spec.ports[{index}].nodePort"), &json!(number), why)];
        if !NODE_PORTS.contains(&number) {
            return Err(refuse("provided port is not in the valid range. The range of valid ports is 30000-32767"));
        }
        if used.contains(&(number, port["protocol"].as_str().unwrap_or("TCP"))) {
            return Err(refuse("provided port is already allocated"));
        }
        taken.insert(number);
    }
    let Some(skip) = skip else { return Ok(()) };
    for (index, port) in ports.iter_mut().enumerate() {
        if !is_unset(&port["nodePort"]) {
            continue;
        }
        let free = NODE_PORTS.filter(|number| !taken.contains(number));
        let Some(free) = nth_or_last(free, skip) else {
            let why = "failed to allocate a nodePort: range is full";
            return Err(vec![Cause::invalid(format!("spec.ports[{index}].nodePort"), &json!(0), why)]);
        };
        taken.insert(free);
        port["nodePort"] = json!(free);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ChangeKind;
    use std::sync::Arc;

    fn stored(view: &mut View, name: &str, spec: &Value) -> Arc<Object> {
        let mut value = json!({"metadata": {"name": name}, "spec": spec});
        service(view, None, &mut value, 0).unwrap();
        let revision = view.revision() + 1;
        let object = Arc::new(Object::new(Key::new("services", "default", name), revision, value));
        view.apply(ChangeKind::Added, &object);
        object
    }

    fn refusal(view: &View, spec: &Value) -> String {
        service(view, None, &mut json!({"spec": spec}), 0).unwrap_err()[0].message.clone()
    }

    #[test]
    fn the_first_free_address_and_port_are_given() {
        let mut view = View::default();
        let a = stored(&mut view, "a", &json!({"type": "ClusterIP"}));
        let b = stored(&mut view, "b", &json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}));
        assert_eq!(a.field("spec.clusterIPs"), &json!(["10.43.1.0"]));
        assert_eq!(a.field("spec.ipFamilies"), &json!(["IPv4"]));
        assert_eq!(b.field("spec.clusterIP"), &json!("10.43.1.1"));
        assert_eq!(b.field("spec.ports"), &json!([{"port": 80, "nodePort": 30000}, {"port": 81, "nodePort": 30001}]));
        assert_eq!(
            claims("services", &b.value).into_iter().collect::<Vec<_>>(),
            [
                "/claims/services/address/10.43.1.1",
                "/claims/services/port/30000/TCP",
                "/claims/services/port/30001/TCP"
            ]
        );
        let headless = stored(&mut view, "h", &json!({"type": "ClusterIP", "clusterIP": "None"}));
        assert!(claims("services", &headless.value).is_empty());
        let outside = stored(&mut view, "e", &json!({"type": "ExternalName", "externalName": "x.test"}));
        assert!(outside.field("spec.clusterIP").is_null());
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused() {
        let mut view = View::default();
        let dns = stored(&mut view, "dns", &json!({"type": "ClusterIP", "clusterIP": "10.43.0.10"}));
        assert_eq!(dns.field("spec.clusterIPs"), &json!(["10.43.0.10"]));
        assert!(refusal(&view, &json!({"clusterIP": "10.43.0.10"})).ends_with("provided IP is already allocated"));
        assert!(refusal(&view, &json!({"clusterIP": "10.1.2.3"})).contains("not in the valid range"));
        stored(&mut view, "n", &json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30080}]}));
        let again = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30080}]});
        assert!(refusal(&view, &again).ends_with("provided port is already allocated"));
    }

    #[test]
    fn an_update_keeps_what_was_given_until_the_type_changes() {
        let mut view = View::default();
        let ports = json!([{"port": 80, "protocol": "TCP"}]);
        let old = stored(&mut view, "a", &json!({"type": "NodePort", "ports": ports}));
        let mut new = json!({"spec": {"type": "NodePort", "ports": ports}});
        service(&view, Some(&old), &mut new, 0).unwrap();
        assert_eq!(new["spec"], old.value["spec"]);
        new["spec"]["type"] = json!("ClusterIP");
        service(&view, Some(&old), &mut new, 0).unwrap();
        assert_eq!((&new["spec"]["clusterIP"], &new["spec"]["ports"]), (&json!("10.43.1.0"), &ports));
    }
}
