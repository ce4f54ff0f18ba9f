//! Real processes killed and stopped under load, again and again: everything they acknowledged is there afterwards.

use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use raft_store::{Config, Range, Store};

use crate::cluster::{Authority, Credentials};
use crate::write;

const DIR: &str = "RAFT_STORE_CRASH_DIR";
const ROUND: &str = "RAFT_STORE_CRASH_ROUND";
const CLIENTS: usize = 8;

/// The child: writes until it is killed, and tells each acknowledged key on its standard output.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes_until_killed() {
    let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) else { return };
    let store = Store::open(Config::single(dir)).await.unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (store, round) = (store.clone(), round.clone());
            tokio::spawn(async move {
                for i in 0.. {
                    let key = format!("{round}/{client}/{i}");
                    store.txn(write(&key, "value")).await.unwrap();
                    writeln!(std::io::stdout(), "\nacknowledged {key}").unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_acknowledged_is_there_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let store_dir = dir.path().join("store");
    let mut acknowledged = Vec::new();
    for round in 0..4_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_writes_until_killed", "--nocapture"])
            .env(DIR, &store_dir)
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The ledger is what arrived here, however much that is at the moment of death.
        let enough = 200 + 150 * round;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut keys = lines.filter_map(|line| line.strip_prefix("acknowledged ").map(str::to_owned));
        acknowledged.extend(keys.by_ref().take(enough));
        child.kill().unwrap();
        acknowledged.extend(keys);
        child.wait().unwrap();
    }
    let store = Store::open(Config::single(store_dir)).await.unwrap();
    let found = store.range(Range::prefix("")).await.unwrap();
    let found: std::collections::BTreeSet<&[u8]> = found.items.iter().map(|kv| &kv.key[..]).collect();
    let missing: Vec<&String> = acknowledged.iter().filter(|key| !found.contains(key.as_bytes())).collect();
    assert!(
        missing.is_empty(),
        "{} of {} acknowledged writes are gone: {missing:?}",
        missing.len(),
        acknowledged.len()
    );
    store.close().await;
}

const MEMBER: &str = "RAFT_STORE_CRASH_MEMBER";

fn three_config(dir: &Path, member: u64) -> Config {
    let read = |name: &str| std::fs::read(dir.join(format!("{member}.{name}"))).unwrap();
    let credentials = Credentials { root: read("root"), certificate: read("certificate"), key: read("key") };
    let address = |member: u64| std::fs::read_to_string(dir.join(format!("{member}.address"))).unwrap();
    let listener = TcpListener::bind(address(member)).unwrap();
    Config {
        member_id: member,
        members: (1..=3).map(|member| (member, address(member))).collect(),
        heartbeat_ticks: 5,
        election_ticks: 50,
        transport: Some(credentials.transport(listener)),
        ..Config::single(dir.join(member.to_string()))
    }
}

/// The child: a member of three whose clients write until it is killed, and tell each acknowledged key.
#[tokio::test(flavor = "multi_thread")]
async fn child_member_that_writes_until_killed() {
    let (Ok(dir), Ok(round), Ok(member)) = (std::env::var(DIR), std::env::var(ROUND), std::env::var(MEMBER)) else {
        return;
    };
    let store = Store::open(three_config(Path::new(&dir), member.parse().unwrap())).await.unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (store, round, member) = (store.clone(), round.clone(), member.clone());
            tokio::spawn(async move {
                for i in 0.. {
                    let key = format!("{member}/{round}/{client}/{i}");
                    // Without a majority an answer may not come in time; then nothing was acknowledged.
                    if store.txn(write(&key, "value")).await.is_ok() {
                        writeln!(std::io::stdout(), "\nacknowledged {key}").unwrap();
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

struct Three {
    dir: PathBuf,
    ledger: Sender<String>,
    lives: usize,
}

impl Three {
    fn start(&mut self, member: u64) -> Child {
        self.lives += 1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_member_that_writes_until_killed", "--nocapture"])
            .env(DIR, &self.dir)
            .env(ROUND, self.lives.to_string())
            .env(MEMBER, member.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let ledger = self.ledger.clone();
        std::thread::spawn(move || {
            for line in lines {
                if let Some(key) = line.strip_prefix("acknowledged ") {
                    ledger.send(key.to_owned()).unwrap();
                }
            }
        });
        child
    }
}

/// Waits for `more` acknowledged writes.
fn progress(ledger: &Receiver<String>, acknowledged: &mut Vec<String>, more: usize) {
    let start = Instant::now();
    let enough = acknowledged.len() + more;
    while acknowledged.len() < enough {
        assert!(start.elapsed() < Duration::from_secs(60), "two members of three make no progress");
        acknowledged.extend(ledger.recv_timeout(Duration::from_secs(1)));
    }
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn three_processes_killed_and_stopped_in_turn_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    for (member, listener) in (1..=3).zip(&held) {
        let credentials = authority.issue();
        let save =
            |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(format!("{member}.{name}")), bytes).unwrap();
        save("root", &credentials.root);
        save("certificate", &credentials.certificate);
        save("key", &credentials.key);
        save("address", listener.local_addr().unwrap().to_string().as_bytes());
    }
    drop(held);
    let (told, ledger) = channel();
    let mut three = Three { dir: dir.path().to_owned(), ledger: told, lives: 0 };
    let mut children: Vec<Child> = (1..=3).map(|member| three.start(member)).collect();
    let mut acknowledged = Vec::new();
    progress(&ledger, &mut acknowledged, 100);
    for (round, victim) in [0, 1, 2, 0, 1, 2].into_iter().enumerate() {
        if round % 2 == 0 {
            children[victim].kill().unwrap();
            children[victim].wait().unwrap();
            progress(&ledger, &mut acknowledged, 300);
            children[victim] = three.start(victim as u64 + 1);
        } else {
            signal(&children[victim], "-STOP");
            progress(&ledger, &mut acknowledged, 300);
            signal(&children[victim], "-CONT");
        }
        progress(&ledger, &mut acknowledged, 300);
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    drop(three);
    acknowledged.extend(ledger);

    let mut stores = Vec::new();
    for member in 1..=3 {
        stores.push(Store::open(three_config(dir.path(), member)).await.unwrap());
    }
    for store in &stores {
        let found = store.range(Range::prefix("")).await.unwrap();
        let found: std::collections::BTreeSet<&[u8]> = found.items.iter().map(|kv| &kv.key[..]).collect();
        let missing = acknowledged.iter().filter(|key| !found.contains(key.as_bytes())).count();
        assert_eq!(missing, 0, "of {} acknowledged writes", acknowledged.len());
    }
    for store in stores {
        store.close().await;
    }
}
