//! The three ways to change part of an object: JSON patch, merge patch, strategic merge patch.
//!
//! All are pure: a target and a patch in, a new value out. Server-side apply is not here; it needs to know who owns what.

mod strategic;

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use crate::limits::{DEPTH_MAX, JSON_PATCH_COPIED_BYTES_MAX, JSON_PATCH_OPERATIONS_MAX};
use crate::status::Status;

pub use strategic::strategic;

/// JSON patch (RFC 6902). Operations apply in order; either all of them or none.
///
/// # Errors
/// 400 when the patch is malformed, 413 when it is too large or grows the object too much, 422 when an operation fails,
/// `test` among them.
pub fn json(target: &Value, operations: &Value) -> Result<Value, Status> {
    let patch: Patch = serde::Deserialize::deserialize(operations)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if patch.len() > JSON_PATCH_OPERATIONS_MAX {
        let count = patch.len();
        let message = "The allowed maximum operations in a JSON patch is";
        return Err(Status::new(
            413,
            "RequestEntityTooLarge",
            format!("{message} {JSON_PATCH_OPERATIONS_MAX}, got {count}"),
        ));
    }
    let mut result = target.clone();
    let mut copied = 0;
    for operation in &patch.0 {
        bound(&result, operation, &mut copied)?;
        if is_absent(&result, operation) {
            continue;
        }
        json_patch::patch_unsafe(&mut result, std::slice::from_ref(operation))
            .map_err(|error| Status::new(422, "Invalid", format!("{}: {}", error.path, error.kind)))?;
    }
    Ok(result)
}

/// A test for `null` where nothing is: RFC 6902 lets it fail, Kubernetes lets it pass, and clients that add a first
/// finalizer begin with it.
fn is_absent(document: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    test.value.is_null() && document.pointer(test.path.as_str()).is_none()
}

/// Refuses an operation that would nest too deep or, together with those before it, copy too much.
fn bound(document: &Value, operation: &PatchOperation, copied: &mut usize) -> Result<(), Status> {
    let (path, moved) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Copy(copy) => (&copy.path, document.pointer(copy.from.as_str())),
        PatchOperation::Move(moving) => (&moving.path, document.pointer(moving.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    let Some(moved) = moved else { return Ok(()) };
    if matches!(operation, PatchOperation::Copy(_) | PatchOperation::Move(_)) {
        *copied += size(moved);
        if *copied > JSON_PATCH_COPIED_BYTES_MAX {
            return Err(Status::too_large(JSON_PATCH_COPIED_BYTES_MAX));
        }
    }
    if path.count() + depth(moved) > DEPTH_MAX {
        return Err(Status::bad_request(format!("exceeded max depth of {DEPTH_MAX}")));
    }
    Ok(())
}

/// About how many bytes a value has in JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 2 + items.iter().map(|item| 1 + size(item)).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>(),
        Value::String(text) => text.len() + 2,
        _ => 8,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Merge patch (RFC 7396).
///
/// # Errors
/// 400 when the patch is not an object.
pub fn merge(target: &Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request(
            "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}",
        ));
    }
    let mut result = target.clone();
    json_patch::merge(&mut result, patch);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patch_is_all_or_nothing() {
        let target = json!({"spec": {"replicas": 1, "list": ["a", "b"]}});
        let patch = json!([
            {"op": "test", "path": "/spec/replicas", "value": 1},
            {"op": "replace", "path": "/spec/replicas", "value": 3},
            {"op": "add", "path": "/spec/list/-", "value": "c"},
            {"op": "remove", "path": "/spec/list/0"},
        ]);
        assert_eq!(json(&target, &patch).unwrap(), json!({"spec": {"replicas": 3, "list": ["b", "c"]}}));
        let first = json!([
            {"op": "test", "path": "/spec/finalizers", "value": null},
            {"op": "add", "path": "/spec/finalizers", "value": ["mine"]},
        ]);
        assert_eq!(json(&target, &first).unwrap()["spec"]["finalizers"], json!(["mine"]));
        for (patch, code) in [
            (json!([{"op": "test", "path": "/spec/replicas", "value": null}]), 422),
            (json!([{"op": "test", "path": "/spec/none", "value": 1}]), 422),
            (json!([{"op": "test", "path": "/spec/replicas", "value": 2}]), 422),
            (json!([{"op": "remove", "path": "/spec/none"}]), 422),
            (json!([{"op": "fly", "path": "/"}]), 400),
            (json!({"spec": {}}), 400),
            (json!(vec![json!({"op": "test", "path": "/spec/replicas", "value": 1}); 10_001]), 413),
        ] {
            assert_eq!(json(&target, &patch).unwrap_err().code, code, "{patch}");
        }
    }

    #[test]
    fn a_small_json_patch_cannot_make_a_large_object() {
        let doubling = (0..40).map(|n| json!({"op": "copy", "from": "/a", "path": format!("/a/{n}")}));
        let refused = json(&json!({"a": {"x": "y"}}), &doubling.collect()).unwrap_err();
        assert!(matches!(refused.code, 400 | 413), "{refused:?}");
        let wrap = |n: usize| if n.is_multiple_of(2) { ["/a", "/b/a"] } else { ["/b", "/a/b"] };
        let mut operations = Vec::new();
        for n in 0..200 {
            let [from, path] = wrap(n);
            operations.push(json!({"op": "add", "path": &path[..2], "value": {}}));
            operations.push(json!({"op": "move", "from": from, "path": path}));
        }
        assert_eq!(json(&json!({"a": {}}), &json!(operations)).unwrap_err().code, 400);
    }

    #[test]
    fn merge_patch_deletes_with_null() {
        let target = json!({"a": {"b": 1, "c": [1, 2]}});
        assert_eq!(merge(&target, &json!({"a": {"b": null, "c": [3]}})).unwrap(), json!({"a": {"c": [3]}}));
        assert_eq!(merge(&target, &json!([])).unwrap_err().code, 400);
    }
}
