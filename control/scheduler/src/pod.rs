//! What one pod asks of a node, read once.

use std::sync::Arc;

use api::resources::{self, Side};
use api::selector::{LabelSelector, Requirement};
use api::{Key, Object};
use serde_json::{Value, json};

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
    /// Takes over a resource list such as `cpu: 100m, memory: 64Mi`; `pods` is not an amount that pods ask for.
    pub(crate) fn of(list: &resources::Amounts) -> Self {
        let mut amounts = Self::default();
        for (name, quantity) in list {
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

/// What a pod asks about other pods: which ones, and within which topology.
#[derive(Clone, Debug)]
pub(crate) struct PodTerm {
    /// Equal for equal terms.
    pub(crate) id: Arc<str>,
    pub(crate) selector: LabelSelector,
    pub(crate) namespaces: Vec<String>,
    /// Further namespaces, by their labels.
    pub(crate) namespace_selector: Option<LabelSelector>,
    pub(crate) topology: String,
    /// Pods on their way out do not count.
    pub(crate) living: bool,
}

impl PodTerm {
    /// Whether it selects a pod of the namespaces that it names.
    pub(crate) fn selects_in_place(&self, pod: &Wanted) -> bool {
        self.namespaces.iter().any(|namespace| namespace == pod.object.namespace())
            && self.selector.matches(&pod.labels)
    }
}

/// One topology spread constraint.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    pub(crate) term: PodTerm,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: usize,
    /// `nodeAffinityPolicy: Honor`: only nodes that the pod's own affinity allows count.
    pub(crate) honours_affinity: bool,
    /// `nodeTaintsPolicy: Honor`: only nodes whose taints the pod tolerates count.
    pub(crate) honours_taints: bool,
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
    /// At rest: all that is asked of it again and again stands beside it, and it stays for as long as the pod runs.
    pub(crate) object: Arc<Object>,
    /// `metadata.labels`.
    pub(crate) labels: Value,
    /// Equal for pods of one namespace with equal labels.
    pub(crate) kind: Arc<str>,
    pub(crate) priority: i64,
    /// Whether it may take the place of pods of lower priority.
    pub(crate) preempts: bool,
    /// It has been asked to go.
    pub(crate) leaving: bool,
    /// Its profile fills nodes up instead of spreading over them.
    pub(crate) packs: bool,
    /// Names of the claims that it mounts.
    pub(crate) claims: Vec<String>,
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
        let terms = |kind: &str| list(&affinity[kind][required]).map(|term| pod_term(term, pod)).collect();
        let wishes = |kind: &'static str, sign: i64| {
            let terms = list(&affinity[kind][preferred]);
            terms.map(move |entry| {
                (sign * entry["weight"].as_i64().unwrap_or(1), pod_term(&entry["podAffinityTerm"], pod))
            })
        };
        let labels = &pod.value["metadata"]["labels"];
        let volumes = list(&spec["volumes"]);
        Self {
            object: pod.at_rest().map_or_else(|| pod.clone(), Arc::new),
            labels: labels.clone(),
            kind: format!("{own}/{labels}").into(),
            priority: spec["priority"].as_i64().unwrap_or(0),
            preempts: spec["preemptionPolicy"] != "Never",
            leaving: pod.deletion_timestamp().is_some(),
            packs: spec["schedulerName"] == crate::PACKING,
            claims: volumes
                .filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
                .map(str::to_owned)
                .collect(),
            created_ms: api::time::parse(pod.creation_timestamp()).unwrap_or(0),
            requests: Amounts::of(&resources::pod(spec, Side::Requests)),
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

    /// Whether its own affinity or selector keeps it from some nodes.
    pub(crate) fn is_choosy(&self) -> bool {
        self.node_required.is_some() || !self.node_labels.is_empty()
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

pub(crate) fn node_term(value: &Value) -> NodeTerm {
    let read = |field: &str| list(&value[field]).map(Requirement::from_value).collect::<Option<Vec<_>>>();
    let (labels, fields) = (read("matchExpressions"), read("matchFields"));
    let readable = labels.is_some() && fields.is_some();
    NodeTerm { labels: labels.unwrap_or_default(), fields: fields.unwrap_or_default(), readable }
}

/// `matchLabelKeys` and `mismatchLabelKeys` narrow the selector by this pod's own values (KEP-3633).
fn pod_term(value: &Value, pod: &Object) -> PodTerm {
    let mut namespaces: Vec<String> = list(&value["namespaces"]).map(text).collect();
    let chooser = &value["namespaceSelector"];
    if namespaces.is_empty() && chooser.is_null() {
        namespaces.push(pod.namespace().to_owned());
    }
    let mut selector = value["labelSelector"].clone();
    narrow(&mut selector, &value["matchLabelKeys"], "In", pod);
    narrow(&mut selector, &value["mismatchLabelKeys"], "NotIn", pod);
    term(&selector, namespaces, chooser, &value["topologyKey"], false)
}

fn narrow(selector: &mut Value, keys: &Value, operator: &str, pod: &Object) {
    for key in list(keys).filter_map(Value::as_str) {
        let Some(own) = pod.label(key) else { continue };
        let entry = json!({"key": key, "operator": operator, "values": [own]});
        match selector["matchExpressions"].as_array_mut() {
            Some(entries) => entries.push(entry),
            None => selector["matchExpressions"] = json!([entry]),
        }
    }
}

fn term(selector: &Value, namespaces: Vec<String>, chooser: &Value, topology: &Value, living: bool) -> PodTerm {
    let topology = text(topology);
    PodTerm {
        id: format!("{topology} {living} {namespaces:?} {chooser} {selector}").into(),
        selector: LabelSelector::from_value(selector),
        namespaces,
        namespace_selector: chooser.is_object().then(|| LabelSelector::from_value(chooser)),
        topology,
        living,
    }
}

/// `matchLabelKeys` narrows the selector to pods with this pod's values (KEP-3243).
fn spread(value: &Value, pod: &Object) -> Spread {
    let mut selector = value["labelSelector"].clone();
    narrow(&mut selector, &value["matchLabelKeys"], "In", pod);
    Spread {
        term: term(&selector, vec![pod.namespace().to_owned()], &Value::Null, &value["topologyKey"], true),
        max_skew: value["maxSkew"].as_i64().unwrap_or(1),
        min_domains: value["minDomains"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(1),
        honours_affinity: value["nodeAffinityPolicy"] != "Ignore",
        honours_taints: value["nodeTaintsPolicy"] == "Honor",
        required: value["whenUnsatisfiable"] != "ScheduleAnyway",
    }
}
