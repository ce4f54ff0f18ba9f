//! Preemption: whom a pod of higher priority displaces when it fits nowhere (`DefaultPreemption`).
//!
//! On each node that could do, everybody of lower priority is taken away in thought; if the pod fits then, they are
//! let back in one after the other as far as it still fits, those whose budget would be broken first. Of the nodes
//! that work out, the one is taken whose victims matter least: fewest broken budgets, then the lowest top priority,
//! then the lowest sum of priorities, then the fewest, then the youngest.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use api::{ChangeKind, Key, Object, View};

use crate::filter;
use crate::limits::{PREEMPTION_NODES_MAX, PREEMPTION_TRIES_MAX};
use crate::neighbours::{Concerns, Neighbours};
use crate::nodes::{Node, Nodes};
use crate::pod::Wanted;
use crate::storage::Needs;

/// The resource that budgets are.
pub(crate) const BUDGETS: &str = "poddisruptionbudgets.policy";

/// Every budget: what it selects, and how many of them may go now.
#[derive(Default)]
pub(crate) struct Budgets {
    list: HashMap<Key, (LabelSelector, i64)>,
}

impl Budgets {
    pub(crate) fn of(view: &View) -> Self {
        let mut this = Self::default();
        view.list(BUDGETS).for_each(|budget| this.observe(ChangeKind::Added, budget));
        this
    }

    pub(crate) fn observe(&mut self, kind: ChangeKind, budget: &Object) {
        if kind == ChangeKind::Deleted {
            self.list.remove(&budget.key);
            return;
        }
        let allowed = budget.field("status.disruptionsAllowed").as_i64().unwrap_or(0);
        let selector = LabelSelector::from_value(budget.field("spec.selector"));
        self.list.insert(budget.key.clone(), (selector, allowed));
    }

    /// For each pod in turn, whether its going breaks a budget that the ones before it have spent.
    fn broken_by(&self, pods: &[Arc<Wanted>]) -> Vec<bool> {
        let mut spent: HashMap<&Key, i64> = HashMap::new();
        let broken = pods.iter().map(|pod| {
            let own = self.list.iter().filter(|(key, (selector, _))| {
                *key.namespace == *pod.object.namespace() && selector.matches(&pod.labels)
            });
            let mut breaks = false;
            for (key, (_, allowed)) in own {
                let spent = spent.entry(key).or_default();
                *spent += 1;
                breaks |= *spent > *allowed;
            }
            breaks
        });
        broken.collect()
    }
}

/// A node, and who must go there.
pub(crate) struct Preemption {
    pub(crate) node: Arc<str>,
    pub(crate) victims: Vec<Arc<Wanted>>,
    broken: usize,
}

impl Preemption {
    /// Smaller is better.
    fn cost(&self) -> (usize, i64, i64, usize, Reverse<i64>) {
        let priorities = || self.victims.iter().map(|victim| victim.priority);
        let top = priorities().max().unwrap_or(i64::MIN);
        let eldest = self.victims.iter().filter(|victim| victim.priority == top).map(|victim| victim.created_ms).min();
        // Priorities are moved to where all of them are positive, so that more victims always weigh more.
        let sum = priorities().map(|priority| priority + (1 << 31)).sum();
        (self.broken, top, sum, self.victims.len(), Reverse(eldest.unwrap_or(0)))
    }
}

/// Finds the cheapest preemption; the error is what Kubernetes appends to the reasons why the pod fits nowhere.
pub(crate) fn find(
    nodes: &mut Nodes,
    budgets: &Budgets,
    wanted: &Wanted,
    needs: &Needs<'_>,
    concerns: &Concerns,
    start: usize,
) -> Result<Preemption, String> {
    let count = nodes.list.len();
    if !wanted.preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if nodes.nomination(wanted.key()).is_some_and(|node| is_being_left(node, wanted)) {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let (mut helpless, mut tries) = (0, 0);
    let mut best: Option<Preemption> = None;
    let mut found = 0;
    for step in 0..count {
        let node = &nodes.list[(start + step) % count];
        if is_hopeless(wanted, needs, node, concerns, nodes) {
            helpless += 1;
            continue;
        }
        if found >= PREEMPTION_NODES_MAX || tries >= PREEMPTION_TRIES_MAX || !may_help(wanted, node) {
            continue;
        }
        tries += 1;
        let name = node.name.clone();
        if let Some(preemption) = on_node(nodes, budgets, wanted, needs, concerns, &name) {
            found += 1;
            if best.as_ref().is_none_or(|best| preemption.cost() < best.cost()) {
                best = Some(preemption);
            }
        }
    }
    best.ok_or_else(|| nobody(count, count - helpless))
}

/// Nobody can be displaced: on so many nodes there is no one, on the others it would not help.
pub(crate) fn nobody(count: usize, resolvable: usize) -> String {
    let parts = [
        (resolvable, "No preemption victims found for incoming pod"),
        (count - resolvable, "Preemption is not helpful for scheduling"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}")).collect();
    format!("0/{count} nodes are available: {}.", parts.join(", "))
}

/// Somebody of lower priority is leaving the node already.
fn is_being_left(node: &Node, wanted: &Wanted) -> bool {
    node.pods.values().any(|pod| pod.leaving && pod.priority < wanted.priority)
}

/// No victim can make this node fit.
fn is_hopeless(wanted: &Wanted, needs: &Needs<'_>, node: &Node, concerns: &Concerns, nodes: &Nodes) -> bool {
    if filter::check_node(wanted, node).is_err() || needs.check(node).is_err_and(|reason| reason.is_final()) {
        return true;
    }
    !wanted.spread.is_empty()
        && Neighbours::of(nodes, wanted, concerns).check(node).is_err_and(|reason| reason.is_final())
}

/// Whether everybody of lower priority together takes enough. It spares thinking about nodes where they do not.
fn may_help(wanted: &Wanted, node: &Node) -> bool {
    let mut left = node.used.clone();
    let mut lower = 0;
    for pod in node.pods.values().filter(|pod| pod.priority < wanted.priority) {
        left.add(&pod.requests, -1);
        lower += 1;
    }
    let (asked, all) = (&wanted.requests, &node.facts.allocatable);
    lower > 0
        && asked.cpu_millis <= all.cpu_millis - left.cpu_millis
        && asked.memory_bytes <= all.memory_bytes - left.memory_bytes
}

fn on_node(
    nodes: &mut Nodes,
    budgets: &Budgets,
    wanted: &Wanted,
    needs: &Needs<'_>,
    concerns: &Concerns,
    name: &str,
) -> Option<Preemption> {
    let mut lower: Vec<Arc<Wanted>> = nodes.named(name)?.pods.values().cloned().collect();
    lower.retain(|pod| pod.priority < wanted.priority);
    // The most important first: it is let back in first.
    lower.sort_by_key(|pod| (Reverse(pod.priority), pod.created_ms, pod.key().clone()));
    for pod in &lower {
        nodes.release(pod.key());
    }
    let fits = |nodes: &Nodes| {
        let Some(node) = nodes.named(name) else { return false };
        filter::check(wanted, needs, node, &Neighbours::of(nodes, wanted, concerns)).is_ok()
    };
    if !fits(nodes) {
        lower.iter().for_each(|pod| nodes.charge(name, pod.clone()));
        return None;
    }
    let broken = budgets.broken_by(&lower);
    let (guarded, others): (Vec<_>, Vec<_>) = lower.into_iter().zip(broken).partition(|(_, broken)| *broken);
    let mut preemption = Preemption { node: name.into(), victims: Vec::new(), broken: 0 };
    for (pod, broken) in guarded.into_iter().chain(others) {
        nodes.charge(name, pod.clone());
        if !fits(nodes) {
            nodes.release(pod.key());
            preemption.broken += usize::from(broken);
            preemption.victims.push(pod);
        }
    }
    for pod in &preemption.victims {
        nodes.charge(name, pod.clone());
    }
    Some(preemption)
}
