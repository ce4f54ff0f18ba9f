//! The driver against an API that answers lists and watches as Kubernetes does.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc;
use futures::stream::{self, BoxStream};
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use network::policy::{End, Flow, decide};
use network::routes::Asked;
use network::services::{PortRef, Protocol};
use network::{Fabric, PodIdentity};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Config, run};
use crate::ingress::tls::Certificates;

type Events = mpsc::UnboundedSender<Value>;

/// An API of a few lists; what is sent to a plural's channel comes out of its watch.
#[derive(Clone, Default)]
struct FakeApi {
    lists: Arc<Mutex<HashMap<&'static str, Vec<Value>>>>,
    watches: Arc<Mutex<HashMap<String, Events>>>,
}

impl FakeApi {
    fn answer(&self, request: &Request<kube::client::Body>) -> Response<network::Body> {
        let plural = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let query = request.uri().query().unwrap_or_default();
        assert_eq!(plural == "secrets", query.contains("type%3Dkubernetes.io%2Ftls"), "{query}");
        let body: BoxStream<'static, Bytes> = if query.contains("watch=true") {
            let (events, incoming) = mpsc::unbounded();
            self.watches.lock().unwrap().insert(plural, events);
            incoming.map(|event| Bytes::from(format!("{event}\n"))).boxed()
        } else {
            let items = self.lists.lock().unwrap().get(plural.as_str()).cloned().unwrap_or_default();
            let list = json!({"metadata": {"resourceVersion": "1"}, "items": items});
            stream::iter([Bytes::from(list.to_string())]).boxed()
        };
        let body = StreamBody::new(body.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
        Response::new(network::body::boxed(body))
    }

    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            std::future::ready(Ok::<_, Infallible>(api.answer(&request)))
        });
        kube::Client::new(service, "default")
    }

    /// Sends a watch event once the watch is there.
    async fn send(&self, plural: &str, kind: &str, object: Value) {
        until(&format!("a watch of {plural}"), || self.watches.lock().unwrap().contains_key(plural)).await;
        let watches = self.watches.lock().unwrap();
        watches[plural].unbounded_send(json!({"type": kind, "object": object})).unwrap();
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap_or_else(|_| panic!("never saw {what}"));
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "namespace": "default", "resourceVersion": "2", "labels": {"kubernetes.io/service-name": "web"}})
}

fn service(node_port: Option<u16>) -> Value {
    let kind = if node_port.is_some() { "NodePort" } else { "ClusterIP" };
    json!({"metadata": metadata("web"), "spec": {
        "type": kind, "clusterIP": "10.43.0.5", "ports": [{"name": "http", "port": 80, "nodePort": node_port}],
    }})
}

fn slice(ready: bool) -> Value {
    json!({"addressType": "IPv4", "metadata": metadata("web-1"),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.42.0.9"], "conditions": {"ready": ready}}]})
}

fn ingress(secret: &str) -> Value {
    json!({"metadata": metadata("web"), "spec": {
        "ingressClassName": "kogia",
        "tls": [{"hosts": ["web.test"], "secretName": secret}],
        "rules": [{"host": "web.test", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}],
    }})
}

fn routed(fabric: &Fabric) -> bool {
    let (headers, method) = (http::HeaderMap::new(), http::Method::GET);
    let asked = Asked { host: "web.test", path: "/", query: None, method: &method, headers: &headers, secure: false };
    fabric.routes().find(&asked).is_some()
}

fn endpoints(fabric: &Fabric) -> usize {
    let services = fabric.services();
    let entry = services.service("default", "web");
    entry.and_then(|entry| entry.balancer(&PortRef::Number(80))).map_or(0, |balancer| balancer.endpoints().len())
}

#[tokio::test]
async fn tables_follow_the_api() {
    let api = FakeApi::default();
    api.lists.lock().unwrap().extend([
        ("services", vec![service(None)]),
        ("endpointslices", vec![slice(true)]),
        ("ingresses", vec![ingress("cert")]),
    ]);
    let fabric = Fabric::new(network::Config::default());
    let certificates = Arc::new(Certificates::default());
    let stop = CancellationToken::new();
    let config = Config {
        client: api.client(),
        fabric: fabric.clone(),
        certificates: Some(certificates.clone()),
        node_ports: None,
    };
    let driver = tokio::spawn(run(config, stop.clone()));

    until("the first tables", || endpoints(&fabric) == 1 && routed(&fabric)).await;
    api.send("endpointslices", "MODIFIED", slice(false)).await;
    until("the endpoint go", || endpoints(&fabric) == 0).await;
    api.send("endpointslices", "MODIFIED", slice(true)).await;
    until("the endpoint return", || endpoints(&fabric) == 1).await;

    assert!(certificates.get("web.test").is_none());
    let made = rcgen::generate_simple_self_signed(["web.test".to_owned()]).unwrap();
    let encode = |pem: String| serde_json::to_value(k8s_openapi::ByteString(pem.into_bytes())).unwrap();
    let data = json!({"tls.crt": encode(made.cert.pem()), "tls.key": encode(made.signing_key.serialize_pem())});
    let secret = json!({"metadata": metadata("cert"), "type": "kubernetes.io/tls", "data": data});
    api.send("secrets", "ADDED", secret.clone()).await;
    until("the certificate", || certificates.get("WEB.test").is_some()).await;
    let broken =
        json!({"metadata": metadata("cert"), "type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}});
    api.send("secrets", "MODIFIED", broken).await;
    until("the broken certificate go", || certificates.get("web.test").is_none()).await;

    let class = json!({"metadata": metadata("kogia"), "spec": {"controller": "example.com/other"}});
    api.send("ingressclasses", "ADDED", class).await;
    until("another controller take the class", || !routed(&fabric)).await;
    api.send("services", "DELETED", service(None)).await;
    until("the Service go", || fabric.services().service("default", "web").is_none()).await;

    stop.cancel();
    driver.await.unwrap();
}

#[tokio::test]
async fn node_ports_open_carry_and_close() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let api = FakeApi::default();
    api.lists.lock().unwrap().extend([("services", vec![service(Some(port))]), ("endpointslices", vec![slice(true)])]);
    let fabric = Fabric::new(network::Config::default());
    let pod = fabric.attach(PodIdentity {
        namespace: "default".into(),
        name: "web-1".into(),
        hostname: "web-1".into(),
        addresses: vec![IpAddr::from([10, 42, 0, 9])],
    });
    let listener = pod.listen("0.0.0.0:8080".parse().unwrap(), 0).unwrap();
    let stop = CancellationToken::new();
    let node_ports = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let config =
        Config { client: api.client(), fabric: fabric.clone(), certificates: Some(Arc::default()), node_ports };
    let driver = tokio::spawn(run(config, stop.clone()));

    until("the endpoint", || endpoints(&fabric) == 1).await;
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut server = listener.accept().await.unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    server.write_all(text.replace('i', "o").as_bytes()).await.unwrap();
    drop(server);
    text.clear();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "pong");

    api.send("services", "MODIFIED", service(None)).await;
    let closed = async { while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), closed).await.unwrap();
    stop.cancel();
    driver.await.unwrap();
}

#[tokio::test]
async fn policies_follow_the_api_and_nobody_talks_before() {
    let api = FakeApi::default();
    let labelled = |name: &str, ip: &str| {
        let metadata = json!({"name": name, "namespace": "default", "resourceVersion": "2", "labels": {"app": name}});
        json!({"metadata": metadata, "spec": {"containers": []}, "status": {"podIP": ip}})
    };
    let pods = vec![labelled("a", "10.42.0.2"), labelled("b", "10.42.0.3")];
    api.lists.lock().unwrap().extend([("pods", pods)]);
    let fabric = Fabric::new(network::Config::default());
    let stop = CancellationToken::new();
    let config =
        Config { client: api.client(), fabric: fabric.clone(), certificates: Some(Arc::default()), node_ports: None };
    let driver = tokio::spawn(run(config, stop.clone()));

    until("the first table", || fabric.policies().is_empty()).await;
    let policy = |spec: Value| {
        let metadata = json!({"name": "p", "namespace": "default", "resourceVersion": "3"});
        json!({"metadata": metadata, "spec": spec})
    };
    let verdict = || {
        let end = |ip: &str| End::Address(ip.parse().unwrap());
        let flow = Flow { source: end("10.42.0.2"), destination: end("10.42.0.3"), port: 80, protocol: Protocol::Tcp };
        decide(&fabric.policies(), &flow).to_string()
    };
    let selector = json!({"matchLabels": {"app": "b"}});
    api.send("networkpolicies", "ADDED", policy(json!({"podSelector": selector}))).await;
    until("the policy", || verdict().contains("policy default/p selects the destination")).await;
    let from = json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "x"}}}]}]);
    api.send("networkpolicies", "MODIFIED", policy(json!({"podSelector": selector, "ingress": from}))).await;
    let namespace = json!({"metadata": {"name": "default", "resourceVersion": "4", "labels": {"team": "x"}}});
    api.send("namespaces", "ADDED", namespace).await;
    until("the namespace's labels", || verdict().contains("rule 1 of policy default/p allows it")).await;
    api.send("networkpolicies", "DELETED", policy(json!({"podSelector": selector}))).await;
    until("the policy go", || fabric.policies().is_empty()).await;
    stop.cancel();
    driver.await.unwrap();
}
