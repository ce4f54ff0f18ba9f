//! Who belongs to whom: references, adoption, release, and names for children.

use std::sync::Arc;

use api::selector::LabelSelector;
use api::{Action, Key, Object, View, meta};
use serde_json::{Value, json};

use crate::{hash, status};

/// What kind of object an owner is.
pub(crate) struct Kind {
    /// `deployments.apps`.
    pub resource: &'static str,
    /// `apps/v1`.
    pub api_version: &'static str,
    /// `Deployment`.
    pub kind: &'static str,
}

/// The `ownerReferences` entry of the one owner that manages an object.
pub(crate) fn reference(owner: &Object, kind: &Kind) -> Value {
    meta::controlled_by(owner, kind.api_version, kind.kind)
}

/// `spec.selector` of an owner.
pub(crate) fn selector(owner: &Object) -> LabelSelector {
    let selector = &owner.value["spec"]["selector"];
    // The core group's older owners have a plain map.
    let plain = &*owner.key.resource == "replicationcontrollers" && selector.is_object();
    if plain { LabelSelector::from_labels(selector) } else { LabelSelector::from_value(selector) }
}

/// The key of an object's controller, when that is of this kind.
pub(crate) fn controller_key(object: &Object, kind: &Kind) -> Option<Key> {
    let owners = object.value["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    if owner["kind"] != kind.kind || owner["apiVersion"] != kind.api_version {
        return None;
    }
    Some(Key::new(kind.resource, object.key.namespace.clone(), owner["name"].as_str()?))
}

/// The keys that a change of a child wakes: its controller before and after, or, for an orphan, everybody whose
/// selector would adopt it.
pub(crate) fn keys_of_child(object: &Object, previous: Option<&Arc<Object>>, view: &View, kind: &Kind) -> Vec<Key> {
    let mut keys: Vec<Key> = controller_key(object, kind).into_iter().collect();
    if let Some(old) = previous.and_then(|old| controller_key(old, kind)) {
        keys.push(old);
    }
    if object.controller_uid().is_none() && object.deletion_timestamp().is_none() {
        let candidates = view.list_in(kind.resource, object.namespace());
        let adopting = candidates.filter(|owner| selector(owner).matches(&object.value["metadata"]["labels"]));
        keys.extend(adopting.map(|owner| owner.key.clone()));
    }
    keys.dedup();
    keys
}

/// What an owner has, and what must be done so that the cluster agrees.
#[derive(Default)]
pub(crate) struct Claim {
    /// Its children, the just adopted included.
    pub mine: Vec<Arc<Object>>,
    /// Adoptions and releases.
    pub actions: Vec<Action>,
}

/// Finds an owner's children: adopts orphans that its selector matches, releases children that it no longer matches.
/// An owner on its way out does neither.
pub(crate) fn claim(view: &View, owner: &Object, kind: &Kind, children: &str) -> Claim {
    let selector = selector(owner);
    let matches = |child: &Object| selector.matches(&child.value["metadata"]["labels"]);
    let mut claim = Claim::default();
    let leaving = owner.deletion_timestamp().is_some();
    // Without a selector an owner keeps what it made and adopts nothing.
    let unselective = owner.value["spec"]["selector"].is_null();
    for child in view.owned(owner.uid()).filter(|child| &*child.key.resource == children) {
        if leaving || unselective || matches(child) {
            claim.mine.push(child.clone());
        } else if child.deletion_timestamp().is_none() {
            claim.actions.push(release(child, owner.uid()));
        }
    }
    if leaving || selector.is_everything() {
        return claim;
    }
    for orphan in view.list_in(children, owner.namespace()) {
        let free = orphan.controller_uid().is_none() && orphan.deletion_timestamp().is_none();
        if free && matches(orphan) {
            claim.actions.push(adopt(orphan, owner, kind));
            claim.mine.push(orphan.clone());
        }
    }
    claim
}

fn adopt(child: &Object, owner: &Object, kind: &Kind) -> Action {
    let mut owners = child.value["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    owners.push(reference(owner, kind));
    status::patch(child, json!({"metadata": {"ownerReferences": owners}}))
}

/// Removes every reference to one owner.
pub(crate) fn release(child: &Object, owner_uid: &str) -> Action {
    let mut owners = child.value["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    owners.retain(|owner| owner["uid"] != owner_uid);
    let owners = if owners.is_empty() { Value::Null } else { Value::Array(owners) };
    status::patch(child, json!({"metadata": {"ownerReferences": owners}}))
}

/// A name for the `index`-th child made in a turn: `web-` becomes `web-x7k2p`.
///
/// They follow from the owner and the revision of the picture, so a turn repeated on the same picture asks for the
/// same names and a collision is refused instead of making twins.
pub(crate) fn child_name(prefix: &str, owner: &Object, view: &View, index: usize) -> String {
    let hash = hash::hash64(&[owner.uid(), &view.revision().to_string(), &index.to_string()]);
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    meta::generate_name(prefix, [a, b, c, d, e])
}

/// A pod made from `spec.template` of its owner.
pub(crate) fn pod_from_template(owner: &Object, kind: &Kind, name: String) -> (Key, Value) {
    let template = &owner.value["spec"]["template"];
    let meta = &template["metadata"];
    let mut body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": owner.namespace(), "ownerReferences": [reference(owner, kind)],
        },
        "spec": template["spec"],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !meta[field].is_null() {
            body["metadata"][field] = meta[field].clone();
        }
    }
    (Key::new("pods", owner.key.namespace.clone(), name), body)
}
