//! Keeps the fabric's tables true: watches Services, EndpointSlices, Ingresses, IngressClasses, TLS Secrets,
//! NetworkPolicies, Deployments that sleep, the Gateway API's objects, and the labels of Pods and Namespaces, and installs new tables whole.
//!
//! Until policies have been listed once, and pods and namespaces too if there are any, no pod talks to another. Pods are
//! watched from the first policy on: nobody else reads them here, and they are most of a cluster.
//!
//! One task owns everything here. Changes that come together make one new table; that of Services is kept up instead. A watch
//! that breaks is resumed by `kube` with its back-off while the last table stays in force.

mod activator;
mod backends;
mod custom;
mod datagrams;
mod gateways;
mod load_balancers;
mod node_ports;
pub mod objects;
pub mod policies;
mod proofs;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt;
use futures::stream::{BoxStream, StreamExt, select_all};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use network::routes::gateway::Gateways;
use network::services::{Here, ServiceName};
use network::sleepers::Sleeper;
use network::{Fabric, Policies, RouteTable, SleeperTable};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::activator::Activator;
use self::backends::{Backends, Touched, place};
use self::custom::{Challenge, Gateway, HTTPRoute, ReferenceGrant};
use self::load_balancers::LoadBalancers;
use self::node_ports::NodePorts;
use self::proofs::Presenter;
use crate::ingress::tls::{self, Certificates};

/// Tables are not built more often than this: a rollout of a thousand pods must not cost a thousand tables, and nobody
/// notices ten milliseconds. A change after a quiet time is installed at once.
const BUILD_INTERVAL: Duration = Duration::from_millis(10);

/// Where building takes long, because the cluster is large, it gets one part in this many of one core.
const BUILD_SHARE: u32 = 10;

/// The label of a node that says in which zone it is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Which table a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Changed {
    /// All of them: a list, or the node's zone.
    Services,
    Service(ServiceName),
    /// Namespace and name.
    Slice((String, String)),
    Ingresses,
    Secrets,
    Policies,
    Challenges,
    /// Policies and Gateways select them by label.
    Namespaces,
    Sleepers,
}

/// The tables that are out of date.
#[derive(Default)]
struct Stale {
    services: Touched,
    ingresses: bool,
    secrets: bool,
    policies: bool,
    challenges: bool,
    sleepers: bool,
}

impl Stale {
    fn mark(&mut self, changed: Changed) {
        match changed {
            Changed::Services => self.services.all = true,
            Changed::Service(name) => drop(self.services.services.insert(name)),
            Changed::Slice(slice) => drop(self.services.slices.insert(slice)),
            Changed::Ingresses => self.ingresses = true,
            Changed::Secrets => self.secrets = true,
            Changed::Policies => self.policies = true,
            Changed::Challenges => self.challenges = true,
            Changed::Namespaces => (self.policies, self.ingresses) = (true, true),
            Changed::Sleepers => self.sleepers = true,
        }
    }
}

/// What the watches have seen, and where tables go.
struct Driver {
    fabric: Fabric,
    certificates: Option<Arc<Certificates>>,
    backends: Backends,
    /// The node itself, for its zone.
    node: Store<Node>,
    ingresses: Store<Ingress>,
    classes: Store<IngressClass>,
    edge: Edge,
    secrets: Store<Secret>,
    deployments: Store<Deployment>,
    /// The Deployments that may sleep, as the table in force has them.
    sleepers: Vec<Sleeper>,
    guarded: Guarded,
    node_ports: Option<(NodePorts, LoadBalancers)>,
}

/// What custom resources say of requests from outside.
struct Edge {
    gateways: Store<Gateway>,
    routes: Store<HTTPRoute>,
    grants: Store<ReferenceGrant>,
    challenges: Store<Challenge>,
    presenter: Option<Presenter>,
}

/// What policies are about.
struct Guarded {
    policies: Store<NetworkPolicy>,
    pods: Store<Pod>,
    namespaces: Store<Namespace>,
}

/// What the driver reads and writes.
pub struct Config {
    /// The API.
    pub client: Client,
    /// Gets the tables.
    pub fabric: Fabric,
    /// Gets the certificates of Ingresses. Without it there is no Ingress here: Secrets, Gateways, and Deployments that
    /// sleep are not read, which not everybody may.
    pub certificates: Option<Arc<Certificates>>,
    /// The host's address where the NodePorts of Services are opened, and the ports of load balancers, whose status says
    /// so; none are opened without it.
    pub node_ports: Option<IpAddr>,
}

/// Watches until `stop`.
pub async fn run(config: Config, stop: CancellationToken) {
    let Config { client, fabric, certificates, node_ports } = config;
    fabric.set_policies(Policies::unread());
    let everything = watcher::Config::default();
    let certificates_only = watcher::Config::default().fields("type=kubernetes.io/tls");
    let of_service = |service: Option<&Service>| service.map_or(Changed::Services, |one| Changed::Service(place(one)));
    let of_slice = |slice: Option<&EndpointSlice>| slice.map_or(Changed::Services, |one| Changed::Slice(place(one)));
    let (services, a) = follow_each(Api::all(client.clone()), everything.clone(), of_service, |_| ());
    let (slices, b) = follow_each(Api::all(client.clone()), everything.clone(), of_slice, |_| ());
    let own = watcher::Config::default().fields(&format!("metadata.name={}", fabric.config().node));
    let (node, own) = match fabric.config().node.is_empty() {
        true => nothing(),
        false => follow_zone(Api::all(client.clone()), own),
    };
    let (ingresses, c) = follow(Api::all(client.clone()), everything.clone(), Changed::Ingresses);
    let (classes, d) = follow(Api::all(client.clone()), everything, Changed::Ingresses);
    let (secrets, e) = match certificates {
        Some(_) => follow(Api::all(client.clone()), certificates_only, Changed::Secrets),
        None => nothing(),
    };
    let slim = activator::keep_what_counts;
    let (deployments, f) = match certificates {
        Some(_) => follow_slim(Api::all(client.clone()), watcher::Config::default(), Changed::Sleepers, slim),
        None => nothing(),
    };
    let (guarded, policies) = Guarded::follow(&client);
    let (edge, custom) = Edge::follow(certificates.is_some().then_some(&client), &stop);
    let node_ports = node_ports.map(|address| {
        let balancers = LoadBalancers::new(client.clone(), address, stop.clone());
        (NodePorts::new(fabric.clone(), address, stop.clone()), balancers)
    });
    let activator = Activator::new(client, fabric.clone(), deployments.clone());
    let mut driver = Driver {
        fabric,
        certificates,
        backends: Backends::new(services, slices),
        node,
        ingresses,
        classes,
        edge,
        secrets,
        deployments,
        sleepers: Vec::new(),
        guarded,
        node_ports,
    };
    let mut changes = select_all([a, b, c, d, e, f, own].into_iter().chain(policies).chain(custom));
    tokio::select! {
        () = stop.cancelled() => {}
        () = driver.follow(&mut changes) => {}
        () = activator.run() => {}
    }
}

/// The node itself, and when its zone changed: it says much about itself that concerns no Service.
fn follow_zone(api: Api<Node>, own: watcher::Config) -> (Store<Node>, BoxStream<'static, Changed>) {
    let (store, changes) = follow_slim(api, own, Changed::Services, |node| (node.spec, node.status) = (None, None));
    let (read, mut last) = (store.clone(), None);
    let changes = changes.filter(move |_| {
        let zone = zone(&read);
        let changed = zone != last;
        last = zone;
        std::future::ready(changed)
    });
    (store, changes.boxed())
}

fn zone(node: &Store<Node>) -> Option<String> {
    node.state().first()?.metadata.labels.as_ref()?.get(ZONE).cloned()
}

/// What is not watched.
fn nothing<K>() -> (Store<K>, BoxStream<'static, Changed>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    (reflector::store().0, futures::stream::empty().boxed())
}

/// A watch that keeps a store of all objects of one kind and says when it changed.
fn follow<K>(api: Api<K>, config: watcher::Config, changed: Changed) -> (Store<K>, BoxStream<'static, Changed>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    follow_slim(api, config, changed, |_| ())
}

/// [`follow`], without what `slim` takes away from every object.
fn follow_slim<K>(
    api: Api<K>,
    config: watcher::Config,
    changed: Changed,
    slim: impl Fn(&mut K) + Send + 'static,
) -> (Store<K>, BoxStream<'static, Changed>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    follow_each(api, config, move |_| changed.clone(), slim)
}

/// [`follow_slim`], where it depends on the object what changed; without one, a list was read.
fn follow_each<K>(
    api: Api<K>,
    config: watcher::Config,
    changed: impl Fn(Option<&K>) -> Changed + Send + Sync + 'static,
    slim: impl Fn(&mut K) + Send + 'static,
) -> (Store<K>, BoxStream<'static, Changed>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    (store, follow_into(writer, api, config, changed, slim))
}

/// [`follow_each`], into a store that is there.
fn follow_into<K>(
    writer: Writer<K>,
    api: Api<K>,
    config: watcher::Config,
    changed: impl Fn(Option<&K>) -> Changed + Send + Sync + 'static,
    slim: impl Fn(&mut K) + Send + 'static,
) -> BoxStream<'static, Changed>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    // Who wrote which field is of no use here and often half of an object.
    let slim = watch(api, config).default_backoff().modify(move |object| {
        object.meta_mut().managed_fields = None;
        slim(object);
    });
    let stream = reflector::reflector(writer, slim);
    let changes = stream.filter_map(move |event| {
        let seen = match event {
            // A list is taken over whole when it is complete.
            Ok(Event::Init | Event::InitApply(_)) => None,
            Ok(Event::Apply(object) | Event::Delete(object)) => Some(changed(Some(&object))),
            Ok(Event::InitDone) => Some(changed(None)),
            Err(error) => {
                tracing::debug!(kind = %K::kind(&()), %error, "watch interrupted");
                None
            }
        };
        std::future::ready(seen)
    });
    changes.boxed()
}

impl Edge {
    /// Without a client nothing is watched.
    fn follow(client: Option<&Client>, stop: &CancellationToken) -> (Self, [BoxStream<'static, Changed>; 4]) {
        let Some(client) = client else {
            let ((gateways, a), (routes, b), (grants, c), (challenges, d)) =
                (nothing(), nothing(), nothing(), nothing());
            return (Self { gateways, routes, grants, challenges, presenter: None }, [a, b, c, d]);
        };
        let everything = watcher::Config::default();
        let (gateways, a) = follow(Api::all(client.clone()), everything.clone(), Changed::Ingresses);
        let (routes, b) = follow(Api::all(client.clone()), everything.clone(), Changed::Ingresses);
        let (grants, c) = follow(Api::all(client.clone()), everything.clone(), Changed::Ingresses);
        let (challenges, d) = follow(Api::all(client.clone()), everything, Changed::Challenges);
        let presenter = Some(Presenter::new(client.clone(), stop.clone()));
        (Self { gateways, routes, grants, challenges, presenter }, [a, b, c, d])
    }

    fn gateways(&self, namespaces: &Store<Namespace>) -> Gateways {
        let grants = gateways::Grants::read(&self.grants.state());
        let namespaces = namespaces.state();
        Gateways {
            listeners: self.gateways.state().iter().flat_map(|one| gateways::listeners(one, &namespaces)).collect(),
            routes: self.routes.state().iter().filter_map(|route| gateways::route(route, &grants)).collect(),
        }
    }
}

impl Guarded {
    fn follow(client: &Client) -> (Self, [BoxStream<'static, Changed>; 3]) {
        let everything = watcher::Config::default();
        let (policies, a) = follow(Api::all(client.clone()), everything.clone(), Changed::Policies);
        let (any, read) = (Arc::new(Notify::new()), policies.clone());
        let first = any.clone();
        let a = a.inspect(move |_| {
            if !read.is_empty() {
                first.notify_one();
            }
        });
        let (pods, writer) = reflector::store();
        let (api, config) = (Api::all(client.clone()), everything.clone());
        let b = futures::stream::once(async move {
            any.notified().await;
            follow_into(writer, api, config, |_| Changed::Policies, policies::keep_what_counts)
        });
        let (namespaces, c) = follow(Api::all(client.clone()), everything, Changed::Namespaces);
        (Self { policies, pods, namespaces }, [a.boxed(), b.flatten().boxed(), c])
    }

    /// The table; `None` before everything that it takes has been listed once.
    fn table(&self) -> Option<Policies> {
        self.policies.wait_until_ready().now_or_never()?.ok()?;
        let policies: Vec<_> = self.policies.state().iter().map(|policy| policies::policy(policy)).collect();
        if policies.is_empty() {
            return Some(Policies::default());
        }
        self.pods.wait_until_ready().now_or_never()?.ok()?;
        self.namespaces.wait_until_ready().now_or_never()?.ok()?;
        let pods: Vec<_> = self.pods.state().iter().filter_map(|pod| policies::pod(pod)).collect();
        let namespaces = self.namespaces.state().iter().map(|namespace| policies::namespace(namespace)).collect();
        Some(Policies::build(&policies, &pods, &namespaces))
    }
}

impl Driver {
    async fn follow(&mut self, changes: &mut (impl futures::Stream<Item = Changed> + Unpin)) {
        let mut next = Instant::now();
        while let Some(first) = changes.next().await {
            let mut stale = Stale::default();
            stale.mark(first);
            while let Some(Some(more)) = changes.next().now_or_never() {
                stale.mark(more);
            }
            while let Ok(Some(more)) = tokio::time::timeout_at(next, changes.next()).await {
                stale.mark(more);
            }
            let began = Instant::now();
            self.install(&stale);
            next = Instant::now() + BUILD_INTERVAL.max(began.elapsed() * (BUILD_SHARE - 1));
        }
    }

    fn install(&mut self, stale: &Stale) {
        if stale.services.is_any() && self.backends.is_read() {
            let zone = zone(&self.node);
            let here = Here { node: &self.fabric.config().node, zone: zone.as_deref() };
            self.backends.install(&self.fabric, here, &stale.services);
            if let (true, Some((node_ports, balancers))) = (stale.services.is_services(), &mut self.node_ports) {
                let table = self.fabric.services();
                node_ports.follow(&table);
                let objects = self.backends.services().state();
                balancers.follow(&objects, &table, |port, protocol| node_ports.is_open(port, protocol));
            }
        }
        if stale.services.is_services() || stale.sleepers {
            self.install_sleepers(stale.services.is_services());
        }
        if stale.ingresses {
            let ingresses = self.ingresses.state().iter().map(|ingress| objects::ingress(ingress)).collect();
            let classes: Vec<_> = self.classes.state().iter().map(|class| objects::class(class)).collect();
            let table = RouteTable::build(ingresses, &classes, self.edge.gateways(&self.guarded.namespaces));
            for problem in table.problems() {
                tracing::warn!(problem, "an annotation of an Ingress cannot be read");
            }
            self.fabric.set_routes(table);
        }
        if let (true, Some(presenter)) = (stale.challenges, &self.edge.presenter) {
            let challenges = self.edge.challenges.state();
            self.fabric.set_challenges(proofs::table(&challenges));
            presenter.present(&challenges, &self.fabric.challenges());
        }
        if stale.policies
            && let Some(table) = self.guarded.table()
        {
            self.fabric.set_policies(table);
        }
        if (stale.ingresses || stale.secrets)
            && let Some(certificates) = &self.certificates
        {
            certificates.set(self.certificates_by_host());
        }
    }

    /// A Deployment changes often, and seldom in whether it may sleep.
    fn install_sleepers(&mut self, services_changed: bool) {
        let sleepers = activator::sleepers(&self.deployments);
        if sleepers == self.sleepers && (sleepers.is_empty() || !services_changed) {
            return;
        }
        let services = activator::callers(&self.backends.services().state(), &sleepers);
        self.fabric.set_sleepers(SleeperTable::build(&services, &sleepers, &self.fabric.sleepers()));
        self.sleepers = sleepers;
    }

    fn certificates_by_host(&self) -> HashMap<String, Arc<rustls::sign::CertifiedKey>> {
        let mut by_host = HashMap::new();
        for wanted in self.fabric.routes().certificates() {
            if by_host.contains_key(&wanted.host) {
                continue;
            }
            let place = ObjectRef::<Secret>::new(&wanted.secret).within(&wanted.namespace);
            let Some(secret) = self.secrets.get(&place) else { continue };
            let field = |name: &str| secret.data.as_ref()?.get(name).map(|bytes| bytes.0.as_slice());
            let (certificate, key) = (field("tls.crt").unwrap_or_default(), field("tls.key").unwrap_or_default());
            match tls::certified_key(certificate, key) {
                Ok(certified) => {
                    by_host.insert(wanted.host.clone(), certified);
                }
                Err(error) => {
                    let (namespace, name) = (&wanted.namespace, &wanted.secret);
                    tracing::warn!(%namespace, %name, %error, "the Secret of an Ingress cannot be used for TLS");
                }
            }
        }
        by_host
    }
}
