//! Which node has which pod addresses. Pure; built from the Nodes of the API and installed whole.
//!
//! A range that is not the cluster's, or that overlaps with one taken before, is left out: a Node object must not be able
//! to draw the traffic of others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::cidr::Cidr;

/// A node's part of the pod networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRanges {
    /// `metadata.name`.
    pub name: String,
    /// `spec.podCIDRs`.
    pub ranges: Vec<Cidr>,
}

/// The ranges of all nodes.
#[derive(Debug, Default)]
pub struct Topology {
    own: Arc<str>,
    /// By first address; none overlaps another.
    ranges: BTreeMap<IpAddr, (IpAddr, Arc<str>)>,
    /// This node's address in each of its ranges.
    gateways: Vec<IpAddr>,
}

impl Topology {
    /// The table of the node called `own`. Its own ranges come first, the others' in the order given.
    #[must_use]
    pub fn build(own: &str, nodes: &[NodeRanges], cluster: &[Cidr]) -> Self {
        let mut table = Self { own: own.into(), ..Self::default() };
        let (mine, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.name == own);
        for node in mine.into_iter().chain(others) {
            let name: Arc<str> = if node.name == own { table.own.clone() } else { node.name.as_str().into() };
            for range in &node.ranges {
                let (first, last) = (range.first(), range.last());
                let inside = cluster.iter().any(|all| all.contains(first) && all.contains(last));
                if !inside || table.overlaps(first, last) {
                    continue;
                }
                if node.name == own {
                    table.gateways.push(next(first));
                }
                table.ranges.insert(first, (last, name.clone()));
            }
        }
        table
    }

    fn overlaps(&self, first: IpAddr, last: IpAddr) -> bool {
        // Addresses of different families order by family, so that no IPv6 range lies between two IPv4 addresses.
        self.ranges.range(..=last).next_back().is_some_and(|(_, (end, _))| *end >= first)
    }

    fn range(&self, ip: IpAddr) -> Option<(IpAddr, &Arc<str>)> {
        let (first, (last, node)) = self.ranges.range(..=ip).next_back()?;
        (ip <= *last).then_some((*first, node))
    }

    /// The node that has an address, this one included.
    #[must_use]
    pub fn node(&self, ip: IpAddr) -> Option<&Arc<str>> {
        self.range(ip).map(|(_, node)| node)
    }

    /// The other node that has an address.
    #[must_use]
    pub fn elsewhere(&self, ip: IpAddr) -> Option<&Arc<str>> {
        self.node(ip).filter(|node| **node != self.own)
    }

    /// Whether an address is a node's own: the first of its range behind the network's.
    #[must_use]
    pub fn is_gateway(&self, ip: IpAddr) -> bool {
        self.range(ip).is_some_and(|(first, _)| next(first) == ip)
    }

    /// This node's own addresses, one per range; empty while it has none.
    #[must_use]
    pub fn gateways(&self) -> &[IpAddr] {
        &self.gateways
    }
}

fn next(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(1)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ranges: &[&str]) -> NodeRanges {
        NodeRanges { name: name.into(), ranges: ranges.iter().map(|range| range.parse().unwrap()).collect() }
    }

    fn cluster() -> Vec<Cidr> {
        vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()]
    }

    #[test]
    fn addresses_belong_to_nodes() {
        let nodes = [
            node("b", &["10.42.16.0/20", "fd42:0:0:1::/64"]),
            node("a", &["10.42.0.0/20", "fd42::/64"]),
            node("c", &["10.42.32.0/20"]),
        ];
        let table = Topology::build("a", &nodes, &cluster());
        let said = |ip: &str| table.node(ip.parse().unwrap()).map(|node| node.to_string());
        let cases = [
            ("10.42.0.0", Some("a")),
            ("10.42.15.255", Some("a")),
            ("10.42.16.0", Some("b")),
            ("10.42.47.255", Some("c")),
            ("10.42.48.0", None),
            ("10.41.255.255", None),
            ("fd42::9", Some("a")),
            ("fd42:0:0:1:ffff::", Some("b")),
            ("fd42:0:0:2::", None),
            ("::1", None),
            ("255.255.255.255", None),
        ];
        for (ip, expected) in cases {
            assert_eq!(said(ip).as_deref(), expected, "{ip}");
        }
        let elsewhere = |ip: &str| table.elsewhere(ip.parse().unwrap()).map(|node| node.to_string());
        assert_eq!((elsewhere("10.42.0.2"), elsewhere("10.42.16.2").as_deref()), (None, Some("b")));
        let gateways: Vec<String> = table.gateways().iter().map(ToString::to_string).collect();
        assert_eq!(gateways, ["10.42.0.1", "fd42::1"]);
        for (ip, expected) in
            [("10.42.16.1", true), ("10.42.16.2", false), ("fd42:0:0:1::1", true), ("10.43.0.1", false)]
        {
            assert_eq!(table.is_gateway(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn a_node_cannot_draw_the_traffic_of_others() {
        let nodes = [
            node("greedy", &["0.0.0.0/0", "10.42.0.0/15", "10.42.0.0/16", "::/0", "10.43.0.0/16", "10.42.240.0/20"]),
            node("own", &["10.42.0.0/20"]),
            node("late", &["10.42.240.0/24", "10.42.241.0/24"]),
        ];
        let table = Topology::build("own", &nodes, &cluster());
        let said = |ip: &str| table.node(ip.parse().unwrap()).map(|node| node.to_string());
        let cases = [
            ("10.42.0.2", Some("own")),
            ("10.42.16.2", None),
            ("10.43.0.1", None),
            ("1.1.1.1", None),
            ("fd42::1", None),
            ("10.42.240.1", Some("greedy")),
            ("10.42.241.1", Some("greedy")),
        ];
        for (ip, expected) in cases {
            assert_eq!(said(ip).as_deref(), expected, "{ip}");
        }
    }
}
