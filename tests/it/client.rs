//! The built-in client commands print what kubectl prints.

use crate::harness::{Cluster, Kubectl, eventually};

#[test]
fn the_built_in_client_does_what_kubectl_does() {
    let cluster = Cluster::start();
    cluster.with("hello-http");
    for args in [&["get", "deployments"][..], &["get", "svc", "-o", "wide"], &["get", "ingress,services"]] {
        let Some(kubectl) = Kubectl::newest() else { break };
        let columns = |text: &str| {
            let heading = text.lines().next().unwrap_or_default().to_owned();
            heading.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let (ours, theirs) = (cluster.kogia(args).ok(), kubectl.run(&cluster, args).ok());
        assert_eq!(columns(&ours), columns(&theirs), "{args:?}\n{ours}\n{theirs}");
    }
    let described = cluster.kogia(&["describe", "deployment", "hello"]).ok();
    assert!(described.contains("ScalingReplicaSet"), "{described}");
    assert_eq!(cluster.kogia(&["scale", "deployment/hello", "--replicas", "1"]).ok(), "deployment.apps/hello scaled\n");
    eventually("one pod to be left", || {
        (cluster.kogia(&["get", "pods", "-o", "name"]).ok().lines().count() == 1).then_some(())
    });
    let yaml = cluster.kogia(&["get", "deploy", "hello", "-o", "yaml"]).ok();
    assert!(yaml.contains("replicas: 1"), "{yaml}");
    assert_eq!(cluster.kogia(&["delete", "deploy/hello"]).ok(), "deployment.apps \"hello\" deleted\n");
    let said = cluster.kogia(&["get", "deploy", "hello"]).fails();
    assert!(said.contains(r#"(NotFound): deployments.apps "hello" not found"#), "{said}");
    let said = cluster.kogia(&["get", "widgets"]).fails();
    assert!(said.contains(r#"doesn't have a resource type "widgets""#), "{said}");
}
