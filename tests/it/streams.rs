//! Every conversation of kubectl with a running pod, through every encoding kubectl has had: SPDY (1.27) and WebSocket
//! (1.30 and newer).

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::harness::{Cluster, Following, Kubectl, eventually, run_with_input};

/// A pod of the toolbox: it stays, has a volume, and can be talked to.
const BOX: &str = "
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: toolbox
    command: [sleep, infinity]
    env: [{name: GREETING, value: hello}]
    resources: {limits: {memory: 64Mi}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
";

fn running(cluster: &Cluster, pod: &str) {
    eventually(&format!("pod {pod} to run"), || {
        let found = cluster.find("pod", pod)?;
        let statuses = found["status"]["containerStatuses"].as_array()?;
        statuses.iter().all(|status| status["state"]["running"].is_object()).then_some(())
    });
}

#[test]
fn every_kubectl_runs_commands_in_pods() {
    let all = Kubectl::all();
    if all.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.apply(BOX).ok();
    cluster.with("hello-http");
    running(&cluster, "box");
    for kubectl in &all {
        let version = &kubectl.version;
        let exec = |args: &[&str]| kubectl.run(&cluster, &[&["exec"], args].concat());
        assert_eq!(exec(&["box", "--", "echo", "hello", "world"]).ok(), "hello world\n", "{version}");
        assert_eq!(exec(&["box", "-c", "main", "--", "printenv", "GREETING"]).ok(), "hello\n", "{version}");
        assert_eq!(
            exec(&["deployment/hello", "--", "wget", "-qO-", "http://hello/"]).ok(),
            "hello, world\n",
            "{version}"
        );
        assert_eq!(exec(&["box", "--", "ls", "/"]).ok(), "data\netc\nvar\n", "{version}");

        // Stdin reaches the program, and so does its end; both directions carry more than any buffer holds.
        let input = "0123456789abcde\n".repeat(40_000);
        let echoed = run_with_input(&mut kubectl.command(&cluster, &["exec", "-i", "box", "--", "cat"]), &input).ok();
        assert!(echoed == input, "{version}: {} bytes of {}", echoed.len(), input.len());
        let mut tee = kubectl.command(&cluster, &["exec", "-i", "box", "--", "tee", "/data/kept"]);
        assert_eq!(run_with_input(&mut tee, "kept").ok(), "kept", "{version}");
        assert_eq!(exec(&["box", "--", "cat", "/data/kept"]).ok(), "kept", "{version}");

        // Exit codes and stderr are the program's.
        let failed = exec(&["box", "--", "cat", "/no/such"]);
        assert_eq!((failed.code, failed.out.as_str()), (Some(1), ""), "{version}");
        assert!(failed.err.contains("cat: /no/such: No such file or directory"), "{version}: {}", failed.err);
        let unknown = exec(&["box", "--", "sh", "-c", "true"]);
        assert_eq!(unknown.code, Some(127), "{version}: {}", unknown.err);
        assert!(unknown.err.contains("executable file not found"), "{version}: {}", unknown.err);
        let refused = exec(&["box", "-c", "ghost", "--", "true"]).fails();
        assert!(refused.contains("container ghost is not valid for pod box"), "{version}: {refused}");
    }
    // A pod's own limits hold what is run in it.
    let greedy = all[0].run(&cluster, &["exec", "box", "--", "tail", "-c", "200000000", "/data/zeros"]);
    assert_eq!(greedy.code, Some(1), "{}", greedy.err);
}

#[test]
fn a_program_is_run_again_by_its_own_name() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let cluster = Cluster::start();
    cluster.with("misbehave");
    let waits = "{name: main, image: 'misbehave:0.1.0', args: [wait]}";
    cluster
        .apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: waits}}, spec: {{containers: [{waits}]}}}}"))
        .ok();
    running(&cluster, "waits");
    let exec = |way: &str| kubectl.run(&cluster, &["exec", "waits", "--", "misbehave", way]);
    let trapped = exec("trap");
    assert_eq!(trapped.code, Some(134), "{}{}", trapped.out, trapped.err);
    assert!(trapped.out == "about to trap\n" && trapped.err.contains("misbehaving as asked"), "{}", trapped.err);
    let confused = exec("politely");
    assert_eq!(confused.code, Some(2), "{}{}", confused.out, confused.err);
    assert!(confused.err.contains("usage: misbehave"), "{}", confused.err);
}

#[test]
fn a_command_says_whether_a_container_is_well() {
    let cluster = Cluster::start();
    let probed = BOX.replace(
        "    env:",
        "    readinessProbe: {exec: {command: [test, -e, /data/ready]}, periodSeconds: 1}\n    env:",
    );
    cluster.apply(&probed).ok();
    running(&cluster, "box");
    let ready = |wanted: bool| {
        let what = format!("the container to be ready: {wanted}");
        eventually(&what, || {
            let found = cluster.get("pod", "box");
            (found["status"]["containerStatuses"][0]["ready"] == wanted).then_some(())
        });
    };
    ready(false);
    let Some(kubectl) = Kubectl::newest() else { return };
    kubectl.run(&cluster, &["exec", "box", "--", "touch", "/data/ready"]).ok();
    ready(true);
    kubectl.run(&cluster, &["exec", "box", "--", "rm", "/data/ready"]).ok();
    ready(false);
}

#[test]
fn every_kubectl_talks_to_a_running_program() {
    let all = Kubectl::all();
    if all.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    for kubectl in &all {
        let version = &kubectl.version;
        let name = format!("talk-{}", version.replace('.', "-"));
        let run = ["run", "-i", "--rm", &name, "--image=toolbox", "--restart=Never", "--command", "--", "tee"];
        let talked = run_with_input(&mut kubectl.command(&cluster, &run), "hello\n").ok();
        assert!(talked.contains("hello\n"), "{version}: {talked}");
        eventually("the pod to be removed", || cluster.find("pod", &name).is_none().then_some(()));

        // Attaching to what runs already shows what it prints from then on.
        let name = format!("ticks-{}", version.replace('.', "-"));
        let container = "{name: main, image: toolbox, command: [tee], stdin: true}";
        let spec = format!("{{terminationGracePeriodSeconds: 1, containers: [{container}]}}");
        cluster.apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {spec}}}")).ok();
        running(&cluster, &name);
        let watching = Following::start(kubectl.command(&cluster, &["attach", &name]));
        // The speaker stays as long as the program does; it repeats itself until the watcher has come.
        let mut speaking = kubectl.command(&cluster, &["attach", "-i", &name]);
        let speaking = speaking.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut speaker = speaking.spawn().unwrap();
        let mut mouth = speaker.stdin.take().unwrap();
        eventually("the watcher to hear the speaker", || {
            mouth.write_all(b"said\n").unwrap();
            watching.has_heard(|line| line == "said").then_some(())
        });
        speaker.kill().unwrap();
        speaker.wait().unwrap();
    }
}

/// A file of that many bytes that no compression or hole makes small.
fn noise(path: &Path, bytes: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..bytes / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    fs::write(path, words.collect::<Vec<u8>>()).unwrap();
}

#[test]
fn every_kubectl_copies_files_both_ways() {
    let all = Kubectl::all();
    if all.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.apply(&BOX.replace("64Mi", "16Mi")).ok();
    running(&cluster, "box");
    let big = cluster.scratch().join("big");
    // The newest copies 100 MB through a container of 16 MiB, the others a tenth of it.
    for (turn, kubectl) in all.iter().enumerate() {
        let version = &kubectl.version;
        noise(&big, if turn == 0 { 100_000_000 } else { 10_000_000 });
        let (there, back) = (format!("box:/data/big-{turn}"), cluster.scratch().join(format!("back-{turn}")));
        kubectl.run(&cluster, &["cp", "--retries=0", big.to_str().unwrap(), &there]).ok();
        kubectl.run(&cluster, &["cp", "--retries=0", &there, back.to_str().unwrap()]).ok();
        assert!(fs::read(&big).unwrap() == fs::read(&back).unwrap(), "{version}: what came back is not what was sent");
        let local =
            run_with_input(&mut kubectl.command(&cluster, &["exec", "-i", "box", "--", "sha256sum"]), "abc").ok();
        assert!(local.starts_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), "{local}");
        kubectl.run(&cluster, &["exec", "box", "--", "rm", &format!("/data/big-{turn}")]).ok();
    }
    let tree = cluster.scratch().join("tree");
    fs::create_dir_all(tree.join("inner")).unwrap();
    fs::write(tree.join("inner/file"), "deep").unwrap();
    all[0].run(&cluster, &["cp", tree.to_str().unwrap(), "box:/data/tree"]).ok();
    assert_eq!(all[0].run(&cluster, &["exec", "box", "--", "cat", "/data/tree/inner/file"]).ok(), "deep");
    let back = cluster.scratch().join("tree-back");
    all[0].run(&cluster, &["cp", "box:/data/tree", back.to_str().unwrap()]).ok();
    assert_eq!(fs::read(back.join("inner/file")).unwrap(), b"deep");
    let refused = all[0].run(&cluster, &["cp", big.to_str().unwrap(), "box:/nowhere/big"]).fails();
    assert!(refused.contains("nowhere"), "{refused}");
}

/// A container that prints what it is told, ends with its teller, and is started again.
const TELLER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: teller}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: toolbox, command: [cat], stdin: true, stdinOnce: true}]
";

#[test]
fn a_follower_sees_every_line_over_rotations_and_restarts() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let cluster = Cluster::start();
    cluster.apply(TELLER).ok();
    running(&cluster, "teller");
    let log = cluster.scratch().join("followed");
    let mut following = kubectl.command(&cluster, &["logs", "-f", "teller"]);
    let mut following =
        following.stdin(Stdio::null()).stdout(fs::File::create(&log).unwrap()).stderr(Stdio::null()).spawn().unwrap();
    let mut attach = kubectl.command(&cluster, &["attach", "-i", "teller"]);
    let mut teller = attach.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut mouth = teller.stdin.take().unwrap();
    // The follower holds the first file before the third begins, which is when the first is removed.
    eventually("the follower to hear", || {
        mouth.write_all(b"first words\n").unwrap();
        (!fs::read(&log).unwrap().is_empty()).then_some(())
    });
    // Two rotations: three files of 10 MiB each, with a time before every line.
    let lines: Vec<String> = (0..160_000).map(|number| format!("{number:0>100}")).collect();
    mouth.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    drop(mouth);
    teller.wait().unwrap();
    eventually("the container to be started again", || {
        let status = cluster.find("pod", "teller")?["status"]["containerStatuses"][0].clone();
        (status["restartCount"] == 1 && status["state"]["running"].is_object()).then_some(())
    });
    // What is kept is bounded: the first file is gone, and what came last is there.
    let kept = kubectl.run(&cluster, &["logs", "teller", "--previous"]).ok();
    let last = lines.last().unwrap();
    assert!(!kept.starts_with("first words") && kept.trim_end().ends_with(last), "{} bytes", kept.len());
    run_with_input(&mut kubectl.command(&cluster, &["attach", "-i", "teller"]), "last words\n").ok();
    let told = eventually("the follower to hear the last words", || {
        let told = fs::read_to_string(&log).unwrap();
        told.ends_with("last words\n").then_some(told)
    });
    following.kill().unwrap();
    following.wait().unwrap();
    let heard: Vec<&str> = told.lines().skip_while(|line| *line == "first words").collect();
    let wrong = heard.iter().zip(&lines).position(|(heard, told)| heard != told);
    assert_eq!((heard.len(), wrong), (lines.len() + 1, None), "lines are lost, doubled or out of order");
}

#[test]
fn every_kubectl_shows_what_pods_use() {
    let all = Kubectl::all();
    if all.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.apply(BOX).ok();
    running(&cluster, "box");
    for kubectl in &all {
        let used = eventually("the pod to be measured", || {
            let ran = kubectl.run(&cluster, &["top", "pods", "--containers", "--no-headers"]);
            ran.out.lines().find(|line| line.starts_with("box")).map(str::to_owned)
        });
        let columns: Vec<&str> = used.split_whitespace().collect();
        assert!(columns[1] == "main" && columns[2].ends_with('m') && columns[3].ends_with("Mi"), "{used}");
        let nodes = kubectl.run(&cluster, &["top", "nodes", "--no-headers"]).ok();
        assert_eq!(nodes.lines().count(), 1, "{nodes}");
    }
    let raw = all[0].run(&cluster, &["get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/box"]).ok();
    let raw: serde_json::Value = serde_json::from_str(&raw).unwrap();
    assert_eq!((&raw["kind"], &raw["containers"][0]["name"]), (&"PodMetrics".into(), &"main".into()));
}
