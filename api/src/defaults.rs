//! Defaults.
use serde_json::Value;

use crate::kinds::Resource;

/// Fills in what Kubernetes fills in.
pub fn apply(resource: &Resource, object: &mut Value) {
    let _ = (resource, object);
}
