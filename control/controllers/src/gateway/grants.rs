//! ReferenceGrant: who may refer to objects of another namespace.

use api::View;
use serde_json::Value;

use super::{GRANTS, GROUP, list};

/// One end of a reference.
pub(super) struct From<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
}

/// The other end: an object of the core group.
pub(super) struct To<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

/// Whether the reference is allowed: within a namespace always.
pub(super) fn allow(view: &View, from: &From<'_>, to: &To<'_>) -> bool {
    let is_from =
        |entry: &Value| entry["group"] == GROUP && entry["kind"] == from.kind && entry["namespace"] == from.namespace;
    let is_to = |entry: &Value| {
        let name = entry["name"].as_str().filter(|name| !name.is_empty());
        entry["group"] == "" && entry["kind"] == to.kind && name.is_none_or(|name| name == to.name)
    };
    let mut grants = view.list(GRANTS).filter(|grant| grant.namespace() == to.namespace);
    from.namespace == to.namespace
        || grants.any(|grant| list(grant.field("spec.from")).any(is_from) && list(grant.field("spec.to")).any(is_to))
}
