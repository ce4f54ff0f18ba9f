//! What the outside may hand to this crate: one function per decoder and patch language, each fed with raw bytes. Two
//! drivers share them: `cargo fuzz` (this folder) and `tests/fuzz.rs`, which mutates known bodies from a seed in every test
//! run. An entry may find anything wrong with its bytes; it may not panic, and it may not take memory without bound.

use api::cel::{Program, Run, Scope};
use api::selector::{FieldSelector, LabelSelector};
use api::structural::Structural;
use api::{Catalog, Quantity, check, custom, defaults, json, jsonpath, patch, path, protobuf, time, validate, yaml};
use serde_json::{Value, json};

/// An entry, under the name of its fuzz target.
pub(crate) type Entry = (&'static str, fn(&[u8]));

/// Every entry there is.
pub(crate) const ENTRIES: &[Entry] = &[
    ("json", |bytes| drop(json::decode(bytes))),
    ("yaml", |bytes| drop(yaml::decode(bytes))),
    ("protobuf", |bytes| drop(protobuf::decode(bytes))),
    ("object", object),
    ("definition", definition),
    ("json_patch", |bytes| with_value(bytes, |patch| drop(patch::json(&pod(), patch)))),
    ("merge_patch", |bytes| with_value(bytes, |patch| drop(patch::merge(&pod(), patch)))),
    ("strategic_patch", |bytes| with_value(bytes, |patch| drop(patch::strategic(&pod(), patch, POD)))),
    ("cel", expression),
    ("words", words),
];

const POD: &str = "k8s.io/api/core/v1.Pod";

/// What patches are made to.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": ["f/a"]},
        "spec": {
            "containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]}, {"name": "b"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    })
}

fn with_value(bytes: &[u8], then: impl FnOnce(&Value)) {
    if let Ok(decoded) = json::decode(bytes) {
        then(&decoded.value);
    }
}

/// A body's whole way in: decoded, fitted to its type, defaulted, judged.
fn object(bytes: &[u8]) {
    with_value(bytes, |value| {
        let kind = value["kind"].as_str().unwrap_or("Pod");
        let catalog = Catalog::builtin();
        let Some(resource) = catalog.iter().find(|resource| resource.kind == kind) else { return };
        let mut value = value.clone();
        if check::check_object(&mut value, resource, false).is_err() {
            return;
        }
        defaults::apply(resource, &mut value);
        drop(validate::create(resource, &value));
        drop(validate::update(resource, &value, &value));
    });
}

/// A definition, and an object that it is then asked about.
fn definition(bytes: &[u8]) {
    with_value(bytes, |value| {
        let mut definition = value.clone();
        let catalog = Catalog::builtin();
        let Some(row) = catalog.by_name(custom::DEFINITIONS) else { return };
        if check::check_object(&mut definition, row, false).is_err() {
            return;
        }
        drop(validate::create(row, &definition));
        definition["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        for row in custom::rows(&definition) {
            let mut object = value.clone();
            drop(check::check_object(&mut object, &row, false));
            defaults::apply(&row, &mut object);
            drop(validate::create(&row, &object));
        }
    });
}

fn expression(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let pod = pod();
    if let Ok(program) = Program::parse(source) {
        drop(program.problem(&["self"], "bool"));
        drop(program.holds(Scope::default().with("self", &pod), &mut Run::new(100_000)));
    }
    drop(Structural::read(&json!({"type": "object", "x-kubernetes-validations": [{"rule": source}]})));
}

/// The small languages: paths, selectors, amounts, times, patterns.
fn words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    drop(path::parse(text));
    drop(LabelSelector::parse(text).map(|selector| selector.matches(&json!({"x": "y"}))));
    drop(FieldSelector::parse(text).map(|selector| selector.matches(&pod())));
    drop(Quantity::parse(text).map(|amount| amount.to_string()));
    let _ = time::parse_micros(text);
    let _ = time::parse_duration(text);
    drop(jsonpath::JsonPath::parse(text));
}

/// Runs the entry of that name.
#[allow(dead_code, reason = "one driver asks by name, the other takes all")]
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let entry = ENTRIES.iter().find(|(known, _)| *known == name).expect("a target is called like its entry");
    entry.1(bytes);
}
