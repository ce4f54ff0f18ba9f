//! The worker half of a process: a node, the tables of the virtual network, and the way in from outside.
//!
//! All of it is an ordinary client of the Kubernetes API. Whether that API is in this process or behind a connection is
//! the choice of whoever hands in the clients.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use control::pki::Identity;
use runtime::engine::{Engine, EngineConfig};
use runtime::image::{Images, Registry};
use runtime::ingress::metrics::Metrics;
use runtime::ingress::tls::{Certificates, certified_key};
use runtime::ingress::{self, Ingress};
use runtime::network::{self, Fabric};
use runtime::{KubeletService, MembersCode, NodeConfig, network_driver, registry_driver};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::overlay;

/// What a node is started with.
pub struct Config {
    /// The Node's name, unique in the cluster.
    pub name: String,
    /// Whether this process is a member of the cluster too.
    pub member: bool,
    /// Where volumes and output of its pods are kept.
    pub data_dir: PathBuf,
    /// Where images and compiled code are kept; nodes of one machine share them.
    pub shared_dir: PathBuf,
    /// Where other machines reach this one.
    pub addresses: Vec<IpAddr>,
    /// The API as the node.
    pub client: kube::Client,
    /// The API as the virtual network: with an Ingress it reads the certificates of all Ingresses, which a node by itself
    /// may not.
    pub tables: kube::Client,
    /// The address where NodePorts are opened.
    pub bind: IpAddr,
    /// Whether components of WASI 0.3 are run.
    pub wasi_0_3: bool,
    /// The way in from outside, if there is one.
    pub doors: Option<Doors>,
    /// Where tools on this machine push and pull images; on loopback.
    pub registry: Option<TcpListener>,
    /// Where pods find the API.
    pub api_servers: network::ApiServers,
    /// The ways to other nodes' pods.
    pub overlay: overlay::Config,
}

/// The listeners of the Ingress, and what it shows for names without a certificate of their own.
pub struct Doors {
    pub http: TcpListener,
    pub https: TcpListener,
    pub fallback: Identity,
}

/// A running node.
pub struct Node {
    parts: JoinSet<&'static str>,
    ingress: JoinSet<&'static str>,
    kubelet: KubeletService,
    /// Ends the Ingress; the node has a token of its own, cancelled after it.
    close: CancellationToken,
    stop: CancellationToken,
}

impl Node {
    /// Starts everything; the node registers a moment later.
    pub fn start(config: Config) -> anyhow::Result<Self> {
        let fabric =
            Fabric::new(network::Config { node: config.name.clone(), outside: true, ..network::Config::default() });
        fabric.set_api_servers(config.api_servers);
        let engine = Engine::new(EngineConfig {
            compiler: std::env::current_exe().ok(),
            wasi_0_3: config.wasi_0_3,
            source: Some(MembersCode::new(config.client.clone())),
            memory_max_bytes: Some(runtime::Capacity::read().guest_memory_bytes()),
            ..EngineConfig::new(config.shared_dir.join("cache"))
        })?;
        let images = Images::open(&config.shared_dir.join("images"))?;
        let (mut parts, stop) = (JoinSet::new(), CancellationToken::new());
        overlay::start(&config.overlay, config.bind, &config.client, &fabric, &mut parts, &stop)?;
        let node_data = config.data_dir.join("node");
        let node = NodeConfig::new(&config.name, node_data, config.client, fabric.clone(), engine, images.clone());
        let metrics = node.metrics.clone();
        let node = runtime::Node::new(NodeConfig { addresses: config.addresses, member: config.member, ..node });
        let kubelet = node.kubelet_service();
        let close = CancellationToken::new();
        let mut ingress = JoinSet::new();
        let certificates =
            config.doors.map(|doors| open(doors, &fabric, &mut ingress, close.clone(), metrics)).transpose()?;
        let tables =
            network_driver::Config { client: config.tables, fabric, certificates, node_ports: Some(config.bind) };
        let (a, b) = (stop.clone(), stop.clone());
        parts.spawn(async move {
            node.run(a).await;
            "the node"
        });
        parts.spawn(async move {
            network_driver::run(tables, b).await;
            "the virtual network"
        });
        if let Some(listener) = config.registry {
            let stop = stop.clone();
            parts.spawn(async move {
                registry_driver::run(listener, Registry::new(images), stop).await;
                "the registry"
            });
        }
        Ok(Self { parts, ingress, kubelet, close, stop })
    }

    /// What the API asks this node about its containers.
    pub fn kubelet_service(&self) -> KubeletService {
        self.kubelet.clone()
    }

    /// Waits until a part ends that should have gone on, and names it.
    pub async fn failed(&mut self) -> &'static str {
        tokio::select! {
            part = ended(&mut self.parts) => part,
            part = ended(&mut self.ingress) => part,
        }
    }

    /// Ends everything in order: requests in flight first, then the node, so that what it has to say is still heard.
    pub async fn stop(mut self) {
        self.close.cancel();
        while self.ingress.join_next().await.is_some() {}
        self.stop.cancel();
        while self.parts.join_next().await.is_some() {}
    }
}

/// Opens the Ingress; its certificates come with the tables.
fn open(
    doors: Doors,
    fabric: &Fabric,
    ingress: &mut JoinSet<&'static str>,
    close: CancellationToken,
    metrics: Arc<Metrics>,
) -> anyhow::Result<Arc<Certificates>> {
    let Doors { http, https, fallback } = doors;
    let fallback = certified_key(fallback.certificate_pem.as_bytes(), fallback.key_pem.as_bytes())?;
    let certificates = Arc::new(Certificates::new(Some(fallback)));
    let patience = ingress::Patience::default();
    let certificates_shown = certificates.clone();
    let config = ingress::Config { http, https: Some(https), certificates: certificates_shown, patience, metrics };
    let door = Ingress::new(config, fabric.clone());
    ingress.spawn(async move {
        door.run(close).await;
        "the Ingress"
    });
    Ok(certificates)
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
pub fn machine_name() -> String {
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
}
