//! Puts one member's control plane together and runs it: store → door → API server, scheduler and controllers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use api::Status;
use futures::FutureExt;
use http::{Request, Response};
use http_api::{ApiService, Body, BoxError, Measured, Relay, ServiceAccountTokens, Standing};
use objects::{Objects, User};
use raft_store::Store;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};
use tracing::info;

use crate::member::{self, Record};
use crate::pki::{Authority, Identity, PkiError};
use crate::snapshot::Snapshots;
use crate::{
    bootstrap, certificates, controllers_driver, definitions, issuance, join, membership, pki, scheduler_driver, store,
    term,
};

/// The names under which clients inside and outside know the API server.
const NAMES: [&str; 5] =
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
/// The API's own Service address: the first of the Service CIDR 10.43.0.0/16.
const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 1);
/// The number of the member that founds a cluster.
pub const FOUNDER: u64 = 1;

/// What a control plane is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the store and the certificates live.
    pub data_dir: PathBuf,
    /// The address to listen on.
    pub bind: IpAddr,
    /// The address under which others reach this member.
    pub advertise: IpAddr,
    /// Who this member is.
    pub record: Record,
    /// Where its peers connect; `None` for a member that is alone.
    pub peers: Option<Arc<std::net::TcpListener>>,
    /// The API's port; 0 is any free one.
    pub api_port: u16,
    /// The program's version, as `GET /version` tells it.
    pub version: String,
    /// How long pods stay on a node that is lost, in a cluster that this member founds.
    pub toleration_seconds: u32,
}

/// Why a control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken or not allowed.
    #[error("cannot listen on {address}; --api-port chooses another port, 0 any free one")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The certificates cannot be made or read.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] raft_store::OpenError),
    /// The state cannot be read.
    #[error(transparent)]
    Objects(#[from] objects::OpenError),
    /// The cluster was written by a newer program.
    #[error(
        "this cluster has format {found}, this program knows formats up to {FORMAT}: run a newer version of it, or \
         restore a snapshot from before the upgrade"
    )]
    Format {
        /// What the cluster says.
        found: String,
    },
    /// The objects every cluster begins with cannot be created.
    #[error("cannot create what every cluster begins with: {0}")]
    Bootstrap(#[from] Status),
}

/// A running control plane.
pub struct ControlPlane {
    address: SocketAddr,
    authority: Arc<Authority>,
    administrator: Identity,
    api: ApiService,
    relay: Relay,
    objects: Objects,
    store: Store,
    tasks: JoinSet<&'static str>,
    stop: CancellationToken,
}

impl ControlPlane {
    /// Opens the state and starts everything. The API answers when this returns.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let address = SocketAddr::new(config.bind, config.api_port);
        let listen = |source| StartError::Listen { address, source };
        // The port first: nothing has been touched when it is taken.
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let pki = config.data_dir.join("pki");
        let authority = Arc::new(Authority::open(&pki)?);
        let tokens = ServiceAccountTokens::from_pkcs8(&pki::service_account_key(&pki)?)
            .map_err(|error| PkiError::Authority(pki.clone(), error.to_string()))?;
        let identity = authority.server("kogia-apiserver", &names(&config.record.name), &addresses(&config))?;
        let tls = authority.server_tls(&identity)?;
        let administrator = authority.client("kogia-admin", &["system:masters"])?;

        let store = Store::open(store_config(&config)?).await?;
        let objects = Objects::open(store.clone()).await?;
        check_format(&objects)?;
        bootstrap::run(&objects, cluster(config.toleration_seconds)).await?;
        let (relay, measured) = (Relay::default(), Measured::default());
        let api = service(&config, &objects, &store, (&relay, &measured), tokens);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let served = http_api::serve(listener, tls, api.clone(), stop.clone());
        tasks.spawn(async move {
            served.await;
            "the API server"
        });
        let advertised = SocketAddr::new(config.advertise, address.port());
        let (version, record) = (config.version, config.record);
        let announced = member::announce(objects.clone(), store.clone(), record, advertised, version, stop.clone());
        tasks.spawn(async move {
            announced.await;
            "the member's Lease"
        });
        let measuring = http_api::measure(relay.clone(), measured.clone(), stop.clone());
        tasks.spawn(async move {
            measuring.await;
            "the measuring of nodes"
        });
        let (installing, ended) = (definitions::install(objects.clone()), stop.clone());
        // Nothing waits for them: the API answers before its last custom resource is served.
        tokio::spawn(async move { ended.run_until_cancelled(installing).await });
        let duties = duties(objects.clone(), store.clone(), authority.clone(), relay.clone(), measured);
        tasks.spawn(term::run(objects.clone(), store.clone(), stop.clone(), duties));
        info!(%address, "the control plane is up");
        Ok(Self { address, authority, administrator, api, relay, objects, store, tasks, stop })
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of the cluster's authority, PEM.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// The administrator's client certificate and key.
    #[must_use]
    pub fn administrator(&self) -> &Identity {
        &self.administrator
    }

    /// The API without a socket, for a client in this process, which `program` names.
    #[must_use]
    pub fn in_process(&self, user: User, program: &'static str) -> http_api::InProcess {
        http_api::in_process(self.api.clone(), user, program)
    }

    /// What this member can say of the others, for as long as it is held.
    #[must_use]
    pub fn peers(&self) -> Peers {
        Peers { objects: self.objects.clone(), store: self.store.clone() }
    }

    /// The certificate of a node in this process: a client of every member, and both ends of a connection to other nodes.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn node_identity(&self, name: &str) -> Result<Identity, PkiError> {
        self.authority.member_node(name)
    }

    /// The certificate that the Ingress shows for names without one of their own: `localhost` and what is under it.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn ingress_identity(&self) -> Result<Identity, PkiError> {
        let names = ["localhost", "*.localhost"].map(str::to_owned);
        self.authority.server("kogia-ingress", &names, &[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
    }

    /// Makes a node's kubelet-shaped endpoints reachable from the API, so that output can be read from it.
    pub fn attach_node<S>(&self, name: &str, service: S)
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        self.relay.attach(name, Standing::Own, BoxCloneSyncService::new(service.map_err(Into::into)));
    }

    /// Waits until a part ends that should have gone on, and names it.
    pub async fn failed(&mut self) -> &'static str {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(part)) => return part,
                Some(Err(error)) => {
                    tracing::error!(%error, "a part of the control plane panicked");
                    return "a part of the control plane";
                }
                // Everything has ended because it was told to.
                None => std::future::pending().await,
            }
        }
    }

    /// Ends everything in order: requests first, the store last.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.store.close().await;
    }
}

/// What a member knows of its peers.
pub struct Peers {
    objects: Objects,
    store: Store,
}

impl Peers {
    /// Whether this member has no leader to follow.
    #[must_use]
    pub fn are_silent(&self) -> bool {
        self.store.status().leader.is_none()
    }

    /// This member's number.
    #[must_use]
    pub fn own_number(&self) -> u64 {
        self.store.status().member_id
    }

    /// Where the APIs of the others were last known to be.
    #[must_use]
    pub fn apis(&self) -> Vec<SocketAddr> {
        let own = self.own_number();
        let others = member::announced(&self.objects.view()).into_iter().filter(|other| other.number != own);
        others.filter_map(|other| other.api).collect()
    }
}

/// What only the leader runs.
fn duties(
    objects: Objects,
    store: Store,
    authority: Arc<Authority>,
    relay: Relay,
    measured: Measured,
) -> impl Fn(CancellationToken) -> JoinSet<&'static str> {
    move |stop| {
        let mut tasks = JoinSet::new();
        let authority_pem = authority.certificate_pem().to_owned();
        let (lost, usage) = (relay.lost(), measured.clone());
        let controllers = controllers_driver::run(objects.clone(), authority_pem, lost, usage, stop.clone());
        tasks.spawn(async move {
            controllers.await;
            "the controllers"
        });
        let scheduler = scheduler_driver::run(objects.clone(), stop.clone());
        tasks.spawn(async move {
            scheduler.await;
            "the scheduler"
        });
        let membership = membership::run(objects.clone(), store.clone(), stop.clone());
        tasks.spawn(async move {
            membership.await;
            "the membership"
        });
        let issuance = issuance::run(objects.clone(), stop.clone());
        tasks.spawn(async move {
            issuance.await;
            "the issuance of certificates"
        });
        let certificates = certificates::run(objects.clone(), authority.clone(), stop);
        tasks.spawn(async move {
            certificates.await;
            "the certificates"
        });
        tasks
    }
}

/// The API over the door.
fn service(
    config: &Config,
    objects: &Objects,
    store: &Store,
    (relay, measured): (&Relay, &Measured),
    tokens: ServiceAccountTokens,
) -> ApiService {
    let snapshots = Snapshots::new(store.clone(), &config.data_dir);
    let (pki, state) = (config.data_dir.join("pki"), (objects.clone(), store.clone()));
    let join = move |body: Value| {
        let (pki, (objects, store)) = (pki.clone(), state.clone());
        async move { join::answer(&objects, &store, &pki, &body).await }.boxed()
    };
    let seen = (objects.clone(), store.clone());
    http_api::service(
        objects.clone(),
        http_api::Config {
            server_version: config.version.clone(),
            node_relay: relay.clone(),
            usage: measured.clone(),
            service_accounts: Some(Arc::new(tokens)),
            join: Arc::new(join),
            snapshot: Arc::new(move || snapshots.clone().stream().boxed()),
            status: Arc::new(move || status(&seen.0, &seen.1)),
            ..http_api::Config::default()
        },
    )
}

/// The names under which clients know this API server.
fn names(member: &str) -> Vec<String> {
    NAMES.iter().copied().chain([member]).map(str::to_owned).collect()
}

fn addresses(config: &Config) -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), SERVICE_ADDRESS.into()];
    for own in [config.bind, config.advertise] {
        if !own.is_unspecified() && !addresses.contains(&own) {
            addresses.push(own);
        }
    }
    addresses
}

/// How this member's store is opened: alone, or with a way for its peers.
fn store_config(config: &Config) -> Result<raft_store::Config, StartError> {
    let Record { number, peer, .. } = &config.record;
    let alone = raft_store::Config::single(store::directory(&config.data_dir));
    // Whoever founds the cluster is its first member; whoever joined learns from the others who belongs to it.
    let members = if *number == FOUNDER { vec![(FOUNDER, peer.clone())] } else { Vec::new() };
    let transport = config.peers.as_ref().map(|listener| {
        let peers = Authority::open(&config.data_dir.join("pki").join("peers"))?;
        let listener = listener.try_clone().map_err(|error| PkiError::Tls(error.to_string()))?;
        store::transport(&peers, listener)
    });
    // 50 ms heartbeats and 500 ms elections: who waits for a leader waits less than a second.
    let heartbeat_ticks = if config.peers.is_some() { 5 } else { alone.heartbeat_ticks };
    let election_ticks = heartbeat_ticks * 10;
    let transport = transport.transpose()?;
    Ok(raft_store::Config { member_id: *number, members, transport, heartbeat_ticks, election_ticks, ..alone })
}

/// The members of the control plane, as this one sees them.
fn status(objects: &Objects, store: &Store) -> Value {
    let seen = store.status();
    let announced = member::announced(&objects.view());
    let member = |member: &raft_store::MemberStatus| {
        let role = match member.voter {
            _ if seen.leader == Some(member.member_id) => "leader",
            true => "follower",
            false => "learner",
        };
        let known = announced.iter().find(|known| known.number == member.member_id);
        json!({
            "id": member.member_id, "address": member.address, "role": role,
            "name": known.map(|known| &known.name), "api": known.and_then(|known| known.api),
            "version": known.map(|known| &known.version),
        })
    };
    json!({
        "member": seen.member_id, "term": seen.term, "revision": seen.revision, "diskFull": seen.disk_full,
        "members": seen.members.iter().map(member).collect::<Vec<_>>(),
    })
}

/// The newest format of a cluster's objects that this program can read and write. A member that meets a newer one stays
/// out: it would not understand what the others write.
pub(crate) const FORMAT: u32 = 1;

fn check_format(objects: &Objects) -> Result<(), StartError> {
    let view = objects.view();
    let Some(cluster) = view.get("configmaps", "kube-system", objects::CLUSTER) else { return Ok(()) };
    match cluster.value["data"]["format"].as_str() {
        Some(found) if found.parse::<u32>().is_ok_and(|format| format <= FORMAT) => Ok(()),
        None => Ok(()),
        Some(found) => Err(StartError::Format { found: found.to_owned() }),
    }
}

/// What the members agree on about the cluster as a whole.
fn cluster(toleration_seconds: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": objects::CLUSTER, "namespace": "kube-system"},
        "data": {"format": FORMAT.to_string(), "tolerationSeconds": toleration_seconds.to_string()},
    })
}
