//! Rules.
use serde_json::Value;

use crate::kinds::Resource;
use crate::status::Cause;

/// What keeps an object from being created.
#[must_use]
pub fn create(resource: &Resource, object: &Value) -> Vec<Cause> {
    let _ = (resource, object);
    Vec::new()
}

/// What keeps an object from being changed.
#[must_use]
pub fn update(resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let _ = (resource, old, new);
    Vec::new()
}
