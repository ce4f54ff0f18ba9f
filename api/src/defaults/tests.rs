//! What a bare object looks like once Kubernetes has filled it in.

use super::*;
use crate::catalog::Catalog;
use serde_json::json;

fn filled(name: &str, mut object: Value) -> Value {
    let catalog = Catalog::builtin();
    let resource = catalog.by_name(name).unwrap();
    apply(resource, &mut object);
    let once = object.clone();
    apply(resource, &mut object);
    assert_eq!(object, once, "applying defaults twice changes nothing");
    object
}

#[test]
fn rows_name_messages_and_fields_that_exist() {
    for (name, constants) in ROWS {
        let message = Schema::builtin().message(&format!("k8s.io/api/{name}")).unwrap_or_else(|| panic!("{name}"));
        for (field, _) in *constants {
            assert!(message.field(field).is_some(), "{name}.{field}");
        }
    }
}

#[test]
fn a_pod() {
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [
        {"name": "a", "image": "web", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"port": 80}}}],
        "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}]}});
    let pod = filled("pods", pod);
    let expected = json!({
        "containers": [{
            "name": "a", "image": "web", "imagePullPolicy": "Always",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "1", "memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        }],
        "volumes": [{"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
        "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
        "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
    });
    assert_eq!(pod["spec"], expected);
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
}

#[test]
fn images_without_a_tag_are_pulled_always() {
    for (image, policy) in [
        ("web", "Always"),
        ("web:latest", "Always"),
        ("host:5000/web", "Always"),
        ("host:5000/web:1", "IfNotPresent"),
        ("web@sha256:00", "IfNotPresent"),
        ("web:1.2", "IfNotPresent"),
    ] {
        let pod = filled("pods", json!({"spec": {"containers": [{"name": "a", "image": image}]}}));
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn classes_of_service() {
    let class = |resources: Value| {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "b", "resources": resources}]}});
        filled("pods", pod)["status"]["qosClass"].clone()
    };
    assert_eq!(class(json!({})), "BestEffort");
    assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
    assert_eq!(class(json!({"limits": {"cpu": "1"}})), "Burstable");
    assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
    assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})), "Burstable");
}

#[test]
fn a_deployment_and_its_template() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "b:1"}]}});
    let deployment = filled("deployments.apps", json!({"spec": {"template": template}}));
    let spec = &deployment["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!((&spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]), (&json!(10), &json!(600)));
    let pod = &spec["template"]["spec"];
    assert_eq!((&pod["securityContext"], &pod["restartPolicy"]), (&json!({}), &json!("Always")));
    assert_eq!(pod["enableServiceLinks"], Value::Null, "a pod's own default, not a template's");
    let recreate = filled("deployments.apps", json!({"spec": {"strategy": {"type": "Recreate"}}}));
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn other_workloads() {
    let spec = |name: &str, spec: Value| filled(name, json!({"spec": spec}))["spec"].clone();
    let stateful = spec("statefulsets.apps", json!({}));
    assert_eq!(stateful["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
    assert_eq!(
        stateful["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    let daemon = spec("daemonsets.apps", json!({}));
    assert_eq!(daemon["updateStrategy"]["rollingUpdate"], json!({"maxUnavailable": 1, "maxSurge": 0}));
    let job = spec("jobs.batch", json!({}));
    assert_eq!((&job["completions"], &job["parallelism"], &job["backoffLimit"]), (&json!(1), &json!(1), &json!(6)));
    let job = spec("jobs.batch", json!({"completions": 3}));
    assert_eq!((&job["completions"], &job["parallelism"]), (&json!(3), &json!(1)));
    let job = spec("jobs.batch", json!({"parallelism": 3}));
    assert_eq!((&job["completions"], &job["parallelism"]), (&Value::Null, &json!(3)));
    let cron = spec(
        "cronjobs.batch",
        json!({"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}}),
    );
    assert_eq!(cron["concurrencyPolicy"], "Allow");
    assert_eq!(cron["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
}

#[test]
fn services() {
    let service = filled("services", json!({"spec": {"ports": [{"port": 80}]}}));
    let expected = json!({
        "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
        "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
    });
    assert_eq!(service["spec"], expected);
    let balancer = filled("services", json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}}));
    assert_eq!(balancer["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(balancer["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(balancer["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    let external = filled("services", json!({"spec": {"type": "ExternalName"}}));
    assert_eq!(external["spec"], json!({"type": "ExternalName", "sessionAffinity": "None"}));
}

#[test]
fn the_rest() {
    let namespace = filled("namespaces", json!({"metadata": {"name": "a"}}));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "a"}));
    assert_eq!(namespace["status"], json!({"phase": "Active"}));
    let secret = filled("secrets", json!({"data": {"a": "AA==", "b": "AA=="}, "stringData": {"b": "hello"}}));
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "AA==", "b": "aGVsbG8="}}));
    let policy = filled(
        "networkpolicies.networking.k8s.io",
        json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}}),
    );
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    let binding = filled(
        "rolebindings.rbac.authorization.k8s.io",
        json!({"roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}),
    );
    assert_eq!(binding["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(binding["subjects"][1], json!({"kind": "ServiceAccount", "name": "s"}));
    let range = filled(
        "limitranges",
        json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"memory": "1Mi"}}]}}),
    );
    assert_eq!(range["spec"]["limits"][0]["defaultRequest"], json!({"cpu": "1", "memory": "1Mi"}));
}
