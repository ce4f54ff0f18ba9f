//! The stories of Kubernetes' tutorials, told with real kubectl: history and undo, data that stays, limits of a
//! namespace, a drained node, work that ends.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Cluster, Kubectl, eventually};

/// Asks the Service of `notes` until each of its three pods has answered what `fits`.
fn all_three(cluster: &Cluster, path: &str, fits: impl Fn(&str) -> bool) {
    let mut pods = BTreeSet::new();
    eventually(&format!("all three pods to answer {path}"), || {
        let (status, body) = cluster.fetch("notes.localhost", path)?;
        let pod = body.split(' ').next().unwrap_or_default().to_owned();
        if status == 200 && fits(&body) {
            pods.insert(pod);
        }
        (pods.len() == 3).then_some(())
    });
    assert_eq!(pods, ["notes-0", "notes-1", "notes-2"].map(str::to_owned).into());
}

fn ready(cluster: &Cluster, kind: &str, name: &str) -> i64 {
    cluster.get(kind, name)["status"]["readyReplicas"].as_i64().unwrap_or(0)
}

#[test]
fn data_of_a_statefulset_outlives_its_pods_and_the_process() {
    let mut cluster = Cluster::start();
    cluster.with("notes");
    eventually("three pods", || (ready(&cluster, "statefulset", "notes") == 3).then_some(()));
    all_three(&cluster, "/keep?buy+milk", |body| body.ends_with("keeps it\n"));
    let claim = cluster.get("persistentvolumeclaim", "data-notes-1");
    assert_eq!((&claim["status"]["phase"], &claim["spec"]["storageClassName"]), (&"Bound".into(), &"local".into()));
    let volume = claim["spec"]["volumeName"].as_str().unwrap().to_owned();
    let kept = |body: &str| body.contains("has kept:\n") && body.contains("buy milk\n");
    all_three(&cluster, "/", kept);

    let Some(kubectl) = Kubectl::newest() else { return };
    // Not `--wait`: kubectl looks for the pod, then begins to watch its name, and waits for ever for the end of a namesake
    // that was there before the watch.
    let uid = |pod: &str| cluster.find("pod", pod).map(|pod| pod["metadata"]["uid"].clone());
    let pods = ["notes-0", "notes-1", "notes-2"];
    let old = pods.map(uid);
    kubectl.run(&cluster, &["delete", "pods", "-l", "app=notes", "--wait=false"]).ok();
    eventually("other pods under the same names", || {
        pods.iter().zip(&old).all(|(pod, old)| uid(pod).is_some_and(|uid| Some(uid) != *old)).then_some(())
    });
    kubectl.run(&cluster, &["rollout", "status", "statefulset/notes", "--timeout=90s"]).ok();
    all_three(&cluster, "/", kept);

    cluster.kill();
    cluster.up();
    all_three(&cluster, "/", kept);
    assert_eq!(cluster.get("persistentvolumeclaim", "data-notes-1")["spec"]["volumeName"], *volume);

    // A claim in use is kept; without its pods it goes, and its volume and data with it.
    kubectl.run(&cluster, &["delete", "pvc", "data-notes-1", "--wait=false"]).ok();
    assert!(cluster.get("persistentvolumeclaim", "data-notes-1")["metadata"]["deletionTimestamp"].is_string());
    let folder = cluster.data_dir().join("node/volumes").join(&volume);
    assert!(folder.is_dir(), "{}", folder.display());
    kubectl.run(&cluster, &["delete", "statefulset", "notes"]).ok();
    eventually("the volume to go", || cluster.find("persistentvolume", &volume).is_none().then_some(()));
    assert!(!folder.exists(), "the data went before its volume");
    assert_eq!(cluster.get("persistentvolumeclaim", "data-notes-0")["status"]["phase"], "Bound");
}

#[test]
fn a_rollout_has_a_history_and_can_be_undone() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    let Some(kubectl) = Kubectl::newest() else { return };
    let image = || {
        let deployment = cluster.get("deployment", "hello");
        deployment["spec"]["template"]["spec"]["containers"][0]["env"].clone()
    };
    kubectl.run(&cluster, &["set", "env", "deployment/hello", "COLOUR=blue"]).ok();
    kubectl.run(&cluster, &["annotate", "deployment/hello", "kubernetes.io/change-cause=blue"]).ok();
    kubectl.run(&cluster, &["rollout", "status", "deployment/hello", "--timeout=90s"]).ok();
    assert_eq!(image()[0]["value"], "blue");
    let history = kubectl.run(&cluster, &["rollout", "history", "deployment/hello"]).ok();
    let revisions: Vec<&str> = history.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(revisions.ends_with(&["1", "2"]), "{history}");
    let undone = kubectl.run(&cluster, &["rollout", "undo", "deployment/hello"]).ok();
    assert_eq!(undone.trim(), "deployment.apps/hello rolled back");
    kubectl.run(&cluster, &["rollout", "status", "deployment/hello", "--timeout=90s"]).ok();
    assert!(image().is_null(), "{}", image());
    assert_eq!(cluster.fetch_ok("hello.localhost", "/"), "hello, world\n");
    let history = kubectl.run(&cluster, &["rollout", "history", "deployment/hello"]).ok();
    let revisions: Vec<&str> = history.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(revisions.ends_with(&["2", "3"]), "{history}");
}

#[test]
fn a_namespace_has_limits_and_says_so() {
    let cluster = Cluster::start();
    cluster.with("batch-job");
    let Some(kubectl) = Kubectl::newest() else { return };
    kubectl.run(&cluster, &["create", "namespace", "team"]).ok();
    kubectl.run(&cluster, &["create", "quota", "few", "-n", "team", "--hard=pods=1,limits.memory=64Mi"]).ok();
    let limits = "{apiVersion: v1, kind: LimitRange, metadata: {name: usual, namespace: team}, spec: {limits: \
                  [{type: Container, default: {memory: 16Mi}, max: {memory: 32Mi}}]}}";
    kubectl.run_with(&cluster, &["apply", "-f", "-"], limits).ok();
    let pod = |name: &str, limits: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: team}}, spec: {{containers: \
             [{{name: c, image: 'batch-job:0.1.0', resources: {{limits: {{{limits}}}}}}}]}}}}"
        )
    };
    let refused = kubectl.run_with(&cluster, &["create", "-f", "-"], &pod("large", "memory: 48Mi")).fails();
    let words = "pods \"large\" is forbidden: maximum memory usage per Container is 32Mi, but limit is 48Mi";
    assert!(refused.contains(words), "{refused}");
    kubectl.run_with(&cluster, &["create", "-f", "-"], &pod("first", "")).ok();
    let given = cluster.kogia(&["get", "pod", "first", "-n", "team", "-o", "json"]).ok();
    let given: Value = serde_json::from_str(&given).unwrap();
    assert_eq!(given["spec"]["containers"][0]["resources"]["limits"]["memory"], "16Mi");
    let refused = kubectl.run_with(&cluster, &["create", "-f", "-"], &pod("second", "")).fails();
    let words = "pods \"second\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1";
    assert!(refused.contains(words), "{refused}");
    let told = kubectl.run(&cluster, &["describe", "quota", "few", "-n", "team"]).ok();
    let line = told.lines().find(|line| line.starts_with("pods")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["pods", "1", "1"], "{told}");
    kubectl.run(&cluster, &["delete", "pod", "first", "-n", "team"]).ok();
    eventually("a place to be free", || {
        (kubectl.run_with(&cluster, &["create", "-f", "-"], &pod("second", "")).code == Some(0)).then_some(())
    });
}

#[test]
fn a_drain_waits_for_the_budget() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    let Some(kubectl) = Kubectl::newest() else { return };
    eventually("three pods", || (ready(&cluster, "deployment", "hello") == 3).then_some(()));
    kubectl.run(&cluster, &["create", "pdb", "hello", "--selector=app=hello", "--min-available=3"]).ok();
    eventually("the budget to be counted", || {
        (cluster.get("poddisruptionbudget", "hello")["status"]["currentHealthy"] == 3).then_some(())
    });
    let node = kubectl.run(&cluster, &["get", "nodes", "-o", "name"]).ok();
    let node = node.trim().trim_start_matches("node/");
    let refused = kubectl.run(&cluster, &["drain", node, "--ignore-daemonsets", "--timeout=3s"]).fails();
    assert!(refused.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{refused}");
    assert_eq!(ready(&cluster, "deployment", "hello"), 3);
    let patch = r#"{"spec":{"minAvailable":0}}"#;
    kubectl.run(&cluster, &["patch", "pdb", "hello", "--type=merge", "-p", patch]).ok();
    let drained = kubectl.run(&cluster, &["drain", node, "--ignore-daemonsets", "--timeout=90s"]).ok();
    assert!(drained.contains(&format!("node/{node} drained")), "{drained}");
    let waiting = kubectl.run(&cluster, &["get", "pods", "-l", "app=hello", "-o", "name"]).ok();
    assert_eq!(waiting.lines().count(), 3, "they wait for a node: {waiting}");
    kubectl.run(&cluster, &["uncordon", node]).ok();
    kubectl.run(&cluster, &["rollout", "status", "deployment/hello", "--timeout=90s"]).ok();
    assert_eq!(cluster.fetch_ok("hello.localhost", "/"), "hello, world\n");
}

#[test]
fn work_that_ends_runs_side_by_side_by_index_and_on_a_schedule() {
    let cluster = Cluster::start();
    cluster.with("batch-job");
    let Some(kubectl) = Kubectl::newest() else { return };
    let container = "{name: c, image: 'batch-job:0.1.0', args: ['--up-to', '10']}";
    let template = format!("{{spec: {{restartPolicy: Never, containers: [{container}]}}}}");
    let job = |name: &str, spec: &str| {
        let job = format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: {name}}}, spec: {{{spec}, template: {template}}}}}"
        );
        kubectl.run_with(&cluster, &["create", "-f", "-"], &job).ok();
        kubectl.run(&cluster, &["wait", "--for=condition=complete", "--timeout=90s", &format!("job/{name}")]).ok();
        cluster.get("job", name)["status"].clone()
    };
    assert_eq!(job("parallel", "completions: 4, parallelism: 2")["succeeded"], 4);
    let indexed = job("indexed", "completions: 3, parallelism: 3, completionMode: Indexed");
    assert_eq!((&indexed["succeeded"], &indexed["completedIndexes"]), (&3.into(), &"0-2".into()));

    let cron = format!(
        "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: tick}}, spec: {{schedule: '0 0 1 1 *', timeZone: \
         Europe/Berlin, jobTemplate: {{spec: {{template: {template}}}}}}}}}"
    );
    kubectl.run_with(&cluster, &["create", "-f", "-"], &cron).ok();
    kubectl.run(&cluster, &["create", "job", "now", "--from=cronjob/tick"]).ok();
    kubectl.run(&cluster, &["wait", "--for=condition=complete", "--timeout=90s", "job/now"]).ok();
    // The last of the year was missed: it is made up for.
    let status = r#"{"status":{"lastScheduleTime":"2020-01-01T00:00:00Z"}}"#;
    kubectl.run(&cluster, &["patch", "cronjob", "tick", "--subresource=status", "--type=merge", "-p", status]).ok();
    eventually("a run by the schedule", || {
        let jobs = kubectl.run(&cluster, &["get", "jobs", "-o", "name"]).ok();
        jobs.lines().any(|line| line.starts_with("job.batch/tick-")).then_some(())
    });
    let last = cluster.get("cronjob", "tick")["status"]["lastScheduleTime"].as_str().unwrap().to_owned();
    assert!(last.ends_with("-12-31T23:00:00Z"), "midnight in Berlin is an hour earlier in UTC: {last}");
}

#[test]
fn a_daemonset_is_on_every_node() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    let Some(kubectl) = Kubectl::newest() else { return };
    let set = "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent}, spec: {selector: {matchLabels: \
               {app: agent}}, template: {metadata: {labels: {app: agent}}, spec: {containers: \
               [{name: c, image: 'hello-http:0.1.0'}]}}}}";
    kubectl.run_with(&cluster, &["apply", "-f", "-"], set).ok();
    kubectl.run(&cluster, &["rollout", "status", "daemonset/agent", "--timeout=90s"]).ok();
    let status = cluster.get("daemonset", "agent")["status"].clone();
    assert_eq!((&status["desiredNumberScheduled"], &status["numberReady"]), (&1.into(), &1.into()));
    kubectl.run(&cluster, &["set", "env", "daemonset/agent", "A=1"]).ok();
    kubectl.run(&cluster, &["rollout", "status", "daemonset/agent", "--timeout=90s"]).ok();
    let history = kubectl.run(&cluster, &["rollout", "history", "daemonset/agent"]).ok();
    assert!(history.lines().any(|line| line.starts_with('2')), "{history}");
}
