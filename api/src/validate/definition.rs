//! The rules of CustomResourceDefinitions: names, versions, and schemas that are structural.
//!
//! Source: `apiextensions-apiserver/pkg/apis/apiextensions/validation` and `pkg/apiserver/schema`.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Report, expressions, items, members, names, text};
use crate::catalog::Catalog;
use crate::jsonpath::JsonPath;
use crate::{meta, structural};

/// The annotation that names the approval of an API in one of Kubernetes' groups.
const APPROVED: &str = "api-approved.kubernetes.io";

/// The words of a schema that structural ones may not use.
const FORBIDDEN: [&str; 8] = [
    "$ref",
    "additionalItems",
    "definitions",
    "dependencies",
    "patternProperties",
    "deprecated",
    "readOnly",
    "discriminator",
];

pub(super) fn check(object: &Value, report: &mut Report) {
    let spec = &object["spec"];
    let group = text(spec, "group");
    report.present("spec.group", &spec["group"]);
    report.named_if("spec.group", &spec["group"], names::subdomain);
    if !group.is_empty() && !group.contains('.') {
        report.invalid("spec.group", &spec["group"], "should be a domain with at least one dot");
    }
    report.present("spec.scope", &spec["scope"]);
    report.one_of("spec.scope", &spec["scope"], &["Cluster", "Namespaced"]);
    check_names(spec, report);
    check_protected(object, group, report);
    let wanted = format!("{}.{group}", text(&spec["names"], "plural"));
    if !group.is_empty() && meta::name(object) != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        report.invalid("metadata.name", &json!(meta::name(object)), detail);
    }
    report.one_of("spec.conversion.strategy", &spec["conversion"]["strategy"], &["None"]);
    if spec["preserveUnknownFields"] == true {
        report.invalid(
            "spec.preserveUnknownFields",
            &json!(true),
            "must be false in order to use defaults in the schema",
        );
    }
    check_versions(spec, report);
    let known: Vec<&str> = items(&spec["versions"]).map(|version| text(version, "name")).collect();
    for (index, stored) in items(&object["status"]["storedVersions"]).enumerate() {
        if !stored.as_str().is_some_and(|stored| known.contains(&stored)) {
            report.invalid(format!("status.storedVersions[{index}]"), stored, "missing from spec.versions");
        }
    }
}

/// Groups of Kubernetes' own take what the project approved; what is built in is not defined again.
fn check_protected(object: &Value, group: &str, report: &mut Report) {
    let protected = [".k8s.io", ".kubernetes.io"].iter().any(|end| group.ends_with(end));
    if protected && meta::annotation(object, APPROVED).is_none_or(str::is_empty) {
        let detail = format!("protected groups must have approval annotation {APPROVED:?}");
        report.required(format!("metadata.annotations[{APPROVED}]"), &detail);
    }
    if Catalog::builtin().by_name(meta::name(object)).is_some() {
        report.invalid("metadata.name", &json!(meta::name(object)), "this resource is built in");
    }
}

pub(super) fn check_update(old: &Value, new: &Value, report: &mut Report) {
    report.immutable("spec.group", &old["spec"]["group"], &new["spec"]["group"]);
    report.immutable("spec.names.plural", &old["spec"]["names"]["plural"], &new["spec"]["names"]["plural"]);
    if meta::is_true(old, "Established") {
        report.immutable("spec.scope", &old["spec"]["scope"], &new["spec"]["scope"]);
        report.immutable("spec.names.kind", &old["spec"]["names"]["kind"], &new["spec"]["names"]["kind"]);
    }
}

fn check_names(spec: &Value, report: &mut Report) {
    let own = &spec["names"];
    for field in ["plural", "singular", "kind", "listKind"] {
        report.present(format!("spec.names.{field}"), &own[field]);
        // A kind is a label but for its capitals.
        let lower = json!(text(own, field).to_lowercase());
        let value = if field == "kind" || field == "listKind" { &lower } else { &own[field] };
        report.named_if(&format!("spec.names.{field}"), value, names::letter_label);
    }
    for list in ["shortNames", "categories"] {
        for (index, name) in items(&own[list]).enumerate() {
            report.named_if(&format!("spec.names.{list}[{index}]"), name, names::letter_label);
        }
    }
    if text(own, "kind") == text(own, "listKind") && !text(own, "kind").is_empty() {
        report.invalid("spec.names.listKind", &own["listKind"], "kind and listKind may not be the same");
    }
}

fn check_versions(spec: &Value, report: &mut Report) {
    let mut seen = HashSet::new();
    for (index, version) in items(&spec["versions"]).enumerate() {
        let field = format!("spec.versions[{index}]");
        report.present(format!("{field}.name"), &version["name"]);
        report.named_if(&format!("{field}.name"), &version["name"], names::letter_label);
        if !seen.insert(text(version, "name")) {
            report.duplicate(format!("{field}.name"), &version["name"]);
        }
        let (schema, path) = (&version["schema"]["openAPIV3Schema"], format!("{field}.schema.openAPIV3Schema"));
        if schema.is_object() {
            if schema["type"] != "object" {
                report.invalid(format!("{path}.type"), &schema["type"], "must be object at the root");
            }
            check_schema(schema, &path, true, report);
            expressions::check(schema, &path, report);
        } else {
            report.required(path, "schemas are required");
        }
        check_paths(version, &field, report);
    }
    let stored = items(&spec["versions"]).filter(|version| version["storage"] == true).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        report.invalid("spec.versions", &spec["versions"], detail);
    }
}

/// Columns, scale and selectable fields look into objects.
fn check_paths(version: &Value, field: &str, report: &mut Report) {
    for (index, column) in items(&version["additionalPrinterColumns"]).enumerate() {
        let field = format!("{field}.additionalPrinterColumns[{index}]");
        report.present(format!("{field}.name"), &column["name"]);
        let types = ["boolean", "date", "integer", "number", "string"];
        report.one_of(format!("{field}.type"), &column["type"], &types);
        check_path(&column["jsonPath"], &format!("{field}.jsonPath"), "", report);
    }
    for (index, selectable) in items(&version["selectableFields"]).enumerate() {
        check_path(&selectable["jsonPath"], &format!("{field}.selectableFields[{index}].jsonPath"), ".", report);
    }
    let scale = &version["subresources"]["scale"];
    if scale.is_object() {
        let field = format!("{field}.subresources.scale");
        check_path(&scale["specReplicasPath"], &format!("{field}.specReplicasPath"), ".spec", report);
        check_path(&scale["statusReplicasPath"], &format!("{field}.statusReplicasPath"), ".status", report);
        if !scale["labelSelectorPath"].is_null() {
            check_path(&scale["labelSelectorPath"], &format!("{field}.labelSelectorPath"), ".s", report);
        }
    }
}

fn check_path(path: &Value, field: &str, home: &str, report: &mut Report) {
    report.present(field, path);
    let given = path.as_str().unwrap_or_default();
    let simple = JsonPath::parse(given).is_some_and(|path| home.is_empty() || path.names().is_some());
    if !given.is_empty() && (!simple || !given.starts_with(home)) {
        report.invalid(field, path, "must be a simple json path to a field of the object");
    }
}

/// Whether a schema is structural: every place has a type, and only the places of the object itself say what it is.
fn check_schema(schema: &Value, path: &str, root: bool, report: &mut Report) {
    let flag = |name: &str| schema[name] == true;
    let either = flag("x-kubernetes-int-or-string");
    match (schema["type"].as_str().unwrap_or_default(), either || flag("x-kubernetes-preserve-unknown-fields")) {
        ("", false) => report.required(format!("{path}.type"), "must not be empty for specified object fields"),
        ("", true) | ("object" | "array" | "string" | "integer" | "number" | "boolean", _) => {}
        _ => {
            let known = ["array", "boolean", "integer", "number", "object", "string"];
            report.one_of(format!("{path}.type"), &schema["type"], &known);
        }
    }
    for word in FORBIDDEN.iter().filter(|word| !schema[**word].is_null()) {
        report.forbidden(format!("{path}.{word}"), &format!("{word} is not supported"));
    }
    if flag("uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        report.forbidden(format!("{path}.uniqueItems"), detail);
    }
    if let Some(Err(why)) = schema["pattern"].as_str().map(structural::pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        report.invalid(format!("{path}.pattern"), &schema["pattern"], &detail);
    }
    check_list(schema, path, report);
    let additional = &schema["additionalProperties"];
    if additional.is_object() || additional == true {
        if schema["properties"].as_object().is_some_and(|properties| !properties.is_empty()) {
            report.forbidden(
                format!("{path}.additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            );
        }
        if root {
            report.forbidden(format!("{path}.additionalProperties"), "additionalProperties cannot be used at the root");
        }
    }
    if additional.is_object() {
        check_schema(additional, &format!("{path}.additionalProperties"), false, report);
    }
    for (name, property) in members(&schema["properties"]) {
        // The types of these are the API's own; a schema may only narrow them.
        if !(root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata")) {
            check_schema(property, &format!("{path}.properties[{name}]"), false, report);
        }
    }
    if schema["items"].is_object() {
        check_schema(&schema["items"], &format!("{path}.items"), false, report);
    }
    if let Some(default) = schema.get("default").filter(|default| !(default.is_null() && flag("nullable"))) {
        // What a default leaves out has defaults too.
        let (mut whole, schema) = (default.clone(), structural::Structural::read_types(schema));
        structural::apply(&mut whole, &schema);
        for cause in structural::causes(&whole, &schema) {
            report.invalid(format!("{path}.default"), default, &cause.message);
        }
    }
}

fn check_list(schema: &Value, path: &str, report: &mut Report) {
    if schema["type"] == "array" && !schema["items"].is_object() {
        report.required(format!("{path}.items"), "must be specified");
    }
    let type_ = &schema["x-kubernetes-list-type"];
    report.one_of(format!("{path}.x-kubernetes-list-type"), type_, &["atomic", "map", "set"]);
    report.one_of(format!("{path}.x-kubernetes-map-type"), &schema["x-kubernetes-map-type"], &["atomic", "granular"]);
    let keys: Vec<&str> = items(&schema["x-kubernetes-list-map-keys"]).filter_map(Value::as_str).collect();
    let field = format!("{path}.x-kubernetes-list-map-keys");
    if type_ != "map" {
        if !keys.is_empty() {
            report.forbidden(field, "only allowed if x-kubernetes-list-type is map");
        }
        return;
    }
    if keys.is_empty() {
        report.required(field, "must not be empty if x-kubernetes-list-type is map");
        return;
    }
    let of_items = &schema["items"];
    let required: Vec<&str> = items(&of_items["required"]).filter_map(Value::as_str).collect();
    for (index, key) in keys.iter().enumerate() {
        let property = &of_items["properties"][*key];
        if property.is_null() {
            report.invalid(format!("{field}[{index}]"), &json!(key), "entries must all be names of item properties");
        } else if property["default"].is_null() && !required.contains(key) {
            let detail = format!("this property is in {field}, so it must have a default or be a required property");
            report.required(format!("{path}.items.properties[{key}].default"), &detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = json!({
            "metadata": {"name": "crontabs.stable.example.com"},
            "spec": {
                "group": "stable.example.com", "scope": "Namespaced", "conversion": {"strategy": "None"},
                "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": {"type": "object", "properties": {
                        "free": {"x-kubernetes-preserve-unknown-fields": true},
                        "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                    }}},
                }}}],
            },
        });
        change(&mut object);
        let mut report = Report::default();
        check(&object, &mut report);
        report.0.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn a_definition_is_structural_and_called_what_it_defines() {
        assert_eq!(definition(|_| {}), [""; 0]);
        let spec = "spec.versions[0].schema.openAPIV3Schema.properties[spec]";
        let set = |path: &'static str, value: Value| {
            definition(|object| {
                let path = path.replace("$SPEC", "/spec/versions/0/schema/openAPIV3Schema/properties/spec");
                let (parent, name) = path.rsplit_once('/').unwrap();
                object.pointer_mut(parent).unwrap()[name] = value;
            })
        };
        let cases = [
            (
                set("/metadata/name", json!("tabs.x")),
                "metadata.name: Invalid value: \"tabs.x\": must be spec.names.plural".into(),
            ),
            (set("/spec/scope", json!("Galaxy")), "spec.scope: Unsupported value: \"Galaxy\"".into()),
            (set("/spec/conversion/strategy", json!("Webhook")), "spec.conversion.strategy: Unsupported value".into()),
            (set("/spec/versions/0/storage", json!(false)), "spec.versions: Invalid value".into()),
            (set("$SPEC/type", json!("")), format!("{spec}.type: Required value: must not be empty")),
            (set("$SPEC/type", json!("map")), format!("{spec}.type: Unsupported value: \"map\"")),
            (
                set("$SPEC/properties/a", json!({"type": "array"})),
                format!("{spec}.properties[a].items: Required value"),
            ),
            (
                set("$SPEC/properties/a", json!({"type": "string", "pattern": "("})),
                format!("{spec}.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression"),
            ),
            (
                set("$SPEC/properties/a", json!({"type": "integer", "default": "x"})),
                format!("{spec}.properties[a].default: Invalid value: \"x\""),
            ),
            (
                set(
                    "$SPEC/properties/a",
                    json!({"type": "array", "x-kubernetes-list-type": "map",
                    "items": {"type": "object", "properties": {"k": {"type": "string"}}},
                    "x-kubernetes-list-map-keys": ["k"]}),
                ),
                format!("{spec}.properties[a].items.properties[k].default: Required value"),
            ),
        ];
        for (told, expected) in cases {
            assert!(told.iter().any(|told| told.starts_with(&expected)), "{expected} in {told:?}");
        }
        let deep = json!({"type": "object", "default": {}, "required": ["k"],
            "properties": {"k": {"type": "string", "default": "x"}}});
        assert_eq!(set("$SPEC/properties/a", deep), [""; 0]);
        let protected = definition(|object| {
            object["metadata"]["name"] = json!("crontabs.x.k8s.io");
            object["spec"]["group"] = json!("x.k8s.io");
        });
        assert_eq!(protected.len(), 1, "{protected:?}");
    }
}
