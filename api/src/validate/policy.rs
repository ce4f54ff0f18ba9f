//! The rules of what governs others: access, budgets, quotas, priorities, leases, certificates.

use serde_json::{Value, json};

use super::{Report, items, members, names, text, workload};

pub(super) fn check(name: &str, object: &Value, report: &mut Report) {
    let spec = &object["spec"];
    match name {
        "roles.rbac.authorization.k8s.io" => rules(object, true, report),
        "clusterroles.rbac.authorization.k8s.io" => rules(object, false, report),
        "rolebindings.rbac.authorization.k8s.io" => binding(object, &["ClusterRole", "Role"], report),
        "clusterrolebindings.rbac.authorization.k8s.io" => binding(object, &["ClusterRole"], report),
        "poddisruptionbudgets.policy" => {
            let both = !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null();
            if both {
                report.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set");
            }
            for field in ["minAvailable", "maxUnavailable"] {
                workload::number_or_percent(&spec[field], &format!("spec.{field}"), report);
            }
            report.selector("spec.selector", &spec["selector"]);
        }
        "horizontalpodautoscalers.autoscaling" => autoscaler(spec, report),
        "resourcequotas" => report.quantities("spec.hard", &spec["hard"]),
        "limitranges" => limits(spec, report),
        "priorityclasses.scheduling.k8s.io" => {
            report.one_of("preemptionPolicy", &object["preemptionPolicy"], &["PreemptLowerPriority", "Never"]);
            let value = object["value"].as_i64().unwrap_or(0);
            if value > 1_000_000_000 && !text(&object["metadata"], "name").starts_with("system-") {
                let detail = "maximum allowed value of a user defined priority is 1000000000";
                report.forbidden("value", detail);
            }
        }
        "leases.coordination.k8s.io" => {
            if spec["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
                report.invalid("spec.leaseDurationSeconds", &spec["leaseDurationSeconds"], "must be greater than 0");
            }
            report.at_least("spec.leaseTransitions", &spec["leaseTransitions"], 0);
        }
        "runtimeclasses.node.k8s.io" => {
            report.present("handler", &object["handler"]);
            report.named_if("handler", &object["handler"], names::label);
        }
        "ingressclasses.networking.k8s.io" => report.present("spec.controller", &spec["controller"]),
        "certificatesigningrequests.certificates.k8s.io" => {
            report.present("spec.request", &spec["request"]);
            report.present("spec.signerName", &spec["signerName"]);
            if items(&spec["usages"]).next().is_none() {
                report.required("spec.usages", "usages must be specified");
            }
        }
        "events" => event(object, report),
        "nodes" => taints(&spec["taints"], report),
        _ => {}
    }
}

fn rules(object: &Value, namespaced: bool, report: &mut Report) {
    for (index, rule) in items(&object["rules"]).enumerate() {
        let field = format!("rules[{index}]");
        let none = |name: &str| items(&rule[name]).next().is_none();
        if none("verbs") {
            report.required(format!("{field}.verbs"), "verbs must contain at least one value");
        }
        if !none("nonResourceURLs") {
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                report.invalid(format!("{field}.nonResourceURLs"), &rule["nonResourceURLs"], detail);
            }
            if !none("apiGroups") || !none("resources") || !none("resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                report.invalid(format!("{field}.nonResourceURLs"), &rule["nonResourceURLs"], detail);
            }
            continue;
        }
        if none("apiGroups") {
            report.required(format!("{field}.apiGroups"), "resource rules must supply at least one api group");
        }
        if none("resources") {
            report.required(format!("{field}.resources"), "resource rules must supply at least one resource");
        }
    }
}

fn binding(object: &Value, kinds: &[&str], report: &mut Report) {
    let role = &object["roleRef"];
    report.one_of("roleRef.apiGroup", &role["apiGroup"], &["rbac.authorization.k8s.io"]);
    report.one_of("roleRef.kind", &role["kind"], kinds);
    report.present("roleRef.name", &role["name"]);
    for (index, subject) in items(&object["subjects"]).enumerate() {
        let at = |name: &str| format!("subjects[{index}].{name}");
        report.present(at("name"), &subject["name"]);
        report.one_of(at("kind"), &subject["kind"], &["Group", "ServiceAccount", "User"]);
        if text(subject, "kind") == "ServiceAccount" && kinds.len() == 1 {
            report.present(at("namespace"), &subject["namespace"]);
        }
    }
}

fn autoscaler(spec: &Value, report: &mut Report) {
    report.present("spec.scaleTargetRef.kind", &spec["scaleTargetRef"]["kind"]);
    report.present("spec.scaleTargetRef.name", &spec["scaleTargetRef"]["name"]);
    report.at_least("spec.minReplicas", &spec["minReplicas"], 1);
    let (least, most) = (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or(0));
    if most < 1 {
        report.invalid("spec.maxReplicas", &json!(most), "must be greater than 0");
    } else if most < least {
        report.invalid("spec.maxReplicas", &json!(most), "must be greater than or equal to `minReplicas`");
    }
    let kinds = &["ContainerResource", "External", "Object", "Pods", "Resource"];
    for (index, metric) in items(&spec["metrics"]).enumerate() {
        report.one_of(format!("spec.metrics[{index}].type"), &metric["type"], kinds);
    }
}

fn limits(spec: &Value, report: &mut Report) {
    for (index, entry) in items(&spec["limits"]).enumerate() {
        let field = format!("spec.limits[{index}]");
        report.present(format!("{field}.type"), &entry["type"]);
        for side in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            report.quantities(&format!("{field}.{side}"), &entry[side]);
        }
        let amount = |side: &str, name: &str| entry[side][name].as_str().and_then(crate::quantity::Quantity::parse);
        for (name, least) in members(&entry["min"]) {
            if let (Some(min), Some(max)) = (amount("min", name), amount("max", name))
                && min > max
            {
                let detail = format!("min value {min} is greater than max value {max}");
                report.invalid(format!("{field}.min[{name}]"), least, &detail);
            }
        }
    }
}

fn event(object: &Value, report: &mut Report) {
    let (own, about) = (text(&object["metadata"], "namespace"), text(&object["involvedObject"], "namespace"));
    // What has no namespace is reported in `default`.
    if about != own && !(about.is_empty() && own == "default") {
        let detail = "does not match event.namespace";
        report.invalid("involvedObject.namespace", &json!(about), detail);
    }
}

fn taints(taints: &Value, report: &mut Report) {
    for (index, taint) in items(taints).enumerate() {
        let field = format!("spec.taints[{index}]");
        report.named(&format!("{field}.key"), text(taint, "key"), names::qualified);
        report.named(&format!("{field}.value"), text(taint, "value"), names::label_value);
        let effects = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if text(taint, "effect").is_empty() {
            report.required(format!("{field}.effect"), "");
        } else {
            report.one_of(format!("{field}.effect"), &taint["effect"], effects);
        }
    }
}

/// What must stay as it was.
pub(super) fn check_update(name: &str, old: &Value, new: &Value, report: &mut Report) {
    match name {
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io"
            if old["roleRef"] != new["roleRef"] =>
        {
            report.invalid("roleRef", &new["roleRef"], "cannot change roleRef");
        }
        "priorityclasses.scheduling.k8s.io" if old["value"] != new["value"] => {
            report.forbidden("value", "may not be changed in an update.");
        }
        "storageclasses.storage.k8s.io" => {
            for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
                if old[field] != new[field] {
                    report.forbidden(field, "updates to storage class are forbidden");
                }
            }
        }
        "runtimeclasses.node.k8s.io" => report.immutable("handler", &old["handler"], &new["handler"]),
        "endpointslices.discovery.k8s.io" => {
            report.immutable("addressType", &old["addressType"], &new["addressType"]);
        }
        "ingressclasses.networking.k8s.io" => {
            let controller = |object: &Value| object["spec"]["controller"].clone();
            report.immutable("spec.controller", &controller(old), &controller(new));
        }
        "certificatesigningrequests.certificates.k8s.io" => report.immutable("spec", &old["spec"], &new["spec"]),
        _ => {}
    }
}
