//! Whether a value keeps a schema's rules, told in Kubernetes' words.
//!
//! Source: `k8s.io/kube-openapi/pkg/validation` and how `apiextensions-apiserver` turns its findings into field errors.

use std::collections::HashSet;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Bounds, Kind, Structural};
use crate::schema::ListType;
use crate::status::Cause;
use crate::time;

/// What keeps an object from following its schema; empty when nothing does.
pub(crate) fn causes(object: &Value, schema: &Structural) -> Vec<Cause> {
    let mut judge = Judge(Vec::new());
    judge.value(object, schema, "");
    judge.0
}

struct Judge(Vec<Cause>);

impl Judge {
    fn invalid(&mut self, path: &str, value: &Value, detail: &str) {
        let place = if path.is_empty() { "<nil>" } else { path };
        self.0.push(Cause::invalid(place, value, &format!("{path} in body {detail}")));
    }

    fn value(&mut self, value: &Value, schema: &Structural, path: &str) {
        if value.is_null() && schema.nullable {
            return;
        }
        if let Some(wanted) = misfit(value, schema.kind) {
            let (place, is) = (if path.is_empty() { "<nil>" } else { path }, word(value));
            let detail = format!("{path} in body must be of type {wanted}: {is:?}");
            self.0.push(Cause { reason: "FieldValueTypeInvalid", ..Cause::invalid(place, &json!(is), &detail) });
            return;
        }
        if !schema.rules.allowed.is_empty() && !schema.rules.allowed.contains(value) {
            let allowed: Vec<String> = schema.rules.allowed.iter().map(plain).collect();
            let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
            self.0.push(Cause::not_supported(path, value, &allowed));
        }
        match value {
            Value::Object(members) => self.object(value, members, schema, path),
            Value::Array(items) => self.array(value, items, schema, path),
            Value::String(text) => self.text(value, text, schema, path),
            Value::Number(number) => self.number(value, number, schema, path),
            Value::Bool(_) | Value::Null => {}
        }
        self.combined(value, schema, path);
    }

    fn object(&mut self, value: &Value, members: &serde_json::Map<String, Value>, schema: &Structural, path: &str) {
        for name in &schema.rules.required {
            if !members.contains_key(name) {
                self.0.push(Cause::required(join(path, name), ""));
            }
        }
        let Bounds { min, max } = schema.rules.properties;
        if min.is_some_and(|min| (members.len() as u64) < min) {
            self.invalid(path, value, &format!("should have at least {} properties", min.unwrap_or_default()));
        }
        if let Some(max) = max.filter(|max| members.len() as u64 > *max) {
            self.too_many(path, members.len(), max);
        }
        for (name, member) in members {
            let own = schema.embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
            if let (false, Some(property)) = (own, schema.property(name)) {
                self.value(member, property, &join(path, name));
            }
        }
    }

    fn array(&mut self, value: &Value, items: &[Value], schema: &Structural, path: &str) {
        let Bounds { min, max } = schema.rules.items;
        if let Some(min) = min.filter(|min| (items.len() as u64) < *min) {
            self.invalid(path, value, &format!("should have at least {min} items"));
        }
        if let Some(max) = max.filter(|max| items.len() as u64 > *max) {
            self.too_many(path, items.len(), max);
        }
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let identity = match schema.list {
                ListType::Atomic if !schema.rules.unique => None,
                ListType::Atomic | ListType::Set => Some(item.clone()),
                ListType::Map => Some(Value::Object(
                    schema.keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone()))).collect(),
                )),
            };
            if let Some(identity) = identity
                && !seen.insert(identity.to_string())
            {
                let message = format!("Duplicate value: {identity}");
                let field = format!("{path}[{index}]");
                self.0.push(Cause { reason: "FieldValueDuplicate", message, field });
            }
            if let Some(of_items) = schema.items.as_deref() {
                self.value(item, of_items, &format!("{path}[{index}]"));
            }
        }
    }

    fn too_many(&mut self, path: &str, count: usize, max: u64) {
        let message = format!("Too many: {count}: must have at most {max} items");
        self.0.push(Cause { reason: "FieldValueTooMany", message, field: path.into() });
    }

    fn text(&mut self, value: &Value, text: &str, schema: &Structural, path: &str) {
        let Bounds { min, max } = schema.rules.length;
        let length = text.chars().count() as u64;
        if let Some(min) = min.filter(|min| length < *min) {
            self.invalid(path, value, &format!("should be at least {min} chars long"));
        }
        if let Some(max) = max.filter(|max| length > *max) {
            let message = format!("Too long: may not be more than {max} bytes");
            self.0.push(Cause { reason: "FieldValueTooLong", message, field: path.into() });
        }
        if let Some(pattern) = &schema.rules.pattern
            && !pattern.is_match(text)
        {
            self.invalid(path, value, &format!("should match '{}'", pattern.as_str()));
        }
        if !is_of_format(text, &schema.rules.format) {
            self.invalid(path, value, &format!("must be of type {}: {value}", schema.rules.format));
        }
    }

    fn number(&mut self, value: &Value, number: &serde_json::Number, schema: &Structural, path: &str) {
        let Some(is) = number.as_f64() else { return };
        if let Some((bound, exclusive)) = schema.rules.minimum
            && (is < bound || exclusive && is <= bound)
        {
            let words = if exclusive { "greater than" } else { "greater than or equal to" };
            self.invalid(path, value, &format!("should be {words} {bound}"));
        }
        if let Some((bound, exclusive)) = schema.rules.maximum
            && (is > bound || exclusive && is >= bound)
        {
            let words = if exclusive { "less than" } else { "less than or equal to" };
            self.invalid(path, value, &format!("should be {words} {bound}"));
        }
        if let Some(step) = schema.rules.multiple_of
            && (is / step).fract() != 0.0
        {
            self.invalid(path, value, &format!("should be a multiple of {step}"));
        }
        let fits = match schema.rules.format.as_str() {
            "int32" => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            _ => true,
        };
        if !fits && schema.kind == Kind::Integer {
            self.invalid(path, value, &format!("must be of type int32: {number}"));
        }
    }

    fn combined(&mut self, value: &Value, schema: &Structural, path: &str) {
        let holds = |schema: &Structural| {
            let mut judge = Judge(Vec::new());
            judge.value(value, schema, path);
            judge.0.is_empty()
        };
        for schema in &schema.rules.all_of {
            self.value(value, schema, path);
        }
        if !schema.rules.any_of.is_empty() && !schema.rules.any_of.iter().any(holds) {
            self.invalid(path, value, "must validate at least one schema (anyOf)");
        }
        if !schema.rules.one_of.is_empty() && schema.rules.one_of.iter().filter(|schema| holds(schema)).count() != 1 {
            self.invalid(path, value, "must validate one and only one schema (oneOf)");
        }
        if schema.rules.not.as_deref().is_some_and(holds) {
            self.invalid(path, value, "must not validate the schema (not)");
        }
    }
}

/// `spec.replicas`.
fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The kind's name when the value is none of it.
fn misfit(value: &Value, kind: Kind) -> Option<&'static str> {
    let (wanted, fits) = match kind {
        Kind::Any => return None,
        Kind::Object => ("object", value.is_object()),
        Kind::Array => ("array", value.is_array()),
        Kind::String => ("string", value.is_string()),
        Kind::Boolean => ("boolean", value.is_boolean()),
        Kind::Number => ("number", value.is_number()),
        Kind::Integer => ("integer", is_whole(value)),
        Kind::IntOrString => ("integer,string", value.is_string() || is_whole(value)),
    };
    (!fits).then_some(wanted)
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_whole(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Formats that are common in definitions; of others nothing is known, so everything is one.
fn is_of_format(text: &str, format: &str) -> bool {
    match format {
        "date-time" => time::parse_micros(text).is_some(),
        "date" => text.len() == 10 && time::parse_micros(&format!("{text}T00:00:00Z")).is_some(),
        "duration" => time::parse_duration(text).is_some(),
        "byte" => STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()),
        "ipv6" => text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()),
        "cidr" => crate::validate::names::network(text).is_empty(),
        "uuid" => {
            let parts: Vec<&str> = text.split('-').collect();
            let hexadecimal = parts.iter().all(|part| part.chars().all(|digit| digit.is_ascii_hexdigit()));
            hexadecimal && parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        }
        "uri" => text.split_once(':').is_some_and(|(scheme, _)| !scheme.is_empty()),
        "email" => text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty()),
        "hostname" => crate::validate::names::subdomain(&text.to_lowercase()).is_empty(),
        _ => true,
    }
}
