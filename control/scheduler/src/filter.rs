//! Which nodes a pod may run on, and the reason for each that it may not.
//!
//! The order of the checks is Kubernetes': a node's first failing check names its reason, and the sums of the reasons
//! are the sentence a person reads in `kubectl describe`.

use std::collections::BTreeMap;
use std::fmt;

use crate::neighbours::Neighbours;
use crate::nodes::Node;
use crate::pod::{NodeTerm, Taint, Wanted};
use crate::storage::Needs;

/// Why a pod cannot run on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Unschedulable,
    Taint { key: String, value: String },
    NodeAffinity,
    Ports,
    TooManyPods,
    Insufficient(String),
    Spread,
    SpreadLabel,
    Near,
    Apart,
    GuardedByOthers,
    VolumeAffinity,
    NoVolume,
    ClaimInUse,
}

impl Reason {
    /// Whether taking pods away cannot help.
    pub(crate) fn is_final(&self) -> bool {
        use Reason::{NoVolume, NodeAffinity, SpreadLabel, Taint, Unschedulable, VolumeAffinity};
        matches!(self, Unschedulable | Taint { .. } | NodeAffinity | SpreadLabel | VolumeAffinity | NoVolume)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::NodeAffinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Ports => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Insufficient(what) => write!(f, "Insufficient {what}"),
            Self::Spread => f.write_str("node(s) didn't match pod topology spread constraints"),
            Self::SpreadLabel => {
                f.write_str("node(s) didn't match pod topology spread constraints (missing required label)")
            }
            Self::Near => f.write_str("node(s) didn't match pod affinity rules"),
            Self::Apart => f.write_str("node(s) didn't match pod anti-affinity rules"),
            Self::GuardedByOthers => f.write_str("node(s) didn't satisfy existing pods anti-affinity rules"),
            Self::VolumeAffinity => f.write_str("node(s) had volume node affinity conflict"),
            Self::NoVolume => f.write_str("node(s) didn't find available persistent volumes to bind"),
            Self::ClaimInUse => f.write_str(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
            ),
        }
    }
}

/// Whether the pod may run here; else all reasons of the first check that fails.
pub(crate) fn check(
    wanted: &Wanted,
    needs: &Needs<'_>,
    node: &Node,
    neighbours: &Neighbours<'_>,
) -> Result<(), Vec<Reason>> {
    check_node(wanted, node)?;
    if !wanted.host_ports.is_empty() && port_taken(wanted, node) {
        return Err(vec![Reason::Ports]);
    }
    let short = shortages(wanted, node);
    if !short.is_empty() {
        return Err(short);
    }
    needs.check(node).map_err(|reason| vec![reason])?;
    neighbours.check(node).map_err(|reason| vec![reason])
}

/// What the node is like, whoever runs there.
pub(crate) fn check_node(wanted: &Wanted, node: &Node) -> Result<(), Vec<Reason>> {
    if node.facts.unschedulable {
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        };
        if !wanted.tolerations.iter().any(|toleration| toleration.covers(&cordon)) {
            return Err(vec![Reason::Unschedulable]);
        }
    }
    if let Some(taint) = untolerated(wanted, node, &["NoSchedule", "NoExecute"]).next() {
        return Err(vec![Reason::Taint { key: taint.key.clone(), value: taint.value.clone() }]);
    }
    if !fits_affinity(wanted, node) {
        return Err(vec![Reason::NodeAffinity]);
    }
    Ok(())
}

/// Whether a host port of the pod is taken on the node.
fn port_taken(wanted: &Wanted, node: &Node) -> bool {
    let mut taken = node.pods.values().flat_map(|other| &other.host_ports);
    taken.any(|taken| wanted.host_ports.iter().any(|port| port.collides(taken)))
}

/// The node's taints of these effects that the pod does not tolerate.
pub(crate) fn untolerated<'a>(
    wanted: &'a Wanted,
    node: &'a Node,
    effects: &'a [&str],
) -> impl Iterator<Item = &'a Taint> {
    let taints = node.facts.taints.iter().filter(|taint| effects.contains(&taint.effect.as_str()));
    taints.filter(|taint| !wanted.tolerations.iter().any(|toleration| toleration.covers(taint)))
}

/// `nodeSelector` and required node affinity.
pub(crate) fn fits_affinity(wanted: &Wanted, node: &Node) -> bool {
    let labels = &node.facts.labels;
    wanted.node_labels.iter().all(|(name, value)| labels.get(name) == Some(value))
        && wanted.node_required.as_ref().is_none_or(|terms| terms.iter().any(|term| holds(term, node)))
}

/// Whether a term holds on a node.
pub(crate) fn holds(term: &NodeTerm, node: &Node) -> bool {
    let label = |name: &str| node.facts.labels.get(name).map(String::as_str);
    term.readable
        && !(term.labels.is_empty() && term.fields.is_empty())
        && term.labels.iter().all(|requirement| requirement.allows(label(&requirement.key)))
        && term.fields.iter().all(|field| field.key == "metadata.name" && field.allows(Some(&node.name)))
}

fn shortages(wanted: &Wanted, node: &Node) -> Vec<Reason> {
    let mut short = Vec::new();
    let (asked, all) = (&wanted.requests, &node.facts.allocatable);
    let mut pods = node.pods.len();
    let mut with_nominated = None;
    // Room that others left for a pod of this priority or a higher one is not free.
    for pod in &node.nominated {
        if pod.priority >= wanted.priority && pod.key() != wanted.key() && !node.pods.contains_key(pod.key()) {
            with_nominated.get_or_insert_with(|| node.used.clone()).add(&pod.requests, 1);
            pods += 1;
        }
    }
    let used = with_nominated.as_ref().unwrap_or(&node.used);
    if i64::try_from(pods).unwrap_or(i64::MAX) >= node.facts.pods_max {
        short.push(Reason::TooManyPods);
    }
    for (name, asked, used, all) in [
        ("cpu", asked.cpu_millis, used.cpu_millis, all.cpu_millis),
        ("memory", asked.memory_bytes, used.memory_bytes, all.memory_bytes),
        ("ephemeral-storage", asked.storage_bytes, used.storage_bytes, all.storage_bytes),
    ] {
        if asked > 0 && asked > all - used {
            short.push(Reason::Insufficient(name.to_owned()));
        }
    }
    for (name, asked) in &asked.other {
        if *asked > 0 && *asked > all.other(name) - used.other(name) {
            short.push(Reason::Insufficient(name.clone()));
        }
    }
    short
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
pub(crate) fn sentence(nodes: usize, reasons: &BTreeMap<Reason, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}
