//! The `scale` subresource: autoscaling/v1 Scale as another way to see an object with replicas. Pure.

use api::custom::ScalePaths;
use api::{Object, Resource, Status};
use serde_json::{Map, Value, json};

/// The Scale of an object of a resource that has one.
#[must_use]
pub fn scale_of(resource: &Resource, object: &Object) -> Value {
    shown(resource, &object.value)
}

/// [`scale_of`] an object that is not stored yet.
pub(crate) fn shown(resource: &Resource, value: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(text) = value["metadata"].get(field) {
            metadata.insert(field.into(), text.clone());
        }
    }
    let (wanted, counted, selector) = match paths(resource) {
        Some(paths) => (
            at(value, &paths.spec_replicas),
            at(value, &paths.status_replicas),
            at(value, &paths.selector).as_str().unwrap_or_default().to_owned(),
        ),
        None => (&value["spec"]["replicas"], &value["status"]["replicas"], selector_text(&value["spec"]["selector"])),
    };
    let spec = wanted.as_i64().map_or_else(|| json!({}), |replicas| json!({"replicas": replicas}));
    let mut status = json!({"replicas": counted.as_i64().unwrap_or(0)});
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

fn paths(resource: &Resource) -> Option<&ScalePaths> {
    resource.custom.as_ref()?.scale.as_ref()
}

fn at<'v>(value: &'v Value, path: &[String]) -> &'v Value {
    path.iter().fold(value, |value, name| &value[name])
}

/// Sets the wanted number of replicas where the resource has it.
pub(crate) fn set_replicas(resource: &Resource, value: &mut Value, replicas: Value) {
    let own: Vec<&str> = match paths(resource) {
        Some(paths) => paths.spec_replicas.iter().map(String::as_str).collect(),
        None => vec!["spec", "replicas"],
    };
    let Some((last, way)) = own.split_last() else { return };
    let mut place = value;
    for name in way {
        api::meta::object_mut(place, name);
        place = &mut place[*name];
    }
    place[*last] = replicas;
}

/// The part of an object that an applied Scale shows.
pub(crate) fn applied_scale(resource: &Resource, scale: &Value) -> Value {
    let mut value = json!({});
    set_replicas(resource, &mut value, scale["spec"]["replicas"].clone());
    value
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
    let mut value = object.whole().into_owned();
    set_replicas(resource, &mut value, json!(replicas));
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
    use api::{Catalog, Key};

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
        let resource = Catalog::builtin().by_name("deployments.apps").unwrap().clone();
        let scale = scale_of(&resource, &Object::new(Key::new("deployments.apps", "default", "web"), 7, value));
        assert_eq!(scale["spec"], json!({"replicas": 3}));
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web,tier in (a,b),!old"}));
        assert_eq!(scale["metadata"]["resourceVersion"], json!("7"));
    }
}
