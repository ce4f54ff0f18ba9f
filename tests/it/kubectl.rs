//! kubectl 1.27, 1.30 and the newest on the machine do with an app here what they do with it on Kubernetes.

use crate::harness::{Cluster, Following, Kubectl, eventually, root};

#[test]
fn kubectl_tells_what_is_served() {
    let cluster = Cluster::start();
    for kubectl in Kubectl::all() {
        let version = kubectl.run(&cluster, &["version"]).ok();
        assert!(version.contains("Server Version") && version.contains("v1.33."), "{version}");
        let resources = kubectl.run(&cluster, &["api-resources"]).ok();
        for line in ["pods ", "deployments ", "services ", "ingresses ", "configmaps ", "leases "] {
            assert!(resources.lines().any(|other| other.starts_with(line)), "{line} in\n{resources}");
        }
        let explained = kubectl.run(&cluster, &["explain", "deployment.spec.replicas"]).ok();
        assert!(explained.contains("replicas") && explained.contains("integer"), "{explained}");
        let explained = kubectl.run(&cluster, &["explain", "pod.spec.containers"]).ok();
        assert!(explained.contains("image") && explained.contains("Container"), "{explained}");
    }
}

#[test]
fn kubectl_drives_the_example_from_apply_to_delete() {
    let kubectls = Kubectl::all();
    if kubectls.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    // The image is in the store; the objects are kubectl's to create.
    cluster.with("hello-http");
    cluster.kogia(&["delete", "deployment/hello"]).ok();
    cluster.kogia(&["delete", "service/hello"]).ok();
    cluster.kogia(&["delete", "ingress/hello"]).ok();
    for kubectl in &kubectls {
        drive(&cluster, kubectl);
    }
}

fn drive(cluster: &Cluster, kubectl: &Kubectl) {
    let manifest = root().join("examples/hello-http/app.yaml");
    let manifest = manifest.to_str().unwrap();
    let run = |args: &[&str]| kubectl.run(cluster, args);

    let diff = run(&["diff", "-f", manifest]);
    assert_eq!(diff.code, Some(1), "kubectl {} diff before apply: {}{}", kubectl.version, diff.out, diff.err);
    let applied = run(&["apply", "-f", manifest]).ok();
    for line in ["deployment.apps/hello created", "service/hello created", "ingress.networking.k8s.io/hello created"] {
        assert!(applied.contains(line), "{applied}");
    }
    run(&["rollout", "status", "deployment/hello", "--timeout=90s"]).ok();
    run(&["wait", "--for=condition=Available", "deployment/hello", "--timeout=90s"]).ok();
    assert_eq!(run(&["diff", "-f", manifest]).code, Some(0));
    assert!(run(&["apply", "-f", manifest]).ok().contains("deployment.apps/hello unchanged"));
    assert_eq!(cluster.fetch_ok("hello.localhost", "/?name=you"), "hello, you\n");

    tables(&run(&["get", "deployments,pods,services,ingress,events"]).ok());
    let yaml = run(&["get", "deployment", "hello", "-o", "yaml"]).ok();
    assert!(yaml.contains("kind: Deployment") && yaml.contains("progressDeadlineSeconds: 600"), "{yaml}");
    let described = run(&["describe", "deployment", "hello"]).ok();
    assert!(described.contains("3 desired | 3 updated | 3 total | 3 available"), "{described}");
    let described = run(&["describe", "pods", "-l", "app=hello"]).ok();
    assert!(described.contains("Successfully assigned") && described.contains("Started"), "{described}");

    run(&["scale", "deployment", "hello", "--replicas=5"]).ok();
    run(&["wait", "deployment/hello", "--for=jsonpath={.status.readyReplicas}=5", "--timeout=90s"]).ok();
    let watch = Following::start(kubectl.command(cluster, &["get", "deployment", "hello", "--watch"]));
    watch.line("the watch's first row", |line| line.starts_with("hello") && line.contains("5/5"));
    run(&["scale", "deployment", "hello", "--replicas=2"]).ok();
    watch.line("the watch's last row", |line| line.contains("2/2"));

    rollout(cluster, kubectl);

    run(&["delete", "-f", manifest, "--timeout=90s"]).ok();
    let gone = run(&["get", "deployment", "hello"]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.err.contains(r#"Error from server (NotFound): deployments.apps "hello" not found"#), "{}", gone.err);
    eventually("the pods to be collected", || {
        let pods = run(&["get", "pods", "-l", "app=hello", "-o", "name"]).ok();
        pods.is_empty().then_some(())
    });
}

fn tables(text: &str) {
    for heading in ["READY   UP-TO-DATE   AVAILABLE", "STATUS    RESTARTS", "CLUSTER-IP", "CLASS", "REASON"] {
        assert!(text.contains(heading), "{heading:?} in\n{text}");
    }
    assert!(text.contains("3/3") && text.contains("1/1     Running   0"), "{text}");
    assert!(text.contains("hello.localhost"), "{text}");
}

/// A new image that does not exist holds the rollout; undo brings the old one back; nothing answers 5xx meanwhile.
fn rollout(cluster: &Cluster, kubectl: &Kubectl) {
    let run = |args: &[&str]| kubectl.run(cluster, args);
    run(&["set", "image", "deployment/hello", "hello=no-such-image:1"]).ok();
    eventually("the new pod to say what is wrong", || {
        let pods = run(&["get", "pods", "-l", "app=hello"]).ok();
        (pods.contains("ImagePullBackOff") || pods.contains("ErrImagePull")).then_some(())
    });
    let stuck = run(&["rollout", "status", "deployment/hello", "--timeout=1s"]);
    assert_eq!(stuck.code, Some(1), "{}", stuck.out);
    assert_eq!(cluster.fetch_ok("hello.localhost", "/"), "hello, world\n");
    let history = run(&["rollout", "history", "deployment/hello"]).ok();
    assert!(history.contains("REVISION") && history.contains("\n2 "), "{history}");
    run(&["rollout", "undo", "deployment/hello"]).ok();
    run(&["rollout", "status", "deployment/hello", "--timeout=90s"]).ok();
    let image = run(&["get", "deployment", "hello", "-o", "jsonpath={.spec.template.spec.containers[0].image}"]).ok();
    assert_eq!(image, "hello-http:0.1.0");
}

#[test]
fn kubectl_follows_logs() {
    let cluster = Cluster::start();
    cluster.with("batch-job");
    for kubectl in Kubectl::all() {
        let run = |args: &[&str]| kubectl.run(&cluster, args);
        assert_eq!(run(&["logs", "job/batch-job"]).ok(), "the sum of 1 to 1000000 is 500000500000\n");
        assert_eq!(run(&["logs", "-f", "job/batch-job", "--tail=1"]).ok(), "the sum of 1 to 1000000 is 500000500000\n");
        let fails = ["run", "fails", "--image=batch-job:0.1.0", "--restart=Never", "--", "--exit", "3"];
        run(&fails).ok();
        let code = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
        eventually("the exit code", || (run(&["get", "pod", "fails", "-o", code]).ok() == "3").then_some(()));
        run(&["delete", "pod", "fails"]).ok();
    }
}

#[test]
fn the_documentations_shape_applies_unchanged_but_for_the_image() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    let manifest = include_str!("nginx.yaml");
    for kubectl in Kubectl::all() {
        let run = |args: &[&str]| kubectl.run(&cluster, args);
        kubectl.run_with(&cluster, &["apply", "-f", "-"], manifest).ok();
        run(&["rollout", "status", "deployment/nginx-deployment", "--timeout=90s"]).ok();
        assert_eq!(cluster.fetch_ok("nginx.example.com", "/testpath"), "hello, world\n");
        let stored: serde_json::Value =
            serde_json::from_str(&run(&["get", "deployment", "nginx-deployment", "-o", "json"]).ok()).unwrap();
        let container = &stored["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/");
        assert_eq!(container["readinessProbe"]["periodSeconds"], 5);
        assert_eq!(stored["metadata"]["labels"]["app"], "nginx");
        kubectl.run_with(&cluster, &["delete", "-f", "-"], manifest).ok();
    }
}
