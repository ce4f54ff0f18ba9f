//! Deployment: moves pods from one template to the next through ReplicaSets, at the pace its strategy allows.
//!
//! A turn takes one step and says what the step was: create the ReplicaSet of the current template, or scale some
//! ReplicaSets, or tidy old ones; then it writes what it sees into the status. The next step follows from the change
//! that this one makes, so a rollout can be interrupted anywhere and continues from what is there.
//!
//! Worked example, 3 replicas, maxSurge 1, maxUnavailable 0, `old` at 3 and a new template: create `new` with 1 (at
//! most 4 pods) → when its pod is available, shrink `old` to 2 (at least 3 available) → grow `new` to 2 → … → `old`
//! at 0, `new` at 3, complete.
//!
//! * `revision`: which ReplicaSet is whose, revision numbers, history.
//! * `rollout`: RollingUpdate and Recreate.
//! * `scale`: a change of `spec.replicas` in the middle of a rollout, spread in proportion.
//! * `progress`: status and conditions.

mod progress;
mod revision;
mod rollout;
mod scale;

use std::sync::Arc;

use api::{Action, Change, Key, Object, Precondition, Severity, View};
use serde_json::{Value, json};

use crate::owner::{self, Kind};
use crate::{World, moment, pods, replicaset, status};

pub(crate) const KIND: Kind = Kind { resource: "deployments.apps", api_version: "apps/v1", kind: "Deployment" };

/// How many replicas the whole Deployment wanted when a ReplicaSet was last scaled.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with the surge.
const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// A Deployment wakes with itself and its ReplicaSets; with its pods only when one goes, which Recreate waits for.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        "deployments.apps" => vec![object.key.clone()],
        "replicasets.apps" => owner::keys_of_child(object, change.previous.as_ref(), view, &KIND),
        "pods" if change.kind == api::ChangeKind::Deleted || pods::is_finished(object) => {
            let set = object.controller_uid().and_then(|uid| view.find(uid));
            set.and_then(|set| owner::controller_key(set, &KIND)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// One Deployment.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(deployment) = world.view.at(key) else { return Vec::new() };
    if owner::selector(deployment).is_everything() {
        let message = "This deployment is selecting all pods. A non-empty selector is required.".to_owned();
        return vec![tell(deployment, Severity::Warning, "SelectingAll", message)];
    }
    let claim = owner::claim(world.view, deployment, &KIND, replicaset::KIND.resource);
    let mut turn = Turn::new(world, deployment, &claim.mine);
    turn.actions = claim.actions;
    if deployment.deletion_timestamp().is_some() {
        turn.write_status(false);
        return turn.finish();
    }
    turn.note_pause();
    if turn.spec.paused || turn.is_scaling() {
        turn.sync_revision(false);
        turn.scale();
        if turn.spec.paused {
            turn.tidy_history();
        }
        turn.write_status(false);
    } else {
        turn.roll();
        turn.write_status(true);
    }
    turn.finish()
}

/// What `spec` says, resolved to numbers.
struct Spec {
    replicas: i64,
    max_surge: i64,
    max_unavailable: i64,
    recreate: bool,
    paused: bool,
    min_ready_seconds: i64,
    /// `None`: rollouts have no deadline.
    deadline_seconds: Option<i64>,
    history_max: Option<usize>,
}

impl Spec {
    fn of(deployment: &Object) -> Self {
        let spec = &deployment.value["spec"];
        let replicas = spec["replicas"].as_i64().unwrap_or(1);
        let recreate = spec["strategy"]["type"] == "Recreate";
        let rolling = &spec["strategy"]["rollingUpdate"];
        let (max_surge, mut max_unavailable) = if recreate {
            (0, 0)
        } else {
            (share(&rolling["maxSurge"], replicas, true), share(&rolling["maxUnavailable"], replicas, false))
        };
        // Validation refuses 0 and 0, but percentages may round to it; then nothing could ever move.
        if !recreate && max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        Self {
            replicas,
            max_surge,
            max_unavailable: max_unavailable.min(replicas),
            recreate,
            paused: spec["paused"] == true,
            min_ready_seconds: spec["minReadySeconds"].as_i64().unwrap_or(0),
            deadline_seconds: spec["progressDeadlineSeconds"]
                .as_i64()
                .filter(|&seconds| seconds != i64::from(i32::MAX)),
            history_max: spec["revisionHistoryLimit"].as_u64().and_then(|limit| usize::try_from(limit).ok()),
        }
    }
}

/// A number or a percentage of `whole`; absent means 25 %.
pub(crate) fn share(value: &Value, whole: i64, round_up: bool) -> i64 {
    if let Some(number) = value.as_i64() {
        return number;
    }
    let percent = value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<i64>().ok());
    let scaled = percent.unwrap_or(25) * whole;
    if round_up { (scaled + 99) / 100 } else { scaled / 100 }
}

/// One ReplicaSet as this turn sees it; `replicas` follows the turn's own scaling.
struct Set {
    object: Arc<Object>,
    replicas: i64,
    current: i64,
    ready: i64,
    available: i64,
}

impl Set {
    fn of(object: &Arc<Object>) -> Self {
        let count = |path| object.field(path).as_i64().unwrap_or(0);
        Self {
            object: object.clone(),
            replicas: object.field("spec.replicas").as_i64().unwrap_or(1),
            current: count("status.replicas"),
            ready: count("status.readyReplicas"),
            available: count("status.availableReplicas"),
        }
    }
}

/// One step of one Deployment.
struct Turn<'a> {
    world: &'a World<'a>,
    deployment: &'a Arc<Object>,
    spec: Spec,
    /// Every ReplicaSet of the Deployment, oldest first.
    sets: Vec<Set>,
    /// The one with the current template.
    new: Option<usize>,
    conditions: Vec<Value>,
    collisions: i64,
    /// What `metadata.annotations["deployment.kubernetes.io/revision"]` should say.
    revision: Option<String>,
    actions: Vec<Action>,
    status: Option<Action>,
}

impl<'a> Turn<'a> {
    fn new(world: &'a World<'a>, deployment: &'a Arc<Object>, sets: &[Arc<Object>]) -> Self {
        let mut sets: Vec<Set> = sets.iter().map(Set::of).collect();
        sets.sort_by_cached_key(|set| (moment::created(&set.object), set.object.key.name.clone()));
        let new = sets.iter().position(|set| revision::same_template(deployment, &set.object));
        Self {
            world,
            deployment,
            spec: Spec::of(deployment),
            sets,
            new,
            conditions: status::conditions(deployment),
            collisions: deployment.field("status.collisionCount").as_i64().unwrap_or(0),
            revision: None,
            actions: Vec::new(),
            status: None,
        }
    }

    /// Indexes of the ReplicaSets with an earlier template, oldest first.
    fn old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|index| Some(*index) != self.new).collect()
    }

    /// What all ReplicaSets together are asked to keep.
    fn total(&self) -> i64 {
        self.sets.iter().map(|set| set.replicas).sum()
    }

    /// Sets `spec.replicas` of a ReplicaSet and notes what the whole wanted. Returns whether the number changed.
    fn resize(&mut self, index: usize, to: i64) -> bool {
        let (desired, max) = self.size_notes();
        let set = &mut self.sets[index];
        let resized = set.replicas != to;
        let noted = |name, value: &str| set.object.annotation(name) == Some(value);
        if !resized && noted(DESIRED, &desired) && noted(MAX, &max) {
            return false;
        }
        let from = std::mem::replace(&mut set.replicas, to);
        self.actions.push(Action::Patch {
            key: set.object.key.clone(),
            subresource: None,
            patch: json!({"spec": {"replicas": to}, "metadata": {"annotations": {DESIRED: desired, MAX: max}}}),
            precondition: Precondition::same(&set.object),
        });
        if resized {
            let name = set.object.key.name.clone();
            self.tell_scaled(&name, from, to);
        }
        resized
    }

    fn size_notes(&self) -> (String, String) {
        (self.spec.replicas.to_string(), (self.spec.replicas + self.spec.max_surge).to_string())
    }

    fn tell_scaled(&mut self, set: &str, from: i64, to: i64) {
        let way = if to > from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {set} from {from} to {to}");
        self.actions.push(tell(self.deployment, Severity::Normal, "ScalingReplicaSet", message));
    }

    /// The status goes before the annotation: it is written only if nobody else wrote in between.
    fn finish(mut self) -> Vec<Action> {
        self.actions.extend(self.status.take());
        if let Some(revision) = self.revision
            && self.deployment.annotation(revision::REVISION) != Some(&revision)
        {
            self.actions.push(Action::Patch {
                key: self.deployment.key.clone(),
                subresource: None,
                patch: json!({"metadata": {"annotations": {revision::REVISION: revision}}}),
                precondition: Precondition::same(self.deployment),
            });
        }
        self.actions
    }
}

fn tell(deployment: &Object, severity: Severity, reason: &'static str, message: String) -> Action {
    Action::Tell {
        about: deployment.key.clone(),
        uid: deployment.uid().to_owned(),
        kind: "Deployment",
        severity,
        reason,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        for (value, whole, up, down) in [
            (json!("25%"), 3, 1, 0),
            (json!("25%"), 4, 1, 1),
            (json!("25%"), 10, 3, 2),
            (json!("100%"), 7, 7, 7),
            (json!(2), 10, 2, 2),
            (json!("0%"), 10, 0, 0),
            (Value::Null, 8, 2, 2),
        ] {
            assert_eq!((share(&value, whole, true), share(&value, whole, false)), (up, down), "{value} of {whole}");
        }
    }
}
