//! How much a pod asks for and may use: sums over its containers, as every part of the cluster counts them.
//!
//! What runs together is added up, what each init container needs alone is only a peak; sidecars (init containers that
//! never end) run together with everything after them (KEP-753). The overhead of the pod's runtime is on top.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;

/// Amounts by the names of what they are amounts of: `cpu`, `memory`, `example.com/gpu`.
pub type Amounts = BTreeMap<String, Quantity>;

/// Which of a container's two lists is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `resources.requests`; a limit without a request is a request.
    Requests,
    /// `resources.limits`.
    Limits,
}

/// A quantity, which JSON may also write as a number.
#[must_use]
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => None,
    }
}

/// Reads a list such as `{"cpu": "100m", "memory": "64Mi"}`; what is no quantity is left out.
#[must_use]
pub fn amounts(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

/// One container's side.
#[must_use]
pub fn container(container: &Value, side: Side) -> Amounts {
    let resources = &container["resources"];
    match side {
        Side::Limits => amounts(&resources["limits"]),
        Side::Requests => {
            let mut asked = amounts(&resources["limits"]);
            asked.extend(amounts(&resources["requests"]));
            asked
        }
    }
}

/// Adds `more` to `sum`.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn at_least(amounts: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let is = amounts.entry(name.clone()).or_default();
        if *is < *amount {
            *is = *amount;
        }
    }
}

/// What a whole pod asks for or may use, from its `spec`.
#[must_use]
pub fn pod(spec: &Value, side: Side) -> Amounts {
    let list = |field: &str| spec[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let (mut running, mut peak) = (Amounts::new(), Amounts::new());
    for init in list("initContainers") {
        let mut moment = running.clone();
        add(&mut moment, &container(init, side));
        at_least(&mut peak, &moment);
        if init["restartPolicy"] == "Always" {
            running = moment;
        }
    }
    for main in list("containers") {
        add(&mut running, &container(main, side));
    }
    at_least(&mut running, &peak);
    let overhead = amounts(&spec["overhead"]);
    match side {
        Side::Requests => add(&mut running, &overhead),
        // Overhead raises a limit that there is; it makes none.
        Side::Limits => overhead.iter().for_each(|(name, amount)| {
            if let Some(limit) = running.get_mut(name) {
                *limit += *amount;
            }
        }),
    }
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sums_follow_what_runs_together() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}});
        for (init, main, millis) in [
            (json!([]), json!([container("100m"), container("200m")]), 300),
            (json!([container("500m")]), json!([container("100m")]), 500),
            (json!([sidecar]), json!([container("100m")]), 150),
            (json!([sidecar, container("500m")]), json!([container("100m")]), 550),
            (json!([]), json!([{"resources": {"limits": {"cpu": "1"}}}]), 1000),
        ] {
            let spec = json!({"initContainers": init, "containers": main});
            assert_eq!(pod(&spec, Side::Requests)["cpu"].millis(), millis, "{spec}");
        }
        let spec =
            json!({"containers": [{"resources": {"limits": {"cpu": "1"}}}], "overhead": {"cpu": "1", "memory": "1Mi"}});
        assert_eq!(pod(&spec, Side::Requests).len(), 2);
        assert_eq!(pod(&spec, Side::Limits), Amounts::from([("cpu".to_owned(), Quantity::from_units(2))]));
    }
}
