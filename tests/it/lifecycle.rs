//! What a pod has done around its containers' lives: hooks after the start and before the end.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Cluster, Kubectl, eventually};

/// A pod of the toolbox with these hooks; it would stay for ever.
fn hooked(name: &str, policy: &str, lifecycle: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: {policy}, containers: [\
         {{name: main, image: toolbox, command: [sleep, infinity], lifecycle: {lifecycle}, \
         volumeMounts: [{{name: data, mountPath: /data}}]}}], volumes: [{{name: data, emptyDir: {{}}}}]}}}}"
    )
}

fn state(cluster: &Cluster, pod: &str) -> Option<Value> {
    Some(cluster.find("pod", pod)?["status"]["containerStatuses"][0]["state"].clone())
}

/// Waits for an Event about a pod and returns its message.
fn told(cluster: &Cluster, pod: &str, reason: &str) -> String {
    eventually(&format!("the event {reason} of {pod}"), || {
        let events: Value = serde_json::from_str(&cluster.kogia(&["get", "events", "-o", "json"]).out).ok()?;
        let about = |event: &&Value| event["involvedObject"]["name"] == pod && event["reason"] == reason;
        Some(events["items"].as_array()?.iter().find(about)?["message"].as_str()?.to_owned())
    })
}

#[test]
fn a_container_runs_once_its_first_hook_is_over() {
    let cluster = Cluster::start();
    cluster.apply(&hooked("good", "Always", "{postStart: {exec: {command: [touch, /data/started]}}}")).ok();
    eventually("the container to run", || state(&cluster, "good")?["running"].is_object().then_some(()));
    if let Some(kubectl) = Kubectl::newest() {
        kubectl.run(&cluster, &["exec", "good", "--", "test", "-e", "/data/started"]).ok();
    }
    // One whose hook fails is ended, and what follows is the restart policy's.
    cluster.apply(&hooked("bad", "Never", "{postStart: {exec: {command: [cat, /no/such]}}}")).ok();
    eventually("the pod to fail", || (cluster.find("pod", "bad")?["status"]["phase"] == "Failed").then_some(()));
    assert_eq!(told(&cluster, "bad", "FailedPostStartHook"), "PostStartHook failed");
    assert_eq!(told(&cluster, "bad", "Killing"), "FailedPostStartHook");
    cluster.apply(&hooked("again", "Always", "{postStart: {tcpSocket: {port: 80}}}")).ok();
    eventually("the container to be started again", || {
        let status = cluster.find("pod", "again")?["status"]["containerStatuses"][0].clone();
        (status["restartCount"].as_i64()? > 0 && status["lastState"]["terminated"].is_object()).then_some(())
    });
}

#[test]
fn a_container_runs_on_until_its_last_hook_is_over() {
    let cluster = Cluster::start();
    cluster.apply(&hooked("slow", "Always", "{preStop: {sleep: {seconds: 3}}}")).ok();
    cluster.apply(&hooked("bad", "Always", "{preStop: {exec: {command: [cat, /no/such]}}}")).ok();
    for pod in ["slow", "bad"] {
        eventually("the container to run", || state(&cluster, pod)?["running"].is_object().then_some(()));
    }
    let asked = Instant::now();
    cluster.kogia(&["delete", "pod/slow", "--no-wait"]).ok();
    let going = cluster.get("pod", "slow");
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    if let Some(kubectl) = Kubectl::newest() {
        // It is on its way, and does its work.
        assert_eq!(kubectl.run(&cluster, &["exec", "slow", "--", "echo", "still", "here"]).ok(), "still here\n");
    }
    eventually("the pod to go", || cluster.find("pod", "slow").is_none().then_some(()));
    assert!(asked.elapsed() >= Duration::from_secs(3), "gone after {:?}", asked.elapsed());
    cluster.kogia(&["delete", "pod/bad"]).ok();
    assert_eq!(told(&cluster, "bad", "FailedPreStopHook"), "PreStopHook failed");
    // Whoever has no time has none for a hook.
    cluster.apply(&hooked("forced", "Always", "{preStop: {sleep: {seconds: 30}}}")).ok();
    eventually("the container to run", || state(&cluster, "forced")?["running"].is_object().then_some(()));
    let asked = Instant::now();
    let Some(kubectl) = Kubectl::newest() else { return };
    kubectl.run(&cluster, &["delete", "pod", "forced", "--force", "--grace-period=0"]).ok();
    eventually("the pod to go", || cluster.find("pod", "forced").is_none().then_some(()));
    assert!(asked.elapsed() < Duration::from_secs(30), "gone after {:?}", asked.elapsed());
}
