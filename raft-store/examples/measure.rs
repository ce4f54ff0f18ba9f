//! Measures a single member on this machine's disk: time to the first write, puts and linearizable gets per second with
//! their latency, watch fan-out, and what an idle member costs.
//!
//! ```sh
//! cargo run --release -p raft-store --example measure            # in a directory below the current one
//! cargo run --release -p raft-store --example measure -- /data   # on another disk
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};

use raft_store::{Config, Range, Store, StoreError, Txn, WatchRequest, put};

const VALUE_BYTES: usize = 1024;
const ROUND: Duration = Duration::from_secs(3);
const WATCHERS: usize = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(parent)?;
    let begin = Instant::now();
    let store = Store::open(Config::single(dir.path())).await?;
    store.txn(write(0, 0)).await?;
    println!("open_to_first_write_ms {:.1}", begin.elapsed().as_secs_f64() * 1e3);

    for clients in [1, 32, 256] {
        let work = |store: Store, client, i| async move { store.txn(write(client, i)).await.map(drop) };
        round(&store, clients, work).await?.print(&format!("put_1m_{clients}c"));
    }
    for clients in [1, 32, 256] {
        let work = |store: Store, client, i| async move {
            store.range(Range::key(format!("key/{client}/{}", i % 1000))).await.map(drop)
        };
        round(&store, clients, work).await?.print(&format!("get_1m_{clients}c"));
    }
    fan_out(&store).await?;

    // The checkpoint of the last writes still runs; idle begins when it is done.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (begin, cpu) = (Instant::now(), cpu_seconds());
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("idle_cpu_percent {:.3}", (cpu_seconds() - cpu) / begin.elapsed().as_secs_f64() * 100.0);

    let begin = Instant::now();
    store.close().await;
    println!("close_ms {:.1}", begin.elapsed().as_secs_f64() * 1e3);
    let begin = Instant::now();
    let store = Store::open(Config::single(dir.path())).await?;
    store.read_index().await?;
    println!("reopen_to_first_read_ms {:.1}", begin.elapsed().as_secs_f64() * 1e3);
    store.close().await;
    Ok(())
}

fn write(client: usize, i: usize) -> Txn {
    let mut value = vec![0; VALUE_BYTES];
    value[..8].copy_from_slice(&(i as u64).to_le_bytes());
    Txn { compares: Vec::new(), then: vec![put(format!("key/{client}/{}", i % 1000), value)] }
}

struct Rate {
    per_second: f64,
    sorted_us: Vec<u64>,
}

impl Rate {
    fn print(&self, name: &str) {
        let at = |share: f64| self.sorted_us[((self.sorted_us.len() - 1) as f64 * share) as usize];
        println!("{name} {:.0}/s p50 {} us p99 {} us", self.per_second, at(0.5), at(0.99));
    }
}

async fn round<F, W>(store: &Store, clients: usize, work: F) -> Result<Rate, StoreError>
where
    F: Fn(Store, usize, usize) -> W + Copy + Send + 'static,
    W: Future<Output = Result<(), StoreError>> + Send,
{
    let begin = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while begin.elapsed() < ROUND {
                    let start = Instant::now();
                    work(store.clone(), client, latencies.len()).await?;
                    latencies.push(start.elapsed().as_micros() as u64);
                }
                Ok::<_, StoreError>(latencies)
            })
        })
        .collect();
    let mut sorted_us = Vec::new();
    for task in tasks {
        sorted_us.extend(task.await.expect("a client does not panic")?);
    }
    sorted_us.sort_unstable();
    Ok(Rate { per_second: sorted_us.len() as f64 / begin.elapsed().as_secs_f64(), sorted_us })
}

/// The time from a write to its change at the last of many watchers.
async fn fan_out(store: &Store) -> Result<(), Box<dyn std::error::Error>> {
    let from = store.status().revision + 1;
    let watches: Result<Vec<_>, _> =
        (0..WATCHERS).map(|_| store.watch(WatchRequest { prefix: "fan".into(), from })).collect();
    let seen: Vec<_> = watches?.into_iter().map(|mut watch| tokio::spawn(async move { watch.next().await })).collect();
    let begin = Instant::now();
    store.txn(Txn { compares: Vec::new(), then: vec![put("fan", "out")] }).await?;
    for task in seen {
        task.await??;
    }
    println!("watch_fan_out_{WATCHERS}_ms {:.1}", begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// Processor time this process has used.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}
