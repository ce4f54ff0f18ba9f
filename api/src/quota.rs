//! ResourceQuota: what an object costs, which quotas it counts in, and how much of one is used.
//!
//! Source: `k8s.io/kubernetes/pkg/quota/v1/evaluator/core`. Pure: the door decides with it who may enter, the quota
//! controller counts with it what is there, and both must come to the same sums.

use serde_json::Value;

use crate::object::Object;
use crate::resources::{self, Amounts, Side};
use crate::selector::{Operator, Requirement};
use crate::view::View;
use crate::{Quantity, meta};

/// The resource that quotas are.
pub const QUOTAS: &str = "resourcequotas";

/// What a pod's containers must say for themselves where a quota limits it.
const EXPLICIT: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// Resources of the core group that quotas also know by their bare names.
const SHORT: [&str; 6] =
    ["configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"];

/// Everything that one object of a resource costs, by the names that `spec.hard` uses.
#[must_use]
pub fn usage(resource: &str, object: &Value) -> Amounts {
    let one = Quantity::from_units(1);
    let mut usage = Amounts::from([(format!("count/{resource}"), one)]);
    if SHORT.contains(&resource) {
        usage.insert(resource.to_owned(), one);
    }
    match resource {
        "pods" => pod(object, &mut usage),
        "services" => service(object, &mut usage),
        "persistentvolumeclaims" => claim(object, &mut usage),
        _ => {}
    }
    usage
}

/// A pod that has ended costs nothing but its place among the objects.
fn pod(object: &Value, usage: &mut Amounts) {
    if matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return;
    }
    usage.insert("pods".into(), Quantity::from_units(1));
    usage.extend(compute(
        &resources::pod(&object["spec"], Side::Requests),
        &resources::pod(&object["spec"], Side::Limits),
    ));
}

/// Requests and limits by the names that quotas give them (`podComputeUsageHelper`).
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let basic = |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage");
    let mut usage = Amounts::new();
    for (name, amount) in requests {
        let huge = name.starts_with("hugepages-");
        if basic(name) || huge {
            usage.insert(name.clone(), *amount);
        }
        if basic(name) || huge || name.contains('/') {
            usage.insert(format!("requests.{name}"), *amount);
        }
    }
    usage.extend(
        limits.iter().filter(|(name, _)| basic(name)).map(|(name, amount)| (format!("limits.{name}"), *amount)),
    );
    usage
}

fn service(object: &Value, usage: &mut Amounts) {
    let spec = &object["spec"];
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let with_node_port = ports.iter().filter(|port| port["nodePort"].as_i64().is_some_and(|port| port > 0)).count();
    let (balancers, node_ports) = match spec["type"].as_str() {
        Some("NodePort") => (0, ports.len()),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (1, with_node_port),
        Some("LoadBalancer") => (1, ports.len()),
        _ => (0, 0),
    };
    usage.insert("services.loadbalancers".into(), Quantity::from_units(balancers));
    usage.insert("services.nodeports".into(), Quantity::from_units(i64::try_from(node_ports).unwrap_or(i64::MAX)));
}

fn claim(object: &Value, usage: &mut Amounts) {
    const LEGACY: &str = "volume.beta.kubernetes.io/storage-class";
    let storage = resources::quantity(&object["spec"]["resources"]["requests"]["storage"]).unwrap_or_default();
    let class = object["spec"]["storageClassName"].as_str().or_else(|| meta::annotation(object, LEGACY));
    usage.insert("requests.storage".into(), storage);
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        usage.insert(format!("{prefix}/persistentvolumeclaims"), Quantity::from_units(1));
        usage.insert(format!("{prefix}/requests.storage"), storage);
    }
}

/// Of the amounts only those that a quota's `hard` list names.
#[must_use]
pub fn masked(mut amounts: Amounts, hard: &Value) -> Amounts {
    amounts.retain(|name, _| hard.get(name).is_some());
    amounts
}

/// Whether an object is of the kind that a quota is about: all of its scopes must fit.
#[must_use]
pub fn is_about(quota: &Value, resource: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let listed = spec["scopes"].as_array().into_iter().flatten();
    let listed = listed.map(|scope| (scope.as_str().unwrap_or_default(), None));
    let selected = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let selected = selected.map(|entry| (entry["scopeName"].as_str().unwrap_or_default(), Some(entry)));
    // Only pods have scopes; a quota with one is about nothing else.
    listed.chain(selected).all(|(scope, entry)| resource == "pods" && in_scope(scope, entry, object))
}

fn in_scope(scope: &str, entry: Option<&Value>, pod: &Value) -> bool {
    let spec = &pod["spec"];
    let ends = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(spec),
        "NotBestEffort" => !is_best_effort(spec),
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().filter(|class| !class.is_empty());
            match entry {
                None => class.is_some(),
                Some(entry) => priority_requirement(entry).is_some_and(|requirement| requirement.allows(class)),
            }
        }
        "CrossNamespacePodAffinity" => looks_abroad(spec),
        _ => false,
    }
}

fn priority_requirement(entry: &Value) -> Option<Requirement> {
    let mut entry = entry.clone();
    entry["key"] = entry["scopeName"].take();
    let requirement = Requirement::from_value(&entry)?;
    (!matches!(requirement.operator, Operator::Gt | Operator::Lt)).then_some(requirement)
}

fn is_best_effort(spec: &Value) -> bool {
    let containers = ["initContainers", "containers"].into_iter().flat_map(|list| spec[list].as_array());
    containers.flatten().all(|container| {
        let asked = resources::container(container, Side::Requests);
        ["cpu", "memory"].iter().all(|name| asked.get(*name).is_none_or(Quantity::is_zero))
    })
}

fn looks_abroad(spec: &Value) -> bool {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let rules = &spec["affinity"][kind];
        let terms = rules[required].as_array().into_iter().flatten();
        let wishes = rules[preferred].as_array().into_iter().flatten().map(|wish| &wish["podAffinityTerm"]);
        terms.chain(wishes).any(|term| {
            !term["namespaceSelector"].is_null() || term["namespaces"].as_array().is_some_and(|list| !list.is_empty())
        })
    })
}

/// What a pod must say and does not, where a quota's `hard` list limits it:
/// `must specify limits.cpu for: c,d; memory for: c`.
#[must_use]
pub fn unspecified(hard: &Value, pod: &Value) -> Option<String> {
    let needed = EXPLICIT.iter().filter(|name| hard.get(**name).is_some());
    let missing: Vec<String> = needed
        .filter_map(|name| {
            let lists = ["containers", "initContainers"].into_iter().flat_map(|list| pod["spec"][list].as_array());
            let silent = lists.flatten().filter(|container| {
                let side = |side| resources::container(container, side);
                !compute(&side(Side::Requests), &side(Side::Limits)).contains_key(*name)
            });
            let mut names: Vec<&str> = silent.filter_map(|container| container["name"].as_str()).collect();
            names.sort_unstable();
            (!names.is_empty()).then(|| format!("{name} for: {}", names.join(",")))
        })
        .collect();
    (!missing.is_empty()).then(|| format!("must specify {}", missing.join("; ")))
}

/// How much of a quota is used, counted from everything in its namespace: one amount per name in `spec.hard`.
#[must_use]
pub fn tally(view: &View, quota: &Object) -> Amounts {
    let hard = quota.field("spec.hard");
    let mut sum: Amounts =
        hard.as_object().into_iter().flatten().map(|(name, _)| (name.clone(), Quantity::ZERO)).collect();
    for resource in counted(hard) {
        for object in view.list_in(resource, quota.namespace()) {
            if is_about(&quota.value, resource, &object.value) {
                resources::add(&mut sum, &masked(usage(resource, &object.value), hard));
            }
        }
    }
    sum
}

/// The resources whose objects can count in a `hard` list.
fn counted(hard: &Value) -> Vec<&str> {
    let names = hard.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let mut resources: Vec<&str> = names
        .map(|name| match name.strip_prefix("count/") {
            Some(resource) => resource,
            None if name.starts_with("services") => "services",
            None if name == "requests.storage" || name.contains(".storageclass.storage.k8s.io/") => {
                "persistentvolumeclaims"
            }
            None if SHORT.contains(&name) => name,
            None => "pods",
        })
        .collect();
    resources.sort_unstable();
    resources.dedup();
    resources
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn objects_cost_what_kubernetes_says() {
        let container = json!({"name": "c", "resources":
            {"requests": {"cpu": "100m", "memory": "1Gi", "x.io/gpu": "1"}, "limits": {"cpu": "1"}}});
        for (resource, object, expected) in [
            ("configmaps", json!({}), "configmaps=1,count/configmaps=1"),
            ("deployments.apps", json!({}), "count/deployments.apps=1"),
            (
                "pods",
                json!({"spec": {"containers": [container]}}),
                "count/pods=1,cpu=100m,limits.cpu=1,memory=1Gi,pods=1,requests.cpu=100m,requests.memory=1Gi,\
                 requests.x.io/gpu=1",
            ),
            ("pods", json!({"spec": {"containers": [container]}, "status": {"phase": "Failed"}}), "count/pods=1"),
            (
                "services",
                json!({"spec": {"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}}),
                "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2",
            ),
            (
                "persistentvolumeclaims",
                json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}}}}),
                "count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
                 fast.storageclass.storage.k8s.io/requests.storage=5Gi,persistentvolumeclaims=1,requests.storage=5Gi",
            ),
        ] {
            assert_eq!(text(&usage(resource, &object)), expected);
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let plain = json!({"spec": {"containers": [{"name": "c"}]}});
        let batch = json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high", "containers":
            [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
        let select = |operator: &str, values: Value| {
            json!({"spec": {"scopeSelector": {"matchExpressions":
                [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}}})
        };
        for (quota, of_plain, of_batch) in [
            (json!({"spec": {}}), true, true),
            (json!({"spec": {"scopes": ["Terminating"]}}), false, true),
            (json!({"spec": {"scopes": ["NotTerminating"]}}), true, false),
            (json!({"spec": {"scopes": ["BestEffort"]}}), true, false),
            (json!({"spec": {"scopes": ["BestEffort", "Terminating"]}}), false, false),
            (json!({"spec": {"scopes": ["NotBestEffort"]}}), false, true),
            (select("In", json!(["high"])), false, true),
            (select("NotIn", json!(["high"])), true, false),
            (select("Exists", json!([])), false, true),
        ] {
            assert_eq!(is_about(&quota, "pods", &plain), of_plain, "{quota}");
            assert_eq!(is_about(&quota, "pods", &batch), of_batch, "{quota}");
        }
        assert!(!is_about(&json!({"spec": {"scopes": ["BestEffort"]}}), "services", &json!({})));
    }

    #[test]
    fn a_pod_says_what_a_quota_limits() {
        let pod = json!({"spec": {"containers":
            [{"name": "b"}, {"name": "a", "resources": {"requests": {"memory": "1Gi"}}}]}});
        let hard = json!({"requests.memory": "4Gi", "limits.cpu": "1", "pods": "3"});
        let expected = "must specify limits.cpu for: a,b; requests.memory for: b";
        assert_eq!(unspecified(&hard, &pod).as_deref(), Some(expected));
        assert_eq!(unspecified(&json!({"pods": "3"}), &pod), None);
    }
}
