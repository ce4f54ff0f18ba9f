//! Schemas of custom resources as OpenAPI: what their definitions say, with what every object has.
//!
//! Version 2 knows less than a definition may say. What it has no word for is left out there, as upstream does.

use api::Resource;
use serde_json::{Map, Value, json};

use super::Dialect;
use super::schemas::META;

/// Words of a schema that version 2 has not.
const NEWER: [&str; 6] = ["nullable", "oneOf", "anyOf", "allOf", "not", "default"];

/// The schema of one object.
pub(super) fn object(row: &Resource, dialect: Dialect) -> Value {
    let own = row.custom.as_deref().map_or(Value::Null, |custom| translated(&custom.openapi, dialect));
    let mut schema = match own {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    schema.insert("type".into(), json!("object"));
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    properties["apiVersion"] =
        json!({"type": "string", "description": "Group and version of this object, such as apps/v1."});
    properties["kind"] = json!({"type": "string", "description": "What this object is."});
    properties["metadata"] = reference(&format!("{META}ObjectMeta"), dialect);
    schema.insert(super::paths::GVK.into(), kind(row, &row.kind));
    Value::Object(schema)
}

/// The schema of a list of them.
pub(super) fn list(row: &Resource, dialect: Dialect) -> Value {
    json!({
        "type": "object", "required": ["items"],
        "description": format!("A list of {}.", row.kind),
        "properties": {
            "apiVersion": {"type": "string", "description": "Group and version of this list."},
            "kind": {"type": "string", "description": "What this list is."},
            "metadata": reference(&format!("{META}ListMeta"), dialect),
            "items": {"type": "array", "items": reference(&row.message, dialect)},
        },
        super::paths::GVK: kind(row, &row.list_kind),
    })
}

fn kind(row: &Resource, kind: &str) -> Value {
    json!([{"group": row.group, "version": row.version, "kind": kind}])
}

fn reference(message: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => dialect.schema_of(message),
        Dialect::V3 => json!({"allOf": [dialect.schema_of(message)]}),
    }
}

fn translated(schema: &Value, dialect: Dialect) -> Value {
    let Value::Object(words) = schema else { return schema.clone() };
    if dialect == Dialect::V3 {
        return schema.clone();
    }
    let free = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let mut out = Map::new();
    for (word, value) in words {
        let value = match word.as_str() {
            newer if NEWER.contains(&newer) => continue,
            // What may hold more than its schema says is not described at all: old clients would refuse the rest.
            "type" | "properties" | "items" if free => continue,
            "additionalProperties" if !value.is_object() => continue,
            "additionalProperties" | "items" => translated(value, dialect),
            "properties" => {
                let properties = value.as_object().into_iter().flatten();
                properties.map(|(name, schema)| (name.clone(), translated(schema, dialect))).collect()
            }
            _ => value.clone(),
        };
        out.insert(word.clone(), value);
    }
    Value::Object(out)
}
