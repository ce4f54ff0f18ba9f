//! The part of `kogia bench net` that asks components of which nothing runs, in a cluster with many Services.
//!
//! A `wasi:http` pod has no instance between two requests: each is measured from the request's last byte on its way to the
//! Ingress to the first byte of the answer. Beside it a Deployment without replicas is woken: scaled, scheduled, started.

use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt, TryStreamExt};
use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::house::House;
use super::load::{self, Aim};
use super::{Metric, http as requests, quantile, up};
use crate::client::Client;
use crate::{apply, limits};

/// Components that are asked in turn, each behind a Service and a host of its own.
const COMPONENTS: usize = 32;
/// Requests of one round.
const REQUESTS: usize = 320;
/// Wakings of one round.
const WAKINGS: usize = 3;
/// Between two requests, so that each finds a cluster at rest.
const REST: Duration = Duration::from_millis(2);
/// Services created at a time.
const AT_ONCE: usize = 32;
/// How long the cluster may take until nothing new comes of the Services created.
const PATIENCE: Duration = Duration::from_secs(300);

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// What was measured.
#[derive(Default)]
pub struct Rounds {
    first_byte_us: Vec<f64>,
    woken_ms: Vec<f64>,
}

impl Rounds {
    pub fn metrics(mut self) -> Vec<Metric> {
        let metric = |name: &str, value, unit| Metric { bench: "net", name: name.to_owned(), value, unit, peer: None };
        vec![
            metric("net.from_zero_p50_us", quantile(&mut self.first_byte_us, 0.5), "us"),
            metric("net.from_zero_p99_us", quantile(&mut self.first_byte_us, 0.99), "us"),
            metric("net.woken_p50_ms", quantile(&mut self.woken_ms, 0.5), "ms"),
        ]
    }
}

/// Registers so many Services and asks.
pub async fn measure(house: &House, image: &str, services: usize, rounds: u32) -> anyhow::Result<Rounds> {
    let client = house.client().await?;
    let served = client.resources().await?;
    for number in 0..COMPONENTS {
        let name = format!("zero-{number}");
        apply::one(&client, &served, &pod(&name, image), true).await?;
        requests::expose(&client, &served, &name, &json!({"app": name})).await?;
    }
    apply::one(&client, &served, &sleeper(image), true).await?;
    requests::expose(&client, &served, "sleeper", &json!({"app": "sleeper"})).await?;
    let others = services.saturating_sub(COMPONENTS + 1);
    let creating = futures::stream::iter(0..others).map(|number| other(&client, number));
    creating.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    until_settled(&client, COMPONENTS + others).await?;

    let aims: Vec<Aim> = (0..COMPONENTS).map(|number| aim(house, &format!("zero-{number}"))).collect();
    for aim in &aims {
        up::first_response(aim.address, &aim.host, Instant::now()).await?;
    }
    let mut all = Rounds::default();
    for _ in 0..rounds {
        let mut stream = TcpStream::connect(aims[0].address).await?;
        stream.set_nodelay(true)?;
        for number in 0..REQUESTS {
            sleep(REST).await;
            all.first_byte_us.push(ask(&mut stream, &aims[number % COMPONENTS]).await?.as_secs_f64() * 1e6);
        }
        for _ in 0..WAKINGS {
            all.woken_ms.push(wake(&client, house).await?.as_secs_f64() * 1e3);
        }
    }
    Ok(all)
}

fn aim(house: &House, name: &str) -> Aim {
    Aim { address: house.running.http, host: format!("{name}.localhost"), path: "/".to_owned() }
}

/// One request over a connection that stands: the time to the first byte of its answer.
async fn ask(stream: &mut TcpStream, aim: &Aim) -> anyhow::Result<Duration> {
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", aim.path, aim.host).into_bytes();
    let mut buffer = Vec::with_capacity(4096);
    let begin = Instant::now();
    let first = timeout(limits::REQUEST_WAIT, load::first_bytes(stream, &request, &mut buffer));
    first.await.with_context(|| format!("{} did not answer in time", aim.host))??;
    let took = begin.elapsed();
    let (status, stays) = load::rest(stream, &mut buffer).await?;
    anyhow::ensure!(status == 200 && stays, "{} answered with {status}", aim.host);
    Ok(took)
}

/// Puts the Deployment to sleep, waits until nothing of it is there, and calls it.
async fn wake(client: &Client, house: &House) -> anyhow::Result<Duration> {
    const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/sleeper";
    let scale = json!({"spec": {"replicas": 0}}).to_string().into_bytes();
    client.send(Method::PATCH, &format!("{DEPLOYMENT}/scale"), Some(("application/merge-patch+json", scale))).await?;
    let begin = Instant::now();
    let selected = "labelSelector=kubernetes.io%2Fservice-name%3Dsleeper";
    loop {
        let slices = client.get(&format!("{SLICES}?{selected}")).await?;
        let endpoints =
            slices["items"].as_array().into_iter().flatten().filter_map(|slice| slice["endpoints"].as_array());
        let pods = client.get("/api/v1/namespaces/default/pods?labelSelector=app%3Dsleeper").await?;
        if endpoints.flatten().next().is_none() && pods["items"].as_array().is_some_and(Vec::is_empty) {
            break;
        }
        anyhow::ensure!(begin.elapsed() < limits::READY_WAIT, "the Deployment does not go to sleep");
        sleep(limits::POLL).await;
    }
    let mut stream = TcpStream::connect(house.running.http).await?;
    stream.set_nodelay(true)?;
    ask(&mut stream, &aim(house, "sleeper")).await
}

fn template(name: &str, image: &str) -> Value {
    let container = json!({"name": "web", "image": image, "ports": [{"containerPort": 8080}], "resources": {
        "requests": {"memory": "1Mi", "cpu": "0"}, "limits": {"memory": "64Mi", "cpu": "4"}}});
    json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}})
}

fn pod(name: &str, image: &str) -> Value {
    let mut pod = template(name, image);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod
}

fn sleeper(image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "sleeper", "annotations": {"kogia.dev/scale-to-zero": "168h"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "sleeper"}}, "template": template("sleeper", image)}})
}

/// A Service that is there like all others and that nobody asks.
async fn other(client: &Client, number: usize) -> anyhow::Result<()> {
    let app = format!("zero-{}", number % COMPONENTS);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("other-{number}")},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}]}});
    client.send(Method::POST, SERVICES, Some(("application/json", service.to_string().into_bytes()))).await?;
    Ok(())
}

/// Waits until every Service has its endpoints: what nodes are told of has been said by then.
async fn until_settled(client: &Client, services: usize) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let slices = client.get(SLICES).await?;
        let filled = |slice: &&Value| slice["endpoints"].as_array().is_some_and(|endpoints| !endpoints.is_empty());
        let filled = slices["items"].as_array().into_iter().flatten().filter(filled).count();
        if filled >= services {
            return Ok(());
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "only {filled} of {services} Services have endpoints");
        sleep(limits::POLL * 10).await;
    }
}
