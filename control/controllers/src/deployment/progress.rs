//! What `kubectl rollout status` and `kubectl wait` read: counts, and how a rollout is getting on.

use serde_json::{Value, json};

use super::{Set, Turn};
use crate::moment;
use crate::status::{self, Condition};

/// The counts of a Deployment's status.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
    unavailable: i64,
}

impl Counts {
    fn written(status: &Value) -> Self {
        let count = |name| status[name].as_i64().unwrap_or(0);
        Self {
            replicas: count("replicas"),
            updated: count("updatedReplicas"),
            ready: count("readyReplicas"),
            available: count("availableReplicas"),
            unavailable: count("unavailableReplicas"),
        }
    }

    /// Every pod has the current template and is available, and none is too many.
    pub(super) fn complete(self, wanted: i64) -> bool {
        self.updated == wanted && self.replicas == wanted && self.available == wanted
    }

    /// More new ones, fewer old ones, more that serve.
    fn better_than(self, before: Self) -> bool {
        self.updated > before.updated
            || self.replicas - self.updated < before.replicas - before.updated
            || self.ready > before.ready
            || self.available > before.available
    }
}

impl Turn<'_> {
    /// What the ReplicaSets say about their pods.
    pub(super) fn counts(&self) -> Counts {
        let available = self.sets.iter().map(|set| set.available).sum();
        Counts {
            replicas: self.sets.iter().map(|set| set.current).sum(),
            updated: self.new.map_or(0, |new| self.sets[new].current),
            ready: self.sets.iter().map(|set| set.ready).sum(),
            available,
            unavailable: (self.total() - available).max(0),
        }
    }

    /// Pausing and resuming is progress: the deadline does not run while a rollout is paused.
    pub(super) fn note_pause(&mut self) {
        if self.spec.deadline_seconds.is_none() {
            return;
        }
        let current = status::find(&self.conditions, "Progressing");
        let reason = current.map(|condition| condition["reason"].clone());
        if reason.as_ref().is_some_and(|reason| reason == "ProgressDeadlineExceeded") {
            return;
        }
        let paused = reason.is_some_and(|reason| reason == "DeploymentPaused");
        let (reason, message) = match (self.spec.paused, paused) {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return,
        };
        let condition = Condition { type_: "Progressing", status: "Unknown", reason, message };
        status::put(&mut self.conditions, &condition, Some("lastUpdateTime"), self.world.now_ms);
    }

    /// Plans the status patch; `rolling` also judges the rollout's progress.
    pub(super) fn write_status(&mut self, rolling: bool) {
        let counts = self.counts();
        if rolling {
            self.judge(counts);
        }
        let enough = counts.available >= self.spec.replicas - self.spec.max_unavailable;
        let condition = if enough {
            let message = "Deployment has minimum availability.";
            Condition { type_: "Available", status: "True", reason: "MinimumReplicasAvailable", message }
        } else {
            let message = "Deployment does not have minimum availability.";
            Condition { type_: "Available", status: "False", reason: "MinimumReplicasUnavailable", message }
        };
        status::put(&mut self.conditions, &condition, Some("lastUpdateTime"), self.world.now_ms);
        self.note_failure();
        let status = json!({
            "observedGeneration": self.deployment.generation(),
            "replicas": counts.replicas, "updatedReplicas": counts.updated,
            "readyReplicas": counts.ready, "availableReplicas": counts.available,
            "unavailableReplicas": counts.unavailable,
            "collisionCount": self.collisions, "conditions": self.conditions,
        });
        self.status = status::set(self.deployment, status);
    }

    /// The newest ReplicaSet's `ReplicaFailure` is the Deployment's, else any other's.
    fn note_failure(&mut self) {
        self.conditions.retain(|condition| condition["type"] != "ReplicaFailure");
        let newest = self.new.map(|new| &self.sets[new]);
        let failure = |set: &Set| status::find(&status::conditions(&set.object), "ReplicaFailure").cloned();
        if let Some(mut failure) = newest.into_iter().chain(&self.sets).find_map(failure) {
            failure["lastUpdateTime"] = failure["lastTransitionTime"].clone();
            self.conditions.push(failure);
        }
    }

    fn judge(&mut self, counts: Counts) {
        let Some(deadline) = self.spec.deadline_seconds else {
            self.conditions.retain(|condition| condition["type"] != "Progressing");
            return;
        };
        let current = status::find(&self.conditions, "Progressing").cloned();
        let reason = current.as_ref().and_then(|condition| condition["reason"].as_str()).unwrap_or_default();
        if counts.replicas == counts.updated && reason == "NewReplicaSetAvailable" {
            return;
        }
        let before = Counts::written(&self.deployment.value["status"]);
        let subject = self.new.map_or_else(
            || format!("Deployment \"{}\"", self.deployment.name()),
            |new| format!("ReplicaSet \"{}\"", self.sets[new].object.name()),
        );
        let (status, reason, message) = if counts.complete(self.spec.replicas) {
            ("True", "NewReplicaSetAvailable", format!("{subject} has successfully progressed."))
        } else if counts.better_than(before) {
            // Also when the reason stays: the deadline counts from the last progress.
            self.conditions.retain(|condition| condition["type"] != "Progressing");
            ("True", "ReplicaSetUpdated", format!("{subject} is progressing."))
        } else {
            let since = current.as_ref().and_then(|condition| moment::ms(&condition["lastUpdateTime"]));
            let Some(since) = since.filter(|_| reason != "NewReplicaSetAvailable") else { return };
            let due = since + deadline * 1000;
            if reason != "ProgressDeadlineExceeded" && self.world.now_ms < due {
                let after_ms = moment::until(due, self.world.now_ms);
                self.actions.push(api::Action::Again { after_ms });
                return;
            }
            ("False", "ProgressDeadlineExceeded", format!("{subject} has timed out progressing."))
        };
        let condition = Condition { type_: "Progressing", status, reason, message: &message };
        status::put(&mut self.conditions, &condition, Some("lastUpdateTime"), self.world.now_ms);
        if let Some(old) = current.filter(|old| old["status"] == status) {
            let entry = self.conditions.iter_mut().find(|condition| condition["type"] == "Progressing");
            if let Some(entry) = entry {
                entry["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
        }
    }
}
