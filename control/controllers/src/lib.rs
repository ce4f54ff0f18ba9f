//! The controllers: what brings the cluster from what it is to what its owners asked for.
//!
//! Every controller is two functions. `keys` says which keys a change wakes; `reconcile` looks at one key in the
//! cluster's picture and returns what is to be done. Neither remembers anything, reads a clock or waits: a controller
//! that is told nothing about *what* changed cannot depend on having been told. Time matters only as a number, and a
//! controller that needs to look again later says so with [`Action::Again`].
//!
//! The driver promises one thing: a key's next turn sees everything its previous turn wrote. That is what makes
//! "create what is missing" safe to repeat.
//!
//! # Layout
//! * [`table`]: who there is.
//! * `replicaset`, `replication_controller`, `deployment`, `job`, `cronjob`, `statefulset`, `daemonset`:
//!   workloads;
//!   `disruption`: how many of their pods may be taken away; `scale_to_zero`: who sleeps when nobody calls.
//! * `autoscaler`: how many of them the load asks for.
//! * `storage`: claims and volumes; `quota`: what a namespace has used.
//! * `endpoints`, `endpoint_slices`, `ingress`, `gateway`: who serves a Service, inside and from outside.
//! * [`certificates`]: who signs, what is to be signed and when.
//! * `namespace`, `namespace_defaults`, `garbage`, `event_ttl`, `job_ttl`: what is born and dies with something else.
//! * `definition`: custom resources begin and end.
//! * [`Heard`]: signs of life of nodes. `node_health`, `taint_eviction`, `pod_gc`, `pod_ranges`: nodes and what runs on them.
//! * [`complaint()`]: what is told when a child cannot be made.
//! * `pods`, `owner`, `revisions`, `placement`, `status`, `moment`, `hash`: what several of them ask of an object.

#![forbid(unsafe_code)]

mod autoscaler;
pub mod certificates;
mod complaint;
mod cronjob;
mod daemonset;
mod definition;
mod deployment;
mod disruption;
mod endpoint_slices;
mod endpoints;
mod event_ttl;
mod garbage;
mod gateway;
mod hash;
mod heard;
mod ingress;
mod job;
mod job_ttl;
pub mod limits;
mod moment;
mod namespace;
mod namespace_defaults;
mod node_health;
mod owner;
mod placement;
mod pod_gc;
mod pod_ranges;
mod pods;
mod quota;
mod replicaset;
mod replication_controller;
mod revisions;
mod scale_to_zero;
mod statefulset;
mod status;
mod storage;
mod taint_eviction;
mod zones;

use std::sync::Arc;

use api::usage::UsageTable;
use api::{Action, Change, Key, View};

pub use complaint::complaint;

pub use heard::Heard;
pub use node_health::sign_of_life;

/// What the cluster's owner decided once and no object says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// PEM text of the cluster's certificate authority, published to every namespace as `kube-root-ca.crt`.
    pub cluster_ca: Arc<str>,
    /// What `status.loadBalancer.ingress` of an Ingress shows: addresses or host names where this cluster listens.
    pub ingress_addresses: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cluster_ca: "".into(), ingress_addresses: vec!["127.0.0.1".to_owned()] }
    }
}

/// What a turn may look at.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The cluster's picture.
    pub view: &'a View,
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// What no object says.
    pub settings: &'a Settings,
    /// What was heard of nodes, by whoever listens; without it their Leases are taken at their word.
    pub heard: Option<&'a Heard>,
    /// What the pods' nodes measured last.
    pub usage: &'a UsageTable,
    /// Why a write of this key's last turn was refused, where it was.
    pub refused: Option<&'a str>,
}

/// One controller.
pub struct Controller {
    /// As traces and Events name it, such as `replicaset-controller`.
    pub name: &'static str,
    /// The keys to look at again after a change. The view has the change already, or something newer.
    pub keys: fn(&Change, &View) -> Vec<Key>,
    /// What to do about one key, in this order. An empty list means that all is well.
    pub reconcile: fn(&World<'_>, &Key) -> Vec<Action>,
}

/// What to look at again when more or less is heard of a node: the place in [`table`], and the key.
#[must_use]
pub fn woken_by_news_of(node: &str) -> Option<(usize, Key)> {
    let place = table().iter().position(|controller| controller.name == NODE_CONTROLLER)?;
    Some((place, Key::new("nodes", "", node)))
}

/// The name of the controller that decides whether nodes are lost.
const NODE_CONTROLLER: &str = "node-controller";

/// Every controller there is.
#[must_use]
pub const fn table() -> &'static [Controller] {
    macro_rules! rows {
        ($($($module:ident)::+ $name:literal),* $(,)?) => {
            &[$(Controller { name: $name, keys: $($module)::+::keys, reconcile: $($module)::+::reconcile }),*]
        };
    }
    rows![
        replicaset "replicaset-controller",
        replication_controller "replication-controller",
        deployment "deployment-controller",
        job "job-controller",
        job_ttl "ttl-after-finished-controller",
        cronjob "cronjob-controller",
        statefulset "statefulset-controller",
        daemonset "daemonset-controller",
        disruption "disruption-controller",
        scale_to_zero "scale-to-zero-controller",
        endpoint_slices "endpoint-slice-controller",
        endpoints "endpoint-controller",
        ingress "ingress-status-controller",
        certificates::issuers "issuers-controller",
        certificates::shim "ingress-shim",
        gateway::class "gateway-class-controller",
        gateway::gateways "gateway-controller",
        gateway::routes "http-route-controller",
        namespace "namespace-controller",
        namespace_defaults "namespace-defaults-controller",
        garbage "garbage-collector",
        definition "definition-controller",
        event_ttl "event-ttl-controller",
        node_health "node-controller",
        taint_eviction "taint-eviction-controller",
        pod_gc "pod-garbage-collector",
        pod_ranges "node-ipam-controller",
        autoscaler "horizontal-pod-autoscaler",
        quota "resourcequota-controller",
        storage::claim "persistentvolume-binder",
        storage::volume "persistentvolume-controller",
        storage::claim_protection "pvc-protection-controller",
        storage::volume_protection "pv-protection-controller",
    ]
}
