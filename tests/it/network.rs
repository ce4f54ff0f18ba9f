//! The virtual network between real guests: sockets over both address families, by every name a pod may be called by.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, eventually, post};

/// Runs the caller of examples/sockets once and returns what it was answered.
fn called(cluster: &Cluster, name: &str, transport: &str, target: &str) -> String {
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: [{{name: c, \
         image: 'sockets:0.1.0', args: [call, {transport}, '{target}', {name}]}}]}}}}"
    );
    cluster.apply(&pod).ok();
    let phase = eventually(&format!("{name} to call {target} over {transport}"), || {
        let pod = cluster.find("pod", name)?;
        pod["status"]["phase"].as_str().filter(|phase| ["Succeeded", "Failed"].contains(phase)).map(str::to_owned)
    });
    let said = cluster.kogia(&["logs", name]);
    assert_eq!(phase, "Succeeded", "{target} over {transport}: {}{}", said.out, said.err);
    said.ok()
}

fn pod_of(cluster: &Cluster, label: &str) -> Value {
    let list = cluster.kogia(&["get", "pods", "-l", label, "-o", "json"]).ok();
    let mut list: Value = serde_json::from_str(&list).unwrap();
    list["items"][0].take()
}

/// The pod's address of a family, as one writes it before a port.
fn address(pod: &Value, v6: bool) -> String {
    let mut ips = pod["status"]["podIPs"].as_array().unwrap().iter().filter_map(|entry| entry["ip"].as_str());
    let ip = ips.find(|ip| ip.contains(':') == v6).unwrap_or_else(|| panic!("no such address: {pod}"));
    if v6 { format!("[{ip}]") } else { ip.to_owned() }
}

#[test]
fn sockets_reach_a_pod_by_address_service_and_headless_name_over_both_families() {
    let cluster = Cluster::start();
    cluster.with("sockets");
    let pod = pod_of(&cluster, "app=sockets");
    let (v4, v6) = (address(&pod, false), address(&pod, true));
    let service = cluster.get("service", "sockets");
    assert_eq!(service["spec"]["ipFamilies"], serde_json::json!(["IPv4", "IPv6"]), "{service}");
    let service_v6 = format!("[{}]:7", service["spec"]["clusterIPs"][1].as_str().unwrap());
    let cases = [
        ("by-address", "tcp", format!("{v4}:7000"), &v4),
        ("by-service", "tcp", "sockets:7".to_owned(), &v4),
        ("by-long-name", "tcp", "sockets.default.svc.cluster.local:7".to_owned(), &v4),
        ("by-headless", "tcp", "sockets-pods:7000".to_owned(), &v4),
        ("by-address-6", "tcp", format!("{v6}:7000"), &v6),
        ("by-service-6", "tcp", service_v6.clone(), &v6),
    ];
    for (name, transport, target, own) in &cases {
        let said = called(&cluster, name, transport, target);
        assert!(said.starts_with(&format!("{own}:7000 heard {name} from ")), "{target}: {said}");
    }
    for (name, target) in [
        ("udp", "sockets:7"),
        ("udp-6", &service_v6),
        ("udp-address", &format!("{v4}:7000")),
        ("udp-headless", "sockets-pods:7000"),
    ] {
        let said = called(&cluster, name, "udp", target);
        assert!(said.contains(&format!(" heard {name} from ")), "{target}: {said}");
    }
}

/// A component's request by `https`: the node speaks TLS, with whom it may trust.
#[test]
fn https_reaches_the_api_under_its_names_and_nobody_who_speaks_no_tls() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    cluster.with("relay");
    let ask = |url: &str| cluster.fetch("relay.localhost", &format!("/?url={url}")).unwrap();
    for host in ["kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "10.43.0.1"] {
        let (status, said) = ask(&format!("https://{host}/version"));
        assert!(status == 200 && said.contains("\"gitVersion\""), "{host}: {status} {said}");
    }
    // A component behind a Service speaks no TLS.
    let (status, said) = ask("https://hello:80/");
    assert_eq!(status, 502, "{said}");
}

/// Who answers need not read what was sent: the answer counts, not what became of the body.
#[test]
fn an_answer_that_does_not_wait_for_the_body_is_an_answer() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    cluster.with("relay");
    cluster.fetch_ok("relay.localhost", "/?url=http://hello/");
    let unread = "x".repeat(1 << 20);
    let (status, said) = post(cluster.http(), "relay.localhost", "/?url=http://hello/", &unread).unwrap();
    assert_eq!((status, said.as_str()), (200, "hello, world\n"));
}

/// What the host is answered by a UDP port of its own.
fn asked(socket: &UdpSocket, port: &Value, text: &str) -> Option<String> {
    let port = u16::try_from(port.as_u64()?).ok()?;
    socket.send_to(text.as_bytes(), ("127.0.0.1", port)).ok()?;
    let mut answer = [0; 1024];
    let (length, _) = socket.recv_from(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[test]
fn the_host_reaches_a_udp_service_through_a_port_of_the_node() {
    let cluster = Cluster::start();
    cluster.with("sockets");
    let service = "{apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {type: NodePort, \
                   selector: {app: sockets}, ports: [{port: 7, targetPort: 7000, protocol: UDP}]}}";
    cluster.apply(service).ok();
    let port = cluster.get("service", "outside")["spec"]["ports"][0]["nodePort"].clone();
    let client = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // A datagram may be lost; then it is sent again.
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    };
    let (one, other) = (client(), client());
    let first = eventually("an answer", || asked(&one, &port, "first"));
    let second = eventually("another answer", || asked(&other, &port, "second"));
    assert!(first.contains(" heard first from ") && second.contains(" heard second from "), "{first}{second}");
    // The pod sees each of them at a port of its own of the node's, and the same one again.
    let seen = |said: &str| said.trim_end().rsplit_once(" from ").unwrap().1.to_owned();
    assert_ne!(seen(&first), seen(&second));
    let third = eventually("an answer once more", || asked(&one, &port, "third").filter(|said| said.contains("third")));
    assert_eq!(seen(&first), seen(&third));
}

/// A reverse proxy and its app as the Kubernetes tutorials have them: two containers of one pod, over localhost.
#[test]
fn a_proxy_and_its_app_share_a_pods_localhost() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    cluster.with("relay");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: both, labels: {app: both}}, spec: {containers: [\
               {name: proxy, image: 'relay:0.1.0', ports: [{containerPort: 8080}]}, \
               {name: app, image: 'hello-http:0.1.0', ports: [{containerPort: 8081}]}]}}\n---\n\
               {apiVersion: v1, kind: Service, metadata: {name: both}, spec: {selector: {app: both}, \
               ports: [{port: 80, targetPort: 8080}]}}\n---\n\
               {apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: both}, spec: {ingressClassName: kogia, \
               rules: [{host: both.localhost, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: both, \
               port: {number: 80}}}}]}}]}}";
    cluster.apply(pod).ok();
    let said = eventually("the proxy to reach its app", || {
        cluster.fetch("both.localhost", "/?url=http://localhost:8081/").filter(|(status, _)| *status == 200)
    });
    assert_eq!(said.1, "hello, world\n");
    // The app is nobody else's localhost.
    let (status, _) = cluster.fetch("relay.localhost", "/?url=http://localhost:8081/").unwrap();
    assert_eq!(status, 502);
}
