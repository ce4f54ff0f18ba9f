//! Whether a pod template may run on a node, as far as labels and taints say: what the DaemonSet controller and
//! eviction must know without asking the scheduler.

use api::Object;
use api::selector::Requirement;
use serde_json::Value;

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let same =
        |field: &str| toleration[field].as_str().unwrap_or_default() == taint[field].as_str().unwrap_or_default();
    let empty = |field: &str| toleration[field].as_str().is_none_or(str::is_empty);
    let exists = toleration["operator"] == "Exists";
    (empty("effect") || same("effect")) && (same("key") || (empty("key") && exists)) && (exists || same("value"))
}

/// The first taint of a node with one of these effects that no toleration covers.
pub(crate) fn untolerated<'a>(tolerations: &[Value], node: &'a Object, effects: &[&str]) -> Option<&'a Value> {
    let taints = node.field("spec.taints").as_array().into_iter().flatten();
    let mut taints = taints.filter(|taint| effects.iter().any(|effect| taint["effect"] == *effect));
    taints.find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// `nodeSelector` and required node affinity of a pod's `spec`.
pub(crate) fn fits(spec: &Value, node: &Object) -> bool {
    let selector = spec["nodeSelector"].as_object().into_iter().flatten();
    let mut selector = selector.map(|(name, value)| node.label(name) == value.as_str());
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = required["nodeSelectorTerms"].as_array();
    selector.all(|fits| fits) && terms.is_none_or(|terms| terms.iter().any(|term| holds(term, node)))
}

fn holds(term: &Value, node: &Object) -> bool {
    let entries = |field: &str| term[field].as_array().map_or(&[][..], Vec::as_slice);
    let (labels, fields) = (entries("matchExpressions"), entries("matchFields"));
    let allows = |entry: &Value, value: &dyn Fn(&str) -> Option<String>| {
        Requirement::from_value(entry).is_some_and(|requirement| {
            let value = value(&requirement.key);
            requirement.allows(value.as_deref())
        })
    };
    let label = |name: &str| node.label(name).map(str::to_owned);
    let field = |name: &str| (name == "metadata.name").then(|| node.name().to_owned());
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|entry| allows(entry, &label))
        && fields.iter().all(|entry| allows(entry, &field))
}

/// One of a StorageClass's `allowedTopologies`.
pub(crate) fn in_topology(term: &Value, node: &Object) -> bool {
    let mut entries = term["matchLabelExpressions"].as_array().into_iter().flatten();
    entries.all(|entry| {
        let label = entry["key"].as_str().and_then(|key| node.label(key));
        let values = entry["values"].as_array().map(Vec::as_slice).unwrap_or_default();
        label.is_some_and(|label| values.iter().any(|value| value == label))
    })
}
