//! One server of a cluster in this process: a member of the control plane, a node, and the way in.
//!
//! The node is an ordinary Kubernetes client; here its client is handed the API as a service instead of a connection. To
//! the other members it offers connections, as every node does.

use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use control::User;
use control::member::Record;
use control::pki::Identity;
use control::server::{self, ControlPlane, FOUNDER, Peers};
use control::trust::{ClientConfig, Credentials, client_tls};
use runtime::members::{self, Servers};
use runtime::network::ApiServers;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::node::{self, Doors, Node};
use crate::running::Running;
use crate::{join, kubeconfig, limits, overlay};

/// Where tools expect a registry on their own machine.
const REGISTRY_PORT: u16 = 5000;

/// What a server is started with.
pub struct Config {
    pub data_dir: PathBuf,
    /// Where images and compiled code are.
    pub shared_dir: PathBuf,
    /// The cluster to join, unless this data directory belongs to one already; `None` founds one.
    pub join: Option<join::Args>,
    /// The member's and its node's name; this machine's when not given.
    pub name: Option<String>,
    pub bind: IpAddr,
    /// The address under which others reach this machine.
    pub advertise: IpAddr,
    pub api_port: u16,
    /// The port for other members, the first time; a member keeps it.
    pub peer_port: u16,
    /// Whether any other port is as good.
    pub any_peer_port: bool,
    pub http_port: u16,
    pub https_port: u16,
    /// The registry's port on loopback; without one it is 5000, or any free one where that is taken.
    pub registry_port: Option<u16>,
    pub overlay_port: Option<u16>,
    pub dns_port: Option<u16>,
    /// How long pods stay on a node that is lost, in a cluster that is founded here.
    pub toleration_seconds: u32,
    /// Whether components of WASI 0.3 are run.
    pub wasi_0_3: bool,
}

/// A running server.
pub struct Cluster {
    control: ControlPlane,
    node: Node,
    /// The connections to the other members.
    members: AbortOnDropHandle<()>,
    /// Ends when the others have removed this member.
    removed: AbortOnDropHandle<anyhow::Error>,
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
        let registry = listen_registry(config.registry_port).await?;
        let (http_address, https_address) = (http.local_addr()?, https.local_addr()?);
        let (record, peers) = identity(&config).await?;
        let removed_record = Record { removed: true, ..record.clone() };
        let data_dir = config.data_dir.clone();
        let name = record.name.clone();
        let control = ControlPlane::start(server::Config {
            data_dir: config.data_dir.clone(),
            bind: config.bind,
            advertise: config.advertise,
            record,
            peers: Some(peers),
            api_port: config.api_port,
            version: env!("CARGO_PKG_VERSION").into(),
            toleration_seconds: config.toleration_seconds,
        })
        .await?;
        let administrator = control.administrator();
        let kubeconfig = kubeconfig::render(
            &[reachable(control.address())],
            control.authority_pem(),
            &administrator.certificate_pem,
            &administrator.key_pem,
        );
        let running = Running {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: name.clone(),
            api: reachable(control.address()),
            http: reachable(http_address),
            https: reachable(https_address),
            registry: Some(registry.local_addr()?),
        };
        let client = kube::Client::new(control.in_process(node_user(&name), "kubelet"), "default");
        let identity = control.node_identity(&name)?;
        // Made anew at every start; it is not renewed in between.
        let (_, shown) = watch::channel(overlay::identity(&identity, control.authority_pem()));
        let node = Node::start(node::Config {
            name: name.clone(),
            member: true,
            data_dir: config.data_dir,
            shared_dir: config.shared_dir,
            addresses: vec![config.advertise],
            client: client.clone(),
            tables: kube::Client::new(
                control.in_process(User::system("system:kogia-network"), "kogia-network"),
                "default",
            ),
            bind: config.bind,
            api_servers: api_servers(&control),
            wasi_0_3: config.wasi_0_3,
            doors: Some(Doors { http, https, fallback: control.ingress_identity()? }),
            registry: Some(registry),
            overlay: overlay::Config {
                port: config.overlay_port,
                dns_port: config.dns_port,
                addresses: vec![config.advertise],
                identity: shown.clone(),
            },
        })?;
        control.attach_node(&name, node.kubelet_service());
        let reach = reach(&control, &node, client, config.advertise, (&identity, shown))?;
        let watching = removed(control.peers(), administrator_tls(&control)?, removed_record, data_dir);
        let removed = AbortOnDropHandle::new(tokio::spawn(watching));
        let stop = CancellationToken::new();
        let members = AbortOnDropHandle::new(tokio::spawn(members::run(reach, stop.clone())));
        Ok(Self { control, node, members, removed, stop, kubeconfig, running })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// What the server says of itself.
    pub fn running(&self) -> Running {
        self.running.clone()
    }

    /// Waits until a part ends that should have gone on.
    pub async fn failed(&mut self) -> anyhow::Error {
        let part = tokio::select! {
            part = self.control.failed() => part,
            part = self.node.failed() => part,
            Ok(removed) = &mut self.removed => return removed,
        };
        anyhow::anyhow!("{part} ended; see the lines above, or RUST_LOG=info")
    }

    /// Ends everything in order: the node first, so that what it has to say is still heard; the store last.
    pub async fn stop(self) {
        self.node.stop().await;
        self.stop.cancel();
        // Whatever it was about to say to another member can be left unsaid.
        drop(self.members.await);
        drop(self.removed);
        self.control.stop().await;
    }
}

/// TLS towards the other members as the administrator.
fn administrator_tls(control: &ControlPlane) -> anyhow::Result<ClientConfig> {
    let credentials = Arc::new(Credentials::default());
    credentials.set(control.administrator())?;
    Ok(client_tls(control.authority_pem(), credentials)?)
}

/// Ends when the other members, led by one of them, do not count this one among them. A member that is removed while it
/// is away never hears of it by the store's own protocol, and would wait for a leader for ever.
async fn removed(peers: Peers, tls: ClientConfig, record: Record, data_dir: PathBuf) -> anyhow::Error {
    loop {
        sleep(limits::REMOVED_LOOK).await;
        if !peers.are_silent() {
            continue;
        }
        let others = peers.apis().iter().map(SocketAddr::to_string).collect();
        let Ok(servers) = Servers::new(others, &tls, None) else { continue };
        let Ok(request) = http::Request::get("/kogia/status").body(Vec::new()) else { continue };
        let asked = servers.client().request::<serde_json::Value>(request).await;
        let Ok(status) = asked.inspect_err(|error| tracing::debug!(%error, "the other members do not answer")) else {
            continue;
        };
        let members = || status["members"].as_array().into_iter().flatten();
        let led = members().any(|member| member["role"] == "leader");
        if led && !members().any(|member| member["id"] == peers.own_number()) {
            if let Err(error) = record.save(&data_dir) {
                tracing::warn!(%error, "member.json cannot be written");
            }
            return gone(&record, &data_dir);
        }
    }
}

fn gone(record: &Record, data_dir: &std::path::Path) -> anyhow::Error {
    anyhow::anyhow!(
        "{} was removed from the cluster and must not run again as it is; delete {} and join anew",
        record.name,
        data_dir.display()
    )
}

/// Pods of this process' node call this member; it is there as long as they are.
fn api_servers(control: &ControlPlane) -> ApiServers {
    let own = reachable(control.address()).to_string();
    ApiServers::new(control.authority_pem(), move || vec![own.clone()])
}

/// The node of this process as the API knows it.
fn node_user(name: &str) -> User {
    User {
        name: format!("system:node:{name}"),
        groups: vec!["system:nodes".into(), "system:authenticated".into()],
        ..User::default()
    }
}

/// Who this member is, and where its peers connect: founds a cluster, joins one, or goes on with what it is already.
async fn identity(config: &Config) -> anyhow::Result<(Record, Arc<StdListener>)> {
    let known = Record::load(&config.data_dir).context("member.json cannot be read")?;
    let joined = known.as_ref().filter(|record| record.number != 0);
    if let Some(record) = joined.filter(|record| record.removed) {
        return Err(gone(record, &config.data_dir));
    }
    // A port chosen for the peers once stays: they know the member by it.
    let before = joined.and_then(|record| record.peer.parse::<SocketAddr>().ok()).map(|peer| peer.port());
    let address = SocketAddr::new(config.bind, before.unwrap_or(config.peer_port));
    let bound = StdListener::bind(address).or_else(|error| match before {
        None if config.any_peer_port => StdListener::bind(SocketAddr::new(config.bind, 0)),
        _ => Err(error),
    });
    let peers = bound.with_context(|| format!("cannot listen on {address}, where the other members find this one"))?;
    let peer = SocketAddr::new(config.advertise, peers.local_addr()?.port());
    let name = || config.name.clone().unwrap_or_else(node::machine_name);
    let record = match (&config.join, joined) {
        (_, Some(record)) => record.clone(),
        (Some(join), None) => join::as_member(&config.data_dir, join, &name(), peer).await?,
        (None, None) => Record { number: FOUNDER, ..Record::new(&name())? },
    };
    let record = Record { peer: peer.to_string(), ..record };
    if known.as_ref() != Some(&record) {
        control::private::create_folder(&config.data_dir)?;
        record.save(&config.data_dir).context("member.json cannot be written")?;
    }
    Ok((record, Arc::new(peers)))
}

/// How this process' node reaches the other members; its own it is handed without a connection.
fn reach(
    control: &ControlPlane,
    node: &Node,
    client: kube::Client,
    advertise: IpAddr,
    (identity, renewed): (&Identity, watch::Receiver<runtime::overlay::Identity>),
) -> anyhow::Result<members::Config> {
    let credentials = Arc::new(Credentials::default());
    credentials.set(identity)?;
    Ok(members::Config {
        client,
        tls: Arc::new(client_tls(control.authority_pem(), credentials)?),
        renewed,
        kubelet: node.kubelet_service(),
        servers: None,
        known: Vec::new(),
        own: Some(SocketAddr::new(advertise, control.address().port()).to_string()),
        remember: None,
    })
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
