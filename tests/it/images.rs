//! Images on their way: built, pushed, pulled, refused. One cluster's registry is the other's remote one.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Cluster, eventually, guests, root, run};
#[cfg(target_os = "linux")]
use crate::store_damage::SmallDisk;

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

/// A component with megabytes that mean nothing, different for each number: a custom section at its end.
#[cfg(target_os = "linux")]
fn padded(wasm: &[u8], number: u8) -> Vec<u8> {
    let mut padded = wasm.to_vec();
    // Its id, the length that follows (4,194,304, in LEB128), and a name of no letters.
    padded.extend([0, 0x80, 0x80, 0x80, 0x02, 0]);
    padded.extend((1..4_194_304_u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ number));
    padded
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_images_that_nobody_uses() {
    let Some(disk) = SmallDisk::new(23) else {
        eprintln!("no file system can be mounted here (root is needed): this test shows nothing");
        return;
    };
    let (home, mut away) = (Cluster::start(), Cluster::start());
    build(&home);
    let wasm = std::fs::read(guests().join("wasm32-wasip2/release/batch-job.wasm")).unwrap();
    for number in 1..=5 {
        let file = home.scratch().join("padded.wasm");
        std::fs::write(&file, padded(&wasm, number)).unwrap();
        run(home.command(&["build"]).arg(&file).args(["--tag", &format!("padded:{number}")])).ok();
    }
    let images = away.data_dir().join("images");
    away.kill();
    std::fs::remove_dir_all(&images).unwrap();
    std::os::unix::fs::symlink(disk.path(), &images).unwrap();
    away.up();

    let image = |number: u8| format!("{}/padded:{number}", registry(&home));
    let runs = |away: &Cluster, number: u8| {
        let name = format!("padded-{number}");
        away.apply(&pod(&name, &image(number), "IfNotPresent")).ok();
        succeeds(away, &name);
    };
    let goes = |away: &Cluster, number: u8| {
        away.kogia(&["delete", "pod", &format!("padded-{number}")]).ok();
        let gone = || away.find("pod", &format!("padded-{number}")).is_none().then_some(());
        eventually("the pod to be gone", gone);
    };
    (1..=4).for_each(|number| runs(&away, number));
    (2..=4).for_each(|number| goes(&away, number));
    // All of it an hour ago, at the same moment.
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for folder in ["blobs/sha256", "used"] {
        for entry in std::fs::read_dir(images.join(folder)).unwrap() {
            let file = std::fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
            file.set_modified(hour_ago).unwrap();
        }
    }
    let there = |away: &Cluster| {
        let listed = away.kogia(&["images"]).ok();
        (1..=5).filter(|number| listed.contains(&image(*number))).collect::<Vec<u8>>()
    };
    assert_eq!(there(&away), [1, 2, 3, 4]);
    runs(&away, 5);
    // One is enough: the first that nobody uses.
    eventually("room on the disk", || (there(&away) == [1, 3, 4, 5]).then_some(()));

    // What is not an image cannot be removed, and what was just used is not.
    std::fs::write(disk.path().join("ballast"), vec![7; 4_000_000]).unwrap();
    goes(&away, 1);
    [1, 3, 4].into_iter().for_each(|number| runs(&away, number));
    away.kill();
    away.up();
    let said = eventually("the node to say that its disk is full", || {
        let events = away.kogia(&["get", "events", "-o", "json"]).ok();
        let events: Value = serde_json::from_str(&events).unwrap();
        let about = |event: &&Value| event["reason"] == "FreeDiskSpaceFailed";
        events["items"].as_array().unwrap().iter().find(about).cloned()
    });
    assert_eq!((&said["involvedObject"]["kind"], &said["type"]), (&Value::from("Node"), &Value::from("Warning")));
    assert!(
        said["message"].as_str().unwrap().starts_with("Failed to garbage collect required amount of images."),
        "{said}"
    );
}
