//! `kubectl port-forward` through every encoding that kubectl has had: SPDY (1.27, 1.30) and SPDY in a WebSocket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use crate::harness::{Cluster, Following, Kubectl, PATIENCE, eventually, fetch};

/// A forward from a free port of this machine.
struct Forward {
    address: SocketAddr,
    _process: Following,
}

impl Forward {
    fn start(kubectl: &Kubectl, cluster: &Cluster, target: &str, port: u16) -> Self {
        let ports = format!(":{port}");
        let process = Following::start(kubectl.command(cluster, &["port-forward", target, &ports]));
        let line = process.line("the forward to stand", |line| line.starts_with("Forwarding from 127.0.0.1:"));
        let local = line.split(" -> ").next().and_then(|from| from.strip_prefix("Forwarding from "));
        Self { address: local.unwrap().parse().unwrap(), _process: process }
    }

    fn get(&self) -> Option<(u16, String)> {
        fetch(self.address, "localhost", "/")
    }
}

fn hello(cluster: &Cluster) {
    cluster.with("hello-http");
    cluster.fetch_ok("hello.localhost", "/");
}

fn assert_greets(answer: Option<(u16, String)>, who: &str) {
    let (status, body) = answer.unwrap_or_else(|| panic!("{who}: no answer"));
    assert!(status == 200 && body.contains("hello, world"), "{who}: {status} {body}");
}

#[test]
fn every_kubectl_forwards_ports() {
    let all = Kubectl::all();
    if all.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    hello(&cluster);
    for kubectl in &all {
        let forward = Forward::start(kubectl, &cluster, "deployment/hello", 8080);
        // One after the other, and many at once.
        for _ in 0..3 {
            assert_greets(forward.get(), &kubectl.version);
        }
        thread::scope(|scope| {
            let address = forward.address;
            let many: Vec<_> = (0..8).map(|_| scope.spawn(move || fetch(address, "localhost", "/"))).collect();
            for one in many {
                assert_greets(one.join().unwrap(), &kubectl.version);
            }
        });
        // A connection that says nothing holds nobody up, and neither does one whose client goes away in the middle.
        let silent = TcpStream::connect(forward.address).unwrap();
        let mut broken = TcpStream::connect(forward.address).unwrap();
        broken.write_all(b"GET / HTTP/1.1\r\nHost: loc").unwrap();
        drop(broken);
        assert_greets(forward.get(), &kubectl.version);
        drop(silent);
        // The API server itself asks, too.
        let pod =
            kubectl.run(&cluster, &["get", "pods", "-l", "app=hello", "-o", "jsonpath={.items[0].metadata.name}"]);
        for what in [format!("pods/{}:8080", pod.ok()), "services/hello".to_owned()] {
            let path = format!("/api/v1/namespaces/default/{what}/proxy/?name=you");
            let said = kubectl.run(&cluster, &["get", "--raw", &path]).ok();
            assert!(said.contains("hello, you"), "{path}: {said}");
        }
    }
}

#[test]
fn a_port_nobody_listens_on_is_said_so() {
    let all = Kubectl::all();
    if all.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    hello(&cluster);
    for kubectl in &all {
        let forward = Forward::start(kubectl, &cluster, "deployment/hello", 81);
        let mut stream = TcpStream::connect(forward.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        // kubectl closes the connection; whether it resets it depends on its version.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", kubectl.version);
    }
}

#[test]
fn a_session_that_ends_leaves_the_others_alone() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let cluster = Cluster::start();
    hello(&cluster);
    let (one, other) = (
        Forward::start(&kubectl, &cluster, "deployment/hello", 8080),
        Forward::start(&kubectl, &cluster, "service/hello", 80),
    );
    assert_greets(one.get(), "the first");
    drop(one);
    assert_greets(other.get(), "the second");
    // A pod that is gone takes its forward with it; a new forward finds the new pod.
    kubectl.run(&cluster, &["delete", "pod", "--all", "--wait=true"]).ok();
    eventually("a new forward to answer", || {
        let forward = Forward::start(&kubectl, &cluster, "deployment/hello", 8080);
        forward.get().filter(|(status, _)| *status == 200)
    });
}
