//! The switch of one node: which pod has which address, and the tables in force.
//!
//! Installing a table replaces a shared pointer; a connection in the making keeps the table it started with, and an
//! established one needs none.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::api_servers::ApiServers;
use crate::challenges::Challenges;
use crate::cidr::Cidr;
use crate::conn::Conn;
use crate::decide::Refusal;
use crate::egress::{Egress, HostSockets, Sockets};
use crate::limits::EPHEMERAL_PORTS;
use crate::names::{self, Asker};
use crate::node_flows::NodeFlows;
use crate::overlay::Overlay;
use crate::pod::{Pod, PodIdentity, PodNet};
use crate::policy::Policies;
use crate::resolver::Resolver;
use crate::routes::RouteTable;
use crate::services::{Here, Present, ServiceName, ServiceTable};
use crate::sleepers::SleeperTable;
use crate::tls::Trust;
use crate::topology::Topology;
use crate::waking::Waking;

/// Why the network refused something; each variant is another thing the caller can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Nobody listens there, or the backlog is full.
    #[error("connection refused")]
    ConnectionRefused,
    /// Nothing has this address, here or anywhere this network reaches.
    #[error("network unreachable")]
    Unreachable,
    /// Another listener or socket of the pod has the port.
    #[error("address in use")]
    AddressInUse,
    /// The pod does not have this address.
    #[error("address not available")]
    AddressNotAvailable,
    /// No such name.
    #[error("no such name: {0}")]
    NameNotFound(String),
    /// Port 0, an unspecified or a multicast address.
    #[error("not an address one can connect to")]
    InvalidAddress,
    /// A NetworkPolicy, or the rules for what is outside the cluster, forbid it; the text is the reason.
    #[error("{0}")]
    Denied(String),
    /// The datagram does not fit.
    #[error("datagram too large")]
    DatagramTooLarge,
    /// A bound of `limits` is reached; it names what to close.
    #[error("too many {0}")]
    LimitReached(&'static str),
    /// The node that has the address does not answer.
    #[error("connection timed out")]
    TimedOut,
    /// The pod has left the network.
    #[error("the pod is detached from the network")]
    Detached,
}

impl From<Refusal> for NetError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotAnAddress => Self::InvalidAddress,
            Refusal::HostLoopback | Refusal::Outside => Self::Unreachable,
            Refusal::NoSuchPort | Refusal::NoReadyEndpoint => Self::ConnectionRefused,
        }
    }
}

/// Why a Service could not be dialled by name. The text is a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// There is no such Service.
    #[error("Service {0} does not exist")]
    NoSuchService(String),
    /// It has no such TCP port.
    #[error("Service {service} has no port {port}")]
    NoSuchPort {
        /// `namespace/name`.
        service: String,
        /// Number or name.
        port: String,
    },
    /// No endpoint is ready, or none of the ready ones answered.
    #[error("Service {0} has no ready endpoint")]
    NoReadyEndpoint(String),
}

/// How a fabric is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Node's name, for Services whose traffic stays on a node; empty when there is none.
    pub node: String,
    /// The addresses under which pods see the node itself, one per family, until the [`Topology`] says more.
    pub gateway: Vec<IpAddr>,
    /// The cluster's DNS domain.
    pub domain: String,
    /// The ranges of the cluster's addresses. What is in them and is neither pod nor Service is nowhere.
    pub cluster: Vec<Cidr>,
    /// Whether pods may reach addresses outside the cluster at all, policies permitting.
    pub outside: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: String::new(),
            gateway: vec![
                IpAddr::V4(Ipv4Addr::new(10, 42, 0, 1)),
                IpAddr::V6(Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, 1)),
            ],
            domain: "cluster.local".to_owned(),
            cluster: ["10.42.0.0/16", "10.43.0.0/16", "fd42::/48", "fd43::/48"]
                .iter()
                .map(|range| range.parse().expect("written here"))
                .collect(),
            outside: false,
        }
    }
}

/// A table that is read whole and replaced whole.
struct Installed<T>(RwLock<Arc<T>>);

impl<T: Default> Installed<T> {
    fn new() -> Self {
        Self(RwLock::new(Arc::new(T::default())))
    }
}

impl<T> Installed<T> {
    fn get(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, table: T) {
        let table = Arc::new(table);
        let old = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), table);
        // Freeing ten thousand Services takes a while; readers must not wait for it.
        drop(old);
    }
}

struct Switch {
    config: Config,
    pods: RwLock<HashMap<IpAddr, Arc<Pod>>>,
    services: Installed<ServiceTable>,
    routes: Installed<RouteTable>,
    challenges: Installed<Challenges>,
    policies: Installed<Policies>,
    sleepers: Installed<SleeperTable>,
    waking: Waking,
    topology: Installed<Topology>,
    overlay: OnceLock<Arc<dyn Overlay>>,
    egress: Option<Egress>,
    api_servers: OnceLock<ApiServers>,
    next_port: AtomicU16,
    node_flows: NodeFlows,
    trust: Trust,
}

/// The virtual network of a node. Clones are the same network.
#[derive(Clone)]
pub struct Fabric(Arc<Switch>);

impl Fabric {
    /// A network without pods, Services or routes.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_sockets(config, Arc::new(HostSockets))
    }

    /// A network whose way out is through these sockets.
    pub(crate) fn with_sockets(config: Config, sockets: Arc<dyn Sockets>) -> Self {
        let egress = config.outside.then(|| Egress::new(sockets, config.cluster.clone()));
        Self(Arc::new(Switch {
            config,
            egress,
            pods: RwLock::default(),
            services: Installed::new(),
            routes: Installed::new(),
            challenges: Installed::new(),
            policies: Installed::new(),
            sleepers: Installed::new(),
            waking: Waking::default(),
            topology: Installed::new(),
            overlay: OnceLock::new(),
            api_servers: OnceLock::new(),
            next_port: AtomicU16::new(*EPHEMERAL_PORTS.start()),
            node_flows: NodeFlows::default(),
            trust: Trust::default(),
        }))
    }

    /// How the fabric was set up.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Connects a pod. An address that is attached already moves to the new pod.
    ///
    /// The pod leaves when the last clone of the [`PodNet`] is dropped or [`PodNet::detach`] is called.
    #[must_use]
    pub fn attach(&self, identity: PodIdentity) -> PodNet {
        self.attach_with(identity, Resolver::default())
    }

    /// The same for a pod that looks up names in its own way.
    #[must_use]
    pub fn attach_with(&self, identity: PodIdentity, resolver: Resolver) -> PodNet {
        let pod = Arc::new(Pod::new(identity, resolver));
        {
            let mut pods = self.0.pods.write().unwrap_or_else(PoisonError::into_inner);
            for address in &pod.identity.addresses {
                pods.insert(*address, pod.clone());
            }
        }
        PodNet::new(self.clone(), pod)
    }

    pub(crate) fn detach(&self, pod: &Arc<Pod>) {
        {
            let mut pods = self.0.pods.write().unwrap_or_else(PoisonError::into_inner);
            for address in &pod.identity.addresses {
                if pods.get(address).is_some_and(|attached| Arc::ptr_eq(attached, pod)) {
                    pods.remove(address);
                }
            }
        }
        pod.close();
    }

    /// Installs the Services.
    pub fn set_services(&self, services: ServiceTable) {
        services.continue_turns(&self.services());
        self.0.services.set(services);
        self.0.waking.note_change();
    }

    /// Has some Services be what they are now, as [`ServiceTable::update`] does; all others stay.
    pub fn update_services(&self, here: Here<'_>, changes: Vec<(ServiceName, Option<Present>)>) {
        let mut services = ServiceTable::clone(&self.services());
        services.update(here, changes);
        self.0.services.set(services);
        self.0.waking.note_change();
    }

    /// The Services in force.
    #[must_use]
    pub fn services(&self) -> Arc<ServiceTable> {
        self.0.services.get()
    }

    /// Installs the routes of requests from outside.
    pub fn set_routes(&self, routes: RouteTable) {
        self.0.routes.set(routes);
    }

    /// The routes in force.
    #[must_use]
    pub fn routes(&self) -> Arc<RouteTable> {
        self.0.routes.get()
    }

    /// Installs what ACME servers may ask for.
    pub fn set_challenges(&self, challenges: Challenges) {
        self.0.challenges.set(challenges);
    }

    /// What ACME servers may ask for.
    #[must_use]
    pub fn challenges(&self) -> Arc<Challenges> {
        self.0.challenges.get()
    }

    /// Installs the NetworkPolicies. They are asked when a connection is made and for every datagram; connections that
    /// are already made go on.
    pub fn set_policies(&self, policies: Policies) {
        self.0.policies.set(policies);
    }

    /// The NetworkPolicies in force.
    #[must_use]
    pub fn policies(&self) -> Arc<Policies> {
        self.0.policies.get()
    }

    /// Installs who may sleep and is woken by a call.
    pub fn set_sleepers(&self, sleepers: SleeperTable) {
        self.0.sleepers.set(sleepers);
        self.0.waking.note_change();
    }

    /// Who may sleep.
    #[must_use]
    pub fn sleepers(&self) -> Arc<SleeperTable> {
        self.0.sleepers.get()
    }

    pub(crate) fn waking(&self) -> &Waking {
        &self.0.waking
    }

    /// Installs the pod ranges of all nodes.
    pub fn set_topology(&self, topology: Topology) {
        self.0.topology.set(topology);
    }

    /// The pod ranges in force.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        self.0.topology.get()
    }

    /// Says what carries to other nodes; a second carrier is not taken.
    pub fn set_overlay(&self, overlay: Arc<dyn Overlay>) {
        let _ = self.0.overlay.set(overlay);
    }

    /// What carries to other nodes, when there is something.
    #[must_use]
    pub fn overlay(&self) -> Option<Arc<dyn Overlay>> {
        self.0.overlay.get().cloned()
    }

    /// Says where the API servers are, for pods that call the Service `kubernetes`; a second word is not taken.
    pub fn set_api_servers(&self, servers: ApiServers) {
        let _ = self.0.api_servers.set(servers);
    }

    pub(crate) fn api_servers(&self) -> Option<ApiServers> {
        self.0.api_servers.get().cloned()
    }

    /// Who asks for a name.
    pub(crate) fn asker<'a>(&'a self, pod: &'a Pod) -> Asker<'a> {
        let PodIdentity { namespace, hostname, addresses, .. } = &pod.identity;
        Asker { namespace, hostname, addresses, domain: &self.config().domain, resolver: &pod.resolver }
    }

    /// Connects a pod to an address that is no pod's and no Service's.
    pub(crate) async fn leave(&self, pod: &Arc<Pod>, destination: SocketAddr) -> Result<Conn, NetError> {
        match &self.0.egress {
            Some(egress) => egress.connect(self, pod, destination).await,
            None => Err(NetError::Unreachable),
        }
    }

    /// The way out, when there is one.
    pub(crate) fn egress(&self) -> Option<&Egress> {
        self.0.egress.as_ref()
    }

    /// The addresses of a name that the cluster does not know.
    pub(crate) async fn look_up_outside(&self, pod: &Pod, name: &str) -> Result<Vec<IpAddr>, NetError> {
        let outside = names::outside(name, &self.asker(pod), &self.services());
        match (&self.0.egress, outside) {
            (Some(egress), Some(outside)) => egress.look_up(self, pod, outside).await,
            _ => Err(NetError::NameNotFound(name.to_owned())),
        }
    }

    pub(crate) fn pod(&self, ip: IpAddr) -> Option<Arc<Pod>> {
        self.0.pods.read().unwrap_or_else(PoisonError::into_inner).get(&ip).cloned()
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.0.trust
    }

    pub(crate) fn node_flows(&self) -> &NodeFlows {
        &self.0.node_flows
    }

    /// The next port for an outgoing connection of the node.
    pub(crate) fn ephemeral(&self) -> u16 {
        let next = |port: u16| if port == *EPHEMERAL_PORTS.end() { *EPHEMERAL_PORTS.start() } else { port + 1 };
        let order = Ordering::Relaxed;
        self.0.next_port.fetch_update(order, order, |port| Some(next(port))).unwrap_or(*EPHEMERAL_PORTS.start())
    }
}
