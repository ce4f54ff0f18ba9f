//! A guest that misbehaves is stopped or held, says why in its status, and its neighbour does not notice.

use serde_json::Value;

use crate::harness::{Cluster, eventually};

#[test]
fn every_way_to_misbehave_leaves_the_neighbour_answering() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    cluster.with("misbehave");
    let pod = |name: &str| cluster.get("pod", &format!("misbehave-{name}"));
    // Two of them call the neighbour as often as they can: it may be too busy for a moment, and says so.
    let neighbour = || {
        eventually("the neighbour to answer", || match cluster.fetch("hello.localhost", "/").unwrap() {
            (200, said) => {
                assert_eq!(said, "hello, world\n");
                Some(())
            }
            (503, _) => None,
            other => panic!("{other:?}"),
        });
    };

    let last = ended(&cluster, "memory");
    assert_eq!((&last["reason"], &last["exitCode"]), (&"OOMKilled".into(), &137.into()), "{last}");
    neighbour();
    for name in ["trap", "recurse"] {
        let last = ended(&cluster, name);
        assert_eq!(last["reason"], "Error", "{last}");
        assert_ne!(last["exitCode"], 0, "{last}");
        neighbour();
    }
    for name in ["loop", "flood"] {
        eventually("it to run", || {
            pod(name)["status"]["containerStatuses"][0]["state"].get("running").is_some().then_some(())
        });
        neighbour();
    }
    let said = eventually("the flood's log", || {
        Some(cluster.kogia(&["logs", "misbehave-flood", "--tail", "1"]).ok()).filter(|said| !said.is_empty())
    });
    assert!(said.contains("flood"), "{said:.100}");

    let said = eventually("the trap's log", || {
        let ran = cluster.kogia(&["logs", "misbehave-trap", "--previous"]);
        (ran.code == Some(0)).then_some(ran.out)
    });
    assert!(said.contains("misbehaving as asked") && said.contains("misbehave::trap"), "{said}");
    let described = cluster.kogia(&["describe", "pod", "misbehave-memory"]).ok();
    assert!(described.contains("OOMKilled"), "{described}");
    cluster.kogia(&["delete", "pods", "-l", "app=misbehave", "--grace-period", "1"]).ok();
    neighbour();
}

/// How a container ended the last time; back-off may already have begun.
fn ended(cluster: &Cluster, name: &str) -> Value {
    eventually(&format!("misbehave-{name} to end"), || {
        let status = cluster.get("pod", &format!("misbehave-{name}"))["status"]["containerStatuses"][0].clone();
        let states = [&status["state"]["terminated"], &status["lastState"]["terminated"]];
        states.into_iter().find(|state| state.is_object()).cloned()
    })
}

#[test]
fn a_pod_that_fills_the_disk_is_evicted() {
    let cluster = Cluster::start();
    cluster.with("misbehave");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: full}, spec: {containers: [{name: c, image: \
               'misbehave:0.1.0', args: [flood], resources: {limits: {ephemeral-storage: 1Mi, memory: 32Mi}}}]}}";
    cluster.apply(pod).ok();
    let status = eventually("the pod to fail", || {
        let status = cluster.get("pod", "full")["status"].clone();
        (status["phase"] == "Failed").then_some(status)
    });
    assert_eq!(status["reason"], "Evicted", "{status}");
    assert!(status["message"].as_str().unwrap().contains("ephemeral local storage usage exceeds"), "{status}");
}

#[test]
fn a_pod_that_does_not_go_is_ended_when_its_grace_is_over() {
    let cluster = Cluster::start();
    cluster.with("misbehave");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: stays}, spec: {terminationGracePeriodSeconds: 1, \
               containers: [{name: c, image: 'misbehave:0.1.0', args: [wait]}]}}";
    cluster.apply(pod).ok();
    eventually("it to run", || (cluster.get("pod", "stays")["status"]["phase"] == "Running").then_some(()));
    cluster.kogia(&["delete", "pod", "stays"]).ok();
    assert!(cluster.find("pod", "stays").is_none());
}
