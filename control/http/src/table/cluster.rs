//! Sheets of the cluster itself: nodes, namespaces, events, leases, quotas, classes.

use api::Object;
use serde_json::Value;

use super::cells::{NONE, UNKNOWN, UNSET, age, at, int_at, list_at, or_none, scalar, short_duration, since, str_at};
use super::{AGE, Column, NAME, Sheet, flag, int, text, wide};

pub(super) fn sheet(resource: &str) -> Option<&'static Sheet> {
    Some(match resource {
        "nodes" => &NODES,
        "namespaces" => &NAMESPACES,
        "events" | "events.events.k8s.io" => &EVENTS,
        "leases.coordination.k8s.io" => &LEASES,
        "priorityclasses.scheduling.k8s.io" => &PRIORITY_CLASSES,
        "runtimeclasses.node.k8s.io" => &RUNTIME_CLASSES,
        "resourcequotas" => &QUOTAS,
        "certificatesigningrequests.certificates.k8s.io" => &SIGNING_REQUESTS,
        _ => return None,
    })
}

static NODES: Sheet = Sheet {
    columns: &[
        NAME,
        text("Status"),
        text("Roles"),
        AGE,
        text("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    row: |object, now_ms| {
        let info = |field: &str| match str_at(object.field("status.nodeInfo"), field) {
            "" => Value::from(UNKNOWN),
            text => text.into(),
        };
        vec![
            object.name().into(),
            node_status(object).into(),
            roles(object).into(),
            age(object, now_ms),
            str_at(&object.value, "status.nodeInfo.kubeletVersion").into(),
            node_address(object, "InternalIP"),
            node_address(object, "ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    },
};

fn node_status(node: &Object) -> String {
    let ready = list_at(&node.value, "status.conditions").iter().find(|condition| condition["type"] == "Ready");
    let mut status = match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if *node.field("spec.unschedulable") == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Object) -> String {
    let labels = at(&node.value, "metadata.labels").as_object().into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ => value.as_str().filter(|role| key == "kubernetes.io/role" && !role.is_empty()),
        })
        .collect();
    roles.sort_unstable();
    if roles.is_empty() { NONE.into() } else { roles.join(",") }
}

fn node_address(node: &Object, type_: &str) -> Value {
    let mut addresses = list_at(&node.value, "status.addresses").iter();
    or_none(addresses.find(|address| address["type"] == type_).map_or("", |address| str_at(address, "address")))
}

static NAMESPACES: Sheet = Sheet {
    columns: &[NAME, text("Status"), AGE],
    row: |object, now_ms| vec![object.name().into(), str_at(&object.value, "status.phase").into(), age(object, now_ms)],
};

const EVENT_NAME: Column = Column { name: "Name", type_: "string", format: "name", priority: 1 };

static EVENTS: Sheet = Sheet {
    columns: &[
        text("Last Seen"),
        text("Type"),
        text("Reason"),
        text("Object"),
        wide("Subobject"),
        wide("Source"),
        text("Message"),
        wide("First Seen"),
        wide("Count"),
        EVENT_NAME,
    ],
    row: event,
};

/// Reads both spellings: core/v1 (`involvedObject`, `message`) and events.k8s.io/v1 (`regarding`, `note`).
fn event(object: &Object, now_ms: i64) -> Vec<Value> {
    let value = &object.value;
    let first_of = |paths: &[&str]| paths.iter().map(|path| str_at(value, path)).find(|text| !text.is_empty());
    let text = |paths: &[&str]| Value::from(first_of(paths).unwrap_or_default());
    let when = |paths: &[&str]| Value::from(first_of(paths).map_or_else(|| UNKNOWN.into(), |time| since(time, now_ms)));
    let kind = first_of(&["involvedObject.kind", "regarding.kind"]).unwrap_or_default().to_lowercase();
    let name = first_of(&["involvedObject.name", "regarding.name"]).unwrap_or_default();
    let component = first_of(&["source.component", "deprecatedSource.component", "reportingComponent"]);
    let host = first_of(&["source.host", "deprecatedSource.host", "reportingInstance"]);
    let source = [component, host].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let count = ["series.count", "count", "deprecatedCount"].into_iter().map(|path| int_at(value, path));
    vec![
        when(&["series.lastObservedTime", "lastTimestamp", "deprecatedLastTimestamp", "eventTime"]),
        text(&["type"]),
        text(&["reason"]),
        format!("{kind}/{name}").into(),
        text(&["involvedObject.fieldPath", "regarding.fieldPath"]),
        source.into(),
        first_of(&["message", "note"]).unwrap_or_default().trim().into(),
        when(&["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]),
        count.max().unwrap_or(0).max(1).to_string().into(),
        object.name().into(),
    ]
}

static LEASES: Sheet = Sheet {
    columns: &[NAME, text("Holder"), AGE],
    row: |object, now_ms| {
        vec![object.name().into(), str_at(&object.value, "spec.holderIdentity").into(), age(object, now_ms)]
    },
};

static PRIORITY_CLASSES: Sheet = Sheet {
    columns: &[NAME, int("Value"), flag("Global-Default"), AGE, text("PreemptionPolicy")],
    row: |object, now_ms| {
        vec![
            object.name().into(),
            int_at(&object.value, "value").into(),
            object.field("globalDefault").as_bool().unwrap_or(false).into(),
            age(object, now_ms),
            str_at(&object.value, "preemptionPolicy").into(),
        ]
    },
};

static RUNTIME_CLASSES: Sheet = Sheet {
    columns: &[NAME, text("Handler"), AGE],
    row: |object, now_ms| vec![object.name().into(), str_at(&object.value, "handler").into(), age(object, now_ms)],
};

static QUOTAS: Sheet = Sheet {
    columns: &[NAME, text("Request"), text("Limit"), AGE],
    row: |object, now_ms| {
        let used = object.field("status.used");
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in object.field("status.hard").as_object().into_iter().flatten() {
            let entry = format!("{name}: {}/{}", scalar(&used[name], "0"), scalar(hard, "0"));
            if name.starts_with("limits") { limits.push(entry) } else { requests.push(entry) }
        }
        vec![object.name().into(), requests.join(", ").into(), limits.join(", ").into(), age(object, now_ms)]
    },
};

static SIGNING_REQUESTS: Sheet = Sheet {
    columns: &[NAME, AGE, text("SignerName"), text("Requestor"), text("RequestedDuration"), text("Condition")],
    row: |object, now_ms| {
        let value = &object.value;
        let has = |type_: &str| list_at(value, "status.conditions").iter().any(|c| c["type"] == type_);
        let decision = ["Approved", "Denied", "Failed"].into_iter().filter(|type_| has(type_));
        let mut condition = decision.collect::<Vec<_>>().join(",");
        if condition.is_empty() {
            condition = "Pending".into();
        }
        if !str_at(value, "status.certificate").is_empty() {
            condition.push_str(",Issued");
        }
        let duration = object.field("spec.expirationSeconds").as_i64();
        vec![
            object.name().into(),
            age(object, now_ms),
            or_none(str_at(value, "spec.signerName")),
            str_at(value, "spec.username").into(),
            duration.map_or_else(|| UNSET.into(), |seconds| short_duration(seconds * 1000)).into(),
            condition.into(),
        ]
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use api::Key;
    use serde_json::json;

    #[test]
    fn a_node_says_its_state_and_roles() {
        let value = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "agent"}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let row = (NODES.row)(&Object::new(Key::new("nodes", "", "n1"), 1, value), 0);
        assert_eq!(row[1..3], ["Ready,SchedulingDisabled", "agent,control-plane"]);
        assert_eq!(row[5..8], ["10.0.0.1", "<none>", "<unknown>"]);
    }

    #[test]
    fn both_spellings_of_an_event_read_alike() {
        let core = json!({"involvedObject": {"kind": "Pod", "name": "p"}, "message": "hi\n", "type": "Normal", "count": 3,
            "source": {"component": "kubelet", "host": "n1"}, "lastTimestamp": "1970-01-01T00:00:00Z"});
        let new = json!({"regarding": {"kind": "Pod", "name": "p"}, "note": "hi", "type": "Normal", "deprecatedCount": 3,
            "reportingComponent": "kubelet", "reportingInstance": "n1", "deprecatedLastTimestamp": "1970-01-01T00:00:00Z"});
        let row = |value| event(&Object::new(Key::new("events", "d", "e"), 1, value), 60_000);
        assert_eq!(row(core.clone()), row(new));
        assert_eq!(row(core)[..4], ["60s", "Normal", "", "pod/p"]);
    }
}
