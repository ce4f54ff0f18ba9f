//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.

use api::{Action, Change, Key, View};
use serde_json::json;

use crate::{World, status};

const ACCOUNT: &str = "default";
const CA_MAP: &str = "kube-root-ca.crt";

/// A namespace wakes with itself and with the two objects.
pub(crate) fn keys(change: &Change, _: &View) -> Vec<Key> {
    let key = &change.object.key;
    match (&*key.resource, &*key.name) {
        ("namespaces", _) => vec![key.clone()],
        ("serviceaccounts", ACCOUNT) | ("configmaps", CA_MAP) => {
            vec![Key::new("namespaces", "", key.namespace.clone())]
        }
        _ => Vec::new(),
    }
}

/// One namespace.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(namespace) = world.view.at(key).filter(|namespace| namespace.deletion_timestamp().is_none()) else {
        return Vec::new();
    };
    let name = namespace.name();
    let mut actions = Vec::new();
    if world.view.get("serviceaccounts", name, ACCOUNT).is_none() {
        let body = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": name},
        });
        actions.push(Action::Create { key: Key::new("serviceaccounts", name, ACCOUNT), body });
    }
    let data = json!({"ca.crt": &*world.settings.cluster_ca});
    match world.view.get("configmaps", name, CA_MAP) {
        None => {
            let why = "The certificate authority of the API server, for clients inside the cluster.";
            let body = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "data": data,
                "metadata": {
                    "name": CA_MAP, "namespace": name, "annotations": {"kubernetes.io/description": why},
                },
            });
            actions.push(Action::Create { key: Key::new("configmaps", name, CA_MAP), body });
        }
        Some(map) => {
            if let Some(diff) = status::merge_diff(&map.value["data"], &data) {
                actions.push(status::patch(map, json!({ "data": diff })));
            }
        }
    }
    actions
}
