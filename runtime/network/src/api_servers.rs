//! The way to the API servers: what stands behind the Service `kubernetes` in `default`.
//!
//! They are processes of hosts and no pods, this very host's perhaps, which pods reach at no other port. Where they are
//! is said by the node and never by an object of the API, so that nobody who may write Endpoints opens a door to a host.
//! NetworkPolicies are asked about the server's own address, as in Kubernetes.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::conn::Conn;
use crate::dial::Ends;
use crate::egress::carry;
use crate::fabric::{Fabric, NetError};
use crate::limits::EGRESS_CONNECT_TIMEOUT;
use crate::pod::Pod;
use crate::policy::{self, End, Flow};
use crate::services::Protocol;
use crate::tls::Trust;

/// The Service that stands for the API.
const SERVICE: (&str, &str) = ("default", "kubernetes");

/// Says where the API servers are now, and who vouches for them.
#[derive(Clone)]
pub struct ApiServers {
    addresses: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    pub(crate) trust: Arc<Trust>,
}

impl ApiServers {
    /// The addresses, as `HOST:PORT`, are asked for every connection. Requests by `https` trust the cluster's authority
    /// (its certificate, PEM), and it is trusted for nobody else.
    pub fn new(authority_pem: &str, addresses: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { addresses: Arc::new(addresses), trust: Arc::new(Trust::in_authority(authority_pem)) }
    }
}

impl fmt::Debug for ApiServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiServers").field(&(self.addresses)()).finish()
    }
}

impl Fabric {
    /// Whether a connection to this address is one to the API.
    pub(crate) fn is_api(&self, destination: SocketAddr) -> bool {
        let services = self.services();
        let Some(entry) = services.service(SERVICE.0, SERVICE.1) else { return false };
        let service = entry.service();
        let port =
            |port: &crate::services::ServicePort| port.port == destination.port() && port.protocol == Protocol::Tcp;
        service.cluster_ips.contains(&destination.ip().to_canonical()) && service.ports.iter().any(port)
    }

    /// Connects a pod to the first API server that accepts.
    pub(crate) async fn connect_api(&self, pod: &Arc<Pod>, destination: SocketAddr) -> Result<Conn, NetError> {
        let mut refused = NetError::ConnectionRefused;
        for server in self.api_servers().iter().flat_map(|servers| (servers.addresses)()) {
            let Ok(addresses) = lookup_host(&server).await else { continue };
            for address in addresses {
                match self.connect_server(pod, destination, address).await {
                    Ok(conn) => return Ok(conn),
                    Err(error) => refused = error,
                }
            }
        }
        Err(refused)
    }

    async fn connect_server(
        &self,
        pod: &Arc<Pod>,
        destination: SocketAddr,
        server: SocketAddr,
    ) -> Result<Conn, NetError> {
        let own = |like: IpAddr| pod.identity.addresses.iter().copied().find(|own| own.is_ipv4() == like.is_ipv4());
        let policies = self.policies();
        let source = pod.end(own(server.ip()).unwrap_or(server.ip()));
        let flow =
            Flow { source, destination: End::Address(server.ip()), port: server.port(), protocol: Protocol::Tcp };
        let verdict = policy::decide(&policies, &flow);
        if !policies.is_empty() && !verdict.allowed() {
            return Err(NetError::Denied(verdict.to_string()));
        }
        let permit = pod.way_out()?;
        let connected = timeout(EGRESS_CONNECT_TIMEOUT, TcpStream::connect(server)).await;
        let stream = connected.map_err(|_| NetError::TimedOut)?.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => NetError::ConnectionRefused,
            _ => NetError::Unreachable,
        })?;
        let _ = stream.set_nodelay(true);
        let source = SocketAddr::new(own(destination.ip()).unwrap_or(destination.ip()), pod.ephemeral());
        let (conn, carried) = Conn::pair(Ends { source, dialled: destination, accepted: destination });
        tokio::spawn(carry(carried, stream, permit));
        Ok(conn)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use std::collections::HashMap;

    use crate::policy::{NetworkPolicy, PodFacts, Policies, Selector};
    use crate::services::{Service, ServicePort, ServiceTable};
    use crate::{Config, PodIdentity};

    fn fabric(servers: Vec<String>) -> Fabric {
        let fabric = Fabric::new(Config::default());
        let port =
            |port| ServicePort { name: String::new(), protocol: Protocol::Tcp, port, node_port: None, h2c: false };
        let service = |namespace: &str, ip: &str| Service {
            namespace: namespace.into(),
            name: "kubernetes".into(),
            cluster_ips: vec![ip.parse().unwrap()],
            ports: vec![port(443)],
            ..Service::default()
        };
        let services = vec![service("default", "10.43.0.1"), service("shop", "10.43.0.9")];
        fabric.set_services(ServiceTable::build(services, &[]));
        fabric.set_api_servers(ApiServers::new("", move || servers.clone()));
        fabric
    }

    fn pod(fabric: &Fabric) -> crate::PodNet {
        let addresses = vec!["10.42.0.2".parse().unwrap()];
        let name = "web".to_owned();
        fabric.attach(PodIdentity { namespace: "shop".into(), hostname: name.clone(), name, addresses })
    }

    #[tokio::test]
    async fn pods_reach_the_api_and_nothing_else_of_its_host() {
        let api = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let gone = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let servers = vec![gone.local_addr().unwrap().to_string(), api.local_addr().unwrap().to_string()];
        drop(gone);
        let fabric = fabric(servers);
        let pod = pod(&fabric);
        let to = |address: &str| pod.connect(address.parse().unwrap());
        let mut conn = to("10.43.0.1:443").await.unwrap();
        let (mut server, _) = api.accept().await.unwrap();
        conn.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).await.unwrap();
        server.write_all(b"world").await.unwrap();
        conn.read_exact(&mut heard).await.unwrap();
        assert_eq!((&heard, conn.peer()), (b"world", "10.43.0.1:443".parse().unwrap()));
        for other in ["10.43.0.1:80", "10.43.0.9:443", &api.local_addr().unwrap().to_string()] {
            assert!(to(other).await.is_err(), "{other}");
        }
    }

    #[tokio::test]
    async fn policies_keep_pods_from_the_api() {
        let api = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let fabric = fabric(vec![api.local_addr().unwrap().to_string()]);
        let pod = pod(&fabric);
        let denied = NetworkPolicy {
            namespace: "shop".into(),
            name: "closed".into(),
            pods: Selector::default(),
            ingress: None,
            egress: Some(Vec::new()),
        };
        let facts = PodFacts { namespace: "shop".into(), name: "web".into(), ..PodFacts::default() };
        fabric.set_policies(Policies::build(&[denied], &[facts], &HashMap::new()));
        let refused = pod.connect("10.43.0.1:443".parse().unwrap()).await.unwrap_err();
        assert!(matches!(&refused, NetError::Denied(why) if why.contains("shop/closed")), "{refused:?}");
    }
}
