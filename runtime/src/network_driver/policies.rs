//! NetworkPolicies, Pods and Namespaces, reduced to what a decision reads. Pure.
//!
//! Nothing that cannot be read widens a policy: an unknown operator fits no label, an unreadable peer or port is left
//! out of its list, and the list stays a list even when it is empty then.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use network::policy::{Labels, NetworkPolicy, Peer, PodFacts, PolicyPort, PortMatch, Requirement, Rule, Selector};

use super::objects;

/// Takes away what no policy reads: a pod's containers but for their ports, and most of its status.
pub(super) fn keep_what_counts(pod: &mut core::Pod) {
    pod.metadata.annotations = None;
    if let Some(spec) = &mut pod.spec {
        let bare =
            |container: core::Container| core::Container { ports: container.ports, ..core::Container::default() };
        let containers = std::mem::take(&mut spec.containers).into_iter().map(bare).collect();
        *spec = core::PodSpec { containers, ..core::PodSpec::default() };
    }
    if let Some(status) = &mut pod.status {
        let core::PodStatus { phase, pod_ip, pod_ips, .. } = std::mem::take(status);
        *status = core::PodStatus { phase, pod_ip, pod_ips, ..core::PodStatus::default() };
    }
}

/// A pod; `None` when it has ended, since its address may be another's by now.
#[must_use]
pub fn pod(object: &core::Pod) -> Option<PodFacts> {
    let status = object.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let addresses = status.pod_ips.into_iter().flatten().map(|entry| entry.ip).chain(status.pod_ip);
    let containers = object.spec.iter().flat_map(|spec| &spec.containers);
    let named = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|entry| {
        Some((entry.name.clone()?, objects::protocol(entry.protocol.as_deref())?, objects::port(entry.container_port)?))
    });
    Some(PodFacts {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        addresses: addresses.filter_map(|ip| ip.parse().ok()).collect(),
        ports: named.collect(),
    })
}

/// A namespace's name and labels.
#[must_use]
pub fn namespace(object: &core::Namespace) -> (String, Labels) {
    let metadata = &object.metadata;
    (metadata.name.clone().unwrap_or_default(), metadata.labels.clone().unwrap_or_default())
}

/// A NetworkPolicy. Without `policyTypes` it is about what comes in, and about what goes out if it says anything there.
#[must_use]
pub fn policy(object: &networking::NetworkPolicy) -> NetworkPolicy {
    let spec = object.spec.clone().unwrap_or_default();
    let about = |direction: &str, otherwise: bool| match spec.policy_types.as_deref() {
        None | Some([]) => otherwise,
        Some(types) => types.iter().any(|name| name == direction),
    };
    let (incoming, outgoing) = (about("Ingress", true), about("Egress", spec.egress.is_some()));
    let ingress = spec.ingress.into_iter().flatten().map(|entry| rule(entry.from, entry.ports));
    let egress = spec.egress.into_iter().flatten().map(|entry| rule(entry.to, entry.ports));
    NetworkPolicy {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
        pods: selector(spec.pod_selector.as_ref()),
        ingress: incoming.then(|| ingress.collect()),
        egress: outgoing.then(|| egress.collect()),
    }
}

fn rule(peers: Option<Vec<networking::NetworkPolicyPeer>>, ports: Option<Vec<networking::NetworkPolicyPort>>) -> Rule {
    let peers = peers.filter(|peers| !peers.is_empty());
    let ports = ports.filter(|ports| !ports.is_empty());
    Rule {
        peers: peers.map(|peers| peers.into_iter().filter_map(peer).collect()),
        ports: ports.map(|ports| ports.into_iter().filter_map(port).collect()),
    }
}

fn peer(object: networking::NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = object.ip_block {
        // A hole that cannot be read must not be filled.
        let except: Result<_, _> = block.except.into_iter().flatten().map(|hole| hole.parse()).collect();
        return Some(Peer::Block { block: block.cidr.parse().ok()?, except: except.ok()? });
    }
    if object.namespace_selector.is_none() && object.pod_selector.is_none() {
        return None;
    }
    let namespaces = object.namespace_selector.as_ref().map(|namespaces| selector(Some(namespaces)));
    Some(Peer::Pods { namespaces, pods: selector(object.pod_selector.as_ref()) })
}

fn port(object: networking::NetworkPolicyPort) -> Option<PolicyPort> {
    let protocol = objects::protocol(object.protocol.as_deref())?;
    let port = match (object.port, object.end_port) {
        (None, _) => PortMatch::Any,
        (Some(IntOrString::String(name)), _) => PortMatch::Name(name),
        (Some(IntOrString::Int(first)), last) => {
            PortMatch::Range(objects::port(first)?, objects::port(last.unwrap_or(first))?)
        }
    };
    Some(PolicyPort { protocol, port })
}

fn selector(object: Option<&LabelSelector>) -> Selector {
    let Some(object) = object else { return Selector::default() };
    let equal = object.match_labels.iter().flatten();
    let equal = equal.map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()]));
    let further = object.match_expressions.iter().flatten().map(|entry| {
        let (key, values) = (entry.key.clone(), entry.values.clone().unwrap_or_default());
        match entry.operator.as_str() {
            "In" => Requirement::In(key, values),
            "NotIn" => Requirement::NotIn(key, values),
            "Exists" => Requirement::Exists(key),
            "DoesNotExist" => Requirement::DoesNotExist(key),
            _ => Requirement::In(key, Vec::new()),
        }
    });
    Selector(equal.chain(further).collect())
}

#[cfg(test)]
mod tests {
    use network::services::Protocol;
    use serde_json::{Value, from_value, json};

    use super::*;

    fn read(spec: &Value) -> NetworkPolicy {
        policy(&from_value(json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec})).unwrap())
    }

    #[test]
    fn directions_follow_policy_types_or_what_is_said() {
        let both = |policy: NetworkPolicy| (policy.ingress.is_some(), policy.egress.is_some());
        assert_eq!(both(read(&json!({"podSelector": {}}))), (true, false));
        assert_eq!(both(read(&json!({"podSelector": {}, "egress": []}))), (true, true));
        assert_eq!(both(read(&json!({"podSelector": {}, "policyTypes": ["Egress"]}))), (false, true));
        assert_eq!(both(read(&json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]}))), (true, false));
    }

    #[test]
    fn rules_are_read_and_never_widened() {
        let read =
            read(&json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["a"]}]},
            "ingress": [
                {},
                {"from": [], "ports": []},
                {"from": [{"ipBlock": {"cidr": "nonsense"}}, {}], "ports": [{"protocol": "SCTP", "port": 80}]},
                {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                          {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["what"]}},
                          {"namespaceSelector": {"matchLabels": {"team": "ops"}}}],
                 "ports": [{"port": "http"}, {"protocol": "UDP", "port": 53}, {"port": 1000, "endPort": 2000}, {}]},
            ]}));
        assert!(!read.pods.matches(&Labels::from([("app".into(), "a".into())])));
        let rules = read.ingress.unwrap();
        assert!(rules[..2].iter().all(|rule| rule.peers.is_none() && rule.ports.is_none()));
        assert!(rules[2].peers.as_ref().unwrap().is_empty() && rules[2].ports.as_ref().unwrap().is_empty());
        let peers = rules[3].peers.as_ref().unwrap();
        assert!(matches!(
            peers.as_slice(),
            [Peer::Block { except, .. }, Peer::Pods { namespaces: Some(_), .. }] if except.len() == 1
        ));
        let ports: Vec<_> = rules[3].ports.iter().flatten().map(|port| (port.protocol, port.port.clone())).collect();
        let expected = [
            (Protocol::Tcp, PortMatch::Name("http".into())),
            (Protocol::Udp, PortMatch::Range(53, 53)),
            (Protocol::Tcp, PortMatch::Range(1000, 2000)),
            (Protocol::Tcp, PortMatch::Any),
        ];
        assert_eq!(ports, expected);
    }

    #[test]
    fn a_pod_has_labels_addresses_and_named_ports_until_it_ends() {
        let object = |phase: &str| {
            let mut pod: core::Pod = from_value(json!({
                "metadata": {"name": "a", "namespace": "shop", "labels": {"app": "a"}, "annotations": {"x": "y"}},
                "spec": {"containers": [{"name": "c", "image": "i", "ports": [
                    {"name": "http", "containerPort": 8080}, {"containerPort": 9}]}]},
                "status": {"phase": phase, "podIP": "10.42.0.2", "podIPs": [{"ip": "10.42.0.2"}, {"ip": "fd42::2"}]},
            }))
            .unwrap();
            keep_what_counts(&mut pod);
            super::pod(&pod)
        };
        let facts = object("Running").unwrap();
        assert_eq!(facts.ports, [("http".to_owned(), Protocol::Tcp, 8080)]);
        assert_eq!((facts.addresses.len(), facts.labels["app"].as_str()), (3, "a"));
        assert!(object("Succeeded").is_none() && object("Failed").is_none());
    }
}
