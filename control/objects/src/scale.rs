//! The `scale` subresource: autoscaling/v1 Scale as another way to see an object with replicas. Pure.

use api::{Object, Resource, Status};
use serde_json::{Value, json};

/// The Scale of an object.
#[must_use]
pub fn scale_of(object: &Object) -> Value {
    let value = &object.value;
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(text) = value["metadata"].get(field) {
            metadata.insert(field.into(), text.clone());
        }
    }
    let mut spec = json!({});
    if let Some(replicas) = value["spec"]["replicas"].as_i64() {
        spec = json!({"replicas": replicas});
    }
    let mut status = json!({"replicas": value["status"]["replicas"].as_i64().unwrap_or(0)});
    let selector = selector_text(&value["spec"]["selector"]);
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// The object with the number of replicas that a Scale asks for. 409 and 422 as upstream gives them.
pub(crate) fn scaled(resource: &Resource, object: &Object, scale: &Value) -> Result<Value, Status> {
    if !scale["kind"].is_null() && scale["kind"] != "Scale" {
        return Err(Status::bad_request(format!("cannot read a {} as Scale", scale["kind"])));
    }
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if !(0..=i64::from(i32::MAX)).contains(&replicas) {
        let detail = "must be greater than or equal to 0";
        let cause = api::Cause::invalid("spec.replicas", &json!(replicas), detail);
        return Err(Status::invalid("autoscaling", "Scale", object.name(), vec![cause]));
    }
    let revision = scale["metadata"]["resourceVersion"].as_str().filter(|text| !text.is_empty());
    if revision.is_some_and(|revision| revision != object.revision.to_string()) {
        return Err(Status::modified(&resource.name, object.name()));
    }
    let mut value = object.value.clone();
    value["spec"]["replicas"] = json!(replicas);
    Ok(value)
}

/// A selector as one line: `app=web,tier in (a,b),!old`.
fn selector_text(selector: &Value) -> String {
    let Some(fields) = selector.as_object() else { return String::new() };
    let labelled = |labels: &Value| -> Vec<String> {
        let labels = labels.as_object().into_iter().flatten();
        labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect()
    };
    if !fields.contains_key("matchLabels") && !fields.contains_key("matchExpressions") {
        return labelled(selector).join(",");
    }
    let mut terms = labelled(&selector["matchLabels"]);
    for term in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = term["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = term["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        terms.push(match term["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Key;

    #[test]
    fn a_scale_is_a_small_picture_of_the_object() {
        let value = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"replicas": 3, "selector": {
                "matchLabels": {"app": "web"},
                "matchExpressions": [
                    {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"},
                ],
            }},
            "status": {"replicas": 2},
        });
        let scale = scale_of(&Object::new(Key::new("deployments.apps", "default", "web"), 7, value));
        assert_eq!(scale["spec"], json!({"replicas": 3}));
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web,tier in (a,b),!old"}));
        assert_eq!(scale["metadata"]["resourceVersion"], json!("7"));
    }
}
