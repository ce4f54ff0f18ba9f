//! `bench failover`: three members and three nodes on this machine, and the one that leads is killed (SIGKILL, or what
//! the system has like it) under load, with its node and its pods.
//!
//! Clients write through the survivors all the time, and call a pod of a survivor through that survivor's Ingress. Each
//! round is a new cluster; of the times the 99th percentile of all rounds is reported, which for few rounds is the worst.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Metric;
use crate::client::{Client, Target, text};
use crate::running::{self, Running, State};
use crate::{app, build, down, fetch, kubeconfig, limits, nodes, process};

/// Writers through each survivor.
const WRITERS: usize = 2;
/// Callers of the app: some may be caught by the death in the middle of an answer, the others see what comes after.
const CALLERS: usize = 8;
/// A call that took longer was held up by a node that does not answer: a node that is dialled is given half a second.
const HELD_UP: Duration = Duration::from_millis(400);
/// How long writes and calls go on before the leader is killed.
const BEFORE: Duration = Duration::from_secs(1);
/// Looks this often at what becomes true.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Default)]
struct Rounds {
    nodes_ready_ms: Vec<f64>,
    next_write_ms: Vec<f64>,
    node_replaced_ms: Vec<f64>,
    traffic_off_ms: Vec<f64>,
    acked_lost: usize,
    requests_failed: usize,
}

pub async fn measure(rounds: u32, folder: &Path) -> anyhow::Result<Vec<Metric>> {
    let built = build::build(folder)?;
    let mut all = Rounds::default();
    for round in 0..rounds {
        let dir = std::env::temp_dir().join(format!("kogia-failover-{}-{round}", std::process::id()));
        let outcome = one(&dir, folder, &built, &mut all).await;
        let _ = down::stop(&dir).await;
        let _ = std::fs::remove_dir_all(&dir);
        outcome?;
    }
    let metric = |name: &str, value, unit| Metric {
        bench: "failover",
        name: format!("failover.{name}"),
        value,
        unit,
        peer: None,
    };
    Ok(vec![
        metric("three_nodes_ready_ms", super::median(all.nodes_ready_ms), "ms"),
        metric("next_write_p99_ms", p99(all.next_write_ms), "ms"),
        metric("node_replaced_p99_ms", p99(all.node_replaced_ms), "ms"),
        metric("traffic_off_p99_ms", p99(all.traffic_off_ms), "ms"),
        metric("acked_lost", all.acked_lost as f64, "writes"),
        metric("requests_failed", all.requests_failed as f64, "requests"),
    ])
}

fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * 99).div_ceil(100).max(1) - 1;
    values.get(rank).copied().unwrap_or(f64::NAN)
}

/// A process that is ended with the round.
struct First(Child);

impl Drop for First {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One server: what it says of itself, and the API through it.
struct Server {
    running: Running,
    client: Client,
}

async fn one(dir: &Path, folder: &Path, built: &build::Built, all: &mut Rounds) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--data-dir").arg(dir).args(["up", "--no-merge", "--nodes", "3"]);
    command.args(["--api-port", "0", "--http-port", "0", "--https-port", "0"]);
    let mut first = First(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
    let mut servers = servers(dir, start).await?;
    until(start, "three ready nodes", || async { Ok(ready_nodes(&servers[0].client).await? == 3) }).await?;
    all.nodes_ready_ms.push(start.elapsed().as_secs_f64() * 1e3);

    let mut app = app::App::open(folder)?;
    let host = app.host().context("the app has no Ingress with a host to call")?;
    let served = servers[0].client.resources().await?;
    app.start(&servers[0].client, &served, dir, built).await?;
    until(Instant::now(), "three voters", || async { Ok(roles(&servers[0].client).await?.1 == 3) }).await?;
    let leader = roles(&servers[0].client).await?.0;
    let at = servers.iter().position(|server| server.running.name == leader).context("nobody leads")?;
    let victim = servers.remove(at);
    until(Instant::now(), "pods on every node", || async {
        let ready = ready_pods(&servers[0].client).await?;
        Ok(ready.len() >= 3 && ready.iter().any(|(node, _)| *node == leader))
    })
    .await?;

    let load = Load::default();
    let ledger = Arc::new(Ledger::default());
    let mut tasks = tokio::task::JoinSet::new();
    for (number, server) in servers.iter().enumerate() {
        for writer in 0..WRITERS {
            let (client, ledger) = (server.client.clone(), ledger.clone());
            tasks.spawn(async move { ledger.write(client, format!("w{number}-{writer}")).await });
        }
    }
    for _ in 0..CALLERS {
        let (address, calling, host) = (servers[0].running.http, load.clone(), host.clone());
        tasks.spawn(async move { calling.call(address, host).await });
    }
    sleep(BEFORE).await;

    let killed = Instant::now();
    kill(&mut first, &victim.running);
    ledger.promises().marked = Some(killed);
    until(killed, "a write", || async { Ok(ledger.promises().answered) }).await?;
    all.next_write_ms.push(killed.elapsed().as_secs_f64() * 1e3);
    let gone = victim.running.name;
    until(killed, "the pods to be replaced", || async {
        // A survivor that has just lost its leader may not answer at once.
        let ready = ready_pods(&servers[0].client).await.unwrap_or_default();
        Ok(ready.iter().filter(|(node, _)| *node != gone).count() >= 3)
    })
    .await?;
    all.node_replaced_ms.push(killed.elapsed().as_secs_f64() * 1e3);
    ledger.over.store(true, Ordering::Relaxed);
    load.over.store(true, Ordering::Relaxed);
    while tasks.join_next().await.is_some() {}
    let calls = std::mem::take(&mut *load.calls());
    all.requests_failed += calls.iter().filter(|call| !call.good).count();
    all.traffic_off_ms.push(traffic_off(&calls, killed).as_secs_f64() * 1e3);
    all.acked_lost += ledger.lost(&servers[0].client).await?;
    Ok(())
}

/// Ends a server's process as a power cut would.
fn kill(first: &mut First, victim: &Running) {
    if first.0.id() == victim.pid {
        let _ = first.0.kill();
    } else {
        let _ = process::end_at_once(victim.pid);
    }
}

async fn servers(dir: &Path, start: Instant) -> anyhow::Result<Vec<Server>> {
    let folder = |number: u32| if number == 1 { dir.to_owned() } else { dir.join("nodes").join(number.to_string()) };
    let mut servers = Vec::new();
    for number in 1..=3 {
        let running = loop {
            if let State::Running(running) = running::state(&folder(number))? {
                break running;
            }
            anyhow::ensure!(start.elapsed() < limits::START_WAIT, "the cluster was not ready in time");
            sleep(LOOK).await;
        };
        servers.push(running);
    }
    let apis = nodes::apis(dir, &servers[0]);
    anyhow::ensure!(apis.len() == 3, "not all members are known");
    let mut all = Vec::new();
    for (at, running) in servers.into_iter().enumerate() {
        let client = Client::connect(&Target::member(dir, &kubeconfig::name(at)), &PathBuf::new()).await?;
        all.push(Server { running, client });
    }
    Ok(all)
}

async fn until<F, R>(start: Instant, what: &str, mut reached: F) -> anyhow::Result<()>
where
    F: FnMut() -> R,
    R: Future<Output = anyhow::Result<bool>>,
{
    while !reached().await? {
        anyhow::ensure!(start.elapsed() < limits::READY_WAIT, "waited in vain for {what}");
        sleep(LOOK).await;
    }
    Ok(())
}

async fn ready_nodes(client: &Client) -> anyhow::Result<usize> {
    let nodes = client.get("/api/v1/nodes").await?;
    Ok(nodes["items"].as_array().into_iter().flatten().filter(|node| is_ready(node)).count())
}

/// The leader's name, and how many members decide.
async fn roles(client: &Client) -> anyhow::Result<(String, usize)> {
    let status = client.get("/kogia/status").await?;
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let leader = members.iter().find(|member| member["role"] == "leader").map(|member| text(&member["name"]));
    Ok((leader.unwrap_or_default(), members.iter().filter(|member| member["role"] != "learner").count()))
}

/// Node and name of every pod that is ready and stays.
async fn ready_pods(client: &Client) -> anyhow::Result<Vec<(String, String)>> {
    let pods = client.get("/api/v1/namespaces/default/pods").await?;
    let stays = |pod: &&Value| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null();
    let place = |pod: &Value| (text(&pod["spec"]["nodeName"]), text(&pod["metadata"]["name"]));
    Ok(pods["items"].as_array().into_iter().flatten().filter(stays).map(place).collect())
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// What clients were promised.
#[derive(Default)]
struct Ledger {
    promises: Mutex<Promises>,
    over: AtomicBool,
}

#[derive(Default)]
struct Promises {
    acknowledged: BTreeSet<String>,
    marked: Option<Instant>,
    /// Whether a write was acknowledged that began after the mark.
    answered: bool,
}

impl Ledger {
    async fn write(&self, client: Client, prefix: String) {
        let path = "/api/v1/namespaces/default/configmaps";
        for turn in 0_u64.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let name = format!("{prefix}-{turn}");
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
            let begun = Instant::now();
            let body = Some(("application/json", body.to_string().into_bytes()));
            match client.send(Method::POST, path, body).await {
                Ok(_) => {
                    let mut promises = self.promises();
                    promises.acknowledged.insert(name);
                    promises.answered |= promises.marked.is_some_and(|marked| begun >= marked);
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    fn promises(&self) -> MutexGuard<'_, Promises> {
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many acknowledged writes are not there.
    async fn lost(&self, client: &Client) -> anyhow::Result<usize> {
        let there = client.get("/api/v1/namespaces/default/configmaps").await?;
        let name = |object: &Value| text(&object["metadata"]["name"]);
        let there: BTreeSet<String> = there["items"].as_array().into_iter().flatten().map(name).collect();
        let promises = self.promises();
        Ok(promises.acknowledged.iter().filter(|name| !there.contains(*name)).count())
    }
}

/// Constant calls of the app.
#[derive(Clone, Default)]
struct Load {
    calls: Arc<Mutex<Vec<Call>>>,
    over: Arc<AtomicBool>,
}

/// One call that was noticed: it failed or took long.
struct Call {
    begun: Instant,
    good: bool,
}

impl Load {
    async fn call(&self, address: std::net::SocketAddr, host: String) {
        while !self.over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let good = fetch::get(address, &host, "/").await.is_ok_and(|response| response.status == 200);
            if !good || begun.elapsed() > HELD_UP {
                self.calls().push(Call { begun, good });
            }
            sleep(LOOK).await;
        }
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From the death to the last call that was begun after it and still led to the dead node.
fn traffic_off(calls: &[Call], killed: Instant) -> Duration {
    let after = calls.iter().filter_map(|call| call.begun.checked_duration_since(killed));
    after.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_off_with_the_last_call_that_was_held_up() {
        let killed = Instant::now();
        let at = |ms: u64| Call { begun: killed + Duration::from_millis(ms), good: true };
        assert_eq!(traffic_off(&[], killed), Duration::ZERO);
        let before = Call { begun: killed.checked_sub(Duration::from_secs(1)).unwrap(), good: false };
        assert_eq!(traffic_off(&[before, at(300), at(100)], killed), Duration::from_millis(300));
    }

    #[test]
    fn the_worst_of_few_and_the_99th_of_many() {
        assert_eq!(p99(vec![3.0, 1.0, 2.0]), 3.0);
        assert_eq!(p99((1..=200).map(f64::from).collect()), 198.0);
    }
}
