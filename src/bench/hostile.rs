//! `kogia bench hostile`: what the clients of a well-behaved app notice of guests that misbehave beside it.
//!
//! A victim answers a light, steady load. In every round its p99 is taken beside each offender in turn, and alone before
//! and after that: one ratio, which a machine that grows slower or faster meanwhile does not bend. The median over the
//! rounds is the figure. What a round gives with nobody beside the victim is measured like an offender, so that a reader
//! sees what the machine does by itself. Offenders are the pods of `examples/misbehave`, under the limits that stand
//! there.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::house::House;
use super::load::{self, Aim};
use super::{Metric, http as web, median};
use crate::client::{Client, text};
use crate::{apply, build, delete, limits};

/// Connections of the victim's clients, and how long each rests between two requests: a load that leaves room.
const CONNECTIONS: usize = 4;
const PAUSE: Duration = Duration::from_millis(2);
/// Before the victim is looked at, alone or beside somebody who has begun to misbehave.
const SETTLE: Duration = Duration::from_millis(500);
/// Clients that ask an offender which misbehaves when asked.
const ASKERS: usize = 4;

pub struct Options<'a> {
    pub rounds: u32,
    pub millis: u64,
    pub folder: &'a Path,
}

pub async fn measure(options: &Options<'_>) -> anyhow::Result<Vec<Metric>> {
    let victim = build::build(options.folder)?;
    let folder = options.folder.parent().context("the app's folder has no neighbours")?.join("misbehave");
    let offender = build::build(&folder)?;
    let manifests = apply::read(&[folder])?;
    let server = House::start().await?;
    let client = server.client().await?;
    let image = server.store(&victim)?;
    server.store(&offender)?;
    // By this name the offenders know whom to annoy.
    let aim = web::deploy(&client, &server, "hello", &image, json!({})).await?;
    let time = Duration::from_millis(options.millis);
    load::run(&aim, CONNECTIONS, time, Some(PAUSE)).await?;

    let offenders = manifests.iter().filter(|manifest| manifest["kind"] == "Pod");
    let beside_whom: Vec<Option<&Value>> = std::iter::once(None).chain(offenders.map(Some)).collect();
    let (mut ratios, mut stops) = (vec![Vec::new(); beside_whom.len()], Vec::new());
    for _ in 0..options.rounds {
        let mut before = p99(&aim, time).await?;
        for (pod, ratios) in beside_whom.iter().zip(&mut ratios) {
            let offending = match pod {
                Some(pod) => Some(Offender::start(&client, &server, pod).await?),
                None => None,
            };
            let beside = p99(&aim, time).await?;
            if let Some(offending) = offending {
                stops.push(offending.stop(&client).await?);
            }
            let after = p99(&aim, time).await?;
            ratios.push(beside / before.midpoint(after));
            before = after;
        }
    }
    let ratio = |form: &str, value| Metric {
        bench: "hostile",
        name: format!("hostile.{form}_p99_ratio"),
        value,
        unit: "× alone",
        peer: None,
    };
    let form = |pod: &Value| text(&pod["spec"]["containers"][0]["args"][0]);
    let forms = beside_whom.iter().map(|pod| pod.map_or_else(|| "nobody".to_owned(), form));
    let mut metrics: Vec<Metric> = forms.zip(ratios).map(|(form, ratios)| ratio(&form, median(ratios))).collect();
    // Nobody comes first.
    let worst = metrics[1..].iter().map(|metric| metric.value).fold(f64::NAN, f64::max);
    metrics.push(ratio("victim", worst));
    let metric = |name: &str, value, unit| Metric { bench: "hostile", name: name.to_owned(), value, unit, peer: None };
    metrics.push(metric("hostile.stop_ms", median(stops), "ms"));
    metrics.extend(server.rss_mib().map(|rss| metric("hostile.rss_mib", rss, "MiB")));
    Ok(metrics)
}

async fn p99(aim: &Aim, time: Duration) -> anyhow::Result<f64> {
    sleep(SETTLE).await;
    let load = load::run(aim, CONNECTIONS, time, Some(PAUSE)).await?;
    anyhow::ensure!(load.other == 0, "the victim failed {} of {} requests", load.other, load.good + load.other);
    Ok(load.quantile_ms(0.99))
}

/// A pod that misbehaves, and clients that make it.
struct Offender {
    path: String,
    uid: String,
    askers: Vec<tokio::task::JoinHandle<()>>,
}

impl Offender {
    /// Starts it and waits until it has begun.
    async fn start(client: &Client, server: &House, pod: &Value) -> anyhow::Result<Offender> {
        let served = client.resources().await?;
        apply::one(client, &served, pod, true).await?;
        let (_, path) = apply::place(pod, &served, &client.namespace)?;
        let begin = Instant::now();
        let uid = loop {
            let now = client.get(&path).await?;
            let status = &now["status"]["containerStatuses"][0];
            let begun = status["state"].get("running").is_some()
                || status["state"].get("terminated").is_some()
                || status["restartCount"].as_i64().unwrap_or(0) > 0;
            if begun {
                break text(&now["metadata"]["uid"]);
            }
            anyhow::ensure!(begin.elapsed() < limits::READY_WAIT, "{path} did not start in time");
            sleep(limits::POLL).await;
        };
        let name = text(&pod["metadata"]["name"]);
        let aim = Aim { address: server.running.http, host: format!("{name}.localhost"), path: "/".to_owned() };
        let ask = |_| {
            let aim = aim.clone();
            tokio::spawn(async move {
                // What comes of it is the offender's business.
                let _ = load::run(&aim, 1, limits::READY_WAIT, Some(PAUSE)).await;
            })
        };
        let asked = pod["metadata"]["labels"]["asked"] == "yes";
        if asked {
            web::expose(client, &served, &name, &pod["metadata"]["labels"]).await?;
        }
        let askers = if asked { (0..ASKERS).map(ask).collect() } else { Vec::new() };
        Ok(Offender { path, uid, askers })
    }

    /// Ends it; returns how long the cluster took, in milliseconds.
    async fn stop(self, client: &Client) -> anyhow::Result<f64> {
        self.askers.iter().for_each(tokio::task::JoinHandle::abort);
        let begin = Instant::now();
        let options = json!({"gracePeriodSeconds": 0}).to_string().into_bytes();
        client.send(Method::DELETE, &self.path, Some(("application/json", options))).await?;
        delete::gone(client, &self.path, &self.uid, Instant::now() + limits::READY_WAIT).await?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }
}
