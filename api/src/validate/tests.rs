//! Objects that are refused, and the words they are refused with.

use super::*;
use crate::catalog::Catalog;
use crate::defaults;

fn with(name: &str, mut object: Value) -> (std::sync::Arc<Resource>, Value) {
    let resource = Catalog::builtin().by_name(name).unwrap().clone();
    if object["metadata"].is_null() {
        object["metadata"] = json!({"name": "x"});
    }
    if resource.namespaced {
        object["metadata"]["namespace"] = json!("d");
    }
    defaults::apply(&resource, &mut object);
    (resource, object)
}

fn spell(causes: Vec<Cause>) -> Vec<String> {
    causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

fn created(name: &str, object: Value) -> Vec<String> {
    let (resource, object) = with(name, object);
    spell(create(&resource, &object))
}

fn updated(name: &str, old: Value, new: Value) -> Vec<String> {
    let ((resource, old), (_, new)) = (with(name, old), with(name, new));
    spell(update(&resource, &old, &new))
}

fn pod(spec: Value) -> Value {
    json!({"spec": spec})
}

fn one_container(extra: Value) -> Value {
    let mut container = json!({"name": "a", "image": "b"});
    container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    pod(json!({"containers": [container]}))
}

fn deployment(labels: Value) -> Value {
    json!({"spec": {"selector": {"matchLabels": labels}, "template":
        {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "b"}]}}}})
}

const NONE: [&str; 0] = [];

#[test]
fn metadata_of_any_kind() {
    let refused = |metadata: Value| created("configmaps", json!({"metadata": metadata}));
    assert_eq!(refused(json!({"name": "a.b"})), NONE);
    assert_eq!(refused(json!({"generateName": "a-"})), NONE);
    assert_eq!(refused(json!({})), ["metadata.name: Required value: name or generateName is required"]);
    assert!(
        refused(json!({"name": "A"}))[0]
            .starts_with("metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain")
    );
    assert!(
        refused(json!({"name": "a", "labels": {"b c": "d"}}))[0]
            .starts_with("metadata.labels: Invalid value: \"b c\": name part")
    );
    assert!(
        refused(json!({"name": "a", "labels": {"b": "-"}}))[0].starts_with("metadata.labels: Invalid value: \"-\"")
    );
    assert_eq!(
        refused(json!({"name": "a", "annotations": {"b": "x".repeat(300_000)}})),
        ["metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
    assert_eq!(refused(json!({"name": "a", "finalizers": ["mine"]})).len(), 1);
    assert_eq!(
        refused(json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]})),
        ["metadata.ownerReferences.uid: Invalid value: null: uid must not be empty"]
    );
    assert_eq!(created("clusterroles.rbac.authorization.k8s.io", json!({"metadata": {"name": "system:x"}})), NONE);
    assert_eq!(created("services", json!({"metadata": {"name": "1x"}, "spec": {"ports": [{"port": 80}]}})).len(), 1);
}

#[test]
fn pods() {
    assert_eq!(created("pods", one_container(json!({}))), NONE);
    assert_eq!(created("pods", pod(json!({}))), ["spec.containers: Required value"]);
    assert_eq!(
        created("pods", pod(json!({"containers": [{}]}))),
        ["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"]
    );
    let twice = pod(json!({"containers": [{"name": "a", "image": "b"}, {"name": "a", "image": "b"}]}));
    assert_eq!(created("pods", twice), ["spec.containers[1].name: Duplicate value: \"a\""]);
    let policy = pod(json!({"restartPolicy": "Maybe", "containers": [{"name": "a", "image": "b"}]}));
    assert_eq!(
        created("pods", policy),
        ["spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\""]
    );
    for (extra, expected) in [
        (
            json!({"imagePullPolicy": "x"}),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"x\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"ports": [{"containerPort": 70000}]}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (json!({"ports": [{}]}), "spec.containers[0].ports[0].containerPort: Required value"),
        (json!({"env": [{"value": "a"}]}), "spec.containers[0].env[0].name: Required value"),
        (
            json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            json!({"resources": {"requests": {"cpu": "-1"}}}),
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            json!({"resources": {"requests": {"foo": "1"}}}),
            "spec.containers[0].resources.requests: Invalid value: \"foo\": must be a standard resource type or fully qualified",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (json!({"livenessProbe": {}}), "spec.containers[0].livenessProbe: Required value: must specify a handler type"),
        (
            json!({"livenessProbe": {"successThreshold": 2, "tcpSocket": {"port": "http"}}}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
    ] {
        assert_eq!(created("pods", one_container(extra)), [expected]);
    }
}

#[test]
fn a_pod_is_mostly_fixed() {
    let old = || one_container(json!({"args": ["1"]}));
    let changed = |change: fn(&mut Value)| {
        let mut new = old();
        change(&mut new["spec"]);
        updated("pods", old(), new)
    };
    assert_eq!(changed(|_| {}), NONE);
    assert_eq!(
        changed(|spec| spec["containers"][0]["image"] = json!("b:2")).len(),
        1,
        "the pull policy's default changes, too"
    );
    let gated = |gates: Value| pod(json!({"schedulingGates": gates, "containers": [{"name": "a", "image": "b"}]}));
    assert_eq!(updated("pods", gated(json!([{"name": "g"}])), gated(Value::Null)), NONE);
    assert_eq!(updated("pods", gated(Value::Null), gated(json!([{"name": "g"}]))).len(), 1);
    let policy = |image: &str| one_container(json!({"image": image, "imagePullPolicy": "Never"}));
    assert_eq!(updated("pods", policy("b"), policy("c")), NONE);
    assert_eq!(changed(|spec| spec["activeDeadlineSeconds"] = json!(5)), NONE);
    assert_eq!(changed(|spec| spec["tolerations"] = json!([{"operator": "Exists"}])), NONE);
    assert!(
        changed(|spec| spec["containers"][0]["args"] = json!(["2"]))[0]
            .starts_with("spec: Forbidden: pod updates may not change fields other than")
    );
    assert!(changed(|spec| spec["nodeName"] = json!("n"))[0].starts_with("spec: Forbidden"));
    assert_eq!(
        changed(|spec| spec["containers"] = json!([{"name": "a", "image": "b"}, {"name": "c", "image": "d"}])),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn hooks_are_for_containers_that_stay_and_end_in_time() {
    let hooked = |hook: Value| created("pods", one_container(json!({"lifecycle": {"preStop": hook}})));
    for hook in [
        json!({"sleep": {"seconds": 30}}),
        json!({"sleep": {"seconds": 0}}),
        json!({"tcpSocket": {"port": 80}}),
        json!({"exec": {"command": ["true"]}}),
    ] {
        assert_eq!(hooked(hook), NONE);
    }
    assert_eq!(
        hooked(json!({"sleep": {"seconds": 31}})),
        ["spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
          terminationGracePeriodSeconds (30)"]
    );
    assert_eq!(
        hooked(json!({})),
        ["spec.containers[0].lifecycle.preStop: Required value: must specify a handler type"]
    );
    let init = |policy: Value| {
        let init = json!({"name": "i", "image": "b", "restartPolicy": policy,
            "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}});
        created("pods", pod(json!({"initContainers": [init], "containers": [{"name": "a", "image": "b"}]})))
    };
    assert_eq!(init(json!("Always")), NONE);
    assert_eq!(
        init(Value::Null),
        ["spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without \
          restartPolicy=Always"]
    );
}

#[test]
fn a_pods_parts_change_through_subresources() {
    let pod = |image: &str, cpu: &str, guests: Value| {
        let resources = json!({"requests": {"cpu": cpu}});
        json!({"spec": {"ephemeralContainers": guests, "containers":
            [{"name": "a", "image": image, "imagePullPolicy": "Never", "resources": resources}]}})
    };
    let changed = |part: &str, new: Value| {
        let guest = json!([{"name": "g", "image": "x"}]);
        let ((resource, old), (_, new)) = (with("pods", pod("b", "1", guest)), with("pods", new));
        spell(update_part(&resource, part, &old, &new))
    };
    let guests = |last: &str| json!([{"name": "g", "image": "x"}, {"name": last, "image": "x"}]);
    assert_eq!(changed("ephemeralcontainers", pod("b", "1", guests("h"))), NONE);
    assert_eq!(
        changed("ephemeralcontainers", pod("b", "1", guests("a"))),
        ["spec.ephemeralContainers[1].name: Duplicate value: \"a\""]
    );
    assert_eq!(
        changed("ephemeralcontainers", pod("b", "1", json!([]))),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"g\" may not be removed"]
    );
    assert_eq!(
        changed("ephemeralcontainers", pod("b", "1", json!([{"name": "g", "image": "y"}]))),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"g\" may not be changed"]
    );
    let guest = |extra: Value| {
        let mut guest = json!({"name": "h", "image": "x"});
        guest.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        changed("ephemeralcontainers", pod("b", "1", json!([{"name": "g", "image": "x"}, guest])))
    };
    assert_eq!(guest(json!({"targetContainerName": "a", "stdin": true, "tty": true, "resources": {}})), NONE);
    assert_eq!(
        guest(json!({"targetContainerName": "g"})),
        ["spec.ephemeralContainers[1].targetContainerName: Not found: \"g\""]
    );
    for (field, value) in [
        ("ports", json!([{"containerPort": 80}])),
        ("resources", json!({"limits": {"cpu": "1"}})),
        ("readinessProbe", json!({"tcpSocket": {"port": 80}})),
        ("lifecycle", json!({"preStop": {"sleep": {"seconds": 1}}})),
    ] {
        let refused =
            format!("spec.ephemeralContainers[1].{field}: Forbidden: cannot be set for an Ephemeral Container");
        assert_eq!(guest(json!({field: value})), [refused]);
    }
    let same = json!([{"name": "g", "image": "x"}]);
    assert_eq!(changed("resize", pod("b", "2", same.clone())), NONE);
    assert_eq!(
        changed("resize", pod("c", "2", same.clone())),
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
    assert_eq!(changed("status", pod("b", "1", same)), NONE);
}

#[test]
fn deployments() {
    assert_eq!(created("deployments.apps", deployment(json!({"app": "web"}))), NONE);
    let mut other = deployment(json!({"app": "web"}));
    other["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    assert_eq!(
        created("deployments.apps", other),
        [
            "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"
        ]
    );
    let mut none = deployment(json!({"app": "web"}));
    none["spec"]["selector"] = Value::Null;
    assert_eq!(created("deployments.apps", none), ["spec.selector: Required value"]);
    assert_eq!(
        created("deployments.apps", deployment(json!({})))[0],
        "spec.selector: Invalid value: {\"matchLabels\":{}}: empty selector is invalid for deployment"
    );
    let changed = |field: &str, value: Value| {
        let mut new = deployment(json!({"app": "web"}));
        new["spec"][field] = value;
        created("deployments.apps", new)
    };
    assert_eq!(
        changed("replicas", json!(-1)),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
    );
    assert_eq!(changed("strategy", json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}})).len(), 1);
    assert_eq!(changed("strategy", json!({"rollingUpdate": {"maxSurge": "x"}})).len(), 1);
    assert_eq!(changed("strategy", json!({"type": "Recreate", "rollingUpdate": {}})).len(), 1);
    assert_eq!(
        updated("deployments.apps", deployment(json!({"app": "a"})), deployment(json!({"app": "b"}))),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"]
    );
}

#[test]
fn jobs() {
    let job = |policy: &str| json!({"spec": {"template": {"spec": {"restartPolicy": policy, "containers": [{"name": "a", "image": "b"}]}}}});
    assert_eq!(created("jobs.batch", job("Never")), NONE);
    assert_eq!(
        created("jobs.batch", job("Always")),
        ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
    );
    let refused = updated("jobs.batch", job("Never"), job("OnFailure"));
    assert!(refused[0].starts_with("spec.template: Invalid value: ") && refused[0].ends_with(": field is immutable"));
    let cron = |schedule: &str| json!({"spec": {"schedule": schedule, "jobTemplate": job("Never")}});
    for good in ["*/5 * * * *", "0 0 1 JAN MON-FRI", "@daily", "@every 1h30m"] {
        assert_eq!(created("cronjobs.batch", cron(good)), NONE, "{good}");
    }
    for bad in ["", "* * * *", "@never", "TZ=UTC * * * * *", "a;b * * * *"] {
        assert_ne!(created("cronjobs.batch", cron(bad)), NONE, "{bad}");
    }
}

#[test]
fn services() {
    let service = |spec: Value| json!({"spec": spec});
    assert_eq!(created("services", service(json!({"ports": [{"port": 80}]}))), NONE);
    assert_eq!(created("services", service(json!({"clusterIP": "None"}))), NONE);
    for (spec, expected) in [
        (json!({}), "spec.ports: Required value"),
        (
            json!({"ports": [{"port": 0}]}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
        (
            json!({"type": "x", "ports": [{"port": 80}]}),
            "spec.type: Unsupported value: \"x\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (
            json!({"clusterIP": "x", "ports": [{"port": 80}]}),
            "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ),
    ] {
        let refused = created("services", service(spec));
        assert!(refused.iter().any(|cause| cause == expected), "{refused:?}");
    }
    let two = created("services", service(json!({"ports": [{"port": 80}, {"port": 81}]})));
    assert_eq!(two, ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"]);
    let at = |address: &str| service(json!({"clusterIP": address, "ports": [{"port": 80}]}));
    assert_eq!(
        updated("services", at("10.43.0.1"), at("10.43.0.2")),
        ["spec.clusterIPs[0]: Invalid value: [\"10.43.0.2\"]: may not change once set"]
    );
}

#[test]
fn ingresses() {
    let path = |path: Value| json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [path]}}]}});
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let name = "ingresses.networking.k8s.io";
    assert_eq!(created(name, path(json!({"path": "/", "pathType": "Prefix", "backend": backend}))), NONE);
    assert_eq!(
        created(name, json!({"spec": {}})),
        ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
    );
    assert_eq!(
        created(name, path(json!({"path": "x", "backend": {"service": {"name": "web"}}}))),
        [
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
            "spec.rules[0].http.paths[0].backend: Required value: port name or number is required",
        ]
    );
}

#[test]
fn data_and_access() {
    assert_eq!(
        updated("configmaps", json!({"immutable": true, "data": {"a": "1"}}), json!({"data": {"a": "2"}})),
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set"
        ]
    );
    assert_eq!(
        updated("secrets", json!({"type": "a"}), json!({"type": "b"})),
        ["type: Invalid value: \"b\": field is immutable"]
    );
    assert_eq!(created("configmaps", json!({"data": {"a/b": "1"}})).len(), 1);
    assert_eq!(
        created("secrets", json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})),
        ["data[tls.key]: Required value"]
    );
    let role = |rule: Value| created("roles.rbac.authorization.k8s.io", json!({"rules": [rule]}));
    assert_eq!(role(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})), NONE);
    assert_eq!(
        role(json!({"apiGroups": [""], "resources": ["pods"]})),
        ["rules[0].verbs: Required value: verbs must contain at least one value"]
    );
    let binding = |role: &str| json!({"roleRef": {"kind": "Role", "name": role}});
    assert_eq!(updated("rolebindings.rbac.authorization.k8s.io", binding("a"), binding("b")).len(), 1);
    let claim =
        |size: &str, mode: &str| json!({"spec": {"accessModes": [mode], "resources": {"requests": {"storage": size}}}});
    assert_eq!(created("persistentvolumeclaims", claim("1Gi", "ReadWriteOnce")), NONE);
    assert_eq!(updated("persistentvolumeclaims", claim("1Gi", "ReadWriteOnce"), claim("2Gi", "ReadWriteOnce")), NONE);
    assert_eq!(updated("persistentvolumeclaims", claim("1Gi", "ReadWriteOnce"), claim("1Gi", "ReadOnlyMany")).len(), 1);
}
