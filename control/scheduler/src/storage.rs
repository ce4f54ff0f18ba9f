//! Claims of pods: where their volumes are, and where volumes can be found or made for them.
//!
//! A bound volume holds its pods where it is. A claim that waits for its first consumer lets the scheduler choose: a
//! free volume that the chosen node reaches, or a new one there. The pod is bound once all its claims are.

use std::sync::Arc;

use api::volumes::{CLAIMS, CLASSES, SELECTED_NODE, VOLUMES, class, is_bound, is_for, serves};
use api::volumes::{capacity, waits_for_consumer};
use api::{Action, Change, Object, View};
use serde_json::{Value, json};

use crate::decision;
use crate::filter::{self, Reason};
use crate::nodes::{Node, Nodes};
use crate::pod::{NodeTerm, Wanted, list, node_term};

/// Claims, volumes and classes.
#[derive(Default)]
pub(crate) struct Storage {
    view: View,
}

/// What the claims of one pod need of a node.
#[derive(Default)]
pub(crate) struct Needs<'a> {
    /// Per bound volume with an affinity: any of its terms must hold.
    fixed: Vec<Vec<NodeTerm>>,
    open: Vec<Open<'a>>,
    /// A claim for one pod only is in use.
    taken: bool,
}

/// A claim whose volume is found or made where its first consumer goes.
struct Open<'a> {
    claim: &'a Arc<Object>,
    /// Free volumes that would serve, the smallest first, each with where it can be reached.
    free: Vec<(&'a Arc<Object>, Option<Vec<NodeTerm>>)>,
    /// The class makes volumes; in these topologies only, if there are any.
    made_in: Option<&'a [Value]>,
    /// The scheduler has chosen this node before.
    selected: Option<&'a str>,
}

impl Storage {
    pub(crate) fn of(view: &View) -> Self {
        let mut this = Self::default();
        for resource in [CLAIMS, VOLUMES, CLASSES] {
            for object in view.list(resource) {
                this.view.apply(api::ChangeKind::Added, object);
            }
        }
        this
    }

    /// Takes in one change; returns whether it was about storage.
    pub(crate) fn observe(&mut self, change: &Change) -> bool {
        let concerned = [CLAIMS, VOLUMES, CLASSES].contains(&&*change.object.key.resource);
        if concerned {
            self.view.apply(change.kind, &change.object);
        }
        concerned
    }

    /// What a pod's claims need; the error is why no node can do.
    pub(crate) fn needs(&self, wanted: &Wanted, nodes: &Nodes) -> Result<Needs<'_>, String> {
        let mut needs = Needs::default();
        let namespace = &wanted.key().namespace;
        for name in &wanted.claims {
            let claim = self.view.get(CLAIMS, namespace, name);
            let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
            if claim.deletion_timestamp().is_some() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            let once = list(claim.field("spec.accessModes")).any(|mode| mode == "ReadWriteOncePod");
            needs.taken |= once && nodes.mounts(namespace, name);
            if is_bound(&claim.value) {
                let volume = claim.field("spec.volumeName").as_str().and_then(|name| self.view.get(VOLUMES, "", name));
                let volume = volume
                    .ok_or_else(|| format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume"))?;
                needs.fixed.extend(reach(volume));
            } else if waits_for_consumer(&self.view, &claim.value) {
                needs.open.push(self.open(claim));
            } else {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
        }
        Ok(needs)
    }

    fn open<'a>(&'a self, claim: &'a Arc<Object>) -> Open<'a> {
        let usable = |volume: &&Arc<Object>| {
            let free = volume.field("spec.claimRef").is_null() && serves(&volume.value, &claim.value);
            volume.deletion_timestamp().is_none() && (free || is_for(&volume.value, claim))
        };
        let mut free: Vec<_> = self.view.list(VOLUMES).filter(usable).collect();
        free.sort_by_key(|volume| (capacity(&volume.value), volume.key.name.clone()));
        let class = self.view.get(CLASSES, "", class(&claim.value));
        let class = class.filter(|class| class.field("provisioner") != "kubernetes.io/no-provisioner");
        let topologies =
            |class: &'a Arc<Object>| class.field("allowedTopologies").as_array().map(Vec::as_slice).unwrap_or_default();
        Open {
            claim,
            free: free.into_iter().map(|volume| (volume, reach(volume))).collect(),
            made_in: class.map(topologies),
            selected: claim.annotation(SELECTED_NODE),
        }
    }
}

/// Where a volume can be reached; `None`: everywhere.
fn reach(volume: &Object) -> Option<Vec<NodeTerm>> {
    let terms = volume.field("spec.nodeAffinity.required.nodeSelectorTerms").as_array()?;
    Some(terms.iter().map(node_term).collect())
}

fn holds(terms: &[NodeTerm], node: &Node) -> bool {
    terms.iter().any(|term| filter::holds(term, node))
}

fn in_topology(term: &Value, node: &Node) -> bool {
    list(&term["matchLabelExpressions"]).all(|entry| {
        let label = entry["key"].as_str().and_then(|key| node.facts.labels.get(key));
        label.is_some_and(|label| list(&entry["values"]).any(|value| value == label.as_str()))
    })
}

impl<'a> Needs<'a> {
    /// Whether the pod's claims can be had on this node.
    pub(crate) fn check(&self, node: &Node) -> Result<(), Reason> {
        if self.taken {
            return Err(Reason::ClaimInUse);
        }
        if !self.fixed.iter().all(|terms| holds(terms, node)) {
            return Err(Reason::VolumeAffinity);
        }
        if self.open.iter().all(|open| open.is_possible(node)) { Ok(()) } else { Err(Reason::NoVolume) }
    }

    /// Whether every claim has its volume already.
    pub(crate) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// Reserves a volume for every claim that has none, or asks for one on this node.
    pub(crate) fn settle(&self, node: &Node) -> Vec<Action> {
        let mut taken: Vec<&str> = Vec::new();
        let mut actions = Vec::new();
        for open in &self.open {
            match open.found(node, &taken) {
                Some(volume) => {
                    taken.push(volume.name());
                    actions.extend(open.reserve(volume));
                }
                None if open.selected != Some(&*node.name) => {
                    let annotations = json!({SELECTED_NODE: &*node.name});
                    actions.push(decision::patch(open.claim, json!({"metadata": {"annotations": annotations}})));
                }
                None => {}
            }
        }
        actions
    }
}

impl<'a> Open<'a> {
    fn is_possible(&self, node: &Node) -> bool {
        // A volume may be on its way already.
        if let Some(selected) = self.selected {
            return selected == &*node.name;
        }
        let made =
            |topologies: &[Value]| topologies.is_empty() || topologies.iter().any(|term| in_topology(term, node));
        self.found(node, &[]).is_some() || self.made_in.is_some_and(made)
    }

    fn found(&self, node: &Node, taken: &[&str]) -> Option<&'a Arc<Object>> {
        let here = |reach: &Option<Vec<NodeTerm>>| reach.as_ref().is_none_or(|terms| holds(terms, node));
        let mut free = self.free.iter().filter(|(volume, reach)| here(reach) && !taken.contains(&volume.name()));
        free.next().map(|(volume, _)| *volume)
    }

    fn reserve(&self, volume: &Arc<Object>) -> Option<Action> {
        if volume.field("spec.claimRef.uid") == self.claim.uid() {
            return None;
        }
        let reference = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": self.claim.namespace(),
            "name": self.claim.name(), "uid": self.claim.uid(),
        });
        let annotations = json!({api::volumes::BOUND_BY_CONTROLLER: "yes"});
        Some(decision::patch(
            volume,
            json!({"spec": {"claimRef": reference}, "metadata": {"annotations": annotations}}),
        ))
    }
}
