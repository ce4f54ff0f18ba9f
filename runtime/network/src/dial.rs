//! From an address to who answers there: the tables of one moment, the places to try in order, and the first that takes
//! the connection, on this node or on another.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;

use crate::body::{self, Body};
use crate::conn::Conn;
use crate::decide::{Decision, Source, decide};
use crate::fabric::{DialError, Fabric, NetError};
use crate::http::{HttpError, HttpTarget};
use crate::limits::{DIAL_NEXT_AFTER, OVERLAY_CONNECT_TIMEOUT};
use crate::overlay::Overlay;
use crate::pod::{Bound, Pod};
use crate::policy::{self, End, Flow, Policies};
use crate::services::{Balancer, PortRef, Protocol, ServiceTable};
use crate::topology::Topology;
use crate::udp::{Datagram, Inbox};
use crate::waking::awake;

/// The addresses of a connection about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Who dials.
    pub source: SocketAddr,
    /// What was dialled; a Service's address, perhaps.
    pub dialled: SocketAddr,
    /// Who answers.
    pub accepted: SocketAddr,
}

/// Who dials: a pod, or the node itself.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a>(pub(crate) Option<&'a Arc<Pod>>);

/// Somebody who answers: their binding, and their own address as they see it.
pub(crate) struct Found<T> {
    pub(crate) bound: T,
    pub(crate) address: SocketAddr,
}

/// Who receives a datagram.
pub(crate) enum Receiver {
    Here(Arc<Inbox>),
    /// A pod of this node of the cluster.
    There(Arc<str>),
}

/// Where a connection or a datagram is to go.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) destination: SocketAddr,
    pub(crate) protocol: Protocol,
    /// It answers one that came the other way.
    pub(crate) answer: bool,
}

/// A place that a connection may end at.
enum Place {
    Here(Arc<Pod>),
    There(Arc<str>),
}

/// Somebody who accepts a connection; on this node nothing has been done yet, on another it is made.
pub(crate) struct Opened {
    ends: Ends,
    way: Way,
}

enum Way {
    Here(Bound),
    There(Conn),
}

impl Opened {
    /// The byte connection.
    pub(crate) fn connect(self) -> Result<Conn, NetError> {
        match self.way {
            Way::Here(bound) => bound.connect(self.ends),
            Way::There(conn) => Ok(conn),
        }
    }

    /// What HTTP can be spoken to.
    pub(crate) fn target(self) -> Result<HttpTarget, NetError> {
        match self.way {
            Way::Here(bound) => bound.target(self.ends),
            Way::There(conn) => Ok(HttpTarget::Conn(conn)),
        }
    }
}

/// What one connection in the making goes by.
struct Moment<'a> {
    fabric: &'a Fabric,
    caller: Caller<'a>,
    asked: Asked,
    services: Arc<ServiceTable>,
    policies: Arc<Policies>,
    topology: Arc<Topology>,
    overlay: Option<Arc<dyn Overlay>>,
}

/// The places to try.
enum Candidates {
    /// A port of the caller itself.
    Own(SocketAddr),
    One(SocketAddr),
    Many(Vec<SocketAddr>),
}

impl Moment<'_> {
    fn candidates(&self) -> Result<Candidates, NetError> {
        let source = if self.caller.0.is_some() { Source::Pod } else { Source::Node };
        if self.caller.0.is_some_and(|pod| pod.is_detached()) {
            return Err(NetError::Detached);
        }
        let Asked { destination, protocol, .. } = self.asked;
        let attached = |ip| self.fabric.pod(ip).is_some() || self.topology.elsewhere(ip).is_some();
        match decide(&self.services, attached, source, destination, protocol) {
            Decision::Refuse(refusal) => Err(refusal.into()),
            Decision::Own(address) => Ok(Candidates::Own(address)),
            Decision::Pod(address) => Ok(Candidates::One(address)),
            Decision::Balance(balancer) => {
                let client = self.fabric.client(self.caller, destination.ip());
                Ok(Candidates::Many(balancer.choose(client, |ip| self.reachable(ip)).collect()))
            }
        }
    }

    /// Whether an endpoint is worth trying before others.
    fn reachable(&self, ip: IpAddr) -> bool {
        match (&self.overlay, self.topology.elsewhere(ip)) {
            (_, None) => true,
            (Some(overlay), Some(node)) => overlay.is_reachable(node),
            (None, Some(_)) => false,
        }
    }

    /// The place that has an address, if the policies let the caller go there.
    fn place(&self, address: SocketAddr) -> Result<Place, NetError> {
        let pod = self.fabric.pod(address.ip());
        if let Some(reason) = self.forbidden(pod.as_ref(), address) {
            return Err(NetError::Denied(reason));
        }
        match (pod, self.topology.elsewhere(address.ip())) {
            (Some(pod), _) => Ok(Place::Here(pod)),
            (None, Some(node)) => Ok(Place::There(node.clone())),
            (None, None) => Err(NetError::ConnectionRefused),
        }
    }

    /// Why the policies forbid the caller to reach an address; `None` when they do not.
    fn forbidden(&self, pod: Option<&Arc<Pod>>, address: SocketAddr) -> Option<String> {
        let source = self.caller.0.filter(|source| !pod.is_some_and(|pod| Arc::ptr_eq(source, pod)))?;
        if self.policies.is_empty() || self.asked.answer {
            return None;
        }
        let source = source.end(self.fabric.client(self.caller, address.ip()));
        // A pod of another node is known by its address; that node asks again.
        let destination = pod.map_or(End::Address(address.ip()), |pod| pod.end(address.ip()));
        let flow = Flow { source, destination, port: address.port(), protocol: self.asked.protocol };
        let verdict = policy::decide(&self.policies, &flow);
        (!verdict.allowed()).then(|| verdict.to_string())
    }

    fn ends(&self, accepted: SocketAddr) -> Result<Ends, NetError> {
        let source = self.fabric.source(self.caller, accepted.ip())?;
        Ok(Ends { source, dialled: self.asked.destination, accepted })
    }

    /// The first place on this node that accepts.
    fn open_here(&self) -> Result<Opened, NetError> {
        let candidates = match self.candidates()? {
            Candidates::Own(address) | Candidates::One(address) => vec![address],
            Candidates::Many(addresses) => addresses,
        };
        let mut refused = NetError::ConnectionRefused;
        for address in candidates {
            match self.place(address) {
                Ok(Place::Here(pod)) => {
                    if let Some(bound) = accepting(&pod, address) {
                        return Ok(Opened { ends: self.ends(address)?, way: Way::Here(bound) });
                    }
                }
                Ok(Place::There(_)) => refused = NetError::Unreachable,
                Err(error) => refused = worse(refused, error),
            }
        }
        Err(refused)
    }

    /// The first place that has a socket for a datagram, or is on a node that may have.
    fn receiver(&self, addresses: impl Iterator<Item = SocketAddr>) -> Result<Found<Receiver>, NetError> {
        let mut refused = NetError::ConnectionRefused;
        for address in addresses {
            match self.place(address) {
                Ok(Place::Here(pod)) => {
                    if let Some(inbox) = pod.udp_at(address) {
                        return Ok(Found { bound: Receiver::Here(inbox), address });
                    }
                }
                Ok(Place::There(node)) => return Ok(Found { bound: Receiver::There(node), address }),
                Err(error) => refused = worse(refused, error),
            }
        }
        Err(refused)
    }

    /// The first place that accepts.
    async fn open(&self) -> Result<Opened, NetError> {
        match self.candidates()? {
            Candidates::Own(address) => {
                let bound = self.caller.0.and_then(|pod| accepting(pod, address));
                let bound = bound.ok_or(NetError::ConnectionRefused)?;
                Ok(Opened { ends: self.ends(address)?, way: Way::Here(bound) })
            }
            Candidates::One(address) => self.open_at(address, true).await,
            Candidates::Many(addresses) => self.open_first(&addresses).await,
        }
    }

    async fn open_first(&self, addresses: &[SocketAddr]) -> Result<Opened, NetError> {
        let mut refused = NetError::ConnectionRefused;
        for (index, address) in addresses.iter().enumerate() {
            match self.open_at(*address, index + 1 == addresses.len()).await {
                Ok(opened) => return Ok(opened),
                Err(error) => refused = worse(refused, error),
            }
        }
        Err(refused)
    }

    async fn open_at(&self, address: SocketAddr, last: bool) -> Result<Opened, NetError> {
        match self.place(address)? {
            Place::Here(pod) => {
                let bound = accepting(&pod, address).ok_or(NetError::ConnectionRefused)?;
                Ok(Opened { ends: self.ends(address)?, way: Way::Here(bound) })
            }
            Place::There(node) => {
                let overlay = self.overlay.as_ref().ok_or(NetError::Unreachable)?;
                let ends = self.ends(address)?;
                let patience = if last { OVERLAY_CONNECT_TIMEOUT } else { DIAL_NEXT_AFTER };
                let connected = timeout(patience, overlay.connect(&node, ends)).await;
                let conn = connected.map_err(|_| NetError::TimedOut)??;
                Ok(Opened { ends, way: Way::There(conn) })
            }
        }
    }
}

fn accepting(pod: &Pod, address: SocketAddr) -> Option<Bound> {
    pod.tcp_at(address).filter(Bound::accepts)
}

/// Of two reasons the one that says more: that nobody accepted is the least.
fn worse(one: NetError, other: NetError) -> NetError {
    if other == NetError::ConnectionRefused { one } else { other }
}

impl Fabric {
    fn moment<'a>(&'a self, caller: Caller<'a>, asked: Asked) -> Moment<'a> {
        Moment {
            fabric: self,
            caller,
            asked,
            services: self.services(),
            policies: self.policies(),
            topology: self.topology(),
            overlay: self.overlay(),
        }
    }

    fn tcp<'a>(&'a self, caller: Caller<'a>, destination: SocketAddr) -> Moment<'a> {
        self.moment(caller, Asked { destination, protocol: Protocol::Tcp, answer: false })
    }

    /// Dials a pod of this node as the node: probes and port-forward.
    ///
    /// # Errors
    /// As [`crate::PodNet::connect`]; loopback addresses and pods of other nodes are unreachable.
    pub fn connect(&self, destination: SocketAddr) -> Result<Conn, NetError> {
        self.tcp(Caller(None), destination).open_here()?.connect()
    }

    /// Dials a pod of this node as the node to speak HTTP: nothing is sent before [`HttpTarget::send`].
    ///
    /// # Errors
    /// As [`Fabric::connect`].
    pub fn dial(&self, destination: SocketAddr) -> Result<HttpTarget, NetError> {
        self.tcp(Caller(None), destination).open_here()?.target()
    }

    /// Dials a Service by name as the node, on behalf of `client` (which decides for sticky Services).
    ///
    /// Endpoints that refuse are skipped, so a pod that just died costs its clients nothing; one on a node that does not
    /// answer costs [`DIAL_NEXT_AFTER`] once.
    ///
    /// # Errors
    /// [`DialError`], as a sentence that names the Service.
    pub async fn dial_service(
        &self,
        namespace: &str,
        service: &str,
        port: &PortRef,
        client: IpAddr,
    ) -> Result<HttpTarget, DialError> {
        let name = || format!("{namespace}/{service}");
        let balancer = {
            let services = self.services();
            let entry = services.service(namespace, service).ok_or_else(|| DialError::NoSuchService(name()))?;
            entry.balancer(port).map(|balancer| (balancer.clone(), entry.speaks_h2c(port)))
        };
        let Some((balancer, h2c)) = balancer else {
            let port = match port {
                PortRef::Number(number) => number.to_string(),
                PortRef::Name(name) => name.clone(),
            };
            return Err(DialError::NoSuchPort { service: name(), port });
        };
        let opened = self.open_balanced(&balancer, client).await.and_then(Opened::target);
        let target =
            opened.map(|target| target.on_behalf_of(client)).map_err(|_| DialError::NoReadyEndpoint(name()))?;
        Ok(if h2c { target.over_h2() } else { target })
    }

    /// Connects to one of a balancer's endpoints as the node: how a NodePort is served.
    ///
    /// # Errors
    /// [`NetError::ConnectionRefused`] when no endpoint accepts.
    pub async fn connect_balanced(&self, balancer: &Balancer, client: IpAddr) -> Result<Conn, NetError> {
        self.open_balanced(balancer, client).await?.connect()
    }

    async fn open_balanced(&self, balancer: &Balancer, client: IpAddr) -> Result<Opened, NetError> {
        let nowhere = SocketAddr::new(client, 0);
        let mut moment = self.tcp(Caller(None), nowhere);
        let endpoints: Vec<_> = balancer.choose(client, |ip| moment.reachable(ip)).collect();
        let mut refused = NetError::ConnectionRefused;
        for (index, endpoint) in endpoints.iter().enumerate() {
            // The node dials the endpoint itself, so that is what its end sees as the peer.
            moment.asked.destination = *endpoint;
            match moment.open_at(*endpoint, index + 1 == endpoints.len()).await {
                Ok(opened) => return Ok(opened),
                Err(error) => refused = worse(refused, error),
            }
        }
        Err(refused)
    }

    /// Finds who accepts a TCP connection.
    pub(crate) async fn open(&self, caller: Caller<'_>, destination: SocketAddr) -> Result<Opened, NetError> {
        self.tcp(caller, destination).open().await
    }

    /// Finds who receives a datagram. An answer to a datagram that was let in needs no policy's consent.
    pub(crate) fn open_udp(
        &self,
        caller: Caller<'_>,
        destination: SocketAddr,
        answer: bool,
    ) -> Result<Found<Receiver>, NetError> {
        let moment = self.moment(caller, Asked { destination, protocol: Protocol::Udp, answer });
        let candidates = match moment.candidates() {
            // Nobody has the address: it may be the node's own, where a client outside waits for an answer.
            Err(NetError::Unreachable) => {
                let inbox = self.flow_at(destination).ok_or(NetError::Unreachable)?;
                return Ok(Found { bound: Receiver::Here(inbox), address: destination });
            }
            candidates => candidates?,
        };
        match candidates {
            Candidates::Own(address) => {
                let inbox = caller.0.and_then(|pod| pod.udp_at(address)).ok_or(NetError::ConnectionRefused)?;
                Ok(Found { bound: Receiver::Here(inbox), address })
            }
            Candidates::One(address) => moment.receiver(std::iter::once(address)),
            Candidates::Many(addresses) => moment.receiver(addresses.into_iter()),
        }
    }

    /// Finds which of a balancer's endpoints receives a datagram of the node's: the one it had, else the next.
    pub(crate) fn open_udp_balanced(
        &self,
        balancer: &Balancer,
        client: IpAddr,
        known: Option<SocketAddr>,
    ) -> Result<Found<Receiver>, NetError> {
        let nowhere = SocketAddr::new(client, 0);
        let moment = self.moment(Caller(None), Asked { destination: nowhere, protocol: Protocol::Udp, answer: false });
        let known = known.filter(|known| moment.reachable(known.ip()));
        moment
            .receiver(known.into_iter())
            .or_else(|_| moment.receiver(balancer.choose(client, |ip| moment.reachable(ip))))
    }

    /// The address that stands for the caller where a sticky Service tells clients apart.
    fn client(&self, caller: Caller<'_>, like: IpAddr) -> IpAddr {
        self.address_of(caller, like).unwrap_or(like)
    }

    fn address_of(&self, caller: Caller<'_>, like: IpAddr) -> Option<IpAddr> {
        let of_family = |addresses: &[IpAddr]| addresses.iter().copied().find(|ip| ip.is_ipv4() == like.is_ipv4());
        match caller.0 {
            Some(pod) => of_family(&pod.identity.addresses),
            None => of_family(self.topology().gateways()).or_else(|| of_family(&self.config().gateway)),
        }
    }

    /// The node's own address towards another.
    pub(crate) fn node_address(&self, like: IpAddr) -> Option<IpAddr> {
        self.address_of(Caller(None), like)
    }

    /// Hands a datagram to whoever was found to receive it.
    pub(crate) fn hand(&self, to: Found<Receiver>, source: SocketAddr, bytes: Bytes) {
        match to.bound {
            Receiver::Here(inbox) => inbox.deliver(Datagram { bytes, source }),
            Receiver::There(node) => {
                if let Some(overlay) = self.overlay() {
                    overlay.send(&node, source, to.address, bytes);
                }
            }
        }
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
        let dial = || async move { fabric.open(Caller(Some(pod)), destination).await.and_then(Opened::target) };
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
