//! PersistentVolume: free, bound, or released; and what becomes of one that its claim has left.
//!
//! `Retain` leaves it to a person. `Delete` deletes what this cluster made itself; the volumes of others are theirs to
//! delete. `Recycle` is not offered: no volume here can be emptied without its node.

use api::volumes::{CLAIMS, LOCAL, ON_NODE, is_bound};
use api::{Action, Change, ChangeKind, Key, Object, Precondition, Severity, View};
use serde_json::json;

use super::VOLUMES;
use super::claim_protection::release;
use super::provision::PROVISIONED_BY;
use crate::{World, status};

/// A volume wakes with itself and with the claim it is for.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        VOLUMES => vec![object.key.clone()],
        CLAIMS => {
            let named = [object, change.previous.as_ref().unwrap_or(object)];
            let names = named.into_iter().filter_map(|claim| claim.field("spec.volumeName").as_str());
            let mut keys: Vec<Key> = names.map(|name| Key::new(VOLUMES, "", name)).collect();
            if keys.is_empty() {
                // A claim that goes before it was bound may leave a volume that was made for it.
                let made = Key::new(VOLUMES, "", format!("pvc-{}", object.uid()));
                keys.extend(view.at(&made).map(|volume| volume.key.clone()));
            }
            keys.dedup();
            keys
        }
        "nodes" if change.kind == ChangeKind::Deleted => {
            let held = view.list(VOLUMES).filter(|volume| volume.deletion_timestamp().is_some());
            held.map(|volume| volume.key.clone()).collect()
        }
        _ => Vec::new(),
    }
}

/// One volume.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(volume) = world.view.at(key) else { return Vec::new() };
    if is_orphan(world.view, volume) {
        return release(volume, LOCAL).into_iter().collect();
    }
    let reference = volume.field("spec.claimRef");
    let uid = reference["uid"].as_str().unwrap_or_default();
    if reference.is_null() || uid.is_empty() {
        return phase(volume, "Available").into_iter().collect();
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let claim = world.view.get(CLAIMS, text("namespace"), text("name")).filter(|claim| claim.uid() == uid);
    match claim {
        Some(claim) if is_bound(&claim.value) && claim.field("spec.volumeName") == volume.name() => {
            phase(volume, "Bound").into_iter().collect()
        }
        // The binding is under way.
        Some(claim) if claim.field("spec.volumeName").as_str().is_none_or(|name| name == volume.name()) => Vec::new(),
        // The claim took another one.
        Some(_) => status_of_lost_race(volume),
        None => reclaim(volume),
    }
}

/// Deleted, and the node that would remove its folder is no more.
fn is_orphan(view: &View, volume: &Object) -> bool {
    let node = volume.field("spec.csi.volumeAttributes")[ON_NODE].as_str();
    volume.deletion_timestamp().is_some() && node.is_some_and(|node| view.get("nodes", "", node).is_none())
}

/// Gives up a binding that the other side did not want.
fn status_of_lost_race(volume: &Object) -> Vec<Action> {
    if volume.annotation(PROVISIONED_BY) == Some(LOCAL) {
        return reclaim(volume);
    }
    vec![status::patch(volume, json!({"spec": {"claimRef": null}}))]
}

fn reclaim(volume: &Object) -> Vec<Action> {
    let mut actions: Vec<Action> = phase(volume, "Released").into_iter().collect();
    let ours = volume.annotation(PROVISIONED_BY) == Some(LOCAL);
    match volume.field("spec.persistentVolumeReclaimPolicy").as_str() {
        Some("Delete") if ours && volume.deletion_timestamp().is_none() && actions.is_empty() => {
            let precondition = Precondition::unchanged(volume);
            actions.push(Action::Delete { key: volume.key.clone(), precondition, grace_seconds: None });
        }
        Some("Recycle") => {
            let message = "recycling is not offered: delete the volume, or set its policy to Retain".to_owned();
            let (about, uid) = (volume.key.clone(), volume.uid().to_owned());
            let (kind, severity, reason) = ("PersistentVolume", Severity::Warning, "VolumeFailedRecycle");
            actions.push(Action::Tell { about, uid, kind, severity, reason, message });
        }
        _ => {}
    }
    actions
}

fn phase(volume: &Object, phase: &str) -> Option<Action> {
    status::set(volume, json!({ "phase": phase }))
}
