//! How many replicas a metric asks for (`ReplicaCalculator` of kube-controller-manager).
//!
//! The use of the pods is set against the target; what is within the tolerance changes nothing. Pods without figures
//! are taken to use nothing when there would be more of them, and everything they may when there would be fewer: the
//! number never moves on account of what is not known.

use std::sync::Arc;

use api::resources::{self, Side};
use api::selector::LabelSelector;
use api::{Object, Quantity};
use serde_json::{Value, json};

use crate::{World, limits, moment, pods};

/// What one metric asks for.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) replicas: i64,
    /// `cpu resource utilization (percentage of request) above target`.
    pub(super) why: String,
    /// `cpu resource utilization (percentage of request)`.
    pub(super) source: String,
    /// The entry of `status.currentMetrics`.
    pub(super) shown: Value,
}

impl Answer {
    fn told(wanted: i64, current: i64, source: String, shown: Value) -> Self {
        let side = if wanted > current { "above" } else { "below" };
        let why =
            if wanted < current { "All metrics below target".to_owned() } else { format!("{source} {side} target") };
        Self { replicas: wanted, why, source, shown }
    }
}

/// How far from the target nothing is done, upwards and downwards, as a share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    up: f64,
    down: f64,
}

impl Tolerance {
    /// `spec.behavior.{scaleUp,scaleDown}.tolerance`, a tenth by default.
    #[allow(clippy::cast_precision_loss)] // A tolerance is told in thousandths.
    pub(super) fn of(behavior: &Value) -> Self {
        let side = |side: &str| {
            let given = resources::quantity(&behavior[side]["tolerance"]);
            given.map_or(limits::AUTOSCALER_TOLERANCE, |given| given.millis() as f64 / 1000.0)
        };
        Self { up: side("scaleUp"), down: side("scaleDown") }
    }

    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// The pods of a target, with their figures.
pub(super) struct Pods<'a> {
    world: &'a World<'a>,
    namespace: &'a str,
    list: Vec<&'a Arc<Object>>,
}

/// One pod's figure for one resource.
enum Figure {
    Used(i64),
    /// It is not ready yet, or too young for its figures to mean anything.
    Unready,
    Missing,
}

impl<'a> Pods<'a> {
    pub(super) fn of(world: &'a World<'a>, namespace: &'a str, selector: &LabelSelector) -> Self {
        let selected = world.view.select("pods", namespace, selector);
        let live = selected.filter(|pod| pod.deletion_timestamp().is_none() && pods::phase(pod) != "Failed");
        Self { world, namespace, list: live.collect() }
    }

    fn figure(&self, pod: &Object, resource: &str, container: Option<&str>) -> Figure {
        if pods::phase(pod) == "Pending" {
            return Figure::Unready;
        }
        let Some(usage) = self.world.usage.pod(pod.namespace(), pod.name()) else { return Figure::Missing };
        let now = self.world.now_ms;
        if resource == "cpu" {
            // A pod that starts uses more than it will.
            let started = moment::ms(pod.field("status.startTime")).unwrap_or(0);
            let young = started + limits::AUTOSCALER_INITIAL_MS > now;
            if !pods::is_ready(pod) && (young || pods::ready_since(pod).is_none()) {
                return Figure::Unready;
            }
        }
        let named = usage.containers.iter().filter(|(name, _)| container.is_none_or(|only| only == *name));
        let amount = |usage: &api::usage::Usage| {
            let amount = if resource == "cpu" { usage.nano_cpus.div_ceil(1_000_000) } else { usage.memory_bytes };
            i64::try_from(amount).unwrap_or(i64::MAX)
        };
        let amounts: Vec<i64> = named.map(|(_, usage)| amount(usage)).collect();
        if amounts.is_empty() { Figure::Missing } else { Figure::Used(amounts.iter().sum()) }
    }

    /// What a pod asks for of a resource, in the unit that its use is counted in.
    fn request(pod: &Object, resource: &str, container: Option<&str>) -> Result<i64, String> {
        let mut sum = 0;
        let lists = ["containers", "initContainers"].into_iter().flat_map(|list| {
            let sidecars = list == "initContainers";
            let containers = pod.value["spec"][list].as_array().into_iter().flatten();
            containers.filter(move |container| !sidecars || container["restartPolicy"] == "Always")
        });
        for one in lists.filter(|one| container.is_none_or(|name| one["name"] == name)) {
            let asked = resources::container(one, Side::Requests).get(resource).copied();
            let Some(asked) = asked else {
                let name = one["name"].as_str().unwrap_or_default();
                return Err(format!("missing request for {resource} in container {name} of Pod {}", pod.name()));
            };
            sum += in_units(resource, asked);
        }
        Ok(sum)
    }
}

fn in_units(resource: &str, amount: Quantity) -> i64 {
    if resource == "cpu" { amount.millis() } else { amount.bytes() }
}

fn written(resource: &str, amount: i64) -> String {
    let amount = if resource == "cpu" { Quantity::from_millis(amount) } else { Quantity::from_bytes(amount) };
    amount.to_string()
}

/// What one entry of `spec.metrics` asks for; the error is a condition's reason and what is wrong.
pub(super) fn ask(
    spec: &Value,
    pods: &Pods<'_>,
    current: i64,
    tolerance: Tolerance,
) -> Result<Answer, (&'static str, String)> {
    match spec["type"].as_str().unwrap_or_default() {
        "Resource" => of_resource(&spec["resource"], None, "resource", pods, current, tolerance)
            .map_err(|why| ("FailedGetResourceMetric", why)),
        "ContainerResource" => {
            let source = &spec["containerResource"];
            of_resource(source, source["container"].as_str(), "containerResource", pods, current, tolerance)
                .map_err(|why| ("FailedGetContainerResourceMetric", why))
        }
        "Pods" => Err(("FailedGetPodsMetric", nobody("custom.metrics.k8s.io"))),
        "Object" => of_object(&spec["object"], pods, current, tolerance).map_err(|why| ("FailedGetObjectMetric", why)),
        "External" => Err(("FailedGetExternalMetric", nobody("external.metrics.k8s.io"))),
        other => Err(("InvalidMetricSourceType", format!("unknown metric source type {other:?}"))),
    }
}

/// Requests per second that a route answers: the metric that Kubernetes' walkthrough of autoscaling shows.
const REQUESTS: &str = "requests-per-second";
/// What can be asked for it: kind, resource, how nodes call it.
const ROUTES: [(&str, &str, &str); 2] = [
    ("Ingress", "ingresses.networking.k8s.io", "ingress"),
    ("HTTPRoute", "httproutes.gateway.networking.k8s.io", "httproute"),
];

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // Ratios of rates.
fn of_object(source: &Value, pods: &Pods<'_>, current: i64, tolerance: Tolerance) -> Result<Answer, String> {
    let (object, metric) = (&source["describedObject"], source["metric"]["name"].as_str().unwrap_or_default());
    let (kind, name) = (object["kind"].as_str().unwrap_or_default(), object["name"].as_str().unwrap_or_default());
    let cannot = |why: &str| format!("unable to get metric {metric}: {kind} on {} {name}: {why}", pods.namespace);
    let (_, resource, route) = *ROUTES
        .iter()
        .find(|(known, ..)| *known == kind && metric == REQUESTS)
        .ok_or_else(|| cannot(&format!("only {REQUESTS} of an Ingress or HTTPRoute is measured")))?;
    if pods.world.view.get(resource, pods.namespace, name).is_none() {
        return Err(cannot("it does not exist"));
    }
    let told = pods.world.usage.requests(&format!("{route}/{}/{name}", pods.namespace));
    let rate = told.ok_or_else(|| cannot("no node has told of its routes"))?;
    let rate = i64::try_from(rate).unwrap_or(i64::MAX);
    let target = &source["target"];
    let amount =
        |field: &str| resources::quantity(&target[field]).map(|amount| amount.millis()).filter(|amount| *amount > 0);
    let (wanted, shown) = match (amount("value"), amount("averageValue")) {
        (Some(value), _) => {
            let ratio = rate as f64 / value as f64;
            let ready = pods.list.iter().filter(|pod| pods::is_ready(pod)).count() as f64;
            let wanted = if tolerance.covers(ratio) { current } else { (ratio * ready - 1e-9).ceil() as i64 };
            (wanted, json!({"value": Quantity::from_millis(rate).to_string()}))
        }
        (None, Some(average)) => {
            let ratio = rate as f64 / (average as f64 * current.max(1) as f64);
            let wanted =
                if tolerance.covers(ratio) { current } else { (rate as f64 / average as f64 - 1e-9).ceil() as i64 };
            (wanted, json!({"averageValue": Quantity::from_millis(rate / current.max(1)).to_string()}))
        }
        (None, None) => {
            return Err(
                "invalid object metric source: neither a value target nor an average value target was set".to_owned()
            );
        }
    };
    let source = format!("{kind} metric {metric}");
    let shown = json!({"metric": {"name": metric}, "describedObject": object, "current": shown});
    Ok(Answer::told(wanted, current, source, json!({"type": "Object", "object": shown})))
}

fn nobody(group: &str) -> String {
    format!("unable to fetch metrics from API: no {group} API is registered")
}

fn of_resource(
    source: &Value,
    container: Option<&str>,
    field: &str,
    pods: &Pods<'_>,
    current: i64,
    tolerance: Tolerance,
) -> Result<Answer, String> {
    let resource = source["name"].as_str().unwrap_or_default();
    if !matches!(resource, "cpu" | "memory") {
        return Err(format!("unable to get metric {resource}: only cpu and memory are measured"));
    }
    let target = &source["target"];
    let percent = target["averageUtilization"].as_i64();
    let value = resources::quantity(&target["averageValue"]).map(|amount| in_units(resource, amount));
    let counted = count(pods, resource, container, percent.is_some())?;
    let (ratio_of, average) = (counted.sum, counted.average());
    let mut shown = json!({"name": resource, "current": {"averageValue": written(resource, average)}});
    if let Some(container) = container {
        shown["container"] = json!(container);
    }
    let (wanted, source) = match (percent, value) {
        (Some(percent), _) => {
            let utilization = ratio_of.saturating_mul(100) / counted.requests.max(1);
            shown["current"]["averageUtilization"] = json!(utilization);
            let wanted = counted.replicas(current, counted.requests.saturating_mul(percent) / 100, tolerance);
            (wanted, format!("{resource} {} utilization (percentage of request)", word(field)))
        }
        (None, Some(value)) => {
            (counted.replicas(current, value.saturating_mul(counted.used), tolerance), format!("{resource} {}", word(field)))
        }
        (None, None) => return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned()),
    };
    let kind = if field == "resource" { "Resource" } else { "ContainerResource" };
    Ok(Answer::told(wanted, current, source, json!({"type": kind, field: shown})))
}

fn word(field: &str) -> &'static str {
    if field == "resource" { "resource" } else { "container resource" }
}

/// The figures of all pods together.
struct Counted {
    sum: i64,
    /// What the pods with figures ask for.
    requests: i64,
    used: i64,
    unready: i64,
    missing: i64,
}

fn count(pods: &Pods<'_>, resource: &str, container: Option<&str>, with_requests: bool) -> Result<Counted, String> {
    let mut counted = Counted { sum: 0, requests: 0, used: 0, unready: 0, missing: 0 };
    for pod in &pods.list {
        let request = if with_requests { Pods::request(pod, resource, container)? } else { 0 };
        match pods.figure(pod, resource, container) {
            Figure::Used(used) => {
                counted.sum += used;
                counted.requests += request;
                counted.used += 1;
            }
            Figure::Unready => counted.unready += 1,
            Figure::Missing => counted.missing += 1,
        }
    }
    if pods.list.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    if counted.used == 0 {
        let why = if counted.missing == 0 {
            "did not receive metrics for targeted pods (pods might be unready)"
        } else {
            "no metrics returned from resource metrics API"
        };
        return Err(format!(
            "failed to get {resource} utilization: unable to get metrics for resource {resource}: {why}"
        ));
    }
    Ok(counted)
}

impl Counted {
    fn average(&self) -> i64 {
        self.sum / self.used.max(1)
    }

    /// How many replicas bring the use to the target, `goal` being the target for all pods with figures.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // Ratios of amounts; bounded below.
    fn replicas(&self, current: i64, goal: i64, tolerance: Tolerance) -> i64 {
        let goal_of_one = goal as f64 / self.used.max(1) as f64;
        let ratio = self.sum as f64 / (goal as f64).max(1.0);
        if self.unready == 0 && self.missing == 0 {
            return if tolerance.covers(ratio) { current } else { (ratio * self.used as f64 - 1e-9).ceil() as i64 };
        }
        // More: those without figures use nothing. Fewer: those that miss use all that they should.
        let (sum, pods) = if ratio > 1.0 {
            (self.sum as f64, self.used + self.missing + self.unready)
        } else {
            (self.sum as f64 + goal_of_one * self.missing as f64, self.used + self.missing)
        };
        let corrected = sum / (goal_of_one * pods as f64).max(1.0);
        let turned = (ratio > 1.0) != (corrected > 1.0) && corrected != 1.0;
        if turned || tolerance.covers(corrected) {
            return current;
        }
        let wanted = (corrected * pods as f64 - 1e-9).ceil() as i64;
        // A correction never turns up into down.
        let against = (ratio > 1.0 && wanted < current) || (ratio < 1.0 && wanted > current);
        if against { current } else { wanted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_follow_the_ratio_beyond_the_tolerance() {
        let tolerance = Tolerance::of(&Value::Null);
        // sum, goal of all with figures, with figures, unready, missing, current, wanted
        for (sum, goal, used, unready, missing, current, wanted) in [
            (300, 150, 3, 0, 0, 3, 6),
            (150, 150, 3, 0, 0, 3, 3),
            (164, 150, 3, 0, 0, 3, 3),
            (166, 150, 3, 0, 0, 3, 4),
            (136, 150, 3, 0, 0, 3, 3),
            (90, 150, 3, 0, 0, 3, 2),
            (50, 150, 3, 0, 0, 3, 1),
            (0, 150, 3, 0, 0, 3, 0),
            (300, 100, 2, 2, 0, 4, 6),
            (110, 100, 2, 2, 0, 4, 4),
            (50, 100, 2, 0, 1, 3, 2),
            (90, 100, 2, 0, 2, 4, 4),
        ] {
            let counted = Counted { sum, requests: 0, used, unready, missing };
            let is = counted.replicas(current, goal, tolerance);
            assert_eq!(is, wanted, "{sum}/{goal} of {used}, {unready} unready, {missing} missing, {current} now");
        }
        let wide = Tolerance::of(&json!({"scaleUp": {"tolerance": "500m"}}));
        let counted = Counted { sum: 200, requests: 0, used: 3, unready: 0, missing: 0 };
        assert_eq!(counted.replicas(3, 150, wide), 3);
    }
}
