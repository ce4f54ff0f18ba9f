//! Reading and building `metadata` on plain values.

use serde_json::{Map, Value, json};

use crate::object::Object;

/// `metadata.name`; empty when absent.
#[must_use]
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`; empty when absent.
#[must_use]
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`; empty when absent.
#[must_use]
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.<field>` as text; empty when absent.
#[must_use]
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// `metadata.labels`; null when absent, which every selector reads as no labels.
#[must_use]
pub fn labels(object: &Value) -> &Value {
    &object["metadata"]["labels"]
}

/// The value of one annotation.
#[must_use]
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"].get(name)?.as_str()
}

/// `metadata`, made when absent. Anything but an object in its place is replaced, and so is a non-object document.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    object_mut(object, "metadata")
}

/// `metadata.<field>` as a map (labels, annotations), made when absent.
pub fn metadata_map_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    object_mut(object_value(object, "metadata"), field)
}

/// The object at `field`, made when absent.
pub fn object_mut<'a>(parent: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    object_value(parent, field).as_object_mut().expect("object_value leaves an object")
}

fn object_value<'a>(parent: &'a mut Value, field: &str) -> &'a mut Value {
    if !parent.is_object() {
        *parent = json!({});
    }
    let slot = &mut parent[field];
    if !slot.is_object() {
        *slot = json!({});
    }
    slot
}

/// The condition of that type in `status.conditions`.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whether `status.conditions` has that type with status `True`.
#[must_use]
pub fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

/// An owner reference that makes `owner` the controller, as the built-in controllers write it.
///
/// `api_version` and `kind` are the owner's: stored objects need not repeat them.
#[must_use]
pub fn controlled_by(owner: &Object, api_version: &str, kind: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": owner.name(), "uid": owner.uid(),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// An owner reference that only ties the lifetime to `owner`.
#[must_use]
pub fn owned_by(owner: &Object, api_version: &str, kind: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": owner.name(), "uid": owner.uid()})
}

/// What generated names end with: no vowels, so that no words arise, and nothing easily mistaken for another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name for `generateName`: the base, cut to 58, and five characters chosen by random bytes.
///
/// Source: `k8s.io/apiserver/pkg/storage/names`.
#[must_use]
pub fn generate_name(base: &str, random: [u8; 5]) -> String {
    let end = base.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= 58).last().unwrap_or(0);
    let suffix = random.iter().map(|&byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
    base[..end].chars().chain(suffix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generate_name("web-", [0, 1, 26, 27, 255]), "web-bc9bq");
        assert_eq!(generate_name(&"x".repeat(80), [0; 5]).len(), 63);
    }

    #[test]
    fn maps_are_made_on_the_way() {
        let mut object = json!({"metadata": {"labels": null}});
        metadata_map_mut(&mut object, "labels").insert("a".into(), json!("b"));
        assert_eq!(object, json!({"metadata": {"labels": {"a": "b"}}}));
        assert_eq!(labels(&json!({})), &Value::Null);
    }
}
