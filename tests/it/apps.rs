//! The README's first command, and every example of the repository.

use crate::harness::{Cluster, eventually};

#[test]
fn hello_http_answers() {
    let cluster = Cluster::start();
    let said = cluster.with("hello-http");
    assert!(said.contains("deployment.apps/hello created"), "{said}");
    assert!(said.contains("hello.localhost") && said.contains("→  200"), "{said}");
    assert!(said.contains("hello, world"), "{said}");
    assert_eq!(cluster.fetch_ok("hello.localhost", "/?name=you"), "hello, you\n");
    // Again: nothing has changed, nothing is done.
    let said = cluster.with("hello-http");
    assert!(said.contains("deployment.apps/hello unchanged"), "{said}");
}

#[test]
fn an_unknown_host_gets_a_plain_sentence() {
    let cluster = Cluster::start();
    let (status, body) = cluster.fetch("nobody.localhost", "/here").unwrap();
    assert_eq!(status, 404);
    assert!(body.contains("nobody.localhost") && body.contains("/here"), "{body}");
}

#[test]
fn counter_sees_its_configmap_and_its_secret() {
    let cluster = Cluster::start();
    cluster.with("counter");
    let shown = cluster.fetch_ok("counter.localhost", "/");
    assert!(shown.contains("greeting from the environment: good morning"), "{shown}");
    assert!(shown.contains("token from the environment: not-for-everybody"), "{shown}");
    assert!(shown.contains("step from a file: 5"), "{shown}");
    assert_eq!(cluster.fetch_ok("counter.localhost", "/count?from=4"), "9\n");
}

#[test]
fn visits_counts_in_instances_that_answer_several_at_once() {
    let cluster = Cluster::start();
    cluster.with("visits");
    // `up --with` has called it once already.
    let second = cluster.fetch_ok("visits.localhost", "/");
    assert!(second.contains("of this instance") && !second.starts_with("visit 1 "), "{second}");
    // A busy machine may let them come one after the other.
    eventually("three visits at once", || {
        let slow = std::thread::scope(|scope| {
            let slow: Vec<_> = (0..3).map(|_| scope.spawn(|| cluster.fetch_ok("visits.localhost", "/slow"))).collect();
            slow.into_iter().map(|visit| visit.join().unwrap()).collect::<String>()
        });
        slow.contains(", 3 at once").then_some(())
    });
}

#[test]
fn batch_job_completes_and_its_output_is_kept() {
    let cluster = Cluster::start();
    let said = cluster.with("batch-job");
    assert!(said.contains("the sum of 1 to 1000000 is 500000500000"), "{said}");
    let job = cluster.get("job", "batch-job");
    assert_eq!(job["status"]["succeeded"], 1, "{job}");
    let logs = cluster.kogia(&["logs", "job/batch-job"]).ok();
    assert_eq!(logs, "the sum of 1 to 1000000 is 500000500000\n");
}

#[test]
fn a_failing_program_keeps_its_exit_code() {
    let cluster = Cluster::start();
    cluster.with("batch-job");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: fails}, spec: {restartPolicy: Never, containers: \
               [{name: c, image: 'batch-job:0.1.0', args: ['--exit', '3']}]}}";
    cluster.apply(pod).ok();
    let pod =
        eventually("the pod to fail", || cluster.find("pod", "fails").filter(|pod| pod["status"]["phase"] == "Failed"));
    let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&3.into(), &"Error".into()), "{pod}");
}
