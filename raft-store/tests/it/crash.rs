//! A real process killed under load, again and again: everything it acknowledged is there afterwards.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};

use raft_store::{Config, Range, Store};

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
