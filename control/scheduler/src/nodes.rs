//! The nodes and what runs on them, kept up to date change by change.
//!
//! A pod that was planned counts as running on its node from that moment: planning many pods in a row needs no new
//! picture in between. Charging a pod again replaces its charge, so the change that shows the bind confirms it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::{Key, Object, View};
use serde_json::Value;

use crate::pod::{Amounts, Taint, Wanted, list, pairs, quantity, text};

/// What the scheduler reads of a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) labels: HashMap<String, String>,
    /// `spec.taints`, and what follows from the node's readiness.
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Amounts,
    pub(crate) pods_max: i64,
}

impl Facts {
    fn of(node: &Object) -> Self {
        let spec = &node.value["spec"];
        let taint = |taint: &Value| Taint {
            key: text(&taint["key"]),
            value: text(&taint["value"]),
            effect: text(&taint["effect"]),
        };
        let mut taints: Vec<Taint> = list(&spec["taints"]).map(taint).collect();
        // A node that is not ready takes nothing, even before the taint that says so is written.
        let implied = match list(&node.value["status"]["conditions"]).find(|c| c["type"] == "Ready") {
            Some(ready) if ready["status"] == "True" => None,
            Some(ready) if ready["status"] == "Unknown" => Some("node.kubernetes.io/unreachable"),
            _ => Some("node.kubernetes.io/not-ready"),
        };
        if let Some(key) = implied
            && !taints.iter().any(|taint| taint.key == key && taint.effect == "NoSchedule")
        {
            taints.push(Taint { key: key.to_owned(), value: String::new(), effect: "NoSchedule".to_owned() });
        }
        let allocatable = &node.value["status"]["allocatable"];
        Self {
            labels: pairs(&node.value["metadata"]["labels"]).into_iter().collect(),
            taints,
            unschedulable: spec["unschedulable"] == true,
            allocatable: Amounts::of(allocatable),
            pods_max: quantity(&allocatable["pods"]).map_or(0, |pods| pods.bytes()),
        }
    }
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    pub(crate) facts: Facts,
    pub(crate) used: Amounts,
    pub(crate) pods: HashSet<Key>,
    /// How many pods each controller has here.
    pub(crate) owners: HashMap<Arc<str>, u32>,
}

/// All nodes, and all pods that are or will be on one.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pub(crate) list: Vec<Node>,
    places: HashMap<Arc<str>, usize>,
    charges: HashMap<Key, (Arc<str>, Arc<Wanted>)>,
    /// Charged pods that do not want certain others near them.
    pub(crate) guarded: HashSet<Key>,
}

impl Nodes {
    /// Takes in a node; returns whether something the scheduler reads is new.
    pub(crate) fn update(&mut self, object: &Object) -> bool {
        let facts = Facts::of(object);
        if let Some(&place) = self.places.get(&object.key.name) {
            let node = &mut self.list[place];
            let news = node.facts != facts;
            node.facts = facts;
            return news;
        }
        let name = object.key.name.clone();
        self.places.insert(name.clone(), self.list.len());
        self.list.push(Node {
            name: name.clone(),
            facts,
            used: Amounts::default(),
            pods: HashSet::new(),
            owners: HashMap::new(),
        });
        // Pods may have been bound to it before it was known.
        let waiting = self.charges.values().filter(|(node, _)| *node == name);
        for wanted in waiting.map(|(_, wanted)| wanted.clone()).collect::<Vec<_>>() {
            self.count(&name, &wanted, 1);
        }
        true
    }

    /// Forgets a node.
    pub(crate) fn remove(&mut self, name: &str) {
        let Some(place) = self.places.remove(name) else { return };
        self.list.swap_remove(place);
        if let Some(moved) = self.list.get(place) {
            self.places.insert(moved.name.clone(), place);
        }
    }

    /// The pod is on the node, or is about to be.
    pub(crate) fn charge(&mut self, node: &str, wanted: Arc<Wanted>) {
        let key = wanted.key().clone();
        if let Some((old, before)) = self.charges.get(&key)
            && &**old == node
            && before.object.uid() == wanted.object.uid()
            && before.requests == wanted.requests
        {
            return;
        }
        self.release(&key);
        let node: Arc<str> = node.into();
        self.count(&node, &wanted, 1);
        if !wanted.apart.is_empty() {
            self.guarded.insert(key.clone());
        }
        self.charges.insert(key, (node, wanted));
    }

    /// The pod is on no node; returns whether it was on one.
    pub(crate) fn release(&mut self, key: &Key) -> bool {
        let Some((node, wanted)) = self.charges.remove(key) else { return false };
        self.guarded.remove(key);
        self.count(&node, &wanted, -1);
        true
    }

    fn count(&mut self, node: &str, wanted: &Wanted, sign: i64) {
        let Some(&place) = self.places.get(node) else { return };
        let node = &mut self.list[place];
        node.used.add(&wanted.requests, sign);
        if sign > 0 {
            node.pods.insert(wanted.key().clone());
        } else {
            node.pods.remove(wanted.key());
        }
        if let Some(owner) = &wanted.owner {
            let count = node.owners.entry(owner.clone()).or_default();
            *count = count.saturating_add_signed(if sign > 0 { 1 } else { -1 });
            if *count == 0 {
                node.owners.remove(owner);
            }
        }
    }

    /// A charged pod and the node it is on.
    pub(crate) fn charged(&self, key: &Key) -> Option<(&Node, &Wanted)> {
        let (node, wanted) = self.charges.get(key)?;
        Some((&self.list[*self.places.get(node)?], wanted))
    }

    /// All charged pods that are on a known node.
    pub(crate) fn all_charged(&self) -> impl Iterator<Item = (&Node, &Wanted)> {
        self.list.iter().flat_map(|node| {
            let pods = node.pods.iter().filter_map(|key| self.charges.get(key));
            pods.map(move |(_, wanted)| (node, &**wanted))
        })
    }

    /// Starts over from a picture.
    pub(crate) fn of(view: &View) -> Self {
        let mut nodes = Self::default();
        for node in view.list("nodes") {
            nodes.update(node);
        }
        nodes
    }
}
