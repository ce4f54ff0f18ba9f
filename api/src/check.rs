//! Decoding strictly: fits a body to its type, as Go's decoder would, in Go's words.
//!
//! Unknown fields are pruned and reported with their paths; wrong types refuse the body. What is left is written the
//! one way Go would write it back: no nulls, no zero values where Go omits them, canonical quantities, times in UTC.
//! This module judges shape only; whether values make sense is [`crate::validate`]'s business.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::kinds::Resource;
use crate::limits::{DEPTH_MAX, PROBLEMS_MAX};
use crate::quantity::{self, Quantity};
use crate::schema::{Field, Message, Schema, Shape, Type, go_name};
use crate::status::Status;
use crate::structural;
use crate::time;

/// What to do about fields that nobody knows (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the body.
    Strict,
}

/// Fits an object to the type of its resource, built in or custom: [`check`], or for the partial object of a
/// server-side apply [`check_applied`].
///
/// # Errors
/// As [`check`].
pub fn check_object(value: &mut Value, resource: &Resource, applied: bool) -> Result<Vec<String>, Status> {
    match resource.schema() {
        Some(schema) if applied => structural::check_applied(value, schema),
        Some(schema) => structural::check(value, schema),
        None => fit(value, &resource.message, applied),
    }
}

/// Fits a body to a message of the table, in place, and returns the paths of the unknown fields it pruned (at most
/// [`PROBLEMS_MAX`]), such as `spec.template.spec.containers[0].imagee`.
///
/// # Errors
/// 400 in the words of Go's decoder when a value has the wrong type.
pub fn check(value: &mut Value, message: &str) -> Result<Vec<String>, Status> {
    fit(value, message, false)
}

/// The same for the partial object of a server-side apply, where a zero value is a wish (`paused: false` must end a
/// pause) and stays.
///
/// # Errors
/// As [`check`].
pub fn check_applied(value: &mut Value, message: &str) -> Result<Vec<String>, Status> {
    fit(value, message, true)
}

fn fit(value: &mut Value, message: &str, keep_zeros: bool) -> Result<Vec<String>, Status> {
    let mut checker = Checker { schema: Schema::builtin(), unknown: Vec::new(), keep_zeros };
    let Some(message) = checker.schema.message(message) else {
        return Err(Status::internal(format!("no message {message} in the schema")));
    };
    let fits = match &mut *value {
        Value::Object(map) => checker.message(map, message, &Place::ROOT),
        other => {
            Err(format!("json: cannot unmarshal {} into Go value of type {}", word(other), go_name(&message.name)))
        }
    };
    fits.map_err(|why| Status::bad_request(format!("{}{why}", subject(value))))?;
    Ok(checker.unknown)
}

/// What duplicate and unknown fields lead to: warnings to be sent along, or a refusal.
///
/// # Errors
/// 400 `strict decoding error: …` in strict mode.
pub fn judge(
    validation: Validation,
    body: &Value,
    duplicates: &[String],
    unknown: &[String],
) -> Result<Vec<String>, Status> {
    let duplicates = duplicates.iter().map(|path| format!("duplicate field {path:?}"));
    let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
    let problems: Vec<String> = duplicates.chain(unknown).take(PROBLEMS_MAX).collect();
    match validation {
        Validation::Ignore => Ok(Vec::new()),
        Validation::Warn => Ok(problems),
        Validation::Strict if problems.is_empty() => Ok(problems),
        Validation::Strict => {
            Err(Status::bad_request(format!("{}strict decoding error: {}", subject(body), problems.join(", "))))
        }
    }
}

/// `Deployment in version "v1" cannot be handled as a Deployment: `.
fn subject(body: &Value) -> String {
    let Some(kind) = body["kind"].as_str() else { return String::new() };
    let version = body["apiVersion"].as_str().unwrap_or_default();
    let version = version.rsplit_once('/').map_or(version, |(_, version)| version);
    format!("{kind} in version {version:?} cannot be handled as a {kind}: ")
}

/// Where the checker is, as a chain on the stack: a path is only spelled when somebody must read it.
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Place<'a> {
    const ROOT: Place<'static> = Place { parent: None, step: Step::Root, depth: 0 };

    fn then(&'a self, step: Step<'a>) -> Place<'a> {
        Place { parent: Some(self), step, depth: self.depth + 1 }
    }

    /// `spec.containers[0].image`.
    fn spell(&self) -> String {
        let before = self.parent.map_or_else(String::new, Place::spell);
        match self.step {
            Step::Root => String::new(),
            Step::Index(index) => format!("{before}[{index}]"),
            Step::Field(name) | Step::Key(name) if before.is_empty() => name.to_owned(),
            Step::Field(name) | Step::Key(name) => format!("{before}.{name}"),
        }
    }

    /// `spec.containers.image`: Go names fields only.
    fn fields(&self) -> String {
        let before = self.parent.map_or_else(String::new, Place::fields);
        match self.step {
            Step::Field(name) if before.is_empty() => name.to_owned(),
            Step::Field(name) => format!("{before}.{name}"),
            _ => before,
        }
    }
}

struct Checker {
    schema: &'static Schema,
    unknown: Vec<String>,
    keep_zeros: bool,
}

impl Checker {
    fn message(&mut self, map: &mut Map<String, Value>, message: &Message, place: &Place<'_>) -> Result<(), String> {
        if place.depth >= DEPTH_MAX {
            return Err(format!("exceeded max depth of {DEPTH_MAX}"));
        }
        let typed = message.typed || place.depth == 0;
        let mut failure = None;
        map.retain(|name, value| {
            if failure.is_some() {
                return true;
            }
            let here = place.then(Step::Field(name));
            if typed && matches!(name.as_str(), "apiVersion" | "kind") && message.field(name).is_none() {
                if !value.is_string() && !value.is_null() {
                    failure = Some(mismatch(value, "string", "TypeMeta", &here));
                }
                return !value.is_null();
            }
            let Some(field) = message.field(name) else {
                if self.unknown.len() < PROBLEMS_MAX {
                    self.unknown.push(here.spell());
                }
                return false;
            };
            match self.field(value, field, message, &here) {
                Ok(keep) => keep,
                Err(why) => {
                    failure = Some(why);
                    true
                }
            }
        });
        failure.map_or(Ok(()), Err)
    }

    /// Fits one field; false when Go would leave it out.
    fn field(&mut self, value: &mut Value, field: &Field, owner: &Message, place: &Place<'_>) -> Result<bool, String> {
        if value.is_null() {
            return Ok(false);
        }
        let kept = field.pointer || !field.omit_empty || self.keep_zeros;
        let wrong = |value: &Value| Err(mismatch(value, &go_type(field), owner.short_name(), place));
        match (field.shape, &mut *value) {
            (Shape::One, value) => {
                self.one(value, &field.kind, owner, place)?;
                return Ok(kept || !is_zero(value, &field.kind));
            }
            (Shape::List, Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.element(item, &field.kind, owner, &place.then(Step::Index(index)))?;
                }
                return Ok(kept || !items.is_empty());
            }
            (Shape::Map, Value::Object(members)) => {
                for (key, member) in members.iter_mut() {
                    self.element(member, &field.kind, owner, &place.then(Step::Key(key)))?;
                }
                return Ok(kept || !members.is_empty());
            }
            (Shape::MapOfLists, Value::Object(members)) => {
                for (key, member) in members.iter_mut() {
                    let place = place.then(Step::Key(key));
                    let Value::Array(items) = member else { return wrong(member) };
                    for (index, item) in items.iter_mut().enumerate() {
                        self.element(item, &field.kind, owner, &place.then(Step::Index(index)))?;
                    }
                }
                return Ok(kept || !members.is_empty());
            }
            _ => {}
        }
        wrong(value)
    }

    /// A list's or map's value; Go reads null as the zero value there.
    fn element(&mut self, value: &mut Value, kind: &Type, owner: &Message, place: &Place<'_>) -> Result<(), String> {
        if value.is_null() {
            *value = match kind {
                Type::Message(_) => Value::Object(Map::new()),
                Type::Bool => false.into(),
                Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
                Type::Quantity => "0".into(),
                Type::Raw | Type::Time | Type::MicroTime => Value::Null,
                Type::Duration => "0s".into(),
                Type::String | Type::Bytes => "".into(),
            };
            return Ok(());
        }
        self.one(value, kind, owner, place)
    }

    fn one(&mut self, value: &mut Value, kind: &Type, owner: &Message, place: &Place<'_>) -> Result<(), String> {
        let normal = match (kind, &mut *value) {
            (Type::Raw, _) | (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) => return Ok(()),
            (Type::Double, Value::Number(_)) => return Ok(()),
            (Type::Message(name), Value::Object(map)) => {
                let message = self.schema.message(name).expect("the table is closed under its names");
                return self.message(map, message, place);
            }
            (Type::Int64, Value::Number(number)) if number.is_i64() => return Ok(()),
            (Type::Int32, Value::Number(number)) if fits_int32(number) => return Ok(()),
            (Type::Int32 | Type::Int64, Value::Number(number)) => {
                let what = format!("number {number}");
                return Err(mismatch_of(&what, scalar(kind), owner.short_name(), place));
            }
            (Type::IntOrString, Value::String(_)) => return Ok(()),
            (Type::IntOrString, Value::Number(number)) if fits_int32(number) => return Ok(()),
            (Type::IntOrString, Value::Number(number)) => {
                return Err(format!("json: cannot unmarshal number {number} into Go value of type int32"));
            }
            (Type::IntOrString, other) => {
                return Err(format!("json: cannot unmarshal {} into Go value of type int32", word(other)));
            }
            (Type::Quantity, Value::String(text)) => canonical(text)?,
            (Type::Quantity, Value::Number(number)) => canonical(&number.to_string())?,
            (Type::Quantity, _) => return Err(quantity::MALFORMED.to_owned()),
            (Type::Bytes, Value::String(text)) => bytes(text)?,
            (Type::Time, Value::String(text)) => time::seconds(micros(text)?.div_euclid(1_000_000)),
            (Type::MicroTime, Value::String(text)) => time::from_micros(micros(text)?),
            (Type::Duration, Value::String(text)) => {
                let nanos = time::parse_duration(text).ok_or_else(|| format!("time: invalid duration {text:?}"))?;
                time::duration(nanos)
            }
            (Type::Time | Type::MicroTime | Type::Duration, other) => {
                return Err(format!("json: cannot unmarshal {} into Go value of type string", word(other)));
            }
            (kind, other) => return Err(mismatch(other, scalar(kind), owner.short_name(), place)),
        };
        *value = Value::String(normal);
        Ok(())
    }
}

fn fits_int32(number: &serde_json::Number) -> bool {
    number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
}

fn canonical(text: &str) -> Result<String, String> {
    Quantity::parse(text.trim()).map(|quantity| quantity.to_string()).ok_or_else(|| quantity::MALFORMED.to_owned())
}

fn bytes(text: &str) -> Result<String, String> {
    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match STANDARD.decode(&text) {
        Ok(_) => Ok(text),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Err(format!("illegal base64 data at input byte {at}"))
        }
        Err(_) => Err(format!("illegal base64 data at input byte {}", text.len())),
    }
}

fn micros(text: &str) -> Result<i64, String> {
    let layout = "2006-01-02T15:04:05Z07:00";
    time::parse_micros(text)
        .ok_or_else(|| format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""))
}

/// Whether Go's `omitempty` would leave the value out. Go never leaves out a struct.
fn is_zero(value: &Value, kind: &Type) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0) && *kind != Type::IntOrString,
        Value::String(text) => text.is_empty() && matches!(kind, Type::String | Type::Bytes),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// How Go's decoder names a JSON value.
fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn mismatch(value: &Value, go: &str, owner: &str, place: &Place<'_>) -> String {
    mismatch_of(word(value), go, owner, place)
}

fn mismatch_of(what: &str, go: &str, owner: &str, place: &Place<'_>) -> String {
    format!("json: cannot unmarshal {what} into Go struct field {owner}.{} of type {go}", place.fields())
}

fn scalar(kind: &Type) -> &str {
    match kind {
        Type::String | Type::Time | Type::MicroTime | Type::Duration => "string",
        Type::Bool => "bool",
        Type::Int32 | Type::IntOrString => "int32",
        Type::Int64 => "int64",
        Type::Double => "float64",
        Type::Bytes => "[]uint8",
        Type::Quantity => "resource.Quantity",
        Type::Raw => "runtime.RawExtension",
        Type::Message(name) => go_name(name),
    }
}

fn go_type(field: &Field) -> String {
    let one = scalar(&field.kind);
    match field.shape {
        Shape::One => one.to_owned(),
        Shape::List => format!("[]{one}"),
        Shape::Map if field.kind == Type::Quantity => "v1.ResourceList".to_owned(),
        Shape::Map => format!("map[string]{one}"),
        Shape::MapOfLists => format!("map[string][]{one}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DEPLOYMENT: &str = "k8s.io/api/apps/v1.Deployment";
    const POD: &str = "k8s.io/api/core/v1.Pod";

    fn checked(mut value: Value, message: &str) -> (Value, Vec<String>) {
        let unknown = check(&mut value, message).unwrap();
        (value, unknown)
    }

    fn refusal(mut value: Value, message: &str) -> String {
        check(&mut value, message).unwrap_err().message.clone()
    }

    #[test]
    fn unknown_fields_are_pruned_and_named() {
        let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicaz": 1, "template": {"kind": "Pod",
            "spec": {"containers": [{"name": "a", "imagee": "b"}]}}}, "foo": null});
        let (value, unknown) = checked(body, DEPLOYMENT);
        let paths = ["foo", "spec.replicaz", "spec.template.kind", "spec.template.spec.containers[0].imagee"];
        assert_eq!(unknown, paths);
        assert_eq!(value["spec"]["template"]["spec"], json!({"containers": [{"name": "a"}]}));
        assert_eq!(judge(Validation::Warn, &value, &[], &unknown).unwrap()[0], r#"unknown field "foo""#);
        let refused = judge(Validation::Strict, &value, &["a.b".into()], &unknown[..1]).unwrap_err();
        let expected = r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: duplicate field "a.b", unknown field "foo""#;
        assert_eq!(refused.message, expected);
        assert!(judge(Validation::Strict, &value, &[], &[]).unwrap().is_empty());
        assert!(judge(Validation::Ignore, &value, &[], &unknown).unwrap().is_empty());
    }

    #[test]
    fn wrong_types_are_refused_in_gos_words() {
        let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "3"}});
        let expected = "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32";
        assert_eq!(refusal(body, DEPLOYMENT), expected);
        for (spec, expected) in [
            (
                json!({"containers": [{"env": [{"name": "a", "value": 1}]}]}),
                "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
            ),
            (
                json!({"containers": {}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (json!("x"), "json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec"),
            (
                json!({"priority": 1.5}),
                "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                json!({"nodeSelector": {"a": true}}),
                "json: cannot unmarshal bool into Go struct field PodSpec.spec.nodeSelector of type string",
            ),
            (json!({"overhead": {"cpu": "many"}}), quantity::MALFORMED),
        ] {
            assert_eq!(refusal(json!({"spec": spec}), POD), expected);
        }
        assert_eq!(refusal(json!([]), POD), "json: cannot unmarshal array into Go value of type v1.Pod");
        let secret = "k8s.io/api/core/v1.Secret";
        assert_eq!(refusal(json!({"data": {"a": "???"}}), secret), "illegal base64 data at input byte 0");
    }

    #[test]
    fn what_is_left_is_written_as_go_writes_it() {
        let body = json!({
            "metadata": {"name": "a", "creationTimestamp": null, "labels": {"x": null}, "annotations": {},
                "deletionTimestamp": "2024-01-01T02:00:00.5+02:00"},
            "spec": {"hostNetwork": false, "nodeName": "", "volumes": [], "securityContext": {}, "priority": 0,
                "containers": [{"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}, "ports": null,
                    "livenessProbe": {"httpGet": {"port": 80}}}]},
        });
        let expected = json!({
            "metadata": {"name": "a", "labels": {"x": ""}, "deletionTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"securityContext": {}, "priority": 0, "containers": [{"name": "a", "resources":
                {"limits": {"cpu": "500m", "memory": "1Gi"}}, "livenessProbe": {"httpGet": {"port": 80}}}]},
        });
        let (value, unknown) = checked(body, POD);
        assert_eq!((&value, unknown), (&expected, vec![]));
        assert_eq!(checked(value.clone(), POD).0, value);
    }

    #[test]
    fn zeros_that_are_applied_are_wishes() {
        let mut applied = json!({"spec": {"paused": false, "minReadySeconds": 0, "replicas": null}});
        assert!(check_applied(&mut applied, DEPLOYMENT).unwrap().is_empty());
        assert_eq!(applied, json!({"spec": {"paused": false, "minReadySeconds": 0}}));
        assert_eq!(checked(applied, DEPLOYMENT).0, json!({"spec": {}}));
    }

    #[test]
    fn templates_of_claims_may_say_what_they_are() {
        let claims = json!({"spec": {"volumeClaimTemplates": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim"}]}});
        assert!(checked(claims, "k8s.io/api/apps/v1.StatefulSet").1.is_empty());
    }
}
