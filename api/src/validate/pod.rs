//! The rules of pods and of the pod templates inside workloads.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Report, items, members, metadata, names, text};
use crate::quantity::Quantity;

/// A pod template; `field` is its path.
pub(super) fn check_template(template: &Value, field: &str, report: &mut Report) {
    report.labels(&format!("{field}.labels"), &template["metadata"]["labels"]);
    metadata::annotations(&template["metadata"]["annotations"], report);
    check_spec(&template["spec"], &format!("{field}.spec"), report);
    if items(&template["spec"]["ephemeralContainers"]).next().is_some() {
        report
            .forbidden(format!("{field}.spec.ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// A pod's specification; `field` is its path.
pub(super) fn check_spec(spec: &Value, field: &str, report: &mut Report) {
    if items(&spec["containers"]).next().is_none() {
        report.required(format!("{field}.containers"), "");
    }
    volumes(&spec["volumes"], &format!("{field}.volumes"), report);
    let volumes: HashSet<&str> = items(&spec["volumes"]).map(|volume| text(volume, "name")).collect();
    let mut seen = HashSet::new();
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, container) in items(&spec[list]).enumerate() {
            let field = format!("{field}.{list}[{index}]");
            let name = text(container, "name");
            if !name.is_empty() && !seen.insert(name) {
                report.duplicate(format!("{field}.name"), &container["name"]);
            }
            check_container(container, &field, &volumes, spec, report);
            match list {
                "initContainers" if container["restartPolicy"] != "Always" => {
                    check_plain_init(container, &field, report);
                }
                "ephemeralContainers" => check_guest(container, &field, spec, report),
                _ => {}
            }
        }
    }
    let at = |name: &str| format!("{field}.{name}");
    report.one_of(at("restartPolicy"), &spec["restartPolicy"], &["Always", "OnFailure", "Never"]);
    let policies = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    report.one_of(at("dnsPolicy"), &spec["dnsPolicy"], policies);
    report.one_of(at("preemptionPolicy"), &spec["preemptionPolicy"], &["PreemptLowerPriority", "Never"]);
    report.between(at("activeDeadlineSeconds"), &spec["activeDeadlineSeconds"], 1, i32::MAX.into());
    report.at_least(at("terminationGracePeriodSeconds"), &spec["terminationGracePeriodSeconds"], 0);
    report.labels(&at("nodeSelector"), &spec["nodeSelector"]);
    for (name, rule) in [
        ("nodeName", names::subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::subdomain),
        ("priorityClassName", names::subdomain),
        ("runtimeClassName", names::subdomain),
        ("schedulerName", names::subdomain),
        ("hostname", names::label),
        ("subdomain", names::label),
    ] {
        report.named_if(&at(name), &spec[name], rule);
    }
    for (index, entry) in items(&spec["imagePullSecrets"]).enumerate() {
        report.present(format!("{field}.imagePullSecrets[{index}].name"), &entry["name"]);
    }
    for (index, toleration) in items(&spec["tolerations"]).enumerate() {
        check_toleration(toleration, &format!("{field}.tolerations[{index}]"), report);
    }
    for (index, constraint) in items(&spec["topologySpreadConstraints"]).enumerate() {
        spread(constraint, &format!("{field}.topologySpreadConstraints[{index}]"), report);
    }
    affinity(&spec["affinity"], &at("affinity"), report);
    report.unique(&at("schedulingGates"), &spec["schedulingGates"], "name");
}

/// What only a new pod may not have.
pub(super) fn check_new(pod: &Value, report: &mut Report) {
    let spec = &pod["spec"];
    if items(&spec["ephemeralContainers"]).next().is_some() {
        report.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    if !text(spec, "nodeName").is_empty() && items(&spec["schedulingGates"]).next().is_some() {
        report.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
    }
}

/// An init container runs to its end: nothing asks after it and nothing waits for it.
fn check_plain_init(container: &Value, field: &str, report: &mut Report) {
    for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            report.forbidden(format!("{field}.{name}"), detail);
        }
    }
}

/// An ephemeral container looks into a pod, and no service may rest on it.
fn check_guest(container: &Value, field: &str, spec: &Value, report: &mut Report) {
    let detail = "cannot be set for an Ephemeral Container";
    let fixed = ["ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"];
    for name in fixed.iter().chain(&["restartPolicy"]) {
        let value = &container[*name];
        if !value.is_null() && *value != json!({}) && *value != json!([]) {
            report.forbidden(format!("{field}.{name}"), detail);
        }
    }
    for (index, mount) in items(&container["volumeMounts"]).enumerate() {
        for name in ["subPath", "subPathExpr"].iter().filter(|name| !text(mount, name).is_empty()) {
            report.forbidden(format!("{field}.volumeMounts[{index}].{name}"), detail);
        }
    }
    let target = text(container, "targetContainerName");
    let mut others = ["containers", "initContainers"].into_iter().flat_map(|list| items(&spec[list]));
    if !target.is_empty() && !others.any(|other| text(other, "name") == target) {
        report.not_found(format!("{field}.targetContainerName"), &container["targetContainerName"]);
    }
}

fn check_container(container: &Value, field: &str, volumes: &HashSet<&str>, spec: &Value, report: &mut Report) {
    let at = |name: &str| format!("{field}.{name}");
    report.present(at("name"), &container["name"]);
    report.named_if(&at("name"), &container["name"], names::label);
    let image = text(container, "image");
    report.present(at("image"), &container["image"]);
    if image.trim() != image {
        report.invalid(at("image"), &container["image"], "must not have leading or trailing whitespace");
    }
    report.one_of(at("imagePullPolicy"), &container["imagePullPolicy"], &["Always", "IfNotPresent", "Never"]);
    let policies = &["File", "FallbackToLogsOnError"];
    report.one_of(at("terminationMessagePolicy"), &container["terminationMessagePolicy"], policies);
    ports(&container["ports"], &at("ports"), spec["hostNetwork"] == true, report);
    for (index, variable) in items(&container["env"]).enumerate() {
        environment(variable, &format!("{field}.env[{index}]"), report);
    }
    for (index, source) in items(&container["envFrom"]).enumerate() {
        let field = format!("{field}.envFrom[{index}]");
        exactly_one(source, &["configMapRef", "secretRef"], &field, report);
        for name in ["configMapRef", "secretRef"].iter().filter(|name| source[**name].is_object()) {
            report.present(format!("{field}.{name}.name"), &source[*name]["name"]);
        }
    }
    check_resources(&container["resources"], &at("resources"), report);
    mounts(&container["volumeMounts"], &at("volumeMounts"), volumes, report);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        probe(&container[name], &at(name), name != "readinessProbe", report);
    }
    for name in ["postStart", "preStop"] {
        let (hook, field) = (&container["lifecycle"][name], format!("{field}.lifecycle.{name}"));
        if hook.is_object() {
            handler(hook, &["exec", "httpGet", "sleep", "tcpSocket"], &field, report);
            pause(&hook["sleep"], &spec["terminationGracePeriodSeconds"], &field, report);
        }
    }
}

fn ports(ports: &Value, field: &str, host_network: bool, report: &mut Report) {
    report.unique(field, ports, "name");
    for (index, port) in items(ports).enumerate() {
        let at = |name: &str| format!("{field}[{index}].{name}");
        report.named_if(&at("name"), &port["name"], names::port);
        match port["containerPort"].as_i64().unwrap_or(0) {
            0 => report.required(at("containerPort"), ""),
            _ => report.port(at("containerPort"), &port["containerPort"]),
        }
        if !port["hostPort"].is_null() {
            report.port(at("hostPort"), &port["hostPort"]);
            if host_network && port["hostPort"] != port["containerPort"] {
                let detail = "must match `hostPort` when `hostNetwork` is true";
                report.invalid(at("containerPort"), &port["containerPort"], detail);
            }
        }
        report.one_of(at("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    }
}

fn environment(variable: &Value, field: &str, report: &mut Report) {
    report.present(format!("{field}.name"), &variable["name"]);
    report.named_if(&format!("{field}.name"), &variable["name"], names::variable);
    let source = &variable["valueFrom"];
    if !source.is_object() {
        return;
    }
    let field = format!("{field}.valueFrom");
    if !text(variable, "value").is_empty() {
        report.invalid(&*field, &json!(""), "may not be specified when `value` is not empty");
    }
    exactly_one(source, &["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"], &field, report);
    for name in ["configMapKeyRef", "secretKeyRef"].iter().filter(|name| source[**name].is_object()) {
        report.present(format!("{field}.{name}.name"), &source[*name]["name"]);
        report.present(format!("{field}.{name}.key"), &source[*name]["key"]);
    }
    if source["fieldRef"].is_object() {
        report.present(format!("{field}.fieldRef.fieldPath"), &source["fieldRef"]["fieldPath"]);
    }
    if source["resourceFieldRef"].is_object() {
        report.present(format!("{field}.resourceFieldRef.resource"), &source["resourceFieldRef"]["resource"]);
    }
}

/// Exactly one of these members must be there.
fn exactly_one(value: &Value, names: &[&str], field: &str, report: &mut Report) {
    match names.iter().filter(|name| value[**name].is_object()).count() {
        1 => {}
        0 => report.invalid(field, &json!(""), &format!("must specify one of: `{}`", names.join("`, `"))),
        _ => report.invalid(field, &json!(""), "may not have more than one field specified at a time"),
    }
}

/// Requests and limits: quantities of known resources, none below zero, no request above its limit.
pub(super) fn check_resources(resources: &Value, field: &str, report: &mut Report) {
    for side in ["limits", "requests"] {
        let field = format!("{field}.{side}");
        report.quantities(&field, &resources[side]);
        for (name, _) in members(&resources[side]) {
            report.named(&field, name, names::qualified);
            let known = matches!(&**name, "cpu" | "memory" | "ephemeral-storage" | "storage");
            if !known && !name.contains('/') && !name.starts_with("hugepages-") {
                report.invalid(&*field, &json!(name), "must be a standard resource type or fully qualified");
            }
        }
    }
    for (name, request) in members(&resources["requests"]) {
        let amount = |value: &Value| value.as_str().and_then(Quantity::parse);
        let limit = resources["limits"].get(name).unwrap_or(&Value::Null);
        if let (Some(asked), Some(bound)) = (amount(request), amount(limit))
            && asked > bound
        {
            let detail = format!("must be less than or equal to {name} limit of {bound}");
            report.invalid(format!("{field}.requests"), request, &detail);
        }
    }
}

fn mounts(mounts: &Value, field: &str, volumes: &HashSet<&str>, report: &mut Report) {
    let mut paths = HashSet::new();
    for (index, mount) in items(mounts).enumerate() {
        let at = |name: &str| format!("{field}[{index}].{name}");
        report.present(at("name"), &mount["name"]);
        if !text(mount, "name").is_empty() && !volumes.contains(text(mount, "name")) {
            report.not_found(at("name"), &mount["name"]);
        }
        report.present(at("mountPath"), &mount["mountPath"]);
        if !paths.insert(text(mount, "mountPath")) {
            report.invalid(at("mountPath"), &mount["mountPath"], "must be unique");
        }
        let inside = text(mount, "subPath");
        if inside.starts_with('/') {
            report.invalid(at("subPath"), &mount["subPath"], "must be a relative path");
        }
        if inside.split('/').any(|step| step == "..") {
            report.invalid(at("subPath"), &mount["subPath"], "must not contain '..'");
        }
    }
}

fn probe(probe: &Value, field: &str, once: bool, report: &mut Report) {
    if !probe.is_object() {
        return;
    }
    handler(probe, &["exec", "grpc", "httpGet", "tcpSocket"], field, report);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        report.at_least(format!("{field}.{name}"), &probe[name], 0);
    }
    if once && probe["successThreshold"].as_i64().is_some_and(|threshold| threshold != 1) {
        report.invalid(format!("{field}.successThreshold"), &probe["successThreshold"], "must be 1");
    }
}

fn handler(handler: &Value, kinds: &[&str], field: &str, report: &mut Report) {
    let given: Vec<&&str> = kinds.iter().filter(|kind| handler[**kind].is_object()).collect();
    match given.as_slice() {
        [] => report.required(field, "must specify a handler type"),
        [_] => {}
        [_, more @ ..] => {
            more.iter().for_each(|kind| {
                report.forbidden(format!("{field}.{kind}"), "may not specify more than 1 handler type");
            });
        }
    }
    if handler["exec"].is_object() && items(&handler["exec"]["command"]).next().is_none() {
        report.required(format!("{field}.exec.command"), "");
    }
    for kind in ["httpGet", "tcpSocket"].iter().filter(|kind| handler[**kind].is_object()) {
        named_or_numbered(&handler[*kind]["port"], &format!("{field}.{kind}.port"), report);
    }
    report.one_of(format!("{field}.httpGet.scheme"), &handler["httpGet"]["scheme"], &["HTTP", "HTTPS"]);
    if handler["grpc"].is_object() {
        report.port(format!("{field}.grpc.port"), &handler["grpc"]["port"]);
    }
}

/// A hook that only waits must be over within the pod's grace period.
fn pause(sleep: &Value, grace: &Value, field: &str, report: &mut Report) {
    let (Some(seconds), Some(grace)) = (sleep["seconds"].as_i64(), grace.as_i64()) else { return };
    if !(0..=grace).contains(&seconds) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        report.invalid(format!("{field}.sleep"), &sleep["seconds"], &detail);
    }
}

/// A port as number or as the name of a container's port.
pub(super) fn named_or_numbered(port: &Value, field: &str, report: &mut Report) {
    match port {
        Value::String(name) => report.named(field, name, names::port),
        other => report.port(field, other),
    }
}

fn volumes(volumes: &Value, field: &str, report: &mut Report) {
    report.unique(field, volumes, "name");
    for (index, volume) in items(volumes).enumerate() {
        let field = format!("{field}[{index}]");
        report.present(format!("{field}.name"), &volume["name"]);
        report.named_if(&format!("{field}.name"), &volume["name"], names::label);
        let sources: Vec<&String> = members(volume).map(|(name, _)| name).filter(|name| *name != "name").collect();
        match sources.as_slice() {
            [] => report.required(&*field, "must specify a volume type"),
            [_] => {}
            [_, more @ ..] => more.iter().for_each(|source| {
                report.forbidden(format!("{field}.{source}"), "may not specify more than 1 volume type");
            }),
        }
        for (source, name) in [
            ("configMap", "name"),
            ("hostPath", "path"),
            ("persistentVolumeClaim", "claimName"),
            ("secret", "secretName"),
            ("nfs", "server"),
            ("csi", "driver"),
        ] {
            if volume[source].is_object() {
                report.present(format!("{field}.{source}.{name}"), &volume[source][name]);
            }
        }
        for source in ["configMap", "secret", "downwardAPI", "projected"] {
            report.between(format!("{field}.{source}.defaultMode"), &volume[source]["defaultMode"], 0, 0o777);
        }
    }
}

fn check_toleration(toleration: &Value, field: &str, report: &mut Report) {
    report.named_if(&format!("{field}.key"), &toleration["key"], names::qualified);
    let at = |name: &str| format!("{field}.{name}");
    let operator = text(toleration, "operator");
    if text(toleration, "key").is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        report.invalid(at("operator"), &toleration["operator"], detail);
    }
    report.one_of(at("operator"), &toleration["operator"], &["Equal", "Exists"]);
    if operator == "Exists" && !text(toleration, "value").is_empty() {
        report.invalid(at("operator"), &json!(toleration), "value must be empty when `operator` is 'Exists'");
    }
    report.one_of(at("effect"), &toleration["effect"], &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    if !toleration["tolerationSeconds"].is_null() && text(toleration, "effect") != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        report.invalid(at("effect"), &toleration["effect"], detail);
    }
}

fn spread(constraint: &Value, field: &str, report: &mut Report) {
    if constraint["maxSkew"].as_i64().unwrap_or(0) <= 0 {
        report.invalid(format!("{field}.maxSkew"), &constraint["maxSkew"], "must be greater than zero");
    }
    report.present(format!("{field}.topologyKey"), &constraint["topologyKey"]);
    let field_of_action = format!("{field}.whenUnsatisfiable");
    if text(constraint, "whenUnsatisfiable").is_empty() {
        report.required(field_of_action, "");
    } else {
        report.one_of(field_of_action, &constraint["whenUnsatisfiable"], &["DoNotSchedule", "ScheduleAnyway"]);
    }
    report.selector(&format!("{field}.labelSelector"), &constraint["labelSelector"]);
}

fn affinity(affinity: &Value, field: &str, report: &mut Report) {
    let required = &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let at = format!("{field}.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    if required.is_object() && items(&required["nodeSelectorTerms"]).next().is_none() {
        report.required(&*at, "must have at least one node selector term");
    }
    for (index, term) in items(&required["nodeSelectorTerms"]).enumerate() {
        for (place, entry) in items(&term["matchExpressions"]).enumerate() {
            let field = format!("{at}[{index}].matchExpressions[{place}]");
            report.named(&format!("{field}.key"), text(entry, "key"), names::qualified);
            if crate::selector::Requirement::from_value(entry).is_none() {
                report.invalid(format!("{field}.operator"), &entry["operator"], "not a valid selector operator");
            }
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let list = &affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"];
        for (index, term) in items(list).enumerate() {
            let field = format!("{field}.{kind}.requiredDuringSchedulingIgnoredDuringExecution[{index}]");
            if text(term, "topologyKey").is_empty() {
                report.required(format!("{field}.topologyKey"), "can not be empty");
            }
            report.selector(&format!("{field}.labelSelector"), &term["labelSelector"]);
        }
    }
}

const ONLY: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Nearly all of a pod's specification is fixed once it exists.
pub(super) fn check_update(old: &Value, new: &Value, report: &mut Report) {
    let (before, mut after) = (&old["spec"], new["spec"].clone());
    for list in ["containers", "initContainers"] {
        if items(&before[list]).count() != items(&after[list]).count() {
            report.forbidden(format!("spec.{list}"), "pod updates may not add or remove containers");
            return;
        }
        let containers = after.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in containers.zip(items(&before[list])) {
            container["image"] = before["image"].clone();
        }
    }
    let deadline = (before["activeDeadlineSeconds"].as_i64(), after["activeDeadlineSeconds"].as_i64());
    match deadline {
        (Some(old), Some(new)) if new > old => {
            let detail = "must be less than or equal to previous value";
            report.invalid("spec.activeDeadlineSeconds", &json!(new), detail);
        }
        (Some(old), None) => {
            report.invalid(
                "spec.activeDeadlineSeconds",
                &json!(old),
                "must not update from a positive integer to nil value",
            );
        }
        _ => {}
    }
    let kept: HashSet<&Value> = items(&after["tolerations"]).collect();
    let gates: HashSet<&Value> = items(&before["schedulingGates"]).collect();
    if !items(&before["tolerations"]).all(|one| kept.contains(one)) {
        report.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
    }
    if !items(&after["schedulingGates"]).all(|one| gates.contains(one)) {
        report.forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate");
    }
    let gated = items(&before["schedulingGates"]).next().is_some();
    let free: &[&str] = if gated { &["nodeSelector", "affinity"] } else { &[] };
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"].iter().chain(free) {
        match before.get(*field) {
            Some(value) => after[*field] = value.clone(),
            None => drop(after.as_object_mut().and_then(|spec| spec.remove(*field))),
        }
    }
    if before["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        after["terminationGracePeriodSeconds"] = before["terminationGracePeriodSeconds"].clone();
    }
    if *before != after {
        report.forbidden("spec", ONLY);
    }
}

/// Ephemeral containers come and stay as they are.
pub(super) fn check_guests(old: &Value, new: &Value, report: &mut Report) {
    let list = |pod: &Value| pod["spec"]["ephemeralContainers"].clone();
    let after = list(new);
    for guest in items(&list(old)) {
        let name = &guest["name"];
        let what = match items(&after).find(|other| other["name"] == *name) {
            None => "removed",
            Some(other) if other != guest => "changed",
            Some(_) => continue,
        };
        report
            .forbidden("spec.ephemeralContainers", &format!("existing ephemeral containers {name} may not be {what}"));
    }
}

/// A resize changes how much CPU and memory containers get, and nothing else.
pub(super) fn check_resize(old: &Value, new: &Value, report: &mut Report) {
    let without = |pod: &Value| {
        let mut containers = pod["spec"]["containers"].clone();
        for container in containers.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            container.remove("resizePolicy");
            let Some(resources) = container.get_mut("resources") else { continue };
            for side in ["limits", "requests"] {
                let Some(amounts) = resources.get_mut(side).and_then(Value::as_object_mut) else { continue };
                amounts.retain(|name, _| !matches!(&**name, "cpu" | "memory"));
            }
            resources.as_object_mut().into_iter().for_each(|sides| sides.retain(|_, side| *side != json!({})));
        }
        containers
    };
    if without(old) != without(new) {
        report.forbidden("spec", "only cpu and memory resources are mutable");
    }
}
