//! `LimitRanger`: what containers, pods and claims of a namespace ask for when they say nothing, and between which
//! bounds they may ask. Pure; the words are those of `plugin/pkg/admission/limitranger`.

use std::sync::Arc;

use api::resources::{self, Amounts, Side};
use api::{Object, Quantity, View, meta};
use serde_json::{Value, json};

const RANGES: &str = "limitranges";
/// Where a pod says what it was given.
const NOTE: &str = "kubernetes.io/limit-ranger";

fn ranges<'a>(view: &'a View, namespace: &'a str, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    let limits = |range: &'a Arc<Object>| range.field("spec.limits").as_array().into_iter().flatten();
    view.list_in(RANGES, namespace).flat_map(limits).filter(move |limit| limit["type"] == kind)
}

/// Gives a new pod's containers what the namespace's ranges have for those that do not say, then holds the pod to
/// every bound. The error says all that is wrong.
pub(super) fn pod(view: &View, namespace: &str, pod: &mut Value) -> Result<(), String> {
    fill(view, namespace, pod);
    let mut wrong = Vec::new();
    for limit in ranges(view, namespace, "Container") {
        for list in ["containers", "initContainers"] {
            for container in pod["spec"][list].as_array().into_iter().flatten() {
                let side = |side| resources::container(container, side);
                check(limit, &side(Side::Requests), &side(Side::Limits), &mut wrong);
            }
        }
    }
    for limit in ranges(view, namespace, "Pod") {
        let side = |side| resources::pod(&pod["spec"], side);
        check(limit, &side(Side::Requests), &side(Side::Limits), &mut wrong);
    }
    told(wrong)
}

/// Holds a new or changed claim to the bounds for storage.
pub(super) fn claim(view: &View, namespace: &str, claim: &Value) -> Result<(), String> {
    let asked = resources::amounts(&claim["spec"]["resources"]["requests"]);
    let mut wrong = Vec::new();
    for limit in ranges(view, namespace, "PersistentVolumeClaim") {
        let bounds = Bounds { kind: "PersistentVolumeClaim", requests: &asked, limits: &Amounts::new() };
        wrong.extend(each(&limit["min"]).filter_map(|(name, bound)| bounds.least(name, bound)));
        wrong.extend(each(&limit["max"]).filter_map(|(name, bound)| bounds.most_asked(name, bound)));
    }
    told(wrong)
}

/// Several errors read as Go's aggregates do.
fn told(wrong: Vec<String>) -> Result<(), String> {
    match wrong.len() {
        0 => Ok(()),
        1 => Err(wrong.into_iter().next().unwrap_or_default()),
        _ => Err(format!("[{}]", wrong.join(", "))),
    }
}

fn fill(view: &View, namespace: &str, pod: &mut Value) {
    let (mut limits, mut requests) = (Value::Null, Value::Null);
    for limit in ranges(view, namespace, "Container") {
        merge(&mut limits, &limit["default"]);
        merge(&mut requests, &limit["defaultRequest"]);
    }
    if limits.is_null() && requests.is_null() {
        return;
    }
    let mut notes = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, defaults, side) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let given = give(&mut container["resources"], field, defaults);
                if !given.is_empty() {
                    notes.push(format!("{} {side} for {word} {name}", given.join(", ")));
                }
            }
            // A limit without a request is a request (`SetDefaults_Pod`), which the bounds below look at.
            let limits = container["resources"]["limits"].clone();
            give(&mut container["resources"], "requests", &limits);
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        meta::metadata_map_mut(pod, "annotations").insert(NOTE.into(), json!(note));
    }
}

/// The first range that says something about a resource is heard.
fn merge(defaults: &mut Value, more: &Value) {
    for (name, amount) in more.as_object().into_iter().flatten() {
        if defaults.get(name).is_none() {
            defaults[name] = amount.clone();
        }
    }
}

/// Puts in what is missing; returns its names.
fn give(resources: &mut Value, field: &str, defaults: &Value) -> Vec<String> {
    let Some(defaults) = defaults.as_object().filter(|defaults| !defaults.is_empty()) else { return Vec::new() };
    let amounts = meta::object_mut(resources, field);
    let fresh: Vec<_> = defaults.iter().filter(|(name, _)| !amounts.contains_key(*name)).collect();
    fresh
        .into_iter()
        .map(|(name, amount)| {
            amounts.insert(name.clone(), amount.clone());
            name.clone()
        })
        .collect()
}

fn each(bounds: &Value) -> impl Iterator<Item = (&str, Quantity)> {
    let bounds = bounds.as_object().into_iter().flatten();
    bounds.filter_map(|(name, bound)| Some((name.as_str(), resources::quantity(bound)?)))
}

fn check(limit: &Value, requests: &Amounts, limits: &Amounts, wrong: &mut Vec<String>) {
    let bounds = Bounds { kind: limit["type"].as_str().unwrap_or_default(), requests, limits };
    wrong.extend(each(&limit["min"]).filter_map(|(name, bound)| bounds.least(name, bound)));
    wrong.extend(each(&limit["max"]).filter_map(|(name, bound)| bounds.most(name, bound)));
    wrong.extend(each(&limit["maxLimitRequestRatio"]).filter_map(|(name, bound)| bounds.ratio(name, bound)));
}

/// What something asks for and may use, held against one bound at a time.
struct Bounds<'a> {
    kind: &'a str,
    requests: &'a Amounts,
    limits: &'a Amounts,
}

impl Bounds<'_> {
    fn of(&self, name: &str) -> (Option<Quantity>, Option<Quantity>) {
        (self.requests.get(name).copied(), self.limits.get(name).copied())
    }

    /// `minConstraint`.
    fn least(&self, name: &str, bound: Quantity) -> Option<String> {
        let said = format!("minimum {name} usage per {} is {bound}", self.kind);
        match self.of(name) {
            (None, _) => Some(format!("{said}.  No request is specified")),
            (Some(request), _) if request < bound => Some(format!("{said}, but request is {request}")),
            (_, Some(limit)) if limit < bound => Some(format!("{said}, but limit is {limit}")),
            _ => None,
        }
    }

    /// `maxConstraint`.
    fn most(&self, name: &str, bound: Quantity) -> Option<String> {
        let said = format!("maximum {name} usage per {} is {bound}", self.kind);
        match self.of(name) {
            (_, None) => Some(format!("{said}.  No limit is specified")),
            (_, Some(limit)) if limit > bound => Some(format!("{said}, but limit is {limit}")),
            (Some(request), _) if request > bound => Some(format!("{said}, but request is {request}")),
            _ => None,
        }
    }

    /// `maxRequestConstraint`: for what has no limits.
    fn most_asked(&self, name: &str, bound: Quantity) -> Option<String> {
        let said = format!("maximum {name} usage per {} is {bound}", self.kind);
        match self.requests.get(name) {
            None => Some(format!("{said}.  No request is specified")),
            Some(request) if *request > bound => Some(format!("{said}, but request is {request}")),
            _ => None,
        }
    }

    /// `limitRequestRatioConstraint`.
    #[allow(clippy::cast_precision_loss)] // A ratio is told with six digits.
    fn ratio(&self, name: &str, bound: Quantity) -> Option<String> {
        let said = format!("{name} max limit to request ratio per {} is {bound}", self.kind);
        let (request, limit) = self.of(name);
        let is_there = |amount: &Quantity| !amount.is_zero();
        let Some(request) = request.filter(is_there) else {
            return Some(format!("{said}, but no request is specified or request is 0"));
        };
        let Some(limit) = limit.filter(is_there) else {
            return Some(format!("{said}, but no limit is specified or limit is 0"));
        };
        let ratio = limit.millis() as f64 / request.millis() as f64;
        (ratio * 1000.0 > bound.millis() as f64).then(|| format!("{said}, but provided ratio is {ratio:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key};

    fn view(limits: &Value) -> View {
        let mut view = View::default();
        let value = json!({"metadata": {"name": "l", "namespace": "shop"}, "spec": {"limits": limits}});
        view.apply(ChangeKind::Added, &Arc::new(Object::new(Key::new(RANGES, "shop", "l"), 1, value)));
        view
    }

    fn asking(resources: &Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn containers_get_what_they_do_not_say() {
        let view = view(&json!([{"type": "Container", "default": {"memory": "64Mi", "cpu": "1"},
            "defaultRequest": {"memory": "32Mi"}}]));
        let mut web = asking(&json!({"limits": {"cpu": "2"}}));
        pod(&view, "shop", &mut web).unwrap();
        let given = &web["spec"]["containers"][0]["resources"];
        assert_eq!(given["limits"], json!({"memory": "64Mi", "cpu": "2"}));
        assert_eq!(given["requests"], json!({"memory": "32Mi", "cpu": "2"}));
        let note = "LimitRanger plugin set: memory request for container c; memory limit for container c";
        assert_eq!(web["metadata"]["annotations"][NOTE], note);
        let mut elsewhere = asking(&json!({}));
        pod(&view, "other", &mut elsewhere).unwrap();
        assert_eq!(elsewhere, asking(&json!({})));
    }

    #[test]
    fn bounds_are_told_in_kubernetes_words() {
        for (limit, resources, expected) in [
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                json!({"requests": {"cpu": "50m"}}),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                json!({}),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                json!({"type": "Container", "max": {"memory": "128Mi"}}),
                json!({"limits": {"memory": "1Gi"}}),
                "maximum memory usage per Container is 128Mi, but limit is 1Gi",
            ),
            (
                json!({"type": "Pod", "max": {"memory": "128Mi"}}),
                json!({}),
                "maximum memory usage per Pod is 128Mi.  No limit is specified",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "250m"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000",
            ),
            (
                json!({"type": "Container", "max": {"cpu": "1", "memory": "1Gi"}}),
                json!({"limits": {"cpu": "2", "memory": "2Gi"}}),
                "[maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per Container is 1Gi, \
                 but limit is 2Gi]",
            ),
        ] {
            assert_eq!(pod(&view(&json!([limit])), "shop", &mut asking(&resources)).unwrap_err(), expected);
        }
        let storage =
            view(&json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]));
        let ask =
            |size: &str| claim(&storage, "shop", &json!({"spec": {"resources": {"requests": {"storage": size}}}}));
        assert_eq!(ask("2Gi"), Ok(()));
        let less = "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi";
        assert_eq!(ask("1Mi"), Err(less.to_owned()));
        let more = "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi";
        assert_eq!(ask("3Gi"), Err(more.to_owned()));
    }
}
