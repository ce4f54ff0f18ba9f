//! What of its object a pod's machine goes by.
//!
//! A decoded pod is some twenty times what a machine needs of it, and there are thousands of machines on a node. So a
//! machine takes from the object what it needs, and whoever has the object may put it away.

use k8s_openapi::api::core::v1 as k8s;

use crate::container::Role;
use crate::hook::Hook;
use crate::limits::GRACE_SECONDS;

/// The conditions a node writes; all others belong to other writers and are kept as they are.
pub(crate) const OURS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// The pod as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Charter {
    pub(crate) uid: Box<str>,
    /// `web_default(uid)`, as the kubelet's messages name a pod.
    pub(crate) whole_name: Box<str>,
    pub(crate) restart_policy: Box<str>,
    pub(crate) grace_seconds: i64,
    pub(crate) active_deadline_seconds: Option<i64>,
    pub(crate) qos_class: Box<str>,
    /// The first condition of `readinessGates` that is not true.
    pub(crate) closed_gate: Option<Box<str>>,
    /// What others have written into its status.
    pub(crate) theirs: Theirs,
}

/// What of a status is not the node's, and stays as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Theirs {
    pub(crate) conditions: Box<[k8s::PodCondition]>,
    pub(crate) nominated_node_name: Option<Box<str>>,
    /// The addresses it had before its node took it up.
    pub(crate) addresses: Box<[Box<str>]>,
}

impl Charter {
    pub(crate) fn of(pod: &k8s::Pod) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let policy = spec.and_then(|spec| spec.restart_policy.as_deref());
        let known_class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
        Self {
            uid: text(&meta.uid).into(),
            whole_name: format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid)).into(),
            restart_policy: policy.unwrap_or("Always").into(),
            grace_seconds: spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(GRACE_SECONDS),
            active_deadline_seconds: spec.and_then(|spec| spec.active_deadline_seconds),
            qos_class: known_class.unwrap_or_else(|| qos_class(spec)).into(),
            closed_gate: closed_gate(pod).map(Into::into),
            theirs: pod.status.as_ref().map_or_else(Theirs::default, Theirs::of),
        }
    }
}

impl Theirs {
    fn of(status: &k8s::PodStatus) -> Self {
        let conditions = status.conditions.iter().flatten();
        let addresses = status.pod_ips.iter().flatten().map(|address| &address.ip);
        Self {
            conditions: conditions.filter(|condition| !OURS.contains(&&*condition.type_)).cloned().collect(),
            nominated_node_name: status.nominated_node_name.as_deref().map(Into::into),
            addresses: addresses.map(|address| address.as_str().into()).collect(),
        }
    }
}

/// Pods may ask for conditions of other writers before they count as ready (`readinessGates`).
fn closed_gate(pod: &k8s::Pod) -> Option<&str> {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_true = |name: &str| conditions.iter().any(|condition| condition.type_ == name && condition.status == "True");
    gates.map(|gate| gate.condition_type.as_str()).find(|gate| !is_true(gate))
}

/// Kubernetes' three classes, from the requests and limits for cpu and memory of all containers.
fn qos_class(spec: Option<&k8s::PodSpec>) -> &'static str {
    let containers: Vec<&k8s::Container> =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten())).collect();
    let amount = |container: &k8s::Container, limits: bool, name: &str| {
        let resources = container.resources.as_ref()?;
        let amounts = if limits { &resources.limits } else { &resources.requests };
        amounts.as_ref()?.get(name).map(|quantity| quantity.0.clone())
    };
    let names = ["cpu", "memory"];
    let any = containers.iter().any(|c| names.iter().any(|n| amount(c, true, n).or(amount(c, false, n)).is_some()));
    let guaranteed = |c: &&k8s::Container| {
        names
            .iter()
            .all(|n| amount(c, true, n).is_some_and(|limit| amount(c, false, n).is_none_or(|request| request == limit)))
    };
    match any {
        false => "BestEffort",
        true if containers.iter().all(guaranteed) => "Guaranteed",
        true => "Burstable",
    }
}

/// One container of it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: Box<str>,
    pub(crate) image: Box<str>,
    pub(crate) startup_probe: Option<Box<k8s::Probe>>,
    pub(crate) readiness_probe: Option<Box<k8s::Probe>>,
    pub(crate) liveness_probe: Option<Box<k8s::Probe>>,
    has_post_start: bool,
    has_pre_stop: bool,
}

impl Plan {
    pub(crate) fn of(container: &k8s::Container) -> Self {
        let probe = |probe: &Option<k8s::Probe>| probe.clone().map(Box::new);
        Self {
            name: container.name.as_str().into(),
            image: container.image.as_deref().unwrap_or_default().into(),
            startup_probe: probe(&container.startup_probe),
            readiness_probe: probe(&container.readiness_probe),
            liveness_probe: probe(&container.liveness_probe),
            has_post_start: Hook::PostStart.handler(container).is_some(),
            has_pre_stop: Hook::PreStop.handler(container).is_some(),
        }
    }

    pub(crate) fn has(&self, hook: Hook) -> bool {
        match hook {
            Hook::PostStart => self.has_post_start,
            Hook::PreStop => self.has_pre_stop,
        }
    }
}

/// The role of a container that stands among the init containers.
pub(crate) fn init_role(container: &k8s::Container) -> Role {
    if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}
