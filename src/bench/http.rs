//! `kogia bench http`: requests per second through Ingress → Service → component, with a fresh instance for each and
//! with instances that are reused; beside `wasmtime serve` if asked.
//!
//! One cluster, everything on that a user has on: memory and CPU limits, policies, two pods behind a Service. The guest
//! is the app's own. Rounds of all contenders are interleaved, and the client is the same for all.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::house::House;
use super::load::{self, Aim};

use super::{Metric, Peer, free_addresses, median, up};
use crate::client::{Client, Resource};
use crate::{apply, build, fetch, limits, process};

/// Connections that ask at once.
pub const CONNECTIONS: usize = 32;
/// What each contender does before it is measured: caches fill, threads wake.
pub const WARM: Duration = Duration::from_millis(300);

/// How a bench of requests is run.
pub struct Options<'a> {
    pub rounds: u32,
    pub millis: u64,
    pub folder: &'a Path,
    pub against: Option<Peer>,
}

#[derive(Default)]
struct Measured {
    per_second: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

impl Measured {
    async fn round(&mut self, aim: &Aim, millis: u64) -> anyhow::Result<()> {
        load::run(aim, CONNECTIONS, WARM, None).await?;
        let load = load::run(aim, CONNECTIONS, Duration::from_millis(millis), None).await?;
        anyhow::ensure!(load.good > 0, "{} answered no request with 200", aim.host);
        anyhow::ensure!(
            load.other * 1000 <= load.good,
            "{} of {} answers of {} were not 200",
            load.other,
            load.good + load.other,
            aim.host
        );
        self.per_second.push(load.per_second());
        self.p50_ms.push(load.quantile_ms(0.5));
        self.p99_ms.push(load.quantile_ms(0.99));
        Ok(())
    }
}

pub async fn measure(options: &Options<'_>) -> anyhow::Result<Vec<Metric>> {
    let built = build::build(options.folder)?;
    let peer = match options.against {
        None => None,
        Some(Peer::Wasmtime) => Some(Serve::start(&built.wasm).await?),
        Some(Peer::Etcd) => anyhow::bail!("etcd answers no requests of this kind; leave --against out"),
    };
    let server = House::start().await?;
    let client = server.client().await?;
    let image = server.store(&built)?;
    let fresh = deploy(&client, &server, "fresh", &image, json!({})).await?;
    let reused = deploy(&client, &server, "reused", &image, json!({"kogia.dev/instance-reuse": "true"})).await?;

    let (mut of_fresh, mut of_reused, mut of_peer) = (Measured::default(), Measured::default(), Measured::default());
    for _ in 0..options.rounds {
        of_fresh.round(&fresh, options.millis).await?;
        if let Some(peer) = &peer {
            of_peer.round(&peer.aim, options.millis).await?;
        }
        of_reused.round(&reused, options.millis).await?;
    }
    let rate = peer.as_ref().map(|_| ("wasmtime", median(of_peer.per_second)));
    let p99 = peer.as_ref().map(|_| ("wasmtime", median(of_peer.p99_ms)));
    let p50 = peer.as_ref().map(|_| ("wasmtime", median(of_peer.p50_ms)));
    let metric = |name: &str, values, unit, peer| Metric {
        bench: "http",
        name: name.to_owned(),
        value: median(values),
        unit,
        peer,
    };
    Ok(vec![
        metric("http.fresh_rps", of_fresh.per_second, "requests/s", rate),
        metric("http.fresh_p50_ms", of_fresh.p50_ms, "ms", p50),
        metric("http.fresh_p99_ms", of_fresh.p99_ms, "ms", p99),
        metric("http.reuse_rps", of_reused.per_second, "requests/s", rate),
        metric("http.reuse_p50_ms", of_reused.p50_ms, "ms", p50),
        metric("http.reuse_p99_ms", of_reused.p99_ms, "ms", p99),
    ])
}

/// Two pods behind a Service and an Ingress, with limits that are accounted for and not in the way.
pub async fn deploy(
    client: &Client,
    server: &House,
    name: &str,
    image: &str,
    annotations: Value,
) -> anyhow::Result<Aim> {
    let host = format!("{name}.localhost");
    let container = json!({"name": "web", "image": image, "ports": [{"containerPort": 8080}],
        "resources": {"requests": {"memory": "8Mi", "cpu": "10m"}, "limits": {"memory": "256Mi", "cpu": "16"}}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}, "annotations": annotations}, "spec": {"containers": [container]}}}});
    let served = client.resources().await?;
    apply::one(client, &served, &deployment, true).await?;
    expose(client, &served, name, &json!({"app": name})).await?;
    up::first_response(server.running.http, &host, Instant::now()).await?;
    Ok(Aim { address: server.running.http, host, path: "/".to_owned() })
}

/// A Service and an Ingress under `NAME.localhost` for the pods of these labels.
pub async fn expose(client: &Client, served: &[Resource], name: &str, labels: &Value) -> anyhow::Result<()> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
        "selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}});
    let backend = json!({"service": {"name": name, "port": {"number": 80}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name}, "spec": {
        "rules": [{"host": format!("{name}.localhost"), "http": {"paths": paths}}]}});
    for object in [service, ingress] {
        apply::one(client, served, &object, true).await?;
    }
    Ok(())
}

/// `wasmtime serve` with its defaults, on the same component.
struct Serve {
    child: Child,
    aim: Aim,
}

impl Serve {
    async fn start(wasm: &Path) -> anyhow::Result<Serve> {
        let address: SocketAddr = free_addresses(1)?[0];
        let mut command = Command::new("wasmtime");
        command.args(["serve", "--addr", &address.to_string(), "-S", "cli=y"]).arg(wasm);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.context("cannot run `wasmtime`; `cargo install wasmtime-cli` installs it")?;
        let aim = Aim { address, host: address.to_string(), path: "/".to_owned() };
        let mut serve = Serve { child, aim };
        let start = Instant::now();
        while fetch::get(address, &serve.aim.host, "/").await.map_or(true, |response| response.status != 200) {
            anyhow::ensure!(serve.child.try_wait()?.is_none(), "`wasmtime serve` ended");
            anyhow::ensure!(start.elapsed() < limits::START_WAIT, "`wasmtime serve` did not answer in time");
            sleep(limits::POLL).await;
        }
        Ok(serve)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = process::ask_to_end(self.child.id());
        let _ = self.child.wait();
    }
}
