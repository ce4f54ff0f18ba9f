//! One server of a cluster in this process: a member of the control plane, a node, and the way in.
//!
//! The node is an ordinary Kubernetes client; here its client is handed the API as a service instead of a connection.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use control::User;
use control::server::{self, ControlPlane};
use tokio::net::TcpListener;

use crate::kubeconfig;
use crate::node::{self, Doors, Node};
use crate::overlay;
use crate::running::Running;

/// Where tools expect a registry on their own machine.
const REGISTRY_PORT: u16 = 5000;

/// What a cluster is started with.
pub struct Config {
    pub data_dir: PathBuf,
    pub bind: IpAddr,
    pub api_port: u16,
    pub http_port: u16,
    pub https_port: u16,
    /// The registry's port on loopback; without one it is 5000, or any free one where that is taken.
    pub registry_port: Option<u16>,
    pub overlay_port: Option<u16>,
    pub dns_port: Option<u16>,
}

/// A running cluster.
pub struct Cluster {
    control: ControlPlane,
    node: Node,
    kubeconfig: String,
    running: Running,
}

impl Cluster {
    /// Starts everything. The API answers when this returns; the node registers a moment later.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        // All ports first: nothing has been touched when one is taken.
        let http = listen(config.bind, config.http_port, "--http-port").await?;
        let https = listen(config.bind, config.https_port, "--https-port").await?;
        let registry = listen_registry(config.registry_port).await?;
        let (http_address, https_address) = (http.local_addr()?, https.local_addr()?);
        let control = ControlPlane::start(server::Config {
            data_dir: config.data_dir.clone(),
            bind: config.bind,
            api_port: config.api_port,
            version: env!("CARGO_PKG_VERSION").into(),
        })
        .await?;
        let administrator = control.administrator();
        let kubeconfig = kubeconfig::render(
            reachable(control.address()),
            control.authority_pem(),
            &administrator.certificate_pem,
            &administrator.key_pem,
        );
        let running = Running {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            api: reachable(control.address()),
            http: reachable(http_address),
            https: reachable(https_address),
            registry: Some(registry.local_addr()?),
        };
        let name = node::machine_name();
        let user = User {
            name: format!("system:node:{name}"),
            groups: vec!["system:nodes".into(), "system:authenticated".into()],
            ..User::default()
        };
        let node = Node::start(node::Config {
            name: name.clone(),
            data_dir: config.data_dir.clone(),
            shared_dir: config.data_dir,
            addresses: vec![reachable(control.address()).ip()],
            client: kube::Client::new(control.in_process(user), "default"),
            tables: kube::Client::new(control.in_process(User::system("system:kogia-network")), "default"),
            bind: config.bind,
            doors: Doors { http, https, fallback: control.ingress_identity()? },
            registry: Some(registry),
            overlay: overlay::Config {
                port: config.overlay_port,
                dns_port: config.dns_port,
                addresses: Vec::new(),
                identity: control.node_identity(&name)?,
                authority_pem: control.authority_pem().to_owned(),
            },
        })?;
        control.attach_node(&name, node.kubelet_service());
        Ok(Self { control, node, kubeconfig, running })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// What the cluster says of itself.
    pub fn running(&self) -> Running {
        self.running.clone()
    }

    /// Waits until a part ends that should have gone on.
    pub async fn failed(&mut self) -> anyhow::Error {
        let part = tokio::select! {
            part = self.control.failed() => part,
            part = self.node.failed() => part,
        };
        anyhow::anyhow!("{part} ended; see the lines above, or RUST_LOG=info")
    }

    /// Ends everything in order: the node first, so that what it has to say is still heard; the store last.
    pub async fn stop(self) {
        self.node.stop().await;
        self.control.stop().await;
    }
}

async fn listen(bind: IpAddr, port: u16, flag: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(bind, port);
    let context = || format!("cannot listen on {address}; {flag} chooses another port, 0 any free one");
    TcpListener::bind(address).await.with_context(context)
}

/// The registry has no login, so it listens on loopback whatever `--bind` says.
async fn listen_registry(port: Option<u16>) -> anyhow::Result<TcpListener> {
    let here = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    match port {
        Some(port) => listen(here, port, "--registry-port").await,
        // Other programs like this port too, and nothing depends on it: an image is named as it was pushed.
        None => match TcpListener::bind((here, REGISTRY_PORT)).await {
            Ok(listener) => Ok(listener),
            Err(_) => listen(here, 0, "--registry-port").await,
        },
    }
}

/// How this machine itself reaches a listener: one that listens everywhere is reached over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everywhere_is_reached_over_loopback() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()).to_string(), "127.0.0.1:1");
        assert_eq!(reachable("192.168.0.2:1".parse().unwrap()).to_string(), "192.168.0.2:1");
    }
}
