//! What `kubectl get` shows: columns and rows per resource, as pure functions of an object and the time.
//!
//! The columns are the ones that kubectl users know; a resource without a sheet of its own shows name and age.
//! Rows are encoded as `meta.k8s.io` Tables (KEP-2334), one row per object.

mod cells;
mod cluster;
mod config;
mod custom;
mod network;
mod render;
mod storage;
mod workloads;

use std::sync::Arc;

use api::{Object, Resource};
use serde_json::Value;

pub(crate) use render::{IncludeObject, Table, partial};

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// The heading; clients print it in capitals.
    pub(crate) name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    pub(crate) type_: &'static str,
    /// `name` for the object's name.
    pub(crate) format: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub(crate) priority: u8,
}

const NAME: Column = Column { name: "Name", type_: "string", format: "name", priority: 0 };
const AGE: Column = text("Age");

const fn text(name: &'static str) -> Column {
    Column { name, type_: "string", format: "", priority: 0 }
}

const fn int(name: &'static str) -> Column {
    Column { name, type_: "integer", format: "", priority: 0 }
}

const fn flag(name: &'static str) -> Column {
    Column { name, type_: "boolean", format: "", priority: 0 }
}

const fn wide(name: &'static str) -> Column {
    Column { name, type_: "string", format: "", priority: 1 }
}

/// The columns of a resource and how one object fills them; `now_ms` is milliseconds since 1970.
pub(crate) struct Sheet {
    pub(crate) columns: &'static [Column],
    pub(crate) row: fn(&Object, i64) -> Vec<Value>,
}

static DEFAULT: Sheet =
    Sheet { columns: &[NAME, AGE], row: |object, now_ms| vec![object.name().into(), cells::age(object, now_ms)] };

/// Who says what is shown of a resource.
#[derive(Clone)]
pub(crate) enum Layout {
    /// A sheet of ours.
    Own(&'static Sheet),
    /// The definition of a custom resource.
    Custom(Arc<Resource>),
}

/// The layout of a resource's tables.
pub(crate) fn sheet(resource: &Arc<Resource>) -> Layout {
    match &resource.custom {
        Some(_) => Layout::Custom(resource.clone()),
        None => Layout::Own(own(&resource.name)),
    }
}

/// The layout of autoscaling/v1 Scales.
pub(crate) fn scales() -> Layout {
    Layout::Own(&SCALES)
}

static SCALES: Sheet = Sheet {
    columns: &[NAME, int("Desired"), int("Available"), AGE],
    row: |object, now_ms| {
        let count = |path| cells::int_at(&object.value, path).into();
        vec![object.name().into(), count("spec.replicas"), count("status.replicas"), cells::age(object, now_ms)]
    },
};

/// The sheet of a resource in GroupResource spelling (`deployments.apps`).
fn own(resource: &str) -> &'static Sheet {
    workloads::sheet(resource)
        .or_else(|| network::sheet(resource))
        .or_else(|| config::sheet(resource))
        .or_else(|| storage::sheet(resource))
        .or_else(|| cluster::sheet(resource))
        .unwrap_or(&DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Key;
    use serde_json::json;

    #[test]
    fn every_row_has_a_cell_per_column_even_of_an_empty_object() {
        let resources = [
            "pods",
            "replicationcontrollers",
            "deployments.apps",
            "replicasets.apps",
            "statefulsets.apps",
            "daemonsets.apps",
            "jobs.batch",
            "cronjobs.batch",
            "controllerrevisions.apps",
            "podtemplates",
            "horizontalpodautoscalers.autoscaling",
            "poddisruptionbudgets.policy",
            "services",
            "endpoints",
            "endpointslices.discovery.k8s.io",
            "ingresses.networking.k8s.io",
            "ingressclasses.networking.k8s.io",
            "networkpolicies.networking.k8s.io",
            "configmaps",
            "secrets",
            "serviceaccounts",
            "events",
            "events.events.k8s.io",
            "nodes",
            "namespaces",
            "leases.coordination.k8s.io",
            "persistentvolumes",
            "persistentvolumeclaims",
            "storageclasses.storage.k8s.io",
            "volumeattachments.storage.k8s.io",
            "roles.rbac.authorization.k8s.io",
            "clusterroles.rbac.authorization.k8s.io",
            "rolebindings.rbac.authorization.k8s.io",
            "clusterrolebindings.rbac.authorization.k8s.io",
            "priorityclasses.scheduling.k8s.io",
            "runtimeclasses.node.k8s.io",
            "resourcequotas",
            "limitranges",
            "certificatesigningrequests.certificates.k8s.io",
            "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            "validatingwebhookconfigurations.admissionregistration.k8s.io",
            "widgets.example.com",
            "csidrivers.storage.k8s.io",
            "customresourcedefinitions.apiextensions.k8s.io",
        ];
        for resource in resources {
            let sheet = own(resource);
            for value in [json!({}), json!({"metadata": {"name": "x"}, "spec": null, "status": {"conditions": [{}]}})] {
                let row = (sheet.row)(&Object::new(Key::new(resource, "d", "x"), 1, value), 0);
                assert_eq!(row.len(), sheet.columns.len(), "{resource}");
                assert_eq!(sheet.columns[0].format == "name", row[0].as_str().is_some_and(|n| n.starts_with('x')));
            }
        }
    }
}
