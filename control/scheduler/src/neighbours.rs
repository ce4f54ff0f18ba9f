//! What other pods mean for a pod: affinity, anti-affinity both ways, even spreading, ports taken.
//!
//! All counts come from the index. Only a pod that may not run everywhere and asks for even spreading has its domains
//! counted anew, since only the nodes it may run on count for it.

use std::collections::HashMap;

use crate::filter::{self, Reason};
use crate::index::{Domain, TermId};
use crate::nodes::{Node, Nodes};
use crate::pod::{Spread, Wanted};

/// The terms that concern one pod, as the index knows them.
#[derive(Debug, Default)]
pub(crate) struct Concerns {
    near: Vec<TermId>,
    apart: Vec<TermId>,
    preferred: Vec<TermId>,
    spread: Vec<TermId>,
    /// Terms of others that select this pod.
    selecting: Vec<TermId>,
}

impl Concerns {
    /// Makes the pod's terms known and finds those that select it.
    pub(crate) fn of(nodes: &mut Nodes, wanted: &Wanted) -> Self {
        let mut ids = |terms: &mut dyn Iterator<Item = &crate::pod::PodTerm>| -> Vec<TermId> {
            terms.map(|term| nodes.term(term)).collect()
        };
        Self {
            near: ids(&mut wanted.near.iter()),
            apart: ids(&mut wanted.apart.iter()),
            preferred: ids(&mut wanted.preferred.iter().map(|(_, term)| term)),
            spread: ids(&mut wanted.spread.iter().map(|spread| &spread.term)),
            selecting: nodes.index.selecting(wanted).to_vec(),
        }
    }
}

/// The other pods, as one pod sees them.
pub(crate) struct Neighbours<'a> {
    nodes: &'a Nodes,
    wanted: &'a Wanted,
    concerns: &'a Concerns,
    /// Per required affinity term: nobody is there, and the pod itself would do.
    alone: Vec<bool>,
    guards: Vec<TermId>,
    wishes: Vec<TermId>,
    spread: Vec<Evenness>,
}

/// One spread constraint, counted.
struct Evenness {
    /// Where only some nodes count; else the index has the numbers.
    counted: Option<HashMap<Domain, i64>>,
    least: i64,
    /// 1 if the pod counts itself.
    own: i64,
}

impl<'a> Neighbours<'a> {
    /// Looks around for one pod.
    pub(crate) fn of(nodes: &'a Nodes, wanted: &'a Wanted, concerns: &'a Concerns) -> Self {
        let terms = &nodes.index.terms;
        let selects_itself = |id: &TermId| concerns.selecting.contains(id);
        let alone = |id: &TermId| terms[*id].selected.is_empty() && selects_itself(id);
        let spread = wanted.spread.iter().zip(&concerns.spread);
        Self {
            nodes,
            wanted,
            concerns,
            alone: concerns.near.iter().map(alone).collect(),
            guards: concerns.selecting.iter().copied().filter(|id| !terms[*id].guards.is_empty()).collect(),
            wishes: concerns.selecting.iter().copied().filter(|id| !terms[*id].wishes.is_empty()).collect(),
            spread: spread
                .map(|(spread, id)| Evenness::of(nodes, wanted, spread, *id, i64::from(selects_itself(id))))
                .collect(),
        }
    }

    /// Whether the other pods allow this node.
    pub(crate) fn check(&self, node: &Node) -> Result<(), Reason> {
        let terms = &self.nodes.index.terms;
        for (index, constraint) in self.wanted.spread.iter().enumerate().filter(|(_, spread)| spread.required) {
            let term = self.concerns.spread[index];
            let Some(domain) = node.domain(terms[term].topology) else { return Err(Reason::SpreadLabel) };
            let evenness = &self.spread[index];
            if self.count(index, domain) + evenness.own - evenness.least > constraint.max_skew {
                return Err(Reason::Spread);
            }
        }
        for (id, alone) in self.concerns.near.iter().zip(&self.alone) {
            let domain = node.domain(terms[*id].topology);
            if domain.is_none() || !(*alone || terms[*id].selected.at(domain) > 0) {
                return Err(Reason::Near);
            }
        }
        for id in &self.concerns.apart {
            if terms[*id].selected.at(node.domain(terms[*id].topology)) > 0 {
                return Err(Reason::Apart);
            }
        }
        for id in &self.guards {
            if terms[*id].guards.at(node.domain(terms[*id].topology)) > 0 {
                return Err(Reason::GuardedByOthers);
            }
        }
        Ok(())
    }

    fn count(&self, spread: usize, domain: Domain) -> i64 {
        match &self.spread[spread].counted {
            Some(counted) => counted.get(&domain).copied().unwrap_or(0),
            None => self.nodes.index.terms[self.concerns.spread[spread]].selected.at(Some(domain)),
        }
    }

    /// Whether wishes about other pods distinguish nodes.
    pub(crate) fn has_wishes(&self) -> bool {
        let soft = self.wanted.spread.iter().any(|spread| !spread.required);
        soft || !(self.concerns.preferred.is_empty() && self.wishes.is_empty())
    }

    /// How welcome the pod's wishes about others, and theirs about it, make this node; may be negative.
    pub(crate) fn wish(&self, node: &Node) -> i64 {
        let terms = &self.nodes.index.terms;
        let own = self.wanted.preferred.iter().zip(&self.concerns.preferred);
        let own = own.map(|((weight, _), id)| weight * terms[*id].selected.at(node.domain(terms[*id].topology)));
        let others = self.wishes.iter().map(|id| terms[*id].wishes.at(node.domain(terms[*id].topology)));
        let soft = self.wanted.spread.iter().enumerate().filter(|(_, spread)| !spread.required);
        let soft = soft.filter_map(|(index, _)| {
            Some(self.count(index, node.domain(terms[self.concerns.spread[index]].topology)?))
        });
        own.sum::<i64>() + others.sum::<i64>() - soft.sum::<i64>()
    }
}

impl Evenness {
    fn of(nodes: &Nodes, wanted: &Wanted, spread: &Spread, id: TermId, own: i64) -> Self {
        let topology = nodes.index.terms[id].topology;
        let everywhere = (!spread.honours_affinity || !wanted.is_choosy()) && !spread.honours_taints;
        if everywhere {
            let domains = nodes.index.topologies[topology].domains();
            let least = if domains < spread.min_domains { 0 } else { nodes.index.terms[id].selected.least(domains) };
            return Self { counted: None, least, own };
        }
        let mut counted: HashMap<Domain, i64> = HashMap::new();
        for node in nodes.list.iter().filter(|node| takes_part(wanted, spread, node)) {
            let Some(domain) = node.domain(topology) else { continue };
            let here = node.pods.values().filter(|pod| !pod.leaving && spread.term.selects_in_place(pod)).count();
            *counted.entry(domain).or_default() += i64::try_from(here).unwrap_or(i64::MAX);
        }
        let least = counted.values().min().copied().unwrap_or(0);
        let least = if counted.len() < spread.min_domains { 0 } else { least };
        Self { counted: Some(counted), least, own }
    }
}

/// Whether a node's domain counts for a constraint (`nodeAffinityPolicy`, `nodeTaintsPolicy`).
fn takes_part(wanted: &Wanted, spread: &Spread, node: &Node) -> bool {
    (!spread.honours_affinity || filter::fits_affinity(wanted, node))
        && (!spread.honours_taints || filter::untolerated(wanted, node, &["NoSchedule", "NoExecute"]).next().is_none())
}
