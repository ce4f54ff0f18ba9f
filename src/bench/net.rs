//! `kogia bench net`: connections between pods, on one node and between two, beside plain TCP on the same path; and, in a
//! cluster of their own, requests from outside (`proxies`, `from_zero`).
//!
//! Two nodes with a control plane stand in this process: two virtual networks that reach each other over QUIC with
//! certificates of the cluster's authority, on loopback, where the plain TCP connections of the same rounds run too. Pods
//! are ends of the virtual network without a guest, as the other side's ends are sockets without one. Throughput is counted
//! per second and per second of processor time of both ends together, since encryption costs the latter.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use control::User;
use control::member::Record;
use control::server::{self, ControlPlane};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Api, PostParams};
use runtime::network::{Fabric, PodIdentity, PodNet};
use runtime::overlay::{self, Overlay};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::house::House;
use super::{Metric, from_zero, median, proxies};
use crate::build;
use crate::limits::START_WAIT;

/// The port that the called pod listens on.
const PORT: u16 = 8080;
/// What goes there and back: a small request.
const PING_BYTES: usize = 64;
/// What is written at once where throughput is measured.
const WRITE_BYTES: usize = 64 << 10;
/// How often the nodes are asked whether they have found each other.
const LOOK: Duration = Duration::from_millis(5);

/// One node: a virtual network and its way to the other.
struct Node {
    fabric: Fabric,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

struct World {
    control: ControlPlane,
    nodes: Vec<Node>,
    /// On the first node, on the same, and on the second.
    near: [PodNet; 2],
    far: PodNet,
    folder: PathBuf,
}

/// Round trips of one round, in microseconds.
struct Trips {
    p50: f64,
    p99: f64,
}

/// Bytes of one round.
struct Flood {
    mb_per_second: f64,
    mb_per_cpu_second: f64,
}

#[derive(Default)]
struct Rounds {
    local: Vec<f64>,
    overlay_p50: Vec<f64>,
    overlay_p99: Vec<f64>,
    tcp_p50: Vec<f64>,
    tcp_p99: Vec<f64>,
    overlay_mb: Vec<f64>,
    tcp_mb: Vec<f64>,
    overlay_cpu: Vec<f64>,
    tcp_cpu: Vec<f64>,
}

/// How the bench is run.
pub struct Options<'a> {
    pub rounds: u32,
    pub millis: u64,
    /// Services that are registered where components are asked of which nothing runs.
    pub services: usize,
    /// The folder of the app that answers.
    pub folder: &'a Path,
}

/// Measures connections between pods, and then what comes in from outside.
pub async fn measure(options: &Options<'_>) -> anyhow::Result<Vec<Metric>> {
    let built = build::build(options.folder)?;
    let mut metrics = between_pods(options.rounds, options.millis).await?;
    let house = House::start().await?;
    let image = house.store(&built)?;
    metrics.extend(proxies::measure(&house, &image, options.rounds, options.millis).await?.metrics());
    metrics.extend(from_zero::measure(&house, &image, options.services, options.rounds).await?.metrics());
    Ok(metrics)
}

/// The control plane's state is kept in a folder of its own meanwhile.
async fn between_pods(rounds: u32, millis: u64) -> anyhow::Result<Vec<Metric>> {
    let folder = std::env::temp_dir().join(format!("kogia-bench-net-{}", std::process::id()));
    let world = World::start(&folder).await;
    let outcome = match world {
        Ok(world) => {
            let outcome = world.rounds(rounds, Duration::from_millis(millis)).await;
            world.stop().await;
            outcome
        }
        Err(error) => Err(error),
    };
    let _ = std::fs::remove_dir_all(&folder);
    Ok(outcome?.metrics())
}

impl Rounds {
    fn metrics(self) -> Vec<Metric> {
        let metric = |name: &str, values, unit, peer: Option<Vec<f64>>| Metric {
            bench: "net",
            name: name.to_owned(),
            value: median(values),
            unit,
            peer: peer.map(|values| ("tcp", median(values))),
        };
        vec![
            metric("net.local_rtt_us", self.local, "us", None),
            metric("net.overlay_rtt_us", self.overlay_p50, "us", Some(self.tcp_p50)),
            metric("net.overlay_rtt_p99_us", self.overlay_p99, "us", Some(self.tcp_p99)),
            metric("net.overlay_mb_s", self.overlay_mb, "MB/s", Some(self.tcp_mb)),
            metric("net.overlay_bulk", self.overlay_cpu, "MB per CPU s", Some(self.tcp_cpu)),
        ]
    }
}

impl World {
    async fn start(folder: &Path) -> anyhow::Result<Self> {
        let control = ControlPlane::start(server::Config {
            data_dir: folder.to_owned(),
            bind: Ipv4Addr::LOCALHOST.into(),
            advertise: Ipv4Addr::LOCALHOST.into(),
            record: Record { number: server::FOUNDER, ..Record::new("near")? },
            peers: None,
            api_port: 0,
            version: env!("CARGO_PKG_VERSION").into(),
            toleration_seconds: crate::limits::LAPTOP_TOLERATION_SECONDS,
        })
        .await?;
        let mut nodes = Vec::new();
        let mut ranges = Vec::new();
        for name in ["near", "far"] {
            let (node, range) = Node::start(&control, name).await?;
            nodes.push(node);
            ranges.push(range);
        }
        let pod = |node: usize, last: u8| -> anyhow::Result<PodNet> {
            let IpAddr::V4(first) = ranges[node] else { anyhow::bail!("the node has no IPv4 range") };
            let address = Ipv4Addr::from_bits(first.to_bits() + u32::from(last));
            let name = format!("pod-{last}");
            Ok(nodes[node].fabric.attach(PodIdentity {
                namespace: "default".into(),
                hostname: name.clone(),
                name,
                addresses: vec![address.into()],
            }))
        };
        let (near, far) = ([pod(0, 2)?, pod(0, 3)?], pod(1, 2)?);
        let known = async {
            while nodes[0].fabric.topology().elsewhere(far.addresses()[0]).is_none() {
                tokio::time::sleep(LOOK).await;
            }
        };
        timeout(START_WAIT, known).await.context("the nodes did not find each other in time")?;
        Ok(Self { control, nodes, near, far, folder: folder.to_owned() })
    }

    async fn stop(self) {
        for node in self.nodes {
            node.stop.cancel();
            let _ = node.running.await;
        }
        self.control.stop().await;
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    /// All measurements of a round follow each other, so that a disturbance hits both sides of a ratio alike.
    async fn rounds(&self, rounds: u32, time: Duration) -> anyhow::Result<Rounds> {
        let mut all = Rounds::default();
        let [caller, neighbour] = &self.near;
        for _ in 0..rounds {
            let (one, other) = pods(caller, neighbour).await?;
            all.local.push(round_trips(one, other, time).await?.p50);
            let (one, other) = pods(caller, &self.far).await?;
            let trips = round_trips(one, other, time).await?;
            all.overlay_p50.push(trips.p50);
            all.overlay_p99.push(trips.p99);
            let (one, other) = sockets().await?;
            let trips = round_trips(one, other, time).await?;
            all.tcp_p50.push(trips.p50);
            all.tcp_p99.push(trips.p99);
            let (one, other) = pods(caller, &self.far).await?;
            let flood = flood(one, other, time).await?;
            all.overlay_mb.push(flood.mb_per_second);
            all.overlay_cpu.push(flood.mb_per_cpu_second);
            let (one, other) = sockets().await?;
            let flood = self::flood(one, other, time).await?;
            all.tcp_mb.push(flood.mb_per_second);
            all.tcp_cpu.push(flood.mb_per_cpu_second);
        }
        Ok(all)
    }
}

impl Node {
    /// Registers a node and waits for its range, whose first address is returned.
    async fn start(control: &ControlPlane, name: &str) -> anyhow::Result<(Self, IpAddr)> {
        let user = User {
            name: format!("system:node:{name}"),
            groups: vec!["system:nodes".into(), "system:authenticated".into()],
            ..User::default()
        };
        let client = kube::Client::new(control.in_process(user, "kubelet"), "default");
        let objects: Api<NodeObject> = Api::all(client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        objects.create(&PostParams::default(), &object).await?;
        let ranged = async {
            loop {
                let range = objects.get(name).await?.spec.and_then(|spec| spec.pod_cidr);
                if let Some(range) = range {
                    return anyhow::Ok(range);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let range = timeout(START_WAIT, ranged).await.context("the node was given no range in time")??;
        let range: runtime::network::Cidr = range.parse()?;
        let fabric = Fabric::new(runtime::network::Config::default());
        let identity = control.node_identity(name)?;
        let overlay = Overlay::bind(overlay::Config {
            bind: (Ipv4Addr::LOCALHOST, 0).into(),
            addresses: Vec::new(),
            name: name.to_owned(),
            identity: watch::channel(crate::overlay::identity(&identity, control.authority_pem())).1,
            client,
            fabric: fabric.clone(),
        })?;
        let stop = CancellationToken::new();
        let running = tokio::spawn(overlay.run(stop.clone()));
        Ok((Self { fabric, stop, running }, range.first()))
    }
}

/// Both ends of a connection between two pods.
async fn pods(caller: &PodNet, called: &PodNet) -> anyhow::Result<(runtime::network::Conn, runtime::network::Conn)> {
    let address = SocketAddr::new(called.addresses()[0], PORT);
    let listener = called.listen(address, 0)?;
    let connected = timeout(START_WAIT, caller.connect(address)).await.context("the pods did not reach each other")?;
    Ok((connected?, listener.accept().await?))
}

/// Both ends of a plain connection.
async fn sockets() -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let one = TcpStream::connect(listener.local_addr()?).await?;
    let (other, _) = listener.accept().await?;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok((one, other))
}

/// Sends a small request and waits for its echo, again and again.
async fn round_trips<S>(mut one: S, mut other: S, time: Duration) -> anyhow::Result<Trips>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let echo = tokio::spawn(async move {
        let mut bytes = [0; PING_BYTES];
        while other.read_exact(&mut bytes).await.is_ok() && other.write_all(&bytes).await.is_ok() {}
    });
    let mut micros = Vec::new();
    let (start, mut bytes) = (Instant::now(), [7; PING_BYTES]);
    while start.elapsed() < time {
        let sent = Instant::now();
        one.write_all(&bytes).await?;
        one.read_exact(&mut bytes).await?;
        micros.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    drop(one);
    echo.await?;
    micros.sort_by(f64::total_cmp);
    let at = |share: usize| micros.get((micros.len() * share / 100).min(micros.len().saturating_sub(1))).copied();
    Ok(Trips { p50: at(50).unwrap_or(f64::NAN), p99: at(99).unwrap_or(f64::NAN) })
}

/// Writes as much as is taken; what counts is what has been read.
async fn flood<S>(mut one: S, mut other: S, time: Duration) -> anyhow::Result<Flood>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (start, used) = (Instant::now(), cpu_seconds());
    let writing = tokio::spawn(async move {
        let piece = vec![7; WRITE_BYTES];
        while start.elapsed() < time {
            one.write_all(&piece).await?;
        }
        one.shutdown().await
    });
    let (mut piece, mut total) = (vec![0; WRITE_BYTES], 0_usize);
    loop {
        match other.read(&mut piece).await? {
            0 => break,
            count => total += count,
        }
    }
    writing.await??;
    let megabytes = total as f64 / 1e6;
    let cpu = cpu_seconds().zip(used).map(|(now, before)| now - before);
    Ok(Flood {
        mb_per_second: megabytes / start.elapsed().as_secs_f64(),
        mb_per_cpu_second: cpu.filter(|cpu| *cpu > 0.0).map_or(f64::NAN, |cpu| megabytes / cpu),
    })
}

/// Processor time of this process; `None` where the system does not say.
fn cpu_seconds() -> Option<f64> {
    super::cpu_seconds(std::process::id())
}
