//! PersistentVolumeClaim: every claim gets a volume that serves it, found or made, and keeps it.
//!
//! The order follows the persistent volume controller: first the volume says whose it is (`spec.claimRef`), then the
//! claim says what it has (`spec.volumeName`), then both show it. A turn that breaks off in between is taken up by the
//! next one, since each step can be told from what is stored.

use std::sync::Arc;

use api::volumes::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, LOCAL, SELECTED_NODE, asked, best, capacity, class, is_bound, is_for,
    waits_for_consumer,
};
use api::{Action, Change, Key, Object, Severity, View};
use serde_json::{Value, json};

use super::{CLAIMS, CLASSES, VOLUMES, claim_protection, provision};
use crate::{World, status};

/// A claim wakes with itself, with its volume, with volumes and classes that it may have waited for, and with the pods
/// that need it.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    let waiting = |of_class: &str| {
        let claims = view.list(CLAIMS).filter(|claim| !is_bound(&claim.value) && class(&claim.value) == of_class);
        claims.map(|claim| claim.key.clone()).collect::<Vec<_>>()
    };
    match &*object.key.resource {
        CLAIMS => vec![object.key.clone()],
        VOLUMES => {
            let reference = object.field("spec.claimRef");
            match (reference["namespace"].as_str(), reference["name"].as_str()) {
                (Some(namespace), Some(name)) => vec![Key::new(CLAIMS, namespace, name)],
                _ => waiting(class(&object.value)),
            }
        }
        CLASSES => waiting(object.name()),
        "pods" if change.previous.is_none() => {
            let claims = claim_protection::claims(object);
            claims.map(|name| Key::new(CLAIMS, object.key.namespace.clone(), name)).collect()
        }
        _ => Vec::new(),
    }
}

/// One claim.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(claim) = world.view.at(key) else { return Vec::new() };
    let named = claim.field("spec.volumeName").as_str().filter(|name| !name.is_empty());
    let volume = named.and_then(|name| world.view.get(VOLUMES, "", name));
    if is_bound(&claim.value) {
        return match volume {
            Some(volume) if is_for(&volume.value, claim) => keep(claim, volume),
            _ => lose(claim),
        };
    }
    if claim.deletion_timestamp().is_some() {
        return Vec::new();
    }
    match (named, volume) {
        (None, _) => seek(world, claim),
        (Some(_), None) => pending(claim),
        (Some(_), Some(volume)) if volume.field("spec.claimRef").is_null() || is_for(&volume.value, claim) => {
            bind(claim, volume)
        }
        (Some(name), Some(_)) => {
            let message = format!("volume {name:?} already bound to a different claim.");
            let mut actions = pending(claim);
            actions.push(tell(claim, Severity::Warning, "FailedBinding", message));
            actions
        }
    }
}

/// A claim that names no volume: the best one there is, else a new one, else patience.
fn seek(world: &World<'_>, claim: &Arc<Object>) -> Vec<Action> {
    let selected = claim.annotation(SELECTED_NODE);
    let delayed = selected.is_none() && waits_for_consumer(world.view, &claim.value);
    // A claim whose place is not decided takes only what was kept for it; one with a place asks for a new volume,
    // unless the scheduler found one and wrote the claim into it.
    let kept_only = delayed || selected.is_some();
    let found = best(world.view, claim, |volume| !kept_only || is_for(&volume.value, claim));
    if let Some(volume) = found {
        return bind(claim, volume);
    }
    let mut actions = pending(claim);
    let class_name = class(&claim.value);
    if delayed {
        let (reason, message) = patience(world.view, claim);
        actions.push(tell(claim, Severity::Normal, reason, message));
        return actions;
    }
    if class_name.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set".to_owned();
        actions.push(tell(claim, Severity::Normal, "FailedBinding", message));
        return actions;
    }
    let Some(class) = world.view.get(CLASSES, "", class_name) else {
        let message = format!("storageclass.storage.k8s.io {class_name:?} not found");
        actions.push(tell(claim, Severity::Warning, "ProvisioningFailed", message));
        return actions;
    };
    actions.extend(match class.field("provisioner").as_str().unwrap_or_default() {
        LOCAL => provision::make(world, claim, class),
        "kubernetes.io/no-provisioner" => {
            let message = "no volume plugin matched name: kubernetes.io/no-provisioner".to_owned();
            vec![tell(claim, Severity::Warning, "ProvisioningFailed", message)]
        }
        other => provision::leave_to(claim, other),
    });
    actions
}

/// What a claim waits for that binds with its first consumer.
fn patience(view: &View, claim: &Object) -> (&'static str, String) {
    let mut pods = view.list_in("pods", claim.namespace());
    let consumer =
        pods.find(|pod| crate::pods::is_active(pod) && claim_protection::claims(pod).any(|name| name == claim.name()));
    match consumer {
        Some(pod) => ("WaitForPodScheduled", format!("waiting for pod {} to be scheduled", pod.name())),
        None => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
    }
}

/// Ties the two together.
fn bind(claim: &Arc<Object>, volume: &Arc<Object>) -> Vec<Action> {
    let mut actions = Vec::new();
    if volume.field("spec.claimRef.uid") != claim.uid() {
        let reference = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(), "name": claim.name(),
            "uid": claim.uid(), "resourceVersion": claim.revision.to_string(),
        });
        let mut patch = json!({"spec": {"claimRef": reference}});
        if volume.field("spec.claimRef").is_null() {
            patch["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
        }
        actions.push(status::patch(volume, patch));
    }
    let mut patch =
        json!({"spec": {"volumeName": volume.name()}, "metadata": {"annotations": {BIND_COMPLETED: "yes"}}});
    if claim.field("spec.volumeName") != volume.name() {
        patch["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
    }
    actions.push(status::patch(claim, patch));
    actions
}

/// A bound claim shows what it has, and grows where it asks for more and its volume can.
fn keep(claim: &Arc<Object>, volume: &Arc<Object>) -> Vec<Action> {
    let mut actions = Vec::new();
    let grown = asked(&claim.value) > capacity(&volume.value);
    if grown && volume.annotation(provision::PROVISIONED_BY) == Some(LOCAL) {
        let asked = claim.field("spec.resources.requests.storage");
        actions.push(status::patch(volume, json!({"spec": {"capacity": {"storage": asked}}})));
        let message = format!("Resize volume {} to {} succeeded", volume.name(), asked.as_str().unwrap_or_default());
        actions.push(tell(claim, Severity::Normal, "VolumeResizeSuccessful", message));
    }
    let shown = json!({
        "phase": "Bound", "accessModes": volume.field("spec.accessModes"), "capacity": volume.field("spec.capacity"),
        "conditions": status::conditions(claim),
    });
    actions.extend(status::set(claim, shown));
    actions
}

fn lose(claim: &Object) -> Vec<Action> {
    if claim.field("status.phase") == "Lost" {
        return Vec::new();
    }
    let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!".to_owned();
    let told = tell(claim, Severity::Warning, "ClaimLost", message);
    status::set(claim, json!({"phase": "Lost"})).into_iter().chain([told]).collect()
}

fn pending(claim: &Object) -> Vec<Action> {
    let phase = claim.field("status.phase");
    if phase == "Pending" { Vec::new() } else { status::set(claim, json!({"phase": "Pending"})).into_iter().collect() }
}

pub(super) fn tell(claim: &Object, severity: Severity, reason: &'static str, message: String) -> Action {
    let (about, uid) = (claim.key.clone(), claim.uid().to_owned());
    Action::Tell { about, uid, kind: "PersistentVolumeClaim", severity, reason, message }
}

/// The value that a claim's annotation for its provisioner must have; `None` when it has it.
pub(super) fn annotate(claim: &Object, name: &str, value: &Value) -> Option<Action> {
    if claim.annotation(name) == value.as_str() {
        return None;
    }
    Some(status::patch(claim, json!({"metadata": {"annotations": {name: value}}})))
}
