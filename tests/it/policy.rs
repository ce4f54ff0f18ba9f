//! NetworkPolicy and the way out, between real guests: one calls another by Service name.

use serde_json::Value;

use crate::harness::{Cluster, eventually};

const DENY: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny}, \
                    spec: {podSelector: {matchLabels: {app: hello}}, policyTypes: [Ingress]}}";

const ALLOW: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: allow-relay}, \
                     spec: {podSelector: {matchLabels: {app: hello}}, ingress: [{from: [{podSelector: \
                     {matchLabels: {app: relay}}}], ports: [{port: 8080}]}]}}";

const NO_WAY_OUT: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: no-way-out}, \
                          spec: {podSelector: {matchLabels: {app: relay}}, policyTypes: [Egress]}}";

/// What the relay answers when asked for a URL.
fn relayed(cluster: &Cluster, url: &str) -> Option<(u16, String)> {
    cluster.fetch("relay.localhost", &format!("/?url={url}"))
}

fn relay_pod(cluster: &Cluster) -> String {
    let ran = cluster.kogia(&["get", "pods", "-l", "app=relay", "-o", "json"]).ok();
    let pods: Value = serde_json::from_str(&ran).unwrap();
    pods["items"][0]["metadata"]["name"].as_str().unwrap().to_owned()
}

#[test]
fn policies_stand_between_pods_and_say_why() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    cluster.with("relay");
    cluster.fetch_ok("relay.localhost", "/?url=http://hello/");
    let pod = relay_pod(&cluster);
    let said = cluster.kogia(&["why", &pod, "hello"]).ok();
    assert!(said.contains("allowed; egress: no policy selects the source"), "{said}");

    cluster.apply(DENY).ok();
    eventually("the policy to be in force", || {
        relayed(&cluster, "http://hello/").filter(|(status, said)| *status == 502 && said.contains("HttpRequestDenied"))
    });
    let why = cluster.kogia(&["why", &pod, "hello"]);
    assert!(why.code == Some(1) && why.out.contains("denied; "), "{}{}", why.out, why.err);
    assert!(why.out.contains("ingress: policy default/deny selects the destination"), "{}", why.out);
    // The node always reaches its pods: the Ingress goes on.
    assert_eq!(cluster.fetch("hello.localhost", "/").unwrap().0, 200);

    cluster.apply(ALLOW).ok();
    assert_eq!(cluster.fetch_ok("relay.localhost", "/?url=http://hello/"), "hello, world\n");
    let said = cluster.kogia(&["why", &pod, "hello"]).ok();
    assert!(said.contains("rule 1 of policy default/allow-relay allows it"), "{said}");

    cluster.apply(NO_WAY_OUT).ok();
    eventually("nothing to go out", || {
        relayed(&cluster, "http://hello/").filter(|(status, said)| *status == 502 && said.contains("HttpRequestDenied"))
    });
}

#[test]
fn the_hosts_own_addresses_and_its_metadata_are_not_reached() {
    let cluster = Cluster::start();
    cluster.with("relay");
    // It calls itself by Service name, and as a callee it is not told a URL.
    eventually("the relay to answer", || relayed(&cluster, "http://relay/").filter(|(status, _)| *status == 400));
    let pod = relay_pod(&cluster);
    let ingress = cluster.http().port();
    let hosts = [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
        &format!("127.0.0.1:{ingress}"),
        &format!("[::ffff:127.0.0.1]:{ingress}"),
        &format!("[64:ff9b::7f00:1]:{ingress}"),
        &format!("localhost:{ingress}"),
        &format!("0.0.0.0:{ingress}"),
    ];
    for host in hosts {
        let (status, said) = relayed(&cluster, &format!("http://{host}/")).unwrap();
        assert_eq!(status, 502, "{host}: {said}");
    }
    let why = cluster.kogia(&["why", &pod, "169.254.169.254"]);
    assert!(why.code == Some(1) && why.out.contains("denied; "), "{}{}", why.out, why.err);
}
