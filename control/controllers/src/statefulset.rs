//! StatefulSet: pods with names that stay, made one after the other and taken away in the opposite order.
//!
//! A name is never used twice at a time: the next pod of a name is made only when the last one is gone from the
//! store, which the pod's node confirms. With `podManagementPolicy: Parallel` the order is given up, the names are not.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::volumes::CLAIMS;
use api::{Action, Change, Key, Object, Precondition, Severity, View, meta};
use serde_json::{Value, json};

use crate::owner::{self, Kind};
use crate::revisions::{self, Revisions};
use crate::{World, moment, pods, status};

pub(crate) const KIND: Kind = Kind { resource: "statefulsets.apps", api_version: "apps/v1", kind: "StatefulSet" };

/// A StatefulSet wakes with itself, its pods and its revisions.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        "statefulsets.apps" => vec![object.key.clone()],
        "pods" if pods::matters(change) => owner::keys_of_child(object, change.previous.as_ref(), view, &KIND),
        "controllerrevisions.apps" => owner::controller_key(object, &KIND).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// One StatefulSet.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(set) = world.view.at(key) else { return Vec::new() };
    let claim = owner::claim(world.view, set, &KIND, "pods");
    let mut actions = claim.actions;
    if set.deletion_timestamp().is_some() {
        return actions;
    }
    let revisions = revisions::sync(world.view, set, &KIND, &mut actions);
    let current = set.field("status.currentRevision").as_str().unwrap_or(&revisions.update).to_owned();
    let mut plan = Plan::new(world, set, &revisions, &current, &claim.mine);
    plan.actions = actions;
    plan.own_claims();
    if plan.fill() && plan.shrink() {
        plan.update();
    }
    plan.report();
    revisions.tidy(set, &claim.mine, &current, &mut plan.actions);
    plan.actions
}

struct Plan<'a> {
    world: &'a World<'a>,
    set: &'a Arc<Object>,
    revisions: &'a Revisions,
    /// Name of the revision that pods below the partition keep.
    current: &'a str,
    /// Ordinal → pod.
    pods: BTreeMap<i64, Arc<Object>>,
    /// First and last (exclusive) ordinal.
    ordinals: (i64, i64),
    ordered: bool,
    min_ready_seconds: i64,
    actions: Vec<Action>,
}

impl<'a> Plan<'a> {
    fn new(
        world: &'a World<'a>,
        set: &'a Arc<Object>,
        revisions: &'a Revisions,
        current: &'a str,
        mine: &[Arc<Object>],
    ) -> Self {
        let start = set.field("spec.ordinals.start").as_i64().unwrap_or(0);
        let replicas = set.field("spec.replicas").as_i64().unwrap_or(1);
        Self {
            world,
            set,
            revisions,
            current,
            pods: mine.iter().filter_map(|pod| Some((ordinal(set, pod)?, pod.clone()))).collect(),
            ordinals: (start, start + replicas),
            ordered: set.field("spec.podManagementPolicy") != "Parallel",
            min_ready_seconds: set.field("spec.minReadySeconds").as_i64().unwrap_or(0),
            actions: Vec::new(),
        }
    }

    fn is_available(&self, pod: &Object) -> bool {
        let at = pods::available_at(pod, self.min_ready_seconds);
        pods::is_active(pod) && at.is_some_and(|at| at <= self.world.now_ms)
    }

    /// The lowest missing pod first; in order, nothing else happens until it is available. Returns whether all is
    /// well up to the last.
    fn fill(&mut self) -> bool {
        for ordinal in self.ordinals.0..self.ordinals.1 {
            let pod = self.pods.get(&ordinal).cloned();
            match pod {
                None => self.create(ordinal),
                Some(pod) if pods::is_finished(&pod) => self.delete(&pod),
                Some(_) => {}
            }
            let well = self.pods.get(&ordinal).is_some_and(|pod| self.is_available(pod));
            if self.ordered && !well {
                return false;
            }
        }
        true
    }

    /// The highest pod beyond the end first; in order, one at a time.
    fn shrink(&mut self) -> bool {
        let (first, end) = self.ordinals;
        let beyond = self.pods.iter().filter(|(ordinal, _)| !(first..end).contains(*ordinal));
        let beyond: Vec<_> = beyond.map(|(_, pod)| pod.clone()).rev().collect();
        for pod in &beyond {
            self.delete(pod);
            if self.ordered {
                return false;
            }
        }
        beyond.is_empty()
    }

    /// Replaces the highest pod of an earlier template, down to the partition, each when the one above is available.
    fn update(&mut self) {
        let strategy = self.set.field("spec.updateStrategy");
        if strategy["type"] == "OnDelete" {
            return;
        }
        let first = self.ordinals.0 + self.partition();
        for ordinal in (first..self.ordinals.1).rev() {
            let Some(pod) = self.pods.get(&ordinal).cloned() else { return };
            if pod.label(revisions::HASH) != Some(&self.revisions.update_hash) {
                self.delete(&pod);
                return;
            }
            if !self.is_available(&pod) {
                return;
            }
        }
    }

    fn partition(&self) -> i64 {
        self.set.field("spec.updateStrategy.rollingUpdate.partition").as_i64().unwrap_or(0)
    }

    fn create(&mut self, ordinal: i64) {
        let set = self.set;
        let name = format!("{}-{ordinal}", set.name());
        let below = ordinal < self.ordinals.0 + self.partition();
        let earlier = if below { self.revisions.template(self.current) } else { None };
        let (template, hash) = earlier.unwrap_or((set.field("spec.template"), &self.revisions.update_hash));
        let (key, mut body) = owner::pod_from_template(set, &KIND, name.clone());
        body["spec"] = template["spec"].clone();
        for field in ["labels", "annotations"] {
            body["metadata"][field] = template["metadata"][field].clone();
        }
        for (label, value) in [
            (revisions::HASH, hash),
            ("statefulset.kubernetes.io/pod-name", &name),
            ("apps.kubernetes.io/pod-index", &ordinal.to_string()),
        ] {
            body["metadata"]["labels"][label] = json!(value);
        }
        body["spec"]["hostname"] = json!(name);
        body["spec"]["subdomain"] = set.field("spec.serviceName").clone();
        self.claim_volumes(&name, &mut body["spec"]);
        self.actions.push(Action::Create { key, body });
        self.tell("SuccessfulCreate", format!("create Pod {name} in StatefulSet {} successful", set.name()));
    }

    /// Whose the claims are (`persistentVolumeClaimRetentionPolicy`): a claim that is to go with the set, or with a pod
    /// that is scaled away, names it as an owner, and the garbage collector does the rest.
    fn own_claims(&mut self) {
        let policy = self.set.field("spec.persistentVolumeClaimRetentionPolicy");
        let with = |when: &str| policy[when] == "Delete";
        let (with_set, with_pod) = (with("whenDeleted"), with("whenScaled"));
        let pods: Vec<_> = self.pods.iter().map(|(ordinal, pod)| (*ordinal, pod.clone())).collect();
        for (ordinal, pod) in pods {
            let condemned = ordinal >= self.ordinals.1 || ordinal < self.ordinals.0;
            let wanted = match () {
                () if condemned && with_pod => Some(meta::owned_by(&pod, "v1", "Pod")),
                () if with_set => Some(meta::owned_by(self.set, KIND.api_version, KIND.kind)),
                () => None,
            };
            for claim in self.claims_of(pod.name()) {
                let held = claim.field("metadata.ownerReferences").as_array().cloned().unwrap_or_default();
                let ours = |owner: &Value| owner["uid"] == self.set.uid() || owner["uid"] == pod.uid();
                let mut owners: Vec<Value> = held.iter().filter(|owner| !ours(owner)).cloned().collect();
                owners.extend(wanted.clone());
                if owners != held {
                    let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
                    self.actions.push(status::patch(&claim, json!({"metadata": {"ownerReferences": owners}})));
                }
            }
        }
    }

    /// The claims that there are of the templates, for one pod.
    fn claims_of(&self, pod: &str) -> Vec<Arc<Object>> {
        let templates = self.set.field("spec.volumeClaimTemplates").as_array().into_iter().flatten();
        let names = templates.filter_map(|template| template["metadata"]["name"].as_str());
        let claims =
            names.filter_map(|name| self.world.view.get(CLAIMS, self.set.namespace(), &format!("{name}-{pod}")));
        claims.filter(|claim| claim.deletion_timestamp().is_none()).cloned().collect()
    }

    /// Every claim template becomes a claim of the pod's own, which outlives the pod.
    fn claim_volumes(&mut self, pod: &str, spec: &mut Value) {
        let set = self.set;
        let templates = set.field("spec.volumeClaimTemplates").as_array().into_iter().flatten();
        for template in templates {
            let Some(volume) = template["metadata"]["name"].as_str() else { continue };
            let name = format!("{volume}-{pod}");
            if !spec["volumes"].is_array() {
                spec["volumes"] = json!([]);
            }
            if let Some(volumes) = spec["volumes"].as_array_mut() {
                volumes.retain(|old| old["name"] != volume);
                volumes.push(json!({"name": volume, "persistentVolumeClaim": {"claimName": name}}));
            }
            if self.world.view.get(CLAIMS, set.namespace(), &name).is_some() {
                continue;
            }
            let mut labels = template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
            let selector = set.field("spec.selector.matchLabels").as_object().cloned();
            labels.extend(selector.unwrap_or_default());
            let body = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": template["spec"],
                "metadata": {"name": name, "namespace": set.namespace(), "labels": labels},
            });
            let message = format!("create Claim {name} Pod {pod} in StatefulSet {} success", set.name());
            self.actions.push(Action::Create { key: Key::new(CLAIMS, set.key.namespace.clone(), name), body });
            self.tell("SuccessfulCreate", message);
        }
    }

    fn delete(&mut self, pod: &Object) {
        if pod.deletion_timestamp().is_some() {
            return;
        }
        let precondition = Precondition::same(pod);
        self.actions.push(Action::Delete { key: pod.key.clone(), precondition, grace_seconds: None });
        self.tell(
            "SuccessfulDelete",
            format!("delete Pod {} in StatefulSet {} successful", pod.name(), self.set.name()),
        );
    }

    fn report(&mut self) {
        let live = || self.pods.values().filter(|pod| pods::is_active(pod));
        let of = |hash: &str| live().filter(|pod| pod.label(revisions::HASH) == Some(hash)).count();
        let update = &self.revisions.update;
        let current_hash = self.revisions.template(self.current).map_or(&*self.revisions.update_hash, |(_, hash)| hash);
        let (updated, mut current_count) = (of(&self.revisions.update_hash), of(current_hash));
        let (ready, available, next) = pods::tally(live(), self.min_ready_seconds, self.world.now_ms);
        // The update is over when every pod has it and is available: then it is the current one.
        let replicas = self.ordinals.1 - self.ordinals.0;
        let over = i64::try_from(updated).unwrap_or(0) == replicas && available == replicas && self.partition() == 0;
        let current = if over { update.as_str() } else { self.current };
        if over {
            current_count = updated;
        }
        let written = json!({
            "observedGeneration": self.set.generation(), "replicas": live().count(),
            "readyReplicas": ready, "availableReplicas": available,
            "currentReplicas": current_count, "updatedReplicas": updated,
            "currentRevision": current, "updateRevision": update,
            "collisionCount": self.set.field("status.collisionCount").as_i64(),
            "conditions": status::conditions(self.set),
        });
        self.actions.extend(status::set(self.set, written));
        if let Some(due) = next {
            self.actions.push(Action::Again { after_ms: moment::until(due, self.world.now_ms) });
        }
    }

    fn tell(&mut self, reason: &'static str, message: String) {
        let (about, uid) = (self.set.key.clone(), self.set.uid().to_owned());
        self.actions.push(Action::Tell { about, uid, kind: KIND.kind, severity: Severity::Normal, reason, message });
    }
}

/// `web-3` of `web` is 3.
fn ordinal(set: &Object, pod: &Object) -> Option<i64> {
    pod.name().strip_prefix(set.name())?.strip_prefix('-')?.parse().ok()
}
