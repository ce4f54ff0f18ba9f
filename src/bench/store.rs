//! `kogia bench store`: durable writes, linearizable reads, watches and failover of the store, beside etcd if asked.
//!
//! One member and three, each in a process of its own, with fsync on a real disk and mutual TLS between members. The
//! clients of our store run inside its leader, where the API server is in this product; etcd's run in this process and
//! reach it over gRPC, as kube-apiserver does. Values, keys, client counts and times are the same for both.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::etcd::Etcd;
use super::members::Members;
use super::{Metric, Peer, kills, median};
use crate::store::load::{Load, Measured, Work};

const CLIENTS: [usize; 3] = [1, 32, 256];
const VALUE_BYTES: usize = 1024;
const WATCHERS: usize = 1000;
/// Writes that every watcher must see.
const FAN_OUT_WRITES: usize = 50;

/// What a bench of the store may be asked.
pub struct Options {
    pub rounds: u32,
    /// How long each load lasts.
    pub millis: u64,
    /// How often the leader of three is killed under load.
    pub kills: u32,
    pub against: Option<Peer>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    Kogia,
    Etcd,
}

enum Cluster {
    Kogia(Members),
    Etcd(Etcd),
}

/// A figure under its name, of both systems, one value per round.
struct Row {
    name: String,
    unit: &'static str,
    ours: Vec<f64>,
    peers: Vec<f64>,
}

/// A folder that goes with the bench.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Measures in a folder beside the cluster's data: the disk is the one a cluster would use.
pub async fn measure(options: &Options, data_dir: &Path) -> anyhow::Result<Vec<Metric>> {
    let scratch = Scratch(data_dir.with_extension(format!("bench-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0).with_context(|| format!("cannot create {}", scratch.0.display()))?;
    let mut systems = vec![System::Kogia];
    systems.extend((options.against == Some(Peer::Etcd)).then_some(System::Etcd));
    let mut rows = Vec::new();
    for round in 0..options.rounds {
        for members in [1, 3] {
            for system in &systems {
                let dir = Scratch(scratch.0.join(format!("{round}-{members}-{}", *system as u8)));
                std::fs::create_dir_all(&dir.0)?;
                let mut record = |name: String, unit, value| note(&mut rows, *system, name, unit, value);
                self::round(*system, members, options.millis, &dir.0, &mut record).await?;
            }
        }
    }
    let killed = kills::measure(options.kills, &scratch.0.join("kills")).await?;
    let metric = |row: Row| Metric {
        bench: "store",
        name: row.name,
        value: median(row.ours),
        unit: row.unit,
        peer: options.against.map(|_| ("etcd", median(row.peers))),
    };
    Ok(rows.into_iter().map(metric).chain(killed).collect())
}

fn note(rows: &mut Vec<Row>, system: System, name: String, unit: &'static str, value: f64) {
    let at = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
        rows.push(Row { name, unit, ours: Vec::new(), peers: Vec::new() });
        rows.len() - 1
    });
    match system {
        System::Kogia => rows[at].ours.push(value),
        System::Etcd => rows[at].peers.push(value),
    }
}

/// Everything that is measured on one cluster, in its order: reads find what the writes before them wrote.
async fn round(
    system: System,
    members: usize,
    millis: u64,
    dir: &Path,
    record: &mut impl FnMut(String, &'static str, f64),
) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(system, members, dir).await?;
    for (work, name) in [(Work::Put, "put"), (Work::Get, "get")] {
        for clients in CLIENTS {
            let load = Load { work, clients, millis, value_bytes: VALUE_BYTES };
            let measured = cluster.load(load).await?;
            let name = format!("store.{name}_{members}m_{clients}c");
            record(format!("{name}_p50_ms"), "ms", measured.p50_ms);
            record(format!("{name}_p99_ms"), "ms", measured.p99_ms);
            record(name, "/s", measured.per_second);
        }
    }
    if members == 1 {
        record("store.watch_fanout".to_owned(), "changes/s", cluster.fan_out().await?);
    } else {
        record("store.next_write_ms".to_owned(), "ms", cluster.next_write_ms().await?);
    }
    Ok(())
}

impl Cluster {
    async fn start(system: System, members: usize, dir: &Path) -> anyhow::Result<Self> {
        Ok(match system {
            System::Kogia => Self::Kogia(Members::start(members, dir).await?),
            System::Etcd => Self::Etcd(Etcd::start(members, dir).await?),
        })
    }

    async fn load(&mut self, load: Load) -> anyhow::Result<Measured> {
        match self {
            Self::Kogia(members) => members.load(load).await,
            Self::Etcd(etcd) => etcd.load(load).await,
        }
    }

    /// How many changes a second reach watchers.
    async fn fan_out(&mut self) -> anyhow::Result<f64> {
        match self {
            Self::Kogia(members) => members.fan_out(WATCHERS, FAN_OUT_WRITES, VALUE_BYTES).await,
            Self::Etcd(etcd) => etcd.fan_out(WATCHERS, FAN_OUT_WRITES, VALUE_BYTES).await,
        }
    }

    /// From the leader's death to the next acknowledged write.
    async fn next_write_ms(self) -> anyhow::Result<f64> {
        let took = match self {
            Self::Kogia(members) => members.next_write().await?,
            Self::Etcd(etcd) => etcd.next_write().await?,
        };
        Ok(took.as_secs_f64() * 1e3)
    }
}
