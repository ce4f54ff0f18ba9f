//! ResourceQuota: what is used of it, kept true.
//!
//! The door counts whoever enters and writes `status.used` with the object itself; this controller takes out what has
//! left, and starts the count of a quota that is new or has changed. Its write demands the very quota it looked at,
//! so it never forgets somebody who entered meanwhile.

use std::sync::Arc;

use api::quota::{self, QUOTAS};
use api::{Action, Change, ChangeKind, Key, Object, View};
use serde_json::{Map, Value, json};

use crate::{World, status};

/// A quota wakes with itself, and when something in its namespace goes or costs another amount. Births need no turn:
/// the door has counted them.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    if &*object.key.resource == QUOTAS {
        return vec![object.key.clone()];
    }
    if object.namespace().is_empty() || !costs_otherwise(change) {
        return Vec::new();
    }
    view.list_in(QUOTAS, object.namespace()).map(|quota| quota.key.clone()).collect()
}

fn costs_otherwise(change: &Change) -> bool {
    let counted = matches!(&*change.object.key.resource, "pods" | "services" | "persistentvolumeclaims");
    match (change.kind, &change.previous) {
        (ChangeKind::Deleted, _) => true,
        (ChangeKind::Modified, Some(old)) if counted => {
            let cost = |object: &Arc<Object>| quota::usage(&object.key.resource, &object.value);
            let same = |field: &str| old.field(field) == change.object.field(field);
            !(same("spec") && same("status.phase")) && cost(old) != cost(&change.object)
        }
        _ => false,
    }
}

/// One quota.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(quota) = world.view.at(key).filter(|quota| quota.deletion_timestamp().is_none()) else {
        return Vec::new();
    };
    let used = quota::tally(world.view, quota);
    let used: Map<String, Value> = used.into_iter().map(|(what, amount)| (what, json!(amount.to_string()))).collect();
    let hard = match quota.field("spec.hard") {
        Value::Null => json!({}),
        hard => hard.clone(),
    };
    status::set(quota, json!({"hard": hard, "used": used})).into_iter().collect()
}
