//! `kogia bench up`: how long a newcomer waits, and what an idle cluster costs.
//!
//! Each round starts this very program as `kogia up` in an empty data directory, with everything on that a user has
//! on: TLS, authorisation, fsync, limits. The guest is built once, outside the measured time.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use super::server::{Server, rss_mib};
use super::{Metric, cpu_seconds, median};
use crate::client::{Client, Target};
use crate::{app, build, fetch, limits};

/// A cluster is idle this long after its first response, when memory is read.
const SETTLE: Duration = Duration::from_secs(3);
/// Over how long the idle cluster's use of the processors is read.
const IDLE: Duration = Duration::from_secs(5);
/// Looks at readiness this often; finer than what is measured.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Rounds {
    api_ready_ms: Vec<f64>,
    first_response_ms: Vec<f64>,
    idle_rss_mib: Vec<f64>,
    idle_cpu_percent: Vec<f64>,
}

pub async fn measure(rounds: u32, folder: &Path) -> anyhow::Result<Vec<Metric>> {
    let built = build::build(folder)?;
    let mut all = Rounds::default();
    for _ in 0..rounds {
        let data_dir =
            std::env::temp_dir().join(format!("kogia-bench-{}-{}", std::process::id(), all.api_ready_ms.len()));
        let outcome = round(&data_dir, folder, &built, &mut all).await;
        let _ = std::fs::remove_dir_all(&data_dir);
        outcome?;
    }
    let metric = |name: &str, values, unit| Metric {
        bench: "up",
        name: name.to_owned(),
        value: median(values),
        unit,
        peer: None,
    };
    let mut metrics = vec![
        metric("up.api_ready_ms", all.api_ready_ms, "ms"),
        metric("up.first_response_ms", all.first_response_ms, "ms"),
    ];
    if !all.idle_rss_mib.is_empty() {
        metrics.push(metric("up.idle_rss_mib", all.idle_rss_mib, "MiB"));
        metrics.push(metric("up.idle_cpu_percent", all.idle_cpu_percent, "% of a core"));
    }
    Ok(metrics)
}

async fn round(data_dir: &Path, folder: &Path, built: &build::Built, all: &mut Rounds) -> anyhow::Result<()> {
    let start = Instant::now();
    let (_server, running) = Server::start(data_dir).await?;
    let client = Client::connect(&Target::default(), data_dir).await?;
    client.get("/api/v1/namespaces/default").await.context("the API says it is ready but does not answer")?;
    all.api_ready_ms.push(start.elapsed().as_secs_f64() * 1e3);

    let start = Instant::now();
    let mut app = app::App::open(folder)?;
    let host = app.host().context("the app has no Ingress with a host to call")?;
    let served = client.resources().await?;
    app.start(&client, &served, data_dir, built).await?;
    first_response(running.http, &host, start).await?;
    all.first_response_ms.push(start.elapsed().as_secs_f64() * 1e3);

    sleep(SETTLE).await;
    if let (Some(rss), Some(before)) = (rss_mib(running.pid), cpu_seconds(running.pid)) {
        let start = Instant::now();
        sleep(IDLE).await;
        let used = cpu_seconds(running.pid).unwrap_or(before) - before;
        all.idle_rss_mib.push(rss);
        all.idle_cpu_percent.push(used / start.elapsed().as_secs_f64() * 100.0);
    }
    Ok(())
}

/// Waits until the app answers through the Ingress.
pub async fn first_response(address: SocketAddr, host: &str, start: Instant) -> anyhow::Result<()> {
    loop {
        if let Ok(response) = fetch::get(address, host, "/").await
            && response.status == 200
        {
            return Ok(());
        }
        anyhow::ensure!(start.elapsed() < limits::READY_WAIT, "the app did not answer in time");
        sleep(LOOK).await;
    }
}
