//! How a story shows actions and objects.

use std::fmt::Write as _;

use api::{Action, Object};
use serde_json::Value;

use super::cluster::Cluster;

/// One action in a line; empty for what only reports.
pub(crate) fn sentence(action: &Action) -> String {
    match action {
        Action::Create { key, .. } => format!("create {} {}\n", key.resource, key.name),
        Action::Delete { key, .. } => format!("delete {} {}\n", key.resource, key.name),
        Action::Patch { key, subresource, patch, .. } if *subresource != Some("status") => {
            let mut fields = Vec::new();
            flatten("", patch, &mut fields);
            if fields.is_empty() {
                String::new()
            } else {
                format!("change {} {} {}\n", key.resource, key.name, fields.join(" "))
            }
        }
        _ => String::new(),
    }
}

/// `spec.replicas=2`; annotations are left out.
fn flatten(path: &str, value: &Value, fields: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter().filter(|(name, _)| *name != "annotations") {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, fields);
            }
        }
        _ => fields.push(format!("{path}={}", brief(value))),
    }
}

fn brief(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(brief).collect::<Vec<_>>().join(" ")),
        Value::Object(map) if map.contains_key("uid") => format!("{}/{}", brief(&value["kind"]), brief(&value["name"])),
        Value::Object(map) if map.contains_key("reason") && map.contains_key("type") => {
            format!("{}={}/{}", brief(&value["type"]), brief(&value["status"]), brief(&value["reason"]))
        }
        Value::Object(map) if map.contains_key("timeAdded") || map.contains_key("effect") => {
            format!("{}:{}", brief(&value["key"]), brief(&value["effect"]))
        }
        Value::Object(map) => {
            let parts = map.iter().filter(|(name, _)| *name != "lastTransitionTime");
            parts.map(|(name, value)| format!("{name}:{}", brief(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

/// A table of a resource's objects with the given fields; `ready` stands for a pod's condition, `@x` for an
/// annotation, `deleting` for the deletion timestamp.
pub(crate) fn show(cluster: &Cluster, resource: &str, paths: &[&str]) -> String {
    let mut rows: Vec<Vec<String>> = vec![std::iter::once("name").chain(paths.iter().copied()).map(head).collect()];
    let mut objects: Vec<_> = cluster.view.list(resource).collect();
    objects.sort_by_key(|object| (object.key.namespace.clone(), cluster.names.tell(object.name())));
    for object in objects {
        let namespace = object.namespace();
        let prefix =
            if namespace.is_empty() || namespace == "default" { String::new() } else { format!("{namespace}/") };
        let mut row = vec![format!("{prefix}{}", cluster.names.tell(object.name()))];
        row.extend(paths.iter().map(|path| cluster.names.tell(&cell(object, path))));
        rows.push(row);
    }
    if rows.len() == 1 {
        return "none\n".to_owned();
    }
    let widths: Vec<usize> =
        (0..=paths.len()).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn head(path: &str) -> String {
    path.rsplit(['.', '/']).next().unwrap_or(path).trim_start_matches('@').to_owned()
}

fn cell(object: &Object, path: &str) -> String {
    if let Some(annotation) = path.strip_prefix('@') {
        let name = format!("deployment.kubernetes.io/{annotation}");
        return object.annotation(&name).or_else(|| object.annotation(annotation)).unwrap_or("-").to_owned();
    }
    match path {
        "deleting" => if object.deletion_timestamp().is_some() { "yes" } else { "-" }.to_owned(),
        "owners" => brief(object.field("metadata.ownerReferences")),
        "ready" => {
            let conditions = object.field("status.conditions").as_array().into_iter().flatten();
            let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
            ready.map_or_else(|| "-".to_owned(), |ready| brief(&ready["status"]))
        }
        _ => brief(object.field(path)),
    }
}
