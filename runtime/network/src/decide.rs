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
    /// No pod and no Service has this address. Whether it may be reached outside is [`crate::outside::judge`]'s matter.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::{Endpoint, EndpointSlice, Service, ServicePort};

    fn services() -> ServiceTable {
        let port =
            |port| ServicePort { name: format!("p{port}"), protocol: Protocol::Tcp, port, node_port: None, h2c: false };
        let service = Service {
            namespace: "default".into(),
            name: "web".into(),
            cluster_ips: vec!["10.43.0.5".parse().unwrap()],
            ports: vec![port(80), port(81)],
            ..Service::default()
        };
        let address = "10.42.0.9".parse().unwrap();
        let slice = EndpointSlice {
            namespace: "default".into(),
            service: "web".into(),
            ports: vec![("p80".into(), Protocol::Tcp, 8080)],
            endpoints: vec![Endpoint::ready_at(address)],
        };
        ServiceTable::build(vec![service], &[slice])
    }

    fn said(source: Source, destination: &str, protocol: Protocol) -> String {
        let services = services();
        let pods: Vec<IpAddr> = ["10.42.0.2", "fd42::2"].iter().map(|ip| ip.parse().unwrap()).collect();
        let attached = |ip| pods.contains(&ip);
        match decide(&services, attached, source, destination.parse().unwrap(), protocol) {
            Decision::Own(address) => format!("own {address}"),
            Decision::Pod(address) => format!("pod {address}"),
            Decision::Balance(balancer) => format!("balance {:?}", balancer.endpoints()),
            Decision::Refuse(refusal) => format!("{refusal:?}"),
        }
    }

    #[test]
    fn destinations_lead_where_the_tables_say() {
        let cases = [
            ("10.42.0.2:80", "pod 10.42.0.2:80"),
            ("[fd42::2]:80", "pod [fd42::2]:80"),
            ("[::ffff:10.42.0.2]:80", "pod 10.42.0.2:80"),
            ("10.43.0.5:80", "balance [10.42.0.9:8080]"),
            ("[::ffff:10.43.0.5]:80", "balance [10.42.0.9:8080]"),
            ("10.43.0.5:81", "NoReadyEndpoint"),
            ("10.43.0.5:82", "NoSuchPort"),
            ("127.0.0.1:80", "own 127.0.0.1:80"),
            ("127.255.0.1:80", "own 127.255.0.1:80"),
            ("[::1]:80", "own [::1]:80"),
            ("[::ffff:127.0.0.1]:80", "own 127.0.0.1:80"),
            ("10.42.0.3:80", "Outside"),
            ("10.43.0.6:80", "Outside"),
            ("1.1.1.1:80", "Outside"),
            ("169.254.169.254:80", "Outside"),
            ("[fe80::1]:80", "Outside"),
            ("192.168.0.1:80", "Outside"),
            ("0.0.0.0:80", "NotAnAddress"),
            ("[::]:80", "NotAnAddress"),
            ("[::ffff:0.0.0.0]:80", "NotAnAddress"),
            ("224.0.0.1:80", "NotAnAddress"),
            ("[ff02::1]:80", "NotAnAddress"),
            ("255.255.255.255:80", "NotAnAddress"),
            ("10.42.0.2:0", "NotAnAddress"),
        ];
        for (destination, expected) in cases {
            assert_eq!(said(Source::Pod, destination, Protocol::Tcp), expected, "{destination}");
        }
        assert_eq!(said(Source::Pod, "10.43.0.5:80", Protocol::Udp), "NoSuchPort");
    }

    #[test]
    fn the_node_never_reaches_a_loopback() {
        for destination in ["127.0.0.1:6443", "127.9.9.9:1", "[::1]:6443", "[::ffff:127.0.0.1]:6443"] {
            assert_eq!(said(Source::Node, destination, Protocol::Tcp), "HostLoopback", "{destination}");
        }
        assert_eq!(said(Source::Node, "10.42.0.2:80", Protocol::Tcp), "pod 10.42.0.2:80");
    }
}
