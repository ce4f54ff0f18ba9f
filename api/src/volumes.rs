//! Claims and volumes: which volume serves which claim, as the binder and the scheduler both must see it.
//!
//! Source: `k8s.io/component-helpers/storage/volume` and the persistent volume controller. Pure.

use serde_json::Value;

use crate::object::Object;
use crate::quantity::Quantity;
use crate::resources;
use crate::selector::LabelSelector;
use crate::{View, meta};

/// The resource that claims are.
pub const CLAIMS: &str = "persistentvolumeclaims";
/// The resource that volumes are.
pub const VOLUMES: &str = "persistentvolumes";
/// The resource that classes are.
pub const CLASSES: &str = "storageclasses.storage.k8s.io";
/// Who makes volumes in a folder of a node: provisioner of the class `local`, and driver of its volumes.
pub const LOCAL: &str = "kogia.dev/local";
/// In a volume's `spec.csi.volumeAttributes`: the node whose folder it is.
pub const ON_NODE: &str = "kogia.dev/node";
/// On a claim: the node that the scheduler chose for its first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: its binding is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or a volume: the cluster chose the other side, and may take the choice back.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// What the name of the volume begins with in which a pod finds its account's token; the API puts it into every pod.
pub const ACCOUNT_PREFIX: &str = "kube-api-access-";
/// The annotation that was a class before there was a field.
const LEGACY_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class of a claim or a volume; empty for none.
#[must_use]
pub fn class(object: &Value) -> &str {
    let named = meta::annotation(object, LEGACY_CLASS).or_else(|| object["spec"]["storageClassName"].as_str());
    named.unwrap_or_default()
}

/// How much a claim asks for.
#[must_use]
pub fn asked(claim: &Value) -> Quantity {
    resources::quantity(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or_default()
}

/// How much a volume holds.
#[must_use]
pub fn capacity(volume: &Value) -> Quantity {
    resources::quantity(&volume["spec"]["capacity"]["storage"]).unwrap_or_default()
}

/// Whether a claim has its volume, both sides agreeing.
#[must_use]
pub fn is_bound(claim: &Value) -> bool {
    meta::annotation(claim, BIND_COMPLETED).is_some()
        && claim["spec"]["volumeName"].as_str().is_some_and(|volume| !volume.is_empty())
}

/// Whether a volume is meant for a claim: its `claimRef` names it, and no earlier one of the same name.
#[must_use]
pub fn is_for(volume: &Value, claim: &Object) -> bool {
    let reference = &volume["spec"]["claimRef"];
    let uid = reference["uid"].as_str().unwrap_or_default();
    reference["name"] == claim.name()
        && reference["namespace"] == claim.namespace()
        && (uid.is_empty() || uid == claim.uid())
}

/// Whether a volume could serve a claim, wherever it is: size, modes, class and labels.
#[must_use]
pub fn serves(volume: &Value, claim: &Value) -> bool {
    let modes = |object: &Value| object["spec"]["accessModes"].as_array().cloned().unwrap_or_default();
    let offered = modes(volume);
    let selector = &claim["spec"]["selector"];
    let mode = |object: &Value| object["spec"]["volumeMode"].as_str().unwrap_or("Filesystem").to_owned();
    capacity(volume) >= asked(claim)
        && class(volume) == class(claim)
        && mode(volume) == mode(claim)
        && modes(claim).iter().all(|wanted| offered.contains(wanted))
        && (selector.is_null() || LabelSelector::from_value(selector).matches(meta::labels(volume)))
}

/// The volume that a claim without one should get: the one that was kept for it, else the smallest free one that
/// serves it and that `reaches` where the claim is needed.
#[must_use]
pub fn best<'v>(
    view: &'v View,
    claim: &Object,
    reaches: impl Fn(&Object) -> bool,
) -> Option<&'v std::sync::Arc<Object>> {
    let here = |volume: &&std::sync::Arc<Object>| volume.deletion_timestamp().is_none() && reaches(volume);
    let kept = view.list(VOLUMES).filter(here).find(|volume| is_for(&volume.value, claim));
    kept.filter(|volume| capacity(&volume.value) >= asked(&claim.value)).or_else(|| {
        let free = view.list(VOLUMES).filter(here).filter(|volume| {
            let phase = volume.field("status.phase");
            volume.field("spec.claimRef").is_null() && (phase == "Available" || phase == "Pending" || phase.is_null())
        });
        free.filter(|volume| serves(&volume.value, &claim.value))
            .min_by_key(|volume| (capacity(&volume.value), volume.key.name.clone()))
    })
}

/// Whether binding waits until a pod needs the claim (`volumeBindingMode: WaitForFirstConsumer`).
#[must_use]
pub fn waits_for_consumer(view: &View, claim: &Value) -> bool {
    let class = view.get(CLASSES, "", class(claim));
    class.is_some_and(|class| class.field("volumeBindingMode") == "WaitForFirstConsumer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChangeKind, Key};
    use serde_json::json;
    use std::sync::Arc;

    fn view(volumes: &[(&str, &str, Value)]) -> View {
        let mut view = View::default();
        for (name, size, more) in volumes {
            let mut value = json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": {
                "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Available"}});
            for (field, part) in more.as_object().unwrap() {
                value["spec"][field] = part.clone();
            }
            let object = Object::new(Key::new(VOLUMES, "", *name), view.revision() + 1, value);
            view.apply(ChangeKind::Added, &Arc::new(object));
        }
        view
    }

    #[test]
    fn the_smallest_that_serves_or_the_one_that_was_kept() {
        let claim = |spec: Value| {
            let mut claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec":
                {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
            spec.as_object().unwrap().iter().for_each(|(field, part)| claim["spec"][field] = part.clone());
            Object::new(Key::new(CLAIMS, "n", "c"), 1, claim)
        };
        let view = view(&[
            ("large", "9Gi", json!({})),
            ("right", "2Gi", json!({})),
            ("small", "1Gi", json!({})),
            ("taken", "2Gi", json!({"claimRef": {"name": "x", "namespace": "n"}})),
            ("fast", "2Gi", json!({"storageClassName": "fast", "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]})),
            ("kept", "5Gi", json!({"storageClassName": "own", "claimRef": {"name": "k", "namespace": "n"}})),
            ("stale", "5Gi", json!({"claimRef": {"name": "c", "namespace": "n", "uid": "earlier"}})),
        ]);
        let name = |claim: &Object| best(&view, claim, |_| true).map(|volume| volume.name().to_owned());
        for (spec, expected) in [
            (json!({}), Some("right")),
            (json!({"resources": {"requests": {"storage": "3Gi"}}}), Some("large")),
            (json!({"resources": {"requests": {"storage": "10Gi"}}}), None),
            (json!({"accessModes": ["ReadWriteMany"]}), None),
            (json!({"storageClassName": "fast", "accessModes": ["ReadOnlyMany"]}), Some("fast")),
            (json!({"selector": {"matchLabels": {"disk": "large"}}}), Some("large")),
            (json!({"volumeMode": "Block"}), None),
        ] {
            assert_eq!(name(&claim(spec.clone())).as_deref(), expected, "{spec}");
        }
        let kept = Object::new(Key::new(CLAIMS, "n", "k"), 1, claim(json!({})).value.clone());
        assert_eq!(name(&kept).as_deref(), Some("kept"));
        assert_eq!(best(&view, &claim(json!({})), |volume| volume.name() == "large").unwrap().name(), "large");
    }
}
