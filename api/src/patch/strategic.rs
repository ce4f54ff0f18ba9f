//! Strategic merge patch: lists merge by key, as the field table says.
//!
//! Source: `k8s.io/apimachinery/pkg/util/strategicpatch`, with the server's options (parallel lists are merged, nulls
//! without a counterpart are ignored). The directives are `$patch: merge|replace|delete`, `$retainKeys`,
//! `$setElementOrder/FIELD` and `$deleteFromPrimitiveList/FIELD`. Only types of the table can be patched this way.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value};

use crate::schema::{Field, Message, Schema, Shape};
use crate::status::Status;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch to an object of the named message.
///
/// # Errors
/// 400 when the patch is not an object or a directive is malformed, 500 when the message is unknown.
pub fn strategic(target: &Value, patch: &Value, message: &str) -> Result<Value, Status> {
    let Some(message) = Schema::builtin().message(message) else {
        return Err(Status::internal(format!("no message {message} in the schema")));
    };
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            merge_map(target.clone(), patch, Some(message)).map(Value::Object).map_err(Status::bad_request)
        }
        _ => Err(Status::bad_request("a strategic merge patch must be an object")),
    }
}

type Object = Map<String, Value>;

fn merge_map(mut original: Object, patch: &Object, message: Option<&Message>) -> Result<Object, String> {
    match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
        Some("replace") => return Ok(plain_map(patch)),
        Some("delete") => return Ok(Object::new()),
        Some("merge") | None => {}
        Some(_) => return Err(format!("unknown patch type found: {}", patch[PATCH])),
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        retain(&mut original, patch, retained)?;
    }
    for (name, value) in patch {
        if name == PATCH || name == RETAIN_KEYS {
            continue;
        }
        if let Some(name) = name.strip_prefix(DELETE_FROM) {
            delete_from(&mut original, name, value)?;
            continue;
        }
        if let Some(name) = name.strip_prefix(ELEMENT_ORDER) {
            // With the field itself in the patch, the order is set where the lists are merged.
            if !patch.contains_key(name)
                && let Some(Value::Array(list)) = original.get_mut(name)
            {
                let server = list.clone();
                let order = list_of(value, ELEMENT_ORDER)?;
                *list = in_order(std::mem::take(list), order, &server, merge_key(message, name));
            }
            continue;
        }
        if value.is_null() {
            original.remove(name);
            continue;
        }
        let field = message.and_then(|message| message.field(name));
        let merged = match original.remove(name) {
            None => plain(value),
            Some(old) => Some(merge_value(old, value, field, patch.get(&format!("{ELEMENT_ORDER}{name}")))?),
        };
        original.extend(merged.map(|merged| (name.clone(), merged)));
    }
    Ok(original)
}

fn merge_value(old: Value, new: &Value, field: Option<&Field>, order: Option<&Value>) -> Result<Value, String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            if field.is_some_and(|field| field.replace) {
                return Ok(Value::Object(plain_map(new)));
            }
            let of_messages = field.filter(|field| field.shape == Shape::One).and_then(Field::message);
            let message = of_messages.and_then(|name| Schema::builtin().message(name));
            merge_map(old, new, message).map(Value::Object)
        }
        (Value::Array(old), Value::Array(new)) if field.is_some_and(|field| field.merge) => {
            let field = field.expect("the guard has seen it");
            let key = field.merge_key.as_deref();
            let message = field.message().and_then(|name| Schema::builtin().message(name));
            let server = old.clone();
            let merged = match key {
                Some(key) => merge_list(old, new, key, message)?,
                None => merge_scalars(old, new),
            };
            let mut merged = in_order(merged, new, &server, key);
            if let Some(order) = order {
                let order = list_of(order, ELEMENT_ORDER)?;
                check_order(new, order, key)?;
                merged = in_order(merged, order, &server, key);
            }
            Ok(Value::Array(merged))
        }
        (_, new) => Ok(plain(new).unwrap_or_default()),
    }
}

fn merge_key<'a>(message: Option<&'a Message>, name: &str) -> Option<&'a str> {
    message?.field(name)?.merge_key.as_deref()
}

/// `$retainKeys`: the union's other members go.
fn retain(original: &mut Object, patch: &Object, retained: &Value) -> Result<(), String> {
    let Some(retained) = retained.as_array() else { return Err("invalid $retainKeys: not a list".to_owned()) };
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let listed = |name: &str| retained.contains(name);
    let stray = patch.iter().find(|(name, value)| !name.starts_with('$') && !value.is_null() && !listed(name));
    if let Some((name, _)) = stray {
        return Err(format!("$retainKeys should contain all keys present in the patch: {name} is missing"));
    }
    original.retain(|name, _| listed(name));
    Ok(())
}

fn delete_from(original: &mut Object, name: &str, gone: &Value) -> Result<(), String> {
    let Some(gone) = gone.as_array() else { return Err(format!("{DELETE_FROM}{name} is not a list")) };
    if let Some(Value::Array(list)) = original.get_mut(name) {
        let gone: HashSet<&Value> = gone.iter().collect();
        list.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn merge_scalars(mut old: Vec<Value>, new: &[Value]) -> Vec<Value> {
    let mut known: HashSet<Value> = old.iter().cloned().collect();
    old.extend(new.iter().filter(|item| known.insert((*item).clone())).cloned());
    old
}

fn merge_list(mut old: Vec<Value>, new: &[Value], key: &str, message: Option<&Message>) -> Result<Vec<Value>, String> {
    if new.iter().any(|item| item[PATCH] == "replace") {
        return Ok(new.iter().filter_map(plain).collect());
    }
    let mut items = Vec::with_capacity(new.len());
    let mut gone = HashSet::new();
    for item in new {
        let Value::Object(item) = item else { return Err(format!("an element with merge key {key} is not an object")) };
        let Some(id) = item.get(key) else {
            return Err(format!("map: {} does not contain declared merge key: {key}", Value::Object(item.clone())));
        };
        if item.get(PATCH).is_some_and(|directive| directive == "delete") {
            gone.insert(id);
        } else {
            items.push((id, item));
        }
    }
    old.retain(|item| item.get(key).is_none_or(|id| !gone.contains(id)));
    let mut places = places(&old, Some(key));
    for (id, item) in items {
        match places.get(id) {
            Some(&index) => {
                if let Value::Object(object) = old[index].take() {
                    old[index] = Value::Object(merge_map(object, item, message)?);
                }
            }
            None => {
                places.insert(id.clone(), old.len());
                old.push(Value::Object(plain_map(item)));
            }
        }
    }
    Ok(old)
}

/// What tells an element from others: its key, or the scalar itself.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    key.map_or(Some(item), |key| item.get(key))
}

/// Where each element first stands.
fn places(list: &[Value], key: Option<&str>) -> HashMap<Value, usize> {
    let mut places = HashMap::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        if let Some(id) = identity(item, key) {
            places.entry(id.clone()).or_insert(index);
        }
    }
    places
}

/// The listed elements in that order (a patch's own, or that of `$setElementOrder`); those only the server knows keep
/// their place among them.
///
/// Server `[a, b, c]`, wanted `[c, a]`: `b` stood after `a` and before `c`. The walk takes `c` only once `b` is out, so
/// the outcome is `[b, c, a]`.
fn in_order(merged: Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let (order, server) = (places(order, key), places(server, key));
    let rank = |places: &HashMap<Value, usize>, item: &Value| places.get(identity(item, key)?).copied();
    let (mut wanted, rest): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| rank(&order, item).is_some());
    wanted.sort_by_cached_key(|item| rank(&order, item));
    let mut rest: VecDeque<Value> = rest.into();
    let mut out = Vec::with_capacity(wanted.len() + rest.len());
    for item in wanted {
        while let Some(other) = rest.front() {
            match (rank(&server, &item), rank(&server, other)) {
                (Some(item), Some(other)) if other < item => out.extend(rest.pop_front()),
                _ => break,
            }
        }
        out.push(item);
    }
    out.extend(rest);
    out
}

/// What a patch says about elements must come in the order it asks for.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), String> {
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(PATCH).is_none()) {
        if !rest.any(|wanted| identity(wanted, key) == identity(item, key)) {
            return Err(format!("the order in the patch list doesn't match {ELEMENT_ORDER}: {item}"));
        }
    }
    Ok(())
}

fn list_of<'a>(value: &'a Value, directive: &str) -> Result<&'a [Value], String> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{directive} is not a list"))
}

/// A value of the patch that meets nothing in the object: nulls and directives do not become part of it, and a struct
/// with a `$patch` of its own is not there at all.
fn plain(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Object(map) if map.contains_key(PATCH) => return None,
        Value::Object(map) => Value::Object(plain_map(map)),
        Value::Array(items) => Value::Array(items.iter().filter_map(plain).collect()),
        other => other.clone(),
    })
}

fn plain_map(map: &Object) -> Object {
    let is_directive = |name: &str| {
        matches!(name, PATCH | RETAIN_KEYS) || name.starts_with(ELEMENT_ORDER) || name.starts_with(DELETE_FROM)
    };
    let kept = map.iter().filter(|(name, value)| !is_directive(name) && !value.is_null());
    kept.filter_map(|(name, value)| Some((name.clone(), plain(value)?))).collect()
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "tables of literals read better without borrows")]
mod tests {
    use super::*;
    use serde_json::json;

    const POD: &str = "k8s.io/api/core/v1.Pod";

    fn spec(target: Value, patch: Value) -> Value {
        let (target, patch) = (json!({"spec": target}), json!({"spec": patch}));
        strategic(&target, &patch, POD).unwrap()["spec"].clone()
    }

    #[test]
    fn lists_merge_by_key() {
        let target = json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]});
        let patch = json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}, {"name": "a", "args": ["y"]}]});
        let expected = json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}, {"name": "a", "image": "1", "args": ["y"]}]});
        assert_eq!(spec(target, patch), expected);
    }

    #[test]
    fn elements_are_deleted_and_lists_replaced() {
        let target = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let delete = json!({"containers": [{"name": "a", "$patch": "delete"}]});
        assert_eq!(spec(target.clone(), delete), json!({"containers": [{"name": "b"}]}));
        let replace = json!({"containers": [{"name": "c"}, {"$patch": "replace"}]});
        assert_eq!(spec(target.clone(), replace), json!({"containers": [{"name": "c"}]}));
        assert_eq!(spec(target, json!({"$patch": "replace", "nodeName": "n"})), json!({"nodeName": "n"}));
    }

    #[test]
    fn order_is_kept_with_what_only_the_server_knows() {
        let names = |value: &Value| -> Vec<String> {
            value["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
        };
        let target = json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
        let order = |names: &[&str]| -> Value { names.iter().map(|name| json!({"name": name})).collect() };
        let patch = json!({"$setElementOrder/containers": order(&["c", "a"])});
        assert_eq!(names(&spec(target.clone(), patch)), ["b", "c", "a"]);
        let patch = json!({"$setElementOrder/containers": order(&["new", "a"]), "containers": [{"name": "new"}]});
        assert_eq!(names(&spec(target, patch)), ["new", "a", "b", "c"]);
    }

    #[test]
    fn unions_drop_the_other_member() {
        let target = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
        let patch =
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]});
        assert_eq!(spec(target, patch), json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}));
        let target = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        let merged = strategic(&target, &patch, "k8s.io/api/apps/v1.Deployment").unwrap();
        assert_eq!(merged["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    #[test]
    fn lists_of_text_are_sets() {
        let target = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"finalizers": ["c", "b"], "$deleteFromPrimitiveList/finalizers": ["a"]}});
        assert_eq!(strategic(&target, &patch, POD).unwrap()["metadata"]["finalizers"], json!(["c", "b"]));
    }

    #[test]
    fn nulls_delete_and_leave_no_trace() {
        let target = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        let patch = json!({"metadata": {"labels": {"a": null, "c": null}, "annotations": {"x": null, "y": "z"}}});
        let expected = json!({"metadata": {"labels": {"b": "2"}, "annotations": {"y": "z"}}});
        assert_eq!(strategic(&target, &patch, POD).unwrap(), expected);
    }

    #[test]
    fn a_lists_without_a_strategy_is_replaced() {
        let target = json!({"tolerations": [{"key": "a"}, {"key": "b"}]});
        assert_eq!(spec(target, json!({"tolerations": [{"key": "c"}]})), json!({"tolerations": [{"key": "c"}]}));
        let target = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
        let patch = json!({"spec": {"selector": {"matchLabels": {"c": "d"}}}});
        let merged = strategic(&target, &patch, "k8s.io/api/policy/v1.PodDisruptionBudget").unwrap();
        assert_eq!(merged["spec"]["selector"], json!({"matchLabels": {"c": "d"}}));
    }

    /// kubectl carries upstream's own code, so it is the oracle.
    #[test]
    fn kubectl_agrees() {
        let mut records = include_str!("kubectl-1.33.txt").split("\n\n").skip(1).peekable();
        assert!(records.peek().is_some());
        for record in records {
            let mut lines = record.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let (target, patch, expected) = (lines.next().unwrap(), lines.next().unwrap(), lines.next().unwrap());
            let (group, kind) = (target["apiVersion"].as_str().unwrap(), target["kind"].as_str().unwrap());
            let (group, version) = group.rsplit_once('/').unwrap_or(("", group));
            let message = &Schema::builtin().message_of(group, version, kind).unwrap().name;
            let mut patched = strategic(&target, &patch, message).unwrap();
            let mut expected = expected;
            for value in [&mut patched, &mut expected] {
                crate::check::check(value, message).unwrap();
            }
            assert_eq!(patched, expected, "{patch}");
        }
    }

    #[test]
    fn malformed_patches_are_refused() {
        let target = json!({"spec": {"containers": [{"name": "a"}]}});
        for patch in [
            json!([]),
            json!({"$patch": "explode"}),
            json!({"spec": {"containers": [{"image": "x"}]}}),
            json!({"spec": {"containers": ["x"]}}),
            json!({"spec": {"$setElementOrder/containers": 1}}),
            json!({"spec": {"$retainKeys": 1}}),
        ] {
            assert_eq!(strategic(&target, &patch, POD).unwrap_err().code, 400, "{patch}");
        }
    }
}
