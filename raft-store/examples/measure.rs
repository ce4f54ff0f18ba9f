//! Measures members on this machine's disk: one, or three in this process over TCP with mutual TLS. Puts and linearizable
//! gets per second with their latency, and of one member the time to its first write, watch fan-out and what it costs
//! while idle; of three the time from the leader's end to the next write.
//!
//! ```sh
//! cargo run --release -p raft-store --example measure               # in a directory below the current one
//! cargo run --release -p raft-store --example measure -- 1 /data    # on another disk
//! cargo run --release -p raft-store --example measure -- 3
//! ```

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_store::{Config, OpenError, Range, Store, StoreError, TransportConfig, Txn, WatchRequest, put};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

const VALUE_BYTES: usize = 1024;
const ROUND: Duration = Duration::from_secs(3);
const WATCHERS: usize = 1000;

const FAILOVERS: usize = 20;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let members = std::env::args().nth(1).map_or(Ok(1), |text| text.parse())?;
    let parent = std::env::args().nth(2).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(parent)?;
    if members == 1 { alone(dir.path()).await } else { together(dir.path(), members).await }
}

async fn loads(store: &Store, members: u64) -> Outcome<()> {
    for clients in [1, 32, 256] {
        let work = |store: Store, client, i| async move { store.txn(write(client, i)).await.map(drop) };
        round(store, clients, work).await?.print(&format!("put_{members}m_{clients}c"));
    }
    for clients in [1, 32, 256] {
        let work = |store: Store, client, i| async move {
            store.range(Range::key(format!("key/{client}/{}", i % 1000))).await.map(drop)
        };
        round(store, clients, work).await?.print(&format!("get_{members}m_{clients}c"));
    }
    Ok(())
}

/// Members in one process; the load is on the leader, as in the product.
struct Cluster {
    dir: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
    addresses: Vec<(u64, String)>,
}

impl Cluster {
    async fn open(&self, member: u64) -> Outcome<Store> {
        let address = &self.addresses[usize::try_from(member)? - 1].1;
        loop {
            let config = Config {
                member_id: member,
                members: self.addresses.clone(),
                transport: Some(self.transport(TcpListener::bind(address)?)?),
                ..Config::single(self.dir.join(member.to_string()))
            };
            match Store::open(config).await {
                // The threads of the one that was dropped are ending.
                Err(OpenError::InUse(_)) => tokio::task::yield_now().await,
                opened => return Ok(opened?),
            }
        }
    }

    fn transport(&self, listener: TcpListener) -> Outcome<TransportConfig> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["member".to_owned()])?.signed_by(&key, &self.authority)?;
        let (chain, key) = (vec![certificate.der().clone()], || PrivateKeyDer::try_from(key.serialize_der()));
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone())?;
        let (roots, provider) = (Arc::new(roots), Arc::new(rustls::crypto::ring::default_provider()));
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let server = server.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key()?)?;
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let client = client.with_root_certificates(roots).with_client_auth_cert(chain, key()?)?;
        let server_name = ServerName::try_from("member")?;
        Ok(TransportConfig { listener, server: Arc::new(server), client: Arc::new(client), server_name })
    }
}

async fn together(dir: &Path, members: u64) -> Outcome<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let free: Result<Vec<_>, _> = (0..members).map(|_| TcpListener::bind("127.0.0.1:0")?.local_addr()).collect();
    let addresses = (1..).zip(free?.iter().map(ToString::to_string)).collect();
    let cluster = Cluster { dir: dir.to_owned(), authority, addresses };
    let mut stores = Vec::new();
    for member in 1..=members {
        stores.push(cluster.open(member).await?);
    }
    let leader = |stores: &[Store], of: u64| stores.iter().position(|store| store.status().member_id == of);
    let known = stores[0].wait_for(|status| status.leader.is_some()).await?.leader.unwrap_or_default();
    loads(&stores[leader(&stores, known).ok_or("the leader is open")?], members).await?;

    let mut failovers = Vec::new();
    while failovers.len() < FAILOVERS {
        let known = stores[0].wait_for(|status| status.leader.is_some()).await?.leader.unwrap_or_default();
        let gone = stores.swap_remove(leader(&stores, known).ok_or("the leader is open")?);
        let begin = Instant::now();
        drop(gone);
        stores[0].txn(write(0, 0)).await?;
        failovers.push(u64::try_from(begin.elapsed().as_micros())?);
        stores.push(cluster.open(known).await?);
        let revision = stores[0].read_index().await?;
        stores[stores.len() - 1].wait_for(|status| status.revision >= revision).await?;
    }
    failovers.sort_unstable();
    let ms = |us: u64| us as f64 / 1e3;
    println!(
        "next_write_ms median {:.0} worst of {FAILOVERS} {:.0}",
        ms(failovers[FAILOVERS / 2]),
        ms(failovers[FAILOVERS - 1])
    );
    Ok(())
}

async fn alone(dir: &Path) -> Outcome<()> {
    let begin = Instant::now();
    let store = Store::open(Config::single(dir)).await?;
    store.txn(write(0, 0)).await?;
    println!("open_to_first_write_ms {:.1}", begin.elapsed().as_secs_f64() * 1e3);
    loads(&store, 1).await?;
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
    let store = Store::open(Config::single(dir)).await?;
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
async fn fan_out(store: &Store) -> Outcome<()> {
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
