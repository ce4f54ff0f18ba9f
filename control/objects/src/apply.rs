//! The four walks of server-side apply over a value and its schema (KEP-555): which fields a value has, how two
//! values differ, a value with another laid over it, a value without some fields. Pure.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::fields::FieldSet;
use crate::shape::Shape;

/// Every field that a value has.
pub(crate) fn fields_of(shape: Shape<'_>, value: &Value) -> FieldSet {
    let Some(parts) = shape.parts(value).filter(|parts| !parts.is_empty()) else { return FieldSet::leaf() };
    let mut set = FieldSet::default();
    for (edge, part, value) in parts {
        set.put(edge, owned(shape, part, value));
    }
    set
}

fn owned(parent: Shape<'_>, part: Shape<'_>, value: &Value) -> FieldSet {
    let mut set = fields_of(part, value);
    if parent.owns_parts() {
        set.mark();
    }
    set
}

/// How a value differs from the one before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Fields that are new or have another value.
    pub(crate) changed: FieldSet,
    /// Fields that are gone.
    pub(crate) removed: FieldSet,
}

/// Compares two versions. The order of items that have keys is no difference.
pub(crate) fn compare(shape: Shape<'_>, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    if old == new {
        return difference;
    }
    let (Some(before), Some(after)) = (shape.parts(old), shape.parts(new)) else {
        difference.changed = fields_of(shape, new);
        difference.removed = fields_of(shape, old).minus(&difference.changed);
        return difference;
    };
    let mut before: HashMap<String, (Shape<'_>, &Value)> =
        before.into_iter().map(|(edge, part, value)| (edge, (part, value))).collect();
    for (edge, part, value) in after {
        match before.remove(&edge) {
            Some((_, old)) if old == value => {}
            Some((_, old)) => {
                let inner = compare(part, old, value);
                difference.changed.put(edge.clone(), inner.changed);
                difference.removed.put(edge, inner.removed);
            }
            None => difference.changed.put(edge, owned(shape, part, value)),
        }
    }
    for (edge, (part, value)) in before {
        difference.removed.put(edge, owned(shape, part, value));
    }
    difference
}

/// The live value with what was applied laid over it.
///
/// Items that were applied come in the order they were applied in; the others stay behind the item they followed.
pub(crate) fn merge(shape: Shape<'_>, live: &Value, applied: &Value) -> Value {
    match (shape, live, applied) {
        (shape, Value::Object(old), Value::Object(new)) if shape.has_fields() => {
            let mut merged = old.clone();
            for (name, value) in new {
                let value = match old.get(name) {
                    Some(old) => merge(shape.field(name), old, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (shape, Value::Array(old), Value::Array(new)) if shape.has_items() => merge_items(shape, old, new),
        _ => applied.clone(),
    }
}

fn merge_items(shape: Shape<'_>, old: &[Value], new: &[Value]) -> Value {
    let edges = |items: &[Value]| items.iter().map(|item| shape.edge(item)).collect::<Option<Vec<String>>>();
    let (Some(had), Some(applied)) = (edges(old), edges(new)) else { return Value::Array(new.to_vec()) };
    let mut merged = Vec::with_capacity(old.len() + new.len());
    let mut next = 0;
    let mut take_through = |merged: &mut Vec<Value>, end: usize| {
        for index in next..end {
            let before = had.iter().position(|edge| *edge == applied[index]);
            merged.push(before.map_or_else(|| new[index].clone(), |at| merge(shape.item(), &old[at], &new[index])));
        }
        next = next.max(end);
    };
    for (edge, item) in had.iter().zip(old) {
        match applied.iter().position(|other| other == edge) {
            Some(index) => take_through(&mut merged, index + 1),
            None => merged.push(item.clone()),
        }
    }
    take_through(&mut merged, new.len());
    Value::Array(merged)
}

/// The value without the members of a set; `None` when nothing is left. An item that stays keeps its keys.
pub(crate) fn remove(shape: Shape<'_>, value: &Value, set: &FieldSet) -> Option<Value> {
    match (shape, value) {
        (shape, Value::Object(fields)) if shape.has_fields() => {
            let mut left = Map::new();
            for (name, value) in fields {
                if let Some(value) = without(shape.field(name), value, set.child(&format!("f:{name}"))) {
                    left.insert(name.clone(), value);
                }
            }
            (!left.is_empty() || fields.is_empty()).then_some(Value::Object(left))
        }
        (shape, Value::Array(items)) if shape.has_items() => {
            let mut left = Vec::with_capacity(items.len());
            for item in items {
                let below = shape.edge(item).and_then(|edge| set.child(&edge));
                match (without(shape.item(), item, below), item) {
                    (Some(kept), _) => left.push(with_keys(shape, kept, item)),
                    (None, _) if below.is_some_and(FieldSet::is_member) => {}
                    (None, item) => left.push(with_keys(shape, Value::Object(Map::new()), item)),
                }
            }
            (!left.is_empty() || items.is_empty()).then_some(Value::Array(left))
        }
        _ => Some(value.clone()),
    }
}

fn without(shape: Shape<'_>, value: &Value, set: Option<&FieldSet>) -> Option<Value> {
    match set {
        None => Some(value.clone()),
        Some(set) if set.is_member() => None,
        Some(set) => remove(shape, value, set),
    }
}

fn with_keys(shape: Shape<'_>, mut kept: Value, item: &Value) -> Value {
    if let (Some(kept), Some(item)) = (kept.as_object_mut(), item.as_object()) {
        for (name, value) in item.iter().filter(|(name, _)| shape.is_key(name)) {
            kept.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Shape<'static> {
        Shape::of_message("k8s.io/api/core/v1.Pod")
    }

    #[test]
    fn fields_follow_the_schema() {
        let value = json!({
            "metadata": {"labels": {"app": "web"}, "finalizers": ["a/b"]},
            "spec": {
                "nodeSelector": {"zone": "a"},
                "containers": [{"name": "web", "args": ["x"], "ports": [{"containerPort": 80}]}],
            },
        });
        let expected = json!({
            "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {"v:\"a/b\"": {}}},
            "f:spec": {
                "f:nodeSelector": {},
                "f:containers": {"k:{\"name\":\"web\"}": {
                    ".": {}, "f:name": {}, "f:args": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                }},
            },
        });
        assert_eq!(fields_of(pod(), &value).encode(), expected);
    }

    #[test]
    fn differences_are_found_where_they_are() {
        let old = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b"}], "hostname": "h"}});
        let new = json!({"spec": {"containers": [{"name": "c"}, {"name": "a", "image": "x:2"}]}});
        let difference = compare(pod(), &old, &new);
        assert_eq!(
            difference.changed.encode(),
            json!({"f:spec": {"f:containers": {
                "k:{\"name\":\"a\"}": {"f:image": {}}, "k:{\"name\":\"c\"}": {".": {}, "f:name": {}},
            }}})
        );
        assert_eq!(
            difference.removed.encode(),
            json!({"f:spec": {"f:hostname": {}, "f:containers": {"k:{\"name\":\"b\"}": {".": {}, "f:name": {}}}}})
        );
        let turned = json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "image": "x:1"}], "hostname": "h"}});
        assert_eq!(compare(pod(), &old, &turned), Difference::default());
    }

    #[test]
    fn merged_lists_keep_a_sensible_order() {
        let names = |value: &Value| -> String {
            let items = value["spec"]["containers"].as_array().unwrap();
            items.iter().filter_map(|item| item["name"].as_str()).collect()
        };
        let list = |names: &str| {
            let items: Vec<Value> = names.chars().map(|name| json!({"name": name.to_string()})).collect();
            json!({"spec": {"containers": items}})
        };
        for (live, applied, merged) in
            [("ab", "b", "ab"), ("ab", "ba", "ba"), ("abc", "ca", "cab"), ("ab", "xb", "axb"), ("", "xy", "xy")]
        {
            assert_eq!(names(&merge(pod(), &list(live), &list(applied))), merged, "{live} + {applied}");
        }
    }

    #[test]
    fn what_is_removed_leaves_no_empty_shell() {
        let value = json!({
            "metadata": {"labels": {"a": "1"}, "annotations": {}},
            "spec": {"containers": [{"name": "web", "image": "x"}, {"name": "side"}]},
        });
        let set = FieldSet::decode_root(&json!({
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:containers": {
                "k:{\"name\":\"web\"}": {"f:image": {}, "f:name": {}}, "k:{\"name\":\"side\"}": {".": {}},
            }},
        }));
        let left = remove(pod(), &value, &set.unwrap()).unwrap();
        assert_eq!(left, json!({"metadata": {"annotations": {}}, "spec": {"containers": [{"name": "web"}]}}));
    }
}
