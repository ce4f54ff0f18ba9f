//! The garbage collector: what belongs to nobody goes, and owners wait for what blocks them.
//!
//! An owner reference is *solid* while the owner exists, *dangling* when it does not, *waiting* when the owner is
//! being deleted in the foreground. An object with a solid owner only loses its other references; one without goes.
//! The picture is whole at one revision, so "the owner does not exist" is a fact, not a cache that lags.
//!
//! * Background: the owner goes at once, its dependents find themselves dangling.
//! * Foreground: the finalizer `foregroundDeletion` holds the owner until the dependents that block it are gone.
//! * Orphan: the finalizer `orphan` holds the owner until its dependents no longer refer to it.

use std::sync::Arc;

use api::{Action, Change, ChangeKind, Key, Object, OwnerReference, Precondition, View};
use serde_json::{Value, json};

use crate::{World, limits, owner, status};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// An object wakes with itself while it lacks an owner or must wait for dependents; with its owners' deletion; and
/// with its dependents' while it waits for them.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    let gone = change.kind == ChangeKind::Deleted;
    let mut keys = Vec::new();
    // Objects whose owners are all well are most of what changes; they need no turn.
    let bereft = |uid| view.find(uid).is_none_or(|owner| holds(owner) == Some(FOREGROUND) || !may_own(owner, object));
    if !gone && (holds(object).is_some() || object.owner_uids().any(bereft)) {
        keys.push(object.key.clone());
    }
    let leaves_foreground = holds(object) == Some(FOREGROUND);
    if gone || leaves_foreground {
        keys.extend(view.dependents(object.uid()).map(|dependent| dependent.key.clone()));
    }
    let before = change.previous.as_ref().into_iter().flat_map(|old| old.owner_uids());
    let owners = object.owner_uids().chain(before).filter_map(|uid| view.find(uid));
    keys.extend(owners.filter(|owner| holds(owner).is_some()).map(|owner| owner.key.clone()));
    keys.sort();
    keys.dedup();
    keys
}

/// The finalizer for which a deleted object waits for its dependents.
fn holds(object: &Object) -> Option<&'static str> {
    object.deletion_timestamp()?;
    [ORPHAN, FOREGROUND].into_iter().find(|held| object.finalizers().any(|finalizer| finalizer == *held))
}

/// One object.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(object) = world.view.at(key) else { return Vec::new() };
    match holds(object) {
        Some(ORPHAN) => orphan(world.view, object),
        Some(_) => delete_in_foreground(world.view, object),
        None if object.deletion_timestamp().is_some() => Vec::new(),
        None => collect(world.view, object),
    }
}

fn orphan(view: &View, object: &Object) -> Vec<Action> {
    let dependents: Vec<_> = view.dependents(object.uid()).take(limits::SWEEP_MAX).collect();
    if dependents.is_empty() {
        return vec![without_finalizer(object, ORPHAN)];
    }
    dependents.into_iter().map(|dependent| owner::release(dependent, object.uid())).collect()
}

fn delete_in_foreground(view: &View, object: &Object) -> Vec<Action> {
    let blocking = view.dependents(object.uid()).filter(|dependent| {
        let refers = |owner: &OwnerReference| owner.uid == object.uid() && owner.block_owner_deletion;
        dependent.owner_references().iter().any(refers)
    });
    if blocking.take(1).count() == 0 {
        return vec![without_finalizer(object, FOREGROUND)];
    }
    // The dependents delete themselves: this change woke them, and their reference is now a waiting one.
    Vec::new()
}

fn without_finalizer(object: &Object, finalizer: &str) -> Action {
    let left: Vec<&str> = object.finalizers().filter(|other| *other != finalizer).collect();
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    status::patch(object, json!({"metadata": {"finalizers": left}}))
}

fn collect(view: &View, object: &Arc<Object>) -> Vec<Action> {
    let owners = object.owner_references();
    let (mut solid, mut waiting, mut lost) = (0, 0, Vec::new());
    for reference in &owners {
        match owner_of(view, object, reference) {
            Some(owner) if holds(owner) == Some(FOREGROUND) => {
                waiting += 1;
                lost.push(reference.uid.as_str());
            }
            Some(_) => solid += 1,
            None => lost.push(reference.uid.as_str()),
        }
    }
    if owners.is_empty() || lost.is_empty() {
        return Vec::new();
    }
    if solid > 0 {
        let mut left = object.value["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        left.retain(|owner| !lost.iter().any(|uid| owner["uid"] == *uid));
        return vec![status::patch(object, json!({"metadata": {"ownerReferences": left}}))];
    }
    let mut actions = Vec::new();
    // Whoever waits for this object waits for what this object owns as well.
    let owns = view.dependents(object.uid()).take(1).count() > 0;
    let mut precondition = Precondition::unchanged(object);
    if waiting > 0 && owns && !object.finalizers().any(|finalizer| finalizer == FOREGROUND) {
        let finalizers: Vec<&str> = object.finalizers().chain([FOREGROUND]).collect();
        actions.push(status::patch(object, json!({"metadata": {"finalizers": finalizers}})));
        precondition = Precondition::same(object);
    }
    actions.push(Action::Delete { key: object.key.clone(), precondition, grace_seconds: None });
    actions
}

/// The owner that a reference means: the same uid, in the same namespace or in none.
fn owner_of<'a>(view: &'a View, object: &Object, reference: &OwnerReference) -> Option<&'a Arc<Object>> {
    view.find(&reference.uid).filter(|owner| may_own(owner, object))
}

fn may_own(owner: &Object, object: &Object) -> bool {
    owner.namespace().is_empty() || owner.key.namespace == object.key.namespace
}
