//! Rust's `kube`, as its users have it: inside pods, over a watch whose connection breaks, and as candidates for a Lease.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, AttachParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::harness::{Cluster, PATIENCE};

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A client of the cluster, through another address of it where one is given.
async fn client(cluster: &Cluster, through: Option<SocketAddr>) -> Client {
    let mut kubeconfig = Kubeconfig::read_from(cluster.data_dir().join("kubeconfig")).unwrap();
    if let Some(address) = through {
        for named in &mut kubeconfig.clusters {
            named.cluster.as_mut().unwrap().server = Some(format!("https://{address}"));
        }
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

#[test]
fn kube_reaches_into_pods() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let pods: Api<Pod> = Api::default_namespaced(client(&cluster, None).await);
        let tools = json!({"metadata": {"name": "tools"}, "spec": {"containers": [
            {"name": "tools", "image": "toolbox", "command": ["sleep", "3600"]},
        ]}});
        pods.create(&PostParams::default(), &of(tools)).await.unwrap();
        let running = await_condition(pods.clone(), "tools", conditions::is_pod_running());
        timeout(PATIENCE, running).await.expect("the pod to run").unwrap();

        for (program, input, said, status) in [
            (&["echo", "hello", "you"][..], None, "hello you\n", "Success"),
            (&["false"], None, "", "Failure"),
            (&["wc", "-c"], Some("twelve bytes"), "12\n", "Success"),
        ] {
            let options = AttachParams::default().stdin(input.is_some()).stderr(false);
            let mut ran = pods.exec("tools", program.iter().copied(), &options).await.unwrap();
            if let Some(input) = input {
                let mut stdin = ran.stdin().unwrap();
                stdin.write_all(input.as_bytes()).await.unwrap();
                stdin.shutdown().await.unwrap();
            }
            let (mut out, mut written) = (ran.stdout().unwrap(), String::new());
            let ended = ran.take_status().unwrap();
            timeout(PATIENCE, out.read_to_string(&mut written)).await.expect("an end").unwrap();
            let ended = timeout(PATIENCE, ended).await.expect("a status").unwrap();
            assert_eq!((written.trim_start(), ended.status.as_deref()), (said, Some(status)), "{program:?}");
        }

        let hello = pods.list(&ListParams::default().labels("app=hello")).await.unwrap();
        let hello = hello.items[0].metadata.name.clone().unwrap();
        let mut forward = pods.portforward(&hello, &[8080]).await.unwrap();
        let mut stream = forward.take_stream(8080).unwrap();
        stream.write_all(b"GET /?name=kube HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("hello, kube\n"), "{answer}");
    });
}

/// Passes connections on to the cluster, and breaks all of them when it is told to.
struct Cable {
    address: SocketAddr,
    cuts: watch::Sender<usize>,
    connections: Arc<AtomicUsize>,
}

impl Cable {
    async fn to(cluster: &Cluster) -> Self {
        let kubeconfig = Kubeconfig::read_from(cluster.data_dir().join("kubeconfig")).unwrap();
        let server = kubeconfig.clusters[0].cluster.as_ref().unwrap().server.clone().unwrap();
        let server = server.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cable =
            Self { address: listener.local_addr().unwrap(), cuts: watch::Sender::new(0), connections: Arc::default() };
        let (cuts, connections) = (cable.cuts.clone(), cable.connections.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (mut cut, server) = (cuts.subscribe(), server.clone());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(&server).await.unwrap();
                    tokio::select! {
                        _ = cut.changed() => {}
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        cable
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

#[test]
fn a_watch_of_kube_outlives_its_connection() {
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cable = Cable::to(&cluster).await;
        let maps: Api<ConfigMap> = Api::default_namespaced(client(&cluster, None).await);
        let made = json!({"metadata": {"name": "settings"}, "data": {"number": "0"}});
        maps.create(&PostParams::default(), &of(made)).await.unwrap();
        let watched: Api<ConfigMap> = Api::default_namespaced(client(&cluster, Some(cable.address)).await);
        let config = watcher::Config::default().fields("metadata.name=settings");
        // Errors are what the library tells of the broken connection before it goes on by itself.
        let seen = watcher(watched, config).default_backoff().applied_objects();
        let mut seen = seen.filter_map(async |found| Some(found.ok()?.data?.remove("number")?)).boxed();
        for number in 0..4 {
            let said = timeout(PATIENCE, seen.next()).await.expect("the change to be seen");
            assert_eq!(said, Some(number.to_string()));
            // It breaks before the next change: what happens meanwhile is not missed, and nothing comes twice.
            cable.cut();
            let next = json!({"data": {"number": (number + 1).to_string()}});
            maps.patch("settings", &PatchParams::default(), &Patch::Merge(next)).await.unwrap();
        }
        assert!(cable.connections.load(Ordering::Relaxed) > 3, "the connection was not made again");
    });
}

/// Takes a Lease that nobody holds, as candidates do; whoever is too late does not get it.
async fn take(leases: &Api<Lease>, holder: String) -> Option<String> {
    let mut lease = leases.get("controller").await.unwrap();
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_ref().is_some_and(|holder| !holder.is_empty()) {
        return None;
    }
    spec.holder_identity = Some(holder.clone());
    spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
    match leases.replace("controller", &PostParams::default(), &lease).await {
        Ok(_) => Some(holder),
        Err(kube::Error::Api(late)) if late.code == 409 => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn one_of_many_candidates_leads() {
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let leases: Api<Lease> = Api::default_namespaced(client(&cluster, None).await);
        let made = json!({"metadata": {"name": "controller"}, "spec": {"leaseDurationSeconds": 15}});
        leases.create(&PostParams::default(), &of(made)).await.unwrap();
        for term in 1..=5 {
            let candidates = (0..16).map(|number| take(&leases, format!("candidate-{number}")));
            let leaders: Vec<String> = futures::future::join_all(candidates).await.into_iter().flatten().collect();
            assert_eq!(leaders.len(), 1, "{leaders:?} lead");
            let held = leases.get("controller").await.unwrap().spec.unwrap();
            assert_eq!((held.holder_identity.as_ref(), held.lease_transitions), (Some(&leaders[0]), Some(term)));
            let free = json!({"spec": {"holderIdentity": ""}});
            leases.patch("controller", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
        }
    });
}
