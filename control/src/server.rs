//! Puts one member's control plane together and runs it: store → door → API server, scheduler and controllers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use api::{Resource, Status};
use futures::FutureExt;
use http::{Request, Response};
use http_api::{ApiService, Body, BoxError, Relay, ServiceAccountTokens};
use objects::{Objects, User, WriteOptions};
use raft_store::Store;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};
use tracing::info;

use crate::pki::{Authority, Identity, PkiError};
use crate::snapshot::Snapshots;
use crate::{controllers_driver, definitions, pki, scheduler_driver};

/// The names under which clients inside and outside know the API server.
const NAMES: [&str; 5] =
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
/// The API's own Service address: the first of the Service CIDR 10.43.0.0/16.
const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 1);
/// The objects every cluster begins with.
const BOOTSTRAP: &str = include_str!("bootstrap.yaml");

/// What a control plane is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the store and the certificates live.
    pub data_dir: PathBuf,
    /// The address to listen on.
    pub bind: IpAddr,
    /// The API's port; 0 is any free one.
    pub api_port: u16,
    /// The program's version, as `GET /version` tells it.
    pub version: String,
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
    /// The objects every cluster begins with cannot be created.
    #[error("cannot create what every cluster begins with: {0}")]
    Bootstrap(#[from] Status),
}

/// A running control plane.
pub struct ControlPlane {
    address: SocketAddr,
    authority: Authority,
    administrator: Identity,
    api: ApiService,
    relay: Relay,
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
        let authority = Authority::open(&pki)?;
        let tokens = ServiceAccountTokens::from_pkcs8(&pki::service_account_key(&pki)?)
            .map_err(|error| PkiError::Authority(pki, error.to_string()))?;
        let names = NAMES.map(str::to_owned);
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let addresses = [loopback[0], loopback[1], SERVICE_ADDRESS.into(), config.bind];
        let identity = authority.server("kogia-apiserver", &names, &addresses)?;
        let tls = authority.server_tls(&identity)?;
        let administrator = authority.client("kogia-admin", &["system:masters"])?;

        let store = Store::open(raft_store::Config::single(config.data_dir.join("store"))).await?;
        let objects = Objects::open(store.clone()).await?;
        bootstrap(&objects).await?;
        let relay = Relay::default();
        let api = http_api::service(
            objects.clone(),
            http_api::Config {
                server_version: config.version,
                node_relay: relay.clone(),
                service_accounts: Some(Arc::new(tokens)),
                snapshot: {
                    let snapshots = Snapshots::new(store.clone(), &config.data_dir);
                    Arc::new(move || snapshots.clone().stream().boxed())
                },
                status: {
                    let store = store.clone();
                    Arc::new(move || status(&store))
                },
                ..http_api::Config::default()
            },
        );
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let served = http_api::serve(listener, tls, api.clone(), stop.clone());
        tasks.spawn(async move {
            served.await;
            "the API server"
        });
        let controllers =
            controllers_driver::run(objects.clone(), authority.certificate_pem().to_owned(), stop.clone());
        tasks.spawn(async move {
            controllers.await;
            "the controllers"
        });
        let scheduler = scheduler_driver::run(objects.clone(), stop.clone());
        tasks.spawn(async move {
            scheduler.await;
            "the scheduler"
        });
        let (installing, ended) = (definitions::install(objects.clone()), stop.clone());
        // Nothing waits for them: the API answers before its last custom resource is served.
        tokio::spawn(async move { ended.run_until_cancelled(installing).await });
        info!(%address, "the control plane is up");
        Ok(Self { address, authority, administrator, api, relay, store, tasks, stop })
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

    /// The API without a socket, for a client in this process.
    #[must_use]
    pub fn in_process(&self, user: User) -> http_api::InProcess {
        http_api::in_process(self.api.clone(), user)
    }

    /// The certificate that the Ingress shows for names without one of their own: `localhost` and what is under it.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn ingress_identity(&self) -> Result<Identity, PkiError> {
        let names = ["localhost", "*.localhost"].map(str::to_owned);
        self.authority.server("kogia-ingress", &names, &[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
    }

    /// The certificate with which a node shows other nodes who it is.
    ///
    /// # Errors
    /// When the name is not a DNS name, or the certificate cannot be made.
    pub fn node_identity(&self, name: &str) -> Result<Identity, PkiError> {
        self.authority.node(name)
    }

    /// Makes a node's kubelet-shaped endpoints reachable from the API, so that output can be read from it.
    pub fn attach_node<S>(&self, name: &str, service: S)
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        self.relay.attach(name, BoxCloneSyncService::new(service.map_err(Into::into)));
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

/// The members of the control plane, as this one sees them.
fn status(store: &Store) -> Value {
    let seen = store.status();
    let member = |member: &raft_store::MemberStatus| {
        let role = match member.voter {
            _ if seen.leader == Some(member.member_id) => "leader",
            true => "follower",
            false => "learner",
        };
        json!({"id": member.member_id, "address": member.address, "role": role})
    };
    json!({
        "member": seen.member_id, "term": seen.term, "revision": seen.revision, "diskFull": seen.disk_full,
        "members": seen.members.iter().map(member).collect::<Vec<_>>(),
    })
}

/// Creates what every cluster begins with and does not have.
async fn bootstrap(objects: &Objects) -> Result<(), Status> {
    let who = User::system("system:apiserver");
    let catalog = objects.catalog();
    for body in api::yaml::documents(BOOTSTRAP.as_bytes())? {
        let Some(resource) = resource_of(&catalog, &body) else {
            return Err(Status::internal(format!("no resource for {body}")));
        };
        let text = |field: &str| body["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        if objects.view().get(&resource.name, &namespace, &name).is_some() {
            continue;
        }
        match objects.create(&who, &resource, &namespace, body, &WriteOptions::default()).await {
            Err(status) if status.reason != "AlreadyExists" => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

fn resource_of(catalog: &api::catalog::Catalog, body: &Value) -> Option<Arc<Resource>> {
    let (version, kind) = (body["apiVersion"].as_str()?, body["kind"].as_str()?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    catalog.by_kind(group, version, kind).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bootstrap_object_has_a_resource() {
        let catalog = api::catalog::Catalog::builtin();
        let documents = api::yaml::documents(BOOTSTRAP.as_bytes()).unwrap();
        assert!(documents.len() > 10);
        for body in documents {
            assert!(resource_of(&catalog, &body).is_some(), "{body}");
        }
    }
}
