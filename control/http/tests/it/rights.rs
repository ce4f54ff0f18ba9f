//! Who may do what, and the output of containers through the relay.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_api::{Authenticator, Body, BoxError, Config, Relay, ServiceAccountTokens, StaticTokens};
use http_body_util::{BodyExt, Full};
use objects::User;
use serde_json::{Value, json};
use tower::util::BoxCloneSyncService;

use crate::harness::Api;

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn strangers_see_the_version_and_the_known_see_what_roles_say() {
    let bot = User { name: "bot".into(), ..User::default() };
    let tokens = Arc::new(StaticTokens::default().with("let-me-in", bot));
    let api = Api::with(Config { authenticator: tokens, ..Config::default() }).await;
    let stranger = api.anonymous();
    for (path, code) in [("/version", 200), ("/readyz", 200), ("/api", 401), (PODS, 401)] {
        assert_eq!(stranger.get(path).await.code, code, "{path}");
    }
    let token = |token: &str| format!("Bearer {token}");
    let bearer = token("let-me-in");
    assert_eq!(stranger.send(Method::GET, "/api", &[("authorization", &bearer)], "").await.code, 200);
    assert_eq!(stranger.send(Method::GET, "/version", &[("authorization", &token("guess"))], "").await.code, 401);

    let ann = api.as_user("ann", &["system:authenticated"]);
    let refused = ann.get(PODS).await.json();
    let words =
        r#"pods is forbidden: User "ann" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert_eq!((&refused["code"], &refused["message"]), (&json!(403), &json!(words)));
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "reader"}, "rules":
        [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]});
    let binding = json!({"metadata": {"name": "ann"}, "subjects":
        [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}});
    assert_eq!(api.post(&format!("{rbac}/roles"), &role).await.code, 201);
    assert_eq!(api.post(&format!("{rbac}/rolebindings"), &binding).await.code, 201);
    assert_eq!(ann.get(PODS).await.code, 200);
    assert_eq!(ann.get("/api/v1/pods").await.code, 403);
    let as_ann = [("impersonate-user", "ann")];
    assert_eq!(api.send(Method::GET, PODS, &as_ann, "").await.code, 200);
    assert_eq!(api.send(Method::GET, "/api/v1/secrets", &as_ann, "").await.code, 403);
    assert_eq!(ann.send(Method::GET, PODS, &[("impersonate-user", "bob")], "").await.code, 403);
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = ann.send(Method::POST, path, &[], review.to_string()).await;
    assert_eq!((answer.code, &answer.json()["status"]["allowed"]), (201, &json!(true)), "{}", answer.text());
    let who = ann.send(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &[], "{}").await;
    assert_eq!(who.json()["status"]["userInfo"]["username"], "ann", "{}", who.text());
    api.close().await;
}

#[tokio::test]
async fn rights_cannot_be_taken_by_writing_roles() {
    let api = Api::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let group = "rbac.authorization.k8s.io";
    let role = |name: &str, groups: &str, resources: &str, verbs: Value| json!({"metadata": {"name": name}, "rules": [{"apiGroups": [groups], "resources": [resources], "verbs": verbs}]});
    let bind = |name: &str, role: &str| {
        json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "apiGroup": group, "name": "ann"}],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": role}})
    };
    api.post(&format!("{rbac}/roles"), &role("roles", group, "*", json!(["*"]))).await;
    api.post(&format!("{rbac}/roles"), &role("patcher", "", "configmaps", json!(["patch", "update"]))).await;
    api.post(&format!("{rbac}/roles"), &role("all", "*", "*", json!(["*"]))).await;
    // `escalate` and `bind` are verbs, too; a role writer has neither.
    let writes = json!(["get", "create", "update", "patch"]);
    api.post(&format!("{rbac}/roles"), &role("writer", group, "*", writes)).await;
    api.post(&format!("{rbac}/rolebindings"), &bind("one", "writer")).await;
    api.post(&format!("{rbac}/rolebindings"), &bind("two", "patcher")).await;
    let ann = api.as_user("ann", &["system:authenticated"]);
    let post = async |path: &str, body: &Value| {
        ann.send(Method::POST, &format!("{rbac}/{path}"), &[], body.to_string()).await.code
    };
    assert_eq!(post("roles", &role("mine", "", "configmaps", json!(["patch"]))).await, 201);
    assert_eq!(post("roles", &role("more", "", "secrets", json!(["get"]))).await, 403);
    assert_eq!(post("rolebindings", &bind("three", "patcher")).await, 201);
    assert_eq!(post("rolebindings", &bind("four", "all")).await, 403);
    let merge = [("content-type", "application/merge-patch+json")];
    let more = role("mine", "*", "*", json!(["*"])).to_string();
    assert_eq!(ann.send(Method::PATCH, &format!("{rbac}/roles/mine"), &merge, more.clone()).await.code, 403);
    assert_eq!(ann.send(Method::PUT, &format!("{rbac}/roles/mine"), &[], more).await.code, 403);

    // A right to one name is no right to make others, whatever the query says.
    let mut named = role("named", "", "secrets", json!(["*"]));
    named["rules"][0]["resourceNames"] = json!(["mine"]);
    api.post(&format!("{rbac}/roles"), &named).await;
    api.post(&format!("{rbac}/rolebindings"), &bind("five", "named")).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for (query, code) in [("", 403), ("?fieldSelector=metadata.name%3Dmine", 200)] {
        assert_eq!(ann.get(&format!("{secrets}{query}")).await.code, code, "{query}");
        let other = r#"{"metadata":{"name":"other"}}"#;
        assert_eq!(ann.send(Method::POST, &format!("{secrets}{query}"), &[], other).await.code, 403, "{query}");
    }

    // Who may change but not create does not create by applying either.
    let apply = [("content-type", "application/apply-patch+yaml")];
    let map = "/api/v1/namespaces/default/configmaps/a";
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"x":"y"}}"#;
    assert_eq!(ann.send(Method::PATCH, &format!("{map}?fieldManager=m"), &apply, body).await.code, 403);
    assert_eq!(ann.send(Method::PUT, map, &[], body).await.code, 404);
    api.config_map("a", json!({})).await;
    assert_eq!(ann.send(Method::PATCH, &format!("{map}?fieldManager=m"), &apply, body).await.code, 200);
    api.close().await;
}

struct Broken;

impl Authenticator for Broken {
    fn authenticate(&self, _: &str) -> Option<User> {
        panic!("as a mistake of ours would")
    }
}

#[tokio::test]
async fn a_panic_is_an_answer_and_harms_nobody_else() {
    let api = Api::with(Config { authenticator: Arc::new(Broken), ..Config::default() }).await;
    let broken = api.anonymous().send(Method::GET, "/api", &[("authorization", "Bearer x")], "").await;
    assert_eq!((broken.code, &broken.json()["reason"]), (500, &json!("InternalError")));
    assert_eq!(api.get("/api").await.code, 200);
    api.close().await;
}

#[tokio::test]
async fn a_service_account_speaks_through_its_token() {
    let key = ServiceAccountTokens::generate().unwrap();
    let tokens = Arc::new(ServiceAccountTokens::from_pkcs8(&key).unwrap());
    let api = Api::with(Config { service_accounts: Some(tokens), ..Config::default() }).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    api.post(accounts, &json!({"metadata": {"name": "bot"}})).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let answer = api.post(&format!("{accounts}/bot/token"), &request).await;
    assert_eq!(answer.code, 201, "{}", answer.text());
    let bearer = format!("Bearer {}", answer.json()["status"]["token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str())];
    let refused = api.anonymous().send(Method::GET, PODS, &headers, "").await.json();
    assert!(refused["message"].as_str().unwrap().contains("system:serviceaccount:default:bot"), "{refused}");
    api.send(Method::DELETE, &format!("{accounts}/bot"), &[], "").await;
    assert_eq!(api.anonymous().send(Method::GET, PODS, &headers, "").await.code, 401);
    api.close().await;
}

/// A node that answers with what it was asked.
fn echo() -> BoxCloneSyncService<Request<Body>, Response<Body>, BoxError> {
    BoxCloneSyncService::new(tower::service_fn(|request: Request<Body>| async move {
        let text = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
        Ok::<_, BoxError>(Response::new(body))
    }))
}

#[tokio::test]
async fn output_comes_from_the_pods_node() {
    let relay = Relay::default();
    let attached = relay.attach("n1", http_api::Standing::Worker, echo());
    let api = Api::with(Config { node_relay: relay.clone(), ..Config::default() }).await;
    let pod = |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(api.post(PODS, &pod("web", "n1")).await.code, 201);
    assert_eq!(api.post(PODS, &pod("lost", "n2")).await.code, 201);
    let output = api.get(&format!("{PODS}/web/log?follow=true&tailLines=3")).await;
    assert_eq!((output.code, output.text().as_str()), (200, "/containerLogs/default/web/c?follow=true&tailLines=3"));
    assert_eq!(api.get(&format!("{PODS}/lost/log")).await.code, 500);
    relay.detach("n1", attached);
    assert_eq!(api.get(&format!("{PODS}/web/log")).await.code, 500);
    let exec = api.send(Method::POST, &format!("{PODS}/web/exec?command=ls"), &[], "").await;
    assert_eq!((exec.code, &exec.json()["kind"]), (400, &json!("Status")), "kubectl upgrades, this does not");
    let binding = json!({"metadata": {"name": "free"}, "target": {"kind": "Node", "name": "n9"}});
    let mut free = pod("free", "");
    free["spec"].as_object_mut().unwrap().remove("nodeName");
    assert_eq!(api.post(PODS, &free).await.code, 201);
    let bound = api.post("/api/v1/namespaces/default/bindings", &binding).await;
    assert_eq!((bound.code, &bound.json()["status"]), (201, &json!("Success")), "{}", bound.text());
    assert_eq!(api.get(&format!("{PODS}/free")).await.json()["spec"]["nodeName"], "n9");
    assert_eq!(api.get(&format!("{PODS}/free/status/more")).await.code, 404);
    let evicted = api
        .post(
            &format!("{PODS}/web/eviction"),
            &json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "web"}}),
        )
        .await;
    assert_eq!(evicted.code, 201, "{}", evicted.text());
    api.close().await;
}
