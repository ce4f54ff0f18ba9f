//! Sheets of storage.

use api::Object;
use serde_json::Value;

use super::cells::{UNSET, age, list_at, scalar, str_at};
use super::{AGE, NAME, Sheet, flag, text, wide};

pub(super) fn sheet(resource: &str) -> Option<&'static Sheet> {
    Some(match resource {
        "persistentvolumes" => &VOLUMES,
        "persistentvolumeclaims" => &CLAIMS,
        "storageclasses.storage.k8s.io" => &CLASSES,
        "volumeattachments.storage.k8s.io" => &ATTACHMENTS,
        _ => return None,
    })
}

static VOLUMES: Sheet = Sheet {
    columns: &[
        NAME,
        text("Capacity"),
        text("Access Modes"),
        text("Reclaim Policy"),
        text("Status"),
        text("Claim"),
        text("StorageClass"),
        text("VolumeAttributesClass"),
        text("Reason"),
        AGE,
        wide("VolumeMode"),
    ],
    row: |object, now_ms| {
        let value = &object.value;
        let claim = match str_at(value, "spec.claimRef.name") {
            "" => String::new(),
            name => format!("{}/{name}", str_at(value, "spec.claimRef.namespace")),
        };
        vec![
            object.name().into(),
            str_at(value, "spec.capacity.storage").into(),
            modes(object).into(),
            str_at(value, "spec.persistentVolumeReclaimPolicy").into(),
            phase(object),
            claim.into(),
            str_at(value, "spec.storageClassName").into(),
            scalar(object.field("spec.volumeAttributesClassName"), UNSET).into(),
            str_at(value, "status.reason").into(),
            age(object, now_ms),
            scalar(object.field("spec.volumeMode"), UNSET).into(),
        ]
    },
};

static CLAIMS: Sheet = Sheet {
    columns: &[
        NAME,
        text("Status"),
        text("Volume"),
        text("Capacity"),
        text("Access Modes"),
        text("StorageClass"),
        text("VolumeAttributesClass"),
        AGE,
        wide("VolumeMode"),
    ],
    row: |object, now_ms| {
        let value = &object.value;
        let bound = !str_at(value, "spec.volumeName").is_empty();
        vec![
            object.name().into(),
            phase(object),
            str_at(value, "spec.volumeName").into(),
            if bound { str_at(value, "status.capacity.storage").into() } else { "".into() },
            if bound { modes(object).into() } else { "".into() },
            str_at(value, "spec.storageClassName").into(),
            scalar(object.field("spec.volumeAttributesClassName"), UNSET).into(),
            age(object, now_ms),
            scalar(object.field("spec.volumeMode"), UNSET).into(),
        ]
    },
};

fn phase(object: &Object) -> Value {
    match object.deletion_timestamp() {
        Some(_) => "Terminating".into(),
        None => str_at(&object.value, "status.phase").into(),
    }
}

/// `RWO,ROX`: access modes in their usual short form and order.
fn modes(object: &Object) -> String {
    let held = list_at(&object.value, "spec.accessModes");
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")]
        .into_iter()
        .filter(|(mode, _)| held.iter().any(|held| held == mode))
        .map(|(_, short)| short)
        .collect::<Vec<_>>()
        .join(",")
}

static CLASSES: Sheet = Sheet {
    columns: &[
        NAME,
        text("Provisioner"),
        text("ReclaimPolicy"),
        text("VolumeBindingMode"),
        flag("AllowVolumeExpansion"),
        AGE,
    ],
    row: |object, now_ms| {
        let value = &object.value;
        let default = object.annotation("storageclass.kubernetes.io/is-default-class") == Some("true");
        let or = |path: &str, otherwise: &str| Value::from(scalar(object.field(path), otherwise));
        vec![
            format!("{}{}", object.name(), if default { " (default)" } else { "" }).into(),
            str_at(value, "provisioner").into(),
            or("reclaimPolicy", "Delete"),
            or("volumeBindingMode", "Immediate"),
            object.field("allowVolumeExpansion").as_bool().unwrap_or(false).into(),
            age(object, now_ms),
        ]
    },
};

static ATTACHMENTS: Sheet = Sheet {
    columns: &[NAME, text("Attacher"), text("PV"), text("Node"), flag("Attached"), AGE],
    row: |object, now_ms| {
        let value = &object.value;
        vec![
            object.name().into(),
            str_at(value, "spec.attacher").into(),
            str_at(value, "spec.source.persistentVolumeName").into(),
            str_at(value, "spec.nodeName").into(),
            object.field("status.attached").as_bool().unwrap_or(false).into(),
            age(object, now_ms),
        ]
    },
};
