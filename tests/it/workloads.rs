//! Objects that depend on each other: owners, finalizers, namespaces, services that follow their pods.

use serde_json::Value;

use crate::harness::{Cluster, Kubectl, eventually};

#[test]
fn a_rolling_update_loses_no_request() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    cluster.fetch_ok("hello.localhost", "/");
    let Some(kubectl) = Kubectl::newest() else { return };
    kubectl.run(&cluster, &["rollout", "restart", "deployment/hello"]).ok();
    let mut answers = 0;
    eventually("the rollout to end", || {
        let answer = cluster.fetch("hello.localhost", "/").expect("an answer");
        assert_eq!(answer, (200, "hello, world\n".into()), "after {answers} answers");
        answers += 1;
        if answers % 20 != 0 {
            return None;
        }
        let status = cluster.get("deployment", "hello")["status"].clone();
        (status["observedGeneration"] == 2 && status["updatedReplicas"] == 3 && status["replicas"] == 3).then_some(())
    });
}

#[test]
fn endpoints_follow_the_pods() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    let ready = || {
        let slices: Value = serde_json::from_str(
            &cluster.kogia(&["get", "endpointslices", "-l", "kubernetes.io/service-name=hello", "-o", "json"]).ok(),
        )
        .unwrap();
        let endpoints = slices["items"][0]["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.iter().filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
    };
    eventually("three endpoints", || (ready() == 3).then_some(()));
    cluster.kogia(&["scale", "deployment/hello", "--replicas", "1"]).ok();
    eventually("one endpoint", || (ready() == 1).then_some(()));
    cluster.kogia(&["scale", "deployment/hello", "--replicas", "0"]).ok();
    eventually("a 503 with nobody there", || {
        cluster.fetch("hello.localhost", "/").filter(|(status, _)| *status == 503)
    });
}

#[test]
fn a_finalizer_holds_and_owners_take_their_own_along() {
    let cluster = Cluster::start();
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: held, finalizers: [example.com/hold]}}").ok();
    let uid = cluster.get("configmap", "held")["metadata"]["uid"].as_str().unwrap().to_owned();
    let owned = format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: owned, ownerReferences: \
         [{{apiVersion: v1, kind: ConfigMap, name: held, uid: {uid}}}]}}}}"
    );
    cluster.apply(&owned).ok();
    cluster.kogia(&["delete", "configmap/held", "--no-wait"]).ok();
    assert!(cluster.get("configmap", "held")["metadata"]["deletionTimestamp"].is_string());
    cluster.get("secret", "owned");
    let Some(kubectl) = Kubectl::newest() else { return };
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    kubectl.run(&cluster, &["patch", "configmap", "held", "--type=merge", "-p", patch]).ok();
    eventually("the owned object to be collected", || cluster.find("secret", "owned").is_none().then_some(()));
    assert!(cluster.find("configmap", "held").is_none());
}

#[test]
fn a_namespace_goes_with_everything_in_it() {
    let cluster = Cluster::start();
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").ok();
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: team}}").ok();
    eventually("the namespace's own objects", || {
        let names = cluster.kogia(&["get", "configmaps,serviceaccounts", "-n", "team", "-o", "name"]).ok();
        (names.contains("configmap/kube-root-ca.crt") && names.contains("serviceaccount/default")).then_some(())
    });
    cluster.kogia(&["delete", "namespace", "team"]).ok();
    assert_eq!(cluster.kogia(&["get", "configmaps", "-n", "team", "-o", "name"]).ok(), "");
    let refused = cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: team}}").fails();
    assert!(refused.contains(r#"namespaces "team" not found"#), "{refused}");
}

#[test]
fn patches_of_all_kinds_change_what_they_say() {
    let cluster = Cluster::start();
    let Some(kubectl) = Kubectl::newest() else { return };
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: '1', y: '2'}}").ok();
    for (kind, patch) in [
        ("merge", r#"{"data":{"x":null}}"#),
        ("json", r#"[{"op":"test","path":"/data/y","value":"2"},{"op":"add","path":"/data/z","value":"3"}]"#),
        ("strategic", r#"{"data":{"w":"4"}}"#),
    ] {
        kubectl.run(&cluster, &["patch", "configmap", "a", "--type", kind, "-p", patch]).ok();
    }
    assert_eq!(cluster.get("configmap", "a")["data"], serde_json::json!({"y": "2", "z": "3", "w": "4"}));
    let stale = r#"[{"op":"test","path":"/data/y","value":"9"}]"#;
    kubectl.run(&cluster, &["patch", "configmap", "a", "--type", "json", "-p", stale]).fails();
}
