//! A node's ways to the pods of other nodes, and the cluster's DNS: their ports and who the node is to others.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use runtime::dns::Dns;
use runtime::network::Fabric;
use runtime::overlay::{self, Overlay};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Where nodes look for each other's pods. They say in their Node objects where they really are.
const PORT: u16 = 6444;

/// What the ways are opened with.
pub struct Config {
    /// The UDP port for other nodes; [`PORT`], or any where that is taken, when it is not given.
    pub port: Option<u16>,
    /// The port on which people ask the cluster's DNS, if they may.
    pub dns_port: Option<u16>,
    /// The addresses under which other nodes reach this one; without any, what is listened on.
    pub addresses: Vec<IpAddr>,
    /// The node's certificate for both roles, now and after each renewal.
    pub identity: watch::Receiver<overlay::Identity>,
}

/// What a node shows to other nodes.
pub fn identity(own: &control::pki::Identity, authority_pem: &str) -> overlay::Identity {
    overlay::Identity {
        certificate_pem: own.certificate_pem.clone(),
        key_pem: own.key_pem.clone(),
        authority_pem: authority_pem.to_owned(),
    }
}

/// Opens the ports and carries until `stop`.
pub fn start(
    config: &Config,
    bind: IpAddr,
    client: &kube::Client,
    fabric: &Fabric,
    parts: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let open = |port| {
        Overlay::bind(overlay::Config {
            bind: SocketAddr::new(bind, port),
            addresses: config.addresses.clone(),
            name: fabric.config().node.clone(),
            identity: config.identity.clone(),
            client: client.clone(),
            fabric: fabric.clone(),
        })
    };
    let overlay = match config.port {
        Some(port) => open(port).context("--overlay-port chooses another port, 0 any free one")?,
        None => open(PORT).or_else(|_| open(0))?,
    };
    let asked = config.dns_port.map(|port| SocketAddr::new(bind, port));
    let dns = Dns::bind(fabric.clone(), asked);
    let dns = dns.with_context(|| format!("cannot listen for DNS on {asked:?}; --dns-port chooses another port"))?;
    if let Some(address) = dns.address() {
        tracing::info!(%address, "the cluster's names are answered here");
    }
    let (a, b) = (stop.clone(), stop.clone());
    parts.spawn(async move {
        overlay.run(a).await;
        "the network between nodes"
    });
    parts.spawn(async move {
        dns.run(b).await;
        "the cluster's DNS"
    });
    Ok(())
}
