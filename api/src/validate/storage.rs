//! The rules of what holds data: ConfigMaps, Secrets, volumes and claims.

use serde_json::{Value, json};

use super::{Report, items, members, names, text};
use crate::limits::DATA_BYTES_MAX;

/// A ConfigMap or a Secret.
pub(super) fn check_data(object: &Value, report: &mut Report) {
    let mut size = 0;
    for part in ["data", "binaryData"] {
        for (key, value) in members(&object[part]) {
            report.named(&format!("{part}[{key}]"), key, names::data_key);
            size += value.as_str().map_or(0, str::len);
        }
    }
    for (key, _) in members(&object["binaryData"]) {
        if object["data"].get(key).is_some() {
            report.invalid(format!("binaryData[{key}]"), &json!(key), "duplicate of key present in data");
        }
    }
    // Secrets and binary data are written in base64, which is a third longer than what it means.
    let bytes = if object["type"].is_string() { size / 4 * 3 } else { size };
    if bytes > DATA_BYTES_MAX {
        report.too_long("", DATA_BYTES_MAX);
    }
    let needed: &[&str] = match text(object, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed.iter().filter(|key| object["data"].get(**key).is_none()) {
        report.required(format!("data[{key}]"), "");
    }
    if text(object, "type") == "kubernetes.io/service-account-token" {
        let field = "metadata.annotations[kubernetes.io/service-account.name]";
        report.present(field, &object["metadata"]["annotations"]["kubernetes.io/service-account.name"]);
    }
}

pub(super) fn check_data_update(old: &Value, new: &Value, report: &mut Report) {
    if old["type"] != new["type"] {
        report.invalid("type", &new["type"], "field is immutable");
    }
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        report.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for part in ["data", "binaryData"].iter().filter(|part| old[**part] != new[**part]) {
        report.forbidden(*part, "field is immutable when `immutable` is set");
    }
}

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &Value, field: &str, report: &mut Report) {
    let field = format!("{field}.accessModes");
    if items(&spec["accessModes"]).next().is_none() {
        report.required(&*field, "at least 1 access mode is required");
    }
    items(&spec["accessModes"]).for_each(|mode| report.one_of(&*field, mode, MODES));
}

/// A claim's specification; `field` is its path.
pub(super) fn check_claim(spec: &Value, field: &str, report: &mut Report) {
    access_modes(spec, field, report);
    report.quantities(&format!("{field}.resources.requests"), &spec["resources"]["requests"]);
    if spec["resources"]["requests"]["storage"].is_null() {
        report.required(format!("{field}.resources[storage]"), "");
    }
    report.named_if(&format!("{field}.storageClassName"), &spec["storageClassName"], names::subdomain);
    report.one_of(format!("{field}.volumeMode"), &spec["volumeMode"], &["Block", "Filesystem"]);
    report.selector(&format!("{field}.selector"), &spec["selector"]);
}

pub(super) fn check_claim_update(old: &Value, new: &Value, report: &mut Report) {
    let (before, mut after) = (&old["spec"], new["spec"].clone());
    // A claim may grow, and be bound once.
    if let Some(resources) = after.get_mut("resources").and_then(Value::as_object_mut) {
        match before["resources"].get("requests") {
            Some(requests) => drop(resources.insert("requests".into(), requests.clone())),
            None => drop(resources.remove("requests")),
        }
    }
    for field in ["volumeName", "storageClassName"].iter().filter(|field| before[**field].is_null()) {
        after.as_object_mut().and_then(|after| after.remove(*field));
    }
    let (had, has) = (crate::volumes::asked(old), crate::volumes::asked(new));
    let held = crate::resources::quantity(&old["status"]["capacity"]["storage"]);
    if has < had && held.is_none_or(|held| has < held) {
        report.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
    }
    if *before != after {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        report.forbidden("spec", detail);
    }
}

pub(super) fn check_volume(spec: &Value, report: &mut Report) {
    access_modes(spec, "spec", report);
    if members(&spec["capacity"]).next().is_none() {
        report.required("spec.capacity", "");
    }
    report.quantities("spec.capacity", &spec["capacity"]);
    let policies = &["Delete", "Recycle", "Retain"];
    report.one_of("spec.persistentVolumeReclaimPolicy", &spec["persistentVolumeReclaimPolicy"], policies);
    report.one_of("spec.volumeMode", &spec["volumeMode"], &["Block", "Filesystem"]);
}

pub(super) fn check_class(object: &Value, report: &mut Report) {
    report.present("provisioner", &object["provisioner"]);
    report.one_of("reclaimPolicy", &object["reclaimPolicy"], &["Delete", "Retain"]);
    report.one_of("volumeBindingMode", &object["volumeBindingMode"], &["Immediate", "WaitForFirstConsumer"]);
}
