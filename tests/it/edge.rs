//! Sleeping and waking: Deployments that go to zero when nobody calls, and come back with the next call.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::harness::{Cluster, Kubectl, PATIENCE, eventually};

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
