//! DaemonSet: one pod on every node that the template fits.
//!
//! The pods are bound by the scheduler like all others; each names its node by affinity. A rolling update replaces so
//! many pods at a time as may be unavailable; `maxSurge` is read as that number too, since two pods of one DaemonSet
//! on a node would have to share what only one of them can have.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Action, Change, ChangeKind, Key, Object, Precondition, Severity, View};
use serde_json::{Value, json};

use crate::owner::{self, Kind};
use crate::revisions::{self, Revisions};
use crate::{World, deployment, limits, moment, placement, pods, status};

pub(crate) const KIND: Kind = Kind { resource: "daemonsets.apps", api_version: "apps/v1", kind: "DaemonSet" };

/// What a daemon's pod tolerates besides what its template says.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// A DaemonSet wakes with itself, its pods, its revisions, and with nodes that come, go or change what they take.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        "daemonsets.apps" => vec![object.key.clone()],
        "pods" if pods::matters(change) => owner::keys_of_child(object, change.previous.as_ref(), view, &KIND),
        "controllerrevisions.apps" => owner::controller_key(object, &KIND).into_iter().collect(),
        "nodes" => {
            let same = change.previous.as_ref().is_some_and(|old| {
                let same = |path| old.field(path) == object.field(path);
                change.kind == ChangeKind::Modified && same("metadata.labels") && same("spec.taints")
            });
            if same { Vec::new() } else { view.list(KIND.resource).map(|set| set.key.clone()).collect() }
        }
        _ => Vec::new(),
    }
}

/// One DaemonSet.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(set) = world.view.at(key) else { return Vec::new() };
    let claim = owner::claim(world.view, set, &KIND, "pods");
    let mut actions = claim.actions;
    if set.deletion_timestamp().is_some() {
        return actions;
    }
    let revisions = revisions::sync(world.view, set, &KIND, &mut actions);
    let places = Places::of(world, set, &claim.mine);
    let mut plan = Plan { world, set, revisions: &revisions, actions, made: 0 };
    plan.fill(&places);
    plan.update(&places);
    plan.report(&places);
    revisions.tidy(set, &claim.mine, "", &mut plan.actions);
    plan.actions
}

/// Who is where, and where somebody should be.
struct Places {
    /// Node → its pods, oldest first.
    pods: BTreeMap<String, Vec<Arc<Object>>>,
    /// Nodes that should have a pod.
    wanted: Vec<String>,
    /// Nodes whose pod may stay although none would be put there now.
    tolerated: Vec<String>,
}

impl Places {
    fn of(world: &World<'_>, set: &Object, mine: &[Arc<Object>]) -> Self {
        let mut pods: BTreeMap<String, Vec<Arc<Object>>> = BTreeMap::new();
        for pod in mine {
            if let Some(node) = pods::node(pod).or_else(|| target(pod)) {
                pods.entry(node.to_owned()).or_default().push(pod.clone());
            }
        }
        for list in pods.values_mut() {
            list.sort_by_cached_key(|pod| (moment::created(pod), pod.key.name.clone()));
        }
        let spec = set.field("spec.template.spec");
        let tolerations = tolerations(spec);
        let (mut wanted, mut tolerated) = (Vec::new(), Vec::new());
        for node in world.view.list("nodes").filter(|node| placement::fits(spec, node)) {
            if placement::untolerated(&tolerations, node, &["NoSchedule", "NoExecute"]).is_none() {
                wanted.push(node.name().to_owned());
            } else if placement::untolerated(&tolerations, node, &["NoExecute"]).is_none() {
                tolerated.push(node.name().to_owned());
            }
        }
        Self { pods, wanted, tolerated }
    }

    fn on(&self, node: &str) -> &[Arc<Object>] {
        self.pods.get(node).map_or(&[], Vec::as_slice)
    }
}

/// The node that a pod of a DaemonSet was made for.
fn target(pod: &Object) -> Option<&str> {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = &pod.value["spec"]["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"];
    terms[0]["matchFields"][0]["values"][0].as_str()
}

fn tolerations(spec: &Value) -> Vec<Value> {
    let mut list = spec["tolerations"].as_array().cloned().unwrap_or_default();
    list.extend(TOLERATED.iter().map(|(key, effect)| json!({"key": key, "operator": "Exists", "effect": effect})));
    list
}

struct Plan<'a> {
    world: &'a World<'a>,
    set: &'a Arc<Object>,
    revisions: &'a Revisions,
    actions: Vec<Action>,
    made: usize,
}

impl Plan<'_> {
    /// One pod where one is wanted, none where none may be, and no dead ones.
    fn fill(&mut self, places: &Places) {
        for node in &places.wanted {
            let on_node = places.on(node);
            let dead: Vec<_> = on_node.iter().filter(|pod| pods::is_finished(pod)).collect();
            for pod in &dead {
                let message = format!(
                    "Found failed daemon pod {}/{} on node {node}, will try to kill it",
                    pod.namespace(),
                    pod.name()
                );
                self.tell(Severity::Warning, "FailedDaemonPod", message);
                self.delete(pod);
            }
            if on_node.is_empty() && self.made < limits::BURST_MAX {
                self.create(node);
            }
            for pod in on_node.iter().filter(|pod| pods::is_active(pod)).skip(1) {
                self.delete(pod);
            }
        }
        for (node, on_node) in &places.pods {
            if !places.wanted.contains(node) && !places.tolerated.contains(node) {
                for pod in on_node {
                    self.delete(pod);
                }
            }
        }
    }

    fn create(&mut self, node: &str) {
        let prefix = format!("{}-", self.set.name());
        let name = owner::child_name(&prefix, self.set, self.world.view, self.made);
        self.made += 1;
        let (key, mut body) = owner::pod_from_template(self.set, &KIND, name);
        body["metadata"]["generateName"] = json!(prefix);
        body["metadata"]["labels"][revisions::HASH] = json!(self.revisions.update_hash);
        let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
        body["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!({"nodeSelectorTerms": [{ "matchFields": [field] }]});
        body["spec"]["tolerations"] = Value::Array(tolerations(&body["spec"]));
        let message = format!("Created pod: {}", key.name);
        self.actions.push(Action::Create { key, body });
        self.tell(Severity::Normal, "SuccessfulCreate", message);
    }

    fn delete(&mut self, pod: &Object) {
        if pod.deletion_timestamp().is_some() {
            return;
        }
        let precondition = Precondition::same(pod);
        self.actions.push(Action::Delete { key: pod.key.clone(), precondition, grace_seconds: None });
        self.tell(Severity::Normal, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
    }

    /// Replaces pods of earlier templates: those that are not available at once, the others as far as allowed.
    fn update(&mut self, places: &Places) {
        let strategy = self.set.field("spec.updateStrategy");
        if strategy["type"] == "OnDelete" {
            return;
        }
        let whole = i64::try_from(places.wanted.len()).unwrap_or(i64::MAX);
        let rolling = &strategy["rollingUpdate"];
        let limit =
            |field: &str| if rolling[field].is_null() { 0 } else { deployment::share(&rolling[field], whole, true) };
        let allowed = limit("maxUnavailable").max(limit("maxSurge")).max(1);
        let unavailable = places.wanted.iter().filter(|node| !self.has_available(places.on(node))).count();
        let mut budget = allowed - i64::try_from(unavailable).unwrap_or(i64::MAX);
        let old = places.wanted.iter().flat_map(|node| places.on(node));
        for pod in old.filter(|pod| pods::is_active(pod)) {
            let spare = !self.is_available(pod);
            if !self.is_current(pod) && (spare || budget > 0) {
                budget -= i64::from(!spare);
                self.delete(pod);
            }
        }
    }

    fn is_current(&self, pod: &Object) -> bool {
        pod.label(revisions::HASH) == Some(&self.revisions.update_hash)
    }

    fn is_available(&self, pod: &Object) -> bool {
        let min_ready = self.set.field("spec.minReadySeconds").as_i64().unwrap_or(0);
        pods::available_at(pod, min_ready).is_some_and(|at| at <= self.world.now_ms)
    }

    fn has_available(&self, pods: &[Arc<Object>]) -> bool {
        pods.iter().any(|pod| pods::is_active(pod) && self.is_available(pod))
    }

    fn report(&mut self, places: &Places) {
        let count = |test: &dyn Fn(&Arc<Object>) -> bool| {
            places
                .wanted
                .iter()
                .filter(|node| places.on(node).iter().any(|pod| pods::is_active(pod) && test(pod)))
                .count()
        };
        let stray = places.pods.iter().filter(|(node, pods)| !places.wanted.contains(node) && !pods.is_empty());
        let desired = places.wanted.len();
        let available = count(&|pod| self.is_available(pod));
        let written = json!({
            "observedGeneration": self.set.generation(),
            "currentNumberScheduled": count(&|_| true), "desiredNumberScheduled": desired,
            "numberMisscheduled": stray.count(), "numberReady": count(&|pod| pods::is_ready(pod)),
            "updatedNumberScheduled": count(&|pod| self.is_current(pod)),
            "numberAvailable": available, "numberUnavailable": desired - available,
            "conditions": status::conditions(self.set),
        });
        let min_ready = self.set.field("spec.minReadySeconds").as_i64().unwrap_or(0);
        let all = places.pods.values().flatten();
        let (_, _, next) = pods::tally(all, min_ready, self.world.now_ms);
        self.actions.extend(status::set(self.set, written));
        if let Some(due) = next {
            self.actions.push(Action::Again { after_ms: moment::until(due, self.world.now_ms) });
        }
    }

    fn tell(&mut self, severity: Severity, reason: &'static str, message: String) {
        let (about, uid) = (self.set.key.clone(), self.set.uid().to_owned());
        self.actions.push(Action::Tell { about, uid, kind: KIND.kind, severity, reason, message });
    }
}
