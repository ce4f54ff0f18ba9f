//! Messages of the schema table as OpenAPI schemas.

use std::collections::BTreeSet;

use api::schema::{Field, ListType, Message, Schema, Shape, Type};
use api::{Catalog, Resource};
use serde_json::{Map, Value, json};

use super::{Dialect, custom, definition, words};

pub(super) const META: &str = "k8s.io/apimachinery/pkg/apis/meta/v1.";
const EVERYWHERE: [&str; 3] = ["DeleteOptions", "Status", "ListMeta"];

impl Dialect {
    fn reference(self, message: &str) -> Value {
        let home = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{home}{}", definition(message))})
    }

    /// A reference to the schema of a message, wherever one is asked for outside of schemas.
    pub(super) fn schema_of(self, message: &str) -> Value {
        self.reference(message)
    }
}

/// The name under which a list's schema stands: the message of the list, which the table has beside the element's.
pub(super) fn list_message(resource: &Resource) -> String {
    let package = resource.message.rsplit_once('.').map_or("", |(package, _)| package);
    format!("{package}.{}", resource.list_kind)
}

/// Every schema that the resources of a group and version (or of all) need, by definition name.
pub(super) fn reachable(catalog: &Catalog, of: Option<(&str, &str)>, dialect: Dialect) -> Map<String, Value> {
    let schema = Schema::builtin();
    let rows: Vec<&Resource> = catalog
        .iter()
        .map(|row| &**row)
        .filter(|row| of.is_none_or(|(group, version)| row.group == group && row.version == version))
        .collect();
    let mut waiting: Vec<String> = EVERYWHERE.iter().map(|name| format!("{META}{name}")).collect();
    let mut schemas = Map::new();
    for row in &rows {
        if row.custom.is_some() {
            waiting.extend(["ObjectMeta", "ListMeta"].map(|name| format!("{META}{name}")));
            schemas.insert(definition(&row.message), custom::object(row, dialect));
            schemas.insert(definition(&list_message(row)), custom::list(row, dialect));
        }
        waiting.push(row.message.clone());
        waiting.push(list_message(row));
        waiting.extend(row.subresources.iter().map(|sub| sub.message.clone()));
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some(message) = schema.message(&name) else { continue };
        waiting.extend(message.fields.iter().filter_map(Field::message).map(str::to_owned));
        schemas.insert(definition(&name), object(message, &kinds(catalog, message), dialect));
    }
    schemas
}

/// The group, version and kind of every resource whose objects (or lists, or commands) this message is.
fn kinds(catalog: &Catalog, message: &Message) -> Vec<Value> {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut kinds = Vec::new();
    for row in catalog.iter() {
        if row.message == *message.name {
            kinds.push(kind(&row.group, &row.version, &row.kind));
        } else if list_message(row) == *message.name {
            kinds.push(kind(&row.group, &row.version, &row.list_kind));
        }
        for sub in row.subresources.iter().filter(|sub| sub.message == *message.name && sub.message != row.message) {
            kinds.push(kind(&sub.group, &sub.version, &sub.kind));
        }
    }
    let options = EVERYWHERE.iter().find(|name| **name != "ListMeta" && *message.name == format!("{META}{name}"));
    kinds.extend(options.map(|name| kind("", "v1", name)));
    kinds.dedup();
    kinds
}

fn object(message: &Message, kinds: &[Value], dialect: Dialect) -> Value {
    let mut properties = Map::new();
    if message.typed || !kinds.is_empty() {
        properties.insert(
            "apiVersion".into(),
            json!({"type": "string", "description": "Group and version of this object, such as apps/v1."}),
        );
        properties.insert("kind".into(), json!({"type": "string", "description": "What this object is."}));
    }
    for field in &message.fields {
        properties.insert(field.json.to_string(), property(field, dialect));
    }
    let required: Vec<&str> =
        message.fields.iter().filter(|field| field.required()).map(|field| &*field.json).collect();
    let mut schema = json!({"type": "object", "properties": properties});
    if let Some(words) = words::of_type(message.short_name()) {
        schema["description"] = words.into();
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !kinds.is_empty() {
        schema["x-kubernetes-group-version-kind"] = json!(kinds);
    }
    schema
}

fn property(field: &Field, dialect: Dialect) -> Value {
    let one = || value(&field.kind, dialect);
    let mut property = match field.shape {
        Shape::One => one(),
        Shape::List => json!({"type": "array", "items": one()}),
        Shape::Map => json!({"type": "object", "additionalProperties": one()}),
        Shape::MapOfLists => {
            let list = json!({"type": "array", "items": one()});
            json!({"type": "object", "additionalProperties": list})
        }
    };
    if let Some(map) = property.as_object_mut() {
        // In version 2 they may stand beside a `$ref`: kubectl reads `retainKeys` of a Deployment's strategy there.
        map.extend(extensions(field));
        if let Some(words) = words::of_field(&field.json) {
            map.insert("description".into(), words.into());
        }
        if let Some(default) = &field.default {
            map.insert("default".into(), default.clone());
        }
    }
    property
}

/// How lists and structs merge, for clients that merge (kubectl apply) and for server-side apply's readers.
fn extensions(field: &Field) -> Map<String, Value> {
    let mut extensions = Map::new();
    let mut strategies = Vec::new();
    if field.retain_keys {
        strategies.push("retainKeys");
    }
    if field.merge {
        // kubectl reads "merge,retainKeys" in this order.
        strategies.insert(0, "merge");
    }
    if !strategies.is_empty() {
        extensions.insert("x-kubernetes-patch-strategy".into(), json!(strategies.join(",")));
    }
    if let Some(key) = &field.merge_key {
        extensions.insert("x-kubernetes-patch-merge-key".into(), json!(**key));
    }
    if field.shape == Shape::List {
        let type_ = match field.list {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        };
        extensions.insert("x-kubernetes-list-type".into(), json!(type_));
        if field.list == ListType::Map {
            let keys: Vec<&str> = field.keys.iter().map(|key| &**key).collect();
            extensions.insert("x-kubernetes-list-map-keys".into(), json!(keys));
        }
    }
    extensions
}

fn value(kind: &Type, dialect: Dialect) -> Value {
    match kind {
        Type::String | Type::Duration => json!({"type": "string"}),
        Type::Quantity if dialect == Dialect::V3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Type::Quantity => json!({"type": "string"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::IntOrString if dialect == Dialect::V3 => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        Type::IntOrString => json!({"type": "string", "format": "int-or-string"}),
        Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
        Type::Raw => json!({"type": "object"}),
        Type::Message(name) if dialect == Dialect::V3 => json!({"allOf": [dialect.reference(name)]}),
        Type::Message(name) => dialect.reference(name),
    }
}
