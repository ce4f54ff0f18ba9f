//! The drivers on a real store: what is asked for through the door is there a moment later.

use std::sync::Arc;
use std::time::Duration;

use api::{Object, View};
use objects::{DeleteOptions, Objects, Patch, Propagation, User, WriteOptions};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A door with drivers behind it and one node.
struct House {
    objects: Objects,
    who: User,
    options: WriteOptions,
    measured: http_api::Measured,
    _stop: DropGuard,
    _directory: tempfile::TempDir,
}

impl House {
    async fn open() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = raft_store::Store::open(raft_store::Config::single(directory.path())).await.expect("a new store");
        let objects = Objects::open(store).await.expect("an empty store");
        let stop = CancellationToken::new();
        let lost = http_api::Relay::default().lost();
        let measured = http_api::Measured::default();
        tokio::spawn(super::run(objects.clone(), "THE CA".to_owned(), lost, measured.clone(), stop.clone()));
        tokio::spawn(crate::scheduler_driver::run(objects.clone(), stop.clone()));
        let house = Self {
            objects,
            who: User::system("system:admin"),
            options: WriteOptions::manager("test"),
            measured,
            _stop: stop.drop_guard(),
            _directory: directory,
        };
        house.create("namespaces", "", json!({"metadata": {"name": "default"}})).await;
        let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady"}]);
        let status = json!({"capacity": room, "allocatable": room, "conditions": ready});
        house.create("nodes", "", json!({"metadata": {"name": "n1"}, "status": status})).await;
        house
    }

    async fn create(&self, resource: &str, namespace: &str, body: Value) {
        let row = self.objects.catalog().by_name(resource).expect("a known resource").clone();
        self.objects.create(&self.who, &row, namespace, body, &self.options).await.expect("a valid object");
    }

    async fn patch(&self, resource: &str, name: &str, subresource: Option<&str>, patch: Value) {
        let row = self.objects.catalog().by_name(resource).expect("a known resource").clone();
        let patch = Patch::Merge(patch);
        let patched = self.objects.patch(&self.who, &row, "default", name, subresource, patch, &self.options).await;
        patched.expect("a valid patch");
    }

    async fn delete(&self, resource: &str, name: &str, propagation: Propagation) {
        let row = self.objects.catalog().by_name(resource).expect("a known resource").clone();
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        self.objects.delete(&self.who, &row, "default", name, &options).await.expect("something to delete");
    }

    /// Waits until the picture is as wanted; ten seconds are for ever.
    async fn until(&self, what: &str, wanted: impl Fn(&View) -> bool) {
        let reached = async {
            let mut changes = self.objects.changes(self.objects.view().revision()).expect("a cursor at the end");
            while !wanted(&self.objects.view()) {
                changes.next().await.expect("the door stays open");
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), reached).await.is_err() {
            let view = self.objects.view();
            let all = view.resources().flat_map(|resource| view.list(resource));
            let all: Vec<String> = all.map(|object| object.value.to_string()).collect();
            panic!("never: {what}\n{}", all.join("\n"));
        }
    }

    /// What a node says of a pod that runs.
    async fn start_pods(&self) {
        for pod in pods(&self.objects.view()) {
            if pod.field("status.podIP").is_null() {
                let status = json!({
                    "phase": "Running", "podIP": "10.42.0.9", "podIPs": [{"ip": "10.42.0.9"}],
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                });
                self.patch("pods", pod.name(), Some("status"), json!({ "status": status })).await;
            }
        }
    }
}

fn pods(view: &View) -> Vec<Arc<Object>> {
    view.list_in("pods", "default").cloned().collect()
}

fn bound(view: &View) -> usize {
    pods(view).iter().filter(|pod| pod.field("spec.nodeName") == "n1").count()
}

fn count(view: &View, resource: &str, name: &str, path: &str) -> i64 {
    view.get(resource, "default", name).and_then(|object| object.field(path).as_i64()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_gets_its_pods_a_service_finds_them_and_all_of_it_goes() {
    let house = House::open().await;
    let template = |image: &str| {
        json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image, "resources": {"requests": {"cpu": "100m"}}}]},
        })
    };
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template("web:1")});
    house.create("deployments.apps", "default", json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let service = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    house.create("services", "default", json!({"metadata": {"name": "web"}, "spec": service})).await;
    house.until("three pods with a node", |view| bound(view) == 3).await;
    house.start_pods().await;
    let available = |view: &View| count(view, "deployments.apps", "web", "status.availableReplicas");
    house.until("three available", |view| available(view) == 3).await;
    let endpoints = |view: &View| {
        let slices = view.list_in("endpointslices.discovery.k8s.io", "default");
        let ready = |slice: &Arc<Object>| {
            let list = slice.field("endpoints").as_array().cloned().unwrap_or_default();
            list.iter().filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
        };
        slices.map(ready).sum::<usize>()
    };
    house.until("three endpoints", |view| endpoints(view) == 3).await;
    house.until("an account", |view| view.get("serviceaccounts", "default", "default").is_some()).await;

    house.patch("deployments.apps", "web", None, json!({"spec": {"template": template("web:2")}})).await;
    let updated = |view: &View| count(view, "deployments.apps", "web", "status.updatedReplicas");
    house.until("a first new pod", |view| updated(view) > 0).await;

    house.delete("services", "web", Propagation::Background).await;
    house.delete("deployments.apps", "web", Propagation::Background).await;
    house
        .until("only pods on their way out", |view| {
            let gone = ["deployments.apps", "replicasets.apps", "endpointslices.discovery.k8s.io", "endpoints"];
            gone.iter().all(|resource| view.count(resource) == 0)
                && pods(view).iter().all(|pod| pod.deletion_timestamp().is_some())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_counts_its_pods_and_a_namespace_empties() {
    let house = House::open().await;
    house.create("namespaces", "", json!({"metadata": {"name": "team"}})).await;
    house.until("an account", |view| view.get("serviceaccounts", "team", "default").is_some()).await;
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "sum", "image": "sum:1"}]});
    let spec = json!({"completions": 2, "parallelism": 2, "template": {"spec": pod}});
    house.create("jobs.batch", "default", json!({"metadata": {"name": "sum"}, "spec": spec})).await;
    house.until("two pods with a node", |view| bound(view) == 2).await;
    for pod in pods(&house.objects.view()) {
        house.patch("pods", pod.name(), Some("status"), json!({"status": {"phase": "Succeeded"}})).await;
    }
    house
        .until("a finished job", |view| {
            let job = view.get("jobs.batch", "default", "sum").expect("the job stays");
            job.field("status.conditions").to_string().contains("\"Complete\"")
                && job.field("status.succeeded") == 2
                && pods(view).iter().all(|pod| pod.finalizers().next().is_none())
        })
        .await;

    let row = house.objects.catalog().by_name("namespaces").expect("a known resource").clone();
    house.objects.delete(&house.who, &row, "", "team", &DeleteOptions::default()).await.expect("a namespace");
    house.until("no namespace", |view| view.get("namespaces", "", "team").is_none()).await;
    assert_eq!(house.objects.view().list_in("serviceaccounts", "team").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_counts_and_a_missed_run_is_made_up_for() {
    let house = House::open().await;
    let pod = json!({"containers": [{"name": "web", "image": "web:1"}]});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": pod});
    let spec = json!({"replicas": 2, "selector": {"app": "web"}, "template": template});
    house.create("replicationcontrollers", "default", json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    house.create("poddisruptionbudgets.policy", "default", json!({"metadata": {"name": "web"}, "spec": spec})).await;
    house.until("two pods with a node", |view| bound(view) == 2).await;
    house.start_pods().await;
    let allowed = |view: &View| count(view, "poddisruptionbudgets.policy", "web", "status.disruptionsAllowed");
    house.until("one disruption allowed", |view| allowed(view) == 1).await;

    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "tick", "image": "tick:1"}]});
    let spec = json!({"schedule": "@yearly", "jobTemplate": {"spec": {"template": {"spec": pod}}}});
    house.create("cronjobs.batch", "default", json!({"metadata": {"name": "tick"}, "spec": spec})).await;
    let status = json!({"status": {"lastScheduleTime": "2020-01-01T00:00:00Z"}});
    house.patch("cronjobs.batch", "tick", Some("status"), status).await;
    let ticking = |pod: &Arc<Object>| pod.field("spec.nodeName") == "n1" && pod.name().starts_with("tick-");
    house.until("a run", |view| pods(view).iter().any(ticking)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_is_told_and_its_end_lets_the_rest_in() {
    let house = House::open().await;
    let spec = json!({"hard": {"pods": "2"}});
    house.create("resourcequotas", "default", json!({"metadata": {"name": "few"}, "spec": spec})).await;
    let pod = json!({"containers": [{"name": "web", "image": "web:1"}]});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": pod});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    house.create("deployments.apps", "default", json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let failing = |view: &View| {
        let conditions = |object: &Arc<Object>| object.field("status.conditions").to_string();
        view.list("deployments.apps").any(|object| conditions(object).contains("\"ReplicaFailure\""))
    };
    house.until("two pods and the reason why not three", |view| pods(view).len() == 2 && failing(view)).await;
    house
        .until("an Event with the quota's words", |view| {
            let words = "is forbidden: exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2";
            view.list("events").any(|event| {
                let message = event.field("message").as_str().unwrap_or_default();
                event.field("reason") == "FailedCreate"
                    && message.starts_with("Error creating: pods \"web-")
                    && message.ends_with(words)
            })
        })
        .await;
    let told = house.objects.view();
    let created = told.list("events").filter(|event| event.field("reason") == "SuccessfulCreate").count();
    assert_eq!(created, 2, "nobody is told of a pod that was not made");

    house.patch("resourcequotas", "few", None, json!({"spec": {"hard": {"pods": "5"}}})).await;
    house.until("three pods and no complaint", |view| pods(view).len() == 3 && !failing(view)).await;
    house.delete("deployments.apps", "web", Propagation::Background).await;
    house.until("no pods asked for", |view| view.count("replicasets.apps") == 0).await;
    let used = |view: &View| {
        view.get("resourcequotas", "default", "few").map(|quota| quota.value["status"]["used"]["pods"].clone())
    };
    for pod in pods(&house.objects.view()) {
        house.patch("pods", pod.name(), Some("status"), json!({"status": {"phase": "Succeeded"}})).await;
    }
    house.until("an empty quota", |view| used(view) == Some(json!("0"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_follows_what_the_pods_use() {
    let house = House::open().await;
    let container = json!({"name": "web", "image": "web:1", "resources": {"requests": {"cpu": "100m"}}});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    house.create("deployments.apps", "default", json!({"metadata": {"name": "web"}, "spec": spec})).await;
    house.until("a pod with a node", |view| bound(view) == 1).await;
    house.start_pods().await;
    for pod in pods(&house.objects.view()) {
        // 2.4 s of processor time in the last 10 s.
        let at_ms = crate::clock::now_ms();
        let started = api::time::rfc3339(at_ms / 1000 * 1000 - 10_000);
        let figures = json!({
            "name": "web", "startTime": started, "cpu": {"usageCoreNanoSeconds": 2_400_000_000_u64},
            "memory": {"workingSetBytes": 1 << 20},
        });
        let told = json!({"podRef": {"namespace": "default", "name": pod.name()}, "containers": [figures]});
        house.measured.take("n1", &json!({"pods": [told]}), at_ms / 1000 * 1000);
    }
    let target = json!({"type": "Utilization", "averageUtilization": 80});
    let spec = json!({
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": 1, "maxReplicas": 5,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    });
    let scaler = json!({"metadata": {"name": "web"}, "spec": spec});
    house.create("horizontalpodautoscalers.autoscaling", "default", scaler).await;
    house.until("three pods", |view| bound(view) == 3).await;
    let told = |view: &View| {
        let words = "New size: 3; reason: cpu resource utilization (percentage of request) above target";
        view.list("events").any(|event| event.field("message") == words)
    };
    house.until("an Event that says why", told).await;
    let scaler = house.objects.view();
    let scaler = scaler.get("horizontalpodautoscalers.autoscaling", "default", "web").expect("the autoscaler stays");
    assert_eq!(scaler.field("status.desiredReplicas"), 3, "{}", *scaler.value);
    assert_eq!(scaler.value["status"]["currentMetrics"][0]["resource"]["current"]["averageUtilization"], 240);
}
