//! The virtual network of a node: pods' addresses, Services and names; inside the cluster without a single socket.
//!
//! A [`Fabric`] is a switch in user space. A pod attaches and gets a [`PodNet`]: what lies under its `wasi:sockets`
//! and `wasi:http`. Connections are pairs of bounded byte pipes ([`Conn`]); a call to an HTTP component of the same
//! node is a function call ([`HttpService`]). Services, names and Ingress rules are tables that somebody else builds
//! from the API and installs; they are read as whole snapshots, never locked across a call.
//!
//! Outside the cluster lead sockets that `egress` opens on the host's side, after `outside` and the policies have agreed
//! to the address. To pods of other nodes leads a carrier ([`Overlay`]) that somebody else provides; `tunnel` is how it
//! speaks. Refused whatever anybody says: this machine itself, its links, a cloud's metadata.
#![forbid(unsafe_code)]

mod api_servers;
mod balancer;
pub mod body;
pub mod challenges;
mod cidr;
mod conn;
mod decide;
mod dial;
pub mod dns;
mod egress;
mod fabric;
mod http;
pub mod limits;
pub mod names;
mod node_flows;
pub mod outside;
mod overlay;
mod patient;
pub mod pipe;
pub mod places;
mod pod;
pub mod policy;
mod ports;
mod queue;
mod resolver;
pub mod routes;
pub mod services;
pub mod sleepers;
pub mod tls;
mod topology;
pub mod tunnel;
mod udp;
mod waking;

pub use api_servers::ApiServers;
pub use body::{Body, BoxError};
pub use challenges::Challenges;
pub use cidr::Cidr;
pub use conn::Conn;
pub use decide::{Decision, Refusal, Source, decide};
pub use dial::Ends;
pub use fabric::{Config, DialError, Fabric, NetError};
pub use http::{BoxFuture, HttpError, HttpService, HttpTarget};
pub use node_flows::NodeFlow;
pub use overlay::Overlay;
pub use patient::Patient;
pub use pod::{HttpBinding, Listener, PodIdentity, PodNet};
pub use policy::Policies;
pub use resolver::Resolver;
pub use routes::RouteTable;
pub use services::ServiceTable;
pub use sleepers::SleeperTable;
pub use topology::{NodeRanges, Topology};
pub use udp::{Datagram, UdpSocket};

#[cfg(test)]
mod egress_stories;
#[cfg(test)]
mod policy_stories;
#[cfg(test)]
mod random;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod waking_stories;
