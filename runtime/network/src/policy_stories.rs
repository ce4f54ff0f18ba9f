//! Stories of pods between which policies stand.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};

use crate::policy::{NetworkPolicy, Peer, PodFacts, Policies, Requirement, Rule, Selector};
use crate::{Body, BoxFuture, Config, Fabric, HttpError, HttpService, NetError, PodIdentity, PodNet, body};

struct Hello;

impl HttpService for Hello {
    fn call(self: Arc<Self>, _: Request<Body>, _: IpAddr) -> BoxFuture<'static, Result<Response<Body>, HttpError>> {
        Box::pin(std::future::ready(Ok(Response::new(body::full("hello")))))
    }
}

fn pod(fabric: &Fabric, name: &str, last: u8) -> PodNet {
    fabric.attach(PodIdentity {
        namespace: "default".into(),
        name: name.into(),
        hostname: name.into(),
        addresses: vec![IpAddr::from([10, 42, 0, last])],
    })
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn called(name: &str) -> Selector {
    Selector(vec![Requirement::In("name".into(), vec![name.into()])])
}

/// Pods `a` (10.42.0.2) and `b` (10.42.0.3), labelled with their names.
fn install(fabric: &Fabric, policies: &[NetworkPolicy]) {
    let facts = |name: &str, last| PodFacts {
        namespace: "default".into(),
        name: name.into(),
        labels: [("name".to_owned(), name.to_owned())].into(),
        addresses: vec![IpAddr::from([10, 42, 0, last])],
        ports: Vec::new(),
    };
    fabric.set_policies(Policies::build(policies, &[facts("a", 2), facts("b", 3)], &HashMap::new()));
}

fn deny(pods: Selector, ingress: bool, egress: bool) -> NetworkPolicy {
    let rules = |wanted: bool| wanted.then(Vec::new);
    let (ingress, egress) = (rules(ingress), rules(egress));
    NetworkPolicy { namespace: "default".into(), name: "deny".into(), pods, ingress, egress }
}

#[tokio::test]
async fn what_is_denied_is_denied_over_tcp_http_and_udp() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    let tcp = b.listen(at("0.0.0.0:80"), 0).unwrap();
    let _web = b.serve_http(8080, Arc::new(Hello)).unwrap();
    let (from, to) = (a.bind_udp(at("0.0.0.0:0")).unwrap(), b.bind_udp(at("0.0.0.0:53")).unwrap());
    let request = || Request::new(body::full(""));
    install(&fabric, &[deny(called("b"), true, false)]);
    let refused = a.connect(at("10.42.0.3:80")).await.unwrap_err();
    assert!(matches!(&refused, NetError::Denied(reason) if reason.contains("policy default/deny")), "{refused}");
    let refused = a.http("10.42.0.3:8080", request()).await.unwrap_err();
    assert!(matches!(refused, HttpError::Denied(_)), "{refused}");
    from.send(Bytes::from_static(b"x"), at("10.42.0.3:53")).unwrap();
    assert_eq!(to.try_recv().unwrap(), None);
    assert!(tcp.try_accept().unwrap().is_none());
    assert!(b.connect(at("10.42.0.3:80")).await.is_ok(), "a pod reaches itself");
    assert!(b.http("10.42.0.3:8080", request()).await.is_ok());
    assert!(fabric.connect(at("10.42.0.3:80")).is_ok(), "and its node reaches it");

    let peers = Some(vec![Peer::Pods { namespaces: None, pods: called("a") }]);
    let allow = NetworkPolicy { ingress: Some(vec![Rule { peers, ports: None }]), ..deny(called("b"), true, false) };
    install(&fabric, &[deny(called("b"), true, false), allow]);
    assert!(a.connect(at("10.42.0.3:80")).await.is_ok());
    assert_eq!(a.http("10.42.0.3:8080", request()).await.unwrap().status(), 200);
    from.send(Bytes::from_static(b"x"), at("10.42.0.3:53")).unwrap();
    assert!(to.try_recv().unwrap().is_some());
}

#[tokio::test]
async fn an_answer_needs_no_consent() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    let (client, server) = (a.bind_udp(at("0.0.0.0:5000")).unwrap(), b.bind_udp(at("0.0.0.0:53")).unwrap());
    install(&fabric, &[deny(called("a"), true, false), deny(called("b"), false, true)]);
    server.send(Bytes::from_static(b"unasked"), at("10.42.0.2:5000")).unwrap();
    assert_eq!(client.try_recv().unwrap(), None);
    client.send(Bytes::from_static(b"question"), at("10.42.0.3:53")).unwrap();
    let question = server.try_recv().unwrap().unwrap();
    server.send(Bytes::from_static(b"answer"), question.source).unwrap();
    assert_eq!(client.try_recv().unwrap().unwrap().bytes, "answer");
}

#[tokio::test]
async fn before_the_policies_are_read_nobody_talks() {
    let fabric = Fabric::new(Config::default());
    let (a, b) = (pod(&fabric, "a", 2), pod(&fabric, "b", 3));
    let _tcp = b.listen(at("0.0.0.0:80"), 0).unwrap();
    fabric.set_policies(Policies::unread());
    assert!(matches!(a.connect(at("10.42.0.3:80")).await, Err(NetError::Denied(_))));
    assert!(fabric.connect(at("10.42.0.3:80")).is_ok());
    install(&fabric, &[]);
    assert!(a.connect(at("10.42.0.3:80")).await.is_ok());
}
