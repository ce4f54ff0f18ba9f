//! `kogia bench pods`: how fast one node fills with pods through the real API, and what an idle pod costs.
//!
//! Three phases on one cluster: pods at a steady pace, for the time from create to Running as a watch sees it; as many
//! as `--pods` as fast as they are taken; then one more beside all of them. The pods are of the app's image; a
//! `wasi:http` component is not instantiated while nobody asks it, and that is what an idle pod is here.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt, TryStreamExt};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::house::House;
use super::{Metric, median, quantile};
use crate::build;
use crate::client::{Client, text};

/// Pods per second of the steady phase.
const PACE: u32 = 20;
/// How long the steady phase lasts.
const PACED: u32 = 200;
/// Creates in flight while the node is filled.
const AT_ONCE: usize = 64;
/// Pods started one by one beside all others.
const MORE: u32 = 11;
/// Looks at what the watch has seen this often; finer than what is measured.
const LOOK: Duration = Duration::from_millis(1);
/// How long a pod may take to run.
const PATIENCE: Duration = Duration::from_secs(120);
/// A full node is idle this long after its last pod runs, when memory is read.
const SETTLE: Duration = Duration::from_secs(10);

/// How a node is filled.
pub struct Options<'a> {
    pub pods: u32,
    pub folder: &'a Path,
}

pub async fn measure(options: &Options<'_>) -> anyhow::Result<Vec<Metric>> {
    let built = build::build(options.folder)?;
    let server = House::start().await?;
    let client = server.client().await?;
    let image = server.store(&built)?;
    let seen = Seen::follow(&client).await?;
    let fill = Fill { client, image, seen: &seen };
    // The first pod compiles its component; that is not what is measured.
    fill.create("first", 0).await?;
    fill.until_running(1).await?;

    let mut paced = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / PACE);
    let mut creating = tokio::task::JoinSet::new();
    for number in 0..PACED.min(options.pods) {
        pace.tick().await;
        let fill = fill.shared();
        creating.spawn(async move { fill.create("paced", number).await });
    }
    while let Some(created) = creating.join_next().await {
        paced.push(created??);
    }
    let before = 1 + paced.len();
    fill.until_running(before).await?;
    let mut steady: Vec<f64> = paced.iter().filter_map(|name| seen.took_ms(name)).collect();

    let idle_before = server.rss_mib();
    let begin = Instant::now();
    let names = futures::stream::iter(before as u32..options.pods).map(|number| fill.create("full", number));
    let full: Vec<String> = names.buffer_unordered(AT_ONCE).try_collect().await?;
    fill.until_running(before + full.len()).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let mut burst: Vec<f64> = full.iter().filter_map(|name| seen.took_ms(name)).collect();
    sleep(SETTLE).await;
    let idle_after = server.rss_mib();

    let mut more = Vec::new();
    for number in 0..MORE {
        let name = fill.create("more", number).await?;
        fill.until_running(before + full.len() + number as usize + 1).await?;
        more.extend(seen.took_ms(&name));
    }
    let metric = |name: &str, value, unit| Metric { bench: "pods", name: name.to_owned(), value, unit, peer: None };
    let mut metrics = vec![
        metric("pods.create_to_running_p50_ms", quantile(&mut steady, 0.5), "ms"),
        metric("pods.create_to_running_p99_ms", quantile(&mut steady, 0.99), "ms"),
        metric("pods.running", (before + full.len()) as f64, "pods"),
        metric("pods.per_second", full.len() as f64 / seconds, "pods/s"),
        metric("pods.burst_p50_ms", quantile(&mut burst, 0.5), "ms"),
        metric("pods.burst_p99_ms", quantile(&mut burst, 0.99), "ms"),
        metric("pods.one_more_ms", median(more), "ms"),
    ];
    if let (Some(before), Some(after), false) = (idle_before, idle_after, full.is_empty()) {
        metrics.push(metric("pods.idle_kib", (after - before) * 1024.0 / full.len() as f64, "KiB/pod"));
    }
    Ok(metrics)
}

#[derive(Clone)]
struct Fill<'a> {
    client: Client,
    image: String,
    seen: &'a Seen,
}

impl Fill<'_> {
    fn shared(&self) -> Creator {
        Creator { client: self.client.clone(), image: self.image.clone(), times: self.seen.times.clone() }
    }

    async fn create(&self, group: &str, number: u32) -> anyhow::Result<String> {
        self.shared().create(group, number).await
    }

    async fn until_running(&self, count: usize) -> anyhow::Result<()> {
        let mut last = (Instant::now(), 0);
        loop {
            let running = self.seen.running();
            if running >= count {
                return Ok(());
            }
            if running > last.1 {
                last = (Instant::now(), running);
            }
            anyhow::ensure!(!self.seen.watch.is_finished(), "the watch of the pods ended");
            anyhow::ensure!(last.0.elapsed() < PATIENCE, "only {running} of {count} pods run after {PATIENCE:?}");
            sleep(LOOK).await;
        }
    }
}

struct Creator {
    client: Client,
    image: String,
    times: Arc<Mutex<HashMap<String, Times>>>,
}

impl Creator {
    /// Creates a pod and returns its name; the clock starts before the request is sent.
    async fn create(&self, group: &str, number: u32) -> anyhow::Result<String> {
        let name = format!("{group}-{number}");
        let container = json!({"name": "web", "image": self.image, "resources": {
            "requests": {"memory": "1Mi", "cpu": "0"}, "limits": {"memory": "16Mi", "cpu": "500m"}}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": group}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}});
        let begin = Instant::now();
        lock(&self.times).entry(name.clone()).or_default().created = Some(begin);
        let body = ("application/json", pod.to_string().into_bytes());
        self.client.send(Method::POST, "/api/v1/namespaces/default/pods", Some(body)).await?;
        Ok(name)
    }
}

#[derive(Clone, Copy, Default)]
struct Times {
    created: Option<Instant>,
    running: Option<Instant>,
}

/// What a watch has seen of the pods.
struct Seen {
    times: Arc<Mutex<HashMap<String, Times>>>,
    running: Arc<AtomicUsize>,
    watch: JoinHandle<anyhow::Result<()>>,
}

impl Seen {
    /// Watches from now on; it has begun when this returns.
    async fn follow(client: &Client) -> anyhow::Result<Seen> {
        let list = client.get("/api/v1/namespaces/default/pods").await?;
        let from = text(&list["metadata"]["resourceVersion"]);
        let path = format!("/api/v1/namespaces/default/pods?watch=true&resourceVersion={from}");
        let body = client.stream(&path, "application/json").await?;
        let times: Arc<Mutex<HashMap<String, Times>>> = Arc::default();
        let running: Arc<AtomicUsize> = Arc::default();
        let (shared, counted) = (times.clone(), running.clone());
        let watch = tokio::spawn(async move {
            let mut pieces = http_body_util::BodyStream::new(body);
            let mut line = Vec::new();
            while let Some(piece) = pieces.next().await {
                let piece = piece.context("the watch broke off")?.into_data().unwrap_or_default();
                let now = Instant::now();
                for part in piece.split_inclusive(|byte| *byte == b'\n') {
                    line.extend_from_slice(part);
                    if line.ends_with(b"\n") {
                        counted.fetch_add(usize::from(note(&shared, &line, now)?), Ordering::Relaxed);
                        line.clear();
                    }
                }
            }
            Ok(())
        });
        Ok(Seen { times, running, watch })
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    fn took_ms(&self, name: &str) -> Option<f64> {
        let times = *lock(&self.times).get(name)?;
        Some(times.running?.duration_since(times.created?).as_secs_f64() * 1e3)
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Takes down a change; says whether it is the one that shows a pod running.
fn note(times: &Mutex<HashMap<String, Times>>, line: &[u8], now: Instant) -> anyhow::Result<bool> {
    let change: Value = serde_json::from_slice(line)?;
    anyhow::ensure!(change["type"] != "ERROR", "the watch fell behind: {}", change["object"]);
    let pod = &change["object"];
    let mut containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    if pod["status"]["phase"] != "Running" || !containers.all(|container| container["ready"] == true) {
        return Ok(false);
    }
    let mut times = lock(times);
    let times = times.entry(text(&pod["metadata"]["name"])).or_default();
    let first = times.running.is_none();
    times.running.get_or_insert(now);
    Ok(first)
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_runs_when_the_watch_says_that_it_is_ready() {
        let times = Mutex::default();
        let line = |phase: &str, ready: bool| {
            json!({"type": "MODIFIED", "object": {"metadata": {"name": "a"},
                "status": {"phase": phase, "containerStatuses": [{"ready": ready}]}}})
            .to_string()
            .into_bytes()
        };
        assert!(!note(&times, &line("Pending", false), Instant::now()).unwrap());
        assert!(!note(&times, &line("Running", false), Instant::now()).unwrap());
        assert!(lock(&times).is_empty());
        let first = Instant::now();
        assert!(note(&times, &line("Running", true), first).unwrap());
        assert!(!note(&times, &line("Running", true), first + Duration::from_secs(1)).unwrap());
        assert_eq!(lock(&times)["a"].running, Some(first));
        assert!(note(&times, br#"{"type":"ERROR","object":{}}"#, first).is_err());
    }

    #[test]
    fn quantiles_were_measured() {
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.99), 3.0);
    }
}
