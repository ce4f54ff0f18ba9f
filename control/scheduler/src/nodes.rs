//! The nodes and what runs on them, kept up to date change by change.
//!
//! A pod that was planned counts as running on its node from that moment: planning many pods in a row needs no new
//! picture in between. Charging a pod again replaces its charge, so the change that shows the bind confirms it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::{Key, Object, View, resources};
use serde_json::Value;

use crate::index::{Domain, Index, Tally, Term, TermId};
use crate::pod::{Amounts, PodTerm, Taint, Wanted, list, pairs, text};

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
        let allocatable = resources::amounts(&node.value["status"]["allocatable"]);
        Self {
            labels: pairs(&node.value["metadata"]["labels"]).into_iter().collect(),
            taints,
            unschedulable: spec["unschedulable"] == true,
            allocatable: Amounts::of(&allocatable),
            pods_max: allocatable.get("pods").map_or(0, api::Quantity::bytes),
        }
    }
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    pub(crate) facts: Facts,
    pub(crate) used: Amounts,
    pub(crate) pods: HashMap<Key, Arc<Wanted>>,
    /// How many pods each controller has here.
    pub(crate) owners: HashMap<Arc<str>, u32>,
    /// Pods that wait for this node while others leave it for them.
    pub(crate) nominated: Vec<Arc<Wanted>>,
    /// Its domain in each topology of the index.
    domains: Vec<Option<Domain>>,
}

impl Node {
    pub(crate) fn domain(&self, topology: usize) -> Option<Domain> {
        self.domains.get(topology).copied().flatten()
    }
}

/// All nodes, and all pods that are or will be on one.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pub(crate) list: Vec<Node>,
    pub(crate) index: Index,
    places: HashMap<Arc<str>, usize>,
    charges: HashMap<Key, (Arc<str>, Arc<Wanted>)>,
    nominations: HashMap<Key, Arc<str>>,
    /// How many charged pods have each priority.
    priorities: BTreeMap<i64, usize>,
    /// How many charged pods mount each claim, by namespace and name.
    claims: HashMap<(Arc<str>, String), usize>,
}

impl Nodes {
    /// Takes in a node; returns whether something the scheduler reads is new.
    pub(crate) fn update(&mut self, object: &Object) -> bool {
        let facts = Facts::of(object);
        if let Some(&place) = self.places.get(&object.key.name) {
            if self.list[place].facts == facts {
                return false;
            }
            let moves = self.list[place].facts.labels != facts.labels;
            if moves {
                self.leave_domains(place);
            }
            self.list[place].facts = facts;
            if moves {
                self.enter_domains(place);
            }
            return true;
        }
        let (name, place) = (object.key.name.clone(), self.list.len());
        self.places.insert(name.clone(), place);
        self.list.push(Node {
            name: name.clone(),
            facts,
            used: Amounts::default(),
            pods: HashMap::new(),
            owners: HashMap::new(),
            nominated: Vec::new(),
            domains: Vec::new(),
        });
        self.enter_domains(place);
        // Pods may have been bound to it before it was known.
        let waiting = self.charges.values().filter(|(node, _)| *node == name);
        for wanted in waiting.map(|(_, wanted)| wanted.clone()).collect::<Vec<_>>() {
            self.count(&name, &wanted, 1);
        }
        true
    }

    /// The node's pods count in its domains.
    fn enter_domains(&mut self, place: usize) {
        let node = &mut self.list[place];
        for topology in 0..self.index.topologies.len() {
            let value = node.facts.labels.get(&self.index.topologies[topology].label);
            node.domains.push(self.index.enter(topology, value));
        }
        for wanted in node.pods.values().cloned().collect::<Vec<_>>() {
            self.note(place, &wanted, 1);
        }
    }

    fn leave_domains(&mut self, place: usize) {
        for wanted in self.list[place].pods.values().cloned().collect::<Vec<_>>() {
            self.note(place, &wanted, -1);
        }
        for (topology, domain) in std::mem::take(&mut self.list[place].domains).into_iter().enumerate() {
            self.index.leave(topology, domain);
        }
    }

    /// Forgets a node.
    pub(crate) fn remove(&mut self, name: &str) {
        let Some(&place) = self.places.get(name) else { return };
        self.leave_domains(place);
        self.places.remove(name);
        self.list.swap_remove(place);
        if let Some(moved) = self.list.get(place) {
            self.places.insert(moved.name.clone(), place);
        }
    }

    /// A term of the index, counted from what is there if it is new.
    pub(crate) fn term(&mut self, asked: &PodTerm) -> TermId {
        if let Some(id) = self.index.known(asked) {
            return id;
        }
        let (topology, new) = self.index.topology(&asked.topology);
        if new {
            for node in &mut self.list {
                let value = node.facts.labels.get(&asked.topology);
                node.domains.push(self.index.enter(topology, value));
            }
        }
        let id = self.index.add_term(asked, topology);
        for node in &self.list {
            let Some(domain) = node.domain(topology) else { continue };
            for wanted in node.pods.values() {
                if self.index.selecting(wanted).contains(&id) && self.index.counts(id, wanted) {
                    self.index.terms[id].selected.add(domain, 1);
                }
            }
        }
        id
    }

    /// Takes in a namespace's labels.
    pub(crate) fn name_space(&mut self, name: &str, labels: Option<&Value>) {
        if self.index.name_space(name, labels) {
            self.rebuild();
        }
    }

    /// Counts everything anew.
    fn rebuild(&mut self) {
        self.index.clear();
        for node in &mut self.list {
            node.domains.clear();
        }
        for place in 0..self.list.len() {
            for wanted in self.list[place].pods.values().cloned().collect::<Vec<_>>() {
                // A new term counts everybody whom it selects.
                self.note_asks(place, &wanted, 1);
            }
        }
    }

    /// The pod is on the node, or is about to be.
    pub(crate) fn charge(&mut self, node: &str, wanted: Arc<Wanted>) {
        let key = wanted.key();
        if let Some((old, before)) = self.charges.get(key)
            && &**old == node
            && before.object.uid() == wanted.object.uid()
            && before.requests == wanted.requests
            && before.kind == wanted.kind
            && before.leaving == wanted.leaving
        {
            return;
        }
        let key = key.clone();
        self.release(&key);
        let node: Arc<str> = match self.places.get_key_value(node) {
            Some((name, _)) => name.clone(),
            None => node.into(),
        };
        self.count(&node, &wanted, 1);
        *self.priorities.entry(wanted.priority).or_default() += 1;
        for claim in &wanted.claims {
            *self.claims.entry((key.namespace.clone(), claim.clone())).or_default() += 1;
        }
        self.charges.insert(key, (node, wanted));
        if self.index.is_overgrown(self.charges.len()) {
            self.rebuild();
        }
    }

    /// The pod is on no node; returns whether it was on one.
    pub(crate) fn release(&mut self, key: &Key) -> bool {
        let Some((node, wanted)) = self.charges.remove(key) else { return false };
        self.count(&node, &wanted, -1);
        if let Some(count) = self.priorities.get_mut(&wanted.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&wanted.priority);
            }
        }
        for claim in &wanted.claims {
            let place = (key.namespace.clone(), claim.clone());
            if let Some(count) = self.claims.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    self.claims.remove(&place);
                }
            }
        }
        true
    }

    fn count(&mut self, name: &str, wanted: &Arc<Wanted>, sign: i64) {
        let Some(&place) = self.places.get(name) else { return };
        self.note(place, wanted, sign);
        let node = &mut self.list[place];
        node.used.add(&wanted.requests, sign);
        if sign > 0 {
            node.pods.insert(wanted.key().clone(), wanted.clone());
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

    /// Counts a pod of a node in the index. Its own terms come first: one that is new counts who is there already.
    fn note(&mut self, place: usize, wanted: &Wanted, sign: i64) {
        self.note_asks(place, wanted, sign);
        for id in self.index.selecting(wanted).to_vec() {
            let topology = self.index.terms[id].topology;
            if let Some(domain) = self.list[place].domain(topology)
                && self.index.counts(id, wanted)
            {
                self.index.terms[id].selected.add(domain, sign);
            }
        }
    }

    fn note_asks(&mut self, place: usize, wanted: &Wanted, sign: i64) {
        for term in &wanted.apart {
            self.note_asker(place, term, |term| &mut term.guards, sign);
        }
        for term in &wanted.near {
            self.note_asker(place, term, |term| &mut term.wishes, sign);
        }
        for (weight, term) in &wanted.preferred {
            self.note_asker(place, term, |term| &mut term.wishes, sign * weight);
        }
    }

    fn note_asker(&mut self, place: usize, asked: &PodTerm, tally: fn(&mut Term) -> &mut Tally, by: i64) {
        let id = self.term(asked);
        let term = &mut self.index.terms[id];
        if let Some(domain) = self.list[place].domain(term.topology) {
            tally(term).add(domain, by);
        }
    }

    /// The pod waits for this node, or for none.
    pub(crate) fn nominate(&mut self, wanted: &Arc<Wanted>, node: Option<&str>) {
        let key = wanted.key();
        if let Some(before) = self.nominations.remove(key)
            && let Some(&place) = self.places.get(&before)
        {
            self.list[place].nominated.retain(|pod| pod.key() != key);
        }
        if let Some((name, &place)) = node.and_then(|node| self.places.get_key_value(node)) {
            self.nominations.insert(key.clone(), name.clone());
            self.list[place].nominated.push(wanted.clone());
        }
    }

    /// The node that a pod waits for.
    pub(crate) fn nomination(&self, key: &Key) -> Option<&Node> {
        self.named(self.nominations.get(key)?)
    }

    /// Where in the list the node is that a pod waits for.
    pub(crate) fn nominated_place(&self, key: &Key) -> Option<usize> {
        self.places.get(self.nominations.get(key)?).copied()
    }

    /// A node by name.
    pub(crate) fn named(&self, name: &str) -> Option<&Node> {
        self.places.get(name).map(|&place| &self.list[place])
    }

    /// Whether some pod has a lower priority than this.
    pub(crate) fn has_below(&self, priority: i64) -> bool {
        self.priorities.first_key_value().is_some_and(|(lowest, _)| *lowest < priority)
    }

    /// Whether a charged pod mounts a claim.
    pub(crate) fn mounts(&self, namespace: &Arc<str>, claim: &str) -> bool {
        self.claims.contains_key(&(namespace.clone(), claim.to_owned()))
    }

    /// Starts over from a picture.
    pub(crate) fn of(view: &View) -> Self {
        let mut nodes = Self::default();
        for namespace in view.list("namespaces") {
            nodes.name_space(namespace.name(), Some(namespace.field("metadata.labels")));
        }
        for node in view.list("nodes") {
            nodes.update(node);
        }
        nodes
    }
}
