//! Joining from another machine, here another directory: who may, who may not, and that a node needs its token once.

use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Kubectl, eventually, run, run_with_input};
use crate::machines::{Machine, is_ready, kogia};

const SERVER: [&str; 13] = [
    "server",
    "--name",
    "first",
    "--bind",
    "127.0.0.1",
    "--api-port",
    "0",
    "--peer-port",
    "0",
    "--http-port",
    "0",
    "--https-port",
    "0",
];

/// A founding server, and where it is joined.
fn found(dir: &TempDir) -> (Machine, String) {
    let first = Machine::start(&dir.path().join("first"), &SERVER);
    let api = first.running().unwrap()["api"].as_str().unwrap().to_owned();
    (first, api)
}

#[test]
fn a_token_opens_the_door_it_is_for() {
    let dir = tempfile::Builder::new().prefix("kogia-join-").tempdir().unwrap();
    let (first, api) = found(&dir);
    let token = first.kogia(&["token", "create", "--description", "a test"]).ok().trim().to_owned();
    let agent = |name: &str, token: &str| {
        let folder = dir.path().join(name);
        run(&mut kogia(&folder, &["agent", "--join", &api, "--name", name, "--token", token]))
    };
    let with = |part: usize, text: &str| {
        let mut parts: Vec<&str> = token.split('.').collect();
        parts[part] = text;
        parts.join(".")
    };
    // Refusals end the process and say why.
    let other = agent("other", &with(2, &"0".repeat(64))).fails();
    assert!(other.contains("not a server of the cluster") && other.contains("nothing was said"), "{other}");
    assert!(agent("wrong", &with(1, "0000000000000000")).fails().contains("unknown or over"));
    assert!(agent("malformed", "abc").fails().contains("ID.SECRET.HASH"));
    assert!(run(&mut kogia(&dir.path().join("none"), &["agent"])).fails().contains("--join"));
    let member = ["server", "--join", &api, "--token", &token, "--name", "second", "--bind", "127.0.0.1"];
    let ports = ["--api-port", "0", "--peer-port", "0", "--http-port", "0", "--https-port", "0"];
    let refused = run(&mut kogia(&dir.path().join("second"), &[&member[..], &ports].concat())).fails();
    assert!(refused.contains("--member"), "a node's token does not give the keys away: {refused}");
    assert!(!dir.path().join("second/pki/ca.key").exists());

    let mut worker =
        Machine::start(&dir.path().join("worker"), &["agent", "--join", &api, "--name", "worker", "--token", &token]);
    eventually("the node to be ready", || is_ready(&first, "worker").filter(|ready| *ready));
    let twin = agent("worker", &token);
    assert!(twin.code != Some(0), "its directory is in use");
    let folder = dir.path().join("impostor");
    let twin = run(&mut kogia(&folder, &["agent", "--join", &api, "--name", "worker", "--token", &token])).fails();
    assert!(twin.contains("alive") && twin.contains("--name"), "{twin}");

    let listed = first.kogia(&["token", "list"]).ok();
    assert!(listed.contains("a test") && !listed.contains(token.split('.').nth(1).unwrap()), "{listed}");
    first.kogia(&["token", "delete", &token]).ok();
    assert!(agent("late", &token).fails().contains("unknown or over"));

    // Its certificate is all it needs from then on.
    worker.kill();
    eventually("the node to be lost", || is_ready(&first, "worker").filter(|ready| !ready));
    worker.again(&["agent"]);
    eventually("the node to be back", || is_ready(&first, "worker").filter(|ready| *ready));

    // Its pods find their token, and the API, which is on another machine.
    let command = "[nc, -z, kubernetes.default, '443']";
    let container = format!("{{name: main, image: toolbox, command: {command}}}");
    let spec = format!("{{nodeName: worker, restartPolicy: Never, containers: [{container}]}}");
    let pod = format!("{{apiVersion: v1, kind: Pod, metadata: {{name: far}}, spec: {spec}}}");
    run_with_input(&mut kogia(&dir.path().join("first"), &["apply", "-f", "-"]), &pod).ok();
    eventually("the pod to have reached the API", || {
        let far: Value = serde_json::from_str(&first.kogia(&["get", "pod", "far", "-o", "json"]).out).ok()?;
        assert_ne!(far["status"]["phase"], "Failed", "{far}");
        (far["status"]["phase"] == "Succeeded").then_some(())
    });
}

#[test]
fn machine_code_comes_from_members_and_from_nobody_else() {
    if Kubectl::newest().is_none() {
        return;
    }
    let dir = tempfile::Builder::new().prefix("kogia-join-").tempdir().unwrap();
    let (first, api) = found(&dir);
    let token = first.kogia(&["token", "create"]).ok().trim().to_owned();
    let join = |name: &str| {
        let agent = ["agent", "--join", &api, "--name", name, "--token", &token];
        let machine = Machine::start(&dir.path().join(name), &agent);
        eventually("the node to be ready", || is_ready(&first, name).filter(|ready| *ready));
        machine
    };
    // Every machine has images and code of its own. The toolbox is a component like any other.
    let run_on = |node: &str| {
        let container = "{name: main, image: toolbox, command: ['true']}";
        let spec = format!("{{nodeName: {node}, restartPolicy: Never, containers: [{container}]}}");
        let pod = format!("{{apiVersion: v1, kind: Pod, metadata: {{name: on-{node}}}, spec: {spec}}}");
        run_with_input(&mut kogia(&first.folder, &["apply", "-f", "-"]), &pod).ok();
        eventually("the pod to end well", || {
            let read = first.kogia(&["get", "pod", &format!("on-{node}"), "-o", "json"]);
            let pod: Value = serde_json::from_str(&read.out).ok()?;
            assert_ne!(pod["status"]["phase"], "Failed", "{pod}");
            (pod["status"]["phase"] == "Succeeded").then_some(())
        });
        let mut kubectl = Command::new("kubectl");
        kubectl.env("KUBECONFIG", first.folder.join("kubeconfig")).env("HOME", dir.path());
        let metrics = run(kubectl.args(["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")])).ok();
        ["compiler", "member"].map(|from| {
            let line = format!("kogia_components_total{{from=\"{from}\"}} ");
            let count = metrics.lines().find_map(|found| found.strip_prefix(&line));
            count.unwrap_or_else(|| panic!("{metrics}")).to_owned()
        })
    };
    let _workers = (join("early"), join("late"));
    assert_eq!(run_on("early"), ["1", "0"], "nobody has it yet");
    assert_eq!(run_on("first"), ["1", "0"], "what a worker made is not taken");
    assert_eq!(run_on("late"), ["0", "1"], "what a member made is");
}

#[test]
fn a_node_renews_its_certificate_while_it_runs() {
    let dir = tempfile::Builder::new().prefix("kogia-join-").tempdir().unwrap();
    let (first, api) = found(&dir);
    let token = first.kogia(&["token", "create"]).ok().trim().to_owned();
    let folder = dir.path().join("worker");
    let mut worker = Machine::start(&folder, &["agent", "--join", &api, "--name", "worker", "--token", &token]);
    eventually("the node to be ready", || is_ready(&first, "worker").filter(|ready| *ready));
    first.kogia(&["token", "delete", &token]).ok();
    worker.kill();
    // Two thirds of its certificate's week are over.
    let file = folder.join("node.json");
    let mut known: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    known["issued_ms"] = (known["issued_ms"].as_i64().unwrap() - 5 * 24 * 3_600_000).into();
    std::fs::write(&file, known.to_string()).unwrap();
    let certificate = || std::fs::read_to_string(folder.join("pki/node.crt")).unwrap();
    let before = certificate();
    worker.again(&["agent"]);
    eventually("the node to have another certificate", || (certificate() != before).then_some(()));
    eventually("other nodes to be shown it", || {
        worker.output().contains("other nodes are shown a new certificate").then_some(())
    });
    eventually("the node to be back", || is_ready(&first, "worker").filter(|ready| *ready));
    eventually("the member to reach it by a connection with the new certificate", || {
        let offered = first.output().matches("the node can be reached").count();
        (offered >= 3).then_some(())
    });
}

#[test]
fn a_member_joins_and_survives_its_founder_leaving_in_order() {
    let dir = tempfile::Builder::new().prefix("kogia-join-").tempdir().unwrap();
    let (mut first, api) = found(&dir);
    let token = first.kogia(&["token", "create", "--member"]).ok().trim().to_owned();
    let join = |name: &str| {
        let arguments = [
            "server",
            "--join",
            &api,
            "--token",
            &token,
            "--name",
            name,
            "--bind",
            "127.0.0.1",
            "--api-port",
            "0",
            "--peer-port",
            "0",
            "--http-port",
            "0",
            "--https-port",
            "0",
        ];
        Machine::start(&dir.path().join(name), &arguments)
    };
    let (second, third) = (join("second"), join("third"));
    let voters =
        |through: &Machine| Some(through.members()?.iter().filter(|member| member["role"] != "learner").count());
    for machine in [&first, &second, &third] {
        eventually("three voters", || (voters(machine)? == 3).then_some(()));
    }
    // The founder is nothing special.
    assert!(second.kogia(&["members", "remove", "first"]).ok().contains("no member any more"));
    first.kill();
    eventually("the others to lead", || third.members()?.iter().find(|member| member["role"] == "leader").cloned());
    eventually("two members", || (third.members()?.len() == 2).then_some(()));
    // The port it listened on is free, so nobody speaks for it.
    let peer = TcpListener::bind(&*api);
    assert!(peer.is_ok(), "{peer:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_machine_that_is_cut_off_is_lost_and_comes_back() {
    let Some(networks) = crate::store::Networks::new('j') else {
        eprintln!("network namespaces cannot be made here (root and iproute2 are needed): this test shows nothing");
        return;
    };
    let dir = tempfile::Builder::new().prefix("kogia-cut-").tempdir().unwrap();
    let names = ["m1", "m2", "m3"];
    let start = |number: usize, join: &[&str]| {
        let address = format!("10.99.0.{}", number + 1);
        let own = ["server", "--name", names[number], "--bind", &address, "--peer-port", "7000"];
        let folder = dir.path().join(names[number]);
        Machine::start_inside(&folder, &[&own[..], join].concat(), networks.inside(number))
    };
    let first = start(0, &[]);
    let token = first.kogia(&["token", "create", "--member"]).ok().trim().to_owned();
    let join = ["--join", "10.99.0.1:6443", "--token", &token];
    let machines = [first, start(1, &join), start(2, &join)];
    let leader = |through: usize| {
        let leader = machines[through].members()?.into_iter().find(|member| member["role"] == "leader")?;
        names.iter().position(|name| leader["name"] == *name)
    };
    eventually("three voters", || {
        (machines[0].members()?.iter().filter(|member| member["role"] != "learner").count() == 3).then_some(())
    });
    for name in names {
        eventually("the nodes to be ready", || is_ready(&machines[0], name).filter(|ready| *ready));
    }
    for round in 0..2 {
        let alone = eventually("a leader", || leader(0));
        networks.set(alone, "down");
        let next = (alone + 1) % 3;
        eventually("the others to elect", || leader(next).filter(|leader| *leader != alone));
        eventually("the node that is cut off to be lost", || is_ready(&machines[next], names[alone]).filter(|r| !r));
        let name = format!("written-{round}");
        let manifest = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}");
        eventually("a write", || {
            let ran = run_with_input(&mut machines[next].command(&["apply", "-f", "-"]), &manifest);
            (ran.code == Some(0)).then_some(())
        });
        networks.set(alone, "up");
        eventually("the node to be back", || is_ready(&machines[next], names[alone]).filter(|ready| *ready));
        eventually("the member to have caught up", || {
            (machines[alone].kogia(&["get", "configmap", &name]).code == Some(0)).then_some(())
        });
    }
}
