//! What a node may do: its own Node object and lease, the pods bound to it, and what those pods need.
//!
//! The node is the user `system:node:NAME` in the group `system:nodes`, as kubelets are.

use api::volumes::{LOCAL, ON_NODE, VOLUMES};
use api::{Status, View};
use objects::User;
use serde_json::Value;

use super::Attributes;

const NODES: &str = "system:nodes";
const PREFIX: &str = "system:node:";
const READ: &[&str] = &["get", "list", "watch"];

/// What every node may read: (group, resource).
const READABLE: &[(&str, &str)] = &[
    ("", "nodes"),
    ("", "namespaces"),
    ("", "pods"),
    ("", "services"),
    ("", "endpoints"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "networkpolicies"),
    ("node.k8s.io", "runtimeclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "storageclasses"),
];

/// The node's name, if this is a node.
pub(crate) fn name(user: &User) -> Option<&str> {
    user.name.strip_prefix(PREFIX).filter(|_| user.is_in(NODES))
}

/// Whether this is a node that may do this.
pub(super) fn allowed(view: &View, user: &User, attributes: &Attributes) -> bool {
    let Some(node) = name(user) else { return false };
    let a = attributes;
    if !a.path.is_empty() {
        // Images that lie on other nodes: what every pod may run anyway.
        let image = a.path.strip_prefix("/kogia/nodes/").and_then(|path| path.split_once('/'));
        let image = image.is_some_and(|(_, path)| path.starts_with("images/v2/"));
        let code = a.path.starts_with("/kogia/code/");
        return a.verb == "get" && (image || code || a.path == "/kogia/relay");
    }
    let (verb, reads) = (a.verb.as_str(), READ.contains(&a.verb.as_str()));
    if reads && a.subresource.is_empty() && READABLE.contains(&(a.group.as_str(), a.resource.as_str())) {
        return true;
    }
    let writes = matches!(verb, "create" | "update" | "patch");
    match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
        ("", "nodes", "") => verb == "create" || (writes && a.name == node),
        ("", "nodes", "status") => writes && a.name == node,
        ("coordination.k8s.io", "leases", "") => {
            a.namespace == "kube-node-lease" && (verb == "create" || a.name == node) && (reads || writes)
        }
        ("", "persistentvolumes", "") => verb == "patch" && keeps(view, node, &a.name),
        ("", "pods", "") => verb == "delete" && bound(view, node, a),
        ("", "pods", "status") => writes && bound(view, node, a),
        ("" | "events.k8s.io", "events", "") => writes,
        // A pod of the namespace runs here, so the namespace's configuration may be needed here.
        ("", "configmaps" | "secrets", "") => reads && here(view, node, &a.namespace),
        ("", "serviceaccounts", "token") => verb == "create" && here(view, node, &a.namespace),
        ("", "serviceaccounts", "") => reads && here(view, node, &a.namespace),
        ("certificates.k8s.io", "certificatesigningrequests", "") => verb == "create" || reads,
        ("authentication.k8s.io", "tokenreviews", "") => verb == "create",
        ("authorization.k8s.io", "subjectaccessreviews", "") => verb == "create",
        _ => false,
    }
}

/// A volume that is a folder of this node: the node lets its object go once the data is gone.
fn keeps(view: &View, node: &str, volume: &str) -> bool {
    view.get(VOLUMES, "", volume).is_some_and(|volume| {
        let csi = volume.field("spec.csi");
        csi["driver"] == LOCAL && csi["volumeAttributes"][ON_NODE] == node
    })
}

fn bound(view: &View, node: &str, a: &Attributes) -> bool {
    view.get("pods", &a.namespace, &a.name).is_some_and(|pod| *pod.field("spec.nodeName") == node)
}

fn here(view: &View, node: &str, namespace: &str) -> bool {
    !namespace.is_empty() && view.pods_on(node).any(|pod| pod.namespace() == namespace)
}

/// A node registers itself and nobody else: the name stands in the body, where authorization does not look.
pub(crate) fn may_create(user: &User, resource: &str, body: &Value) -> Result<(), Status> {
    let Some(node) = name(user) else { return Ok(()) };
    let wanted = api::meta::name(body);
    let own = matches!(resource, "nodes" | "leases.coordination.k8s.io");
    if !own || wanted == node {
        return Ok(());
    }
    Err(Status::forbidden(resource, wanted, &format!("node {node:?} is not allowed to modify node {wanted:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key, Object};
    use serde_json::json;
    use std::sync::Arc;

    fn ask(view: &View, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let user = User { name: "system:node:n1".into(), groups: vec![NODES.into()], ..User::default() };
        let attributes = Attributes::in_words(verb, resource, namespace, name);
        allowed(view, &user, &attributes)
    }

    #[test]
    fn a_node_minds_its_own_business() {
        let mut view = View::default();
        for (name, node) in [("mine", "n1"), ("other", "n2")] {
            let value = json!({"metadata": {"name": name, "namespace": node}, "spec": {"nodeName": node}});
            view.apply(ChangeKind::Added, &Arc::new(Object::new(Key::new("pods", node, name), 1, value)));
        }
        for (name, node) in [("here", "n1"), ("there", "n2")] {
            let csi = json!({"driver": LOCAL, "volumeHandle": name, "volumeAttributes": {ON_NODE: node}});
            let value = json!({"metadata": {"name": name}, "spec": {"csi": csi}});
            view.apply(ChangeKind::Added, &Arc::new(Object::new(Key::new(VOLUMES, "", name), 2, value)));
        }
        for (verb, resource, namespace, name, expected) in [
            ("patch", "persistentvolumes", "", "here", true),
            ("patch", "persistentvolumes", "", "there", false),
            ("delete", "persistentvolumes", "", "here", false),
            ("patch", "nodes/status", "", "n1", true),
            ("patch", "nodes/status", "", "n2", false),
            ("delete", "nodes", "", "n1", false),
            ("update", "leases.coordination.k8s.io", "kube-node-lease", "n1", true),
            ("update", "leases.coordination.k8s.io", "kube-node-lease", "n2", false),
            ("update", "leases.coordination.k8s.io", "default", "n1", false),
            ("watch", "pods", "", "", true),
            ("patch", "pods/status", "n1", "mine", true),
            ("patch", "pods/status", "n2", "other", false),
            ("delete", "pods", "n1", "mine", true),
            ("create", "pods", "n1", "", false),
            ("get", "secrets", "n1", "s", true),
            ("get", "secrets", "n2", "s", false),
            ("list", "secrets", "", "", false),
            ("create", "events", "n1", "", true),
            ("list", "ingresses.networking.k8s.io", "", "", true),
            ("create", "deployments.apps", "n1", "", false),
        ] {
            assert_eq!(ask(&view, verb, resource, namespace, name), expected, "{verb} {resource} {namespace}/{name}");
        }
        let user = User { name: "system:node:n1".into(), groups: vec![NODES.into()], ..User::default() };
        for (path, expected) in [
            ("/kogia/nodes/n2/images/v2/a/blobs/x", true),
            ("/kogia/nodes/n2/exec", false),
            ("/kogia/nodes/images/v2", false),
            ("/kogia/relay", true),
            ("/kogia/code/0123-4567.cwasm", true),
            ("/kogia/snapshot", false),
        ] {
            let attributes = Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
            assert_eq!(allowed(&view, &user, &attributes), expected, "{path}");
        }
        assert!(may_create(&user, "nodes", &json!({"metadata": {"name": "n1"}})).is_ok());
        assert_eq!(may_create(&user, "nodes", &json!({"metadata": {"name": "n2"}})).unwrap_err().code, 403);
    }
}
