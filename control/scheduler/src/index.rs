//! Who is where, by topology: counted change by change, so that what a pod asks about other pods is a lookup.
//!
//! Everything that some pod asks about others is a *term*: a selector, namespaces, a topology. Equal terms are one
//! term. Pods with the same namespace and labels are of one *kind*, and which terms select a kind is decided once.
//! For each term the index knows per domain (a value of the topology's label) how many pods it selects, how many pods
//! there refuse what it selects, and how welcome what it selects is.
//!
//! Worked example: 3,000 pods of one Deployment with "not two of us on one node" are one kind and one term. Placing
//! one of them adds one to two numbers of its node's domain; asking whether a node will do reads them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::pod::{PodTerm, Wanted};

/// A term's place in the index, until the index is rebuilt.
pub(crate) type TermId = usize;
/// One value of a topology's label.
pub(crate) type Domain = usize;

/// A number per domain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    counts: Vec<i64>,
    /// How many domains have each number other than 0.
    domains: BTreeMap<i64, usize>,
    others: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, domain: Domain, by: i64) {
        if self.counts.len() <= domain {
            self.counts.resize(domain + 1, 0);
        }
        let before = self.counts[domain];
        let after = before + by;
        self.counts[domain] = after;
        if before != 0 {
            self.others -= 1;
            if let Some(domains) = self.domains.get_mut(&before) {
                *domains -= 1;
                if *domains == 0 {
                    self.domains.remove(&before);
                }
            }
        }
        if after != 0 {
            self.others += 1;
            *self.domains.entry(after).or_default() += 1;
        }
    }

    pub(crate) fn at(&self, domain: Option<Domain>) -> i64 {
        domain.and_then(|domain| self.counts.get(domain)).copied().unwrap_or(0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.others == 0
    }

    /// The smallest number over this many domains.
    pub(crate) fn least(&self, domains: usize) -> i64 {
        let smallest = self.domains.first_key_value().map_or(0, |(count, _)| *count);
        if domains > self.others { smallest.min(0) } else { smallest }
    }
}

/// A label of nodes whose values are domains.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    pub(crate) label: String,
    values: HashMap<String, Domain>,
    /// How many nodes each domain has.
    nodes: Tally,
}

impl Topology {
    /// How many domains have a node.
    pub(crate) fn domains(&self) -> usize {
        self.nodes.others
    }
}

/// One thing that pods ask about other pods.
#[derive(Debug)]
pub(crate) struct Term {
    asked: PodTerm,
    pub(crate) topology: usize,
    /// Pods that it selects.
    pub(crate) selected: Tally,
    /// Pods that refuse to be near what it selects.
    pub(crate) guards: Tally,
    /// How much pods would like what it selects to be near.
    pub(crate) wishes: Tally,
}

#[derive(Debug)]
struct Kind {
    namespace: String,
    labels: Value,
    terms: Vec<TermId>,
}

/// All terms, kinds and topologies in use.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) topologies: Vec<Topology>,
    pub(crate) terms: Vec<Term>,
    term_ids: HashMap<Arc<str>, TermId>,
    kinds: Vec<Kind>,
    kind_ids: HashMap<Arc<str>, usize>,
    /// Labels of namespaces, for terms that choose them by label.
    namespaces: HashMap<String, Value>,
}

impl Index {
    /// Takes in a namespace's labels; returns whether terms may select others now.
    pub(crate) fn name_space(&mut self, name: &str, labels: Option<&Value>) -> bool {
        let before = match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels.clone()),
            None => self.namespaces.remove(name),
        };
        before.as_ref() != labels && self.terms.iter().any(|term| term.asked.namespace_selector.is_some())
    }

    /// Forgets everything that is counted; topologies keep nothing either.
    pub(crate) fn clear(&mut self) {
        let namespaces = std::mem::take(&mut self.namespaces);
        *self = Self { namespaces, ..Self::default() };
    }

    /// Whether it holds far more than this many pods can need.
    pub(crate) fn is_overgrown(&self, pods: usize) -> bool {
        let enough = 4 * pods + 4096;
        self.kinds.len() > enough || self.terms.len() > enough
    }

    /// A topology's place, and whether it is new: then every node's domain is to be told with [`Index::enter`].
    pub(crate) fn topology(&mut self, label: &str) -> (usize, bool) {
        if let Some(place) = self.topologies.iter().position(|topology| topology.label == label) {
            return (place, false);
        }
        self.topologies.push(Topology { label: label.to_owned(), ..Topology::default() });
        (self.topologies.len() - 1, true)
    }

    /// A node with this label is there; its domain.
    pub(crate) fn enter(&mut self, topology: usize, value: Option<&String>) -> Option<Domain> {
        let topology = &mut self.topologies[topology];
        let next = topology.values.len();
        let domain = *topology.values.entry(value?.clone()).or_insert(next);
        topology.nodes.add(domain, 1);
        Some(domain)
    }

    /// A node of this domain is there no more.
    pub(crate) fn leave(&mut self, topology: usize, domain: Option<Domain>) {
        if let Some(domain) = domain {
            self.topologies[topology].nodes.add(domain, -1);
        }
    }

    /// A term that is known already.
    pub(crate) fn known(&self, asked: &PodTerm) -> Option<TermId> {
        self.term_ids.get(&asked.id).copied()
    }

    /// A new term with nothing counted yet. Its topology must be known.
    pub(crate) fn add_term(&mut self, asked: &PodTerm, topology: usize) -> TermId {
        let id = self.terms.len();
        for kind in 0..self.kinds.len() {
            if self.selects(asked, kind) {
                self.kinds[kind].terms.push(id);
            }
        }
        self.term_ids.insert(asked.id.clone(), id);
        let (selected, guards, wishes) = Default::default();
        self.terms.push(Term { asked: asked.clone(), topology, selected, guards, wishes });
        id
    }

    fn selects(&self, asked: &PodTerm, kind: usize) -> bool {
        let kind = &self.kinds[kind];
        let chosen = || {
            let selector = asked.namespace_selector.as_ref()?;
            Some(selector.matches(self.namespaces.get(&kind.namespace).unwrap_or(&Value::Null)))
        };
        let named = asked.namespaces.contains(&kind.namespace);
        (named || chosen() == Some(true)) && asked.selector.matches(&kind.labels)
    }

    /// The terms that select a pod.
    pub(crate) fn selecting(&mut self, wanted: &Wanted) -> &[TermId] {
        let kind = match self.kind_ids.get(&wanted.kind) {
            Some(kind) => *kind,
            None => {
                let kind = self.kinds.len();
                let labels = wanted.labels.clone();
                let namespace = wanted.object.namespace().to_owned();
                self.kinds.push(Kind { namespace, labels, terms: Vec::new() });
                self.kind_ids.insert(wanted.kind.clone(), kind);
                let terms: Vec<_> =
                    (0..self.terms.len()).filter(|id| self.selects(&self.terms[*id].asked, kind)).collect();
                self.kinds[kind].terms = terms;
                kind
            }
        };
        &self.kinds[kind].terms
    }

    /// Whether a term counts this pod, if it selects its kind.
    pub(crate) fn counts(&self, term: TermId, wanted: &Wanted) -> bool {
        !(self.terms[term].asked.living && wanted.leaving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_a_tally_counts_domains_that_have_nobody() {
        let mut tally = Tally::default();
        for (domain, by) in [(0, 2), (1, 1), (3, 5), (0, -1), (3, -5), (3, 4)] {
            tally.add(domain, by);
        }
        assert_eq!((tally.at(Some(0)), tally.at(Some(2)), tally.at(Some(9)), tally.at(None)), (1, 0, 0, 0));
        assert_eq!((tally.least(3), tally.least(4)), (1, 0));
        tally.add(0, -1);
        tally.add(1, -1);
        assert_eq!((tally.least(1), tally.is_empty()), (4, false));
        tally.add(3, -4);
        assert!(tally.is_empty());
    }
}
