//! Making volumes: one folder on one node for each claim of a class of `kogia.dev/local`.
//!
//! Here only the object is made; the node makes the folder when a pod first mounts it and removes it when the object
//! is deleted. The volume's node affinity keeps its pods where the data is.

use std::sync::Arc;

use api::volumes::{LOCAL, ON_NODE, SELECTED_NODE, VOLUMES};
use api::{Action, Key, Object, Severity, View, meta};
use serde_json::{Value, json};

use super::claim::{annotate, tell};
use crate::{World, placement};

/// On a volume: who made it.
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make its volume.
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The volume of a claim, on the node that the scheduler chose, or on any that the class allows.
pub(super) fn make(world: &World<'_>, claim: &Arc<Object>, class: &Object) -> Vec<Action> {
    if claim.field("spec.volumeMode") == "Block" {
        let message =
            format!("failed to provision volume with StorageClass {:?}: {LOCAL} makes no Block volumes", class.name());
        return vec![tell(claim, Severity::Warning, "ProvisioningFailed", message)];
    }
    let selected = claim.annotation(SELECTED_NODE);
    let node = match selected {
        Some(name) => world.view.get("nodes", "", name),
        None => emptiest(world.view, class),
    };
    let Some(node) = node else {
        let message = format!("failed to provision volume with StorageClass {:?}: no node can hold it", class.name());
        let told = tell(claim, Severity::Warning, "ProvisioningFailed", message);
        // The scheduler chooses again.
        let undone = selected.and_then(|_| annotate(claim, SELECTED_NODE, &Value::Null));
        return undone.into_iter().chain([told]).collect();
    };
    let name = format!("pvc-{}", claim.uid());
    if let Some(annotated) = annotate(claim, PROVISIONER, &json!(LOCAL)) {
        let message = format!(
            "Assuming an external provisioner {LOCAL} provisions volume for claim \"{}/{}\"",
            claim.namespace(),
            claim.name()
        );
        return vec![annotated, tell(claim, Severity::Normal, "Provisioning", message)];
    }
    let body = volume(&name, claim, class, node);
    let message = format!("Successfully provisioned volume {name}");
    vec![
        Action::Create { key: Key::new(VOLUMES, "", name), body },
        tell(claim, Severity::Normal, "ProvisioningSucceeded", message),
    ]
}

fn volume(name: &str, claim: &Object, class: &Object, node: &Object) -> Value {
    let hostname = node.label(HOSTNAME).unwrap_or(node.name());
    let place = json!({"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [hostname]}]});
    let mut body = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        // The node takes its finalizer away once the folder is gone.
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: LOCAL}, "finalizers": [LOCAL]},
        "spec": {
            "capacity": {"storage": claim.field("spec.resources.requests.storage")},
            "accessModes": claim.field("spec.accessModes"), "volumeMode": "Filesystem",
            "storageClassName": class.name(),
            "persistentVolumeReclaimPolicy": class.field("reclaimPolicy").as_str().unwrap_or("Delete"),
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
                "name": claim.name(), "uid": claim.uid(),
            },
            "csi": {"driver": LOCAL, "volumeHandle": name, "volumeAttributes": {ON_NODE: node.name()}},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [place]}},
        },
    });
    if class.field("mountOptions").is_array() {
        body["spec"]["mountOptions"] = class.field("mountOptions").clone();
    }
    body
}

/// The ready node of the class's topologies that holds the fewest volumes; the first of equals.
fn emptiest<'v>(view: &'v View, class: &Object) -> Option<&'v Arc<Object>> {
    let topologies = class.field("allowedTopologies").as_array().map(Vec::as_slice).unwrap_or_default();
    let allowed =
        |node: &Object| topologies.is_empty() || topologies.iter().any(|term| placement::in_topology(term, node));
    let nodes = view.list("nodes").filter(|node| {
        node.deletion_timestamp().is_none()
            && meta::is_true(&node.value, "Ready")
            && node.field("spec.unschedulable") != true
            && allowed(node)
    });
    nodes.min_by_key(|node| {
        let here = |volume: &&Arc<Object>| volume.field("spec.csi.volumeAttributes")[ON_NODE] == node.name();
        view.list(VOLUMES).filter(here).count()
    })
}

/// A claim of a class that somebody else provides for.
pub(super) fn leave_to(claim: &Object, provisioner: &str) -> Vec<Action> {
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    let told = tell(claim, Severity::Normal, "ExternalProvisioning", message);
    annotate(claim, PROVISIONER, &json!(provisioner)).into_iter().chain([told]).collect()
}
