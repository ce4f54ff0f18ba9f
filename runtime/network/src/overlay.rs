//! The seam to other nodes: what carries connections and datagrams there, and what may arrive from there.
//!
//! A carrier ([`Overlay`]) knows how to reach nodes, the [`Fabric`] what is allowed. Both ends ask their policies: the
//! source before anything is sent, the destination when it arrives. The carrier vouches for one thing: that a source
//! address lies in the ranges of the node it comes from.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;

use crate::conn::Conn;
use crate::dial::Ends;
use crate::fabric::{Fabric, NetError};
use crate::http::BoxFuture;
use crate::limits::SILENCE_LOOK;
use crate::pod::Bound;
use crate::policy::{self, End, Flow};
use crate::services::Protocol;
use crate::udp::Datagram;

/// What carries to pods of other nodes.
pub trait Overlay: Send + Sync {
    /// Connects to a pod of another node. Dropping the future gives up. The result is the dialler's end.
    fn connect(&self, node: &Arc<str>, ends: Ends) -> BoxFuture<'static, Result<Conn, NetError>>;

    /// Sends a datagram to a pod of another node, or loses it.
    fn send(&self, node: &Arc<str>, source: SocketAddr, destination: SocketAddr, bytes: Bytes);

    /// Whether a node is likely to answer: `false` only when it has failed to lately.
    fn is_reachable(&self, node: &str) -> bool;
}

impl Fabric {
    /// Ends when the node whose pods have this address is not likely to answer any more; never for this node's.
    pub async fn falls_silent(&self, ip: IpAddr) {
        while self.overlay().is_none_or(|overlay| match self.topology().elsewhere(ip) {
            Some(node) => overlay.is_reachable(node),
            None => true,
        }) {
            tokio::time::sleep(SILENCE_LOOK).await;
        }
    }

    /// Takes a connection that comes from another node. The result is the dialler's end, for the carrier.
    ///
    /// # Errors
    /// [`NetError::Unreachable`] when no pod of this node has the address, [`NetError::ConnectionRefused`],
    /// [`NetError::Denied`].
    pub fn admit(&self, source: SocketAddr, destination: SocketAddr) -> Result<Conn, NetError> {
        let pod = self.pod(destination.ip()).ok_or(NetError::Unreachable)?;
        if let Some(reason) = self.refuses(source, destination, Protocol::Tcp) {
            return Err(NetError::Denied(reason));
        }
        let bound = pod.tcp_at(destination).filter(Bound::accepts).ok_or(NetError::ConnectionRefused)?;
        bound.connect(Ends { source, dialled: destination, accepted: destination })
    }

    /// Takes a datagram that comes from another node, or loses it: nobody is there, or a policy says so.
    pub fn deliver(&self, source: SocketAddr, destination: SocketAddr, bytes: Bytes) {
        let Some(pod) = self.pod(destination.ip()) else {
            if let Some(inbox) = self.flow_at(destination) {
                inbox.deliver(Datagram { bytes, source });
            }
            return;
        };
        let Some(inbox) = pod.udp_at(destination) else { return };
        if inbox.awaits(source) || self.refuses(source, destination, Protocol::Udp).is_none() {
            inbox.deliver(Datagram { bytes, source });
        }
    }

    /// Why the policies keep a source on another node from a pod of this one. The other node itself is let in, as this
    /// one is: its Ingress and its NodePorts speak for it.
    fn refuses(&self, source: SocketAddr, destination: SocketAddr, protocol: Protocol) -> Option<String> {
        let policies = self.policies();
        if policies.is_empty() || self.topology().is_gateway(source.ip()) {
            return None;
        }
        let pod = self.pod(destination.ip())?;
        let flow = Flow {
            source: End::Address(source.ip()),
            destination: pod.end(destination.ip()),
            port: destination.port(),
            protocol,
        };
        let verdict = policy::decide(&policies, &flow);
        (!verdict.allowed()).then(|| verdict.to_string())
    }
}
