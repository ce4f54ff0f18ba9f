//! Images on their way: built, pushed, pulled, refused. One cluster's registry is the other's remote one.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Cluster, eventually, guests, root, run};

/// Builds the batch-job example on a cluster, as a user would: `batch-job:0.1.0`.
fn build(cluster: &Cluster) {
    let mut command = cluster.command(&["build"]);
    command.arg(root().join("examples/batch-job"));
    command.env("CARGO_TARGET_DIR", guests()).env("HOME", std::env::var_os("HOME").unwrap_or_default());
    let said = run(&mut command).ok();
    assert!(said.contains("image/batch-job:0.1.0 stored"), "{said}");
}

/// `localhost:PORT` of a cluster's registry.
fn registry(cluster: &Cluster) -> String {
    let running: Value = serde_json::from_slice(&std::fs::read(cluster.data_dir().join("run.json")).unwrap()).unwrap();
    let (_, port) = running["registry"].as_str().unwrap().rsplit_once(':').unwrap();
    format!("localhost:{port}")
}

fn pod(name: &str, image: &str, policy: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: \
         [{{name: c, image: '{image}', imagePullPolicy: {policy}}}]}}}}"
    )
}

fn succeeds(cluster: &Cluster, name: &str) -> Value {
    eventually(&format!("pod {name} to succeed"), || {
        cluster.find("pod", name).filter(|pod| pod["status"]["phase"] == "Succeeded")
    })
}

/// The reason and sentence of a pod that waits for its image.
fn waits(cluster: &Cluster, name: &str, reasons: &[&str]) -> String {
    eventually(&format!("pod {name} to wait for its image"), || {
        let pod = cluster.find("pod", name)?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let fits = reasons.iter().any(|reason| waiting["reason"] == *reason);
        fits.then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    })
}

fn events(cluster: &Cluster, name: &str) -> String {
    cluster.kogia(&["describe", "pod", name]).ok()
}

#[test]
fn an_image_is_pulled_from_another_clusters_registry() {
    let (home, away) = (Cluster::start(), Cluster::start());
    build(&home);
    let image = format!("{}/batch-job:0.1.0", registry(&home));
    away.apply(&pod("pulled", &image, "IfNotPresent")).ok();
    let ran = succeeds(&away, "pulled");
    let id = ran["status"]["containerStatuses"][0]["imageID"].as_str().unwrap().to_owned();
    assert!(id.starts_with(image.trim_end_matches(":0.1.0")) && id.contains("@sha256:"), "{id}");
    let said = eventually("the events to be written", || {
        Some(events(&away, "pulled")).filter(|said| said.contains("Successfully pulled image"))
    });
    assert!(said.contains(&format!("Pulling image \"{image}\"")), "{said}");
    assert!(away.kogia(&["images"]).ok().contains(&image), "what was pulled is listed");

    // The home is gone: what is here still runs, what must be asked for does not.
    drop(home);
    away.apply(&pod("again", &image, "IfNotPresent")).ok();
    succeeds(&away, "again");
    away.apply(&pod("asks", &image, "Always")).ok();
    let why = waits(&away, "asks", &["ErrImagePull", "ImagePullBackOff"]);
    assert!(!why.is_empty());
    away.apply(&pod("never", "localhost:1/none:1", "Never")).ok();
    let why = waits(&away, "never", &["ErrImageNeverPull"]);
    assert!(why.contains("is not present with pull policy of Never"), "{why}");
}

#[test]
fn what_is_pushed_runs_and_what_is_tampered_with_does_not() {
    let (home, away) = (Cluster::start(), Cluster::start());
    build(&home);
    let pushed = format!("{}/copies/batch:1", registry(&away));
    let said = home.kogia(&["push", "batch-job:0.1.0", &pushed]).ok();
    assert!(said.contains(&format!("pushed to {pushed}")) && said.contains("sha256:"), "{said}");
    // Pushed here, so there is no registry to ask, whatever the policy.
    away.apply(&pod("pushed", &pushed, "Always")).ok();
    succeeds(&away, "pushed");
    assert!(home.kogia(&["push", "batch-job:0.1.0", "localhost:1/none:1"]).fails().contains("refused"));

    let blobs = away.data_dir().join("images/blobs/sha256");
    let largest = std::fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap().path());
    let component = largest.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&component).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&component, bytes).unwrap();
    away.apply(&pod("tampered", &pushed, "IfNotPresent")).ok();
    waits(&away, "tampered", &["ErrImagePull", "ImagePullBackOff"]);
    let said = events(&away, "tampered");
    assert!(said.contains("is damaged"), "{said}");
}

#[test]
fn a_stock_tool_copies_between_registries() {
    let tool = Command::new("skopeo").arg("--version").output();
    if !tool.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "CI needs skopeo on PATH");
        eprintln!("there is no skopeo on PATH: this test shows nothing here");
        return;
    }
    let (home, away) = (Cluster::start(), Cluster::start());
    build(&home);
    let copied = format!("{}/tools/batch:1", registry(&away));
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false"]);
    copy.arg(format!("docker://{}/batch-job:0.1.0", registry(&home))).arg(format!("docker://{copied}"));
    run(&mut copy).ok();
    away.apply(&pod("copied", &copied, "IfNotPresent")).ok();
    succeeds(&away, "copied");
    let mut tags = Command::new("skopeo");
    tags.args(["list-tags", "--tls-verify=false"]).arg(format!("docker://{}/tools/batch", registry(&away)));
    assert!(run(&mut tags).ok().contains("\"1\""));
}
