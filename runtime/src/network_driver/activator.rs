//! Wakes Deployments that sleep at zero replicas, and tells the cluster which of them are being called.
//!
//! A Deployment with the annotation `kogia.dev/scale-to-zero` is put to sleep by a controller; here it is woken, by a
//! patch of its `scale`, when a call to one of its Services finds nobody. Every node may send the same patch. What the
//! controller knows of traffic is the `renewTime` of a Lease beside the Deployment, which every node that sees calls
//! moves on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::time::parse_duration;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use network::Fabric;
use network::sleepers::{Caller, DeploymentName, Marks, Sleeper};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::limits::{REQUEST_TIME_MAX, RETRY_FIRST};

/// How long nobody may have called before a Deployment sleeps.
const ANNOTATION: &str = "kogia.dev/scale-to-zero";
/// How many replicas it had when it was put to sleep.
const AWAKE: &str = "kogia.dev/awake-replicas";
/// The Lease of a Deployment is called like it, with this before.
const LEASE_PREFIX: &str = "kogia-traffic-";

/// How often the traffic is looked at: the controller counts on hearing of a call within this and a quarter of the time
/// that the annotation names.
const LOOK: Duration = Duration::from_secs(1);

/// Reports under way at a time; the rest follows with the next look.
const REPORTS_MAX: usize = 16;

/// Leaves of a Deployment what is read here.
pub(super) fn keep_what_counts(deployment: &mut Deployment) {
    deployment.status = None;
    if let Some(annotations) = &mut deployment.metadata.annotations {
        annotations.retain(|name, _| name == ANNOTATION || name == AWAKE);
    }
    let sleeps = deployment.annotations().contains_key(ANNOTATION);
    match &mut deployment.spec {
        Some(spec) if sleeps => spec.template.spec = None,
        spec => *spec = None,
    }
}

/// A Deployment that may sleep, for the fabric; `None` for any other.
pub(super) fn sleeper(deployment: &Deployment) -> Option<Sleeper> {
    idle(deployment)?;
    let labels = deployment.spec.as_ref()?.template.metadata.as_ref()?.labels.clone()?;
    Some(Sleeper { namespace: deployment.namespace()?, name: deployment.name_any(), labels })
}

/// The Services that may stand for one of them: most stand for none, and are not read further.
pub(super) fn callers(services: &[Arc<Service>], sleepers: &[Sleeper]) -> Vec<Caller> {
    let labels: HashSet<(&str, &str, &str)> = sleepers
        .iter()
        .flat_map(|sleeper| sleeper.labels.iter().map(|(key, value)| (&*sleeper.namespace, &**key, &**value)))
        .collect();
    let fits = |service: &&Arc<Service>| {
        let first = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()?.first_key_value());
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        first.is_some_and(|(key, value)| labels.contains(&(namespace, &**key, &**value)))
    };
    services.iter().filter(fits).map(|service| caller(service)).collect()
}

/// A Service, for the same.
fn caller(service: &Service) -> Caller {
    let spec = service.spec.as_ref();
    let ips = spec.and_then(|spec| spec.cluster_ips.clone().or(spec.cluster_ip.clone().map(|ip| vec![ip])));
    Caller {
        namespace: service.namespace().unwrap_or_default(),
        name: service.name_any(),
        cluster_ips: ips.unwrap_or_default().iter().filter_map(|ip| ip.parse().ok()).collect(),
        selector: spec.and_then(|spec| spec.selector.clone()).unwrap_or_default(),
    }
}

fn idle(deployment: &Deployment) -> Option<Duration> {
    let nanos = parse_duration(deployment.annotations().get(ANNOTATION)?)?;
    u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
}

/// To how many replicas a Deployment is to be woken; `None` when it is awake already.
fn wake(deployment: &Deployment) -> Option<i32> {
    let replicas = deployment.spec.as_ref()?.replicas.unwrap_or(1);
    let before = deployment.annotations().get(AWAKE).and_then(|text| text.parse().ok());
    (replicas == 0).then(|| before.filter(|count| *count > 0).unwrap_or(1))
}

/// What came of a request to the API.
enum Done {
    Woken(DeploymentName),
    Reported,
}

/// Owns the waking of a node.
pub(super) struct Activator {
    client: Client,
    fabric: Fabric,
    deployments: Store<Deployment>,
    tasks: JoinSet<Done>,
    waking: BTreeSet<DeploymentName>,
    /// Called, and not reported yet.
    called: BTreeSet<DeploymentName>,
    /// When the next report of a Deployment is due.
    due: HashMap<DeploymentName, Instant>,
}

impl Activator {
    pub(super) fn new(client: Client, fabric: Fabric, deployments: Store<Deployment>) -> Self {
        let (tasks, waking) = (JoinSet::new(), BTreeSet::new());
        Self { client, fabric, deployments, tasks, waking, called: BTreeSet::new(), due: HashMap::new() }
    }

    /// Wakes and reports for ever.
    pub(super) async fn run(mut self) {
        let (fabric, mut marks) = (self.fabric.clone(), Marks::default());
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                wanted = fabric.wanted() => wanted.into_iter().for_each(|name| self.wake(name)),
                Some(done) = self.tasks.join_next() => match done {
                    Ok(Done::Woken(name)) => drop(self.waking.remove(&name)),
                    Ok(Done::Reported) => {}
                    Err(error) => tracing::error!(%error, "a task of the activator failed"),
                },
                _ = look.tick() => {
                    self.called.append(&mut fabric.sleepers().called(&mut marks));
                    self.report();
                }
            }
        }
    }

    fn known(&self, (namespace, name): &DeploymentName) -> Option<std::sync::Arc<Deployment>> {
        self.deployments.get(&ObjectRef::new(name).within(namespace))
    }

    fn wake(&mut self, name: DeploymentName) {
        let Some(replicas) = self.known(&name).and_then(|deployment| wake(&deployment)) else { return };
        if !self.waking.insert(name.clone()) {
            return;
        }
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &name.0);
        self.tasks.spawn(async move {
            let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
            let parameters = PatchParams::default();
            let patched = deployments.patch_scale(&name.1, &parameters, &patch);
            let refused = match tokio::time::timeout(REQUEST_TIME_MAX, patched).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer in time".to_owned()),
            };
            if let Some(error) = refused {
                tracing::warn!(namespace = name.0, deployment = name.1, error, "cannot wake a Deployment");
                // Who waits rings again and again.
                tokio::time::sleep(RETRY_FIRST).await;
            }
            Done::Woken(name)
        });
    }

    /// Moves the Leases of those that are called on, each once per quarter of its time.
    fn report(&mut self) {
        let now = Instant::now();
        self.due.retain(|_, due| *due > now);
        let room = REPORTS_MAX.saturating_sub(self.tasks.len());
        let ready: Vec<_> =
            self.called.iter().filter(|name| !self.due.contains_key(*name)).take(room).cloned().collect();
        for name in ready {
            self.called.remove(&name);
            let Some(idle) = self.known(&name).and_then(|deployment| idle(&deployment)) else { continue };
            self.due.insert(name.clone(), now + idle / 4);
            let leases: Api<Lease> = Api::namespaced(self.client.clone(), &name.0);
            self.tasks.spawn(async move {
                let patch = Patch::Merge(json!({"spec": {"renewTime": micro_time(Timestamp::now())}}));
                let (lease, parameters) = (format!("{LEASE_PREFIX}{}", name.1), PatchParams::default());
                let patched = tokio::time::timeout(REQUEST_TIME_MAX, leases.patch(&lease, &parameters, &patch));
                if let Ok(Err(error)) = patched.await {
                    tracing::debug!(namespace = name.0, lease, %error, "traffic not reported");
                }
                Done::Reported
            });
        }
    }
}

/// `metav1.MicroTime`.
fn micro_time(now: Timestamp) -> String {
    api::time::from_micros(now.as_microsecond())
}

/// The sleepers of a node, as its tables name them.
pub(super) fn sleepers(deployments: &Store<Deployment>) -> Vec<Sleeper> {
    deployments.state().iter().filter_map(|deployment| sleeper(deployment)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn deployment(replicas: i32, annotations: &[(&str, &str)]) -> Deployment {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "annotations": annotations},
            "spec": {"replicas": replicas, "selector": {}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web"}]}}},
        }))
        .unwrap()
    }

    #[test]
    fn a_sleeping_deployment_is_woken_to_what_it_was() {
        let asked = |replicas, awake: Option<&str>| {
            let annotations: Vec<_> =
                [(ANNOTATION, "60s")].into_iter().chain(awake.map(|count| (AWAKE, count))).collect();
            wake(&deployment(replicas, &annotations))
        };
        assert_eq!(asked(0, Some("3")), Some(3));
        assert_eq!(asked(2, Some("3")), None, "it is awake");
        for unknown in [None, Some("0"), Some("many")] {
            assert_eq!(asked(0, unknown), Some(1), "{unknown:?}");
        }
    }

    #[test]
    fn only_those_that_ask_for_it_sleep() {
        for (annotation, sleeps) in [("60s", true), ("1h30m", true), ("0s", false), ("-5s", false), ("soon", false)] {
            let mut one = deployment(1, &[(ANNOTATION, annotation), ("other", "x")]);
            keep_what_counts(&mut one);
            assert_eq!(sleeper(&one).is_some(), sleeps, "{annotation}");
            assert_eq!(one.annotations().len(), 1);
        }
        let mut other = deployment(1, &[]);
        keep_what_counts(&mut other);
        assert!(sleeper(&other).is_none() && other.spec.is_none());
    }
}
