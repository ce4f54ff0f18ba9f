//! The rules of `metadata`, which every kind shares.

use serde_json::{Value, json};

use super::{Report, items, members, names, text};
use crate::custom::DEFINITIONS;
use crate::kinds::Resource;
use crate::limits::ANNOTATIONS_BYTES_MAX;

pub(super) fn check(resource: &Resource, object: &Value, report: &mut Report) {
    let metadata = &object["metadata"];
    let (name, base) = (text(metadata, "name"), text(metadata, "generateName"));
    let rule = rule(&resource.name);
    if name.is_empty() && base.is_empty() {
        report.required("metadata.name", "name or generateName is required");
    }
    if !name.is_empty() {
        report.named("metadata.name", name, rule);
    }
    if !base.is_empty() {
        // What is appended ends well, so a trailing dash is fine.
        let masked = base.strip_suffix('-').map_or_else(|| base.to_owned(), |base| format!("{base}a"));
        rule(&masked).iter().for_each(|why| report.invalid("metadata.generateName", &json!(base), why));
    }
    if &*resource.name == "cronjobs.batch" && name.len() > 52 {
        report.invalid("metadata.name", &json!(name), "must be no more than 52 characters");
    }
    if resource.namespaced {
        report.present("metadata.namespace", &metadata["namespace"]);
    } else if !text(metadata, "namespace").is_empty() {
        report.forbidden("metadata.namespace", "not allowed on this type");
    }
    report.labels("metadata.labels", &metadata["labels"]);
    annotations(&metadata["annotations"], report);
    owners(&metadata["ownerReferences"], report);
    for finalizer in items(&metadata["finalizers"]).filter_map(Value::as_str) {
        report.named("metadata.finalizers", finalizer, names::qualified);
        // Only the built-in kinds of Kubernetes itself ask for more than a qualified name.
        let own = resource.custom.is_none() && &*resource.name != DEFINITIONS;
        if own && !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            report.invalid("metadata.finalizers", &json!(finalizer), detail);
        }
    }
}

/// How a kind's objects are named.
fn rule(resource: &str) -> fn(&str) -> Vec<String> {
    match resource {
        "namespaces" => names::label,
        "services" => names::letter_label,
        "ipaddresses.networking.k8s.io" => names::address,
        name if name.ends_with(".rbac.authorization.k8s.io") || name.ends_with(".flowcontrol.apiserver.k8s.io") => {
            names::path_segment
        }
        _ => names::subdomain,
    }
}

pub(super) fn annotations(annotations: &Value, report: &mut Report) {
    let mut size = 0;
    for (name, value) in members(annotations) {
        // Capitals are tolerated in an annotation's prefix.
        names::qualified(&name.to_lowercase())
            .iter()
            .for_each(|why| report.invalid("metadata.annotations", &json!(name), why));
        size += name.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_BYTES_MAX {
        report.too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX);
    }
}

fn owners(owners: &Value, report: &mut Report) {
    let mut controller: Option<&Value> = None;
    for owner in items(owners) {
        let (version, what) = (text(owner, "apiVersion").rsplit('/').next().unwrap_or_default(), "must not be empty");
        for (field, value, word) in [
            ("apiVersion", version, "version"),
            ("kind", text(owner, "kind"), "kind"),
            ("name", text(owner, "name"), "name"),
            ("uid", text(owner, "uid"), "uid"),
        ] {
            if value.is_empty() {
                report.invalid(format!("metadata.ownerReferences.{field}"), &owner[field], &format!("{word} {what}"));
            }
        }
        if owner["controller"] != true {
            continue;
        }
        if let Some(first) = controller {
            let detail = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
                text(first, "kind"),
                text(first, "name"),
                text(owner, "kind"),
                text(owner, "name"),
            );
            report.invalid("metadata.ownerReferences", owners, &detail);
        }
        controller = Some(owner);
    }
}

/// What the server owns stays. (That nothing on its way out takes new finalizers is checked where deletion is decided.)
pub(super) fn check_update(old: &Value, new: &Value, report: &mut Report) {
    let (old, new) = (&old["metadata"], &new["metadata"]);
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        report.immutable(&format!("metadata.{field}"), &old[field], &new[field]);
    }
}
