//! The walkthrough of the HorizontalPodAutoscaler, with real load: more pods while it lasts, fewer when it is over.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::harness::{Cluster, Kubectl, Over, eventually, fetch};

/// Clients that ask without pause.
const CLIENTS: usize = 2;

fn replicas(cluster: &Cluster) -> i64 {
    cluster.get("deployment", "hello")["spec"]["replicas"].as_i64().unwrap()
}

/// Asks the app all the time while `story` goes on.
fn under_load(cluster: &Cluster, story: impl FnOnce()) {
    let (over, failed) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let answer = fetch(cluster.http(), "hello.localhost", "/");
                    let good = answer.is_some_and(|(status, _)| status == 200);
                    failed.fetch_add(usize::from(!good), Ordering::Relaxed);
                }
            });
        }
        let _over = Over(&over);
        story();
    });
    assert_eq!(failed.into_inner(), 0, "replicas that come and go fail no request");
}

#[test]
fn replicas_follow_the_load_up_and_down() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    let Some(kubectl) = Kubectl::newest() else { return };
    let run = |line: &str| kubectl.run(&cluster, &line.split_whitespace().collect::<Vec<_>>()).ok();
    run("scale deployment hello --replicas=1");
    // So little is asked for that any load is much.
    run("set resources deployment hello --requests=cpu=5m");
    run("rollout status deployment hello --timeout=90s");

    run("autoscale deployment hello --cpu-percent=50 --min=1 --max=4");
    // Else fewer would be waited for for five minutes.
    let patient = r#"{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":0}}}}"#;
    kubectl.run(&cluster, &["patch", "hpa", "hello", "-p", patient]).ok();
    under_load(&cluster, || {
        eventually("as many replicas as may be", || (replicas(&cluster) == 4).then_some(()));
        run("rollout status deployment hello --timeout=90s");
        let shown = run("get hpa hello");
        assert!(shown.contains("Deployment/hello") && shown.contains("%/50%"), "{shown}");
        let described = run("describe hpa hello");
        for said in
            ["ScalingActive", "ValidMetricFound", "New size: ", "cpu resource utilization (percentage of request)"]
        {
            assert!(described.contains(said), "{said}: {described}");
        }
    });
    eventually("one replica again", || (replicas(&cluster) == 1).then_some(()));
    assert!(run("describe hpa hello").contains("All metrics below target"));
    run("delete hpa hello");

    // The same by what the Ingress answers each second.
    let by_requests = "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: requests}, spec: {\
        scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: hello}, minReplicas: 1, maxReplicas: 3, \
        behavior: {scaleDown: {stabilizationWindowSeconds: 0}}, metrics: [{type: Object, object: {\
        metric: {name: requests-per-second}, \
        describedObject: {apiVersion: networking.k8s.io/v1, kind: Ingress, name: hello}, \
        target: {type: AverageValue, averageValue: '2'}}}]}}";
    kubectl.run_with(&cluster, &["apply", "-f", "-"], by_requests).ok();
    under_load(&cluster, || {
        eventually("replicas for the requests", || (replicas(&cluster) == 3).then_some(()));
        let described = run("describe hpa requests");
        assert!(described.contains("Ingress metric requests-per-second above target"), "{described}");
        assert!(described.contains("\"requests-per-second\" on Ingress/hello"), "{described}");
    });
    eventually("one replica for none", || (replicas(&cluster) == 1).then_some(()));
}
