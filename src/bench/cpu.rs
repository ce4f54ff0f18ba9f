//! `kogia bench cpu`: whether a container gets the processor time that its limit says, and whether those that want more
//! than there is share it by their requests.
//!
//! The guest is `examples/misbehave`, looping. What it used is read where `kubectl top` reads it: the node's own account,
//! through the API server, at both ends of a span.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::house::House;
use super::{Metric, median};
use crate::client::{Client, text};
use crate::{apply, build, delete, limits};

/// Limits, in thousandths of a processor. Those above one are used up by several programs of one container; those above
/// what the machine has are left out.
const LIMITS: [u32; 5] = [100, 250, 500, 1500, 2000];
/// How long such a program may take: longer than any span.
const SECONDS_MAX: u32 = 3600;
/// How long a guest runs before its span begins: what it may save up while it starts is spent.
const SETTLE: Duration = Duration::from_millis(500);
/// Requests of those that share; as many pods have each as there are processors, so that all of them want all there is.
const SHARES: [u32; 2] = [100, 300];

pub struct Options<'a> {
    pub rounds: u32,
    pub millis: u64,
    pub folder: &'a Path,
}

pub async fn measure(options: &Options<'_>) -> anyhow::Result<Vec<Metric>> {
    let folder = options.folder.parent().context("the app's folder has no neighbours")?.join("misbehave");
    let looping = build::build(&folder)?;
    let server = House::start().await?;
    let world = World { client: server.client().await?, image: server.store(&looping)? };
    let span = Duration::from_millis(options.millis);
    let metric = |name: String, values, unit| Metric { bench: "cpu", name, value: median(values), unit, peer: None };

    let mut metrics = Vec::new();
    let count = std::thread::available_parallelism()?.get();
    for limit in LIMITS.into_iter().filter(|limit| *limit as usize <= count * 1000) {
        let mut held = Vec::new();
        for _ in 0..options.rounds {
            let resources = json!({"requests": {"cpu": "10m"}, "limits": {"cpu": format!("{limit}m")}});
            let pod = if limit > 1000 { world.pod_of_three("held", &resources) } else { world.pod("held", &resources) };
            let used = world.used(&[pod], span).await?;
            held.push(used["held"] * 1000.0 / f64::from(limit));
        }
        metrics.push(metric(format!("cpu.held_{limit}m_ratio"), held, "× the limit"));
    }
    let mut shared = Vec::new();
    for _ in 0..options.rounds {
        let pods: Vec<Value> = SHARES
            .iter()
            .flat_map(|request| {
                (0..count)
                    .map(|number| {
                        let name = format!("share-{request}-{number}");
                        world.pod(&name, &json!({"requests": {"cpu": format!("{request}m")}}))
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        let used = world.used(&pods, span).await?;
        let of = |request: u32| {
            let prefix = format!("share-{request}-");
            used.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, share)| share).sum::<f64>()
        };
        shared.push(of(SHARES[1]) / of(SHARES[0]));
    }
    metrics.push(metric("cpu.share_1_3".to_owned(), shared, "× (3 is exact)"));
    Ok(metrics)
}

struct World {
    client: Client,
    image: String,
}

impl World {
    fn pod(&self, name: &str, resources: &Value) -> Value {
        let container = json!({"name": "loop", "image": self.image, "args": ["loop"], "resources": resources});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}})
    }

    /// The same, and two more programs that loop in the same container: its probes, which never answer.
    fn pod_of_three(&self, name: &str, resources: &Value) -> Value {
        let mut pod = self.pod(name, resources);
        let probe = json!({"exec": {"command": ["misbehave", "loop"]}, "periodSeconds": SECONDS_MAX,
            "timeoutSeconds": SECONDS_MAX});
        let container = &mut pod["spec"]["containers"][0];
        (container["livenessProbe"], container["readinessProbe"]) = (probe.clone(), probe);
        pod
    }

    /// Runs pods beside each other for a span; returns how many processors each had.
    async fn used(&self, pods: &[Value], span: Duration) -> anyhow::Result<HashMap<String, f64>> {
        let served = self.client.resources().await?;
        for pod in pods {
            apply::one(&self.client, &served, pod, true).await?;
        }
        let begin = Instant::now();
        let node = loop {
            let (node, usage) = self.usage(pods).await?;
            if usage.len() == pods.len() && usage.values().all(|(_, nanos)| *nanos > 0) {
                break node;
            }
            anyhow::ensure!(begin.elapsed() < limits::READY_WAIT, "the pods did not start in time");
            sleep(limits::POLL).await;
        };
        sleep(SETTLE).await;
        let before = self.look(&node).await?;
        sleep(span).await;
        let after = self.look(&node).await?;
        for pod in pods {
            self.end(&served, pod).await?;
        }
        let share = |(name, (at, nanos)): (&String, &(Instant, u64))| {
            let (began, had) = before.get(name)?;
            let seconds = at.duration_since(*began).as_secs_f64();
            Some((name.clone(), nanos.checked_sub(*had)? as f64 / 1e9 / seconds))
        };
        Ok(after.iter().filter_map(share).collect())
    }

    /// The node the pods are on, and what each has used so far; empty before they have a node.
    async fn usage(&self, pods: &[Value]) -> anyhow::Result<(String, HashMap<String, (Instant, u64)>)> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", self.client.namespace, text(&pods[0]["metadata"]["name"]));
        let node = text(&self.client.get(&path).await?["spec"]["nodeName"]);
        if node.is_empty() {
            return Ok((node, HashMap::new()));
        }
        let usage = self.look(&node).await?;
        Ok((node, usage))
    }

    /// Nanoseconds that each pod of a node has used, and when that was said.
    async fn look(&self, node: &str) -> anyhow::Result<HashMap<String, (Instant, u64)>> {
        let asked = Instant::now();
        let summary = self.client.get(&format!("/api/v1/nodes/{node}/proxy/stats/summary")).await?;
        // It was said somewhere between question and answer.
        let at = asked + asked.elapsed() / 2;
        let pods = summary["pods"].as_array().into_iter().flatten();
        let used = pods.filter_map(|pod| {
            let nanos = pod["containers"][0]["cpu"]["usageCoreNanoSeconds"].as_u64()?;
            Some((text(&pod["podRef"]["name"]), (at, nanos)))
        });
        Ok(used.collect())
    }

    async fn end(&self, served: &[crate::client::Resource], pod: &Value) -> anyhow::Result<()> {
        let (_, path) = apply::place(pod, served, &self.client.namespace)?;
        let uid = text(&self.client.get(&path).await?["metadata"]["uid"]);
        self.client.send(Method::DELETE, &path, None).await?;
        delete::gone(&self.client, &path, &uid, Instant::now() + limits::READY_WAIT).await
    }
}
