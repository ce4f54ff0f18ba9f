//! CustomResourceDefinitions: accepts their names, establishes them, and empties those that are being deleted.
//!
//! Source: `apiextensions-apiserver/pkg/controller/{status,establish,finalizer}`. What serves a definition's objects
//! is the door, which reads the condition `Established`.

use api::custom::{self, CLEANUP, DEFINITIONS};
use api::{Action, Change, Key, Object, Precondition, View, meta};
use serde_json::{Value, json};

use crate::status::{self, Condition};
use crate::{World, limits};

/// A definition wakes with itself and with the others of its group, whose names may have been in its way; one that is
/// going also with its objects.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let key = &change.object.key;
    if &*key.resource == DEFINITIONS {
        let group = change.object.field("spec.group");
        let others = view.list(DEFINITIONS).filter(|other| other.field("spec.group") == group && other.key != *key);
        return others.map(|other| other.key.clone()).chain([key.clone()]).collect();
    }
    // Only names with a dot can be a definition's.
    let own = key.resource.contains('.').then(|| view.get(DEFINITIONS, "", &key.resource)).flatten();
    let going = own.filter(|definition| definition.deletion_timestamp().is_some());
    going.map(|definition| definition.key.clone()).into_iter().collect()
}

/// One definition.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(definition) = world.view.at(key) else { return Vec::new() };
    if definition.deletion_timestamp().is_some() {
        return end(world, definition);
    }
    let conflict = custom::taken_name(world.view, &definition.value);
    let mut conditions = status::conditions(definition);
    let was_established = meta::is_true(&definition.value, "Established");
    let taken = conflict.as_ref().map(|(_, name)| format!("{name:?} is already in use"));
    let accepted = match &conflict {
        None => condition("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
        Some((field, _)) => {
            let reason = match *field {
                "singular" => "SingularConflict",
                "kind" => "KindConflict",
                "listKind" => "ListKindConflict",
                _ => "ShortNamesConflict",
            };
            condition("NamesAccepted", "False", reason, taken.as_deref().unwrap_or_default())
        }
    };
    let established = match (&conflict, was_established) {
        (None, _) | (_, true) => {
            condition("Established", "True", "InitialNamesAccepted", "the initial names have been accepted")
        }
        _ => condition("Established", "False", "NotAccepted", "not all names are accepted"),
    };
    for condition in [accepted, established] {
        status::put(&mut conditions, &condition, None, world.now_ms);
    }
    let names = match conflict {
        None => definition.field("spec.names").clone(),
        Some(_) => definition.field("status.acceptedNames").clone(),
    };
    let wanted = json!({
        "acceptedNames": if names.is_null() { json!({"plural": "", "kind": ""}) } else { names },
        "conditions": conditions, "storedVersions": stored(definition),
    });
    status::set(definition, wanted).into_iter().collect()
}

fn condition<'a>(type_: &'a str, status: &'a str, reason: &'a str, message: &'a str) -> Condition<'a> {
    Condition { type_, status, reason, message }
}

/// Every version that objects were ever stored in, the present one included.
fn stored(definition: &Object) -> Vec<Value> {
    let mut stored = definition.field("status.storedVersions").as_array().cloned().unwrap_or_default();
    let present = json!(custom::storage_version(&definition.value));
    if !stored.contains(&present) {
        stored.push(present);
    }
    stored
}

/// Deletes the objects of a definition that is going, then lets it go.
fn end(world: &World<'_>, definition: &Object) -> Vec<Action> {
    if !definition.finalizers().any(|finalizer| finalizer == CLEANUP) {
        return Vec::new();
    }
    let content: Vec<_> = world.view.list(definition.name()).collect();
    if content.is_empty() {
        let left: Vec<&str> = definition.finalizers().filter(|finalizer| *finalizer != CLEANUP).collect();
        return vec![status::patch(definition, json!({"metadata": {"finalizers": left}}))];
    }
    let mut conditions = status::conditions(definition);
    let going =
        condition("Terminating", "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
    status::put(&mut conditions, &going, None, world.now_ms);
    let mut wanted = definition.value["status"].clone();
    wanted["conditions"] = json!(conditions);
    let mut actions: Vec<Action> = status::set(definition, wanted).into_iter().collect();
    let waiting = content.iter().filter(|object| object.deletion_timestamp().is_none());
    actions.extend(waiting.take(limits::SWEEP_MAX).map(|object| Action::Delete {
        key: object.key.clone(),
        precondition: Precondition::same(object),
        grace_seconds: None,
    }));
    actions
}
