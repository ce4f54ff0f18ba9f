//! Load on an open member, from inside its process: where the API server stands that uses it.
//!
//! Every client waits for its answer before it asks again; the latencies of all are what is returned.

use std::time::{Duration, Instant};

use control::store::{Range, Store, Txn, WatchRequest, put};
use serde::{Deserialize, Serialize};

/// Different keys one client writes, over and over: Kubernetes rewrites the same objects too.
pub const KEYS: usize = 1000;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    Put,
    /// Linearizable reads of keys that were written by [`Work::Put`].
    Get,
}

/// How much of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Load {
    pub work: Work,
    pub clients: usize,
    pub millis: u64,
    pub value_bytes: usize,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Measured {
    /// Sums up latencies that were all measured within `elapsed`.
    pub fn of(mut latencies: Vec<Duration>, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        let last = latencies.len().saturating_sub(1);
        let at = |hundredth: usize| latencies.get(last * hundredth / 100).map_or(f64::NAN, |l| l.as_secs_f64() * 1e3);
        Self { per_second: latencies.len() as f64 / elapsed.as_secs_f64(), p50_ms: at(50), p99_ms: at(99) }
    }
}

/// The key a client uses in a turn; the same for every system measured.
pub fn key(client: usize, turn: usize) -> String {
    format!("key/{client}/{}", turn % KEYS)
}

/// Runs clients until the time is over and returns every latency; `request` is one request of one client.
pub async fn clients<E, F, R>(load: Load, request: F) -> Result<Measured, E>
where
    E: Send + From<tokio::task::JoinError> + 'static,
    F: Fn(usize, usize) -> R + Clone + Send + 'static,
    R: Future<Output = Result<(), E>> + Send,
{
    let begin = Instant::now();
    let over = Duration::from_millis(load.millis);
    let tasks: Vec<_> = (0..load.clients)
        .map(|client| {
            let request = request.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while begin.elapsed() < over {
                    let start = Instant::now();
                    request(client, latencies.len()).await?;
                    latencies.push(start.elapsed());
                }
                Ok::<_, E>(latencies)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(Measured::of(all, begin.elapsed()))
}

/// Puts a load on a member.
pub async fn run(store: &Store, load: Load) -> anyhow::Result<Measured> {
    let (store, value) = (store.clone(), vec![b'v'; load.value_bytes]);
    clients(load, move |client, turn| {
        let (store, key) = (store.clone(), key(client, turn));
        let write = (load.work == Work::Put).then(|| value.clone());
        async move {
            match write {
                Some(value) => drop(store.txn(Txn { compares: Vec::new(), then: vec![put(key, value)] }).await?),
                None => drop(store.range(Range::key(key)).await?),
            }
            Ok::<_, anyhow::Error>(())
        }
    })
    .await
}

/// One write after the other while many watch; how many changes a second reach watchers, counted until the last has all.
pub async fn fan_out(store: &Store, watchers: usize, writes: usize, value_bytes: usize) -> anyhow::Result<f64> {
    let from = store.status().revision + 1;
    let mut tasks = Vec::new();
    for _ in 0..watchers {
        let mut watch = store.watch(WatchRequest { prefix: "fan/".into(), from })?;
        tasks.push(tokio::spawn(async move {
            let mut seen = 0;
            while seen < writes {
                seen += watch.next().await?.len();
            }
            Ok::<_, anyhow::Error>(())
        }));
    }
    let begin = Instant::now();
    for turn in 0..writes {
        let write = vec![put(format!("fan/{turn}"), vec![b'v'; value_bytes])];
        store.txn(Txn { compares: Vec::new(), then: write }).await?;
    }
    for task in tasks {
        task.await??;
    }
    Ok((watchers * writes) as f64 / begin.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_summed_up_by_rank() {
        let latencies = (1..=101).rev().map(Duration::from_millis).collect();
        let measured = Measured::of(latencies, Duration::from_secs(2));
        assert_eq!((measured.per_second, measured.p50_ms, measured.p99_ms), (50.5, 51.0, 100.0));
    }
}
