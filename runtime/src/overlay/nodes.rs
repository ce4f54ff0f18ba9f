//! The nodes of the cluster as the API has them: where their pods are and where they can be reached; and what this node says
//! of itself.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use network::{NodeRanges, Topology};
use serde_json::json;

use super::limits::{ADDRESSES_LOOK, ENDPOINTS_MAX};
use super::link::{Dialler, Hold};
use super::{Config, Links};
use crate::registration::MEMBER_ROLE;

/// Where a node can be reached by others: `IP:PORT`, several separated by commas. Written by the node itself.
pub const ENDPOINTS_ANNOTATION: &str = "kogia.dev/overlay";

/// Follows the nodes and keeps this one's annotation true. Ends never.
pub(super) async fn follow(config: &Config, listening: SocketAddr, links: &Links, dialler: &Dialler) {
    let nodes: Api<Node> = Api::all(config.client.clone());
    let (store, writer) = reflector::store();
    let slim = watch(nodes.clone(), watcher::Config::default()).default_backoff().modify(|node| {
        node.metadata.managed_fields = None;
        node.status = None;
    });
    let mut changes = reflector::reflector(writer, slim).boxed();
    let mut look = tokio::time::interval(ADDRESSES_LOOK);
    let mut listed = false;
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(Event::Init | Event::InitApply(_))) => continue,
                Some(Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone)) => {
                    listed = true;
                    install(config, &store, links, dialler);
                }
                Some(Err(error)) => tracing::debug!(%error, "the watch of nodes was interrupted"),
                None => return,
            },
            _ = look.tick() => {}
        }
        if listed {
            publish(config, listening, &nodes, &store).await;
        }
    }
}

fn install(config: &Config, store: &Store<Node>, links: &Links, dialler: &Dialler) {
    let nodes = store.state();
    let mut ranges: Vec<NodeRanges> = nodes.iter().map(|node| node_ranges(node)).collect();
    // The same order on every node, so that all settle a quarrel about a range in the same way.
    ranges.sort_by(|one, other| one.name.cmp(&other.name));
    config.fabric.set_topology(Topology::build(&config.name, &ranges, &config.fabric.config().cluster));
    let own_member = nodes.iter().any(|node| node.name_any() == config.name && is_member(node));
    for node in nodes.iter().filter(|node| node.name_any() != config.name) {
        let link = links.to(&node.name_any(), dialler);
        link.set_endpoints(endpoints(node));
        link.hold(match (own_member, is_member(node)) {
            (false, true) => Hold::Make,
            (true, false) => Hold::Keep,
            _ => Hold::No,
        });
    }
    let names: HashSet<String> = nodes.iter().map(|node| node.name_any()).collect();
    let members = nodes.iter().filter(|node| is_member(node)).map(|node| node.name_any().into());
    dialler.relay.set(members.collect(), &names);
    links.keep(|name| names.contains(name));
}

/// Whether a node is a member's, which nodes can dial: they joined through one.
fn is_member(node: &Node) -> bool {
    node.labels().contains_key(MEMBER_ROLE)
}

fn node_ranges(node: &Node) -> NodeRanges {
    let spec = node.spec.as_ref();
    let several = spec.and_then(|spec| spec.pod_cidrs.as_ref()).filter(|ranges| !ranges.is_empty());
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let texts = several.map_or_else(|| one.into_iter().collect(), |ranges| ranges.iter().collect::<Vec<_>>());
    NodeRanges { name: node.name_any(), ranges: texts.iter().filter_map(|range| range.parse().ok()).collect() }
}

/// What a node's annotation says; what cannot be read is left out.
fn endpoints(node: &Node) -> Vec<SocketAddr> {
    let text = node.annotations().get(ENDPOINTS_ANNOTATION).map_or("", String::as_str);
    let plain = |address: &SocketAddr| !address.ip().is_unspecified() && !address.ip().is_multicast();
    text.split(',').filter_map(|part| part.trim().parse().ok()).filter(plain).take(ENDPOINTS_MAX).collect()
}

/// Writes the annotation where it is not what it should be. One that cannot be written is tried again at the next look.
async fn publish(config: &Config, listening: SocketAddr, nodes: &Api<Node>, store: &Store<Node>) {
    let reference = reflector::ObjectRef::<Node>::new(&config.name);
    // A node that has not registered yet has nothing to write to.
    let Some(own) = store.get(&reference) else { return };
    let addresses = reachable_at(config, listening);
    let texts: Vec<String> = addresses.iter().take(ENDPOINTS_MAX).map(ToString::to_string).collect();
    let wanted = texts.join(",");
    if wanted.is_empty() || own.annotations().get(ENDPOINTS_ANNOTATION) == Some(&wanted) {
        return;
    }
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ENDPOINTS_ANNOTATION: wanted}}}));
    match nodes.patch(&config.name, &PatchParams::default(), &patch).await {
        Ok(_) => tracing::info!(endpoints = wanted, "other nodes reach this one here"),
        Err(error) => tracing::debug!(%error, "cannot say where this node is reached"),
    }
}

fn reachable_at(config: &Config, listening: SocketAddr) -> Vec<SocketAddr> {
    let mut addresses = config.addresses.clone();
    if addresses.is_empty() {
        addresses = if listening.ip().is_unspecified() { outward(listening.ip()) } else { vec![listening.ip()] };
    }
    addresses.into_iter().map(|ip| SocketAddr::new(ip, listening.port())).collect()
}

/// The addresses from which this machine would send to the world, by its routes. Nothing is sent.
fn outward(listening: IpAddr) -> Vec<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): no host has them, and the default route leads there.
    let away = [
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), SocketAddr::from(([192, 0, 2, 1], 9))),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9))),
    ];
    let own = |(any, away): (IpAddr, SocketAddr)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(away).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    let families = if listening.is_ipv6() { &away[..] } else { &away[..1] };
    let found: Vec<IpAddr> = families.iter().copied().filter_map(own).collect();
    if found.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { found }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value};

    use super::*;

    fn node(object: Value) -> Node {
        from_value(object).unwrap()
    }

    #[test]
    fn a_node_says_where_it_and_its_pods_are() {
        let full = node(json!({
            "metadata": {"name": "a", "annotations": {ENDPOINTS_ANNOTATION: "192.0.2.7:6444, [fd00::7]:6444,x,0.0.0.0:1,"}},
            "spec": {"podCIDR": "10.42.0.0/20", "podCIDRs": ["10.42.0.0/20", "fd42::/64", "what"]},
        }));
        let expected: Vec<SocketAddr> = ["192.0.2.7:6444", "[fd00::7]:6444"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(endpoints(&full), expected);
        let ranges = node_ranges(&full);
        assert_eq!((ranges.name.as_str(), ranges.ranges.len()), ("a", 2));
        let old = node(json!({"metadata": {"name": "b"}, "spec": {"podCIDR": "10.42.16.0/20"}}));
        assert_eq!((node_ranges(&old).ranges.len(), endpoints(&old).len()), (1, 0));
        let bare = node(json!({"metadata": {"name": "c"}}));
        assert_eq!(node_ranges(&bare).ranges, []);
    }
}
