//! Stories of webhooks: what they change, when they are asked again, and that nobody waits for them but who asks.

use std::sync::{Arc, Mutex};

use api::View;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::FutureExt;
use serde_json::{Value, json};

use super::{House, background, configmap, deployment, pod};
use crate::{Deleted, Patch, WebhookCall, WebhookPlace};

const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";

/// What was asked, in order: the webhook's host and the request.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// What a webhook answers: patch operations, or a refusal.
type Says = fn(&str, &Value) -> Result<Value, String>;

fn host(call: &WebhookCall) -> String {
    match &call.place {
        WebhookPlace::Url(url) => url.trim_start_matches("https://").to_owned(),
        WebhookPlace::Service { name, .. } => name.clone(),
    }
}

fn respond(request: &Value, said: Result<Value, String>) -> Bytes {
    let mut response = json!({"uid": request["uid"], "allowed": said.is_ok()});
    match said {
        Ok(Value::Null) => {}
        Ok(patch) => {
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(STANDARD.encode(patch.to_string()));
        }
        Err(why) => response["status"] = json!({"message": why}),
    }
    let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
    review.to_string().into()
}

fn answers(house: &House, says: Says) -> Asked {
    let asked = Asked::default();
    let kept = asked.clone();
    house.objects.call_webhooks_by(Arc::new(move |_: View, call: WebhookCall| {
        let review: Value = serde_json::from_slice(&call.review).unwrap();
        let request = review["request"].clone();
        kept.lock().unwrap().push((host(&call), request.clone()));
        let said = says(&host(&call), &request);
        async move { Ok(respond(&request, said)) }.boxed()
    }));
    asked
}

fn hook(host: &str, resources: &str, more: &Value) -> Value {
    let mut hook = json!({
        "name": format!("{host}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://{host}")},
        "rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": [resources]}],
    });
    hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    hook
}

async fn configure(house: &House, resource: &str, hooks: Value) {
    house.create(resource, json!({"metadata": {"name": "hooks"}, "webhooks": hooks})).await.unwrap();
}

fn hosts(asked: &Asked) -> Vec<String> {
    asked.lock().unwrap().iter().map(|(host, _)| host.clone()).collect()
}

#[tokio::test]
async fn what_webhooks_put_in_is_filled_up_and_checked() {
    let house = House::open().await;
    let asked = answers(&house, |_, request| {
        assert!(request["object"]["metadata"]["uid"].is_null(), "an object to be made has no uid yet");
        assert!(request["object"]["spec"]["tolerations"].is_array(), "the cluster was first");
        Ok(json!([
            {"op": "add", "path": "/spec/containers/-", "value": {"name": "side", "image": "s:1"}},
            {"op": "add", "path": "/metadata/uid", "value": "mine"},
            {"op": "add", "path": "/metadata/labels", "value": {"by": "webhook"}},
        ]))
    });
    configure(&house, MUTATING, json!([hook("a", "pods", &json!({}))])).await;
    let web = house.create("pods", pod("web")).await.unwrap();
    assert_eq!((web.label("by"), web.uid().len()), (Some("webhook"), 36));
    let side = &web.field("spec.containers")[1];
    assert_eq!((&side["name"], &side["terminationMessagePolicy"]), (&json!("side"), &json!("File")));
    assert_eq!(hosts(&asked), ["a"]);
    // Objects of other resources are nobody's business.
    house.create("configmaps", configmap("c")).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_webhook_is_asked_again_when_a_later_one_changed_the_object() {
    let house = House::open().await;
    let asked = answers(&house, |host, request| {
        let count = request["object"]["data"].as_object().unwrap().len();
        Ok(json!([{"op": "add", "path": format!("/data/{host}{count}"), "value": "x"}]))
    });
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let hooks =
        json!([hook("a", "configmaps", &again), hook("b", "configmaps", &json!({})), hook("c", "configmaps", &again)]);
    configure(&house, MUTATING, hooks).await;
    let made = house.create("configmaps", configmap("m")).await.unwrap();
    // The last one changed the object and saw nothing newer; the middle one did not want to know.
    assert_eq!(hosts(&asked), ["a", "b", "c", "a"]);
    let keys: Vec<&String> = made.field("data").as_object().unwrap().keys().collect();
    assert_eq!(keys, ["a", "a1", "a4", "b2", "c3"]);
}

#[tokio::test]
async fn a_refusal_keeps_everything_as_it_was() {
    let house = House::open().await;
    let asked = answers(&house, |_, request| match &request["operation"] {
        word if word == "CREATE" => Ok(Value::Null),
        word => Err(format!("no {}", word.as_str().unwrap())),
    });
    configure(&house, VALIDATING, json!([hook("a", "*", &json!({}))])).await;
    house.create("configmaps", configmap("c")).await.unwrap();
    let change = Patch::Merge(json!({"data": {"a": "2"}}));
    let refused = house.patch_as("me", "configmaps", "c", change).await.unwrap_err();
    assert_eq!(refused.message, "admission webhook \"a.example.com\" denied the request: no UPDATE");
    let refused = house.delete("configmaps", "c", background()).await.unwrap_err();
    assert_eq!(refused.message, "admission webhook \"a.example.com\" denied the request: no DELETE");
    assert_eq!(house.get("configmaps", "c").unwrap().value["data"]["a"], json!("1"));
    let deletion = asked.lock().unwrap().last().unwrap().1.clone();
    assert_eq!((&deletion["object"], &deletion["oldObject"]["data"]["a"]), (&Value::Null, &json!("1")));
    // It cannot keep itself from being removed.
    let gone = house.delete(VALIDATING, "hooks", background()).await.unwrap();
    assert!(matches!(gone, Deleted::Gone(_)));
    assert!(matches!(house.delete("configmaps", "c", background()).await.unwrap(), Deleted::Gone(_)));
}

#[tokio::test]
async fn a_scale_is_changed_as_a_scale() {
    let house = House::open().await;
    answers(&house, |_, request| {
        assert_eq!(request["kind"]["kind"], json!("Scale"));
        Ok(json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]))
    });
    configure(&house, MUTATING, json!([hook("a", "deployments/scale", &json!({}))])).await;
    house.create("deployments.apps", deployment("web", 1)).await.unwrap();
    let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "web"}});
    scale["spec"] = json!({"replicas": 9});
    let scaled = house.update("deployments.apps", Some("scale"), scale).await.unwrap();
    assert_eq!(scaled.object.field("spec.replicas"), &json!(3));
}

#[tokio::test]
async fn nobody_waits_for_a_webhook_but_who_asks_it() {
    let house = House::open().await;
    let objects = house.objects.clone();
    let services = house.resource("services");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"services": "9"}}});
    house.create("resourcequotas", quota).await.unwrap();
    // While it is asked about one Service the webhook makes another, whose address is given out in the same turn: that
    // takes the address that the first one was to have, so the webhook is asked about it with another.
    let asked = Asked::default();
    let kept = asked.clone();
    house.objects.call_webhooks_by(Arc::new(move |_: View, call: WebhookCall| {
        let review: Value = serde_json::from_slice(&call.review).unwrap();
        let (objects, services, kept) = (objects.clone(), services.clone(), kept.clone());
        async move {
            let request = &review["request"];
            let first = {
                let mut kept = kept.lock().unwrap();
                kept.push((host(&call), request.clone()));
                kept.len() == 1
            };
            if first {
                let (who, options) = (crate::User::system("hook"), crate::WriteOptions::manager("hook"));
                let other = json!({"metadata": {"name": "other"}, "spec": {"ports": [{"port": 80}]}});
                objects.create(&who, &services, "default", other, &options).await.unwrap();
            }
            Ok(respond(request, Ok(Value::Null)))
        }
        .boxed()
    }));
    configure(&house, VALIDATING, json!([hook("a", "services", &json!({}))])).await;
    let web = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let web = house.create("services", web).await.unwrap();
    let other = house.get("services", "other").unwrap();
    assert_ne!(web.field("spec.clusterIP"), other.field("spec.clusterIP"));
    let asked = asked.lock().unwrap();
    let names: Vec<&Value> = asked.iter().map(|(_, request)| &request["name"]).collect();
    assert_eq!(names, ["web", "other", "web"]);
    assert_eq!(&asked[2].1["object"]["spec"]["clusterIP"], web.field("spec.clusterIP"));
    assert_eq!(house.get("resourcequotas", "q").unwrap().field("status.used.services"), &json!("2"));
}

#[tokio::test]
async fn who_cannot_be_asked_refuses_or_is_passed_over() {
    let house = House::open().await;
    configure(&house, VALIDATING, json!([hook("a", "configmaps", &json!({}))])).await;
    let refused = house.create("configmaps", configmap("c")).await.unwrap_err();
    assert_eq!(refused.code, 500);
    assert!(
        refused.message.contains("failed calling webhook \"a.example.com\": failed to call webhook: "),
        "{refused}"
    );
    let hooks = json!({"webhooks": [hook("a", "configmaps", &json!({"failurePolicy": "Ignore"}))]});
    house.patch_as("me", VALIDATING, "hooks", Patch::Merge(hooks)).await.unwrap();
    house.create("configmaps", configmap("c")).await.unwrap();
}

#[tokio::test]
async fn what_the_cluster_does_by_itself_is_asked_about_too() {
    let house = House::open().await;
    let asked = answers(&house, |_, _| Err("not here".into()));
    house.create("pods", pod("web")).await.unwrap();
    configure(&house, VALIDATING, json!([hook("a", "pods/*", &json!({}))])).await;
    let who = crate::User::system("scheduler");
    let binding = json!({"kind": "Binding", "apiVersion": "v1", "target": {"kind": "Node", "name": "n"}});
    let options = crate::WriteOptions::default();
    let refused = house.objects.bind_pod(&who, "default", "web", &binding, &options).await.unwrap_err();
    assert!(refused.message.ends_with("denied the request: not here"), "{refused}");
    let refused = house.objects.evict(&who, "default", "web", &background()).await.unwrap_err();
    assert!(refused.message.ends_with("denied the request: not here"), "{refused}");
    let (pods, command) = (house.resource("pods"), json!({"kind": "PodExecOptions", "command": ["ls"]}));
    let refused = house.objects.connect(&who, &pods, "default", "web", "exec", &command).await.unwrap_err();
    assert!(refused.message.ends_with("denied the request: not here"), "{refused}");
    let asked = asked.lock().unwrap();
    let seen: Vec<(&str, &str)> = asked
        .iter()
        .map(|(_, request)| (request["subResource"].as_str().unwrap(), request["kind"]["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(seen, [("binding", "Binding"), ("eviction", "Eviction"), ("exec", "PodExecOptions")]);
    assert_eq!(asked[2].1["operation"], json!("CONNECT"));
}
