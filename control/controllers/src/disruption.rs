//! PodDisruptionBudget: how many of some pods may be taken away on purpose right now.
//!
//! An eviction spends one disruption and notes the pod in `status.disruptedPods`. Until the pod is seen leaving it
//! counts as gone already, so that a hundred evictions at the same moment cannot all find the same one allowed.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use api::{Action, Change, Key, Object, View};
use serde_json::{Map, Value, json};

use crate::status::{self, Condition};
use crate::{World, deployment, limits, moment, owner, pods};

const BUDGETS: &str = "poddisruptionbudgets.policy";

/// A budget wakes with itself, with the pods it selects or selected, and with what scales them.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        BUDGETS => vec![object.key.clone()],
        "pods" if pods::matters(change) => {
            let concerned = |budget: &&Arc<Object>| {
                let selector = owner::selector(budget);
                let selects = |pod: &Arc<Object>| selector.matches(&pod.value["metadata"]["labels"]);
                selects(object) || change.previous.as_ref().is_some_and(selects)
            };
            view.list_in(BUDGETS, object.namespace()).filter(concerned).map(|budget| budget.key.clone()).collect()
        }
        "deployments.apps" | "replicasets.apps" | "statefulsets.apps" | "replicationcontrollers" => {
            let old = change.previous.as_ref().map(|old| old.field("spec.replicas"));
            let same = old == Some(object.field("spec.replicas"));
            let budgets = view.list_in(BUDGETS, object.namespace());
            if same { Vec::new() } else { budgets.map(|budget| budget.key.clone()).collect() }
        }
        _ => Vec::new(),
    }
}

/// One budget.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(budget) = world.view.at(key).filter(|budget| budget.deletion_timestamp().is_none()) else {
        return Vec::new();
    };
    let selector = owner::selector(budget);
    let selected: Vec<_> = pods_of(world.view, budget, &selector);
    let (disrupted, next) = disrupted(world, budget, &selected);
    let healthy = selected
        .iter()
        .filter(|pod| pods::is_ready(pod) && pods::is_active(pod) && !disrupted.contains_key(pod.name()));
    let healthy = count(healthy);
    let (expected, desired) = wanted(world.view, budget, &selected);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let mut conditions = status::conditions(budget);
    let condition = if allowed > 0 {
        Condition { type_: "DisruptionAllowed", status: "True", reason: "SufficientPods", message: "" }
    } else {
        Condition { type_: "DisruptionAllowed", status: "False", reason: "InsufficientPods", message: "" }
    };
    status::put(&mut conditions, &condition, None, world.now_ms);
    // All counters are required fields: they are written even when they are zero.
    let mut written = json!({
        "observedGeneration": budget.generation(), "disruptionsAllowed": allowed, "currentHealthy": healthy,
        "desiredHealthy": desired, "expectedPods": expected, "conditions": conditions,
    });
    if !disrupted.is_empty() {
        written["disruptedPods"] = Value::Object(disrupted);
    }
    let mut actions: Vec<Action> = status::set(budget, written).into_iter().collect();
    if let Some(due) = next {
        actions.push(Action::Again { after_ms: moment::until(due, world.now_ms) });
    }
    actions
}

fn pods_of(view: &View, budget: &Object, selector: &LabelSelector) -> Vec<Arc<Object>> {
    let pods = view.select("pods", budget.namespace(), selector);
    pods.filter(|pod| !pods::is_finished(pod)).cloned().collect()
}

/// Evicted pods that have not been seen leaving yet, and when the first of them is given up: then its eviction came
/// to nothing.
fn disrupted(world: &World<'_>, budget: &Object, selected: &[Arc<Object>]) -> (Map<String, Value>, Option<i64>) {
    let mut kept = Map::new();
    let mut next = None::<i64>;
    for (name, at) in budget.field("status.disruptedPods").as_object().into_iter().flatten() {
        let evicted = moment::ms(at).unwrap_or(0);
        // A pod of that name that was born later is the evicted one's successor.
        let meant = |pod: &Object| pod.name() == name && moment::created(pod) <= evicted;
        let waits = selected.iter().any(|pod| meant(pod) && pod.deletion_timestamp().is_none());
        let due = evicted + limits::DISRUPTION_MS;
        if waits && due > world.now_ms {
            kept.insert(name.clone(), at.clone());
            next = Some(next.map_or(due, |next| next.min(due)));
        }
    }
    (kept, next)
}

/// How many pods there should be, and how many of them must stay healthy.
fn wanted(view: &View, budget: &Object, selected: &[Arc<Object>]) -> (i64, i64) {
    let (minimum, maximum) = (budget.field("spec.minAvailable"), budget.field("spec.maxUnavailable"));
    if !maximum.is_null() {
        let expected = scale(view, selected);
        (expected, (expected - deployment::share(maximum, expected, true)).max(0))
    } else if minimum.is_string() {
        let expected = scale(view, selected);
        (expected, deployment::share(minimum, expected, true))
    } else {
        (count(selected.iter()), minimum.as_i64().unwrap_or(1))
    }
}

/// The sum of what the pods' controllers want; a pod without a scalable controller counts as one.
fn scale(view: &View, selected: &[Arc<Object>]) -> i64 {
    let mut controllers: BTreeMap<String, i64> = BTreeMap::new();
    for pod in selected {
        let set = pod.controller_uid().and_then(|uid| view.find(uid));
        // A ReplicaSet of a Deployment changes during a rollout; the Deployment says what is wanted in the end.
        let above = set.and_then(|set| set.controller_uid()).and_then(|uid| view.find(uid));
        let scalable = above.or(set).filter(|owner| owner.field("spec.replicas").is_i64());
        match scalable {
            Some(owner) => {
                controllers.insert(owner.uid().to_owned(), owner.field("spec.replicas").as_i64().unwrap_or(0));
            }
            None => *controllers.entry(String::new()).or_default() += 1,
        }
    }
    controllers.values().sum()
}

fn count<T>(items: impl Iterator<Item = T>) -> i64 {
    i64::try_from(items.count()).unwrap_or(i64::MAX)
}
