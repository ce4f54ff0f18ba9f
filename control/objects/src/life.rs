//! Birth, change and death of an object's metadata: what the server owns and no client may write. Pure.
//!
//! Follows `k8s.io/apiserver/pkg/registry/rest` (`BeforeCreate`, `BeforeUpdate`, `BeforeDelete`).

use api::custom::{CLEANUP, DEFINITIONS};
use api::meta::metadata_mut;
use api::{Cause, Object, Resource, Status};
use serde_json::{Map, Value, json};

use crate::request::{DeleteOptions, Propagation};

/// Finalizer of an object that waits for its dependents to be deleted.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object that waits for its dependents to be orphaned.
pub(crate) const ORPHAN: &str = "orphan";
/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
/// `metadata` fields that an update takes from the stored object.
const SERVER_OWNED: [&str; 7] = [
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
    "selfLink",
];

/// The texts in `metadata.finalizers`.
pub(crate) fn finalizers(value: &Value) -> Vec<&str> {
    value["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether `metadata.deletionTimestamp` is set.
pub(crate) fn is_deleting(value: &Value) -> bool {
    value["metadata"]["deletionTimestamp"].is_string()
}

/// Gives a new object what the server owns. `now` is RFC 3339.
pub(crate) fn give_birth(resource: &Resource, value: &mut Value, uid: &str, now: &str) {
    // A node reports its own status when it registers; everybody else's is the controllers' to write.
    if resource.has_status
        && &*resource.name != "nodes"
        && let Some(object) = value.as_object_mut()
    {
        object.remove("status");
    }
    let metadata = metadata_mut(value);
    for field in SERVER_OWNED.iter().chain(&["managedFields"]) {
        metadata.remove(*field);
    }
    metadata.insert("uid".into(), json!(uid));
    metadata.insert("creationTimestamp".into(), json!(now));
    if resource.has_generation {
        metadata.insert("generation".into(), json!(1));
    }
}

/// Carries what an update may not change from the stored object into the new one: metadata that the server owns,
/// and for `/status` everything but the status, else the status.
pub(crate) fn carry_over(resource: &Resource, old: &Value, new: &mut Value, subresource: Option<&str>) {
    match subresource {
        Some("status") => {
            let mut kept = old.clone();
            replace(&mut kept, "status", new.get("status").cloned());
            // Upstream lets /status write metadata too; controllers use that for annotations and finalizers.
            replace(&mut kept, "metadata", new.get("metadata").cloned());
            *new = kept;
        }
        // The approval of a CertificateSigningRequest is a condition of its status.
        Some("approval") => {}
        _ if resource.has_status => replace(new, "status", old.get("status").cloned()),
        _ => {}
    }
    for field in ["apiVersion", "kind"] {
        replace(new, field, old.get(field).cloned());
    }
    let (from, to) = (&old["metadata"], metadata_mut(new));
    for field in SERVER_OWNED.iter().chain(&["name", "namespace", "generateName"]) {
        match from.get(*field) {
            Some(value) => to.insert((*field).into(), value.clone()),
            None => to.remove(*field),
        };
    }
}

/// Objects of a custom resource are stored in one version, whichever they are written in.
pub(crate) fn store_version(resource: &Resource, value: &mut Value) {
    if let Some(custom) = resource.custom.as_deref() {
        value["apiVersion"] = json!(format!("{}/{}", resource.group, custom.storage_version));
    }
}

/// Sets a field of an object, or takes it away.
pub(crate) fn replace(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(object) = object.as_object_mut() else { return };
    match value {
        Some(value) => object.insert(field.into(), value),
        None => object.remove(field),
    };
}

/// Counts `metadata.generation` up when anything but metadata and status differs.
pub(crate) fn count_generation(resource: &Resource, old: &Value, new: &mut Value) {
    // A custom resource without the status subresource has no status, only a field of that name.
    let ignored: &[&str] = if resource.has_status || resource.custom.is_none() {
        &["apiVersion", "metadata", "status"]
    } else {
        &["apiVersion", "metadata"]
    };
    if resource.has_generation && !same_but_for(old, new, ignored) {
        bump_generation(old, new);
    }
}

fn bump_generation(old: &Value, new: &mut Value) {
    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
    metadata_mut(new).insert("generation".into(), json!(generation));
}

fn same_but_for(old: &Value, new: &Value, ignored: &[&str]) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return old == new };
    let kept = |field: &&String| !ignored.contains(&field.as_str());
    old.keys().chain(new.keys()).filter(kept).all(|field| old.get(field) == new.get(field))
}

/// Whether a write would change nothing that anybody can see. Times in `managedFields` do not count.
pub(crate) fn is_same(old: &Value, new: &Value) -> bool {
    let metadata_same = match (old["metadata"].as_object(), new["metadata"].as_object()) {
        (Some(before), Some(after)) => {
            let kept = |field: &&String| !["managedFields", "resourceVersion"].contains(&field.as_str());
            before.keys().chain(after.keys()).filter(kept).all(|field| before.get(field) == after.get(field))
                && timeless(&old["metadata"]["managedFields"]).eq(timeless(&new["metadata"]["managedFields"]))
        }
        _ => false,
    };
    metadata_same && same_but_for(old, new, &["metadata"])
}

fn timeless(entries: &Value) -> impl Iterator<Item = Map<String, Value>> {
    entries.as_array().into_iter().flatten().filter_map(Value::as_object).cloned().map(|mut entry| {
        entry.remove("time");
        entry
    })
}

/// The rule that an object on its way out takes no new finalizers.
pub(crate) fn check_finalizers(old: &Value, new: &Value) -> Option<Cause> {
    if !is_deleting(old) {
        return None;
    }
    let known = finalizers(old);
    let fresh: Vec<&str> = finalizers(new).into_iter().filter(|finalizer| !known.contains(finalizer)).collect();
    (!fresh.is_empty()).then(|| {
        let list = fresh.iter().map(|finalizer| format!("{finalizer:?}")).collect::<Vec<_>>().join(", ");
        let detail = "no new finalizers can be added if the object is being deleted, found new finalizers";
        Cause::forbidden("metadata.finalizers", &format!("{detail} []string{{{list}}}"))
    })
}

/// Whether a marked object has nothing left to wait for.
pub(crate) fn may_go(resource: &Resource, value: &Value) -> bool {
    is_deleting(value)
        && finalizers(value).is_empty()
        && value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !(is_namespace(resource) && has_namespace_finalizers(value))
}

fn is_namespace(resource: &Resource) -> bool {
    &*resource.name == "namespaces"
}

fn has_namespace_finalizers(value: &Value) -> bool {
    value["spec"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}

/// 409 unless the object is the one, in the version, that the caller means.
pub(crate) fn check_preconditions(object: &Object, preconditions: &api::Precondition) -> Result<(), Status> {
    let refuse = |field: &str, wanted: &str, is: &str| {
        let why = format!("Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {is}");
        Status::conflict(&object.key.resource, object.name(), &why)
    };
    match &preconditions.uid {
        Some(uid) if uid != object.uid() => return Err(refuse("UID", uid, object.uid())),
        _ => {}
    }
    match preconditions.revision {
        Some(revision) if revision != object.revision => {
            Err(refuse("ResourceVersion", &revision.to_string(), &object.revision.to_string()))
        }
        _ => Ok(()),
    }
}

/// What a deletion does to an object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// It goes at once.
    Goes,
    /// It stays for now, as this.
    Waits(Value),
    /// It is on its way already and the deletion changes nothing.
    AsBefore,
}

/// Decides what a deletion does. `now_ms` is milliseconds since the epoch.
pub(crate) fn fate(resource: &Resource, object: &Object, options: &DeleteOptions, now_ms: i64) -> Result<Fate, Status> {
    let whole = object.whole();
    let old = &*whole;
    if is_namespace(resource) && IMMORTAL.contains(&object.name()) {
        return Err(Status::forbidden("namespaces", object.name(), "this namespace may not be deleted"));
    }
    let mut new = old.clone();
    set_collector_finalizers(&mut new, options.propagation);
    if &*resource.name == DEFINITIONS && !is_deleting(old) {
        // Its objects go first (`customresourcedefinition.REST.Delete`).
        let mut list = finalizers(&new).into_iter().map(str::to_owned).collect::<Vec<_>>();
        list.retain(|finalizer| finalizer != CLEANUP);
        list.push(CLEANUP.to_owned());
        metadata_mut(&mut new).insert("finalizers".into(), json!(list));
    }
    let grace = grace_seconds(resource, old, options);
    if is_namespace(resource) && has_namespace_finalizers(old) {
        mark(&mut new, old, 0, now_ms);
        if !new["status"].is_object() {
            new["status"] = json!({});
        }
        new["status"]["phase"] = json!("Terminating");
    } else if grace > 0 || !finalizers(&new).is_empty() {
        mark(&mut new, old, grace, now_ms);
    } else {
        return Ok(Fate::Goes);
    }
    Ok(if new == *old { Fate::AsBefore } else { Fate::Waits(new) })
}

/// How long the object may still live. Only a pod that a node may be running has any grace
/// (`podStrategy.CheckGracefulDelete`).
fn grace_seconds(resource: &Resource, value: &Value, options: &DeleteOptions) -> i64 {
    if &*resource.name != "pods" || value["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return 0;
    }
    if matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return 0;
    }
    let own = || value["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let wanted = options.grace_period_seconds.map_or_else(own, i64::from).max(0);
    // A pod that is going already can only be hurried.
    match value["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        Some(left) if is_deleting(value) => wanted.min(left),
        _ => wanted,
    }
}

/// Sets `deletionTimestamp` (when the grace ends) and `deletionGracePeriodSeconds`.
fn mark(new: &mut Value, old: &Value, grace: i64, now_ms: i64) {
    let before = &old["metadata"];
    let had_grace = before["deletionGracePeriodSeconds"].as_i64();
    if is_deleting(old) && had_grace.is_some_and(|had| had <= grace) {
        return;
    }
    let ends_ms = match before["deletionTimestamp"].as_str().and_then(api::time::parse) {
        Some(ends_ms) => ends_ms - (had_grace.unwrap_or(0) - grace) * 1000,
        None => now_ms + grace * 1000,
    };
    if !is_deleting(old) && before["generation"].as_i64().is_some() {
        bump_generation(old, new);
    }
    let metadata = metadata_mut(new);
    metadata.insert("deletionTimestamp".into(), json!(api::time::rfc3339(ends_ms)));
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
}

/// Adds and removes the garbage collector's finalizers as the policy asks; without a policy they stay as they are.
fn set_collector_finalizers(value: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let before = finalizers(value);
    let mut after: Vec<&str> =
        before.iter().copied().filter(|name| ![FOREGROUND, ORPHAN].contains(name) || wanted == Some(name)).collect();
    after.extend(wanted.filter(|name| !before.contains(name)));
    if after != before {
        let after = json!(after);
        if after.as_array().is_some_and(Vec::is_empty) {
            metadata_mut(value).remove("finalizers");
        } else {
            metadata_mut(value).insert("finalizers".into(), after);
        }
    }
}
