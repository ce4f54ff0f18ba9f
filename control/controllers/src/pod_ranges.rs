//! Gives every node its part of the pod networks: `spec.podCIDR` and `spec.podCIDRs`.
//!
//! All nodes share one key, so that two nodes cannot be given the same range at the same time.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use api::{Action, Change, ChangeKind, Key, Precondition, Severity, View};
use serde_json::json;

use crate::World;

/// The pod networks: `10.42.0.0/16` cut into /20 (4,094 pods each), `fd42::/48` cut into /64.
const V4_BASE: u32 = u32::from_be_bytes([10, 42, 0, 0]);
const V4_PREFIX: u32 = 20;
const V4_RANGES: u32 = 1 << (V4_PREFIX - 16);
const V6_RANGES: u32 = 1 << 16;

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
        let all = world.view.list("nodes").flat_map(|node| node.field(field).as_array().into_iter().flatten());
        all.filter_map(|range| range.as_str().map(str::to_owned)).collect()
    };
    let taken = ranges("spec.podCIDRs");
    let mut free_v4 = (0..V4_RANGES).map(v4).filter(|range| !taken.contains(range));
    let mut free_v6 = (0..V6_RANGES).map(v6).filter(|range| !taken.contains(range));
    let mut actions = Vec::new();
    for node in world.view.list("nodes").filter(|node| node.field("spec.podCIDRs").is_null()) {
        let v4 = match node.field("spec.podCIDR").as_str() {
            Some(own) => Some(own.to_owned()),
            None => free_v4.next(),
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

fn v4(index: u32) -> String {
    format!("{}/{V4_PREFIX}", Ipv4Addr::from(V4_BASE + (index << (32 - V4_PREFIX))))
}

fn v6(index: u32) -> String {
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    format!("{}/64", Ipv6Addr::new(0xfd42, 0, 0, index, 0, 0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap() {
        assert_eq!([v4(0), v4(1), v4(15)], ["10.42.0.0/20", "10.42.16.0/20", "10.42.240.0/20"]);
        assert_eq!([v6(0), v6(1)], ["fd42::/64", "fd42:0:0:1::/64"]);
    }
}
