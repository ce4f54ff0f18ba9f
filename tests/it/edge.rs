//! The way in: Deployments that sleep until the next call, routes with weights, and updates under load.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::{Cluster, Kubectl, Over, PATIENCE, eventually, fetch};
use crate::machines::says_ready;

/// What a Deployment wants and has.
fn replicas(cluster: &Cluster, name: &str) -> (i64, i64) {
    let deployment = cluster.get("deployment", name);
    (deployment["spec"]["replicas"].as_i64().unwrap_or(1), deployment["status"]["replicas"].as_i64().unwrap_or(0))
}

fn asleep(cluster: &Cluster, name: &str) {
    eventually("the Deployment to sleep", || (replicas(cluster, name) == (0, 0)).then_some(()));
}

#[test]
fn nobody_calls_and_the_next_request_wakes_it() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    cluster.fetch_ok("hello.localhost", "/");
    let Some(kubectl) = Kubectl::newest() else { return };
    kubectl.run(&cluster, &["annotate", "deployment", "hello", "kogia.dev/scale-to-zero=5s"]).ok();
    asleep(&cluster, "hello");
    let told = cluster.kogia(&["describe", "deployment", "hello"]).ok();
    assert!(told.contains("ScaledToZero"), "{told}");
    // Each is held, none is refused; it comes back as it was.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = || cluster.fetch("hello.localhost", "/").map(|(status, _)| status);
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers, [Some(200); 8]);
    assert_eq!(replicas(&cluster, "hello").0, 3);
    // And again, without anybody having said so.
    asleep(&cluster, "hello");
    assert_eq!(cluster.fetch("hello.localhost", "/").unwrap().0, 200);
}

#[test]
fn a_connection_wakes_a_program_that_listens_by_itself() {
    let cluster = Cluster::start();
    cluster.with("echo");
    let port = cluster.get("service", "echo")["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    cluster.kogia(&["scale", "deployment/echo", "--replicas", "0"]).ok();
    asleep(&cluster, "echo");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for line in ["good\n", "morning\n"] {
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).unwrap();
        assert_eq!(answer, line);
    }
    assert_eq!(replicas(&cluster, "echo").0, 1);
}

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: kogia
  listeners: [{name: http, port: 80, protocol: HTTP, hostname: '*.localhost'}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split}
spec:
  parentRefs: [{name: edge}]
  hostnames: [split.localhost]
  rules:
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
  - filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /}}}]
    backendRefs: [{name: hello, port: 80, weight: 3}, {name: counter, port: 80, weight: 1}]
";

#[test]
fn a_gateway_spreads_requests_by_weight() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    cluster.with("counter");
    eventually("the Gateway API to be served", || (cluster.apply(GATEWAY).code == Some(0)).then_some(()));
    cluster.fetch_ok("split.localhost", "/any");
    let answers: Vec<_> = (0..80).map(|_| cluster.fetch("split.localhost", "/any").unwrap()).collect();
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    let hello = answers.iter().filter(|(_, body)| body.starts_with("hello")).count();
    // Exactly 60, unless a table of routes was replaced meanwhile.
    assert!((56..=64).contains(&hello), "{hello} of 80");
    assert_eq!(cluster.fetch("split.localhost", "/old/x").unwrap().0, 302);
    let gateway = cluster.get("gateways.gateway.networking.k8s.io", "edge");
    assert_eq!(gateway["status"]["listeners"][0]["attachedRoutes"], 1, "{gateway}");
    let Some(kubectl) = Kubectl::newest() else { return };
    let nodes = kubectl.run(&cluster, &["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    let path = format!("/api/v1/nodes/{nodes}/proxy/metrics");
    let metrics = kubectl.run(&cluster, &["get", "--raw", &path]).ok();
    assert!(
        metrics.contains(r#"kogia_ingress_requests_total{route="httproute/default/split/1",code="200"}"#),
        "{metrics}"
    );
}

#[test]
fn updates_and_scaling_under_load_lose_no_request() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    cluster.fetch_ok("hello.localhost", "/");
    let Some(kubectl) = Kubectl::newest() else { return };
    let over = AtomicBool::new(false);
    let (answers, bad) = std::thread::scope(|scope| {
        let ask = || {
            let (mut answers, mut bad) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                match cluster.fetch("hello.localhost", "/") {
                    Some((200, _)) => answers += 1,
                    other => bad.push(other),
                }
            }
            (answers, bad)
        };
        let askers: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        // However this ends, the askers end with it.
        let last = Over(&over);
        for generation in 2..4 {
            // Two restarts within a second are one for kubectl; a changed template is always a new one.
            kubectl.run(&cluster, &["set", "env", "deployment/hello", &format!("GENERATION={generation}")]).ok();
            eventually("the rollout to end", || {
                let status = cluster.get("deployment", "hello")["status"].clone();
                let done = status["updatedReplicas"] == 3 && status["replicas"] == 3;
                (done && status["observedGeneration"] == generation).then_some(())
            });
        }
        for count in ["1", "4"] {
            cluster.kogia(&["scale", "deployment/hello", "--replicas", count]).ok();
            let wanted: i64 = count.parse().unwrap();
            eventually("the pods", || (replicas(&cluster, "hello") == (wanted, wanted)).then_some(()));
        }
        drop(last);
        let all: Vec<_> = askers.into_iter().map(|asker| asker.join().unwrap()).collect();
        (
            all.iter().map(|(answers, _)| answers).sum::<u32>(),
            all.into_iter().flat_map(|(_, bad)| bad).collect::<Vec<_>>(),
        )
    });
    assert!(bad.is_empty() && answers > 100, "{answers} answers, and {bad:?}");
}

/// Nodes are emptied one after the other while all three Ingresses are asked without a pause: the budget keeps two pods
/// ready, and no request is lost.
#[test]
fn drains_under_load_lose_no_request() {
    let cluster = Cluster::start_with(&["--nodes", "3"]);
    let Some(kubectl) = Kubectl::newest() else { return };
    let nodes = || {
        let listed: Value = serde_json::from_str(&cluster.kogia(&["get", "nodes", "-o", "json"]).ok()).unwrap();
        let name = |node: &Value| node["metadata"]["name"].as_str().unwrap().to_owned();
        listed["items"].as_array().unwrap().iter().filter(|node| says_ready(node)).map(name).collect::<Vec<_>>()
    };
    eventually("three ready nodes", || (nodes().len() == 3).then_some(()));
    cluster.with("hello-http");
    kubectl.run(&cluster, &["create", "pdb", "hello", "--selector=app=hello", "--min-available=2"]).ok();
    eventually("the budget to be counted", || {
        (cluster.get("poddisruptionbudget", "hello")["status"]["currentHealthy"] == 3).then_some(())
    });
    let places = || {
        let pods = cluster.kogia(&["get", "pods", "-l", "app=hello", "-o", "json"]).ok();
        let pods: Value = serde_json::from_str(&pods).unwrap();
        let place = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        pods["items"].as_array().unwrap().iter().map(place).collect::<Vec<_>>()
    };
    let doors = ["", "nodes/2", "nodes/3"].map(|folder| {
        let file = cluster.data_dir().join(folder).join("run.json");
        let running: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        running["http"].as_str().unwrap().parse().unwrap()
    });
    for door in doors {
        eventually("every Ingress to answer", || {
            fetch(door, "hello.localhost", "/").filter(|(status, _)| *status == 200)
        });
    }
    let over = AtomicBool::new(false);
    let (answers, bad) = std::thread::scope(|scope| {
        let ask = |door| {
            let (mut answers, mut bad) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                match fetch(door, "hello.localhost", "/") {
                    Some((200, _)) => answers += 1,
                    other => bad.push((door, other)),
                }
            }
            (answers, bad)
        };
        let askers: Vec<_> = doors.map(|door| scope.spawn(move || ask(door))).into_iter().collect();
        let last = Over(&over);
        for node in nodes() {
            assert!(places().contains(&node), "there is nothing to drain on {node}: {:?}", places());
            let drained = kubectl.run(&cluster, &["drain", &node, "--ignore-daemonsets", "--timeout=80s"]).ok();
            assert!(drained.contains(&format!("node/{node} drained")), "{drained}");
            assert!(!places().contains(&node), "{:?}", places());
            kubectl.run(&cluster, &["uncordon", &node]).ok();
            kubectl.run(&cluster, &["rollout", "status", "deployment/hello", "--timeout=80s"]).ok();
        }
        drop(last);
        let all: Vec<_> = askers.into_iter().map(|asker| asker.join().unwrap()).collect();
        (
            all.iter().map(|(answers, _)| answers).sum::<u32>(),
            all.into_iter().flat_map(|(_, bad)| bad).collect::<Vec<_>>(),
        )
    });
    assert!(bad.is_empty() && answers > 100, "{answers} answers, and {bad:?}");
}
