//! What structural schemas are read as, and what they do to values.

use serde_json::json;

use super::*;

fn schema() -> Structural {
    Structural::of_objects(&json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["cronSpec"], "properties": {
            "cronSpec": {"type": "string", "pattern": r"^\d+ \d+$", "maxLength": 9},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
            "mode": {"type": "string", "enum": ["Fast", "Slow"]},
            "port": {"x-kubernetes-int-or-string": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                     "properties": {"known": {"type": "string"}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "maybe": {"type": "string", "nullable": true},
            "at": {"type": "string", "format": "date-time"},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                         "x-kubernetes-preserve-unknown-fields": true},
            "ports": {"type": "array", "maxItems": 2, "x-kubernetes-list-type": "map",
                      "x-kubernetes-list-map-keys": ["port"],
                      "items": {"type": "object", "required": ["port"], "properties": {
                          "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}}},
            "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                    "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        }},
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
    }}))
}

#[test]
fn what_the_schema_does_not_know_goes() {
    let mut object = json!({
        "apiVersion": "a/v1", "kind": "A", "metadata": {"name": "x", "colour": "red"}, "extra": 1,
        "spec": {"cronSpec": "1 2", "other": 1, "free": {"any": {"thing": 1}, "known": "k"}, "labels": {"a": "b"},
                 "template": {"apiVersion": "v1", "kind": "X", "metadata": {"name": "y", "no": 1}, "z": 1},
                 "ports": [{"port": 1, "x": 2}]},
    });
    let mut unknown = check(&mut object, &schema()).unwrap();
    unknown.sort();
    let expected = ["extra", "metadata.colour", "spec.other", "spec.ports[0].x", "spec.template.metadata.no"];
    assert_eq!(unknown, expected);
    assert_eq!(object["spec"]["free"], json!({"any": {"thing": 1}, "known": "k"}));
    assert_eq!(object["spec"]["template"]["z"], 1);
    assert!(check(&mut json!([]), &schema()).is_err());
    assert!(check(&mut json!({"metadata": {"name": 1}}), &schema()).is_err());
}

#[test]
fn defaults_reach_into_lists_and_spare_what_is_there() {
    let mut object = json!({"spec": {"replicas": null, "ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}]}});
    apply(&mut object, &schema());
    let ports = json!([{"port": 1, "protocol": "TCP"}, {"port": 2, "protocol": "UDP"}]);
    assert_eq!(object, json!({"spec": {"replicas": 1, "ports": ports}}));
}

#[test]
fn broken_rules_are_told_in_kubernetes_words() {
    let cases = [
        (json!({}), "spec: Required value"),
        (json!({"spec": {}}), "spec.cronSpec: Required value"),
        (
            json!({"spec": {"cronSpec": 5}}),
            r#"spec.cronSpec: Invalid value: "integer": spec.cronSpec in body must be of type string: "integer""#,
        ),
        (
            json!({"spec": {"cronSpec": "* *"}}),
            r#"spec.cronSpec: Invalid value: "* *": spec.cronSpec in body should match '^\d+ \d+$'"#,
        ),
        (json!({"spec": {"cronSpec": "12345 12345"}}), "spec.cronSpec: Too long: may not be more than 9 bytes"),
        (
            json!({"spec": {"cronSpec": "1 2", "replicas": 0}}),
            "spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1",
        ),
        (
            json!({"spec": {"cronSpec": "1 2", "replicas": 11}}),
            "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ),
        (
            json!({"spec": {"cronSpec": "1 2", "mode": "Odd"}}),
            r#"spec.mode: Unsupported value: "Odd": supported values: "Fast", "Slow""#,
        ),
        (
            json!({"spec": {"cronSpec": "1 2", "port": true}}),
            r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
        ),
        (
            json!({"spec": {"cronSpec": "1 2", "at": "noon"}}),
            r#"spec.at: Invalid value: "noon": spec.at in body must be of type date-time: "noon""#,
        ),
        (
            json!({"spec": {"cronSpec": "1 2", "ports": [{"port": 1}, {"port": 1}]}}),
            r#"spec.ports[1]: Duplicate value: {"port":1}"#,
        ),
        (
            json!({"spec": {"cronSpec": "1 2", "ports": [{"port": 1}, {"port": 2}, {"port": 3}]}}),
            "spec.ports: Too many: 3: must have at most 2 items",
        ),
        (
            json!({"spec": {"cronSpec": "1 2", "one": {}}}),
            "spec.one: Invalid value: {}: spec.one in body must validate one and only one schema (oneOf)",
        ),
        (
            json!({"spec": {"cronSpec": "1 2", "labels": {"a": 1}}}),
            r#"spec.labels.a: Invalid value: "integer": spec.labels.a in body must be of type string: "integer""#,
        ),
    ];
    for (object, expected) in cases {
        let told: Vec<String> =
            causes(&object, &schema()).into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        assert_eq!(told, [expected], "{object}");
    }
    let good = json!({"apiVersion": "a/v1", "metadata": {}, "spec": {"cronSpec": "1 2", "maybe": null, "port": "http",
        "one": {"a": "x"}, "at": "2024-01-01T00:00:00Z", "ports": [{"port": 1}, {"port": 2}]}});
    assert_eq!(causes(&good, &schema()), []);
}
