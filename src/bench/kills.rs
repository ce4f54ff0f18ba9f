//! The leader of three is killed, again and again, while clients write through all members: how long until the next write
//! is acknowledged, and whether everything that was acknowledged is there.
//!
//! Each writer counts up under a key of its own. What it was told is written is read through every member after each
//! kill: a smaller number than the last acknowledged is a lost write. The one that was killed is started again on what it
//! left before the next is.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::members::{Member, Members};
use super::{Metric, median, quantile};
use crate::limits;
use crate::store::member::{Answer, What};

const WRITERS: usize = 8;
/// How long is written before a kill.
const BEFORE: Duration = Duration::from_millis(50);
/// Looks this often at what becomes true.
const LOOK: Duration = Duration::from_millis(1);

/// What one writer was told.
#[derive(Default)]
struct Ledger {
    acknowledged: [AtomicU64; WRITERS],
    begun: [AtomicU64; WRITERS],
}

/// Kills as often as asked, in one cluster.
pub async fn measure(kills: u32, dir: &Path) -> anyhow::Result<Vec<Metric>> {
    if kills == 0 {
        return Ok(Vec::new());
    }
    std::fs::create_dir_all(dir)?;
    let mut cluster = Members::start(3, dir).await?;
    let (ledger, mut waits, mut lost) = (Arc::new(Ledger::default()), Vec::new(), 0);
    for _ in 0..kills {
        waits.push(kill_leader(&mut cluster, &ledger).await?.as_secs_f64() * 1e3);
        lost += lost_through_any(&cluster, &ledger).await?;
    }
    let metric = |name: &str, value, unit| Metric { bench: "store", name: name.to_owned(), value, unit, peer: None };
    Ok(vec![
        metric("store.kills", f64::from(kills), "kills"),
        metric("store.kill_next_write_p50_ms", median(waits.clone()), "ms"),
        metric("store.kill_next_write_p99_ms", quantile(&mut waits, 0.99), "ms"),
        metric("store.kill_acked_lost", lost as f64, "writes"),
    ])
}

/// Kills the leader under load and starts it again; returns how long after the kill a write was acknowledged that was
/// begun when the leader had ended.
async fn kill_leader(cluster: &mut Members, ledger: &Arc<Ledger>) -> anyhow::Result<Duration> {
    let leader = until("a leader", || cluster.leader(0)).await?;
    let over = Arc::new(AtomicBool::new(false));
    // When the leader had ended, and when the first write after that was acknowledged.
    let next: Arc<Mutex<(Option<Instant>, Option<Instant>)>> = Arc::default();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (members, ledger, over, next) = (cluster.all().to_vec(), ledger.clone(), over.clone(), next.clone());
        writers.spawn(async move {
            let acknowledged = |begun: Instant| {
                let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                if let (Some(ended), None) = *next
                    && begun >= ended
                {
                    next.1 = Some(Instant::now());
                }
            };
            write(&members, writer, &ledger, &over, acknowledged).await;
        });
    }
    sleep(BEFORE).await;
    let killed = Instant::now();
    cluster.all()[leader].kill().await?;
    next.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(Instant::now());
    let waited = until("a write", async || Ok(next.lock().unwrap_or_else(PoisonError::into_inner).1)).await;
    over.store(true, Ordering::Relaxed);
    while writers.join_next().await.is_some() {}
    cluster.again(leader)?;
    Ok(waited? - killed)
}

/// Counts up, through whichever member answers.
async fn write(members: &[Arc<Member>], writer: usize, ledger: &Ledger, over: &AtomicBool, told: impl Fn(Instant)) {
    let mut through = writer % members.len();
    while !over.load(Ordering::Relaxed) {
        let turn = ledger.begun[writer].fetch_add(1, Ordering::Relaxed) + 1;
        let begun = Instant::now();
        let asked = What::Put { key: key(writer), value: turn.to_string() };
        match members[through].ask(asked).await {
            Ok(Answer::Revision(_)) => {
                ledger.acknowledged[writer].store(turn, Ordering::Relaxed);
                told(begun);
            }
            // Its fate is unknown; on to another member, as a client does.
            _ => through = (through + 1) % members.len(),
        }
    }
}

fn key(writer: usize) -> String {
    format!("kills/{writer}")
}

/// Acknowledged writes that are not there, as the member has it that lacks most of them.
async fn lost_through_any(cluster: &Members, ledger: &Ledger) -> anyhow::Result<u64> {
    let mut worst = 0;
    for member in cluster.all() {
        let items =
            until("a member to answer", async || match member.ask(What::List { prefix: "kills/".to_owned() }).await {
                Ok(Answer::Items(items)) => Ok(Some(items)),
                _ => Ok(None),
            })
            .await?;
        let lost = (0..WRITERS).map(|writer| {
            let found = items.iter().find(|(name, _)| *name == key(writer));
            let found: u64 = found.and_then(|(_, turn)| turn.parse().ok()).unwrap_or(0);
            let begun = ledger.begun[writer].load(Ordering::Relaxed);
            // Something nobody wrote counts as one that is gone.
            let invented = u64::from(found > begun);
            ledger.acknowledged[writer].load(Ordering::Relaxed).saturating_sub(found) + invented
        });
        worst = worst.max(lost.sum());
    }
    Ok(worst)
}

/// Waits for something to be there, within a bound.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        anyhow::ensure!(begin.elapsed() < limits::READY_WAIT, "waited in vain for {what}");
        sleep(LOOK).await;
    }
}
