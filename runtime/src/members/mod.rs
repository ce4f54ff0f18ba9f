//! The members of the control plane as a node on another machine meets them: where they are, a client that keeps to
//! whichever answers, and a connection to each for what it has to ask of the node.
//!
//! Where they are is said by the API itself, in the EndpointSlices of the Service `kubernetes`; until it has answered
//! for the first time, whatever was known before counts. The node dials all of them, so none ever needs to reach it.
//!
//! A connection is known by the certificate it was made with. When the node has a new one, connections are made anew, and
//! those that stand end with what they carry.

mod relay;
mod servers;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub use servers::Servers;

use crate::KubeletService;
use crate::overlay::Identity;

/// The name that every member's certificate carries, whatever its address.
const SERVER_NAME: &str = "kubernetes";
/// The Service whose endpoints are the members (label of an EndpointSlice, KEP-752).
const SERVICE: &str = "kubernetes.io/service-name=kubernetes";

/// What a node needs to keep in touch with the members.
pub struct Config {
    /// The API.
    pub client: Client,
    /// TLS with the node's certificate.
    pub tls: Arc<ClientConfig>,
    /// Changes when `tls` shows another certificate.
    pub renewed: watch::Receiver<Identity>,
    /// What members ask.
    pub kubelet: KubeletService,
    /// The client to be told where members are, when it is one of ours.
    pub servers: Option<Servers>,
    /// Where members were last known to be, `host:port`.
    pub known: Vec<String>,
    /// A member in this very process, `host:port`: it needs no connection.
    pub own: Option<String>,
    /// The file where the members' addresses are kept for the next start.
    pub remember: Option<PathBuf>,
}

/// Follows the members until `stop`.
pub async fn run(config: Config, stop: CancellationToken) {
    let slices: Api<EndpointSlice> = Api::namespaced(config.client.clone(), "default");
    let (store, writer) = reflector::store();
    let changes = watcher(slices, watcher::Config::default().labels(SERVICE)).default_backoff();
    let mut changes = reflector::reflector(writer, changes).boxed();
    let mut renewed = config.renewed.clone();
    let mut ways = Ways { config, tasks: JoinSet::new(), open: HashMap::new() };
    ways.follow(ways.config.known.iter().cloned().collect());
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Ok(()) = renewed.changed() => {
                if let Some(servers) = &ways.config.servers {
                    servers.renew().await;
                }
            }
            Some(change) = changes.next() => match change {
                Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone) => ways.told(addresses(&store)),
                Ok(Event::Init | Event::InitApply(_)) => {}
                Err(error) => tracing::debug!(%error, "watch of the members interrupted"),
            },
        }
    }
    ways.tasks.shutdown().await;
}

/// The members' addresses, `host:port`.
fn addresses(store: &Store<EndpointSlice>) -> BTreeSet<String> {
    let of_slice = |slice: &Arc<EndpointSlice>| {
        let port = slice.ports.iter().flatten().find_map(|port| port.port).unwrap_or(6443);
        let hosts = slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone());
        hosts
            .map(|host| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
            .collect::<Vec<_>>()
    };
    store.state().iter().flat_map(of_slice).collect()
}

/// One task per member.
struct Ways {
    config: Config,
    tasks: JoinSet<()>,
    open: HashMap<String, AbortHandle>,
}

impl Ways {
    /// The API has said where members are. An empty answer is not believed: somebody has just given it.
    fn told(&mut self, members: BTreeSet<String>) {
        if members.is_empty() {
            return;
        }
        let list: Vec<String> = members.iter().cloned().collect();
        if let Some(servers) = &self.config.servers {
            servers.set(list.clone());
        }
        if let Some(file) = &self.config.remember
            && let Err(error) = std::fs::write(file, serde_json::json!(list).to_string())
        {
            tracing::warn!(%error, "the members' addresses cannot be kept for the next start");
        }
        self.follow(members);
    }

    fn follow(&mut self, mut members: BTreeSet<String>) {
        if let Some(own) = &self.config.own {
            members.remove(own);
        }
        self.open.retain(|member, task| {
            let stays = members.contains(member);
            if !stays {
                task.abort();
            }
            stays
        });
        for member in members {
            if !self.open.contains_key(&member) {
                let way = relay::keep(
                    member.clone(),
                    self.config.tls.clone(),
                    self.config.kubelet.clone(),
                    self.config.renewed.clone(),
                );
                self.open.insert(member, self.tasks.spawn(way));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}
