//! `kubectl debug`: a container that comes later to look into a running pod, with every kubectl.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{Cluster, Kubectl, eventually, run_with_input};

const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: hello-http:0.1.0
    volumeMounts: [{name: data, mountPath: /data}]
  - name: box
    image: toolbox
    command: [sleep, infinity]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
";

fn guest(cluster: &Cluster, name: &str) -> Option<Value> {
    let pod = cluster.find("pod", "web")?;
    let guests = pod["status"]["ephemeralContainerStatuses"].as_array()?.clone();
    guests.into_iter().find(|status| status["name"] == name)
}

#[test]
fn every_kubectl_looks_into_a_running_pod() {
    let all = Kubectl::all();
    if all.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.with("hello-http");
    cluster.apply(WEB).ok();
    eventually("the pod to be ready", || {
        let statuses = cluster.find("pod", "web")?["status"]["containerStatuses"].as_array()?.clone();
        statuses.iter().all(|status| status["ready"] == true).then_some(())
    });
    all[0].run(&cluster, &["exec", "web", "-c", "box", "--", "touch", "/data/kept"]).ok();
    for (turn, kubectl) in all.iter().enumerate() {
        let version = &kubectl.version;
        let debug = |name: &str, flags: &[&str], command: &[&str]| {
            let name = format!("{name}-{turn}");
            let args = [&["debug", "web", "--image=toolbox", "-c", &name], flags, &["--"], command].concat();
            kubectl.command(&cluster, &args)
        };
        // It is in the pod's network: the neighbour answers on the pod's own loopback.
        let asked = run_with_input(&mut debug("ask", &["-i"], &["wget", "-qO-", "http://localhost:8080/"]), "").ok();
        assert!(asked.contains("hello, world"), "{version}: {asked}");
        // A person may talk to it.
        let heard = run_with_input(&mut debug("talk", &["-i"], &["head", "-n", "1"]), "hello there\n").ok();
        assert!(heard.contains("hello there"), "{version}: {heard}");
        // It sees what its target sees, and without one nothing of the volumes.
        let seen = run_with_input(&mut debug("see", &["-i", "--target=box"], &["ls", "/data"]), "").ok();
        assert!(seen.contains("kept"), "{version}: {seen}");
        let blind = format!("blind-{turn}");
        run_with_input(&mut debug("blind", &["-i"], &["ls", "/data"]), "");
        let ended = eventually("the guest to end", || {
            let ended = guest(&cluster, &blind)?["state"]["terminated"].clone();
            ended.is_object().then_some(ended)
        });
        assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(1), &json!("Error")), "{version}");
        let logs = kubectl.run(&cluster, &["logs", "web", "-c", &blind]).ok();
        assert!(logs.contains("No such file or directory"), "{version}: {logs}");
        let status = guest(&cluster, &format!("ask-{turn}")).unwrap();
        assert_eq!((&status["restartCount"], &status["ready"]), (&json!(0), &json!(false)), "{version}");

        // Without a command it is a prompt.
        let prompt = format!("prompt-{turn}");
        let args = ["debug", "web", "--image=toolbox", "-c", &prompt, "-it", "--target=box"];
        let mut command = kubectl.command(&cluster, &args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut mouth = child.stdin.take().unwrap();
        mouth.write_all(b"ls /data\nexit\n").unwrap();
        let said = child.wait_with_output().unwrap();
        drop(mouth);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("toolbox> ") && said.contains("kept"), "{version}: {said}");
    }
    let pod = cluster.get("pod", "web");
    let ready = pod["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!((&pod["status"]["phase"], &ready["status"]), (&json!("Running"), &json!("True")));
}

#[test]
fn ephemeral_containers_come_and_stay_as_they_are() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let cluster = Cluster::start();
    let spec = "{containers: [{name: main, image: toolbox, command: [sleep, infinity]}]}";
    cluster.apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, spec: {spec}}}")).ok();
    // A pod that runs is written by nobody else.
    eventually("the pod to run", || (cluster.find("pod", "web")?["status"]["phase"] == "Running").then_some(()));
    let change = |change: &dyn Fn(&mut Value)| {
        let mut pod = cluster.get("pod", "web");
        change(&mut pod["spec"]["ephemeralContainers"]);
        let args = ["replace", "--raw", "/api/v1/namespaces/default/pods/web/ephemeralcontainers", "-f", "-"];
        run_with_input(&mut kubectl.command(&cluster, &args), &pod.to_string())
    };
    // One without an image is the toolbox.
    let come = change(&|guests| *guests = json!([{"name": "look", "command": ["echo", "hello"]}])).ok();
    assert!(come.contains("\"image\":\"toolbox\""), "{come}");
    let ended = eventually("the guest to end", || {
        let ended = guest(&cluster, "look")?["state"]["terminated"].clone();
        ended.is_object().then_some(ended)
    });
    assert_eq!(ended["exitCode"], 0);
    assert_eq!(kubectl.run(&cluster, &["logs", "web", "-c", "look"]).ok(), "hello\n");
    let removed = change(&|guests| *guests = json!([])).fails();
    assert!(removed.contains("existing ephemeral containers \"look\" may not be removed"), "{removed}");
    let changed = change(&|guests| guests[0]["args"] = json!(["world"])).fails();
    assert!(changed.contains("existing ephemeral containers \"look\" may not be changed"), "{changed}");
    let served = json!({"name": "serve", "ports": [{"containerPort": 80}]});
    let served = change(&|guests| guests.as_array_mut().unwrap().push(served.clone())).fails();
    let why = "spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral Container";
    assert!(served.contains(why), "{served}");
    let patch = json!([{"op": "add", "path": "/spec/ephemeralContainers/-", "value": {"name": "more"}}]).to_string();
    let refused = kubectl.run(&cluster, &["patch", "pod", "web", "--type=json", "-p", &patch]).fails();
    assert!(refused.contains("pod updates may not change fields other than"), "{refused}");
}
