//! `kogia bench`: the frame of all measurements of this product, on the user's own machine.
//!
//! A bench measures in rounds and reports medians. Beside a peer the rounds of both are interleaved and the ratio is
//! taken of the medians. A machine that is busy with something else measures nothing: the frame says so and exits 3.

mod api;
mod cpu;
mod etcd;
mod failover;
mod from_zero;
mod grpc;
mod hostile;
mod house;
mod http;
mod kills;
mod load;
mod members;
mod net;
mod pods;
mod proxies;
mod scheduler;
mod server;
mod store;
mod up;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::sleep;

/// What `bench` exits with when the machine is too busy.
const BUSY: u8 = 3;
/// Over how long it is looked at what others use of the processors before anything is measured.
const LOOK: Duration = Duration::from_millis(500);
/// The largest share of all processors that others may use.
const BUSY_SHARE_MAX: f64 = 0.15;

#[derive(clap::Args)]
pub struct Args {
    /// Which bench
    #[arg(value_enum)]
    name: Name,
    /// One JSON object per line instead of a table
    #[arg(long)]
    json: bool,
    /// How many rounds; each figure is the median
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The folder of the app that is started, for benches that start one
    #[arg(long, value_name = "FOLDER", default_value = "examples/hello-http")]
    app: PathBuf,
    /// A program to measure beside ours; it must be installed
    #[arg(long, value_enum)]
    against: Option<Peer>,
    /// How long each load lasts, in milliseconds, for benches that put load on something
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    millis: u64,
    /// How many pods a list holds or a node is filled with, for the benches of the API and of pods
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pods: u32,
    /// How many watches are open at once, for the bench of the API
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    watchers: u32,
    /// How many Services are registered, for the bench of the network
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    services: u32,
    /// How often the leader is killed under load, for the bench of the store
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    kills: u32,
    /// How many nodes are simulated, for benches that simulate some; 5000 is Kubernetes' bound for one cluster
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    nodes: u32,
    /// Measure even on a busy machine; the figures mean little then
    #[arg(long)]
    busy_is_fine: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Process start to API ready, apply to first response, idle memory
    Up,
    /// Creating, reading, listing and watching through the API
    Api,
    /// Three nodes until they are ready, and the leader killed under load
    Failover,
    /// Pods per second that get a node in a large simulated cluster
    Scheduler,
    /// Durable writes, linearizable reads, watches and failover of the store
    Store,
    /// Connections between pods of one node and of two, and requests from outside, beside others
    Net,
    /// Requests per second through Ingress and Service, with fresh and with reused instances
    Http,
    /// How fast one node fills with pods, and what an idle pod costs
    Pods,
    /// Whether processor time is given out as limits and requests say
    Cpu,
    /// What a neighbour notices of guests that misbehave
    Hostile,
}

/// Who can be measured beside us.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    Etcd,
    Wasmtime,
}

/// One measured figure.
pub struct Metric {
    pub bench: &'static str,
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// Another program's figure of the same run.
    pub peer: Option<(&'static str, f64)>,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    if let Some(share) = used_by_others().await
        && share > BUSY_SHARE_MAX
        && !args.busy_is_fine
    {
        eprintln!("The machine is busy: {:.0} % of its processors are in use, so nothing was measured.", share * 100.0);
        return Ok(ExitCode::from(BUSY));
    }
    let metrics = match args.name {
        Name::Up => {
            anyhow::ensure!(args.against.is_none(), "nothing else starts a cluster like `up`; leave --against out");
            up::measure(args.rounds, &args.app).await?
        }
        Name::Api => {
            anyhow::ensure!(args.against.is_none(), "nothing else is measured beside the API yet; leave --against out");
            let size = api::Size { millis: args.millis, pods: args.pods as usize, watchers: args.watchers as usize };
            api::measure(args.rounds, size, data_dir).await?
        }
        Name::Failover => {
            anyhow::ensure!(args.against.is_none(), "nothing else is killed like this; leave --against out");
            failover::measure(args.rounds, &args.app).await?
        }
        Name::Http => {
            let (rounds, millis, against) = (args.rounds, args.millis, args.against);
            http::measure(&http::Options { rounds, millis, folder: &args.app, against }).await?
        }
        Name::Pods => {
            anyhow::ensure!(args.against.is_none(), "nothing else fills a node like this; leave --against out");
            pods::measure(&pods::Options { pods: args.pods, folder: &args.app }).await?
        }
        Name::Cpu => {
            anyhow::ensure!(args.against.is_none(), "nothing else has these guests; leave --against out");
            cpu::measure(&cpu::Options { rounds: args.rounds, millis: args.millis, folder: &args.app }).await?
        }
        Name::Hostile => {
            anyhow::ensure!(args.against.is_none(), "nothing else has these guests; leave --against out");
            hostile::measure(&hostile::Options { rounds: args.rounds, millis: args.millis, folder: &args.app }).await?
        }
        Name::Scheduler => {
            anyhow::ensure!(args.against.is_none(), "the scheduler is measured by itself; leave --against out");
            scheduler::measure(args.rounds, usize::try_from(args.nodes)?)?
        }
        Name::Store => {
            anyhow::ensure!(args.against != Some(Peer::Wasmtime), "wasmtime is no store; leave --against out");
            let (rounds, millis, kills, against) = (args.rounds, args.millis, args.kills, args.against);
            let options = store::Options { rounds, millis, kills, against };
            store::measure(&options, data_dir).await?
        }
        Name::Net => {
            anyhow::ensure!(args.against.is_none(), "plain TCP is always measured beside it; leave --against out");
            let (rounds, millis, services) = (args.rounds, args.millis, args.services as usize);
            net::measure(&net::Options { rounds, millis, services, folder: &args.app }).await?
        }
    };
    for metric in &metrics {
        if args.json {
            println!("{}", metric.to_json());
        }
    }
    if !args.json {
        print(&metrics);
    }
    Ok(ExitCode::SUCCESS)
}

impl Metric {
    fn to_json(&self) -> Value {
        let mut line = Map::new();
        line.insert("bench".into(), json!(self.bench));
        line.insert("metric".into(), json!(self.name));
        line.insert("value".into(), json!(self.value));
        line.insert("unit".into(), json!(self.unit));
        if let Some((peer, value)) = self.peer {
            line.insert("peer".into(), json!(peer));
            line.insert("peer_value".into(), json!(value));
            line.insert("ratio".into(), json!(self.value / value));
        }
        Value::Object(line)
    }
}

fn print(metrics: &[Metric]) {
    let mut rows = vec![["METRIC", "VALUE", "UNIT", "PEER", "PEER VALUE", "RATIO"].map(str::to_owned).to_vec()];
    for metric in metrics {
        let mut row = vec![metric.name.clone(), shown(metric.value), metric.unit.to_owned()];
        if let Some((peer, value)) = metric.peer {
            row.extend([peer.to_owned(), shown(value), format!("{:.2}", metric.value / value)]);
        }
        rows.push(row);
    }
    crate::get::print_rows(&rows);
}

/// Small figures with more digits: a read takes microseconds, a rate needs no fractions.
fn shown(value: f64) -> String {
    if value < 10.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}

/// The middle value; the lower one of the two middle ones for an even number, so that it was really measured.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The value that `part` of all stayed within.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// Addresses on loopback that are free now. They are not held: who uses them says so if another was faster.
pub fn free_addresses(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    held.iter().map(TcpListener::local_addr).collect()
}

/// Processor seconds a process has used so far, from `/proc/PID/stat` (proc_pid_stat(5)); the kernel counts 100 to a
/// second.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// The share of all processors in use now; `None` where the system does not say.
async fn used_by_others() -> Option<f64> {
    let before = processor_ticks()?;
    sleep(LOOK).await;
    let after = processor_ticks()?;
    let (busy, all) = (after.0.checked_sub(before.0)?, after.1.checked_sub(before.1)?);
    (all > 0).then(|| busy as f64 / all as f64)
}

/// Busy and all ticks since the machine started, from `/proc/stat` (proc_stat(5)).
fn processor_ticks() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let all = ticks.iter().take(8).sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((all - idle, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_was_measured() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.0);
    }

    #[test]
    fn a_peer_adds_three_fields() {
        let mut metric =
            Metric { bench: "up", name: "up.api_ready_ms".to_owned(), value: 50.0, unit: "ms", peer: None };
        assert_eq!(
            metric.to_json().to_string(),
            r#"{"bench":"up","metric":"up.api_ready_ms","unit":"ms","value":50.0}"#
        );
        metric.peer = Some(("other", 100.0));
        assert_eq!(metric.to_json()["ratio"], 0.5);
    }
}
