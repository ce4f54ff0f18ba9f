//! A node from its registration to its end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use engine::Engine;
use image::Images;
use jiff::Timestamp;
use kube::Client;
use network::Fabric;
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::environment::Place;
use crate::events::{self, Notes, Recorder};
use crate::host::Capacity;
use crate::ingress::metrics::Metrics;
use crate::kubelet::KubeletService;
use crate::limits;
use crate::pull::Pulls;
use crate::roster::Roster;
use crate::toolbox::Toolbox;
use crate::{ground, image_gc, pods, reclaim, registration};

/// What a node is made of.
#[derive(Clone)]
pub struct NodeConfig {
    /// The Node's name: a DNS label, unique in the cluster.
    pub name: String,
    /// Where volumes and output of pods are kept; images and compiled code have places of their own.
    pub data_dir: PathBuf,
    /// The machine's addresses, for `status.addresses` and pods' `hostIP`.
    pub addresses: Vec<IpAddr>,
    /// Labels beside the ones every node has.
    pub labels: BTreeMap<String, String>,
    /// Whether its process is a member of the cluster too.
    pub member: bool,
    /// How many pods it takes at most; the pod CIDR may allow fewer.
    pub pods_max: u32,
    /// Whether pods may see folders of this machine (`hostPath`).
    pub allow_host_path: bool,
    /// The cluster's API: a connection, or a service in this process.
    pub client: Client,
    /// The virtual network of this process.
    pub fabric: Fabric,
    /// What runs the components.
    pub engine: Engine,
    /// Where the components are.
    pub images: Images,
    /// Registries (`HOST:PORT`) that speak plain HTTP; those on this machine may in any case.
    pub plain_registries: Vec<String>,
    /// What the Ingress of this node has counted.
    pub metrics: Arc<Metrics>,
}

impl NodeConfig {
    /// A node of this name with the usual settings.
    #[must_use]
    pub fn new(name: &str, data_dir: PathBuf, client: Client, fabric: Fabric, engine: Engine, images: Images) -> Self {
        Self {
            name: name.to_owned(),
            data_dir,
            addresses: vec![IpAddr::from([127, 0, 0, 1])],
            labels: BTreeMap::new(),
            member: false,
            pods_max: limits::PODS_MAX,
            allow_host_path: false,
            client,
            fabric,
            engine,
            images,
            plain_registries: Vec::new(),
            metrics: Arc::default(),
        }
    }
}

/// What the tasks of a node share.
pub(crate) struct Agent {
    pub(crate) config: NodeConfig,
    pub(crate) capacity: Capacity,
    pub(crate) roster: Roster,
    pub(crate) events: Recorder,
    pub(crate) pulls: Pulls,
    pub(crate) toolbox: Toolbox,
    /// When this process took up the node.
    pub(crate) started: Timestamp,
    /// Set once the cluster has given the node its pod CIDR, before the first pod.
    addresses: OnceLock<Mutex<Addresses>>,
}

impl Agent {
    /// A free address for a pod, the wanted one if it can be.
    pub(crate) fn take_address(&self, wanted: Option<IpAddr>) -> Option<IpAddr> {
        self.addresses.get()?.lock().unwrap_or_else(PoisonError::into_inner).take(wanted)
    }

    /// All addresses of a pod that has been given this one.
    pub(crate) fn with_others(&self, address: IpAddr) -> Vec<IpAddr> {
        let beside = self
            .addresses
            .get()
            .and_then(|addresses| addresses.lock().unwrap_or_else(PoisonError::into_inner).beside(address));
        std::iter::once(address).chain(beside).collect()
    }

    pub(crate) fn give_back(&self, address: IpAddr) {
        if let Some(addresses) = self.addresses.get() {
            addresses.lock().unwrap_or_else(PoisonError::into_inner).give_back(address);
        }
    }

    /// What the downward API says of a pod's place.
    pub(crate) fn place(&self, addresses: &[IpAddr]) -> Place {
        Place {
            pod_addresses: addresses.iter().map(ToString::to_string).collect(),
            host_addresses: self.config.addresses.iter().map(ToString::to_string).collect(),
            cpu_millis: i64::try_from(self.capacity.cpus).unwrap_or(1).saturating_mul(1000),
            memory_bytes: i64::try_from(self.capacity.memory_bytes).unwrap_or(i64::MAX),
        }
    }
}

/// A node. Nothing happens before [`Node::run`].
pub struct Node {
    agent: Arc<Agent>,
    notes: Notes,
}

impl Node {
    /// A node that has not registered yet.
    #[must_use]
    pub fn new(config: NodeConfig) -> Self {
        let (events, notes) = Recorder::new();
        let capacity = Capacity::read();
        let pulls = Pulls::new(config.images.clone(), config.plain_registries.clone());
        let (roster, toolbox) = (Roster::default(), Toolbox::new(config.images.clone()));
        let (started, addresses) = (Timestamp::now(), OnceLock::new());
        let agent = Agent { config, capacity, roster, events, pulls, toolbox, started, addresses };
        Self { agent: Arc::new(agent), notes }
    }

    /// The kubelet-shaped endpoints: `/containerLogs/…`, `/exec/…`, `/attach/…`, `/portForward/…`, `/stats/summary`,
    /// `/images/…`, `/pods`, `/healthz`. Any number may be made.
    #[must_use]
    pub fn kubelet_service(&self) -> KubeletService {
        KubeletService::new(self.agent.clone())
    }

    /// Registers, then runs the pods bound to this node until `stop`.
    ///
    /// Stopping ends the guests but not the pods: their objects stay, and the next run of this node takes them up
    /// again. Failures of the API are waited out.
    pub async fn run(self, stop: CancellationToken) {
        let Self { agent, notes } = self;
        let client = agent.config.client.clone();
        if let Err(error) = ground::make_folders(&agent.config.data_dir) {
            tracing::error!(%error, "the node's folders cannot be made; its pods will say so");
        }
        let writer = tokio::spawn(events::run(client.clone(), agent.config.name.clone(), notes, stop.clone()));
        let registered = tokio::select! {
            () = stop.cancelled() => None,
            registered = registration::register(&client, &agent.config, agent.capacity) => Some(registered),
        };
        if let Some((uid, cidrs)) = registered {
            match Addresses::parse(&cidrs) {
                Some(addresses) => {
                    if addresses.capacity() < agent.config.pods_max {
                        tracing::info!(?cidrs, pods = addresses.capacity(), "the pod CIDR bounds the number of pods");
                    }
                    agent.addresses.get_or_init(|| Mutex::new(addresses));
                }
                None => tracing::error!(?cidrs, "the node's pod CIDR cannot be used; its pods stay pending"),
            }
            tokio::select! {
                () = registration::keep_alive(client, &agent.config, &uid, agent.capacity) => {}
                () = pods::run(agent.clone(), stop) => {}
                () = Box::pin(reclaim::run(agent.clone())) => {}
                () = Box::pin(image_gc::run(agent.clone())) => {}
            }
        }
        // The writer ends with `stop`; a panic in it was reported when it happened.
        let _ = writer.await;
    }
}

#[cfg(test)]
mod tests;
