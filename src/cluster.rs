//! A whole cluster in this process: one member of the control plane, one node, and the way in.
//!
//! The node is an ordinary Kubernetes client; here its client is handed the API as a service instead of a connection.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use control::User;
use control::server::{self, ControlPlane};
use runtime::engine::{Engine, EngineConfig};
use runtime::image::Images;
use runtime::ingress::tls::{Certificates, certified_key};
use runtime::ingress::{self, Ingress};
use runtime::network::{self, Fabric};
use runtime::{Node, NodeConfig, network_driver};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::kubeconfig;
use crate::running::Running;

/// What a cluster is started with.
pub struct Config {
    pub data_dir: PathBuf,
    pub bind: IpAddr,
    pub api_port: u16,
    pub http_port: u16,
    pub https_port: u16,
}

/// A running cluster.
pub struct Cluster {
    control: ControlPlane,
    node: JoinSet<&'static str>,
    ingress: JoinSet<&'static str>,
    /// Ends the Ingress; the node has a token of its own, cancelled after it.
    close: CancellationToken,
    stop: CancellationToken,
    kubeconfig: String,
    running: Running,
}

impl Cluster {
    /// Starts everything. The API answers when this returns; the node registers a moment later.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        // All ports first: nothing has been touched when one is taken.
        let http = listen(config.bind, config.http_port, "--http-port").await?;
        let https = listen(config.bind, config.https_port, "--https-port").await?;
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
        };
        let (close, stop) = (CancellationToken::new(), CancellationToken::new());
        let (fabric, certificates, node) = start_node(&config, &control, &stop)?;
        let patience = ingress::Patience::default();
        let door = Ingress::new(ingress::Config { http, https: Some(https), certificates, patience }, fabric);
        let mut ingress = JoinSet::new();
        let closed = close.clone();
        ingress.spawn(async move {
            door.run(closed).await;
            "the Ingress"
        });
        Ok(Self { control, node, ingress, close, stop, kubeconfig, running })
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
            part = ended(&mut self.node) => part,
            part = ended(&mut self.ingress) => part,
        };
        anyhow::anyhow!("{part} ended; see the lines above, or RUST_LOG=info")
    }

    /// Ends everything in order: requests in flight first, then the node, so that what it has to say is still heard;
    /// the store last.
    pub async fn stop(mut self) {
        self.close.cancel();
        while self.ingress.join_next().await.is_some() {}
        self.stop.cancel();
        while self.node.join_next().await.is_some() {}
        self.control.stop().await;
    }
}

async fn listen(bind: IpAddr, port: u16, flag: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(bind, port);
    let context = || format!("cannot listen on {address}; {flag} chooses another port, 0 any free one");
    TcpListener::bind(address).await.with_context(context)
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

/// What the Ingress needs of a node: its network and its certificates; and the node's parts.
type Started = (Fabric, Arc<Certificates>, JoinSet<&'static str>);

fn start_node(config: &Config, control: &ControlPlane, stop: &CancellationToken) -> anyhow::Result<Started> {
    let name = node_name();
    let user = User {
        name: format!("system:node:{name}"),
        groups: vec!["system:nodes".into(), "system:authenticated".into()],
        ..User::default()
    };
    let client = kube::Client::new(control.in_process(user), "default");
    // The tables need the certificates of all Ingresses, which a node by itself may not read.
    let tables_client = kube::Client::new(control.in_process(User::system("system:kogia-network")), "default");
    let fabric = Fabric::new(network::Config { outside: true, ..network::Config::default() });
    let engine = Engine::new(EngineConfig {
        compiler: std::env::current_exe().ok(),
        memory_max_bytes: Some(runtime::Capacity::read().guest_memory_bytes()),
        ..EngineConfig::new(config.data_dir.join("cache"))
    })?;
    let images = Images::open(&config.data_dir.join("images"))?;
    let node_data = config.data_dir.join("node");
    let node = Node::new(NodeConfig::new(&name, node_data, client, fabric.clone(), engine, images));
    control.attach_node(&name, node.kubelet_service());

    let identity = control.ingress_identity()?;
    let fallback = certified_key(identity.certificate_pem.as_bytes(), identity.key_pem.as_bytes())?;
    let certificates = Arc::new(Certificates::new(Some(fallback)));
    let tables = network_driver::Config {
        client: tables_client,
        fabric: fabric.clone(),
        certificates: certificates.clone(),
        node_ports: Some(config.bind),
    };
    let mut parts = JoinSet::new();
    let (a, b) = (stop.clone(), stop.clone());
    parts.spawn(async move {
        node.run(a).await;
        "the node"
    });
    parts.spawn(async move {
        network_driver::run(tables, b).await;
        "the virtual network"
    });
    Ok((fabric, certificates, parts))
}

async fn ended(parts: &mut JoinSet<&'static str>) -> &'static str {
    match parts.join_next().await {
        Some(Ok(part)) => part,
        Some(Err(error)) => {
            tracing::error!(%error, "a part of the node panicked");
            "a part of the node"
        }
        None => std::future::pending().await,
    }
}

/// This machine's name as a DNS label; `kogia` where it has none that can be made into one.
fn node_name() -> String {
    let host = std::fs::read_to_string("/etc/hostname").ok().or_else(|| std::env::var("COMPUTERNAME").ok());
    label(host.unwrap_or_default().trim())
}

/// At most 63 letters, digits and hyphens, beginning and ending with a letter or digit (RFC 1123).
fn label(host: &str) -> String {
    let host = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let plain: String = host.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    let plain = plain.get(..63).unwrap_or(&plain).trim_matches('-');
    if plain.is_empty() { "kogia".into() } else { plain.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_called_like_its_machine() {
        assert_eq!(label("Anna's-MacBook.local"), "anna-s-macbook");
        assert_eq!(label(""), "kogia");
        assert_eq!(label(&"x".repeat(80)).len(), 63);
    }

    #[test]
    fn everywhere_is_reached_over_loopback() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()).to_string(), "127.0.0.1:1");
        assert_eq!(reachable("192.168.0.2:1".parse().unwrap()).to_string(), "192.168.0.2:1");
    }
}
