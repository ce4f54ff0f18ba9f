//! Requests about single objects, discovery and documents: what is asked and what comes back.

use http::Method;
use serde_json::{Value, json};

use crate::harness::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let api = Api::start().await;
    let created = api.post(DEPLOYMENTS, &deployment("web")).await;
    assert_eq!(created.code, 201, "{}", created.text());
    assert_eq!(created.json()["spec"]["replicas"], 1);
    let path = format!("{DEPLOYMENTS}/web");
    let mut object = api.get(&path).await.json();
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("Deployment"), &json!("apps/v1")));

    object["spec"]["replicas"] = json!(3);
    let put = api.send(Method::PUT, &path, &[], object.to_string()).await;
    assert_eq!((put.code, put.json()["metadata"]["generation"].as_i64()), (200, Some(2)));
    let stale = api.send(Method::PUT, &path, &[], object.to_string()).await;
    assert_eq!((stale.code, stale.json()["reason"].as_str()), (409, Some("Conflict")));

    for (type_, patch, expected) in [
        ("application/merge-patch+json", json!({"spec": {"replicas": 4}}), 4),
        ("application/json-patch+json", json!([{"op": "replace", "path": "/spec/replicas", "value": 5}]), 5),
        ("application/strategic-merge-patch+json", json!({"spec": {"replicas": 6}}), 6),
    ] {
        let patched = api.send(Method::PATCH, &path, &[("content-type", type_)], patch.to_string()).await;
        assert_eq!((patched.code, patched.json()["spec"]["replicas"].as_i64()), (200, Some(expected)), "{type_}");
    }
    let applied = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  labels:\n    tier: front\n";
    let headers = [("content-type", "application/apply-patch+yaml")];
    let answer = api.send(Method::PATCH, &format!("{path}?fieldManager=me"), &headers, applied).await;
    assert_eq!(
        (answer.code, &answer.json()["metadata"]["labels"]["tier"]),
        (200, &json!("front")),
        "{}",
        answer.text()
    );
    assert_eq!(api.send(Method::PATCH, &path, &headers, applied).await.code, 422);

    let scale = api.get(&format!("{path}/scale")).await.json();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(6)));
    let merge = [("content-type", "application/merge-patch+json")];
    let scaled = api.send(Method::PATCH, &format!("{path}/scale"), &merge, r#"{"spec":{"replicas":2}}"#).await;
    assert_eq!((scaled.code, &scaled.json()["kind"]), (200, &json!("Scale")), "{}", scaled.text());
    assert_eq!(api.get(&path).await.json()["spec"]["replicas"], 2);

    let deleted = api.send(Method::DELETE, &path, &[], r#"{"propagationPolicy":"Background"}"#).await;
    assert_eq!((deleted.code, &deleted.json()["status"]), (200, &json!("Success")), "{}", deleted.text());
    assert_eq!(deleted.json()["details"]["uid"], object["metadata"]["uid"]);
    let missing = api.get(&path).await;
    assert_eq!((missing.code, missing.json()["message"].as_str()), (404, Some(r#"deployments.apps "web" not found"#)));
    api.close().await;
}

#[tokio::test]
async fn bad_requests_are_refused_in_kubernetes_words() {
    let api = Api::start().await;
    let map = json!({"metadata": {"name": "a"}, "dataa": {"x": "y"}}).to_string();
    let strict = api.send(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), &[], map.clone()).await;
    let message = strict.json()["message"].as_str().unwrap_or_default().to_owned();
    assert!(strict.code == 400 && message.contains(r#"unknown field "dataa""#), "{}", strict.text());
    let warned = api.send(Method::POST, MAPS, &[], map).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers["warning"], r#"299 - "unknown field \"dataa\"""#);

    let huge = format!(r#"{{"metadata":{{"name":"b"}},"data":{{"a":"{}"}}}}"#, "x".repeat(4 << 20));
    let html = [("accept", "text/html")];
    let xml = [("content-type", "application/xml")];
    let cases = [
        (api.post(MAPS, &json!({"metadata": {"name": "a"}})).await, 409, "AlreadyExists"),
        (api.post(MAPS, &json!({"metadata": {"name": "Not A Name"}})).await, 422, "Invalid"),
        (api.post(MAPS, &json!({"kind": "Secret", "metadata": {"name": "b"}})).await, 400, "BadRequest"),
        (api.send(Method::POST, MAPS, &[], "{").await, 400, "BadRequest"),
        (api.send(Method::POST, MAPS, &[], huge).await, 413, "RequestEntityTooLarge"),
        (api.send(Method::POST, MAPS, &xml, "<a/>").await, 415, "UnsupportedMediaType"),
        (api.send(Method::GET, MAPS, &html, "").await, 406, "NotAcceptable"),
        (api.send(Method::PATCH, &format!("{MAPS}/a"), &[], "{}").await, 415, "UnsupportedMediaType"),
        (api.send(Method::PUT, MAPS, &[], "{}").await, 405, "MethodNotAllowed"),
        (api.send(Method::POST, "/api/v1/configmaps", &[], "{}").await, 405, "MethodNotAllowed"),
        (api.get("/api/v1/namespaces/default/gizmos").await, 404, "NotFound"),
        (api.get("/nowhere").await, 404, "NotFound"),
        (api.get(&format!("{MAPS}?labelSelector=a%20b%20c")).await, 400, "BadRequest"),
        (api.get(&format!("{MAPS}?fieldSelector=spec.x%3Dy")).await, 400, "BadRequest"),
        (api.post(&format!("{MAPS}?dryRun=Perhaps"), &json!({"metadata": {"name": "c"}})).await, 422, "Invalid"),
        (api.get("/api/v1/namespaces/default/pods/none/log").await, 404, "NotFound"),
        (api.post("/api/v1/namespaces/none/configmaps", &json!({"metadata": {"name": "c"}})).await, 404, "NotFound"),
    ];
    for (index, (answer, code, reason)) in cases.iter().enumerate() {
        let json = answer.json();
        assert_eq!((answer.code, &json["reason"], &json["kind"]), (*code, &json!(reason), &json!("Status")), "{index}");
    }
    api.close().await;
}

#[tokio::test]
async fn dry_runs_leave_nothing_behind_and_yaml_is_read() {
    let api = Api::start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  a: b\n";
    let headers = [("content-type", "application/yaml")];
    let dry = api.send(Method::POST, &format!("{MAPS}?dryRun=All"), &headers, yaml).await;
    assert_eq!((dry.code, api.get(&format!("{MAPS}/y")).await.code), (201, 404));
    assert_eq!(api.send(Method::POST, MAPS, &headers, yaml).await.code, 201);
    assert_eq!(api.get(&format!("{MAPS}/y")).await.json()["data"]["a"], "b");
    api.close().await;
}

#[tokio::test]
async fn documents_are_served_and_cached_by_their_tag() {
    let api = Api::start().await;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let apis = api.send(Method::GET, "/apis?timeout=32s", &[("accept", aggregated)], "").await;
    assert_eq!(apis.headers["content-type"], "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    assert_eq!(apis.json()["kind"], "APIGroupDiscoveryList");
    let tag = apis.headers["etag"].to_str().unwrap().to_owned();
    let again = api.send(Method::GET, "/apis", &[("accept", aggregated), ("if-none-match", &tag)], "").await;
    assert_eq!((again.code, again.bytes.len()), (304, 0));
    assert_eq!(api.get("/api/v1/").await.json()["kind"], "APIResourceList");
    assert_eq!(api.get("/apis/apps").await.json()["preferredVersion"]["groupVersion"], "apps/v1");
    let version = api.get("/version/").await.json();
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("33")));
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(api.get(path).await.text(), "ok");
        assert!(api.get(&format!("{path}?verbose")).await.text().ends_with("check passed\n"));
    }
    let index = api.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = api.get(url).await;
    assert_eq!(document.headers["cache-control"], "public, immutable");
    assert!(document.json()["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    let gnostic = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let v2 = api.send(Method::GET, "/openapi/v2", &[("accept", gnostic), ("accept-encoding", "gzip")], "").await;
    assert_eq!((v2.code, v2.headers["content-type"].to_str().unwrap()), (200, gnostic.replace('@', ".").as_str()));
    assert_eq!(v2.headers["content-encoding"], "gzip");
    api.close().await;
}
