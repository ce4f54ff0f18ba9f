//! `ResourceQuota`: whoever enters a namespace is counted in its quotas, or stays outside.
//!
//! The count is not kept beside the objects but with them: the transaction that stores an object also stores the new
//! `status.used` of every quota it counts in, and demands that the quotas are still the versions it was decided from.
//! So two creations can never both take the last place, on whichever members they arrive. What leaves is counted by
//! the quota controller, which may lag: a place is free a moment later than it could be, never sooner.

use std::sync::Arc;

use api::resources::{self, Amounts};
use api::{Object, Quantity, Resource, Status, View, quota};
use serde_json::{Value, json};

use crate::door::Beside;

/// Whether writes of this kind may be counted: every creation, and the changes that can cost more.
pub(crate) fn may_count(resource: &Resource, creating: bool, subresource: Option<&str>) -> bool {
    match (&*resource.name, subresource) {
        _ if !resource.namespaced || &*resource.name == "events" => false,
        ("services" | "persistentvolumeclaims", None) | ("pods", Some("resize")) => true,
        _ => creating,
    }
}

/// Whether a namespace has quotas.
pub(crate) fn has_quotas(view: &View, namespace: &str) -> bool {
    view.list_in(quota::QUOTAS, namespace).next().is_some()
}

/// The quotas that a new object, or a new version of `old`, counts in, with what is used from now on; 403 in the
/// words of kube-apiserver when one of them has too little left.
pub(crate) fn charge(
    view: &View,
    resource: &Resource,
    namespace: &str,
    name: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<Vec<Beside>, Status> {
    let mut quotas = view.list_in(quota::QUOTAS, namespace).peekable();
    if quotas.peek().is_none() {
        return Ok(Vec::new());
    }
    let refuse = |why: String| Status::forbidden(&resource.name, name, &why);
    let mut more = quota::usage(&resource.name, new);
    if let Some(old) = old {
        for (what, before) in quota::usage(&resource.name, old) {
            *more.entry(what).or_default() -= before;
        }
    }
    more.retain(|_, amount| !amount.is_zero());
    if more.values().any(Quantity::is_negative) && old.is_none() {
        let negative: Vec<&str> =
            more.iter().filter(|(_, amount)| amount.is_negative()).map(|(what, _)| what.as_str()).collect();
        return Err(refuse(format!("quota usage is negative for resource(s): {}", negative.join(","))));
    }
    let mut counted = Vec::new();
    for found in quotas.filter(|found| quota::is_about(&found.value, &resource.name, new)) {
        let hard = found.field("spec.hard");
        if &*resource.name == "pods"
            && let Some(missing) = quota::unspecified(hard, new)
        {
            return Err(refuse(format!("failed quota: {}: {missing}", found.name())));
        }
        let requested = quota::masked(more.clone(), hard);
        if !requested.is_empty() {
            counted.extend(count(view, found, hard, &requested).map_err(refuse)?);
        }
    }
    Ok(counted)
}

/// One quota with the request in it.
fn count(view: &View, found: &Arc<Object>, hard: &Value, requested: &Amounts) -> Result<Option<Beside>, String> {
    let mut used = used(view, found, hard);
    let limit = |what: &str| resources::quantity(&hard[what]).unwrap_or_default();
    let amount = |what: &str| used.get(what).copied().unwrap_or_default();
    let exceeded: Vec<&String> = requested
        .iter()
        .filter(|(what, more)| !more.is_negative() && amount(what) + **more > limit(what))
        .map(|(what, _)| what)
        .collect();
    if !exceeded.is_empty() {
        let list = |value: &dyn Fn(&str) -> Quantity| {
            exceeded.iter().map(|what| format!("{what}={}", value(what))).collect::<Vec<_>>().join(",")
        };
        return Err(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            found.name(),
            list(&|what| requested[what]),
            list(&amount),
            list(&limit),
        ));
    }
    // What becomes less is the controller's to write, once the change is done.
    if requested.values().all(Quantity::is_negative) {
        return Ok(None);
    }
    resources::add(&mut used, requested);
    let texts: serde_json::Map<String, Value> =
        used.into_iter().map(|(what, amount)| (what, json!(amount.to_string()))).collect();
    let mut value = found.whole().into_owned();
    value["status"] = json!({"hard": hard, "used": texts});
    Ok(Some(Beside { base: found.clone(), value }))
}

/// What is used of a quota. Where its status does not tell yet, everything is counted here.
fn used(view: &View, found: &Object, hard: &Value) -> Amounts {
    let told = resources::amounts(found.field("status.used"));
    let complete = found.field("status.hard") == hard
        && hard.as_object().is_some_and(|hard| hard.keys().all(|what| told.contains_key(what)));
    if complete { told } else { quota::tally(view, found) }
}
