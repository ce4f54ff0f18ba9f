//! Empties a namespace that is being deleted, then lets it go.
//!
//! Pods go first, since what they read (volumes' claims, configuration, policies) must outlive them; everything else
//! follows when no pod is left (KEP-5080). The last act is taking `kubernetes` off `spec.finalizers`.

use std::sync::Arc;

use api::{Action, Change, Key, Object, Precondition, View};
use serde_json::{Value, json};

use crate::status::{self, Condition};
use crate::{World, limits};

const FINALIZER: &str = "kubernetes";

/// A namespace wakes with itself and, while it is going, with everything in it.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let key = &change.object.key;
    if &*key.resource == "namespaces" {
        return vec![key.clone()];
    }
    let namespace = view.get("namespaces", "", &key.namespace);
    let going = namespace.filter(|namespace| namespace.deletion_timestamp().is_some());
    going.map(|namespace| namespace.key.clone()).into_iter().collect()
}

/// One namespace.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(namespace) = world.view.at(key).filter(|namespace| namespace.deletion_timestamp().is_some()) else {
        return Vec::new();
    };
    let finalizers = namespace.field("spec.finalizers").as_array().map_or(&[][..], Vec::as_slice);
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Vec::new();
    }
    let content = content(world.view, namespace.name());
    if content.is_empty() {
        let left: Vec<&Value> = finalizers.iter().filter(|finalizer| **finalizer != FINALIZER).collect();
        return vec![Action::Patch {
            key: key.clone(),
            subresource: Some("finalize"),
            patch: json!({"spec": {"finalizers": left}}),
            precondition: Precondition::unchanged(namespace),
        }];
    }
    let waiting: Vec<_> = content.iter().filter(|object| object.deletion_timestamp().is_none()).collect();
    let mut actions = describe(world, namespace, &content);
    actions.extend(waiting.iter().take(limits::SWEEP_MAX).map(|object| Action::Delete {
        key: object.key.clone(),
        precondition: Precondition::same(object),
        grace_seconds: None,
    }));
    actions
}

/// What must go now: the pods, or everything else once there are none.
fn content(view: &View, namespace: &str) -> Vec<Arc<Object>> {
    let pods: Vec<_> = view.list_in("pods", namespace).cloned().collect();
    if !pods.is_empty() {
        return pods;
    }
    view.resources().flat_map(|resource| view.list_in(resource, namespace)).cloned().collect()
}

fn describe(world: &World<'_>, namespace: &Object, content: &[Arc<Object>]) -> Vec<Action> {
    let mut conditions = status::conditions(namespace);
    let remaining = format!("Some resources are remaining: {}", census(content));
    let finalizers: Vec<&str> = content.iter().flat_map(|object| object.finalizers()).collect();
    let held = !finalizers.is_empty();
    let waiting = "Some content in the namespace has finalizers remaining";
    let free = "All content successfully deleted";
    for condition in [
        Condition {
            type_: "NamespaceContentRemaining",
            status: "True",
            reason: "SomeResourcesRemain",
            message: &remaining,
        },
        Condition {
            type_: "NamespaceFinalizersRemaining",
            status: if held { "True" } else { "False" },
            reason: if held { "SomeFinalizersRemain" } else { "ContentHasNoFinalizers" },
            message: if held { waiting } else { free },
        },
    ] {
        status::put(&mut conditions, &condition, None, world.now_ms);
    }
    let patch = json!({"status": {"phase": "Terminating", "conditions": conditions}});
    if namespace.field("status.conditions") == &patch["status"]["conditions"] {
        return Vec::new();
    }
    let precondition = Precondition::unchanged(namespace);
    vec![Action::Patch { key: namespace.key.clone(), subresource: Some("status"), patch, precondition }]
}

/// `pods. has 3 resource instances`, as Kubernetes words it.
fn census(content: &[Arc<Object>]) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for object in content {
        *counts.entry(&object.key.resource).or_default() += 1;
    }
    let parts = counts.into_iter().map(|(resource, count)| {
        let dotted = if resource.contains('.') { resource.to_owned() } else { format!("{resource}.") };
        format!("{dotted} has {count} resource instances")
    });
    parts.collect::<Vec<_>>().join(", ")
}
