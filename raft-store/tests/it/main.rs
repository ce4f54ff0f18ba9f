//! The store from outside: what a caller may rely on, on real disks, threads and sockets.

mod cluster;
mod crash;

use std::time::{Duration, Instant};

use raft_store::{
    Cancelled, Compare, Config, OpenError, Range, Store, StoreError, Target, Txn, TxnReply, WatchRequest, Write, put,
};

fn write(key: &str, value: &str) -> Txn {
    Txn { compares: Vec::new(), then: vec![put(key.to_owned(), value.to_owned())] }
}

async fn open(dir: &tempfile::TempDir) -> Store {
    Store::open(Config::single(dir.path().join("store"))).await.unwrap()
}

async fn show(store: &Store, range: Range) -> String {
    let reply = store.range(range).await.unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let items: Vec<_> = reply.items.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect();
    format!("{} {}", reply.revision, items.join(" "))
}

#[tokio::test]
async fn writes_are_read_back_and_survive_an_orderly_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    assert_eq!(store.txn(write("a", "1")).await.unwrap().revision, 1);
    assert_eq!(store.txn(write("b", "2")).await.unwrap().revision, 2);
    let held = vec![Compare { key: "a".into(), target: Target::ModRevision(1) }];
    let delete = Txn { compares: held, then: vec![Write::Delete { key: "a".into() }] };
    assert!(store.txn(delete.clone()).await.unwrap().succeeded);
    let again = store.txn(delete).await.unwrap();
    assert_eq!(again, TxnReply { succeeded: false, revision: 3, current: vec![("a".into(), None)] });
    assert_eq!(show(&store, Range::prefix("")).await, "3 b=2");
    let hash = store.status().hash;
    store.close().await;

    let store = open(&dir).await;
    assert_eq!(show(&store, Range::prefix("")).await, "3 b=2");
    assert_eq!(show(&store, Range::prefix("").at(2)).await, "2 a=1 b=2");
    let mut watch = store.watch(WatchRequest { prefix: "".into(), from: 1 }).unwrap();
    let changes = watch.next().await.unwrap();
    assert_eq!(changes.iter().map(|c| c.revision).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(changes[2].previous.as_deref(), Some(&b"1"[..]));
    assert_eq!(store.status().hash, hash);
    store.close().await;
}

#[tokio::test]
async fn a_store_dropped_without_a_word_replays_its_log() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let store = until_unlocked(&dir).await;
        assert_eq!(store.range(Range::prefix("k")).await.unwrap().items.len(), round * 50);
        for i in 0..50 {
            store.txn(write(&format!("k{round}-{i}"), "value")).await.unwrap();
        }
    }
}

/// The threads of a dropped store end on their own; the directory is free when they have.
async fn until_unlocked(dir: &tempfile::TempDir) -> Store {
    let start = Instant::now();
    loop {
        match Store::open(Config::single(dir.path().join("store"))).await {
            Err(OpenError::InUse(_)) if start.elapsed() < Duration::from_secs(10) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_watch_follows_while_writes_go_on_and_ends_with_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let mut watch = store.watch(WatchRequest { prefix: "w/".into(), from: 1 }).unwrap();
    let follower = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            match watch.next().await {
                Ok(changes) => seen.extend(changes.into_iter().map(|change| change.revision)),
                Err(reason) => return (seen, reason),
            }
        }
    });
    for i in 0..100 {
        store.txn(write(if i % 2 == 0 { "w/a" } else { "other" }, "x")).await.unwrap();
    }
    store.close().await;
    let (seen, reason) = follower.await.unwrap();
    assert_eq!(seen, (1..=100).step_by(2).collect::<Vec<_>>());
    assert_eq!(reason, Cancelled::Stopped);
}

#[tokio::test]
async fn compaction_cancels_what_is_too_old_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    for _ in 0..5 {
        store.txn(write("a", "x")).await.unwrap();
    }
    store.compact(3).await.unwrap();
    let old = store.range(Range::prefix("").at(2)).await;
    assert_eq!(old, Err(StoreError::Compacted { asked: 2, oldest: 3 }));
    let late = store.watch(WatchRequest { prefix: "".into(), from: 2 }).err();
    assert_eq!(late, Some(Cancelled::TooOld { from: 2, oldest: 4 }));
    let future = store.range(Range::prefix("").at(9)).await;
    assert_eq!(future, Err(StoreError::Future { asked: 9, latest: 5 }));
    assert_eq!(store.compact(9).await, Err(StoreError::Future { asked: 9, latest: 5 }));
    store.close().await;
}

#[tokio::test]
async fn many_clients_at_once_get_consecutive_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let clients: Vec<_> = (0..64)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for i in 0..20 {
                    revisions.push(store.txn(write(&format!("{client}/{i}"), "v")).await.unwrap().revision);
                }
                revisions
            })
        })
        .collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.unwrap());
    }
    all.sort_unstable();
    assert_eq!(all, (1..=64 * 20).collect::<Vec<_>>());
    store.close().await;
}

#[tokio::test]
async fn a_directory_has_one_user_and_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let second = Store::open(Config::single(dir.path().join("store"))).await;
    assert!(matches!(second, Err(OpenError::InUse(_))));
    store.close().await;
    let foreign = Config { cluster_id: 7, ..Config::single(dir.path().join("store")) };
    assert!(matches!(Store::open(foreign).await, Err(OpenError::Foreign { found_cluster: 1, .. })));
}

#[tokio::test]
async fn a_snapshot_restores_into_an_empty_directory_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("saved");
    let store = open(&dir).await;
    for i in 0..10 {
        store.txn(write(&format!("k{i}"), "v")).await.unwrap();
    }
    let saved = store.save_snapshot(file.clone()).await.unwrap();
    store.txn(write("later", "v")).await.unwrap();
    store.close().await;
    assert_eq!(raft_store::SnapshotStatus::read(&file).unwrap(), saved);
    assert!(Store::restore_snapshot(&file, dir.path().join("store"), 1, 1).is_err());
    Store::restore_snapshot(&file, dir.path().join("restored"), 1, 2).unwrap();
    let restored = Config { cluster_id: 2, ..Config::single(dir.path().join("restored")) };
    let restored = Store::open(restored).await.unwrap();
    assert_eq!(restored.range(Range::prefix("")).await.unwrap().items.len(), 10);
    assert_eq!(restored.txn(write("k0", "new")).await.unwrap().revision, 11);
    restored.close().await;

    let mut bytes = std::fs::read(&file).unwrap();
    for at in [0, 9, bytes.len() / 2, bytes.len() - 1] {
        bytes[at] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        assert!(raft_store::SnapshotStatus::read(&file).is_err(), "a flipped bit at {at} went unnoticed");
        bytes[at] ^= 1;
    }
}
