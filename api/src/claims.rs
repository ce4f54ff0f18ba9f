//! What a Service holds that nobody else in the cluster may have: its addresses and its ports of every node.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

/// One thing that is there once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// One of `spec.clusterIPs`.
    Address(IpAddr),
    /// A `nodePort` or the `healthCheckNodePort`, with its protocol.
    NodePort(u16, Arc<str>),
}

/// Everything that a Service holds.
#[must_use]
pub fn of(service: &Value) -> Vec<Claim> {
    let spec = &service["spec"];
    let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
    let addresses = addresses.filter_map(|text| text.as_str()?.parse().ok()).map(Claim::Address);
    let ports = spec["ports"].as_array().into_iter().flatten().filter_map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        Some(Claim::NodePort(number(&port["nodePort"])?, protocol.into()))
    });
    let health = number(&spec["healthCheckNodePort"]).map(|port| Claim::NodePort(port, "TCP".into()));
    addresses.chain(ports).chain(health).collect()
}

/// A port number; `None` for anything else, and for 0.
#[must_use]
pub fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}
