//! Counting ends of pods, each exactly once.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Action, Key, Object, View};
use serde_json::{Value, json};

use super::{FINALIZER, INDEX, KIND, policy};
use crate::{limits, moment, owner, pods, status};

/// What is known about a Job's ended pods, as the status of this turn will say it.
pub(super) struct Tally {
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    /// Indexes that succeeded, of an Indexed Job.
    pub(super) indexes: BTreeSet<i64>,
    /// Indexes that failed for good, of a Job with limits per index.
    pub(super) failed_indexes: BTreeSet<i64>,
    indexed: bool,
    /// uids listed in the status until their pods have lost the finalizer.
    uncounted: [Vec<String>; 2],
    /// The pods that failed since the last success: how many, and when the last one ended.
    streak: (u32, i64),
}

impl Tally {
    pub(super) fn of(job: &Object, pods: &[Arc<Object>], indexed: bool, suspended: bool) -> Self {
        let status = &job.value["status"];
        let failed: Vec<&Object> = pods.iter().filter(|pod| ended(pod) == Some(false)).map(|pod| &**pod).collect();
        let failed_before = read_indexes(status["failedIndexes"].as_str().unwrap_or_default());
        let mut tally = Self {
            failed_indexes: policy::failed_indexes(job, &failed, &failed_before),
            succeeded: status["succeeded"].as_i64().unwrap_or(0),
            failed: status["failed"].as_i64().unwrap_or(0),
            indexes: read_indexes(status["completedIndexes"].as_str().unwrap_or_default()),
            indexed,
            uncounted: [Vec::new(), Vec::new()],
            streak: streak(pods),
        };
        let old = [uids(job, "succeeded"), uids(job, "failed")];
        let mut fresh = 0;
        for pod in pods.iter().filter(|pod| ended(pod).is_some()) {
            let success = ended(pod) == Some(true);
            let uid = pod.uid().to_owned();
            let was_listed = old.iter().any(|list| list.contains(&uid));
            let tracked = pod.finalizers().any(|finalizer| finalizer == FINALIZER);
            if !tracked || fresh >= limits::JOB_UNCOUNTED_MAX {
                continue;
            }
            if !was_listed {
                // A pod that suspension stops did not fail, nor one that the policy looks away from.
                let stopped = suspended && !pods::is_finished(pod);
                let ignored = !success && policy::meaning(job, pod) == policy::Meaning::Ignored;
                if !stopped && !ignored {
                    tally.add(success, index(pod));
                }
                fresh += 1;
            }
            tally.uncounted[usize::from(!success)].push(uid);
        }
        tally
    }

    /// Counts one end. An Indexed Job counts an index once, however many of its pods succeeded.
    fn add(&mut self, success: bool, index: Option<i64>) {
        match (success, index) {
            (true, Some(index)) if self.indexed => {
                if self.indexes.insert(index) {
                    self.succeeded += 1;
                }
            }
            (true, _) => self.succeeded += 1,
            (false, _) => self.failed += 1,
        }
    }

    /// How many completions need no further pod: those that succeeded, and indexes that failed for good.
    pub(super) fn over(&self) -> i64 {
        self.succeeded + i64::try_from(self.failed_indexes.len()).unwrap_or(i64::MAX)
    }

    /// When the next pod may start: at once, or after a pause that doubles with every failure in a row.
    pub(super) fn retry_at(&self) -> i64 {
        let (failures, last) = self.streak;
        if failures == 0 {
            return 0;
        }
        let pause = limits::JOB_BACKOFF_MS.saturating_mul(1 << (failures - 1).min(20));
        last + pause.min(limits::JOB_BACKOFF_MAX_MS)
    }

    /// `status.uncountedTerminatedPods`.
    pub(super) fn uncounted(&self) -> Value {
        let mut lists = json!({});
        for (name, list) in ["succeeded", "failed"].into_iter().zip(&self.uncounted) {
            if !list.is_empty() {
                lists[name] = json!(list);
            }
        }
        lists
    }

    /// Whether every end that was seen is counted for good.
    pub(super) fn settled(&self) -> bool {
        self.uncounted.iter().all(Vec::is_empty)
    }

    /// `status.completedIndexes`, such as `0-2,5`.
    pub(super) fn written_indexes(&self) -> Value {
        self.ranges(&self.indexes)
    }

    /// `status.failedIndexes`, written likewise.
    pub(super) fn written_failed_indexes(&self) -> Value {
        self.ranges(&self.failed_indexes)
    }

    fn ranges(&self, indexes: &BTreeSet<i64>) -> Value {
        if !self.indexed || indexes.is_empty() {
            return Value::Null;
        }
        let mut parts: Vec<(i64, i64)> = Vec::new();
        for &index in indexes {
            match parts.last_mut() {
                Some((_, last)) if *last + 1 == index => *last = index,
                _ => parts.push((index, index)),
            }
        }
        let parts = parts.into_iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
        json!(parts.collect::<Vec<_>>().join(","))
    }
}

pub(super) fn read_indexes(text: &str) -> BTreeSet<i64> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) {
            indexes.extend(first..=last);
        }
    }
    indexes
}

/// How a pod ended: `true` for success. A pod asked to go counts as failed unless it succeeded first.
fn ended(pod: &Object) -> Option<bool> {
    match pods::phase(pod) {
        "Succeeded" => Some(true),
        "Failed" => Some(false),
        _ => pod.deletion_timestamp().map(|_| false),
    }
}

fn finished_at(pod: &Object) -> i64 {
    let containers = pod.value["status"]["containerStatuses"].as_array();
    let ends = containers.into_iter().flatten().filter_map(|s| moment::ms(&s["state"]["terminated"]["finishedAt"]));
    let end = ends.max().or_else(|| pod.deletion_timestamp().and_then(api::time::parse));
    end.unwrap_or_else(|| moment::created(pod))
}

fn streak(pods: &[Arc<Object>]) -> (u32, i64) {
    let ends = |success| pods.iter().filter(move |pod| ended(pod) == Some(success)).map(|pod| finished_at(pod));
    let last_success = ends(true).max().unwrap_or(i64::MIN);
    let failures = ends(false).filter(|end| *end > last_success);
    failures.fold((0, 0), |(count, last), end| (count + 1, last.max(end)))
}

/// The index of an Indexed Job's pod.
pub(super) fn index(pod: &Object) -> Option<i64> {
    pod.annotation(INDEX)?.parse().ok()
}

fn uids(job: &Object, list: &str) -> Vec<String> {
    let list = job.value["status"]["uncountedTerminatedPods"][list].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The uids that the stored status lists: their pods may lose the finalizer.
pub(super) fn listed(job: &Object) -> BTreeSet<String> {
    uids(job, "succeeded").into_iter().chain(uids(job, "failed")).collect()
}

/// Takes the finalizer off a pod.
pub(super) fn release(pod: &Object) -> Option<Action> {
    let mut finalizers: Vec<&str> = pod.finalizers().collect();
    let before = finalizers.len();
    finalizers.retain(|finalizer| *finalizer != FINALIZER);
    let left = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
    (finalizers.len() < before).then(|| status::patch(pod, json!({"metadata": {"finalizers": left}})))
}

/// The Job is gone or going: nobody counts its pods any more.
pub(super) fn release_orphans(view: &View, job: &Key) -> Vec<Action> {
    let pods = view.list_in("pods", &job.namespace);
    pods.filter(|pod| owner::controller_key(pod, &KIND).as_ref() == Some(job)).filter_map(|pod| release(pod)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_ranges() {
        for text in ["", "0", "0,1", "0-2", "0-2,4,6-9", "3,4"] {
            let indexes = read_indexes(text);
            let tally = Tally {
                succeeded: 0,
                failed: 0,
                indexes,
                failed_indexes: BTreeSet::new(),
                indexed: true,
                uncounted: [Vec::new(), Vec::new()],
                streak: (0, 0),
            };
            assert_eq!(tally.written_indexes().as_str().unwrap_or_default(), text);
        }
    }
}
