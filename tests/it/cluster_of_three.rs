//! Three members and three nodes, each a process of its own: any of them serves the whole API, and whichever is killed,
//! nothing that was acknowledged is lost and what runs elsewhere goes on.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Cluster, Kubectl, Over, Ran, eventually, fetch, run, run_with_input};
use crate::machines::says_ready;

/// The contexts of the three members.
const CONTEXTS: [&str; 3] = ["kogia", "kogia-2", "kogia-3"];

/// A cluster of three that can be asked through any member.
struct Three {
    cluster: Cluster,
}

impl Three {
    fn start() -> Self {
        let three = Self { cluster: Cluster::start_with(&["--nodes", "3"]) };
        eventually("three voters", || {
            let voters = three.members()?.iter().filter(|member| member["role"] != "learner").count();
            (voters == 3).then_some(())
        });
        eventually("three ready nodes", || (three.ready(0)?.len() == 3).then_some(()));
        three
    }

    /// `kogia` with the context of one member.
    fn through(&self, member: usize, args: &[&str]) -> Ran {
        let mut command = self.cluster.command(args);
        run(command
            .arg("--kubeconfig")
            .arg(self.cluster.data_dir().join("kubeconfig"))
            .args(["--context", CONTEXTS[member]]))
    }

    fn json(&self, member: usize, args: &[&str]) -> Option<Value> {
        let ran = self.through(member, &[args, &["-o", "json"]].concat());
        (ran.code == Some(0)).then(|| serde_json::from_str(&ran.out).unwrap())
    }

    /// What a process says of itself.
    fn running(&self, number: usize) -> Option<Value> {
        let folder = ["", "nodes/2", "nodes/3"][number];
        serde_json::from_slice(&std::fs::read(self.cluster.data_dir().join(folder).join("run.json")).ok()?).ok()
    }

    fn name(&self, number: usize) -> String {
        self.running(number).expect("it runs")["name"].as_str().unwrap().to_owned()
    }

    /// The members as the first one sees them.
    fn members(&self) -> Option<Vec<Value>> {
        let ran = self.cluster.kogia(&["members", "list", "--json"]);
        (ran.code == Some(0)).then(|| serde_json::from_str(&ran.out).unwrap())
    }

    /// Names of the nodes that are ready, as one member sees them.
    fn ready(&self, member: usize) -> Option<BTreeSet<String>> {
        let nodes = self.json(member, &["get", "nodes"])?;
        let name = |node: &Value| node["metadata"]["name"].as_str().unwrap().to_owned();
        Some(nodes["items"].as_array()?.iter().filter(|node| says_ready(node)).map(name).collect())
    }

    /// Ends a further node's process as a power cut would.
    fn kill(&self, number: usize) {
        let pid = self.running(number).expect("it runs")["pid"].as_i64().unwrap();
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    }
}

fn configmap(name: &str) -> String {
    format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}")
}

#[test]
fn any_member_serves_the_whole_api_and_reaches_every_node() {
    let three = Three::start();
    let folders = ["", "nodes/2", "nodes/3"].map(|folder| three.cluster.data_dir().join(folder));
    let pids: BTreeSet<i64> = (0..3).map(|number| three.running(number).unwrap()["pid"].as_i64().unwrap()).collect();
    assert_eq!(pids.len(), 3, "each is a process of its own");
    assert!(folders.iter().all(|folder| folder.join("store").is_dir()), "with a store of its own");

    // Written through one member, read through another, at once.
    for (writer, reader) in [(0, 1), (1, 2), (2, 0)] {
        let name = format!("through-{writer}");
        let mut command = three.cluster.command(&["apply", "-f", "-", "--context", CONTEXTS[writer], "--kubeconfig"]);
        run_with_input(command.arg(folders[0].join("kubeconfig")), &configmap(&name)).ok();
        assert!(three.json(reader, &["get", "configmap", &name]).is_some(), "{name} read through {reader}");
    }

    // Every node runs a pod, and its output comes through every member.
    three.cluster.with("hello-http");
    let pods = eventually("a pod on each node", || {
        let pods = three.json(0, &["get", "pods", "-l", "app=hello"])?["items"].as_array()?.clone();
        let nodes: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
        (nodes.len() == 3).then_some(pods.clone())
    });
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap();
        for member in 0..3 {
            eventually("the node to have dialled the member", || {
                (three.through(member, &["logs", name]).code == Some(0)).then_some(())
            });
        }
    }
    if let Some(kubectl) = Kubectl::newest() {
        for context in CONTEXTS {
            let ran = kubectl.run(&three.cluster, &["--context", context, "get", "nodes", "-o", "name"]).ok();
            assert_eq!(ran.lines().count(), 3, "{ran}");
        }
    }
    let slices = three.json(1, &["get", "endpointslices", "-l", "kubernetes.io/service-name=kubernetes"]).unwrap();
    assert_eq!(slices["items"].as_array().unwrap().len(), 3, "clients learn of all members: {slices}");
}

#[test]
fn members_lead_in_turn_and_leave() {
    let three = Three::start();
    let second = three.name(1);
    assert!(three.cluster.kogia(&["members", "transfer", &second]).ok().contains("leads"));
    // What only the leader does goes on there.
    let manifest = "{apiVersion: v1, kind: Namespace, metadata: {name: after}}";
    three.cluster.apply(manifest).ok();
    eventually("the controllers of the new leader", || {
        three.json(2, &["get", "serviceaccount", "default", "-n", "after"])
    });
    // A leader that is to go hands over first.
    assert!(three.cluster.kogia(&["members", "remove", &second]).ok().contains("no member any more"));
    let left = three.members().unwrap();
    assert!(left.len() == 2 && left.iter().all(|member| member["name"] != *second), "{left:?}");
    three.cluster.apply(&configmap("still-writable")).ok();
    // Its process hears of it, says so and ends; the next one in its place is a new member.
    let output = three.cluster.data_dir().join("nodes/2/kogia.out");
    eventually("the removed member to say so", || {
        std::fs::read_to_string(&output).ok()?.contains("was removed from the cluster").then_some(())
    });
    eventually("its process to end", || three.running(1).is_none().then_some(()));
    assert!(three.cluster.kogia(&["up", "--no-merge", "--nodes", "3"]).ok().contains("Started 1"));
    eventually("three voters again", || {
        let voters = three.members()?.iter().filter(|member| member["role"] != "learner").count();
        (voters == 3).then_some(())
    });
    assert!(three.cluster.kogia(&["members", "remove", "nobody"]).fails().contains("no member nobody"));
}

#[test]
fn nothing_acknowledged_is_lost_when_a_leader_is_killed() {
    let mut three = Three::start();
    three.cluster.with("hello-http");
    for _ in 0..2 {
        let members = three.members().unwrap();
        let leader = members.iter().find(|member| member["role"] == "leader").expect("a leader");
        let leader = (0..3).find(|number| three.name(*number) == leader["name"].as_str().unwrap()).unwrap();
        let acknowledged = under_load(&three, leader, || three.kill(leader));
        assert!(acknowledged.len() > 3, "too few writes to show anything");
        // It comes back by the same command.
        if leader == 0 {
            three.cluster.kill();
            three.cluster.up();
        } else {
            assert!(three.cluster.kogia(&["up", "--no-merge"]).ok().contains("Started 1"));
        }
        for member in 0..3 {
            eventually("everything acknowledged through every member", || {
                let all = three.through(member, &["get", "configmaps", "-o", "name"]);
                let all: BTreeSet<&str> = all.out.lines().collect();
                acknowledged.iter().all(|name| all.contains(&*format!("configmap/{name}"))).then_some(())
            });
        }
        eventually("three ready nodes again", || (three.ready(0)?.len() == 3).then_some(()));
    }
}

/// Writes through all members while `trouble` happens to one of them; what was acknowledged.
fn under_load(three: &Three, victim: usize, trouble: impl FnOnce()) -> Vec<String> {
    static ROUND: AtomicUsize = AtomicUsize::new(0);
    let round = ROUND.fetch_add(1, Ordering::Relaxed);
    let (acknowledged, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let file = three.cluster.data_dir().join("kubeconfig");
    let written = || acknowledged.lock().unwrap().len();
    thread::scope(|scope| {
        for writer in 0..3 {
            let (acknowledged, over, file) = (&acknowledged, &over, &file);
            scope.spawn(move || {
                for turn in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("r{round}-w{writer}-{turn}");
                    let mut command = three.cluster.command(&["apply", "-f", "-", "--context"]);
                    command.arg(CONTEXTS[(writer + turn) % 3]).arg("--kubeconfig").arg(file);
                    if run_with_input(&mut command, &configmap(&name)).code == Some(0) {
                        acknowledged.lock().unwrap().push(name);
                    }
                }
            });
        }
        let _over = Over(&over);
        let progress = |what: &str| {
            let before = written();
            eventually(what, || (written() >= before + 6).then_some(()));
        };
        progress("writes");
        trouble();
        progress("writes without the leader");
        let survivor = (victim + 1) % 3;
        eventually("the survivors to call the node lost", || {
            let ready = three.ready(survivor)?;
            (ready.len() == 2).then_some(())
        });
    });
    acknowledged.into_inner().unwrap()
}

#[test]
fn what_runs_goes_on_while_nobody_decides() {
    let three = Three::start();
    // A pod on the first node, asked through the first node's Ingress.
    let first = three.name(0);
    three.cluster.with("hello-http");
    let pin =
        format!(r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{{"kubernetes.io/hostname":"{first}"}}}}}}}}}}"#);
    let Some(kubectl) = Kubectl::newest() else { return };
    kubectl.run(&three.cluster, &["patch", "deployment", "hello", "-p", &pin]).ok();
    kubectl.run(&three.cluster, &["rollout", "status", "deployment", "hello", "--timeout=80s"]).ok();
    let http = three.cluster.http();
    let answers = || fetch(http, "hello.localhost", "/").is_some_and(|(status, _)| status == 200);
    eventually("only pods of the first node to be asked", || (0..10).all(|_| answers()).then_some(()));
    // Both other members go: no majority, no leader, no API; the requests are answered all the same.
    three.kill(1);
    three.kill(2);
    eventually("the API to be without a leader", || {
        let ran = three.through(0, &["apply", "-f", "/dev/null"]);
        (ran.code != Some(0)).then_some(())
    });
    for turn in 0..200 {
        assert!(answers(), "request {turn} failed without a control plane");
    }
    assert!(three.cluster.kogia(&["up", "--no-merge"]).ok().contains("Started 2"));
    three.cluster.apply(&configmap("decided-again")).ok();
}
