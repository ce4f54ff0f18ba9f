//! What every pod finds without asking: its account's token and the way to the API, its hosts file, its DNS.

use std::fs;
use std::process::Command;

use crate::harness::{Cluster, Kubectl, eventually, run, run_with_input};

const SECRETS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  hostname: front
  hostAliases: [{ip: 192.0.2.9, hostnames: [printer.test]}]
  dnsConfig: {searches: [house.test], options: [{name: ndots, value: '2'}]}
  containers: [{name: main, image: toolbox, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: bare}
spec:
  automountServiceAccountToken: false
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.53]}
  containers: [{name: main, image: toolbox, command: [sleep, infinity]}]
";

/// A cluster in which both pods run.
fn with_pods() -> Cluster {
    let cluster = Cluster::start();
    cluster.apply(PODS).ok();
    for pod in ["box", "bare"] {
        eventually("the pod to run", || (cluster.find("pod", pod)?["status"]["phase"] == "Running").then_some(()));
    }
    cluster
}

#[test]
fn a_pod_finds_the_api_and_shows_who_it_is() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let cluster = with_pods();
    let exec = |pod: &str, command: &[&str]| kubectl.run(&cluster, &[&["exec", pod, "--"], command].concat());
    let secret = |name: &str| exec("box", &["cat", &format!("{SECRETS}/{name}")]).ok();

    assert_eq!(secret("namespace"), "default");
    let authority = cluster.scratch().join("ca.crt");
    fs::write(&authority, secret("ca.crt")).unwrap();
    let view = kubectl.run(&cluster, &["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).ok();
    // With nothing but what the pod has: its token, and its authority for the server's certificate.
    let empty = cluster.scratch().join("empty");
    fs::write(&empty, "").unwrap();
    let mut whoami = Command::new("kubectl");
    whoami.env("KUBECONFIG", &empty).env("HOME", cluster.scratch());
    whoami.args(["--server", &view, "--token", secret("token").trim(), "--certificate-authority"]).arg(&authority);
    let said = run(whoami.args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])).ok();
    assert_eq!(said, "system:serviceaccount:default:default");

    // What the API's Service answers to somebody who does not speak TLS is TLS: an alert.
    let address = exec("box", &["printenv", "KUBERNETES_SERVICE_HOST"]).ok();
    let port = exec("box", &["printenv", "KUBERNETES_SERVICE_PORT"]).ok();
    for host in [address.trim(), "kubernetes.default.svc"] {
        let mut call = kubectl.command(&cluster, &["exec", "-i", "box", "--", "nc", host, port.trim()]);
        let answer = run_with_input(&mut call, "GET / HTTP/1.1\r\n\r\n").ok();
        assert!(answer.starts_with("\u{15}\u{3}"), "{host}: {answer:?}");
    }
    let listening = view.rsplit(':').next().unwrap();
    let refused = exec("box", &["nc", "-z", "127.0.0.1", listening]);
    assert_eq!(refused.code, Some(1), "the host itself is not reached: {}", refused.err);

    // What the door put in is no change when somebody else changes the pod.
    kubectl.run(&cluster, &["annotate", "pod", "box", "seen=yes"]).ok();

    // Who wants no token has none.
    let without = exec("bare", &["ls", "/"]).ok();
    assert_eq!(without, "etc\n");
    let made = cluster.get("pod", "bare");
    assert!(made["spec"]["volumes"].is_null() && made["spec"]["containers"][0]["volumeMounts"].is_null(), "{made}");
    cluster
        .apply(
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: shy}, automountServiceAccountToken: false}\n---\n\
             {apiVersion: v1, kind: Pod, metadata: {name: shy}, spec: {serviceAccountName: shy, \
             containers: [{name: main, image: toolbox, command: [sleep, infinity]}]}}",
        )
        .ok();
    assert!(cluster.get("pod", "shy")["spec"]["volumes"].is_null());
}

#[test]
fn a_pod_is_told_where_the_services_of_its_namespace_are() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let cluster = Cluster::start();
    cluster
        .apply(
            "{apiVersion: v1, kind: Service, metadata: {name: shop-front}, \
             spec: {ports: [{name: http, port: 8765}]}}",
        )
        .ok();
    let pod = |name: &str, links: &str| {
        let container = "{name: main, image: toolbox, command: [sleep, infinity]}";
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{links} containers: [{container}]}}}}"
        );
        cluster.apply(&pod).ok();
        eventually("the pod to run", || (cluster.find("pod", name)?["status"]["phase"] == "Running").then_some(()));
        kubectl.run(&cluster, &["exec", name, "--", "env"]).ok()
    };
    let address = cluster.get("service", "shop-front")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let told = pod("told", "");
    for line in [
        format!("SHOP_FRONT_SERVICE_HOST={address}"),
        "SHOP_FRONT_SERVICE_PORT=8765".into(),
        "SHOP_FRONT_SERVICE_PORT_HTTP=8765".into(),
        format!("SHOP_FRONT_PORT=tcp://{address}:8765"),
        format!("SHOP_FRONT_PORT_8765_TCP_ADDR={address}"),
        "KUBERNETES_SERVICE_HOST=10.43.0.1".into(),
    ] {
        assert!(told.lines().any(|found| found == line), "{line}: {told}");
    }
    let alone = pod("alone", "enableServiceLinks: false,");
    assert!(alone.contains("KUBERNETES_SERVICE_HOST=10.43.0.1") && !alone.contains("SHOP_FRONT"), "{alone}");
}

#[test]
fn a_pod_reads_its_names_in_etc() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let cluster = with_pods();
    let exec = |pod: &str, command: &[&str]| kubectl.run(&cluster, &[&["exec", pod, "--"], command].concat());
    let hosts = exec("box", &["cat", "/etc/hosts"]).ok();
    let ip = cluster.get("pod", "box")["status"]["podIP"].as_str().unwrap().to_owned();
    assert!(hosts.contains(&format!("{ip}\tfront\n")) && hosts.ends_with("192.0.2.9\tprinter.test\n"), "{hosts}");
    assert_eq!(exec("box", &["cat", "/etc/hostname"]).ok(), "front\n");
    let dns = exec("box", &["cat", "/etc/resolv.conf"]).ok();
    let expected = "search default.svc.cluster.local svc.cluster.local cluster.local house.test\n\
                    nameserver 10.43.0.10\noptions ndots:2\n";
    assert_eq!(dns, expected);
    assert_eq!(exec("bare", &["cat", "/etc/resolv.conf"]).ok(), "nameserver 192.0.2.53\n");
    // The network looks up names as these files say.
    for (name, address) in [("printer.test", "Address: 192.0.2.9\n"), ("kubernetes", "Address: 10.43.0.1\n")] {
        // The node may be reading the Services still.
        eventually(&format!("the address of {name}"), || {
            exec("box", &["nslookup", name]).out.contains(address).then_some(())
        });
    }
    assert_eq!(exec("bare", &["nslookup", "kubernetes"]).code, Some(1));
}
