//! An OpenAPI 2 document as gnostic's protobuf (`openapi.v2.Document` of google/gnostic's `OpenAPIv2.proto`).
//!
//! Only what our own documents contain is encoded. Values of unknown form (`default`, `x-…`) travel as YAML text,
//! which JSON is.

use serde_json::{Map, Value};

use crate::protowire::Message;

/// Encodes a whole document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, text(document, "swagger"));
    let mut info = Message::default();
    info.text(1, text(&document["info"], "title"));
    info.text(2, text(&document["info"], "version"));
    out.message(2, &info);
    let mut paths = Message::default();
    for (path, item) in entries(&document["paths"]) {
        paths.message(2, &named(path, &path_item(item)));
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, definition) in entries(&document["definitions"]) {
        definitions.message(1, &named(name, &schema(definition)));
    }
    out.message(9, &definitions);
    out.into_bytes()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// `NamedX { name = 1; value = 2 }`.
fn named(name: &str, value: &Message) -> Message {
    let mut out = Message::default();
    out.text(1, name);
    out.message(2, value);
    out
}

/// `Any { yaml = 2 }`.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(2, &format!("{value}\n"));
    out
}

/// Every `x-…` as `NamedAny`.
fn extensions(out: &mut Message, field: u32, value: &Value) {
    for (name, extension) in entries(value).filter(|(name, _)| name.starts_with("x-")) {
        out.message(field, &named(name, &any(extension)));
    }
}

/// A message whose only field holds another: gnostic's way to write `oneof`.
fn within(field: u32, message: &Message) -> Message {
    let mut out = Message::default();
    out.message(field, message);
    out
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (method, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(value) = item.get(method) {
            out.message(field, &operation(value));
        }
    }
    for value in list(&item["parameters"]) {
        out.message(9, &parameter(value));
    }
    out
}

fn operation(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(5, text(value, "operationId"));
    for (name, field) in [("produces", 6), ("consumes", 7)] {
        list(&value[name]).filter_map(Value::as_str).for_each(|type_| out.text(field, type_));
    }
    for value in list(&value["parameters"]) {
        out.message(8, &parameter(value));
    }
    let mut responses = Message::default();
    for (code, value) in entries(&value["responses"]) {
        let mut response = Message::default();
        response.text(1, text(value, "description"));
        if let Some(value) = value.get("schema") {
            response.message(2, &within(1, &schema(value)));
        }
        responses.message(1, &named(code, &within(1, &response)));
    }
    out.message(9, &responses);
    extensions(&mut out, 13, value);
    out
}

/// `ParametersItem { parameter = 1 }`, which is a body parameter or another one.
fn parameter(value: &Value) -> Message {
    let (place, required) = (text(value, "in"), value["required"] == true);
    let mut out = Message::default();
    if place == "body" {
        out.text(2, text(value, "name"));
        out.text(3, place);
        out.flag(4, required);
        out.message(5, &schema(&value["schema"]));
        return within(1, &within(1, &out));
    }
    out.flag(1, required);
    out.text(2, place);
    out.text(3, text(value, "description"));
    out.text(4, text(value, "name"));
    // A query parameter may be empty (5), which moves its type to 6; a path parameter may not.
    let (type_field, kind) = if place == "query" { (6, 3) } else { (5, 4) };
    out.text(type_field, text(value, "type"));
    within(1, &within(2, &within(kind, &out)))
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, text(value, "$ref"));
    out.text(2, text(value, "format"));
    out.text(4, text(value, "description"));
    if let Some(default) = value.get("default") {
        out.message(5, &any(default));
    }
    list(&value["required"]).filter_map(Value::as_str).for_each(|name| out.text(19, name));
    if let Some(value) = value.get("additionalProperties") {
        out.message(21, &within(1, &schema(value)));
    }
    if let Some(type_) = value["type"].as_str() {
        let mut item = Message::default();
        item.text(1, type_);
        out.message(22, &item);
    }
    if let Some(items) = value.get("items") {
        out.message(23, &within(1, &schema(items)));
    }
    if let Some(properties) = value.get("properties") {
        let mut all = Message::default();
        for (name, property) in entries(properties) {
            all.message(1, &named(name, &schema(property)));
        }
        out.message(25, &all);
    }
    extensions(&mut out, 31, value);
    out
}
