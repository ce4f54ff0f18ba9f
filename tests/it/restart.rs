//! A killed cluster comes back with everything it acknowledged, and its pods run again, without a manual step.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::harness::{Cluster, eventually};

#[test]
fn state_and_pods_come_back_after_kill() {
    let mut cluster = Cluster::start();
    cluster.with("hello-http");
    let address = cluster.get("service", "hello")["spec"]["clusterIP"].clone();
    let uid = cluster.get("deployment", "hello")["metadata"]["uid"].clone();
    cluster.kill();
    cluster.up();
    assert_eq!(cluster.fetch_ok("hello.localhost", "/"), "hello, world\n");
    assert_eq!(cluster.get("service", "hello")["spec"]["clusterIP"], address);
    assert_eq!(cluster.get("deployment", "hello")["metadata"]["uid"], uid);
    eventually("all pods to run", || {
        (cluster.get("deployment", "hello")["status"]["availableReplicas"] == 3).then_some(())
    });
    assert_eq!(cluster.kogia(&["get", "pods", "-l", "app=hello", "-o", "name"]).ok().lines().count(), 3);
}

/// Writes one object after the other, in two threads, while the process is killed; what was answered must be there.
#[test]
fn nothing_acknowledged_is_lost_when_killed_at_any_moment() {
    let mut cluster = Cluster::start();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..3 {
        let stop = AtomicBool::new(false);
        let written = thread::scope(|scope| {
            let writers = [0, 1].map(|writer| {
                let (cluster, stop) = (&cluster, &stop);
                scope.spawn(move || write(cluster, stop, &format!("r{round}-w{writer}")))
            });
            // In the middle of the writing, wherever that is: each writer has had an answer at least.
            eventually("writes", || {
                let names = cluster.kogia(&["get", "configmaps", "-o", "name"]).out;
                let begun = |writer: usize| names.contains(&format!("r{round}-w{writer}-{}", round + 1));
                (begun(0) && begun(1)).then_some(())
            });
            kill(&cluster);
            stop.store(true, Ordering::Relaxed);
            writers.map(|writer| writer.join().unwrap())
        });
        acknowledged.extend(written.into_iter().flatten());
        cluster.kill();
        cluster.up();
        let there = cluster.kogia(&["get", "configmaps", "-o", "name"]).ok();
        for name in &acknowledged {
            assert!(
                there.lines().any(|line| line == format!("configmap/{name}")),
                "{name} was acknowledged and is lost"
            );
        }
    }
    assert!(acknowledged.len() >= 6, "too few writes to show anything: {}", acknowledged.len());
}

/// `kill -9` by process id, while others still borrow the cluster.
fn kill(cluster: &Cluster) {
    let running: serde_json::Value =
        serde_json::from_slice(&std::fs::read(cluster.data_dir().join("run.json")).unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(running["pid"].as_i64().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn write(cluster: &Cluster, stop: &AtomicBool, prefix: &str) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for turn in 0..10_000 {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{prefix}-{turn}");
        let manifest = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}");
        if cluster.apply(&manifest).code == Some(0) {
            acknowledged.push(name);
        }
    }
    acknowledged
}

#[test]
fn down_ends_in_order_and_up_goes_on() {
    let cluster = Cluster::start();
    let detached = ["up", "--detach", "--no-merge", "--api-port", "0", "--http-port", "0", "--https-port", "0"];
    assert!(cluster.kogia(&detached).ok().contains("already runs"));
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}}").ok();
    assert!(cluster.kogia(&["down"]).ok().contains("Stopped"));
    assert_eq!(cluster.kogia(&["status"]).code, Some(1));
    assert!(cluster.kogia(&detached).ok().contains("is up"));
    let status: serde_json::Value = serde_json::from_str(&cluster.kogia(&["status", "--json"]).ok()).unwrap();
    assert_eq!(status["state"], "running", "{status}");
    assert_eq!(status["members"].as_array().map(Vec::len), Some(1), "{status}");
    eventually("the node to be ready", || {
        let status: serde_json::Value = serde_json::from_str(&cluster.kogia(&["status", "--json"]).ok()).unwrap();
        (status["nodes"][0]["ready"] == true).then_some(())
    });
    cluster.get("configmap", "kept");
    assert!(cluster.kogia(&["reset", "--yes"]).ok().contains("Deleted"));
    assert!(!cluster.data_dir().exists());

    // A new one in the same place is for its owner's eyes only: it holds keys and secrets.
    cluster.kogia(&detached).ok();
    #[cfg(unix)]
    {
        let mode = |path: &str| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::metadata(cluster.data_dir().join(path)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode(""), mode("kubeconfig"), mode("pki/ca.key")), (0o700, 0o600, 0o600));
    }
    cluster.kogia(&["down"]).ok();
}

#[test]
fn a_snapshot_of_a_running_cluster_brings_its_objects_into_another() {
    let mut cluster = Cluster::start();
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}, data: {a: '1'}}").ok();
    let file = cluster.scratch().join("backup.kogia");
    let file = file.to_str().unwrap();
    assert!(cluster.kogia(&["store", "snapshot", "save", file]).ok().contains("Saved"));
    assert!(cluster.kogia(&["store", "snapshot", "save", file]).fails().contains("exists already"));
    assert!(cluster.kogia(&["store", "snapshot", "restore", file]).fails().contains("kogia down"));
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: later}}").ok();
    assert!(!cluster.data_dir().join("snapshot.part").exists(), "a snapshot's file was left behind");
    cluster.kill();
    std::fs::remove_dir_all(cluster.data_dir().join("store")).unwrap();
    assert!(cluster.kogia(&["store", "snapshot", "restore", file]).ok().contains("Restored"));
    cluster.up();
    assert_eq!(cluster.get("configmap", "kept")["data"]["a"], "1");
    assert!(cluster.find("configmap", "later").is_none());
}
