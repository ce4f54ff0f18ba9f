//! `kogia bench api`: the API as clients meet it: creating, reading, listing many pods, watching.
//!
//! Each round starts this very program as `kogia up` in an empty data directory, with TLS, authorisation, fsync and limits.
//! Every client is a connection of its own; clients stand on the same machine and take their share of its processors.
//! The pods name a scheduler that nobody runs, so that the figures are the API's alone.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::server::{self, Server};
use super::{Metric, median};
use crate::client::{Client, Target};
use crate::store::load::{self, Load, Measured, Work};

const CLIENTS: [usize; 2] = [1, 32];
/// How many lists of them are taken.
const LISTS: usize = 5;
/// How many pods share a label that is listed by.
const PART_PODS: usize = 10;
/// Writes that every watcher must see.
const FAN_OUT_WRITES: usize = 50;
/// How many watchers connect at one time: more handshakes than that only wait for each other.
const CONNECT_AT_ONCE: usize = 32;
/// How long a watcher may wait for everything.
const WATCH_WAIT: Duration = Duration::from_secs(120);

const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
const WATCHED_PATH: &str = "/api/v1/namespaces/default/configmaps";

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Size {
    /// How long each load lasts.
    pub millis: u64,
    /// How many pods a list holds, at least.
    pub pods: usize,
    /// How many watches are open at once.
    pub watchers: usize,
}

/// A figure under its name, one value per round.
struct Row {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn note(&mut self, name: &str, unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|row| row.name == name) {
            Some(row) => row.values.push(value),
            None => self.0.push(Row { name: name.to_owned(), unit, values: vec![value] }),
        }
    }

    fn note_load(&mut self, name: &str, measured: Measured) {
        self.note(&format!("{name}_p50_ms"), "ms", measured.p50_ms);
        self.note(&format!("{name}_p99_ms"), "ms", measured.p99_ms);
        self.note(name, "/s", measured.per_second);
    }
}

/// Measures `rounds` clusters in folders beside the cluster's data: the disk is the one a cluster would use.
pub async fn measure(rounds: u32, size: Size, data_dir: &Path) -> anyhow::Result<Vec<Metric>> {
    let mut rows = Rows::default();
    for round in 0..rounds {
        let dir = data_dir.with_extension(format!("bench-{}-{round}", std::process::id()));
        let outcome = self::round(&dir, size, &mut rows).await;
        let _ = std::fs::remove_dir_all(&dir);
        outcome?;
    }
    let metric =
        |row: Row| Metric { bench: "api", name: row.name, value: median(row.values), unit: row.unit, peer: None };
    Ok(rows.0.into_iter().map(metric).collect())
}

async fn round(dir: &Path, size: Size, rows: &mut Rows) -> anyhow::Result<()> {
    let (server, running) = Server::start(dir).await?;
    for clients in CLIENTS {
        let name = format!("api.create_{clients}c");
        rows.note_load(&name, create(dir, clients, size.millis).await?);
    }
    for clients in CLIENTS {
        rows.note_load(&format!("api.get_{clients}c"), get(dir, clients, size.millis).await?);
    }
    fan_out(dir, size.watchers, rows).await?;
    list(dir, size.pods, rows).await?;
    if let Some(rss) = server::rss_mib(running.pid) {
        rows.note("api.rss_mib", "MiB", rss);
    }
    drop(server);
    Ok(())
}

async fn connect(dir: &Path) -> anyhow::Result<Client> {
    let client = Client::connect(&Target::default(), dir).await?;
    // The handshake is not what is measured.
    client.get("/version").await?;
    Ok(client)
}

async fn connect_all(dir: &Path, count: usize) -> anyhow::Result<Arc<Vec<Client>>> {
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let many = CONNECT_AT_ONCE.min(count - clients.len());
        clients.extend(futures::future::try_join_all((0..many).map(|_| connect(dir))).await?);
    }
    Ok(Arc::new(clients))
}

/// A pod of some 1 KB that no scheduler takes.
fn pod(name: &str) -> Value {
    let container = json!({
        "name": "web", "image": "hello-http", "ports": [{"containerPort": 8080}],
        "env": [{"name": "GREETING", "value": "hello"}],
        "resources": {"limits": {"memory": "64Mi"}, "requests": {"memory": "32Mi"}},
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench", "tier": "web"}},
        "spec": {"schedulerName": "nobody", "containers": [container]},
    })
}

async fn post(client: &Client, path: &str, body: &Value) -> anyhow::Result<()> {
    client.send(Method::POST, path, Some(("application/json", body.to_string().into_bytes()))).await.map(drop)
}

async fn create(dir: &Path, clients: usize, millis: u64) -> anyhow::Result<Measured> {
    let connections = connect_all(dir, clients).await?;
    let load = Load { work: Work::Put, clients, millis, value_bytes: 0 };
    load::clients(load, move |client, turn| {
        let connections = Arc::clone(&connections);
        async move { post(&connections[client], PODS_PATH, &pod(&format!("load-{clients}-{client}-{turn}"))).await }
    })
    .await
}

/// Reads a pod that [`create`] has made, over and over.
async fn get(dir: &Path, clients: usize, millis: u64) -> anyhow::Result<Measured> {
    let connections = connect_all(dir, clients).await?;
    let load = Load { work: Work::Get, clients, millis, value_bytes: 0 };
    load::clients(load, move |client, _| {
        let connections = Arc::clone(&connections);
        async move { connections[client].get(&format!("{PODS_PATH}/load-1-0-0")).await.map(drop) }
    })
    .await
}

/// Fills up to so many pods and lists them all, and then ten of them.
async fn list(dir: &Path, pods: usize, rows: &mut Rows) -> anyhow::Result<()> {
    let client = connect(dir).await?;
    let there = client.get(PODS_PATH).await?["items"].as_array().map_or(0, Vec::len);
    let missing = pods.saturating_sub(there);
    let connections = connect_all(dir, CONNECT_AT_ONCE).await?;
    let fill = (0..CONNECT_AT_ONCE).map(|at| {
        let connections = Arc::clone(&connections);
        async move {
            for turn in (at..missing).step_by(CONNECT_AT_ONCE) {
                let mut pod = pod(&format!("fill-{turn}"));
                pod["metadata"]["labels"]["part"] = json!((turn / PART_PODS).to_string());
                post(&connections[at], PODS_PATH, &pod).await?;
            }
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(fill).await?;
    let mut millis = Vec::new();
    let mut bytes = 0;
    for _ in 0..LISTS {
        let start = Instant::now();
        let body = client.stream(PODS_PATH, "application/json").await?;
        bytes = body.collect().await?.to_bytes().len();
        millis.push(start.elapsed().as_secs_f64() * 1e3);
    }
    rows.note("api.list_ms", "ms", median(millis));
    rows.note("api.list_mib", "MiB", bytes as f64 / f64::from(1 << 20));
    let part = format!("{PODS_PATH}?labelSelector=part%3D0&resourceVersion=0");
    let mut millis = Vec::new();
    for _ in 0..LISTS {
        let start = Instant::now();
        let found = client.get(&part).await?["items"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(missing < PART_PODS || found == PART_PODS, "{found} pods were selected");
        millis.push(start.elapsed().as_secs_f64() * 1e3);
    }
    rows.note("api.list_selected_ms", "ms", median(millis));
    Ok(())
}

/// One write after the other while many watch: how many events a second arrive until the last watcher has all, and how
/// long each took from the start of its write.
async fn fan_out(dir: &Path, watchers: usize, rows: &mut Rows) -> anyhow::Result<()> {
    let connections = connect_all(dir, watchers).await?;
    let from = connections[0].get(WATCHED_PATH).await?["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    let path = format!("{WATCHED_PATH}?watch=true&resourceVersion={}", from.context("a list without a revision")?);
    let mut tasks = Vec::with_capacity(watchers);
    for connection in connections.iter() {
        let stream = connection.stream(&path, "application/json").await?;
        tasks.push(tokio::spawn(tokio::time::timeout(WATCH_WAIT, arrivals(stream))));
    }
    let writer = connect(dir).await?;
    let mut begun = Vec::with_capacity(FAN_OUT_WRITES);
    for turn in 0..FAN_OUT_WRITES {
        begun.push(Instant::now());
        let name = format!("watched-{turn}");
        let body = json!({"metadata": {"name": name}, "data": {"text": "v".repeat(1024)}});
        post(&writer, WATCHED_PATH, &body).await?;
    }
    let mut delays = Vec::with_capacity(watchers * FAN_OUT_WRITES);
    for task in tasks {
        let arrived = task.await?.context("a watcher waited too long")??;
        delays.extend(begun.iter().zip(arrived).map(|(begun, arrived)| arrived - *begun));
    }
    let all = begun[0].elapsed();
    let measured = Measured::of(delays, all);
    rows.note("api.watch_events", "/s", measured.per_second);
    rows.note("api.watch_delay_p50_ms", "ms", measured.p50_ms);
    rows.note("api.watch_delay_p99_ms", "ms", measured.p99_ms);
    Ok(())
}

/// When each line of a watch arrived.
async fn arrivals(mut stream: kube::client::Body) -> anyhow::Result<Vec<Instant>> {
    let mut arrived = Vec::with_capacity(FAN_OUT_WRITES);
    while arrived.len() < FAN_OUT_WRITES {
        let frame = stream.frame().await.context("the watch ended")??;
        let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
        let now = Instant::now();
        arrived.extend(std::iter::repeat_n(now, lines));
    }
    Ok(arrived)
}
