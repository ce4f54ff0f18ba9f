//! The scheduler: finds a node for every pod that has none.
//!
//! A pure machine. It is told what changed, keeps sums per node and per topology domain, and plans as many pods as are
//! waiting in one go; a pod that was planned counts on its node at once. A plan is a list of decisions with their
//! reasons; whether a bind is accepted is decided by the API, which refuses a pod that has a node or is gone.
//!
//! Worked example: ten pods of one Deployment arrive, two nodes have room. One turn returns ten decisions, five for
//! each node, since pods with one owner are spread. An eleventh that fits nowhere gets a condition and an Event with
//! the sum of the nodes' reasons, and waits until a node changes, a pod ends, or five minutes pass. If its priority is
//! higher than others', the decision also ends those whose going makes room, and the node is kept free for it.
//!
//! # Layout
//! * `pod`, `nodes`: what is asked, what there is; `index`, `neighbours`: what pods mean to each other; `storage`:
//!   where their volumes are.
//! * `filter`, `score`: where a pod may run, where it should; `preempt`: whom it displaces.
//! * `queue`: who is next; `decision`: what is written.

#![forbid(unsafe_code)]

mod decision;
mod filter;
mod index;
pub mod limits;
mod neighbours;
mod nodes;
mod pod;
mod preempt;
mod queue;
mod score;
mod storage;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::{Action, Change, ChangeKind, Key, Object, View};

pub use decision::Decision;

use decision::{bind, displace, explain};
use filter::Reason;
use neighbours::{Concerns, Neighbours};
use nodes::{Node, Nodes};
use pod::Wanted;
use preempt::Budgets;
use queue::Queue;
use storage::{Needs, Storage};

/// The `spec.schedulerName` of the profile that spreads pods over nodes.
pub const NAME: &str = "default-scheduler";

/// The `spec.schedulerName` of the profile that fills nodes up one after the other.
pub const PACKING: &str = "bin-packing-scheduler";

/// The scheduler's memory.
#[derive(Default)]
pub struct Scheduler {
    nodes: Nodes,
    storage: Storage,
    budgets: Budgets,
    queue: Queue,
    /// Planned pods whose bind has not been seen yet.
    assumed: HashMap<Key, Arc<Wanted>>,
    /// Where the next search starts, so that with many nodes all of them get their turn.
    start: usize,
}

/// What was found for one pod.
enum Found {
    /// It goes there now.
    Node(Arc<str>),
    /// It goes there once its volumes are; this prepares them.
    Volumes(Vec<Action>),
    /// It fits nowhere, for this reason; perhaps a node is left to it.
    Nowhere(String, Option<preempt::Preemption>),
}

impl Scheduler {
    /// A scheduler that knows a picture.
    #[must_use]
    pub fn new(view: &View) -> Self {
        let (storage, budgets) = (Storage::of(view), Budgets::of(view));
        let mut this = Self { nodes: Nodes::of(view), storage, budgets, ..Self::default() };
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
            ("namespaces", kind) => {
                let labels = object.field("metadata.labels");
                self.nodes.name_space(object.name(), (kind != ChangeKind::Deleted).then_some(labels));
                self.queue.retry(true);
            }
            (preempt::BUDGETS, kind) => self.budgets.observe(kind, object),
            _ => {
                if self.storage.observe(change) {
                    self.queue.claims_changed();
                }
            }
        }
    }

    fn observe_node(&mut self, node: &Object) {
        if self.nodes.update(node) {
            self.queue.retry(false);
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(wanted) = self.queue.remove(key) {
            self.nodes.nominate(&wanted, None);
        }
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
                if let Some(wanted) = self.queue.remove(key) {
                    self.nodes.nominate(&wanted, None);
                }
                let assumed = self.assumed.remove(key);
                let same =
                    |wanted: &Arc<Wanted>| wanted.object.uid() == pod.uid() && pod.deletion_timestamp().is_none();
                self.nodes.charge(node, assumed.filter(same).unwrap_or_else(|| Arc::new(Wanted::of(pod))));
                self.queue.retry(true);
            }
            None if is_ours(pod) => {
                let assumed = self.assumed.get(key).is_some_and(|wanted| wanted.object.uid() == pod.uid());
                if !assumed {
                    self.nodes.release(key);
                    let wanted = Arc::new(Wanted::of(pod));
                    let nominated = pod.field("status.nominatedNodeName").as_str().filter(|node| !node.is_empty());
                    if nominated.is_some() {
                        self.nodes.nominate(&wanted, nominated);
                    }
                    self.queue.put(wanted);
                } else {
                    // Its decision is being written. If that is refused, it is planned again as it is now.
                    self.assumed.insert(key.clone(), Arc::new(Wanted::of(pod)));
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
                Found::Node(node) => {
                    self.queue.remove(&key);
                    self.nodes.nominate(&wanted, None);
                    self.nodes.charge(&node, wanted.clone());
                    self.assumed.insert(key.clone(), wanted.clone());
                    bind(&wanted.object, &node)
                }
                Found::Volumes(actions) => {
                    self.queue.waits_for_volumes(&key, now_ms);
                    actions
                }
                Found::Nowhere(why, preemption) => {
                    let remind = self.queue.failed(&key, now_ms);
                    let node = preemption.as_ref().map(|preemption| &*preemption.node);
                    let mut actions = explain(&wanted.object, why, node, remind, now_ms);
                    if let Some(preemption) = &preemption {
                        self.nodes.nominate(&wanted, Some(&preemption.node));
                        let victims = preemption.victims.iter();
                        actions
                            .extend(victims.flat_map(|pod| displace(&pod.object, &wanted, &preemption.node, now_ms)));
                    }
                    actions
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
    fn find(&mut self, wanted: &Wanted) -> Found {
        let concerns = Concerns::of(&mut self.nodes, wanted);
        let needs = match self.storage.needs(wanted, &self.nodes) {
            Ok(needs) => needs,
            Err(why) => {
                let count = self.nodes.list.len();
                let why = format!("0/{count} nodes are available: {why}. preemption: {}", preempt::nobody(count, 0));
                return Found::Nowhere(why, None);
            }
        };
        let searched = search(&self.nodes, wanted, &needs, &concerns, self.start);
        let count = self.nodes.list.len();
        if searched.looked < count {
            self.start = (self.start + searched.looked) % count;
        }
        if let Some(place) = searched.best {
            let node = &self.nodes.list[place];
            return if needs.is_settled() {
                Found::Node(node.name.clone())
            } else {
                Found::Volumes(needs.settle(node))
            };
        }
        let why = filter::sentence(count, &searched.reasons);
        if count == 0 {
            return Found::Nowhere(why, None);
        }
        let preemption = if self.nodes.has_below(wanted.priority) || !wanted.preempts {
            preempt::find(&mut self.nodes, &self.budgets, wanted, &needs, &concerns, self.start)
        } else {
            Err(preempt::nobody(count, searched.resolvable))
        };
        match preemption {
            Ok(preemption) => Found::Nowhere(why, Some(preemption)),
            Err(more) => Found::Nowhere(format!("{why} preemption: {more}"), None),
        }
    }
}

/// How a search over the nodes went.
struct Searched {
    looked: usize,
    best: Option<usize>,
    reasons: BTreeMap<Reason, usize>,
    /// Nodes that did not fit only because of the pods there.
    resolvable: usize,
}

fn search(nodes: &Nodes, wanted: &Wanted, needs: &Needs<'_>, concerns: &Concerns, start: usize) -> Searched {
    let neighbours = Neighbours::of(nodes, wanted, concerns);
    let count = nodes.list.len();
    let mut searched = Searched { looked: 0, best: None, reasons: BTreeMap::new(), resolvable: 0 };
    // The node that others were displaced from comes first.
    if let Some(place) = nodes.nominated_place(wanted.key())
        && filter::check(wanted, needs, &nodes.list[place], &neighbours).is_ok()
    {
        searched.best = Some(place);
        return searched;
    }
    let enough = feasible_enough(count);
    let mut fitting: Vec<&Node> = Vec::new();
    let mut places: Vec<usize> = Vec::new();
    while searched.looked < count && fitting.len() < enough {
        let place = (start + searched.looked) % count;
        let node = &nodes.list[place];
        searched.looked += 1;
        match filter::check(wanted, needs, node, &neighbours) {
            Ok(()) => {
                fitting.push(node);
                places.push(place);
            }
            Err(why) => {
                searched.resolvable += usize::from(!why.iter().any(Reason::is_final));
                for reason in why {
                    *searched.reasons.entry(reason).or_default() += 1;
                }
            }
        }
    }
    searched.best = score::best(wanted, &fitting, &neighbours).map(|index| places[index]);
    searched
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
    (name == NAME || name == PACKING) && !gated && pod.deletion_timestamp().is_none()
}
