//! What the stories of two nodes share: an authority, an API that knows Nodes, nodes that are a fabric and an overlay, and
//! a path between them with a weather of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::channel::mpsc;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kube::client::Body;
use network::services::{Endpoint, EndpointSlice, Protocol, Service, ServicePort};
use network::{Fabric, PodIdentity, PodNet, ServiceTable};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::standing::Standing;
use super::super::{Config, ENDPOINTS_ANNOTATION, Identity, Links, Overlay};
use crate::registration::MEMBER_ROLE;

/// Signs certificates, as a cluster's authority does.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for both roles with this user as its common name and this DNS name.
    pub(super) fn identity(&self, user: &str, name: &str) -> Identity {
        self.identity_for(user, name, Duration::from_secs(7 * 24 * 3600))
    }

    fn identity_for(&self, user: &str, name: &str, time: Duration) -> Identity {
        let mut params = CertificateParams::default();
        params.not_after = (SystemTime::now() + time).into();
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), authority_pem: self.pem.clone() }
    }

    pub(super) fn node(&self, name: &str) -> Identity {
        self.identity(&format!("system:node:{name}"), name)
    }

    /// A node's certificate that is over after this time.
    pub(super) fn node_for(&self, name: &str, time: Duration) -> Identity {
        self.identity_for(&format!("system:node:{name}"), name, time)
    }
}

/// The API's Nodes and who watches them.
#[derive(Clone, Default)]
pub(super) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Value>,
    watchers: Vec<(String, mpsc::UnboundedSender<Value>)>,
    /// Under which address one node sees another: a path instead of the way itself.
    paths: BTreeMap<(String, String), SocketAddr>,
}

impl FakeApi {
    fn register(&self, name: &str, index: u8, labels: &Value) {
        let node = json!({"metadata": {"name": name, "resourceVersion": "1", "labels": labels},
            "spec": {"podCIDRs": [format!("10.42.{index}.0/24"), format!("fd42:0:0:{index}::/64")]}});
        self.0.lock().unwrap().put(name, node);
    }

    /// All who watch are told of a node once more.
    pub(super) fn tell_again(&self, name: &str) {
        let state = self.0.lock().unwrap();
        state.tell("MODIFIED", &state.nodes[name]);
    }

    pub(super) fn remove(&self, name: &str) {
        let mut state = self.0.lock().unwrap();
        let node = state.nodes.remove(name).unwrap();
        state.tell("DELETED", &node);
    }

    /// `one` sees `other` at this address, wherever it says that it is.
    pub(super) fn lead(&self, one: &str, other: &str, address: SocketAddr) {
        self.0.lock().unwrap().paths.insert((one.to_owned(), other.to_owned()), address);
    }

    fn client(&self, node: &str) -> kube::Client {
        let (api, node) = (self.clone(), node.to_owned());
        let answer = move |request: Request<Body>| {
            let (api, node) = (api.clone(), node.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let watching = head.uri.query().is_some_and(|query| query.contains("watch=true"));
                let body = api.0.lock().unwrap().answer(&node, &head.method, head.uri.path(), &body, watching);
                let frames = body.map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text))));
                Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
            }
        };
        kube::Client::new(tower::service_fn(answer), "default")
    }
}

impl State {
    fn put(&mut self, name: &str, node: Value) {
        self.tell("MODIFIED", &node);
        self.nodes.insert(name.to_owned(), node);
    }

    fn tell(&self, kind: &str, node: &Value) {
        for (reader, watcher) in &self.watchers {
            let mut node = self.seen_by(reader, node);
            node["metadata"]["resourceVersion"] = json!("2");
            let _ = watcher.unbounded_send(json!({"type": kind, "object": node}));
        }
    }

    fn seen_by(&self, reader: &str, node: &Value) -> Value {
        let mut node = node.clone();
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if let Some(path) = self.paths.get(&(reader.to_owned(), name)) {
            node["metadata"]["annotations"][ENDPOINTS_ANNOTATION] = json!(path.to_string());
        }
        node
    }

    fn answer(
        &mut self,
        reader: &str,
        method: &Method,
        path: &str,
        body: &Value,
        watching: bool,
    ) -> BoxStream<'static, String> {
        let answer = match path.strip_prefix("/api/v1/nodes/") {
            Some(name) => {
                assert_eq!((method, name), (&Method::PATCH, reader), "a node changes its own object and no other");
                let mut node = self.nodes[name].clone();
                node["metadata"]["annotations"] = body["metadata"]["annotations"].clone();
                self.put(name, node.clone());
                node
            }
            None if watching => {
                let (watcher, changes) = mpsc::unbounded();
                // What has changed between the list and this watch is in it.
                let fresh = Self { watchers: vec![(reader.to_owned(), watcher.clone())], ..Self::default() };
                for node in self.nodes.values().map(|node| self.seen_by(reader, node)) {
                    fresh.tell("MODIFIED", &node);
                }
                self.watchers.push((reader.to_owned(), watcher));
                return changes.map(|change: Value| format!("{change}\n")).boxed();
            }
            None => {
                let items: Vec<Value> = self.nodes.values().map(|node| self.seen_by(reader, node)).collect();
                json!({"metadata": {"resourceVersion": "1"}, "items": items})
            }
        };
        stream::iter([answer.to_string()]).boxed()
    }
}

/// A node: its fabric and its way to others.
pub(super) struct Node {
    pub(super) fabric: Fabric,
    pub(super) address: SocketAddr,
    links: Arc<Links>,
    identity: watch::Sender<Identity>,
    index: u8,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Node {
    /// A node whose pods have addresses in 10.42.INDEX.0/24 and fd42:0:0:INDEX::/64.
    pub(super) fn start(api: &FakeApi, identity: Identity, name: &str, index: u8) -> Self {
        api.register(name, index, &json!({}));
        Self::run(api, identity, name, index)
    }

    /// The same for a node whose process is a member of the cluster.
    pub(super) fn start_member(api: &FakeApi, identity: Identity, name: &str, index: u8) -> Self {
        api.register(name, index, &json!({MEMBER_ROLE: "true"}));
        Self::run(api, identity, name, index)
    }

    fn run(api: &FakeApi, identity: Identity, name: &str, index: u8) -> Self {
        let fabric = Fabric::new(network::Config::default());
        let (identity, shown) = watch::channel(identity);
        let overlay = Overlay::bind(Config {
            bind: (Ipv4Addr::LOCALHOST, 0).into(),
            addresses: Vec::new(),
            name: name.to_owned(),
            identity: shown,
            client: api.client(name),
            fabric: fabric.clone(),
        });
        let overlay = overlay.unwrap();
        let (address, stop) = (overlay.address(), CancellationToken::new());
        let links = overlay.links.clone();
        let running = tokio::spawn(overlay.run(stop.clone()));
        Self { fabric, address, links, identity, index, stop, running }
    }

    /// Shows another certificate from now on.
    pub(super) fn renew(&self, identity: Identity) {
        self.identity.send_replace(identity);
    }

    /// Looks at once for a way to another node that leads over nobody else.
    pub(super) fn look_again(&self, other: &str) {
        self.links.get(other).unwrap().look_again();
    }

    /// The connection in use to another node, if one stands.
    pub(super) fn link(&self, other: &str) -> Option<Arc<Standing>> {
        self.links.get(other)?.current()
    }

    pub(super) fn pod(&self, name: &str, last: u8) -> PodNet {
        self.fabric.attach(PodIdentity {
            namespace: "default".into(),
            name: name.into(),
            hostname: name.into(),
            addresses: vec![self.v4(last), self.v6(last)],
        })
    }

    pub(super) fn v4(&self, last: u8) -> IpAddr {
        IpAddr::from([10, 42, self.index, last])
    }

    pub(super) fn v6(&self, last: u8) -> IpAddr {
        IpAddr::from([0xfd42, 0, 0, self.index.into(), 0, 0, 0, last.into()])
    }

    /// Waits until it knows another node.
    pub(super) async fn knows(&self, other: &Node) {
        let known = || self.fabric.topology().elsewhere(other.v4(1)).is_some();
        until("a node to be known", known).await;
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

/// Waits for a condition, with a bound.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let look = Duration::from_millis(2);
    let reached = async {
        while !condition() {
            tokio::time::sleep(look).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// The port of discard, where nobody answers.
pub(super) const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// Two nodes that know each other; pods `a` on the first, `b` on the second, each at address 2.
pub(super) struct Two {
    pub(super) api: FakeApi,
    pub(super) authority: Authority,
    pub(super) one: Node,
    pub(super) two: Node,
    pub(super) a: PodNet,
    pub(super) b: PodNet,
}

impl Two {
    pub(super) async fn start() -> Self {
        Self::start_with(FakeApi::default(), Authority::node).await
    }

    /// Their first certificates are over after this time, and the second node does not find the first.
    pub(super) async fn start_one_way(time: Duration) -> Self {
        let api = FakeApi::default();
        api.lead("two", "one", NOBODY);
        Self::start_with(api, |authority, name| authority.node_for(name, time)).await
    }

    /// Their first certificates are over after this time.
    pub(super) async fn start_for(time: Duration) -> Self {
        Self::start_with(FakeApi::default(), |authority, name| authority.node_for(name, time)).await
    }

    async fn start_with(api: FakeApi, identity: impl Fn(&Authority, &str) -> Identity) -> Self {
        Self::start_in(api, Authority::new(), identity).await
    }

    async fn start_in(api: FakeApi, authority: Authority, identity: impl Fn(&Authority, &str) -> Identity) -> Self {
        let one = Node::start(&api, identity(&authority, "one"), "one", 1);
        let two = Node::start(&api, identity(&authority, "two"), "two", 2);
        one.knows(&two).await;
        two.knows(&one).await;
        let (a, b) = (one.pod("a", 2), two.pod("b", 2));
        Self { api, authority, one, two, a, b }
    }

    /// Neither node finds the other; both find the members of these names, and these do not find them.
    pub(super) async fn start_hidden(members: &[&str]) -> (Self, Vec<Node>) {
        let api = FakeApi::default();
        for (from, to) in [("one", "two"), ("two", "one")] {
            api.lead(from, to, NOBODY);
            for member in members {
                api.lead(member, to, NOBODY);
            }
        }
        let authority = Authority::new();
        let member = |(name, index): (&&str, u8)| Node::start_member(&api, authority.node(name), name, index);
        let members: Vec<Node> = members.iter().zip(3..).map(member).collect();
        let this = Self::start_in(api, authority, Authority::node).await;
        (this, members)
    }

    /// Both nodes see each other through a path.
    pub(super) async fn start_apart() -> (Self, Weather) {
        let (api, weather) = (FakeApi::default(), Weather::default());
        let (there, back) = (Path::new(&weather).await, Path::new(&weather).await);
        api.lead("one", "two", there.address);
        api.lead("two", "one", back.address);
        let this = Self::start_with(api, Authority::node).await;
        there.target.set(this.two.address).unwrap();
        back.target.set(this.one.address).unwrap();
        (this, weather)
    }
}

/// Service `web` at 10.43.0.5 and fd43::5, port 80, TCP and UDP, to port 8080 of the given endpoints.
pub(super) fn web(endpoints: &[IpAddr]) -> ServiceTable {
    let port =
        |protocol, name: &str| ServicePort { name: name.into(), protocol, port: 80, node_port: None, h2c: false };
    let service = Service {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec!["10.43.0.5".parse().unwrap(), "fd43::5".parse().unwrap()],
        ports: vec![port(Protocol::Tcp, "http"), port(Protocol::Udp, "dns")],
        ..Service::default()
    };
    let endpoint = |ip: &IpAddr| Endpoint::ready_at(*ip);
    let slice = EndpointSlice {
        namespace: "default".into(),
        service: "web".into(),
        ports: vec![("http".into(), Protocol::Tcp, 8080), ("dns".into(), Protocol::Udp, 8080)],
        endpoints: endpoints.iter().map(endpoint).collect(),
    };
    ServiceTable::build(vec![service], &[slice])
}

/// What a path does to packets.
#[derive(Clone, Default)]
pub(super) struct Weather(Arc<Mutex<Sky>>);

#[derive(Clone, Copy, Default)]
struct Sky {
    cut: bool,
    /// Packets take between nothing and this, so that they overtake each other.
    delay: Duration,
    /// One packet in so many is lost.
    loses_every: u64,
    packets: u64,
}

impl Weather {
    pub(super) fn cut(&self, cut: bool) {
        self.0.lock().unwrap().cut = cut;
    }

    pub(super) fn storm(&self, delay: Duration, loses_every: u64) {
        let mut sky = self.0.lock().unwrap();
        (sky.delay, sky.loses_every) = (delay, loses_every);
    }

    /// How long a packet takes; `None` when it is lost.
    fn passes(&self) -> Option<Duration> {
        let mut sky = self.0.lock().unwrap();
        sky.packets += 1;
        let lost = sky.cut || (sky.loses_every > 0 && sky.packets.is_multiple_of(sky.loses_every));
        // A different share of the delay for each packet, the same in every run.
        let share = (sky.packets.wrapping_mul(0x9e37_79b9) >> 8 & 0xff) as u32;
        (!lost).then(|| sky.delay * share / 256)
    }
}

/// A way to a target with a weather: packets sent to its address arrive there, and the answers come back.
struct Path {
    address: SocketAddr,
    /// Packets are lost until it is set.
    target: Arc<OnceLock<SocketAddr>>,
}

impl Path {
    async fn new(weather: &Weather) -> Self {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, target) = (front.local_addr().unwrap(), Arc::new(OnceLock::new()));
        tokio::spawn(pass(front, target.clone(), weather.clone()));
        Self { address, target }
    }
}

async fn pass(front: UdpSocket, target: Arc<OnceLock<SocketAddr>>, weather: Weather) {
    let front = Arc::new(front);
    let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
    let mut client = None;
    loop {
        let (socket, to, bytes) = tokio::select! {
            received = front.recv_from(&mut there) => {
                let Ok((count, from)) = received else { continue };
                client = Some(from);
                (&back, target.get().copied(), &there[..count])
            }
            received = back.recv_from(&mut here) => {
                let Ok((count, _)) = received else { continue };
                (&front, client, &here[..count])
            }
        };
        let (Some(to), Some(delay)) = (to, weather.passes()) else { continue };
        if delay.is_zero() {
            let _ = socket.send_to(bytes, to).await;
            continue;
        }
        let (socket, bytes) = (socket.clone(), bytes.to_vec());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = socket.send_to(&bytes, to).await;
        });
    }
}
