//! Where a connection goes: one pure function of who asks, what is asked for, and the tables.

use std::net::{IpAddr, SocketAddr};

use crate::services::{Balancer, Protocol, ServiceTable};

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A pod: it has a loopback of its own.
    Pod,
    /// The node itself: Ingress, probes, NodePorts. It never dials a loopback through the fabric.
    Node,
}

/// What is to be done with a connection or a datagram.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// To a port of the asking pod itself.
    Own(SocketAddr),
    /// To a pod of this node.
    Pod(SocketAddr),
    /// To one of a Service's endpoints, which are pods.
    Balance(&'a Balancer),
    /// Nowhere.
    Refuse(Refusal),
}

/// Why nothing is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Port 0, an unspecified, multicast or broadcast address: nothing can be there.
    #[error("not an address one can connect to")]
    NotAnAddress,
    /// The node's own loopback is not part of this network.
    #[error("the host's loopback cannot be reached from the cluster's network")]
    HostLoopback,
    /// A Service's address, but it has no such port.
    #[error("the Service has no such port")]
    NoSuchPort,
    /// A Service's port without a ready endpoint.
    #[error("the Service has no ready endpoint")]
    NoReadyEndpoint,
    /// No pod and no Service has this address.
    #[error("no pod and no Service has this address")]
    Outside,
}

/// Decides where `destination` leads. `attached` says whether a pod of this node has an address.
///
/// IPv4 addresses written as IPv6 (`::ffff:10.42.0.2`) count as what they mean.
pub fn decide<'a>(
    services: &'a ServiceTable,
    attached: impl Fn(IpAddr) -> bool,
    source: Source,
    destination: SocketAddr,
    protocol: Protocol,
) -> Decision<'a> {
    let ip = destination.ip().to_canonical();
    let destination = SocketAddr::new(ip, destination.port());
    if destination.port() == 0 || ip.is_unspecified() || ip.is_multicast() || is_broadcast(ip) {
        return Decision::Refuse(Refusal::NotAnAddress);
    }
    if ip.is_loopback() {
        return match source {
            Source::Pod => Decision::Own(destination),
            Source::Node => Decision::Refuse(Refusal::HostLoopback),
        };
    }
    if attached(ip) {
        return Decision::Pod(destination);
    }
    if !services.has_address(ip) {
        return Decision::Refuse(Refusal::Outside);
    }
    match services.balancer(destination, protocol) {
        None => Decision::Refuse(Refusal::NoSuchPort),
        Some(balancer) if balancer.endpoints().is_empty() => Decision::Refuse(Refusal::NoReadyEndpoint),
        Some(balancer) => Decision::Balance(balancer),
    }
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_broadcast())
}
