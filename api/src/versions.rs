//! Kubernetes' own resources that are served in two forms and stored in one: which they are, and one as the other.
//!
//! * autoscaling/v1 HorizontalPodAutoscaler, stored as autoscaling/v2 ([`autoscaler`]).
//! * events.k8s.io/v1 Event, stored as the core group's Event: the same object under other names of its fields.
//!
//! Custom resources differ by `apiVersion` alone ([`Resource::in_version`]).

mod autoscaler;

use serde_json::{Value, json};

use crate::kinds::Resource;

/// Fields of events.k8s.io/v1 with their names in the core group.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Whether objects of this row are stored as another row's, which is the one that has the name first.
#[must_use]
pub fn is_converted(resource: &Resource) -> bool {
    is_autoscaler(resource) || is_event(resource)
}

fn is_autoscaler(resource: &Resource) -> bool {
    resource.group == "autoscaling" && resource.version == "v1"
}

fn is_event(resource: &Resource) -> bool {
    resource.group == "events.k8s.io"
}

/// A stored object as a converted row shows it.
pub(crate) fn shown(resource: &Resource, object: &Value) -> Value {
    if is_autoscaler(resource) {
        return autoscaler::shown(object);
    }
    let mut object = object.clone();
    object["apiVersion"] = json!("events.k8s.io/v1");
    for (new, core) in RENAMED {
        rename(&mut object, core, new);
    }
    object
}

/// An object that was written to a converted row, as it is stored.
pub(crate) fn stored(resource: &Resource, mut object: Value) -> Value {
    if is_autoscaler(resource) {
        return autoscaler::stored(object);
    }
    object["apiVersion"] = json!("v1");
    for (new, core) in RENAMED {
        rename(&mut object, new, core);
    }
    object
}

fn rename(object: &mut Value, from: &str, to: &str) {
    let Some(fields) = object.as_object_mut() else { return };
    if let Some(value) = fields.remove(from) {
        fields.insert(to.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalog;

    #[test]
    fn an_event_is_the_same_under_both_groups() {
        let catalog = Catalog::builtin();
        let row = catalog.find("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(catalog.by_name(&row.name).unwrap().group, "");
        let note = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "x", "type": "Normal",
            "regarding": {"kind": "Pod"}, "reportingController": "me", "deprecatedCount": 2});
        let core = stored(row, note.clone());
        let expected = json!({"apiVersion": "v1", "kind": "Event", "message": "x", "type": "Normal",
            "involvedObject": {"kind": "Pod"}, "reportingComponent": "me", "count": 2});
        assert_eq!(core, expected);
        assert_eq!(shown(row, &core), note);
    }
}
