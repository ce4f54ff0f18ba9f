//! Gives every node its part of the pod networks: `spec.podCIDR` and `spec.podCIDRs`.
//!
//! All nodes share one key, so that two nodes cannot be given the same range at the same time.
//!
//! A node says how many pods it will take (annotation `kogia.dev/pods-max`) and is given a range for that many, but
//! never more than a quarter of what is free: the first node of a cluster can hold ten thousand pods and more, and
//! there is still room for twenty others.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use api::{Action, Change, ChangeKind, Key, Object, Precondition, Severity, View};
use serde_json::{Value, json};

use crate::World;

/// The pod networks: `10.42.0.0/16` cut into ranges between /18 (16,381 pods) and /24 (253), `fd42::/48` cut into /64.
const V4_BASE: u32 = u32::from_be_bytes([10, 42, 0, 0]);
const V4_SIZE: u32 = 1 << 16;
const V4_RANGE_MAX: u32 = 1 << 14;
const V4_RANGE_MIN: u32 = 1 << 8;
const V6_RANGES: u32 = 1 << 16;
/// Addresses of a range that no pod gets: the network's, the node's, the broadcast.
const V4_RESERVED: u32 = 3;
/// Pods of a node that does not say how many it will take.
const PODS_DEFAULT: u32 = 4_000;
const PODS_MAX: &str = "kogia.dev/pods-max";

/// A part of the IPv4 pod network: its first address, counted from the network's, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    size: u32,
}

/// Any change of a node wakes the one key.
pub(crate) fn keys(change: &Change, _: &View) -> Vec<Key> {
    let old = change.previous.as_ref();
    let given = |range: &serde_json::Value| range.is_array();
    let settled = change.kind == ChangeKind::Modified
        && given(change.object.field("spec.podCIDRs"))
        && old.is_some_and(|old| given(old.field("spec.podCIDRs")));
    if &*change.object.key.resource == "nodes" && !settled { vec![Key::new("nodes", "", "")] } else { Vec::new() }
}

/// All nodes.
pub(crate) fn reconcile(world: &World<'_>, _: &Key) -> Vec<Action> {
    let ranges = |field: &str| -> BTreeSet<String> {
        let all = world.view.list("nodes").flat_map(|node| match node.field(field) {
            Value::Array(several) => several.iter().collect(),
            one => vec![one],
        });
        all.filter_map(|range| range.as_str().map(str::to_owned)).collect()
    };
    let taken = ranges("spec.podCIDRs");
    let mut taken_v4: Vec<Range> =
        taken.union(&ranges("spec.podCIDR")).filter_map(|range| Range::parse(range)).collect();
    let mut free_v6 = (0..V6_RANGES).map(v6).filter(|range| !taken.contains(range));
    let mut actions = Vec::new();
    for node in world.view.list("nodes").filter(|node| node.field("spec.podCIDRs").is_null()) {
        let v4 = match node.field("spec.podCIDR").as_str() {
            Some(own) => Some(own.to_owned()),
            None => free(&taken_v4, pods_max(node)).map(|range| {
                taken_v4.push(range);
                range.cidr()
            }),
        };
        let (Some(v4), Some(v6)) = (v4, free_v6.next()) else {
            actions.push(Action::Tell {
                about: node.key.clone(),
                uid: node.uid().to_owned(),
                kind: "Node",
                severity: Severity::Warning,
                reason: "CIDRNotAvailable",
                message: format!("Node {} status is now: CIDRNotAvailable", node.name()),
            });
            continue;
        };
        actions.push(Action::Patch {
            key: node.key.clone(),
            subresource: None,
            patch: json!({"spec": {"podCIDR": v4, "podCIDRs": [v4, v6]}}),
            precondition: Precondition::same(node),
        });
    }
    actions
}

/// How many pods a node will take.
fn pods_max(node: &Object) -> u32 {
    let asked = node.field("metadata.annotations").get(PODS_MAX).and_then(Value::as_str);
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(PODS_DEFAULT)
}

/// The first free range for so many pods, or a smaller one where that would be too much of what is left.
fn free(taken: &[Range], pods: u32) -> Option<Range> {
    let used: u32 = taken.iter().map(|range| range.size).sum();
    let share = V4_SIZE.saturating_sub(used) / 4;
    let wanted = pods.saturating_add(V4_RESERVED).min(V4_RANGE_MAX).next_power_of_two().max(V4_RANGE_MIN);
    let mut size = wanted;
    while size > V4_RANGE_MIN && size > share {
        size /= 2;
    }
    while size >= V4_RANGE_MIN {
        let mut candidates = (0..V4_SIZE / size).map(|index| Range { first: index * size, size });
        if let Some(range) = candidates.find(|range| !taken.iter().any(|other| range.overlaps(*other))) {
            return Some(range);
        }
        size /= 2;
    }
    None
}

impl Range {
    /// Reads `10.42.16.0/20`; `None` for what is not of this network.
    fn parse(cidr: &str) -> Option<Range> {
        let (address, prefix) = cidr.split_once('/')?;
        let (address, prefix): (Ipv4Addr, u32) = (address.parse().ok()?, prefix.parse().ok()?);
        let first = u32::from(address).checked_sub(V4_BASE).filter(|first| *first < V4_SIZE)?;
        (16..=32).contains(&prefix).then(|| Range { first, size: 1 << (32 - prefix) })
    }

    fn cidr(self) -> String {
        format!("{}/{}", Ipv4Addr::from(V4_BASE + self.first), 32 - self.size.trailing_zeros())
    }

    fn overlaps(self, other: Range) -> bool {
        self.first < other.first + other.size && other.first < self.first + self.size
    }
}

fn v6(index: u32) -> String {
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    format!("{}/64", Ipv6Addr::new(0xfd42, 0, 0, index, 0, 0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_as_they_are_read() {
        for cidr in ["10.42.0.0/18", "10.42.16.0/20", "10.42.240.0/24"] {
            assert_eq!(Range::parse(cidr).unwrap().cidr(), cidr);
        }
        assert_eq!([Range::parse("10.43.0.0/20"), Range::parse("fd42::/64"), Range::parse("10.42.0.0/8")], [None; 3]);
        assert_eq!([v6(0), v6(1)], ["fd42::/64", "fd42:0:0:1::/64"]);
    }

    #[test]
    fn the_first_node_holds_ten_thousand_pods_and_many_find_room() {
        let mut taken = Vec::new();
        while let Some(range) = free(&taken, 10_000) {
            assert!(!taken.iter().any(|other| range.overlaps(*other)), "{range:?} in {taken:?}");
            taken.push(range);
        }
        let shown: Vec<String> = taken.iter().take(4).map(|range| range.cidr()).collect();
        assert_eq!(shown, ["10.42.0.0/18", "10.42.64.0/19", "10.42.96.0/19", "10.42.128.0/19"]);
        assert!(taken.len() >= 20, "{}", taken.len());
        assert_eq!(taken.iter().map(|range| range.size).sum::<u32>(), V4_SIZE, "nothing is left over");
    }

    #[test]
    fn small_nodes_are_given_small_ranges() {
        let mut taken = Vec::new();
        while let Some(range) = free(&taken, 250) {
            taken.push(range);
        }
        assert_eq!(taken.len(), 256);
        assert_eq!(free(&[], 4_000).unwrap().cidr(), "10.42.0.0/20");
        assert_eq!(free(&[Range { first: 0, size: 1 << 12 }], 0).unwrap().cidr(), "10.42.16.0/24");
    }
}
