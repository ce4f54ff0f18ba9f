//! Datagrams between pods: bounded inboxes that lose what does not fit, as UDP allows.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::dial::{Caller, Receiver};
use crate::fabric::{Fabric, NetError};
use crate::limits::{
    DATAGRAM_BYTES_MAX, DATAGRAMS_MAX, EGRESS_UDP_PER_SOCKET_MAX, UDP_ANSWER_TIME, UDP_FLOWS_MAX, UDP_HEARD_MAX,
};
use crate::pod::Pod;
use crate::ports::Scope;
use crate::queue::{Popped, Queue};

/// One datagram as its receiver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The payload.
    pub bytes: Bytes,
    /// Who sent it; for the answer of a Service's endpoint the Service's address.
    pub source: SocketAddr,
}

/// Where a socket's datagrams wait.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Queue<Datagram>,
    /// Whom on other nodes the socket has called lately: their answers are let in whatever the policies say, as answers
    /// on this node are.
    called: Mutex<Heard>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::holding(DATAGRAMS_MAX)
    }
}

impl Inbox {
    /// With room for so many datagrams.
    pub(crate) fn holding(max: usize) -> Self {
        Self { queue: Queue::new(max), called: Mutex::default() }
    }

    /// Takes a datagram, or loses it when it is full or closed.
    pub(crate) fn deliver(&self, datagram: Datagram) {
        let _ = self.queue.push(datagram);
    }

    /// What waits longest.
    pub(crate) fn pop(&self) -> Popped<Datagram> {
        self.queue.pop()
    }

    /// Returns when [`Inbox::pop`] would not answer `Empty`.
    pub(crate) async fn ready(&self) {
        self.queue.ready().await;
    }

    pub(crate) fn close(&self) {
        self.queue.close();
    }

    /// Whether a datagram from there answers one that was sent.
    pub(crate) fn awaits(&self, source: SocketAddr) -> bool {
        self.called().lately(source)
    }

    fn called(&self) -> MutexGuard<'_, Heard> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Service's address and the endpoint that this socket was given for it.
#[derive(Clone, Copy, Debug)]
struct Flow {
    service: SocketAddr,
    endpoint: SocketAddr,
}

/// A bound UDP socket of a pod; dropping it frees the port.
pub struct UdpSocket {
    fabric: Fabric,
    pod: Arc<Pod>,
    scope: Scope,
    local: SocketAddr,
    inbox: Arc<Inbox>,
    /// The newest last; the oldest is forgotten first.
    flows: Mutex<VecDeque<Flow>>,
    heard: Mutex<Heard>,
    /// Exchanges with addresses outside; each lives while something comes or goes.
    outside: Mutex<HashMap<SocketAddr, mpsc::Sender<Bytes>>>,
}

/// With whom datagrams were exchanged lately: answers are let through whatever the policies say, since those are about who
/// begins.
#[derive(Debug, Default)]
struct Heard(HashMap<SocketAddr, Instant>);

impl Heard {
    fn note(&mut self, source: SocketAddr) {
        let now = Instant::now();
        if self.0.len() >= UDP_HEARD_MAX && !self.0.contains_key(&source) {
            self.0.retain(|_, heard| now.duration_since(*heard) < UDP_ANSWER_TIME);
            if self.0.len() >= UDP_HEARD_MAX {
                return;
            }
        }
        self.0.insert(source, now);
    }

    fn lately(&self, source: SocketAddr) -> bool {
        self.0.get(&source).is_some_and(|heard| heard.elapsed() < UDP_ANSWER_TIME)
    }
}

impl std::fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UdpSocket({})", self.local)
    }
}

impl UdpSocket {
    pub(crate) fn new(fabric: Fabric, pod: Arc<Pod>, scope: Scope, local: SocketAddr, inbox: Arc<Inbox>) -> Self {
        Self {
            fabric,
            pod,
            scope,
            local,
            inbox,
            flows: Mutex::default(),
            heard: Mutex::default(),
            outside: Mutex::default(),
        }
    }

    /// The bound address, with the port that was chosen.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flows(&self) -> MutexGuard<'_, VecDeque<Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a datagram, or loses it when nobody is there or the receiver is full.
    ///
    /// Datagrams to one Service address go to one endpoint for as long as that one takes them.
    ///
    /// # Errors
    /// [`NetError::DatagramTooLarge`], [`NetError::Unreachable`], [`NetError::InvalidAddress`]. That nobody listens, or
    /// that a policy forbids it, is not an error: UDP has no way to say so in time.
    pub fn send(&self, bytes: Bytes, destination: SocketAddr) -> Result<(), NetError> {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(NetError::DatagramTooLarge);
        }
        let caller = Caller(Some(&self.pod));
        let known = self.flows().iter().find(|flow| flow.service == destination).map(|flow| flow.endpoint);
        let open = |destination| self.fabric.open_udp(caller, destination, self.heard().lately(destination));
        let found = match known.map(open) {
            Some(Ok(found)) => Ok(found),
            Some(Err(_)) | None => open(destination),
        };
        let found = match found {
            Ok(found) => found,
            // Nobody listens, or a policy says so: either way the datagram is lost.
            Err(NetError::ConnectionRefused | NetError::Denied(_)) => return Ok(()),
            Err(NetError::Unreachable) => return self.send_outside(bytes, destination),
            Err(error) => return Err(error),
        };
        if found.address != destination && known != Some(found.address) {
            self.remember(Flow { service: destination, endpoint: found.address });
        }
        let source = self.source(found.address)?;
        if matches!(found.bound, Receiver::There(_)) {
            self.inbox.called().note(found.address);
        }
        self.fabric.hand(found, source, bytes);
        Ok(())
    }

    /// Sends to an address outside the cluster. What policies or a bound forbid is lost as well.
    fn send_outside(&self, bytes: Bytes, destination: SocketAddr) -> Result<(), NetError> {
        let Some(egress) = self.fabric.egress() else { return Err(NetError::Unreachable) };
        let mut outside = self.outside.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match outside.get(&destination).filter(|sender| !sender.is_closed()) {
            Some(sender) => egress.still_permits(&self.fabric, &self.pod, destination).map(|()| sender.clone()),
            None => {
                outside.retain(|_, sender| !sender.is_closed());
                if outside.len() >= EGRESS_UDP_PER_SOCKET_MAX {
                    return Ok(());
                }
                egress.datagrams(&self.fabric, &self.pod, destination, self.inbox.clone())
            }
        };
        let Ok(sender) = sender else { return Ok(()) };
        // What the host's socket does not take in time is lost, as it would be anywhere.
        let _ = sender.try_send(bytes);
        outside.insert(destination, sender);
        Ok(())
    }

    fn remember(&self, flow: Flow) {
        let mut flows = self.flows();
        flows.retain(|other| other.service != flow.service);
        if flows.len() >= UDP_FLOWS_MAX {
            flows.pop_front();
        }
        flows.push_back(flow);
    }

    /// The address the receiver sees: the bound one, or for a socket bound to "any" the pod's own of that family.
    fn source(&self, destination: SocketAddr) -> Result<SocketAddr, NetError> {
        let like = destination.ip();
        let ip = match self.local.ip() {
            ip if !ip.is_unspecified() => ip,
            _ if like.is_loopback() => like,
            _ => {
                let own = self.pod.identity.addresses.iter().copied();
                own.into_iter().find(|ip| ip.is_ipv4() == like.is_ipv4()).ok_or(NetError::Unreachable)?
            }
        };
        Ok(SocketAddr::new(ip, self.local.port()))
    }

    /// Takes a datagram without waiting: `Ok(None)` means wait for [`UdpSocket::ready`].
    ///
    /// # Errors
    /// [`NetError::Detached`] when the pod has left the network.
    pub fn try_recv(&self) -> Result<Option<Datagram>, NetError> {
        match self.inbox.pop() {
            Popped::Item(mut datagram) => {
                self.heard().note(datagram.source);
                let flows = self.flows();
                if let Some(flow) = flows.iter().rev().find(|flow| flow.endpoint == datagram.source) {
                    datagram.source = flow.service;
                }
                Ok(Some(datagram))
            }
            Popped::Empty => Ok(None),
            Popped::Closed => Err(NetError::Detached),
        }
    }

    /// Returns when [`UdpSocket::try_recv`] would not answer `Ok(None)`. May be dropped at any time.
    pub async fn ready(&self) {
        self.inbox.ready().await;
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.pod.release_udp(self.scope, self.local.port());
        self.inbox.close();
    }
}
