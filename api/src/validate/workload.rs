//! The rules of what makes pods: Deployments and their kin, Jobs, CronJobs.

use serde_json::{Value, json};

use super::{Report, items, names, pod, storage, text};
use crate::selector::LabelSelector;

pub(super) fn check(name: &str, object: &Value, report: &mut Report) {
    let spec = &object["spec"];
    match name {
        "deployments.apps" => {
            replicated(spec, "deployment", report);
            deployment(spec, report);
        }
        "replicasets.apps" => replicated(spec, "ReplicaSet", report),
        "daemonsets.apps" => {
            replicated(spec, "daemonset", report);
            strategy(spec, "updateStrategy", &["RollingUpdate", "OnDelete"], report);
        }
        "statefulsets.apps" => {
            replicated(spec, "statefulset", report);
            stateful(spec, report);
        }
        "replicationcontrollers" => {
            report.at_least("spec.replicas", &spec["replicas"], 0);
            if LabelSelector::from_labels(&spec["selector"]).is_everything() {
                report.required("spec.selector", "");
            } else {
                matched(&LabelSelector::from_labels(&spec["selector"]), spec, report);
            }
            template(spec, report);
        }
        "jobs.batch" => job(spec, "spec", report),
        "cronjobs.batch" => cron_job(spec, report),
        _ => {}
    }
}

/// Replicas, selector and template, which all of apps/v1 have.
fn replicated(spec: &Value, what: &str, report: &mut Report) {
    report.at_least("spec.replicas", &spec["replicas"], 0);
    report.at_least("spec.minReadySeconds", &spec["minReadySeconds"], 0);
    report.at_least("spec.revisionHistoryLimit", &spec["revisionHistoryLimit"], 0);
    let selector = LabelSelector::from_value(&spec["selector"]);
    if spec["selector"].is_null() {
        report.required("spec.selector", "");
    } else if selector.is_everything() {
        report.invalid("spec.selector", &spec["selector"], &format!("empty selector is invalid for {what}"));
    } else {
        report.selector("spec.selector", &spec["selector"]);
        matched(&selector, spec, report);
    }
    template(spec, report);
}

fn matched(selector: &LabelSelector, spec: &Value, report: &mut Report) {
    let labels = &spec["template"]["metadata"]["labels"];
    if !selector.matches(labels) {
        let shown = if labels.is_null() { &json!({}) } else { labels };
        report.invalid("spec.template.metadata.labels", shown, "`selector` does not match template `labels`");
    }
}

/// The template of pods that run until told otherwise.
fn template(spec: &Value, report: &mut Report) {
    if spec["template"].is_null() {
        report.required("spec.template", "");
        return;
    }
    pod::check_template(&with_claims(spec), "spec.template", report);
    let pod = &spec["template"]["spec"];
    report.one_of("spec.template.spec.restartPolicy", &pod["restartPolicy"], &["Always"]);
    if !pod["activeDeadlineSeconds"].is_null() {
        report.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

fn deployment(spec: &Value, report: &mut Report) {
    strategy(spec, "strategy", &["Recreate", "RollingUpdate"], report);
    let (deadline, ready) = (spec["progressDeadlineSeconds"].as_i64(), spec["minReadySeconds"].as_i64().unwrap_or(0));
    report.at_least("spec.progressDeadlineSeconds", &spec["progressDeadlineSeconds"], 0);
    if deadline.is_some_and(|deadline| deadline <= ready) {
        let detail = "must be greater than minReadySeconds";
        report.invalid("spec.progressDeadlineSeconds", &spec["progressDeadlineSeconds"], detail);
    }
}

/// How pods are replaced: the type, and the two budgets of a rolling update.
fn strategy(spec: &Value, name: &str, kinds: &[&str], report: &mut Report) {
    let (strategy, field) = (&spec[name], format!("spec.{name}"));
    report.one_of(format!("{field}.type"), &strategy["type"], kinds);
    let (rolling, field) = (&strategy["rollingUpdate"], format!("{field}.rollingUpdate"));
    if !rolling.is_object() {
        return;
    }
    if text(strategy, "type") == "Recreate" {
        report.forbidden(field, "may not be specified when strategy `type` is 'Recreate'");
        return;
    }
    for budget in ["maxUnavailable", "maxSurge"] {
        number_or_percent(&rolling[budget], &format!("{field}.{budget}"), report);
    }
    let none = |budget: &Value| budget.as_i64() == Some(0) || budget.as_str() == Some("0%");
    if none(&rolling["maxUnavailable"]) && none(&rolling["maxSurge"]) {
        let detail = "may not be 0 when `maxSurge` is 0";
        report.invalid(format!("{field}.maxUnavailable"), &rolling["maxUnavailable"], detail);
    }
}

/// A count of pods, or a share of them.
pub(super) fn number_or_percent(value: &Value, field: &str, report: &mut Report) {
    report.at_least(field, value, 0);
    if let Some(share) = value.as_str() {
        report.named(field, share, names::percent);
        let percent = share.strip_suffix('%').and_then(|digits| digits.parse::<u64>().ok());
        if percent.is_some_and(|percent| percent > 100) {
            report.invalid(field, value, "must not be greater than 100%");
        }
    }
}

/// The template as its pods will be: a volume for each claim template, unless the template has one of that name.
fn with_claims(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    for claim in items(&spec["volumeClaimTemplates"]) {
        let name = text(&claim["metadata"], "name");
        if template["spec"].is_object() && !items(&template["spec"]["volumes"]).any(|volume| volume["name"] == name) {
            let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
            match template["spec"]["volumes"].as_array_mut() {
                Some(volumes) => volumes.push(volume),
                None => template["spec"]["volumes"] = json!([volume]),
            }
        }
    }
    template
}

fn stateful(spec: &Value, report: &mut Report) {
    report.one_of("spec.podManagementPolicy", &spec["podManagementPolicy"], &["OrderedReady", "Parallel"]);
    report.one_of("spec.updateStrategy.type", &spec["updateStrategy"]["type"], &["RollingUpdate", "OnDelete"]);
    let partition = &spec["updateStrategy"]["rollingUpdate"]["partition"];
    report.at_least("spec.updateStrategy.rollingUpdate.partition", partition, 0);
    for when in ["whenDeleted", "whenScaled"] {
        let field = format!("spec.persistentVolumeClaimRetentionPolicy.{when}");
        report.one_of(field, &spec["persistentVolumeClaimRetentionPolicy"][when], &["Retain", "Delete"]);
    }
    report.at_least("spec.ordinals.start", &spec["ordinals"]["start"], 0);
    for (index, claim) in items(&spec["volumeClaimTemplates"]).enumerate() {
        let field = format!("spec.volumeClaimTemplates[{index}]");
        report.present(format!("{field}.metadata.name"), &claim["metadata"]["name"]);
        storage::check_claim(&claim["spec"], &format!("{field}.spec"), report);
    }
}

/// A Job's specification. Its selector is made by the server, so a missing one is none of the client's faults.
fn job(spec: &Value, field: &str, report: &mut Report) {
    let at = |name: &str| format!("{field}.{name}");
    for name in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
        report.at_least(at(name), &spec[name], 0);
    }
    report.one_of(at("completionMode"), &spec["completionMode"], &["Indexed", "NonIndexed"]);
    if text(spec, "completionMode") == "Indexed" && spec["completions"].is_null() {
        report.required(at("completions"), "when completion mode is Indexed");
    }
    if spec["template"].is_null() {
        report.required(at("template"), "");
        return;
    }
    pod::check_template(&spec["template"], &at("template"), report);
    if !matches!(text(&spec["template"]["spec"], "restartPolicy"), "OnFailure" | "Never") {
        report.required(at("template.spec.restartPolicy"), "valid values: \"OnFailure\", \"Never\"");
    }
    if spec["selector"].is_object() {
        let selector = LabelSelector::from_value(&spec["selector"]);
        report.selector(&at("selector"), &spec["selector"]);
        let labels = &spec["template"]["metadata"]["labels"];
        if spec["manualSelector"] == true && !selector.matches(labels) {
            report.invalid(at("template.metadata.labels"), labels, "`selector` does not match template `labels`");
        }
    }
}

fn cron_job(spec: &Value, report: &mut Report) {
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        report.required("spec.schedule", "");
    } else if !is_schedule(schedule) {
        let fields = schedule.split_whitespace().count();
        let detail = format!("expected exactly 5 fields, found {fields}: [{schedule}]");
        report.invalid("spec.schedule", &spec["schedule"], &detail);
    }
    if schedule.contains("TZ=") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        report.invalid("spec.schedule", &spec["schedule"], detail);
    }
    report.one_of("spec.concurrencyPolicy", &spec["concurrencyPolicy"], &["Allow", "Forbid", "Replace"]);
    for name in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        report.at_least(format!("spec.{name}"), &spec[name], 0);
    }
    job(&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec", report);
}

/// Five fields of the right alphabet, or a name such as `@daily`. Whether the numbers fit is read by who keeps time.
fn is_schedule(text: &str) -> bool {
    if let Some(name) = text.strip_prefix('@') {
        let named = matches!(name, "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly");
        return named || name.strip_prefix("every ").is_some_and(|every| crate::time::parse_duration(every).is_some());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "*/,-?".contains(c);
    text.split_whitespace().count() == 5 && text.split_whitespace().all(|field| field.chars().all(allowed))
}

const STATEFUL_ONLY: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

/// What must stay as it was.
pub(super) fn check_update(name: &str, old: &Value, new: &Value, report: &mut Report) {
    let (before, after) = (&old["spec"], &new["spec"]);
    match name {
        "deployments.apps" | "replicasets.apps" | "daemonsets.apps" => {
            report.immutable("spec.selector", &before["selector"], &after["selector"]);
        }
        "statefulsets.apps" => {
            let fixed = ["selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"];
            if fixed.iter().any(|field| before[*field] != after[*field]) {
                report.forbidden("spec", STATEFUL_ONLY);
            }
        }
        "jobs.batch" => job_update(old, new, report),
        _ => {}
    }
}

fn job_update(old: &Value, new: &Value, report: &mut Report) {
    let (before, after) = (&old["spec"], &new["spec"]);
    for field in
        ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        report.immutable(&format!("spec.{field}"), &before[field], &after[field]);
    }
    // An indexed Job may grow and shrink as long as completions and parallelism stay equal.
    let elastic = text(after, "completionMode") == "Indexed" && after["completions"] == after["parallelism"];
    if !elastic {
        report.immutable("spec.completions", &before["completions"], &after["completions"]);
    }
    let (before, mut after) = (&before["template"], after["template"].clone());
    if old["spec"]["suspend"] == true && old["status"]["startTime"].is_null() {
        // A Job that never started may still be sent elsewhere.
        for field in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
            put_back(&mut after, before, "spec", field);
        }
        for field in ["labels", "annotations"] {
            put_back(&mut after, before, "metadata", field);
        }
    }
    if *before != after {
        report.invalid("spec.template", &after, "field is immutable");
    }
}

fn put_back(after: &mut Value, before: &Value, part: &str, field: &str) {
    let Some(after) = after.get_mut(part).and_then(Value::as_object_mut) else { return };
    match before[part].get(field) {
        Some(value) => drop(after.insert(field.to_owned(), value.clone())),
        None => drop(after.remove(field)),
    }
}
