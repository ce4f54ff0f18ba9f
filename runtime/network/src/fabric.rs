//! The switch of one node: which pod has which address, and the tables in force.
//!
//! Installing a table replaces a shared pointer; a connection in the making keeps the table it started with, and an
//! established one needs none.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::body::{self, Body};
use crate::cidr::Cidr;
use crate::conn::Conn;
use crate::decide::{Decision, Refusal, Source, decide};
use crate::egress::{Egress, HostSockets, Sockets};
use crate::http::{HttpError, HttpTarget};
use crate::limits::EPHEMERAL_PORTS;
use crate::names::{self, Asker};
use crate::pod::{Bound, Pod, PodIdentity, PodNet};
use crate::policy::{self, Flow, Policies};
use crate::routes::RouteTable;
use crate::services::{Balancer, PortRef, Protocol, ServiceTable};
use crate::sleepers::{SleeperTable, Visit};
use crate::udp::Inbox;
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
    /// The addresses under which pods see the node itself, one per family.
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
    policies: Installed<Policies>,
    sleepers: Installed<SleeperTable>,
    waking: Waking,
    egress: Option<Egress>,
    next_port: AtomicU16,
}

/// The virtual network of a node. Clones are the same network.
#[derive(Clone)]
pub struct Fabric(Arc<Switch>);

/// Who dials: a pod, or the node itself.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a>(pub(crate) Option<&'a Arc<Pod>>);

/// Somebody who answers: their binding, and their own address as they see it.
pub(crate) struct Found<T> {
    pub(crate) bound: T,
    pub(crate) address: SocketAddr,
}

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
            policies: Installed::new(),
            sleepers: Installed::new(),
            waking: Waking::default(),
            next_port: AtomicU16::new(*EPHEMERAL_PORTS.start()),
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
        let pod = Arc::new(Pod::new(identity));
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

    /// Dials an address as the node: probes and port-forward.
    ///
    /// # Errors
    /// As [`PodNet::connect`]; a loopback address is unreachable.
    pub fn connect(&self, destination: SocketAddr) -> Result<Conn, NetError> {
        self.open(Caller(None), destination).map(|(bound, ends)| bound.connect(ends))?
    }

    /// Dials an address as the node to speak HTTP: nothing is sent before [`HttpTarget::send`].
    ///
    /// # Errors
    /// As [`Fabric::connect`].
    pub fn dial(&self, destination: SocketAddr) -> Result<HttpTarget, NetError> {
        self.open(Caller(None), destination).map(|(bound, ends)| bound.target(ends))?
    }

    /// Dials a Service by name as the node, on behalf of `client` (which decides for sticky Services).
    ///
    /// Endpoints that refuse are skipped, so a pod that just died costs its clients nothing.
    ///
    /// # Errors
    /// [`DialError`], as a sentence that names the Service.
    pub fn dial_service(
        &self,
        namespace: &str,
        service: &str,
        port: &PortRef,
        client: IpAddr,
    ) -> Result<HttpTarget, DialError> {
        let name = || format!("{namespace}/{service}");
        let services = self.services();
        let entry = services.service(namespace, service).ok_or_else(|| DialError::NoSuchService(name()))?;
        let Some(balancer) = entry.balancer(port) else {
            let port = match port {
                PortRef::Number(number) => number.to_string(),
                PortRef::Name(name) => name.clone(),
            };
            return Err(DialError::NoSuchPort { service: name(), port });
        };
        let mut endpoints = balancer.choose(client);
        let accepted = endpoints.find_map(|endpoint| {
            let (bound, ends) = self.open_endpoint(endpoint)?;
            bound.target(ends).ok()
        });
        let accepted = accepted.ok_or_else(|| DialError::NoReadyEndpoint(name()))?;
        Ok(if entry.speaks_h2c(port) { accepted.over_h2() } else { accepted })
    }

    /// Connects to one of a balancer's endpoints as the node: how a NodePort is served.
    ///
    /// # Errors
    /// [`NetError::ConnectionRefused`] when no endpoint accepts.
    pub fn connect_balanced(&self, balancer: &Balancer, client: IpAddr) -> Result<Conn, NetError> {
        let mut endpoints = balancer.choose(client);
        let accepted = endpoints.find_map(|endpoint| {
            let (bound, ends) = self.open_endpoint(endpoint)?;
            bound.connect(ends).ok()
        });
        accepted.ok_or(NetError::ConnectionRefused)
    }

    /// Finds who accepts at an endpoint of a Service; the node dials it directly, so the table is not asked again.
    fn open_endpoint(&self, endpoint: SocketAddr) -> Option<(Bound, Ends)> {
        let bound = self.pod(endpoint.ip())?.tcp_at(endpoint).filter(Bound::accepts)?;
        let source = self.source(Caller(None), endpoint.ip()).ok()?;
        Some((bound, Ends { source, dialled: endpoint, accepted: endpoint }))
    }

    /// Finds who accepts a TCP connection, with the addresses of both ends.
    pub(crate) fn open(&self, caller: Caller<'_>, destination: SocketAddr) -> Result<(Bound, Ends), NetError> {
        let asked = Asked { destination, protocol: Protocol::Tcp, answer: false };
        let found = self.find(caller, asked, |pod, address| pod.tcp_at(address).filter(Bound::accepts))?;
        let source = self.source(caller, found.address.ip())?;
        Ok((found.bound, Ends { source, dialled: destination, accepted: found.address }))
    }

    /// Finds the socket that receives a datagram. An answer to a datagram that was let in needs no policy's consent.
    pub(crate) fn open_udp(
        &self,
        caller: Caller<'_>,
        destination: SocketAddr,
        answer: bool,
    ) -> Result<Found<Arc<Inbox>>, NetError> {
        let asked = Asked { destination, protocol: Protocol::Udp, answer };
        self.find(caller, asked, |pod, address| pod.udp_at(address))
    }

    fn find<T>(
        &self,
        caller: Caller<'_>,
        asked: Asked,
        at: impl Fn(&Pod, SocketAddr) -> Option<T>,
    ) -> Result<Found<T>, NetError> {
        let (services, policies) = (self.services(), self.policies());
        let source = if caller.0.is_some() { Source::Pod } else { Source::Node };
        if caller.0.is_some_and(|pod| pod.is_detached()) {
            return Err(NetError::Detached);
        }
        let attached = |ip| self.0.pods.read().unwrap_or_else(PoisonError::into_inner).contains_key(&ip);
        let mut refused = NetError::ConnectionRefused;
        let mut there = |address: SocketAddr| {
            let pod = self.pod(address.ip())?;
            if let Some(reason) = self.forbidden(&policies, caller, &pod, address, asked) {
                refused = NetError::Denied(reason);
                return None;
            }
            at(&pod, address).map(|bound| Found { bound, address })
        };
        let found = match decide(&services, attached, source, asked.destination, asked.protocol) {
            Decision::Refuse(refusal) => return Err(refusal.into()),
            Decision::Own(address) => caller.0.and_then(|pod| at(pod, address)).map(|bound| Found { bound, address }),
            Decision::Pod(address) => there(address),
            Decision::Balance(balancer) => {
                balancer.choose(self.client(caller, asked.destination.ip())).find_map(&mut there)
            }
        };
        found.ok_or(refused)
    }

    /// Why the policies forbid the caller to reach a pod at an address; `None` when they do not.
    fn forbidden(
        &self,
        policies: &Policies,
        caller: Caller<'_>,
        pod: &Arc<Pod>,
        address: SocketAddr,
        asked: Asked,
    ) -> Option<String> {
        let source = caller.0.filter(|source| !Arc::ptr_eq(source, pod))?;
        if policies.is_empty() || asked.answer {
            return None;
        }
        let source = source.end(self.client(caller, address.ip()));
        let destination = pod.end(address.ip());
        let flow = Flow { source, destination, port: address.port(), protocol: asked.protocol };
        let verdict = policy::decide(policies, &flow);
        (!verdict.allowed()).then(|| verdict.to_string())
    }

    /// Who asks for a name.
    pub(crate) fn asker<'a>(&'a self, pod: &'a Pod) -> Asker<'a> {
        let PodIdentity { namespace, hostname, addresses, .. } = &pod.identity;
        Asker { namespace, hostname, addresses, domain: &self.config().domain }
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

    fn pod(&self, ip: IpAddr) -> Option<Arc<Pod>> {
        self.0.pods.read().unwrap_or_else(PoisonError::into_inner).get(&ip).cloned()
    }

    /// The address that stands for the caller where a sticky Service tells clients apart.
    fn client(&self, caller: Caller<'_>, like: IpAddr) -> IpAddr {
        self.address_of(caller, like).unwrap_or(like)
    }

    fn address_of(&self, caller: Caller<'_>, like: IpAddr) -> Option<IpAddr> {
        let own = caller.0.map_or(&self.0.config.gateway, |pod| &pod.identity.addresses);
        own.iter().copied().find(|ip| ip.is_ipv4() == like.is_ipv4())
    }

    /// The address and port that the other side sees as its peer.
    fn source(&self, caller: Caller<'_>, destination: IpAddr) -> Result<SocketAddr, NetError> {
        let ip = if destination.is_loopback() {
            destination
        } else {
            self.address_of(caller, destination).ok_or(NetError::Unreachable)?
        };
        let port = match caller.0 {
            Some(pod) => pod.ephemeral(),
            None => self.ephemeral(),
        };
        Ok(SocketAddr::new(ip, port))
    }

    fn ephemeral(&self) -> u16 {
        let next = |port: u16| if port == *EPHEMERAL_PORTS.end() { *EPHEMERAL_PORTS.start() } else { port + 1 };
        let order = Ordering::Relaxed;
        self.0.next_port.fetch_update(order, order, |port| Some(next(port))).unwrap_or(*EPHEMERAL_PORTS.start())
    }
}

/// Where a connection or a datagram is to go.
#[derive(Clone, Copy)]
struct Asked {
    destination: SocketAddr,
    protocol: Protocol,
    /// It answers one that came the other way.
    answer: bool,
}

/// The addresses of a connection about to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) source: SocketAddr,
    pub(crate) dialled: SocketAddr,
    pub(crate) accepted: SocketAddr,
}

/// Sends a request to the first of several addresses that accepts.
pub(crate) async fn send_to_first(
    fabric: &Fabric,
    pod: &Arc<Pod>,
    destinations: impl Iterator<Item = SocketAddr>,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, HttpError> {
    let mut refused = NetError::ConnectionRefused;
    for destination in destinations {
        let dial = || fabric.open(Caller(Some(pod)), destination).and_then(|(bound, ends)| bound.target(ends));
        match awake(fabric, destination, dial).await {
            (Ok(target), visit) => return Ok(target.send(request).await?.map(|body| body::held(body, visit))),
            (Err(NetError::Unreachable), _) => match fabric.leave(pod, destination).await {
                Ok(conn) => return HttpTarget::Conn(conn).send(request).await,
                Err(error) => refused = error,
            },
            (Err(error), _) => refused = error,
        }
    }
    Err(refused.into())
}

/// Dials; where nobody is there because the pods of a Service sleep, once they are awake.
pub(crate) async fn awake<T>(
    fabric: &Fabric,
    destination: SocketAddr,
    dial: impl Fn() -> Result<T, NetError>,
) -> (Result<T, NetError>, Option<Visit>) {
    let first = dial();
    let Some(door) = fabric.door_at(destination.ip()) else { return (first, None) };
    let found = match first {
        Err(NetError::ConnectionRefused) => {
            let again = || match dial() {
                Err(NetError::ConnectionRefused) => None,
                found => Some(found),
            };
            fabric.hold(&door, again).await.unwrap_or(Err(NetError::ConnectionRefused))
        }
        found => found,
    };
    (found, Some(door.visit()))
}
