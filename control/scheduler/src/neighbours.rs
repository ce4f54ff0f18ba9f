//! What other pods mean for a pod: affinity, anti-affinity both ways, even spreading, ports taken.
//!
//! Everything is counted once per pod and topology domain, so that looking at a node is a lookup.

use std::collections::{HashMap, HashSet};

use crate::filter::{self, Reason};
use crate::nodes::{Node, Nodes};
use crate::pod::{PodTerm, Wanted};

/// The other pods, as one pod sees them.
pub(crate) struct Neighbours<'a> {
    nodes: &'a Nodes,
    wanted: &'a Wanted,
    /// Per required affinity term: the domains with a pod it selects; `None` when the term is met by the pod itself.
    near: Vec<Option<HashSet<&'a str>>>,
    /// Per anti-affinity term: the domains to avoid.
    apart: Vec<HashSet<&'a str>>,
    /// Domains that pods already running do not want this pod in: topology key, then value.
    guarded: HashSet<(&'a str, &'a str)>,
    spread: Vec<HashMap<&'a str, i64>>,
    /// Per preferred term: how many selected pods stand in each domain.
    preferred: Vec<HashMap<&'a str, i64>>,
}

fn domain<'a>(node: &'a Node, topology: &str) -> Option<&'a str> {
    node.facts.labels.get(topology).map(String::as_str)
}

impl<'a> Neighbours<'a> {
    /// Looks around for one pod.
    pub(crate) fn of(nodes: &'a Nodes, wanted: &'a Wanted) -> Self {
        let mut this = Self {
            nodes,
            wanted,
            near: Vec::new(),
            apart: Vec::new(),
            guarded: HashSet::new(),
            spread: Vec::new(),
            preferred: Vec::new(),
        };
        this.note_guards();
        if wanted.looks_at_pods() {
            this.near = wanted.near.iter().map(|term| this.near(term)).collect();
            this.apart = wanted.apart.iter().map(|term| this.domains(term)).collect();
            this.preferred = wanted.preferred.iter().map(|(_, term)| this.counts(term)).collect();
            this.note_spread();
        }
        this
    }

    fn note_guards(&mut self) {
        for key in &self.nodes.guarded {
            let Some((node, other)) = self.nodes.charged(key) else { continue };
            for term in other.apart.iter().filter(|term| term.selects(&self.wanted.object)) {
                if let Some(value) = domain(node, &term.topology) {
                    self.guarded.insert((&term.topology, value));
                }
            }
        }
    }

    fn counts(&self, term: &PodTerm) -> HashMap<&'a str, i64> {
        let mut counts = HashMap::new();
        for (node, _) in self.nodes.all_charged().filter(|(_, other)| term.selects(&other.object)) {
            if let Some(value) = domain(node, &term.topology) {
                *counts.entry(value).or_default() += 1;
            }
        }
        counts
    }

    fn domains(&self, term: &PodTerm) -> HashSet<&'a str> {
        self.counts(term).into_keys().collect()
    }

    /// The first pod of a group that wants to be together has nobody to be near to: it may start anywhere.
    fn near(&self, term: &PodTerm) -> Option<HashSet<&'a str>> {
        let domains = self.domains(term);
        (!domains.is_empty() || !term.selects(&self.wanted.object)).then_some(domains)
    }

    fn note_spread(&mut self) {
        for constraint in &self.wanted.spread {
            let mut counts: HashMap<&str, i64> = HashMap::new();
            for node in self.nodes.list.iter().filter(|node| filter::fits_affinity(self.wanted, node)) {
                let Some(value) = domain(node, &constraint.topology) else { continue };
                let same = node.pods.iter().filter_map(|key| self.nodes.charged(key)).filter(|(_, other)| {
                    other.object.namespace() == self.wanted.object.namespace()
                        && other.object.deletion_timestamp().is_none()
                        && constraint.selector.matches(&other.object.value["metadata"]["labels"])
                });
                *counts.entry(value).or_default() += i64::try_from(same.count()).unwrap_or(i64::MAX);
            }
            self.spread.push(counts);
        }
    }

    /// Whether the other pods allow this node.
    pub(crate) fn check(&self, node: &Node) -> Result<(), Reason> {
        for (index, constraint) in self.wanted.spread.iter().enumerate().filter(|(_, spread)| spread.required) {
            let Some(value) = domain(node, &constraint.topology) else { return Err(Reason::SpreadLabel) };
            let counts = &self.spread[index];
            let fewest = counts.values().min().copied().unwrap_or(0);
            let fewest = if counts.len() < constraint.min_domains { 0 } else { fewest };
            let own = constraint.selector.matches(&self.wanted.object.value["metadata"]["labels"]);
            let here = counts.get(value).copied().unwrap_or(0) + i64::from(own);
            if here - fewest > constraint.max_skew {
                return Err(Reason::Spread);
            }
        }
        for (term, domains) in self.wanted.near.iter().zip(&self.near) {
            let here = domain(node, &term.topology);
            let met = here.is_some_and(|here| domains.as_ref().is_none_or(|domains| domains.contains(here)));
            if !met {
                return Err(Reason::Near);
            }
        }
        for (term, domains) in self.wanted.apart.iter().zip(&self.apart) {
            if domain(node, &term.topology).is_some_and(|here| domains.contains(here)) {
                return Err(Reason::Apart);
            }
        }
        if self.guarded.iter().any(|(topology, value)| domain(node, topology) == Some(value)) {
            return Err(Reason::GuardedByOthers);
        }
        Ok(())
    }

    /// Whether a host port of the pod is taken on the node.
    pub(crate) fn port_taken(&self, wanted: &Wanted, node: &Node) -> bool {
        let others = node.pods.iter().filter_map(|key| self.nodes.charged(key));
        let mut taken = others.flat_map(|(_, other)| &other.host_ports);
        taken.any(|taken| wanted.host_ports.iter().any(|port| port.collides(taken)))
    }

    /// How welcome the pod's wishes about others make this node; may be negative.
    pub(crate) fn wish(&self, node: &Node) -> i64 {
        let near = self.wanted.preferred.iter().zip(&self.preferred);
        let near = near.filter_map(|((weight, term), counts)| {
            Some(weight * counts.get(domain(node, &term.topology)?).copied().unwrap_or(0))
        });
        let soft = self.wanted.spread.iter().zip(&self.spread).filter(|(spread, _)| !spread.required);
        let soft = soft.filter_map(|(spread, counts)| counts.get(domain(node, &spread.topology)?));
        near.sum::<i64>() - soft.sum::<i64>()
    }
}
