//! Operators: one written with `kube`, unmodified, against a cluster, and one that is a component and runs in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{Cluster, Kubectl, eventually, root, run};

/// A child process that does not outlive the test.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The example, which `cargo test` builds with the tests; built here where somebody runs this test alone.
fn built() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_kogia")).with_file_name("examples").join("operator");
    if !program.exists() {
        let target = program.ancestors().nth(3).unwrap();
        let mut command = Command::new(env!("CARGO"));
        // With the features of all packages, so that nothing they share is built twice.
        command.args(["build", "--locked", "--workspace", "--example", "operator"]).current_dir(root());
        run(command.env("CARGO_TARGET_DIR", target)).ok();
    }
    program
}

#[test]
fn an_operator_cannot_tell_this_from_kubernetes() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let program = built();
    let cluster = Cluster::start();
    let kubectl = |args: &[&str]| kubectl.run(&cluster, args);
    let log = fs::File::create(cluster.scratch().join("operator")).unwrap();
    let mut command = Command::new(program);
    command.env("KUBECONFIG", cluster.data_dir().join("kubeconfig"));
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let _operator = Operator(command.spawn().unwrap());
    let website = root().join("examples/operator/website.yaml");
    let website = website.to_str().unwrap();
    eventually("the operator's definition", || {
        (kubectl(&["get", "crd", "websites.examples.kogia.dev"]).code == Some(0)).then_some(())
    });
    kubectl(&["wait", "--for=condition=Established", "crd/websites.examples.kogia.dev", "--timeout=60s"]).ok();
    kubectl(&["apply", "-f", website]).ok();

    let show = |what: &str, path: &str| kubectl(&["get", what, "-o", &format!("jsonpath={path}")]).out;
    eventually("the deployment", || (show("deployment/hello", "{.spec.replicas}") == "2").then_some(()));
    eventually("the status", || (show("website/hello", "{.status.observedGeneration}") == "1").then_some(()));
    eventually("the directory", || {
        (show("configmap/websites", "{.data.hello}") == "hello from the operator").then_some(())
    });
    // A change goes down to the deployment, and what the schema forbids goes nowhere.
    kubectl(&["patch", "website", "hello", "--type=merge", "-p", r#"{"spec":{"replicas":1}}"#]).ok();
    eventually("the change", || (show("deployment/hello", "{.spec.replicas}") == "1").then_some(()));
    let refused = kubectl(&["patch", "website", "hello", "--type=merge", "-p", r#"{"spec":{"replicas":11}}"#]);
    assert!(refused.fails().contains("a website has at most ten replicas"));
    // What the operator owns comes back when somebody deletes it.
    kubectl(&["delete", "deployment", "hello", "--wait=true"]).ok();
    eventually("the deployment again", || (show("deployment/hello", "{.spec.replicas}") == "1").then_some(()));
    // The finalizer has the directory cleaned before the website goes; the deployment goes after it.
    kubectl(&["delete", "website", "hello", "--timeout=60s"]).ok();
    assert_eq!(show("configmap/websites", "{.data.hello}"), "");
    eventually("the deployment to go", || {
        kubectl(&["get", "deployment", "hello"]).err.contains("NotFound").then_some(())
    });
}

#[test]
fn an_operator_runs_in_the_cluster_it_looks_after() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let cluster = Cluster::start();
    cluster.with("operator-pod");
    let kubectl = |args: &[&str]| kubectl.run(&cluster, args);
    let show = |args: &[&str], path: &str| kubectl(&[args, &["-o", &format!("jsonpath={path}")]].concat()).out;
    let copy = |namespace: &str| show(&["-n", namespace, "get", "configmap", "settings"], "{.data.colour}");
    let copies = || show(&["get", "mirror", "settings"], "{.status.copies}");
    kubectl(&["create", "namespace", "north"]).ok();
    kubectl(&["create", "configmap", "settings", "--from-literal=colour=blue"]).ok();
    let mirror = "{apiVersion: examples.kogia.dev/v1, kind: Mirror, metadata: {name: settings}, \
                  spec: {source: settings, namespaces: [north, south]}}";
    cluster.apply(mirror).ok();
    eventually("the copy", || (copy("north") == "blue").then_some(()));
    eventually("the status", || (copies() == r#"["north"]"#).then_some(()));
    // A namespace that comes later gets its copy, and a source that changes changes its copies.
    kubectl(&["create", "namespace", "south"]).ok();
    eventually("the copy in the other namespace", || (copy("south") == "blue").then_some(()));
    eventually("the status of both", || (copies() == r#"["north","south"]"#).then_some(()));
    kubectl(&["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"red"}}"#]).ok();
    eventually("the change", || (copy("north") == "red" && copy("south") == "red").then_some(()));
    kubectl(&["patch", "mirror", "settings", "--type=merge", "-p", r#"{"spec":{"namespaces":["south"]}}"#]).ok();
    eventually("the copy to go", || copy("north").is_empty().then_some(()));
    eventually("the status of one", || (copies() == r#"["south"]"#).then_some(()));
    // A pod that begins anew goes on where the other was, and the finalizer has the copies go first.
    kubectl(&["delete", "pod", "-l", "app=mirror-operator", "--wait=true"]).ok();
    kubectl(&["delete", "mirror", "settings", "--timeout=60s"]).ok();
    assert_eq!(copy("south"), "");
    assert_eq!(show(&["get", "configmap", "settings"], "{.data.colour}"), "red");
    // It may do what its role says and no more.
    let account = "--as=system:serviceaccount:default:mirror-operator";
    assert_eq!(kubectl(&["auth", "can-i", "patch", "mirrors", account]).out.trim(), "yes");
    assert_eq!(kubectl(&["auth", "can-i", "get", "secrets", account]).out.trim(), "no");
}
