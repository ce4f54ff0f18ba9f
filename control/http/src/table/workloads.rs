//! Sheets of what runs: pods and the controllers above them.

use api::Object;
use serde_json::Value;

use super::cells::{
    NONE, UNKNOWN, UNSET, age, containers, has_condition, int_at, joined, labels, list_at, or_none, scalar, selector,
    short_duration, since, str_at,
};
use super::{AGE, NAME, Sheet, flag, int, text, wide};

pub(super) fn sheet(resource: &str) -> Option<&'static Sheet> {
    Some(match resource {
        "pods" => &PODS,
        "podtemplates" => &POD_TEMPLATES,
        "replicationcontrollers" => &REPLICATION_CONTROLLERS,
        "deployments.apps" => &DEPLOYMENTS,
        "replicasets.apps" => &REPLICA_SETS,
        "statefulsets.apps" => &STATEFUL_SETS,
        "daemonsets.apps" => &DAEMON_SETS,
        "controllerrevisions.apps" => &CONTROLLER_REVISIONS,
        "jobs.batch" => &JOBS,
        "cronjobs.batch" => &CRON_JOBS,
        "horizontalpodautoscalers.autoscaling" => &AUTOSCALERS,
        "poddisruptionbudgets.policy" => &DISRUPTION_BUDGETS,
        _ => return None,
    })
}

static PODS: Sheet = Sheet {
    columns: &[
        NAME,
        text("Ready"),
        text("Status"),
        text("Restarts"),
        AGE,
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    row: pod,
};

fn pod(object: &Object, now_ms: i64) -> Vec<Value> {
    let value = &object.value;
    let summary = summarize(value, object.deletion_timestamp().is_some());
    let restarts = match (summary.restarts, summary.last_restart) {
        (0, _) | (_, "") => summary.restarts.to_string(),
        (restarts, last) => format!("{restarts} ({} ago)", since(last, now_ms)),
    };
    let gates = list_at(value, "spec.readinessGates");
    let gates_ready = gates.iter().filter(|gate| has_condition(value, str_at(gate, "conditionType"), "True")).count();
    let gates = if gates.is_empty() { NONE.into() } else { format!("{gates_ready}/{}", gates.len()) };
    vec![
        object.name().into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        age(object, now_ms),
        or_none(str_at(value, "status.podIP")),
        or_none(str_at(value, "spec.nodeName")),
        or_none(str_at(value, "status.nominatedNodeName")),
        gates.into(),
    ]
}

/// A pod in four words.
struct Summary<'a> {
    ready: usize,
    total: usize,
    status: String,
    restarts: i64,
    last_restart: &'a str,
}

/// What people call a pod's state: the most telling reason among phase, containers and deletion, as kubectl has it.
fn summarize(pod: &Value, deleting: bool) -> Summary<'_> {
    let sidecars: Vec<&str> = list_at(pod, "spec.initContainers")
        .iter()
        .filter(|container| str_at(container, "restartPolicy") == "Always")
        .map(|container| str_at(container, "name"))
        .collect();
    let mut summary = Summary {
        ready: 0,
        total: list_at(pod, "spec.containers").len() + sidecars.len(),
        status: str_at(pod, "status.phase").to_owned(),
        restarts: 0,
        last_restart: "",
    };
    let reason = str_at(pod, "status.reason");
    if !reason.is_empty() {
        reason.clone_into(&mut summary.status);
    }
    let gated = |c: &Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
    if list_at(pod, "status.conditions").iter().any(gated) {
        summary.status = "SchedulingGated".into();
    }
    if !initialize(pod, &sidecars, &mut summary) || has_condition(pod, "Initialized", "True") {
        run(pod, &mut summary);
    }
    let over = matches!(str_at(pod, "status.phase"), "Succeeded" | "Failed");
    if deleting && reason == "NodeLost" {
        summary.status = "Unknown".into();
    } else if deleting && !over {
        summary.status = "Terminating".into();
    }
    summary
}

/// Looks at the init containers; true while one of them holds the pod up.
fn initialize<'a>(pod: &'a Value, sidecars: &[&str], summary: &mut Summary<'a>) -> bool {
    let total = list_at(pod, "spec.initContainers").len();
    for (index, status) in list_at(pod, "status.initContainerStatuses").iter().enumerate() {
        count_restarts(status, summary);
        let (terminated, waiting) = (&status["state"]["terminated"], str_at(status, "state.waiting.reason"));
        if sidecars.contains(&str_at(status, "name")) && status["started"] == true {
            summary.ready += usize::from(status["ready"] == true);
            continue;
        }
        if terminated["exitCode"] == 0 {
            continue;
        }
        summary.status = if terminated.is_object() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{total}")
        };
        return true;
    }
    false
}

/// Looks at the containers, the last one first: the first one's reason is the one that stays.
fn run<'a>(pod: &'a Value, summary: &mut Summary<'a>) {
    let mut running = false;
    for status in list_at(pod, "status.containerStatuses").iter().rev() {
        count_restarts(status, summary);
        let (state, waiting) = (&status["state"], str_at(status, "state.waiting.reason"));
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.status);
        } else if state["terminated"].is_object() {
            summary.status = ended(&state["terminated"]);
        } else if status["ready"] == true && state["running"].is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if running && summary.status == "Completed" {
        summary.status = if has_condition(pod, "Ready", "True") { "Running".into() } else { "NotReady".into() };
    }
}

fn ended(terminated: &Value) -> String {
    match (str_at(terminated, "reason"), int_at(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", int_at(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn count_restarts<'a>(status: &'a Value, summary: &mut Summary<'a>) {
    summary.restarts += int_at(status, "restartCount");
    // RFC 3339 times in UTC order like text.
    summary.last_restart = summary.last_restart.max(str_at(status, "lastState.terminated.finishedAt"));
}

static POD_TEMPLATES: Sheet = Sheet {
    columns: &[NAME, text("Containers"), text("Images"), text("Pod Labels")],
    row: |object, _| {
        let [names, images] = containers(object.field("template.spec"));
        vec![object.name().into(), names, images, labels(object.field("template.metadata.labels")).into()]
    },
};

static REPLICATION_CONTROLLERS: Sheet = Sheet {
    columns: &[
        NAME,
        int("Desired"),
        int("Current"),
        int("Ready"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now_ms| replicas(object, now_ms, labels(object.field("spec.selector"))),
};

static REPLICA_SETS: Sheet = Sheet {
    columns: REPLICATION_CONTROLLERS.columns,
    row: |object, now_ms| replicas(object, now_ms, selector(object.field("spec.selector"))),
};

fn replicas(object: &Object, now_ms: i64, selector: String) -> Vec<Value> {
    let value = &object.value;
    let [names, images] = containers(object.field("spec.template.spec"));
    vec![
        object.name().into(),
        int_at(value, "spec.replicas").into(),
        int_at(value, "status.replicas").into(),
        int_at(value, "status.readyReplicas").into(),
        age(object, now_ms),
        names,
        images,
        selector.into(),
    ]
}

static DEPLOYMENTS: Sheet = Sheet {
    columns: &[
        NAME,
        text("Ready"),
        int("Up-to-date"),
        int("Available"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now_ms| {
        let value = &object.value;
        let [names, images] = containers(object.field("spec.template.spec"));
        let ready = format!("{}/{}", int_at(value, "status.readyReplicas"), int_at(value, "spec.replicas"));
        vec![
            object.name().into(),
            ready.into(),
            int_at(value, "status.updatedReplicas").into(),
            int_at(value, "status.availableReplicas").into(),
            age(object, now_ms),
            names,
            images,
            selector(object.field("spec.selector")).into(),
        ]
    },
};

static STATEFUL_SETS: Sheet = Sheet {
    columns: &[NAME, text("Ready"), AGE, wide("Containers"), wide("Images")],
    row: |object, now_ms| {
        let value = &object.value;
        let [names, images] = containers(object.field("spec.template.spec"));
        let ready = format!("{}/{}", int_at(value, "status.readyReplicas"), int_at(value, "spec.replicas"));
        vec![object.name().into(), ready.into(), age(object, now_ms), names, images]
    },
};

static DAEMON_SETS: Sheet = Sheet {
    columns: &[
        NAME,
        int("Desired"),
        int("Current"),
        int("Ready"),
        int("Up-to-date"),
        int("Available"),
        text("Node Selector"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now_ms| {
        let status = |field: &str| Value::from(int_at(&object.value["status"], field));
        let [names, images] = containers(object.field("spec.template.spec"));
        vec![
            object.name().into(),
            status("desiredNumberScheduled"),
            status("currentNumberScheduled"),
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
            labels(object.field("spec.template.spec.nodeSelector")).into(),
            age(object, now_ms),
            names,
            images,
            selector(object.field("spec.selector")).into(),
        ]
    },
};

static CONTROLLER_REVISIONS: Sheet = Sheet {
    columns: &[NAME, text("Controller"), int("Revision"), AGE],
    row: |object, now_ms| {
        let owner = object.controller().map_or_else(
            || NONE.to_owned(),
            |owner| {
                let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
                let dotted = if group.is_empty() { String::new() } else { format!(".{group}") };
                format!("{}{dotted}/{}", owner.kind.to_lowercase(), owner.name)
            },
        );
        vec![object.name().into(), owner.into(), int_at(&object.value, "revision").into(), age(object, now_ms)]
    },
};

static JOBS: Sheet = Sheet {
    columns: &[
        NAME,
        text("Status"),
        text("Completions"),
        text("Duration"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: job,
};

fn job(object: &Object, now_ms: i64) -> Vec<Value> {
    let value = &object.value;
    let states = ["Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet"];
    let status = match states.into_iter().find(|type_| has_condition(value, type_, "True")) {
        _ if object.deletion_timestamp().is_some() => "Terminating",
        Some("FailureTarget" | "SuccessCriteriaMet") | None => "Running",
        Some(state) => state,
    };
    let succeeded = int_at(value, "status.succeeded");
    let completions = match (object.field("spec.completions").as_i64(), int_at(value, "spec.parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let started = api::time::parse(str_at(value, "status.startTime"));
    let ended = api::time::parse(str_at(value, "status.completionTime"));
    let duration = started.map_or_else(String::new, |started| short_duration(ended.unwrap_or(now_ms) - started));
    let [names, images] = containers(object.field("spec.template.spec"));
    vec![
        object.name().into(),
        status.into(),
        completions.into(),
        duration.into(),
        age(object, now_ms),
        names,
        images,
        selector(object.field("spec.selector")).into(),
    ]
}

static CRON_JOBS: Sheet = Sheet {
    columns: &[
        NAME,
        text("Schedule"),
        text("Timezone"),
        flag("Suspend"),
        int("Active"),
        text("Last Schedule"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now_ms| {
        let value = &object.value;
        let last = str_at(value, "status.lastScheduleTime");
        let [names, images] = containers(object.field("spec.jobTemplate.spec.template.spec"));
        vec![
            object.name().into(),
            str_at(value, "spec.schedule").into(),
            or_none(str_at(value, "spec.timeZone")),
            scalar(object.field("spec.suspend"), UNSET).into(),
            list_at(value, "status.active").len().into(),
            if last.is_empty() { NONE.into() } else { since(last, now_ms).into() },
            age(object, now_ms),
            names,
            images,
            selector(object.field("spec.jobTemplate.spec.selector")).into(),
        ]
    },
};

static AUTOSCALERS: Sheet = Sheet {
    columns: &[NAME, text("Reference"), text("Targets"), text("MinPods"), text("MaxPods"), int("Replicas"), AGE],
    row: |object, now_ms| {
        let value = &object.value;
        let (kind, name) = (str_at(value, "spec.scaleTargetRef.kind"), str_at(value, "spec.scaleTargetRef.name"));
        vec![
            object.name().into(),
            format!("{kind}/{name}").into(),
            joined(
                list_at(value, "spec.metrics").iter().enumerate().map(|(index, metric)| target(value, index, metric)),
            )
            .into(),
            scalar(object.field("spec.minReplicas"), UNSET).into(),
            scalar(object.field("spec.maxReplicas"), UNSET).into(),
            int_at(value, "status.currentReplicas").into(),
            age(object, now_ms),
        ]
    },
};

/// `cpu: 12%/80%`: what a metric is and what it should be.
fn target(autoscaler: &Value, index: usize, metric: &Value) -> String {
    let type_ = str_at(metric, "type");
    // `ContainerResource` is described in `containerResource`.
    let mut letters = type_.chars();
    let field: String = letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect();
    let current = &list_at(autoscaler, "status.currentMetrics").get(index).unwrap_or(&Value::Null)[&field]["current"];
    let wanted = &metric[&field]["target"];
    let name = match type_ {
        "Resource" | "ContainerResource" => format!("{}: ", str_at(&metric[&field], "name")),
        _ => String::new(),
    };
    if let Some(percent) = wanted["averageUtilization"].as_i64() {
        let current = current["averageUtilization"].as_i64().map_or_else(|| UNKNOWN.into(), |now| format!("{now}%"));
        return format!("{name}{current}/{percent}%");
    }
    let one_of = |value: &Value| scalar(value.get("averageValue").unwrap_or(&value["value"]), UNKNOWN);
    format!("{name}{}/{}", one_of(current), one_of(wanted))
}

static DISRUPTION_BUDGETS: Sheet = Sheet {
    columns: &[NAME, text("Min Available"), text("Max Unavailable"), int("Allowed Disruptions"), AGE],
    row: |object, now_ms| {
        vec![
            object.name().into(),
            scalar(object.field("spec.minAvailable"), "N/A").into(),
            scalar(object.field("spec.maxUnavailable"), "N/A").into(),
            int_at(&object.value, "status.disruptionsAllowed").into(),
            age(object, now_ms),
        ]
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_called_what_people_call_it() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
        let running = json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
        let crashed = json!({"name": "b", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}});
        let done = json!({"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let cases = [
            (json!({"phase": "Pending"}), "0/2", "Pending", 0),
            (json!({"phase": "Running", "containerStatuses": [running, crashed]}), "1/2", "CrashLoopBackOff", 3),
            (
                json!({"phase": "Running", "containerStatuses": [running, done],
                "conditions": [{"type": "Ready", "status": "True"}]}),
                "1/2",
                "Running",
                0,
            ),
            (json!({"phase": "Running", "containerStatuses": [running, done]}), "1/2", "NotReady", 0),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                "0/2",
                "Init:0/1",
                0,
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses":
                [{"name": "i", "state": {"terminated": {"exitCode": 2}}}]}),
                "0/2",
                "Init:ExitCode:2",
                0,
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), "0/2", "Evicted", 0),
        ];
        for (status, ready, word, restarts) in cases {
            let pod = json!({"spec": spec, "status": status});
            let summary = summarize(&pod, false);
            let seen = (format!("{}/{}", summary.ready, summary.total), summary.status.as_str(), summary.restarts);
            assert_eq!(seen, (ready.to_owned(), word, restarts), "{status}");
        }
        let pod = json!({"spec": spec, "status": {"phase": "Running"}});
        assert_eq!(summarize(&pod, true).status, "Terminating");
    }

    #[test]
    fn restarts_say_when() {
        let now = api::time::parse("2026-01-01T00:05:00Z").unwrap();
        let value = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}, "status":
            {"containerStatuses": [{"restartCount": 2, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}}]}});
        let row = pod(&Object::new(api::Key::new("pods", "d", "p"), 1, value), now);
        assert_eq!(row[3], "2 (5m ago)");
    }
}
