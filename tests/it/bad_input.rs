//! Bad input gets Kubernetes' own kind of answer, and nothing else is harmed.

use std::fs;

use crate::harness::{Cluster, Kubectl, eventually};

/// A pod whose image is a file.
fn pod(name: &str, image: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: {image:?}}}]}}}}"
    )
}

#[test]
fn a_manifest_that_is_wrong_is_refused_in_kubernetes_words() {
    let cluster = Cluster::start();
    let cases = [
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicaz: 1, selector: {matchLabels: \
             {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}",
            r#"unknown field "spec.replicaz""#,
        ),
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: many, selector: {matchLabels: \
             {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}",
            "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {selector: {matchLabels: {a: b}}, \
             template: {metadata: {labels: {a: b}}, spec: {containers: [{image: i}]}}}}",
            "spec.template.spec.containers[0].name: Required value",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: Not_A_Name}, spec: {containers: [{name: c, image: i}]}}",
            "metadata.name: Invalid value",
        ),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}", "spec.containers: Required value"),
        ("{apiVersion: v9, kind: Pod, metadata: {name: a}}", "no matches for kind"),
    ];
    for (manifest, expected) in cases {
        let said = cluster.apply(manifest).fails();
        assert!(said.contains(expected), "{manifest}\n→ {said}");
    }
    for kubectl in Kubectl::all() {
        for (manifest, expected) in &cases[..5] {
            // kubectl takes what begins with a brace for JSON.
            let manifest = &format!("---\n{manifest}");
            let said = kubectl.run_with(&cluster, &["create", "-f", "-"], manifest).fails();
            assert!(said.contains(expected), "kubectl {}: {manifest}\n→ {said}", kubectl.version);
        }
    }
    assert_eq!(cluster.kogia(&["get", "deployments", "-o", "name"]).ok(), "");
}

#[test]
fn a_pod_that_cannot_start_says_why_in_a_plain_sentence() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    let file = |name: &str, bytes: &[u8]| {
        let path = cluster.scratch().join(name);
        fs::write(&path, bytes).unwrap();
        format!("file://{}", path.display())
    };
    let needy = wat::parse_str(r#"(component (import "acme:database/sql@1.2.0" (instance (export "query" (func)))))"#);
    let cases = [
        ("absent", "no-such-image:1".to_owned(), "no-such-image"),
        ("nowhere", "file:///no/such/file.wasm".to_owned(), "/no/such/file.wasm"),
        ("text", file("text.wasm", b"this is not WebAssembly"), "not WebAssembly"),
        ("needy", file("needy.wasm", &needy.unwrap()), "acme:database/sql@1.2.0"),
        ("module", file("module.wasm", &wat::parse_str("(module)").unwrap()), "component"),
    ];
    for (name, image, _) in &cases {
        cluster.apply(&pod(name, image)).ok();
    }
    for (name, _, expected) in &cases {
        let waiting = eventually(&format!("{name} to say why it waits"), || {
            let pod = cluster.get("pod", name);
            let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
            waiting["message"].as_str().is_some_and(|message| message.contains(expected)).then_some(waiting)
        });
        assert!(waiting["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{waiting}");
        let told = eventually(&format!("an event about {name}"), || {
            let described = cluster.kogia(&["describe", "pod", name]).ok();
            let (_, events) = described.split_once("\nEvents:")?;
            events.contains(expected).then(|| events.to_owned())
        });
        assert!(told.contains("Warning"), "{told}");
    }
    assert_eq!(cluster.fetch("hello.localhost", "/").unwrap().0, 200);
}

#[test]
fn a_missing_key_of_a_configmap_is_named() {
    let cluster = Cluster::start();
    cluster.with("batch-job");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: 'batch-job:0.1.0', \
               env: [{name: X, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}]}]}}";
    cluster.apply(pod).ok();
    let waiting = || cluster.get("pod", "a")["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    eventually("the ConfigMap to be missed", || (waiting()["reason"] == "CreateContainerConfigError").then_some(()));
    assert!(waiting()["message"].as_str().unwrap().contains("settings"), "{}", waiting());
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {colour: red}}").ok();
    eventually("it to run after all", || {
        let status = cluster.get("pod", "a")["status"]["containerStatuses"][0].clone();
        (status["restartCount"].as_i64() > Some(0) || status["state"]["terminated"]["exitCode"] == 0).then_some(())
    });
}
