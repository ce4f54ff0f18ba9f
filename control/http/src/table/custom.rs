//! The columns of custom resources, as their definitions name them.

use api::custom::Custom;
use api::{Object, Resource};
use serde_json::{Value, json};

use super::cells;

fn printed(resource: &Resource) -> impl Iterator<Item = &(api::kinds::Column, api::jsonpath::JsonPath)> {
    resource.custom.as_deref().map_or(&[][..], |custom: &Custom| &custom.columns).iter()
}

/// Name, the definition's columns, or age where it has none.
pub(super) fn columns(resource: &Resource) -> Value {
    let column = |name: &str, type_: &str, format: &str, priority: i32, description: &str| json!({"name": name, "type": type_, "format": format, "description": description, "priority": priority});
    let mut columns = vec![column("Name", "string", "name", 0, "")];
    columns.extend(
        printed(resource).map(|(own, _)| column(&own.name, &own.type_, &own.format, own.priority, &own.description)),
    );
    if columns.len() == 1 {
        columns.push(column("Age", "date", "", 0, ""));
    }
    Value::Array(columns)
}

/// The cells of one object; `now_ms` is milliseconds since 1970.
pub(super) fn row(resource: &Resource, object: &Object, now_ms: i64) -> Vec<Value> {
    let mut row = vec![object.name().into()];
    row.extend(printed(resource).map(|(column, path)| cell(&column.type_, path.first(&object.value), now_ms)));
    if row.len() == 1 {
        row.push(cells::age(object, now_ms));
    }
    row
}

/// What is absent, or of another type than its column, is not shown.
fn cell(type_: &str, value: Option<&Value>, now_ms: i64) -> Value {
    match (type_, value) {
        (_, None | Some(Value::Null)) => Value::Null,
        ("date", Some(Value::String(time))) => cells::since(time, now_ms).into(),
        ("integer" | "number", Some(value)) if value.is_number() => value.clone(),
        ("boolean", Some(Value::Bool(flag))) => json!(flag),
        ("string", Some(value)) => cells::scalar(value, "").into(),
        _ => Value::Null,
    }
}
