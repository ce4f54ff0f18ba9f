//! HorizontalPodAutoscaler in its two stable versions: stored as autoscaling/v2, read and written as autoscaling/v1 by
//! clients that know no other.
//!
//! v1 has one number where v2 has a list of metrics. What v1 cannot say stands in annotations while a client of v1
//! holds the object, as upstream does it, so that a client that writes back what it read changes nothing; the texts in
//! them are v2's JSON. An annotation that is no such JSON is a plain annotation and stays one.

use serde_json::{Map, Value, json};

use crate::meta;

/// The path of an object's parts that only v2 has, with the annotation that carries them through v1.
const CARRIED: [(&str, &str, &str); 4] = [
    ("spec", "metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("spec", "behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    ("status", "currentMetrics", "autoscaling.alpha.kubernetes.io/current-metrics"),
    ("status", "conditions", "autoscaling.alpha.kubernetes.io/conditions"),
];

/// The stored object as v1 shows it.
pub(super) fn shown(object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = json!("autoscaling/v1");
    if let Some(target) = take_cpu(&mut object, "spec", "metrics", "target") {
        object["spec"]["targetCPUUtilizationPercentage"] = target;
    }
    if let Some(current) = take_cpu(&mut object, "status", "currentMetrics", "current") {
        object["status"]["currentCPUUtilizationPercentage"] = current;
    }
    for (part, field, annotation) in CARRIED {
        let Some(value) = object[part].as_object_mut().and_then(|part| part.remove(field)) else { continue };
        if value.as_array().is_none_or(|items| !items.is_empty()) {
            annotations(&mut object).insert(annotation.into(), json!(value.to_string()));
        }
    }
    object
}

/// A v1 object as it is stored.
pub(super) fn stored(mut object: Value) -> Value {
    object["apiVersion"] = json!("autoscaling/v2");
    for (part, field, annotation) in CARRIED {
        let Some(value) = carried(&mut object, annotation) else { continue };
        meta::object_mut(&mut object, part).insert(field.into(), value);
    }
    for (part, old, field, what) in [
        ("spec", "targetCPUUtilizationPercentage", "metrics", "target"),
        ("status", "currentCPUUtilizationPercentage", "currentMetrics", "current"),
    ] {
        let Some(percent) = object[part].as_object_mut().and_then(|part| part.remove(old)) else { continue };
        let mut value = json!({"averageUtilization": percent});
        if what == "target" {
            value["type"] = json!("Utilization");
        }
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", what: value}});
        let metrics = meta::object_mut(&mut object, part).entry(field).or_insert_with(|| json!([]));
        if let Some(metrics) = metrics.as_array_mut() {
            metrics.insert(0, metric);
        }
    }
    object
}

/// Takes the first metric out of a list that is a share of the CPU, and nothing but one.
fn take_cpu(object: &mut Value, part: &str, list: &str, what: &str) -> Option<Value> {
    let metrics = object[part].as_object_mut()?.get_mut(list)?.as_array_mut()?;
    let is_cpu = |metric: &Value| {
        metric["type"] == "Resource"
            && metric["resource"]["name"] == "cpu"
            && metric["resource"][what]["averageUtilization"].is_i64()
    };
    let index = metrics.iter().position(is_cpu)?;
    Some(metrics.remove(index)["resource"][what]["averageUtilization"].take())
}

/// Takes what an annotation carries; `None` leaves it alone.
fn carried(object: &mut Value, annotation: &str) -> Option<Value> {
    let annotations = object["metadata"]["annotations"].as_object_mut()?;
    let value: Value = serde_json::from_str(annotations.get(annotation)?.as_str()?).ok()?;
    if !(value.is_array() || value.is_object()) {
        return None;
    }
    annotations.remove(annotation);
    if annotations.is_empty() {
        object["metadata"].as_object_mut()?.remove("annotations");
    }
    Some(value)
}

fn annotations(object: &mut Value) -> &mut Map<String, Value> {
    meta::object_mut(&mut object["metadata"], "annotations")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(metrics: &Value) -> Value {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
            "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 3, "metrics": metrics},
            "status": {"desiredReplicas": 1, "conditions": [{"type": "ScalingActive"}]},
        })
    }

    fn cpu(percent: i64) -> Value {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
    }

    #[test]
    fn a_share_of_the_cpu_is_a_number_in_v1() {
        let old = shown(&v2(&json!([cpu(80)])));
        assert_eq!(old["apiVersion"], "autoscaling/v1");
        assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 80);
        assert_eq!(old["spec"].get("metrics"), None);
        let new = stored(json!({"metadata": {"name": "web"}, "spec": {"targetCPUUtilizationPercentage": 50}}));
        assert_eq!(new["spec"], json!({"metrics": [cpu(50)]}));
    }

    #[test]
    fn what_v1_cannot_say_comes_back_unharmed() {
        let memory = json!({"type": "Resource", "resource": {"name": "memory",
            "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
        for metrics in [json!([]), json!([cpu(80)]), json!([cpu(80), memory]), json!([memory])] {
            let mut object = v2(&metrics);
            object["spec"]["behavior"] = json!({"scaleDown": {"policies": []}});
            let mut back = stored(shown(&object));
            if metrics == json!([]) {
                back["spec"]["metrics"] = json!([]);
            }
            assert_eq!(back, object, "{metrics}");
        }
    }

    #[test]
    fn an_annotation_of_somebody_else_stays() {
        let annotations = json!({"autoscaling.alpha.kubernetes.io/metrics": "mine"});
        let object = json!({"metadata": {"annotations": annotations}, "spec": {}});
        assert_eq!(stored(object)["metadata"]["annotations"], annotations);
    }
}
