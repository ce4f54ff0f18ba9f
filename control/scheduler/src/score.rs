//! Which of the nodes that fit is best: room left, wishes met, pods of one purpose apart.

use crate::filter::{holds, untolerated};
use crate::neighbours::Neighbours;
use crate::nodes::Node;
use crate::pod::Wanted;

/// How much each point of view counts, as in Kubernetes' default profile.
const ROOM: i64 = 1;
const PACKED: i64 = 10;
const NODE_WISH: i64 = 2;
const POD_WISH: i64 = 2;
const APART: i64 = 2;
const TAINTS: i64 = 3;

/// The index, in `candidates`, of the best node; the first of equals.
pub(crate) fn best(wanted: &Wanted, candidates: &[&Node], neighbours: &Neighbours<'_>) -> Option<usize> {
    if candidates.len() < 2 {
        return candidates.first().map(|_| 0);
    }
    let mut totals: Vec<i64> = candidates.iter().map(|node| room_score(wanted, node)).collect();
    let mut view = |weight: i64, more_is_better: bool, value: &dyn Fn(&Node) -> i64| {
        let values: Vec<i64> = candidates.iter().map(|node| value(node)).collect();
        let (low, high) = values.iter().fold((i64::MAX, i64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        if low == high {
            return;
        }
        for (total, value) in totals.iter_mut().zip(values) {
            let share = if more_is_better { value - low } else { high - value };
            *total += weight * share * 100 / (high - low);
        }
    };
    if !wanted.node_preferred.is_empty() {
        view(NODE_WISH, true, &|node| {
            wanted.node_preferred.iter().filter(|(_, term)| holds(term, node)).map(|(weight, _)| weight).sum()
        });
    }
    if neighbours.has_wishes() {
        view(POD_WISH, true, &|node| neighbours.wish(node));
    }
    if let (Some(owner), false) = (&wanted.owner, wanted.packs) {
        view(APART, false, &|node| i64::from(node.owners.get(owner).copied().unwrap_or(0)));
    }
    view(TAINTS, false, &|node| {
        i64::try_from(untolerated(wanted, node, &["PreferNoSchedule"]).count()).unwrap_or(i64::MAX)
    });
    let best = totals.iter().enumerate().max_by_key(|(index, total)| (**total, std::cmp::Reverse(*index)));
    best.map(|(index, _)| index)
}

/// Room is good for pods that spread (`LeastAllocated`), a waste for pods that pack (`MostAllocated`); packing then
/// counts more than any other point of view.
fn room_score(wanted: &Wanted, node: &Node) -> i64 {
    if wanted.packs { PACKED * (100 - room(wanted, node)) } else { ROOM * room(wanted, node) }
}

/// The mean share of CPU and memory that is left with the pod in place, 0 to 100. A pod that asks for nothing still
/// counts a little (Kubernetes: 100m, 200Mi), so that such pods spread too.
fn room(wanted: &Wanted, node: &Node) -> i64 {
    let all = &node.facts.allocatable;
    let pods = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    let left = |all: i64, used: i64, asked: i64, least: i64| {
        let taken = used.max(pods.saturating_mul(least)).saturating_add(asked.max(least));
        if all <= 0 { 0 } else { (all - taken).max(0) * 100 / all }
    };
    let cpu = left(all.cpu_millis, node.used.cpu_millis, wanted.requests.cpu_millis, 100);
    let memory = left(all.memory_bytes, node.used.memory_bytes, wanted.requests.memory_bytes, 200 << 20);
    (cpu + memory) / 2
}
