//! What one pod asks of a node, read once.

use std::sync::Arc;

use api::selector::{LabelSelector, Requirement};
use api::{Key, Object, Quantity};
use serde_json::Value;

/// Amounts of what a node has and pods take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) cpu_millis: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) storage_bytes: i64,
    /// Everything else, such as `example.com/gpu`, by name.
    pub(crate) other: Vec<(String, i64)>,
}

impl Amounts {
    /// Reads a resource list such as `{"cpu": "100m", "memory": "64Mi"}`; `pods` is not an amount that pods ask for.
    pub(crate) fn of(list: &Value) -> Self {
        let mut amounts = Self::default();
        for (name, value) in list.as_object().into_iter().flatten() {
            let Some(quantity) = quantity(value) else { continue };
            match name.as_str() {
                "cpu" => amounts.cpu_millis = quantity.millis(),
                "memory" => amounts.memory_bytes = quantity.bytes(),
                "ephemeral-storage" => amounts.storage_bytes = quantity.bytes(),
                "pods" => {}
                other => amounts.other.push((other.to_owned(), quantity.bytes())),
            }
        }
        amounts
    }

    pub(crate) fn other(&self, name: &str) -> i64 {
        self.other.iter().find(|(other, _)| other == name).map_or(0, |(_, amount)| *amount)
    }

    /// Adds `times` × `more`; −1 takes it back.
    pub(crate) fn add(&mut self, more: &Self, times: i64) {
        self.cpu_millis += times * more.cpu_millis;
        self.memory_bytes += times * more.memory_bytes;
        self.storage_bytes += times * more.storage_bytes;
        for (name, amount) in &more.other {
            match self.other.iter_mut().find(|(other, _)| other == name) {
                Some((_, sum)) => *sum += times * amount,
                None => self.other.push((name.clone(), times * amount)),
            }
        }
    }

    fn at_least(&mut self, floor: &Self) {
        self.cpu_millis = self.cpu_millis.max(floor.cpu_millis);
        self.memory_bytes = self.memory_bytes.max(floor.memory_bytes);
        self.storage_bytes = self.storage_bytes.max(floor.storage_bytes);
        for (name, amount) in &floor.other {
            match self.other.iter_mut().find(|(other, _)| other == name) {
                Some((_, sum)) => *sum = (*sum).max(*amount),
                None => self.other.push((name.clone(), *amount)),
            }
        }
    }
}

/// A quantity, which JSON may also write as a number.
pub(crate) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => None,
    }
}

/// One toleration.
#[derive(Clone, Debug)]
pub(crate) struct Toleration {
    key: String,
    exists: bool,
    value: String,
    effect: String,
}

/// One taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taint {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) effect: String,
}

impl Toleration {
    pub(crate) fn covers(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key == taint.key || (self.key.is_empty() && self.exists))
            && (self.exists || self.value == taint.value)
    }
}

/// One node selector term: all of it must hold. An empty term holds nowhere.
#[derive(Clone, Debug)]
pub(crate) struct NodeTerm {
    pub(crate) labels: Vec<Requirement>,
    /// On `metadata.name`.
    pub(crate) fields: Vec<Requirement>,
    /// A requirement that cannot be read holds nowhere either.
    pub(crate) readable: bool,
}

/// One inter-pod (anti-)affinity term.
#[derive(Clone, Debug)]
pub(crate) struct PodTerm {
    pub(crate) selector: LabelSelector,
    /// Empty: every namespace.
    pub(crate) namespaces: Vec<String>,
    pub(crate) topology: String,
}

impl PodTerm {
    pub(crate) fn selects(&self, pod: &Object) -> bool {
        (self.namespaces.is_empty() || self.namespaces.iter().any(|namespace| namespace == pod.namespace()))
            && self.selector.matches(&pod.value["metadata"]["labels"])
    }
}

/// One topology spread constraint.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    pub(crate) topology: String,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: usize,
    pub(crate) selector: LabelSelector,
    /// `DoNotSchedule`; else the constraint is only a wish.
    pub(crate) required: bool,
}

/// A port on the node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    address: String,
    protocol: String,
    port: i64,
}

impl HostPort {
    pub(crate) fn collides(&self, other: &Self) -> bool {
        let any = |address: &str| address.is_empty() || address == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

/// What one pod asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) object: Arc<Object>,
    pub(crate) priority: i64,
    pub(crate) created_ms: i64,
    pub(crate) requests: Amounts,
    pub(crate) host_ports: Vec<HostPort>,
    /// uid of the controller: pods of one purpose are spread.
    pub(crate) owner: Option<Arc<str>>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) node_labels: Vec<(String, String)>,
    /// Any of these must hold; `None`: no wish.
    pub(crate) node_required: Option<Vec<NodeTerm>>,
    pub(crate) node_preferred: Vec<(i64, NodeTerm)>,
    pub(crate) near: Vec<PodTerm>,
    pub(crate) apart: Vec<PodTerm>,
    pub(crate) preferred: Vec<(i64, PodTerm)>,
    pub(crate) spread: Vec<Spread>,
}

impl Wanted {
    pub(crate) fn key(&self) -> &Key {
        &self.object.key
    }

    /// Reads a pod.
    pub(crate) fn of(pod: &Arc<Object>) -> Self {
        let spec = &pod.value["spec"];
        let affinity = &spec["affinity"];
        let node = &affinity["nodeAffinity"];
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let node_required = node[required]["nodeSelectorTerms"].as_array();
        let own = pod.namespace();
        let terms = |kind: &str| list(&affinity[kind][required]).map(|term| pod_term(term, own)).collect();
        let wishes = |kind: &'static str, sign: i64| {
            let terms = list(&affinity[kind][preferred]);
            terms.map(move |entry| {
                (sign * entry["weight"].as_i64().unwrap_or(1), pod_term(&entry["podAffinityTerm"], own))
            })
        };
        Self {
            object: pod.clone(),
            priority: spec["priority"].as_i64().unwrap_or(0),
            created_ms: api::time::parse(pod.creation_timestamp()).unwrap_or(0),
            requests: requests(spec),
            host_ports: host_ports(spec),
            owner: pod.controller_uid().map(Arc::from),
            tolerations: list(&spec["tolerations"]).map(toleration).collect(),
            node_labels: pairs(&spec["nodeSelector"]),
            node_required: node_required.map(|terms| terms.iter().map(node_term).collect()),
            node_preferred: list(&node[preferred])
                .map(|entry| (entry["weight"].as_i64().unwrap_or(1), node_term(&entry["preference"])))
                .collect(),
            near: terms("podAffinity"),
            apart: terms("podAntiAffinity"),
            preferred: wishes("podAffinity", 1).chain(wishes("podAntiAffinity", -1)).collect(),
            spread: list(&spec["topologySpreadConstraints"]).map(|entry| spread(entry, pod)).collect(),
        }
    }

    /// Whether where other pods are matters to it.
    pub(crate) fn looks_at_pods(&self) -> bool {
        !(self.near.is_empty() && self.apart.is_empty() && self.preferred.is_empty() && self.spread.is_empty())
    }
}

pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A map of texts as pairs.
pub(crate) fn pairs(value: &Value) -> Vec<(String, String)> {
    let entries = value.as_object().into_iter().flatten();
    entries.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The larger of what runs together and what each init container needs alone, plus the overhead. Sidecars (init
/// containers that never end) run together with everything after them (KEP-753).
fn requests(spec: &Value) -> Amounts {
    let asked = |container: &Value| {
        let mut amounts = Amounts::of(&container["resources"]["limits"]);
        let requests = &container["resources"]["requests"];
        let explicit = Amounts::of(requests);
        // A limit without a request is a request.
        let has = |name: &str| !requests[name].is_null();
        if has("cpu") {
            amounts.cpu_millis = explicit.cpu_millis;
        }
        if has("memory") {
            amounts.memory_bytes = explicit.memory_bytes;
        }
        if has("ephemeral-storage") {
            amounts.storage_bytes = explicit.storage_bytes;
        }
        amounts.other.retain(|(name, _)| !has(name));
        amounts.other.extend(explicit.other);
        amounts
    };
    let mut running = Amounts::default();
    let mut peak = Amounts::default();
    for container in list(&spec["initContainers"]) {
        let mut moment = running.clone();
        moment.add(&asked(container), 1);
        peak.at_least(&moment);
        if container["restartPolicy"] == "Always" {
            running = moment;
        }
    }
    for container in list(&spec["containers"]) {
        running.add(&asked(container), 1);
    }
    running.at_least(&peak);
    running.add(&Amounts::of(&spec["overhead"]), 1);
    running
}

fn host_ports(spec: &Value) -> Vec<HostPort> {
    let ports = list(&spec["containers"]).flat_map(|container| list(&container["ports"]));
    ports
        .filter_map(|port| {
            let number = port["hostPort"].as_i64().filter(|&number| number > 0)?;
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            Some(HostPort { address: text(&port["hostIP"]), protocol, port: number })
        })
        .collect()
}

fn toleration(value: &Value) -> Toleration {
    Toleration {
        key: text(&value["key"]),
        exists: value["operator"] == "Exists",
        value: text(&value["value"]),
        effect: text(&value["effect"]),
    }
}

fn node_term(value: &Value) -> NodeTerm {
    let read = |field: &str| list(&value[field]).map(Requirement::from_value).collect::<Option<Vec<_>>>();
    let (labels, fields) = (read("matchExpressions"), read("matchFields"));
    let readable = labels.is_some() && fields.is_some();
    NodeTerm { labels: labels.unwrap_or_default(), fields: fields.unwrap_or_default(), readable }
}

fn pod_term(value: &Value, own_namespace: &str) -> PodTerm {
    let mut namespaces: Vec<String> = list(&value["namespaces"]).map(text).collect();
    let every = value["namespaceSelector"].as_object().is_some_and(serde_json::Map::is_empty);
    if every {
        namespaces.clear();
    } else if namespaces.is_empty() {
        namespaces.push(own_namespace.to_owned());
    }
    PodTerm {
        selector: LabelSelector::from_value(&value["labelSelector"]),
        namespaces,
        topology: text(&value["topologyKey"]),
    }
}

/// `matchLabelKeys` narrows the selector to pods with this pod's values (KEP-3243).
fn spread(value: &Value, pod: &Object) -> Spread {
    let mut selector = value["labelSelector"].clone();
    for key in list(&value["matchLabelKeys"]).filter_map(Value::as_str) {
        if let Some(own) = pod.label(key) {
            selector["matchLabels"][key] = own.into();
        }
    }
    Spread {
        topology: text(&value["topologyKey"]),
        max_skew: value["maxSkew"].as_i64().unwrap_or(1),
        min_domains: value["minDomains"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(1),
        selector: LabelSelector::from_value(&selector),
        required: value["whenUnsatisfiable"] != "ScheduleAnyway",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_follow_what_runs_together() {
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
            assert_eq!(requests(&spec).cpu_millis, millis, "{spec}");
        }
    }
}
