//! ControllerRevisions: the templates that a DaemonSet or a StatefulSet has had, for `kubectl rollout history` and
//! `undo`, and for pods that must be made from an earlier one.

use std::sync::Arc;

use api::{Action, Key, Object, Precondition, View};
use serde_json::{Value, json};

use crate::hash::template_hash;
use crate::owner::{self, Kind};
use crate::status;

/// The label that says which revision a pod was made from.
pub(crate) const HASH: &str = "controller-revision-hash";

const REVISIONS: &str = "controllerrevisions.apps";

/// The templates of one owner.
pub(crate) struct Revisions {
    /// Oldest number first.
    list: Vec<Arc<Object>>,
    /// Name of the one with the current template. It may be planned only.
    pub(crate) update: String,
    /// The label's value for it.
    pub(crate) update_hash: String,
}

/// Finds the revision of the owner's current template, or plans it; gives it the highest number.
pub(crate) fn sync(view: &View, owner: &Object, kind: &Kind, actions: &mut Vec<Action>) -> Revisions {
    let claim = owner::claim(view, owner, kind, REVISIONS);
    actions.extend(claim.actions);
    let mut list = claim.mine;
    list.sort_by_key(|revision| number(revision));
    let highest = list.last().map_or(0, |revision| number(revision));
    let mut template = owner.field("spec.template").clone();
    template["$patch"] = json!("replace");
    let data = json!({"spec": {"template": template}});
    if let Some(same) = list.iter().find(|revision| *revision.field("data") == data) {
        if number(same) < highest {
            actions.push(status::patch(same, json!({"revision": highest + 1})));
        }
        let (update, update_hash) = (same.name().to_owned(), same.label(HASH).unwrap_or_default().to_owned());
        return Revisions { list, update, update_hash };
    }
    let mut collisions = 0;
    let (mut hash, mut name);
    loop {
        hash = template_hash(owner.field("spec.template"), collisions);
        name = format!("{}-{hash}", owner.name());
        collisions += 1;
        if view.get(REVISIONS, owner.namespace(), &name).is_none() || collisions > crate::limits::COLLISIONS_MAX {
            break;
        }
    }
    let mut labels = owner.field("spec.template.metadata.labels").as_object().cloned().unwrap_or_default();
    labels.insert(HASH.to_owned(), json!(hash));
    let body = json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision", "data": data, "revision": highest + 1,
        "metadata": {
            "name": name, "namespace": owner.namespace(), "labels": labels,
            "ownerReferences": [owner::reference(owner, kind)],
        },
    });
    actions.push(Action::Create { key: Key::new(REVISIONS, owner.key.namespace.clone(), name.clone()), body });
    Revisions { list, update: name, update_hash: hash }
}

fn number(revision: &Object) -> i64 {
    revision.field("revision").as_i64().unwrap_or(0)
}

impl Revisions {
    /// The template and the label of a revision by name; `None` when there is none of that name.
    pub(crate) fn template(&self, name: &str) -> Option<(&Value, &str)> {
        let revision = self.list.iter().find(|revision| revision.name() == name)?;
        Some((revision.field("data.spec.template"), revision.label(HASH).unwrap_or_default()))
    }

    /// Deletes the oldest revisions that no pod was made from, beyond `revisionHistoryLimit`.
    pub(crate) fn tidy(&self, owner: &Object, pods: &[Arc<Object>], in_use: &str, actions: &mut Vec<Action>) {
        let keep = owner.field("spec.revisionHistoryLimit").as_u64().and_then(|limit| usize::try_from(limit).ok());
        let idle = self.list.iter().filter(|revision| {
            let name = revision.name();
            name != self.update && name != in_use && !pods.iter().any(|pod| pod.label(HASH) == revision.label(HASH))
        });
        let idle: Vec<_> = idle.collect();
        let surplus = idle.len().saturating_sub(keep.unwrap_or(10));
        actions.extend(idle.into_iter().take(surplus).map(|revision| Action::Delete {
            key: revision.key.clone(),
            precondition: Precondition::same(revision),
            grace_seconds: None,
        }));
    }
}
