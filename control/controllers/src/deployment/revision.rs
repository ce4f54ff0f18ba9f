//! Which ReplicaSet carries which template, and the numbers `kubectl rollout history` shows.
//!
//! The ReplicaSet of the current template always has the highest revision number. Going back (`kubectl rollout undo`
//! puts an earlier template into the Deployment) finds the old ReplicaSet by its template and gives it a new number;
//! the number it had is remembered beside it.

use api::{Action, Key, Object, Precondition};
use serde_json::{Map, Value, json};

use super::{DESIRED, MAX, Turn};
use crate::hash::template_hash;
use crate::status::Condition;
use crate::{limits, owner, replicaset, status};

/// Kubernetes' annotation with the revision number.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of the same template, separated by commas.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const HASH: &str = "pod-template-hash";

/// Annotations of a Deployment that its ReplicaSets do not inherit.
const PRIVATE: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// Whether a ReplicaSet was made from the Deployment's current template; the hash label it got is left aside.
pub(super) fn same_template(deployment: &Object, set: &Object) -> bool {
    let wanted = &deployment.value["spec"]["template"];
    let found = &set.value["spec"]["template"];
    let entries = |template| [entries(template, "labels"), entries(template, "annotations")];
    wanted["spec"] == found["spec"] && entries(wanted) == entries(found)
}
/// Labels or annotations of a template without the hash, sorted.
fn entries<'a>(template: &'a Value, field: &str) -> Vec<(&'a String, &'a Value)> {
    let map = template["metadata"][field].as_object();
    let mut list: Vec<_> = map.into_iter().flatten().filter(|(name, _)| *name != HASH).collect();
    list.sort_by_key(|(name, _)| *name);
    list
}

impl Turn<'_> {
    /// Gives the current ReplicaSet its number and its annotations; creates it if there is none and `create` is set.
    pub(super) fn sync_revision(&mut self, create: bool) {
        let newest_old = self.old().into_iter().map(|index| number(&self.sets[index].object)).max().unwrap_or(0);
        let next = newest_old + 1;
        if let Some(index) = self.new {
            let set = self.sets[index].object.clone();
            let patch = self.inherited(&set, next);
            self.revision = Some(number(&set).max(next).to_string());
            let mut change = json!({});
            if !patch.is_empty() {
                change["metadata"]["annotations"] = Value::Object(patch);
            }
            if self.min_ready_differs(&set) {
                change["spec"]["minReadySeconds"] = json!(self.spec.min_ready_seconds);
            }
            if change != json!({}) {
                self.actions.push(Action::Patch {
                    key: set.key.clone(),
                    subresource: None,
                    patch: change,
                    precondition: Precondition::same(&set),
                });
            }
            if self.spec.deadline_seconds.is_some() && status::find(&self.conditions, "Progressing").is_none() {
                let message = format!("Found new replica set \"{}\"", set.name());
                self.progressing("FoundNewReplicaSet", &message);
            }
        } else if create {
            self.create_set(next);
        }
    }

    fn progressing(&mut self, reason: &str, message: &str) {
        let condition = Condition { type_: "Progressing", status: "True", reason, message };
        status::put(&mut self.conditions, &condition, Some("lastUpdateTime"), self.world.now_ms);
    }

    fn min_ready_differs(&self, set: &Object) -> bool {
        set.field("spec.minReadySeconds").as_i64().unwrap_or(0) != self.spec.min_ready_seconds
    }

    /// The annotations that a ReplicaSet of the current template must still get.
    fn inherited(&self, set: &Object, next: i64) -> Map<String, Value> {
        let mut patch = Map::new();
        for (name, value) in annotations(self.deployment) {
            if !PRIVATE.contains(&name.as_str()) && set.annotation(name) != value.as_str() {
                patch.insert(name.clone(), value.clone());
            }
        }
        let now = number(set);
        if now < next {
            patch.insert(REVISION.to_owned(), json!(next.to_string()));
            if now > 0 {
                let history = set.annotation(HISTORY).filter(|history| !history.is_empty());
                let history = history.map_or_else(|| now.to_string(), |history| format!("{history},{now}"));
                patch.insert(HISTORY.to_owned(), json!(history));
            }
        }
        patch
    }

    fn create_set(&mut self, revision: i64) {
        let deployment = self.deployment;
        let template = &deployment.value["spec"]["template"];
        let mut name;
        let mut hash;
        loop {
            hash = template_hash(template, self.collisions);
            name = format!("{}-{hash}", deployment.name());
            let taken = self.world.view.get(replicaset::KIND.resource, deployment.namespace(), &name).is_some();
            if !taken {
                break;
            }
            if self.collisions >= limits::COLLISIONS_MAX {
                return;
            }
            self.collisions += 1;
        }
        let replicas = self.new_replicas(0);
        let body = self.set_body(&name, &hash, replicas, revision);
        let key = Key::new(replicaset::KIND.resource, deployment.key.namespace.clone(), name.clone());
        self.actions.push(Action::Create { key, body });
        if replicas > 0 {
            self.tell_scaled(&name, 0, replicas);
        }
        self.revision = Some(revision.to_string());
        if self.spec.deadline_seconds.is_some() {
            self.progressing("NewReplicaSetCreated", &format!("Created new replica set \"{name}\""));
        }
    }

    fn set_body(&self, name: &str, hash: &str, replicas: i64, revision: i64) -> Value {
        let deployment = self.deployment;
        let mut template = deployment.value["spec"]["template"].clone();
        template["metadata"]["labels"][HASH] = json!(hash);
        let mut selector = deployment.value["spec"]["selector"].clone();
        selector["matchLabels"][HASH] = json!(hash);
        let (desired, max) = self.size_notes();
        let mut notes: Map<String, Value> = annotations(deployment)
            .filter(|(name, _)| !PRIVATE.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        notes.insert(REVISION.to_owned(), json!(revision.to_string()));
        notes.insert(DESIRED.to_owned(), json!(desired));
        notes.insert(MAX.to_owned(), json!(max));
        json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": name, "namespace": deployment.namespace(), "labels": template["metadata"]["labels"],
                "annotations": notes, "ownerReferences": [owner::reference(deployment, &super::KIND)],
            },
            "spec": {
                "replicas": replicas, "minReadySeconds": self.spec.min_ready_seconds,
                "selector": selector, "template": template,
            },
        })
    }

    /// Deletes the oldest empty ReplicaSets beyond `revisionHistoryLimit`.
    pub(super) fn tidy_history(&mut self) {
        let Some(keep) = self.spec.history_max else { return };
        let mut old = self.old();
        old.retain(|index| self.sets[*index].object.deletion_timestamp().is_none());
        old.sort_by_key(|index| number(&self.sets[*index].object));
        let surplus = old.len().saturating_sub(keep);
        for index in old.into_iter().take(surplus) {
            let set = &self.sets[index];
            let observed = set.object.field("status.observedGeneration").as_i64().unwrap_or(0);
            if set.current != 0 || set.replicas != 0 || set.object.generation() > observed {
                continue;
            }
            let precondition = Precondition::unchanged(&set.object);
            self.actions.push(Action::Delete { key: set.object.key.clone(), precondition, grace_seconds: None });
        }
    }
}

fn annotations(object: &Object) -> impl Iterator<Item = (&String, &Value)> {
    object.value["metadata"]["annotations"].as_object().into_iter().flatten()
}

/// The revision number of a ReplicaSet; 0 before it has one.
pub(super) fn number(set: &Object) -> i64 {
    set.annotation(REVISION).and_then(|number| number.parse().ok()).unwrap_or(0)
}
