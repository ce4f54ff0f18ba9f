//! What the cluster decides about claims and volumes: the class of a claim that names none (`DefaultStorageClass`),
//! who may grow (`PersistentVolumeClaimResize`), and that nothing in use is taken away (`StorageObjectInUseProtection`).

use api::{Status, View, meta};
use serde_json::{Value, json};

use super::{Entrant, limit_range};

/// Keeps a claim while pods use it.
const CLAIM_IN_USE: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume while a claim is bound to it.
const VOLUME_IN_USE: &str = "kubernetes.io/pv-protection";
const CLASSES: &str = "storageclasses.storage.k8s.io";

/// A new claim, or a change of one.
pub(super) fn claim(view: &View, entrant: &Entrant<'_>, value: &mut Value) -> Result<(), Status> {
    let name = meta::name(value).to_owned();
    let refuse = |why: &str| Status::forbidden("persistentvolumeclaims", &name, why);
    match entrant.old {
        None => {
            default_class(view, value);
            protect(value, CLAIM_IN_USE);
        }
        Some(old) if old.field("spec.resources.requests") != &value["spec"]["resources"]["requests"] => {
            if grows(&old.value, value) && !may_grow(view, &old.value) {
                return Err(refuse(
                    "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc \
                     must support resize",
                ));
            }
        }
        Some(_) => return Ok(()),
    }
    limit_range::claim(view, entrant.namespace, value).map_err(|why| refuse(&why))
}

/// A new volume.
pub(super) fn volume(value: &mut Value) {
    protect(value, VOLUME_IN_USE);
}

fn protect(value: &mut Value, finalizer: &str) {
    let metadata = meta::metadata_mut(value);
    match metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        Some(list) if list.iter().any(|held| held == finalizer) => {}
        Some(list) => list.push(json!(finalizer)),
        None => drop(metadata.insert("finalizers".into(), json!([finalizer]))),
    }
}

fn storage(claim: &Value) -> Option<api::Quantity> {
    api::resources::quantity(&claim["spec"]["resources"]["requests"]["storage"])
}

fn grows(old: &Value, new: &Value) -> bool {
    storage(new) > storage(old)
}

fn may_grow(view: &View, claim: &Value) -> bool {
    let class = claim["spec"]["storageClassName"].as_str().and_then(|class| view.get(CLASSES, "", class));
    class.is_some_and(|class| class.field("allowVolumeExpansion") == true)
}

/// Of several default classes the newest is meant, as upstream chooses.
fn default_class(view: &View, value: &mut Value) {
    const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
    if !value["spec"].is_object() || !value["spec"]["storageClassName"].is_null() {
        return;
    }
    let classes = view.list(CLASSES).filter(|class| class.annotation(DEFAULT) == Some("true"));
    let newest = classes.max_by(|a, b| (a.creation_timestamp(), b.name()).cmp(&(b.creation_timestamp(), a.name())));
    if let Some(class) = newest {
        value["spec"]["storageClassName"] = json!(class.name());
    }
}
