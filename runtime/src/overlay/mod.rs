//! The network between nodes: pods of different nodes reach each other over QUIC, node to node, encrypted and with both
//! sides known by their certificates.
//!
//! Every node publishes where it listens in its Node object ([`ENDPOINTS_ANNOTATION`]) and reads the others' from a watch
//! of all Nodes, together with their pod ranges. A pair of nodes shares one connection, made when it is first wanted and by
//! whoever wants it: a stream per TCP connection, a message per datagram. What may pass is the fabric's business, on both
//! sides; that nobody speaks from a foreign address is checked here.
//!
//! Where neither of two can dial the other, a member passes their packets on.
//!
//! * `nodes`: the watch, and what this node says of itself; `link`: the tie to one node; `standing`: one connection of it;
//!   `calls`, `carry`: one connection of a pod, from its beginning to its end; `identity`: certificates and the settings of
//!   QUIC; `relay`: the way over a third node.

mod calls;
mod carry;
mod identity;
pub mod limits;
mod link;
mod nodes;
mod relay;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kube::Client;
use network::tunnel::{self, Opening};
use network::{BoxFuture, Conn, Ends, Fabric, NetError};
use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, VarInt};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use identity::Identity;
pub use nodes::ENDPOINTS_ANNOTATION;

use self::identity::Identities;
use self::limits::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, HANDSHAKES_UNPROVEN_MAX, PACKET_BYTES_MAX, SOCKET_BUFFER_BYTES};
use self::link::{Dialler, Link};
use self::relay::Relay;
use self::standing::{Course, Made, Standing};

/// Closed because this node ends.
const STOPPED: VarInt = VarInt::from_u32(0);
/// Closed because the certificate is not a node's.
const NOT_A_NODE: VarInt = VarInt::from_u32(4);

/// What the network between nodes needs.
pub struct Config {
    /// Where to listen; port 0 is any free one.
    pub bind: SocketAddr,
    /// The addresses under which other nodes reach this one. Without any it is the one listened on, or where that is every
    /// address, the one from which this machine reaches others.
    pub addresses: Vec<IpAddr>,
    /// The Node's name.
    pub name: String,
    /// The node's certificate, and whom it trusts; another one is shown from when it is there, and connections that show
    /// the one before are left for new ones.
    pub identity: watch::Receiver<Identity>,
    /// The API, with a node's rights: Nodes are watched, the own one is annotated.
    pub client: Client,
    /// Whose pods are carried for.
    pub fabric: Fabric,
}

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken or not allowed.
    #[error("cannot listen on {0}/udp: {1}")]
    Listen(SocketAddr, io::Error),
    /// The certificates cannot be used.
    #[error("cannot use the node's certificates: {0}")]
    Identity(String),
}

/// The network between this node and the others. Nothing is carried before [`Overlay::run`].
pub struct Overlay {
    config: Config,
    address: SocketAddr,
    links: Arc<Links>,
    dialler: Dialler,
}

/// The ties to all other nodes, made when they are first seen.
struct Links {
    own: Arc<str>,
    known: Mutex<HashMap<Arc<str>, Known>>,
}

struct Known {
    link: Arc<Link>,
    /// Its dialler; ends with it.
    _dialling: JoinSet<()>,
}

impl Links {
    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, node: &str) -> Option<Arc<Link>> {
        self.known().get(node).map(|known| known.link.clone())
    }

    /// The link to a node, made now if there is none. The caller knows that there is such a node.
    fn to(&self, node: &str, dialler: &Dialler) -> Arc<Link> {
        let mut known = self.known();
        if let Some(known) = known.get(node) {
            return known.link.clone();
        }
        let name: Arc<str> = node.into();
        let link = Arc::new(Link::new(self.own.clone(), name.clone()));
        let mut dialling = JoinSet::new();
        dialling.spawn(link.clone().run(dialler.clone()));
        known.insert(name, Known { link: link.clone(), _dialling: dialling });
        link
    }

    /// Forgets the nodes that are gone. Connections that still stand are not cut: their owner decides.
    fn keep(&self, there: impl Fn(&str) -> bool) {
        self.known().retain(|name, known| there(name) || known.link.current().is_some());
    }
}

impl network::Overlay for Links {
    fn connect(&self, node: &Arc<str>, ends: Ends) -> BoxFuture<'static, Result<Conn, NetError>> {
        match self.get(node) {
            Some(link) => Box::pin(calls::connect(link, ends)),
            None => Box::pin(std::future::ready(Err(NetError::Unreachable))),
        }
    }

    fn send(&self, node: &Arc<str>, source: SocketAddr, destination: SocketAddr, bytes: Bytes) {
        let message = Opening::new(source, destination).and_then(|ends| tunnel::encode_datagram(&ends, &bytes));
        if let (Some(link), Ok(message)) = (self.get(node), message) {
            calls::send(&link, message);
        }
    }

    fn is_reachable(&self, node: &str) -> bool {
        self.get(node).is_some_and(|link| link.is_reachable())
    }
}

impl Overlay {
    /// Listens, and makes itself the fabric's way to other nodes.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn bind(config: Config) -> Result<Self, StartError> {
        let identities = Identities::new(&config.identity.borrow()).map_err(StartError::Identity)?;
        let socket = socket(config.bind).map_err(|error| StartError::Listen(config.bind, error))?;
        let runtime = Arc::new(TokioRuntime);
        let server = ServerConfig::clone(&identities.current().server);
        let mut own = EndpointConfig::default();
        own.max_udp_payload_size(PACKET_BYTES_MAX).expect("the bound is larger than QUIC's smallest packet");
        let endpoint = Endpoint::new(own, Some(server), socket, runtime.clone());
        let endpoint = endpoint.map_err(|error| StartError::Listen(config.bind, error))?;
        let address = endpoint.local_addr().map_err(|error| StartError::Listen(config.bind, error))?;
        let links = Arc::new(Links { own: config.name.as_str().into(), known: Mutex::default() });
        config.fabric.set_overlay(links.clone());
        let relay = Relay::new(links.clone());
        let server = ServerConfig::clone(&identities.current().relayed_server);
        let relayed =
            Endpoint::new_with_abstract_socket(EndpointConfig::default(), Some(server), relay.clone(), runtime);
        let relayed = relayed.map_err(|error| StartError::Listen(address, error))?;
        let (fabric, packets) = (config.fabric.clone(), relay.clone());
        let serve = Arc::new(move |link, standing| {
            tokio::spawn(serve(link, fabric.clone(), packets.clone(), standing));
        });
        let dialler = Dialler { endpoint, relayed, relay, identities: Arc::new(identities), serve };
        Ok(Self { config, address, links, dialler })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries until `stop`; then all connections to other nodes are closed.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = nodes::follow(&self.config, self.address, &self.links, &self.dialler) => {}
            () = accept(&self.dialler, &self.links, Course::Direct) => {}
            () = accept(&self.dialler, &self.links, Course::Relayed) => {}
            () = renew(self.config.identity.clone(), &self.dialler, &self.links) => {}
        }
        // The other nodes learn of it at once instead of after a time-out; over a third while that is still spoken to.
        for endpoint in [&self.dialler.relayed, &self.dialler.endpoint] {
            endpoint.close(STOPPED, b"the node ends");
            let _ = timeout(HANDSHAKE_TIMEOUT, endpoint.wait_idle()).await;
        }
        self.links.known().clear();
    }
}

/// The one socket. Its buffers are as large as the kernel allows, up to what is of use.
fn socket(bind: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(bind)?;
    let options = socket2::SockRef::from(&socket);
    // A smaller buffer loses packets in a burst and nothing else.
    let _ = options.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = options.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    Ok(socket)
}

/// Shows each new identity from when it is there. Ends never.
async fn renew(mut identity: watch::Receiver<Identity>, dialler: &Dialler, links: &Links) {
    while identity.changed().await.is_ok() {
        let replaced = dialler.identities.replace(&identity.borrow_and_update());
        match replaced {
            Ok(()) => {
                tracing::info!("other nodes are shown a new certificate");
                for known in links.known().values() {
                    known.link.renew();
                }
            }
            Err(error) => tracing::warn!(error, "a new certificate cannot be shown to other nodes"),
        }
    }
    // Nobody is left who could renew it.
    std::future::pending::<()>().await;
}

/// Takes connections from other nodes.
async fn accept(dialler: &Dialler, links: &Arc<Links>, course: Course) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let endpoint = if course == Course::Direct { &dialler.endpoint } else { &dialler.relayed };
    while let Some(incoming) = endpoint.accept().await {
        let under_way = HANDSHAKES_MAX - handshakes.available_permits();
        if under_way >= HANDSHAKES_UNPROVEN_MAX && !incoming.remote_address_validated() {
            // Fails only for one that has proven itself.
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (dialler, links) = (dialler.clone(), links.clone());
        tokio::spawn(async move {
            let _permit = permit;
            welcome(incoming, course, &dialler, &links).await;
        });
    }
}

async fn welcome(incoming: Incoming, course: Course, dialler: &Dialler, links: &Links) {
    let from = incoming.remote_address();
    let tls = dialler.identities.current();
    let server = if course == Course::Direct { &tls.server } else { &tls.relayed_server };
    let handshake = async { incoming.accept_with(server.clone())?.await };
    let connection = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "a handshake failed"),
        Err(_) => return tracing::debug!(%from, "a handshake was not finished"),
    };
    match identity::peer(&connection).filter(|name| **name != *links.own) {
        Some(name) => links.to(&name, dialler).establish(connection, (Made::Accepted, course), &tls, dialler),
        None => connection.close(NOT_A_NODE, b"the certificate is not another node's"),
    }
}

/// Everything that comes over one connection, until it ends.
async fn serve(link: Arc<Link>, fabric: Fabric, relay: Arc<Relay>, standing: Arc<Standing>) {
    let connection = &standing.connection;
    let calls = async {
        while let Ok(stream) = connection.accept_bi().await {
            tokio::spawn(calls::answer(link.clone(), standing.clone(), fabric.clone(), stream));
        }
    };
    let datagrams = async {
        while let Ok(message) = connection.read_datagram().await {
            calls::take_message(&link, &fabric, &relay, &message);
        }
    };
    let large = async {
        while let Ok(receive) = connection.accept_uni().await {
            tokio::spawn(calls::take_large(link.clone(), fabric.clone(), relay.clone(), receive));
        }
    };
    let (error, ..) = tokio::join!(link.watch(&standing), calls, datagrams, large);
    link.ended(&error);
}
