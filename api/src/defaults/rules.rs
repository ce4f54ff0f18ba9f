//! The defaults that depend on other fields.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::set;
use crate::quantity::Quantity;

type Object = Map<String, Value>;

/// What belongs to a whole object and not to the same type inside another one: a pod, not a pod template.
pub(super) fn of_object(resource: &str, object: &mut Object) {
    match resource {
        "pods" => pod(object),
        "namespaces" => namespace(object),
        "nodes" => node(object),
        "secrets" => secret(object),
        crate::custom::DEFINITIONS => definition(object),
        "replicationcontrollers" | "jobs.batch" => labels_from_template(resource, object),
        _ => {}
    }
}

/// A kind gives the names that its definition does not choose.
fn definition(object: &mut Object) {
    let Some(Value::Object(spec)) = object.get_mut("spec") else { return };
    set(spec, "conversion", || json!({"strategy": "None"}));
    let Some(Value::Object(names)) = spec.get_mut("names") else { return };
    let Some(kind) = names.get("kind").and_then(Value::as_str).filter(|kind| !kind.is_empty()) else { return };
    let kind = kind.to_owned();
    set(names, "singular", || json!(kind.to_lowercase()));
    set(names, "listKind", || json!(format!("{kind}List")));
}

/// What one message gets wherever it stands; `name` is without `k8s.io/api/`.
pub(super) fn of_message(name: &str, map: &mut Object) {
    match name {
        "core/v1.Container" => container(map),
        "core/v1.EphemeralContainer" => {
            // Kubernetes has no answer here and refuses; every node of this cluster has one.
            set(map, "image", || json!("toolbox"));
            container(map);
        }
        "core/v1.PodSpec" => service_account(map),
        "core/v1.Volume" if map.keys().all(|key| key == "name") => set(map, "emptyDir", || json!({})),
        "core/v1.ServiceSpec" => service(map),
        "core/v1.ServicePort" => {
            let port = map.get("port").cloned().unwrap_or(json!(0));
            set(map, "targetPort", || port);
        }
        "core/v1.LimitRangeItem" => limit_range(map),
        "apps/v1.DeploymentStrategy" | "apps/v1.DaemonSetUpdateStrategy"
            if map.get("type").is_some_and(|kind| kind == "RollingUpdate") =>
        {
            set(map, "rollingUpdate", || json!({}));
        }
        "apps/v1.StatefulSetUpdateStrategy" if map.get("type").is_some_and(|kind| kind == "RollingUpdate") => {
            set(map, "rollingUpdate", || json!({}));
        }
        "batch/v1.JobSpec" => job(map),
        "networking/v1.NetworkPolicySpec" => policy_types(map),
        "rbac/v1.Subject" => subject(map),
        "storage/v1.CSIDriverSpec" => set(map, "volumeLifecycleModes", || json!(["Persistent"])),
        "admissionregistration/v1.MutatingWebhook" => set(map, "reinvocationPolicy", || json!("Never")),
        "autoscaling/v2.HorizontalPodAutoscalerSpec" => autoscaler(map),
        "autoscaling/v2.HorizontalPodAutoscalerBehavior" => scaling_rules(map),
        "flowcontrol/v1.LimitedPriorityLevelConfiguration" => {
            set(map, "limitResponse", || json!({"type": "Reject"}));
        }
        "flowcontrol/v1.LimitResponse" if map.get("type").is_some_and(|kind| kind == "Queue") => {
            set(map, "queuing", || json!({}));
        }
        _ => {}
    }
}

fn pod(object: &mut Object) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    set(spec, "enableServiceLinks", || json!(true));
    let host_network = spec.get("hostNetwork").is_some_and(|flag| flag == true);
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            requests_from_limits(container);
            let ports = container.get_mut("ports").filter(|_| host_network).and_then(Value::as_array_mut);
            for port in ports.into_iter().flatten() {
                let number = port["containerPort"].clone();
                if let Some(port) = port.as_object_mut() {
                    set(port, "hostPort", || number);
                }
            }
        }
    }
    let class = quality_of_service(spec);
    let status = object.entry("status").or_insert_with(|| json!({}));
    if let Some(status) = status.as_object_mut() {
        set(status, "qosClass", || json!(class));
    }
}

/// A limit without a request is a request of the same size.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else { return };
    let requests = &mut container["resources"]["requests"];
    if !requests.is_object() {
        *requests = json!({});
    }
    for (name, limit) in limits {
        if let Some(requests) = requests.as_object_mut() {
            set(requests, &name, || limit);
        }
    }
}

/// `Guaranteed`: every container has CPU and memory limits and equal requests. `BestEffort`: none has any.
fn quality_of_service(spec: &Object) -> &'static str {
    let lists = ["initContainers", "containers"].iter().filter_map(|list| spec.get(*list)?.as_array());
    let (mut any, mut all_equal) = (false, true);
    for container in lists.flatten() {
        for name in ["cpu", "memory"] {
            let amount = |side: &str| {
                let text = container["resources"][side][name].as_str();
                text.and_then(Quantity::parse).filter(|amount| !amount.is_zero())
            };
            let (limit, request) = (amount("limits"), amount("requests"));
            any |= limit.is_some() || request.is_some();
            all_equal &= limit.is_some() && limit == request;
        }
    }
    match (any, all_equal) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn namespace(object: &mut Object) {
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    let name = metadata["name"].clone();
    let Some(metadata) = metadata.as_object_mut() else { return };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    // While the name is still to be generated there is nothing to write.
    if let Some(labels) = labels.as_object_mut().filter(|_| name.is_string()) {
        labels.insert("kubernetes.io/metadata.name".into(), name);
    }
}

fn node(object: &mut Object) {
    let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else { return };
    if let Some(capacity) = status.get("capacity").cloned() {
        set(status, "allocatable", || capacity);
    }
}

/// `stringData` is how people write `data`; it is never stored.
fn secret(object: &mut Object) {
    let Some(Value::Object(plain)) = object.remove("stringData") else { return };
    if let Some(data) = object.entry("data").or_insert_with(|| json!({})).as_object_mut() {
        data.extend(plain.into_iter().map(|(name, text)| {
            let encoded = STANDARD.encode(text.as_str().unwrap_or_default());
            (name, Value::String(encoded))
        }));
    }
}

/// Objects without labels take those of their template; a ReplicationController also its selector.
fn labels_from_template(resource: &str, object: &mut Object) {
    let labels = object.get("spec").map_or(Value::Null, |spec| spec["template"]["metadata"]["labels"].clone());
    if labels.as_object().is_none_or(|labels| labels.is_empty()) {
        return;
    }
    if resource == "replicationcontrollers"
        && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
    {
        set(spec, "selector", || labels.clone());
        set(spec, "replicas", || json!(1));
    }
    if let Some(metadata) = object.entry("metadata").or_insert_with(|| json!({})).as_object_mut() {
        set(metadata, "labels", || labels);
    }
}

fn container(map: &mut Object) {
    let image = map.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if tag(image) == "latest" { "Always" } else { "IfNotPresent" };
    set(map, "imagePullPolicy", || json!(policy));
}

/// The tag of an image reference; `latest` when it has neither tag nor digest.
fn tag(image: &str) -> &str {
    if image.contains('@') {
        return "";
    }
    let last = image.rsplit_once('/').map_or(image, |(_, last)| last);
    last.split_once(':').map_or("latest", |(_, tag)| tag)
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always written.
fn service_account(map: &mut Object) {
    let named = map.get("serviceAccountName").or_else(|| map.get("serviceAccount")).cloned();
    if let Some(name) = named {
        map.insert("serviceAccount".into(), name.clone());
        map.insert("serviceAccountName".into(), name);
    }
}

fn service(map: &mut Object) {
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if map.get("sessionAffinity").is_some_and(|affinity| affinity == "ClientIP") {
        set(map, "sessionAffinityConfig", || json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    if matches!(&*kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        set(map, "internalTrafficPolicy", || json!("Cluster"));
    }
    if matches!(&*kind, "NodePort" | "LoadBalancer") {
        set(map, "externalTrafficPolicy", || json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set(map, "allocateLoadBalancerNodePorts", || json!(true));
    }
}

/// Containers: a default limit from the maximum, a default request from the default limit, then from the minimum.
fn limit_range(map: &mut Object) {
    if map.get("type").is_none_or(|kind| kind != "Container") {
        return;
    }
    for (target, source) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let Some(amounts) = map.get(source).and_then(Value::as_object).cloned() else { continue };
        if let Some(target) = map.entry(target).or_insert_with(|| json!({})).as_object_mut() {
            amounts.into_iter().for_each(|(name, amount)| set(target, &name, || amount));
        }
    }
}

fn job(map: &mut Object) {
    // With limits per index the Job as a whole has none unless it says so (`SetDefaults_Job`).
    let most = if map.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
    set(map, "backoffLimit", || json!(most));
    match (map.contains_key("completions"), map.contains_key("parallelism")) {
        (false, false) => {
            map.insert("completions".into(), json!(1));
            map.insert("parallelism".into(), json!(1));
        }
        (_, has_parallelism) if !has_parallelism => {
            map.insert("parallelism".into(), json!(1));
        }
        _ => {}
    }
}

fn policy_types(map: &mut Object) {
    let egress = map.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    set(map, "policyTypes", || if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
}

fn subject(map: &mut Object) {
    if map.get("kind").is_some_and(|kind| kind == "User" || kind == "Group") {
        set(map, "apiGroup", || json!("rbac.authorization.k8s.io"));
    }
}

fn autoscaler(map: &mut Object) {
    set(
        map,
        "metrics",
        || json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
    );
}

/// Up: at most double or add four pods every fifteen seconds. Down: as fast as wanted.
fn scaling_rules(map: &mut Object) {
    let policy = |kind: &str, value: i64| json!({"type": kind, "value": value, "periodSeconds": 15});
    let up = [policy("Pods", 4), policy("Percent", 100)];
    let down = [policy("Percent", 100)];
    for (direction, policies, window) in [("scaleUp", &up[..], Some(0)), ("scaleDown", &down[..], None)] {
        if let Some(rules) = map.entry(direction).or_insert_with(|| json!({})).as_object_mut() {
            set(rules, "selectPolicy", || json!("Max"));
            set(rules, "policies", || json!(policies));
            if let Some(seconds) = window {
                set(rules, "stabilizationWindowSeconds", || json!(seconds));
            }
        }
    }
}
