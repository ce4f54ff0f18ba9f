//! Calls to Services whose pods sleep.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Request, Response};
use tokio::io::AsyncReadExt;

use crate::limits::{HELD_PER_SERVICE_MAX, HELD_TIMEOUT};
use crate::services::{Endpoint, EndpointSlice, PortRef, Protocol, Service, ServicePort};
use crate::sleepers::{Caller, Marks, Sleeper, SleeperTable};
use crate::{
    Body, BoxFuture, Config, Fabric, HttpError, HttpService, NetError, PodIdentity, PodNet, ServiceTable, body,
};

const WEB: &str = "10.43.0.5:80";

/// A Service `web` over one Deployment `web`, with endpoints at these addresses.
fn install(fabric: &Fabric, endpoints: &[&str]) {
    let port =
        ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: Some(30080), h2c: false };
    let service = Service {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec!["10.43.0.5".parse().unwrap()],
        ports: vec![port],
        ..Service::default()
    };
    let endpoint = |address: &&str| Endpoint::ready_at(address.parse().unwrap());
    let slice = EndpointSlice {
        namespace: "default".into(),
        service: "web".into(),
        ports: vec![("http".into(), Protocol::Tcp, 8080)],
        endpoints: endpoints.iter().map(endpoint).collect(),
    };
    fabric.set_services(ServiceTable::build(vec![service], &[slice]));
}

fn sleeping() -> Fabric {
    let fabric = Fabric::new(Config::default());
    install(&fabric, &[]);
    let labels = [("app".to_owned(), "web".to_owned())];
    let caller = Caller {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec!["10.43.0.5".parse().unwrap()],
        selector: labels.clone().into(),
    };
    let sleeper = Sleeper { namespace: "default".into(), name: "web".into(), labels: labels.into() };
    fabric.set_sleepers(SleeperTable::build(&[caller], &[sleeper], &SleeperTable::default()));
    fabric
}

fn pod(fabric: &Fabric, last: u8) -> PodNet {
    fabric.attach(PodIdentity {
        namespace: "default".into(),
        name: format!("pod-{last}"),
        hostname: format!("pod-{last}"),
        addresses: vec![IpAddr::from([10, 42, 0, last])],
    })
}

struct Hello;

impl HttpService for Hello {
    fn call(self: Arc<Self>, _: Request<Body>, _: IpAddr) -> BoxFuture<'static, Result<Response<Body>, HttpError>> {
        Box::pin(async { Ok(Response::new(body::full("hello"))) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_held_until_a_pod_listens() {
    let fabric = sleeping();
    let client = pod(&fabric, 2);
    let destination: SocketAddr = WEB.parse().unwrap();
    let dialling = tokio::spawn(async move { client.connect(destination).await });
    let wanted = fabric.wanted().await;
    assert_eq!(wanted.into_iter().collect::<Vec<_>>(), [("default".to_owned(), "web".to_owned())]);
    // Ready before it listens, as pods without a probe are.
    let server = pod(&fabric, 9);
    install(&fabric, &["10.42.0.9"]);
    tokio::task::yield_now().await;
    assert!(!dialling.is_finished());
    let listener = server.listen("0.0.0.0:8080".parse().unwrap(), 0).unwrap();
    let mut conn = dialling.await.unwrap().unwrap();
    let mut marks = Marks::default();
    for _ in 0..2 {
        assert_eq!(fabric.sleepers().called(&mut marks).len(), 1, "it is being used");
    }
    drop(listener.accept().await.unwrap());
    assert_eq!(conn.read(&mut [0; 1]).await.unwrap(), 0);
    drop(conn);
    fabric.sleepers().called(&mut marks);
    assert!(fabric.sleepers().called(&mut marks).is_empty());
}

#[tokio::test(start_paused = true)]
async fn requests_of_pods_and_of_the_ingress_are_held_alike() {
    let fabric = sleeping();
    let client = pod(&fabric, 2);
    let guest = tokio::spawn(async move {
        client.http("10.43.0.5", Request::new(body::empty())).await.map(|response| response.status().as_u16())
    });
    let edge = fabric.clone();
    let ingress = tokio::spawn(async move {
        let port = PortRef::Number(80);
        edge.reach_service("default", "web", &port, IpAddr::from([10, 0, 0, 1])).await.0.map(drop)
    });
    let outside = fabric.clone();
    let node_port = tokio::spawn(async move { outside.reach_node_port(30080, IpAddr::from([10, 0, 0, 1])).await });
    fabric.wanted().await;
    let server = pod(&fabric, 9);
    let _bound = server.serve_http(8080, Arc::new(Hello)).unwrap();
    install(&fabric, &["10.42.0.9"]);
    assert_eq!(guest.await.unwrap().unwrap(), 200);
    ingress.await.unwrap().unwrap();
    assert!(node_port.await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_held_for_ever_and_not_everybody_at_once() {
    let fabric = sleeping();
    let client = pod(&fabric, 2);
    let destination: SocketAddr = WEB.parse().unwrap();
    let began = tokio::time::Instant::now();
    let refused = client.connect(destination).await.unwrap_err();
    assert_eq!(refused, NetError::ConnectionRefused);
    assert_eq!(began.elapsed().as_secs(), HELD_TIMEOUT.as_secs());

    let many: Vec<_> = (0..HELD_PER_SERVICE_MAX)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.connect(destination).await.map(drop) })
        })
        .collect();
    let door = fabric.sleepers().named("default", "web").unwrap().clone();
    while door.held().available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let began = tokio::time::Instant::now();
    assert_eq!(client.connect(destination).await.unwrap_err(), NetError::ConnectionRefused);
    assert_eq!(began.elapsed().as_secs(), 0, "the queue is full");
    for held in many {
        assert_eq!(held.await.unwrap(), Err(NetError::ConnectionRefused));
    }
    // Who is not a sleeper's Service is refused at once, as ever.
    fabric.set_sleepers(SleeperTable::default());
    assert_eq!(client.connect(destination).await.unwrap_err(), NetError::ConnectionRefused);
}
