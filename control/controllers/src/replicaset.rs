//! ReplicaSet: so many pods of one template, no more and no fewer.
//!
//! It counts the pods it may count on (neither finished nor asked to go), adopts strays that its selector matches,
//! creates what is missing and deletes what hurts least. It refuses to look at what its pods do.

use std::sync::Arc;

use api::{Action, Change, Key, Object, Precondition, Severity, View};
use serde_json::{Value, json};

use crate::owner::{self, Kind};
use crate::status::{self, Condition};
use crate::{World, limits, moment, pods};

pub(crate) const KIND: Kind = Kind { resource: "replicasets.apps", api_version: "apps/v1", kind: "ReplicaSet" };

/// A ReplicaSet wakes with itself and with its pods.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    match &*change.object.key.resource {
        "replicasets.apps" => vec![change.object.key.clone()],
        "pods" if pods::matters(change) => owner::keys_of_child(&change.object, change.previous.as_ref(), view, &KIND),
        _ => Vec::new(),
    }
}

/// One ReplicaSet.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    keep(world, key, &KIND)
}

/// Keeps so many pods of one template, for whatever kind of owner.
pub(crate) fn keep(world: &World<'_>, key: &Key, kind: &Kind) -> Vec<Action> {
    let Some(set) = world.view.at(key) else { return Vec::new() };
    let claim = owner::claim(world.view, set, kind, "pods");
    let mut actions = claim.actions;
    let active: Vec<_> = claim.mine.into_iter().filter(|pod| pods::is_active(pod)).collect();
    if set.deletion_timestamp().is_none() {
        let wanted = usize::try_from(set.field("spec.replicas").as_i64().unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            create(world, set, kind, wanted - active.len(), &mut actions);
        } else if active.len() > wanted {
            delete(world.view, set, kind, &active, &mut actions);
        }
    }
    write_status(world, set, &active, &mut actions);
    actions
}

fn create(world: &World<'_>, set: &Object, kind: &Kind, missing: usize, actions: &mut Vec<Action>) {
    let prefix = format!("{}-", set.name());
    let mut tells = Vec::new();
    for index in 0..missing.min(limits::BURST_MAX) {
        let name = owner::child_name(&prefix, set, world.view, index);
        let (key, mut body) = owner::pod_from_template(set, kind, name);
        body["metadata"]["generateName"] = json!(prefix);
        if index < limits::TELLS_MAX {
            tells.push(tell(set, kind, "SuccessfulCreate", format!("Created pod: {}", key.name)));
        }
        actions.push(Action::Create { key, body });
    }
    actions.extend(tells);
}

fn delete(view: &View, set: &Object, kind: &Kind, active: &[Arc<Object>], actions: &mut Vec<Action>) {
    let wanted = usize::try_from(set.field("spec.replicas").as_i64().unwrap_or(1)).unwrap_or(0);
    let surplus = active.len().saturating_sub(wanted);
    let mut candidates = active.to_vec();
    pods::sort_for_deletion(&mut candidates, &kin(view, set));
    let mut tells = Vec::new();
    for pod in candidates.into_iter().take(surplus.min(limits::BURST_MAX)) {
        if tells.len() < limits::TELLS_MAX {
            tells.push(tell(set, kind, "SuccessfulDelete", format!("Deleted pod: {}", pod.name())));
        }
        let precondition = Precondition::same(&pod);
        actions.push(Action::Delete { key: pod.key.clone(), precondition, grace_seconds: None });
    }
    actions.extend(tells);
}

/// The pods of every ReplicaSet with the same owner: during a rollout, "crowded on one node" counts old and new.
fn kin(view: &View, set: &Object) -> Vec<Arc<Object>> {
    let is_pod = |object: &&Arc<Object>| &*object.key.resource == "pods";
    let Some(owner) = set.controller_uid() else { return view.owned(set.uid()).filter(is_pod).cloned().collect() };
    let sets = view.owned(owner).filter(|sibling| &*sibling.key.resource == KIND.resource);
    sets.flat_map(|sibling| view.owned(sibling.uid())).filter(is_pod).cloned().collect()
}

fn write_status(world: &World<'_>, set: &Object, active: &[Arc<Object>], actions: &mut Vec<Action>) {
    let template = &set.value["spec"]["template"]["metadata"]["labels"];
    let labelled = active.iter().filter(|pod| {
        let labels = &pod.value["metadata"]["labels"];
        template.as_object().is_none_or(|wanted| wanted.iter().all(|(name, value)| labels.get(name) == Some(value)))
    });
    let min_ready = set.field("spec.minReadySeconds").as_i64().unwrap_or(0);
    let (ready, available, next) = pods::tally(active, min_ready, world.now_ms);
    let conditions = conditions(world, set, active.len());
    actions.extend(status::set(
        set,
        json!({
            "replicas": active.len(), "fullyLabeledReplicas": labelled.count(),
            "readyReplicas": ready, "availableReplicas": available,
            "observedGeneration": set.generation(), "conditions": conditions,
        }),
    ));
    if let Some(due) = next {
        actions.push(Action::Again { after_ms: moment::until(due, world.now_ms) });
    }
}

/// `ReplicaFailure` stands from the first pod that cannot be made until none is missing.
fn conditions(world: &World<'_>, set: &Object, active: usize) -> Vec<Value> {
    let mut conditions = status::conditions(set);
    let wanted = set.field("spec.replicas").as_i64().and_then(|wanted| usize::try_from(wanted).ok());
    if let Some(message) = world.refused {
        let failure = Condition { type_: "ReplicaFailure", status: "True", reason: "FailedCreate", message };
        status::put(&mut conditions, &failure, None, world.now_ms);
    } else if wanted.is_none_or(|wanted| active >= wanted) {
        conditions.retain(|condition| condition["type"] != "ReplicaFailure");
    }
    conditions
}

fn tell(set: &Object, kind: &Kind, reason: &'static str, message: String) -> Action {
    Action::Tell {
        about: set.key.clone(),
        uid: set.uid().to_owned(),
        kind: kind.kind,
        severity: Severity::Normal,
        reason,
        message,
    }
}
