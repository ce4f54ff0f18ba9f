//! The scheduler: finds a node for every pod that has none.
//!
//! A pure machine. It is told what changed, keeps sums per node, and plans as many pods as are waiting in one go; a
//! pod that was planned counts on its node at once. A plan is a list of decisions with their reasons; whether a bind
//! is accepted is decided by the API, which refuses a pod that has a node or is gone.
//!
//! Worked example: ten pods of one Deployment arrive, two nodes have room. One turn returns ten decisions, five for
//! each node, since pods with one owner are spread. An eleventh that fits nowhere gets a condition and an Event with
//! the sum of the nodes' reasons, and waits until a node changes, a pod ends, or five minutes pass.
//!
//! # Layout
//! * `pod`, `nodes`: what is asked, what there is; `neighbours`: what pods mean to each other.
//! * `filter`, `score`: where a pod may run, where it should.
//! * `queue`: who is next.
//!
//! It refuses to preempt: a pod waits until there is room.

#![forbid(unsafe_code)]

mod filter;
pub mod limits;
mod neighbours;
mod nodes;
mod pod;
mod queue;
mod score;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::{Action, Change, ChangeKind, Key, Object, Precondition, Severity, View};
use serde_json::json;

use filter::Reason;
use neighbours::Neighbours;
use nodes::{Node, Nodes};
use pod::Wanted;
use queue::Queue;

/// The `spec.schedulerName` this scheduler serves.
pub const NAME: &str = "default-scheduler";

/// What to do about one pod, in this order. If one action fails, the rest is left out and the pod is
/// [`Scheduler::refused`].
#[derive(Debug)]
pub struct Decision {
    /// Which pod.
    pub pod: Key,
    /// A bind and an Event, or a condition and an Event.
    pub actions: Vec<Action>,
}

/// The scheduler's memory.
#[derive(Default)]
pub struct Scheduler {
    nodes: Nodes,
    queue: Queue,
    /// Planned pods whose bind has not been seen yet.
    assumed: HashMap<Key, Arc<Wanted>>,
    /// Where the next search starts, so that with many nodes all of them get their turn.
    start: usize,
}

impl Scheduler {
    /// A scheduler that knows a picture.
    #[must_use]
    pub fn new(view: &View) -> Self {
        let mut this = Self { nodes: Nodes::of(view), ..Self::default() };
        for pod in view.list("pods") {
            this.observe_pod(pod);
        }
        this
    }

    /// Takes in one change.
    pub fn observe(&mut self, change: &Change) {
        let object = &change.object;
        match (&*object.key.resource, change.kind) {
            ("nodes", ChangeKind::Deleted) => {
                self.nodes.remove(object.name());
                self.queue.retry(false);
            }
            ("nodes", _) => self.observe_node(object),
            ("pods", ChangeKind::Deleted) => self.forget(&object.key),
            ("pods", _) => self.observe_pod(object),
            _ => {}
        }
    }

    fn observe_node(&mut self, node: &Object) {
        if self.nodes.update(node) {
            self.queue.retry(false);
        }
    }

    fn forget(&mut self, key: &Key) {
        self.queue.remove(key);
        self.assumed.remove(key);
        if self.nodes.release(key) {
            self.queue.retry(false);
        }
    }

    fn observe_pod(&mut self, pod: &Arc<Object>) {
        let key = &pod.key;
        let finished = matches!(pod.field("status.phase").as_str(), Some("Succeeded" | "Failed"));
        let node = pod.field("spec.nodeName").as_str().filter(|node| !node.is_empty());
        match node {
            _ if finished => self.forget(key),
            Some(node) => {
                self.queue.remove(key);
                let assumed = self.assumed.remove(key).filter(|wanted| wanted.object.uid() == pod.uid());
                self.nodes.charge(node, assumed.unwrap_or_else(|| Arc::new(Wanted::of(pod))));
                self.queue.retry(true);
            }
            None if is_ours(pod) => {
                let assumed = self.assumed.get(key).is_some_and(|wanted| wanted.object.uid() == pod.uid());
                if !assumed {
                    self.nodes.release(key);
                    self.queue.put(Arc::new(Wanted::of(pod)));
                }
            }
            None => self.forget(key),
        }
    }

    /// Plans up to [`limits::PLAN_PODS_MAX`] pods. Call it again until it returns nothing.
    pub fn plan(&mut self, now_ms: i64) -> Vec<Decision> {
        let mut plan = Vec::new();
        while plan.len() < limits::PLAN_PODS_MAX {
            let Some(wanted) = self.queue.next(now_ms) else { break };
            let key = wanted.key().clone();
            let actions = match self.find(&wanted) {
                Ok(node) => {
                    self.queue.remove(&key);
                    self.nodes.charge(&node, wanted.clone());
                    self.assumed.insert(key.clone(), wanted.clone());
                    bind(&wanted.object, &node)
                }
                Err(why) => {
                    let remind = self.queue.failed(&key, now_ms);
                    explain(&wanted.object, why, remind, now_ms)
                }
            };
            plan.push(Decision { pod: key, actions });
        }
        plan
    }

    /// A decision could not be carried out: the pod waits a moment and is planned again.
    pub fn refused(&mut self, pod: &Key, now_ms: i64) {
        if let Some(wanted) = self.assumed.remove(pod) {
            self.nodes.release(pod);
            self.queue.refused(wanted, now_ms);
        }
    }

    /// When [`Scheduler::plan`] has something to do without any change, in milliseconds since 1970.
    #[must_use]
    pub fn wake_at(&self) -> Option<i64> {
        self.queue.wake_at()
    }

    /// The best node, or why there is none.
    fn find(&mut self, wanted: &Wanted) -> Result<Arc<str>, String> {
        let count = self.nodes.list.len();
        let neighbours = Neighbours::of(&self.nodes, wanted);
        let enough = feasible_enough(count);
        let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
        let mut fitting: Vec<&Node> = Vec::new();
        let mut looked = 0;
        while looked < count && fitting.len() < enough {
            let node = &self.nodes.list[(self.start + looked) % count];
            looked += 1;
            match filter::check(wanted, node, &neighbours) {
                Ok(()) => fitting.push(node),
                Err(why) => {
                    for reason in why {
                        *reasons.entry(reason).or_default() += 1;
                    }
                }
            }
        }
        let best = score::best(wanted, &fitting, &neighbours).map(|index| fitting[index].name.clone());
        if looked < count {
            self.start = (self.start + looked) % count;
        }
        best.ok_or_else(|| filter::sentence(count, &reasons))
    }
}

/// How many fitting nodes are enough to choose from: all of few, a shrinking share of many, as in Kubernetes.
fn feasible_enough(nodes: usize) -> usize {
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(limits::FEASIBLE_MIN)
}

/// Waiting for this scheduler, and free to go.
fn is_ours(pod: &Object) -> bool {
    let name = pod.field("spec.schedulerName").as_str().unwrap_or(NAME);
    let gated = pod.field("spec.schedulingGates").as_array().is_some_and(|gates| !gates.is_empty());
    name == NAME && !gated && pod.deletion_timestamp().is_none()
}

fn bind(pod: &Object, node: &str) -> Vec<Action> {
    let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
    vec![
        Action::Bind { pod: pod.key.clone(), uid: pod.uid().to_owned(), node: node.to_owned() },
        tell(pod, Severity::Normal, "Scheduled", message),
    ]
}

/// The pod's condition says why it waits; it is written only when the reason is new, and told then and now and again.
fn explain(pod: &Object, why: String, remind: bool, now_ms: i64) -> Vec<Action> {
    let mut conditions = pod.field("status.conditions").as_array().cloned().unwrap_or_default();
    let old = conditions.iter().find(|condition| condition["type"] == "PodScheduled").cloned();
    let told = old.as_ref().is_some_and(|old| old["reason"] == "Unschedulable" && old["message"] == why);
    let mut actions = Vec::new();
    if !told {
        let since = old.filter(|old| old["status"] == "False").map(|old| old["lastTransitionTime"].clone());
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
            "lastProbeTime": null,
            "lastTransitionTime": since.unwrap_or_else(|| json!(api::time::rfc3339(now_ms))),
        }));
        actions.push(Action::Patch {
            key: pod.key.clone(),
            subresource: Some("status"),
            patch: json!({"status": {"conditions": conditions}}),
            precondition: Precondition::unchanged(pod),
        });
    }
    if !told || remind {
        actions.push(tell(pod, Severity::Warning, "FailedScheduling", why));
    }
    actions
}

fn tell(pod: &Object, severity: Severity, reason: &'static str, message: String) -> Action {
    Action::Tell { about: pod.key.clone(), uid: pod.uid().to_owned(), kind: "Pod", severity, reason, message }
}
