//! What a Job's failures mean: `podFailurePolicy` (KEP-3329), `backoffLimitPerIndex` (KEP-3850), and which successes
//! are enough: `successPolicy` (KEP-3998).

use std::collections::BTreeSet;

use api::Object;
use serde_json::Value;

use super::count;
use crate::pods;

/// What becomes of one failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It counts towards the limits, as without a policy.
    Counts,
    /// It does not count; the pod is replaced.
    Ignored,
    /// Its index has failed, whatever is left of its limit.
    FailsIndex,
    /// The whole Job has failed; why.
    FailsJob(String),
}

/// The first rule of the policy that a failed pod meets decides.
pub(super) fn meaning(job: &Object, pod: &Object) -> Meaning {
    let rules = job.field("spec.podFailurePolicy.rules").as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, rule) in rules.iter().enumerate() {
        let Some(why) = met(rule, pod) else { continue };
        return match rule["action"].as_str() {
            Some("FailJob") => {
                let pod = format!("{}/{}", pod.namespace(), pod.name());
                Meaning::FailsJob(format!("{} matching FailJob rule at index {index}", why.replace("POD", &pod)))
            }
            Some("FailIndex") => Meaning::FailsIndex,
            Some("Ignore") => Meaning::Ignored,
            _ => Meaning::Counts,
        };
    }
    Meaning::Counts
}

/// Why a pod meets a rule; `POD` stands for its name.
fn met(rule: &Value, pod: &Object) -> Option<String> {
    if rule["onExitCodes"].is_object() {
        return exit_code(&rule["onExitCodes"], pod);
    }
    let patterns = rule["onPodConditions"].as_array()?;
    let found = patterns.iter().find(|pattern| {
        let wanted = pattern["status"].as_str().unwrap_or("True");
        api::meta::condition(&pod.value, pattern["type"].as_str().unwrap_or_default())
            .is_some_and(|condition| condition["status"] == wanted)
    })?;
    Some(format!("Pod POD has condition {}", found["type"].as_str().unwrap_or_default()))
}

fn exit_code(wanted: &Value, pod: &Object) -> Option<String> {
    let statuses = ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .flat_map(|list| pod.value["status"][list].as_array())
        .flatten();
    let values = wanted["values"].as_array().map(Vec::as_slice).unwrap_or_default();
    for status in statuses {
        let name = status["name"].as_str().unwrap_or_default();
        if wanted["containerName"].as_str().is_some_and(|only| only != name) {
            continue;
        }
        let Some(code) = status["state"]["terminated"]["exitCode"].as_i64().filter(|code| *code != 0) else { continue };
        let listed = values.iter().any(|value| *value == code);
        if listed == (wanted["operator"] == "In") {
            return Some(format!("Container {name} for pod POD failed with exit code {code}"));
        }
    }
    None
}

/// How many failures of one index are too many; `None` where indexes have no limit of their own.
pub(super) fn index_backoff_max(job: &Object) -> Option<i64> {
    job.field("spec.backoffLimitPerIndex").as_i64()
}

/// How often the pods of an index have failed, as the newest of them says.
pub(super) fn index_failures(pod: &Object) -> i64 {
    pod.annotation(FAILURES).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// On a pod of a Job with limits per index: how many of its index failed before it.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// The indexes that have failed for good, beside those that had before.
pub(super) fn failed_indexes(job: &Object, failed: &[&Object], before: &BTreeSet<i64>) -> BTreeSet<i64> {
    let Some(most) = index_backoff_max(job) else { return BTreeSet::new() };
    let mut indexes = before.clone();
    for pod in failed.iter().filter(|pod| pods::is_finished(pod)) {
        let Some(index) = count::index(pod) else { continue };
        let gone = match meaning(job, pod) {
            Meaning::FailsIndex => true,
            Meaning::Counts => index_failures(pod) >= most,
            Meaning::Ignored | Meaning::FailsJob(_) => false,
        };
        if gone {
            indexes.insert(index);
        }
    }
    indexes
}

/// Whether the successes are enough by one of the rules of `successPolicy`; the sentence for the condition.
pub(super) fn is_enough(job: &Object, succeeded: &BTreeSet<i64>) -> Option<String> {
    let rules = job.field("spec.successPolicy.rules").as_array()?;
    let met = |rule: &Value| {
        let listed = rule["succeededIndexes"].as_str().map(count::read_indexes);
        let wanted = rule["succeededCount"].as_u64().and_then(|count| usize::try_from(count).ok());
        let done = match &listed {
            Some(listed) => listed.intersection(succeeded).count(),
            None => succeeded.len(),
        };
        done >= wanted.or(listed.map(|listed| listed.len())).unwrap_or(usize::MAX)
    };
    let index = rules.iter().position(met)?;
    Some(format!("Matched rules at index {index}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Key;
    use serde_json::json;

    fn job(spec: &Value) -> Object {
        Object::new(Key::new("jobs.batch", "default", "j"), 1, json!({"metadata": {"name": "j"}, "spec": spec}))
    }

    fn failed(code: i64, index: Option<i64>, failures: i64, condition: Option<&str>) -> Object {
        let mut value = json!({
            "metadata": {"name": "p", "annotations": {FAILURES: failures.to_string()}},
            "status": {"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": code}}}]},
        });
        if let Some(index) = index {
            value["metadata"]["annotations"][super::super::INDEX] = json!(index.to_string());
        }
        if let Some(condition) = condition {
            value["status"]["conditions"] = json!([{"type": condition, "status": "True"}]);
        }
        Object::new(Key::new("pods", "default", "p"), 1, value)
    }

    #[test]
    fn the_first_rule_that_is_met_decides() {
        let policy = job(&json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [7]}},
            {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [0]}},
        ]}}));
        for (pod, expected) in [
            (failed(42, None, 0, Some("DisruptionTarget")), Meaning::Ignored),
            (failed(7, None, 0, None), Meaning::FailsIndex),
            (failed(1, None, 0, None), Meaning::Counts),
        ] {
            assert_eq!(meaning(&policy, &pod), expected);
        }
        let why = "Container c for pod default/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(meaning(&policy, &failed(42, None, 0, None)), Meaning::FailsJob(why.to_owned()));
        assert_eq!(meaning(&job(&json!({})), &failed(42, None, 0, None)), Meaning::Counts);
    }

    #[test]
    fn an_index_fails_beyond_its_own_limit() {
        let limited = job(&json!({"backoffLimitPerIndex": 1}));
        let (first, second) = (failed(1, Some(3), 0, None), failed(1, Some(4), 1, None));
        let failed = failed_indexes(&limited, &[&first, &second], &BTreeSet::from([9]));
        assert_eq!(failed, BTreeSet::from([4, 9]));
        assert!(failed_indexes(&job(&json!({})), &[&second], &BTreeSet::new()).is_empty());
    }

    #[test]
    fn some_successes_can_be_enough() {
        let rules = |rules: Value| job(&json!({"successPolicy": {"rules": rules}}));
        let done = BTreeSet::from([0, 2, 3]);
        for (job, enough) in [
            (rules(json!([{"succeededCount": 3}])), true),
            (rules(json!([{"succeededCount": 4}])), false),
            (rules(json!([{"succeededIndexes": "0-1"}])), false),
            (rules(json!([{"succeededIndexes": "0,2-3"}])), true),
            (rules(json!([{"succeededIndexes": "0-1"}, {"succeededIndexes": "0-9", "succeededCount": 2}])), true),
            (job(&json!({})), false),
        ] {
            assert_eq!(is_enough(&job, &done).is_some(), enough, "{}", *job.value);
        }
    }
}
