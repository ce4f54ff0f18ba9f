//! A whole node against an API that answers as Kubernetes does: pods run, restart, end and are removed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use engine::EngineConfig;
use futures::channel::mpsc;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;

/// A command that ends well.
const JOB: &str = r#"
    (component
        (core module $code (func (export "run") (result i32) i32.const 0))
        (core instance $code (instantiate $code))
        (func $run (result (result)) (canon lift (core func $code "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.3" (instance $cli)))"#;

/// The API of a one-node cluster, and all that was written to it.
#[derive(Clone)]
struct FakeApi(Arc<Mutex<State>>);

struct State {
    pods: BTreeMap<String, Value>,
    watchers: Vec<mpsc::UnboundedSender<Value>>,
    written: watch::Sender<Vec<String>>,
}

impl FakeApi {
    fn new(pods: &[Value]) -> Self {
        let named = |pod: &Value| (pod["metadata"]["name"].as_str().unwrap().to_owned(), pod.clone());
        let pods = pods.iter().map(named).collect();
        Self(Arc::new(Mutex::new(State { pods, watchers: Vec::new(), written: watch::Sender::default() })))
    }

    fn client(&self) -> Client {
        let api = self.clone();
        let answer = move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let watching = head.uri.query().is_some_and(|query| query.contains("watch=true"));
                let (status, body) = api.0.lock().unwrap().answer(&head.method, head.uri.path(), &body, watching);
                let frames = body.map(|text| Ok::<_, Infallible>(Frame::data(text.into())));
                let mut response = Response::new(StreamBody::new(frames));
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    /// Changes a pod, as somebody else would.
    fn change(&self, name: &str, patch: &Value) {
        self.0.lock().unwrap().change(name, patch);
    }

    /// Waits until this was written, and returns everything up to it.
    async fn written(&self, wanted: &str) -> Vec<String> {
        let mut written = self.0.lock().unwrap().written.subscribe();
        let seen = written.wait_for(|lines| lines.iter().any(|line| line == wanted));
        let seen = tokio::time::timeout(Duration::from_secs(30), seen).await.map(|lines| lines.unwrap().clone());
        seen.unwrap_or_else(|_| panic!("{wanted:?} was never written, only {:?}", self.0.lock().unwrap().written))
    }
}

impl State {
    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        body: &Value,
        watching: bool,
    ) -> (StatusCode, BoxStream<'static, String>) {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let answer = match (method.as_str(), &parts[..]) {
            ("GET", ["api", "v1", "pods"]) if watching => {
                let (watcher, changes) = mpsc::unbounded();
                self.watchers.push(watcher);
                return (StatusCode::OK, changes.map(|change: Value| format!("{change}\n")).boxed());
            }
            ("GET", ["api", "v1", "pods"]) => {
                let items: Vec<&Value> = self.pods.values().collect();
                Some(json!({"metadata": {"resourceVersion": "1"}, "items": items}))
            }
            (_, ["api", "v1", "nodes", ..]) => {
                Some(json!({"metadata": {"name": "n1", "uid": "nu"}, "spec": {"podCIDR": "10.42.7.0/24"}}))
            }
            ("PATCH", ["api", "v1", "namespaces", _, "pods", name, "status"]) => {
                assert_eq!(body["metadata"]["uid"], self.pods[*name]["metadata"]["uid"]);
                self.change(name, body);
                let status = self.pods[*name]["status"].clone();
                self.write(format!("{name} {}", told(&status)));
                Some(self.pods[*name].clone())
            }
            ("DELETE", ["api", "v1", "namespaces", _, "pods", name]) => self.pods.remove(*name).inspect(|pod| {
                assert_eq!(body["preconditions"]["uid"], pod["metadata"]["uid"]);
                self.tell("DELETED", pod);
                self.write(format!("{name} deleted, grace {}", body["gracePeriodSeconds"]));
            }),
            ("POST", [.., "events"]) => {
                Some(json!({"metadata": {"name": "e"}, "involvedObject": body["involvedObject"]}))
            }
            ("PATCH", [.., "leases", _]) => Some(json!({"metadata": {"name": "n1"}})),
            _ => None,
        };
        let absent = || json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
        let status = if answer.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        (status, stream::iter([answer.unwrap_or_else(absent).to_string()]).boxed())
    }

    fn change(&mut self, name: &str, patch: &Value) {
        let mut pod = self.pods[name].clone();
        merge(&mut pod, patch);
        self.tell("MODIFIED", &pod);
        self.pods.insert(name.to_owned(), pod);
    }

    fn tell(&self, kind: &str, pod: &Value) {
        let mut pod = pod.clone();
        pod["metadata"]["resourceVersion"] = json!("2");
        for watcher in &self.watchers {
            let _ = watcher.unbounded_send(json!({"type": kind, "object": pod}));
        }
    }

    fn write(&self, line: String) {
        self.written.send_modify(|lines| lines.push(line));
    }
}

/// `Running 1x NodeRestarted`: the phase, restarts if any, and how the container ended or waits.
fn told(status: &Value) -> String {
    let container = &status["containerStatuses"][0];
    let mut words = vec![status["phase"].as_str().unwrap_or_default().to_owned()];
    if container["restartCount"] != 0 {
        words.push(format!("{}x", container["restartCount"]));
    }
    for reason in
        [&container["state"]["waiting"], &container["state"]["terminated"], &container["lastState"]["terminated"]]
    {
        words.extend(reason["reason"].as_str().map(str::to_owned));
    }
    words.join(" ")
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

fn pod(name: &str, image: &str, policy: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": "1"},
        "spec": {"nodeName": "n1", "restartPolicy": policy, "containers": [{"name": "main", "image": image}]},
    })
}

/// Runs a node on the API until it is told to stop.
fn start(api: &FakeApi, folder: &std::path::Path) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let images = Images::open(&folder.join("images")).unwrap();
    images.put("job:1", &wat::parse_str(JOB).unwrap(), &BTreeMap::new()).unwrap();
    let engine = Engine::new(EngineConfig::new(folder.join("cache"))).unwrap();
    let fabric = Fabric::new(network::Config::default());
    let config = NodeConfig::new("n1", folder.join("node"), api.client(), fabric, engine, images);
    let stop = CancellationToken::new();
    (stop.clone(), tokio::spawn(Node::new(config).run(stop)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_its_end_and_goes_when_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::new(&[pod("job", "job:1", "Never")]);
    let (stop, node) = start(&api, folder.path());
    api.written("job Succeeded Completed").await;
    // As if it had printed something.
    let output = folder.path().join("node/output/uid-job");
    std::fs::create_dir_all(output.join("main")).unwrap();
    let deletion = json!({"deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30});
    api.change("job", &json!({"metadata": deletion}));
    api.written("job deleted, grace 0").await;
    let swept = async {
        while output.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), swept).await.unwrap();
    stop.cancel();
    node.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ran_before_the_node_was_restarted_runs_again_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = pod("web", "job:1", "OnFailure");
    running["status"] = json!({"phase": "Running", "podIP": "10.42.7.77", "containerStatuses": [{
        "name": "main", "image": "job:1", "imageID": "", "ready": true, "restartCount": 2,
        "state": {"running": {"startedAt": "2020-01-01T00:00:00Z"}},
    }]});
    let mut done = pod("done", "job:1", "Never");
    done["status"] = json!({"phase": "Failed", "containerStatuses": [{
        "name": "main", "image": "job:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 3, "reason": "Error"}},
    }]});
    let api = FakeApi::new(&[running, done]);
    let (stop, node) = start(&api, folder.path());
    let lines = api.written("web Succeeded 3x Completed").await;
    // Statuses that follow each other quickly are written as one.
    let first = lines.iter().find(|line| line.starts_with("web")).unwrap();
    assert!(first.starts_with("web Running") && first.ends_with("NodeRestarted"), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("4x")), "started once: {lines:?}");
    assert_eq!(api.0.lock().unwrap().pods["web"]["status"]["podIP"], "10.42.7.77", "it keeps its address");
    assert_eq!(api.0.lock().unwrap().pods["done"]["status"]["containerStatuses"][0]["restartCount"], 0);
    stop.cancel();
    node.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_an_image_waits_and_goes_at_once_when_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut held = pod("held", "job:1", "Never");
    held["spec"]["volumes"] = json!([{"name": "settings", "configMap": {"name": "absent"}}]);
    let api = FakeApi::new(&[pod("ghost", "localhost:1/ghost:1", "Always"), pod("job", "job:1", "Never"), held]);
    let (stop, node) = start(&api, folder.path());
    api.written("ghost Pending ErrImagePull").await;
    api.written("job Succeeded Completed").await;
    // What lasts is said, though nothing comes of it.
    api.written("held Pending ContainerCreating").await;
    // Forced deletion: the object is gone before the node hears of it.
    let ghost = api.0.lock().unwrap().pods.remove("ghost").unwrap();
    api.0.lock().unwrap().tell("DELETED", &ghost);
    let deletion = json!({"deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
    api.change("job", &json!({"metadata": deletion}));
    let lines = api.written("job deleted, grace 0").await;
    assert!(!lines.iter().any(|line| line.starts_with("ghost deleted")), "{lines:?}");
    stop.cancel();
    node.await.unwrap();
}
