//! Job: runs pods until enough of them succeeded, or too many failed, or time ran out.
//!
//! Every end of a pod counts exactly once, even if the pod is deleted meanwhile. Each pod carries a finalizer, and
//! counting takes three writes: one that raises the number and lists the pod's uid in
//! `status.uncountedTerminatedPods`; one that takes the pod's finalizer; one that takes the uid off the list. A crash
//! between any two continues where it stopped, and a listed uid never counts again.
//!
//! * `count`: those three writes, and the totals they give.
//! * `policy`: what failures mean, and which successes are enough.
//! * `verdict`: whether the Job is over, and why.

mod count;
mod policy;
mod verdict;

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Action, Change, Key, Object, Precondition, Severity, View};
use serde_json::{Value, json};

use crate::owner::{self, Kind};
use crate::{World, limits, moment, pods, status};
use count::Tally;

pub(crate) const KIND: Kind = Kind { resource: "jobs.batch", api_version: "batch/v1", kind: "Job" };

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label with the index of an Indexed Job's pod.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// A Job wakes with itself and with its pods.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    match &*change.object.key.resource {
        "jobs.batch" => vec![change.object.key.clone()],
        "pods" if pods::matters(change) => owner::keys_of_child(&change.object, change.previous.as_ref(), view, &KIND),
        _ => Vec::new(),
    }
}

/// One Job.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let job = world.view.at(key).filter(|job| job.deletion_timestamp().is_none());
    let Some(job) = job else { return count::release_orphans(world.view, key) };
    let claim = owner::claim(world.view, job, &KIND, "pods");
    let mut actions = claim.actions;
    if verdict::is_over(&status::conditions(job)) {
        actions.extend(claim.mine.iter().filter_map(|pod| count::release(pod)));
        return actions;
    }
    Turn::new(world, job, claim.mine).run(actions)
}

/// What `spec` says.
struct Spec {
    parallelism: i64,
    /// `None`: one success ends the Job, the other pods may finish.
    completions: Option<i64>,
    backoff_max: i64,
    deadline_seconds: Option<i64>,
    indexed: bool,
    suspended: bool,
}

impl Spec {
    fn of(job: &Object) -> Self {
        let spec = &job.value["spec"];
        let per_index = policy::index_backoff_max(job).is_some();
        Self {
            parallelism: spec["parallelism"].as_i64().unwrap_or(1),
            completions: spec["completions"].as_i64(),
            // With limits per index the Job itself has none unless it says so.
            backoff_max: spec["backoffLimit"].as_i64().unwrap_or(if per_index { i64::MAX } else { 6 }),
            deadline_seconds: spec["activeDeadlineSeconds"].as_i64(),
            indexed: spec["completionMode"] == "Indexed",
            suspended: spec["suspend"] == true,
        }
    }
}

/// One look at one Job.
struct Turn<'a> {
    world: &'a World<'a>,
    job: &'a Arc<Object>,
    spec: Spec,
    pods: Vec<Arc<Object>>,
    active: Vec<Arc<Object>>,
    tally: Tally,
    conditions: Vec<Value>,
    start: Value,
    again: Option<i64>,
}

impl<'a> Turn<'a> {
    fn new(world: &'a World<'a>, job: &'a Arc<Object>, pods: Vec<Arc<Object>>) -> Self {
        let spec = Spec::of(job);
        let tally = Tally::of(job, &pods, spec.indexed, spec.suspended);
        let active = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let start = job.value["status"]["startTime"].clone();
        Self { world, job, tally, spec, active, pods, conditions: status::conditions(job), start, again: None }
    }

    fn run(mut self, mut actions: Vec<Action>) -> Vec<Action> {
        if self.start.is_null() && !self.spec.suspended {
            self.start = json!(api::time::rfc3339(self.world.now_ms));
        }
        let mut work = Vec::new();
        let verdict = self.verdict();
        match &verdict {
            Some(_) => self.stop(self.active.len(), &mut work),
            None if self.spec.suspended => {
                self.start = Value::Null;
                self.stop(self.active.len(), &mut work);
            }
            None => self.fill(&mut work),
        }
        self.note_suspension(&mut work);
        if let Some(verdict) = verdict {
            self.conclude(&verdict, &mut work);
        }
        actions.extend(self.status());
        // Only what the stored status already lists may lose its finalizer.
        let listed = count::listed(self.job);
        actions.extend(self.pods.iter().filter(|pod| listed.contains(pod.uid())).filter_map(|pod| count::release(pod)));
        actions.extend(work);
        if let Some(due) = self.again {
            actions.push(Action::Again { after_ms: moment::until(due, self.world.now_ms) });
        }
        actions
    }

    fn wake_at(&mut self, due: i64) {
        self.again = Some(self.again.map_or(due, |again| again.min(due)));
    }

    /// How many pods should run now.
    fn wanted(&self) -> i64 {
        match self.spec.completions {
            Some(completions) => (completions - self.tally.over()).clamp(0, self.spec.parallelism),
            None if self.tally.succeeded > 0 => self.active_count().min(self.spec.parallelism),
            None => self.spec.parallelism,
        }
    }

    fn active_count(&self) -> i64 {
        i64::try_from(self.active.len()).unwrap_or(i64::MAX)
    }

    fn fill(&mut self, work: &mut Vec<Action>) {
        let missing = self.wanted() - self.active_count();
        if missing < 0 {
            self.stop(usize::try_from(-missing).unwrap_or(0), work);
        } else if missing > 0 {
            let due = self.tally.retry_at();
            if due > self.world.now_ms {
                self.wake_at(due);
            } else {
                self.start_pods(usize::try_from(missing).unwrap_or(0).min(limits::BURST_MAX), work);
            }
        }
    }

    fn start_pods(&self, missing: usize, work: &mut Vec<Action>) {
        let mut tells = Vec::new();
        let indexes = self.free_indexes(missing);
        for turn in 0..missing {
            let index = if self.spec.indexed {
                let Some(index) = indexes.get(turn) else { break };
                Some(*index)
            } else {
                None
            };
            let (key, body) = self.pod(turn, index);
            if turn < limits::TELLS_MAX {
                tells.push(self.tell(Severity::Normal, "SuccessfulCreate", format!("Created pod: {}", key.name)));
            }
            work.push(Action::Create { key, body });
        }
        work.extend(tells);
    }

    /// The lowest indexes that neither succeeded nor have a pod.
    fn free_indexes(&self, count: usize) -> Vec<i64> {
        if !self.spec.indexed {
            return Vec::new();
        }
        let running: BTreeSet<i64> = self.active.iter().filter_map(|pod| count::index(pod)).collect();
        let all = 0..self.spec.completions.unwrap_or(0);
        let over = |index: &i64| self.tally.indexes.contains(index) || self.tally.failed_indexes.contains(index);
        all.filter(|index| !running.contains(index) && !over(index)).take(count).collect()
    }

    fn pod(&self, turn: usize, index: Option<i64>) -> (Key, Value) {
        let job = self.job;
        let prefix = index.map_or_else(|| format!("{}-", job.name()), |index| format!("{}-{index}-", job.name()));
        let name = owner::child_name(&prefix, job, self.world.view, turn);
        let (key, mut body) = owner::pod_from_template(job, &KIND, name);
        let metadata = &mut body["metadata"];
        metadata["generateName"] = json!(prefix);
        for prefix in ["", "batch.kubernetes.io/"] {
            metadata["labels"][format!("{prefix}job-name")] = json!(job.name());
            metadata["labels"][format!("{prefix}controller-uid")] = json!(job.uid());
        }
        let finalizers = metadata["finalizers"].as_array().into_iter().flatten().cloned();
        metadata["finalizers"] = finalizers.chain([json!(FINALIZER)]).collect();
        if let Some(index) = index {
            metadata["labels"][INDEX] = json!(index.to_string());
            metadata["annotations"][INDEX] = json!(index.to_string());
            if policy::index_backoff_max(job).is_some() {
                metadata["annotations"][policy::FAILURES] = json!(self.failures_of(index).to_string());
            }
            body["spec"]["hostname"] = json!(format!("{}-{index}", job.name()));
            give_index(&mut body["spec"]);
        }
        (key, body)
    }

    /// How many pods of an index have failed, as far as its own limit counts them.
    fn failures_of(&self, index: i64) -> i64 {
        let own = self.pods.iter().filter(|pod| pods::phase(pod) == "Failed" && count::index(pod) == Some(index));
        let counts = |pod: &Object| i64::from(policy::meaning(self.job, pod) != policy::Meaning::Ignored);
        own.map(|pod| policy::index_failures(pod) + counts(pod)).max().unwrap_or(0)
    }

    /// Deletes `count` of the running pods, the least useful first.
    fn stop(&self, count: usize, work: &mut Vec<Action>) {
        let mut victims = self.active.clone();
        pods::sort_for_deletion(&mut victims, &self.active);
        let mut tells = Vec::new();
        for pod in victims.into_iter().take(count.min(limits::BURST_MAX)) {
            if tells.len() < limits::TELLS_MAX {
                tells.push(self.tell(Severity::Normal, "SuccessfulDelete", format!("Deleted pod: {}", pod.name())));
            }
            let precondition = Precondition::same(&pod);
            work.push(Action::Delete { key: pod.key.clone(), precondition, grace_seconds: None });
        }
        work.extend(tells);
    }

    fn status(&self) -> Option<Action> {
        let over = status::is_true(&self.conditions, "Complete");
        let completion = if over { json!(api::time::rfc3339(self.world.now_ms)) } else { Value::Null };
        let ready = self.active.iter().filter(|pod| pods::is_ready(pod)).count();
        let terminating = self.pods.iter().filter(|pod| pod.deletion_timestamp().is_some() && !pods::is_finished(pod));
        let written = json!({
            "active": self.active.len(), "ready": ready, "terminating": terminating.count(),
            "succeeded": self.tally.succeeded, "failed": self.tally.failed,
            "startTime": self.start, "completionTime": completion, "conditions": self.conditions,
            "uncountedTerminatedPods": self.tally.uncounted(),
            "completedIndexes": self.tally.written_indexes(),
            "failedIndexes": self.tally.written_failed_indexes(),
        });
        status::set(self.job, written)
    }

    fn tell(&self, severity: Severity, reason: &'static str, message: String) -> Action {
        let (about, uid) = (self.job.key.clone(), self.job.uid().to_owned());
        Action::Tell { about, uid, kind: "Job", severity, reason, message }
    }
}

/// `JOB_COMPLETION_INDEX` in every container that does not set it itself.
fn give_index(spec: &mut Value) {
    let variable = json!({
        "name": "JOB_COMPLETION_INDEX",
        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": format!("metadata.annotations['{INDEX}']")}},
    });
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            if container["env"].is_null() {
                container["env"] = json!([]);
            }
            if let Some(env) = container["env"].as_array_mut()
                && !env.iter().any(|entry| entry["name"] == variable["name"])
            {
                env.push(variable.clone());
            }
        }
    }
}
