//! Who is asked about what, and what is made of answers: tables over a picture.

use std::sync::Arc;

use api::{ChangeKind, Key};

use super::*;
use crate::request::User;

struct World {
    view: View,
    who: User,
    dry_run: bool,
}

/// A webhook for new Deployments, with more said about it.
fn hook(more: &Value) -> Value {
    let mut hook = json!({
        "name": "h.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
        "clientConfig": {"url": "https://hooks.example.com/h"}, "timeoutSeconds": 3,
        "rules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}],
    });
    hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    hook
}

impl World {
    fn new(hooks: &Value) -> Self {
        let mut world = Self { view: View::default(), who: User::system("jane"), dry_run: false };
        world.put("namespaces", "", json!({"metadata": {"name": "shop", "labels": {"env": "prod"}}}));
        world.put(VALIDATING, "", json!({"metadata": {"name": "v"}, "webhooks": hooks}));
        world
    }

    fn put(&mut self, resource: &str, namespace: &str, value: Value) {
        let key = Key::new(resource, namespace, meta::name(&value));
        self.view.apply(ChangeKind::Added, &Arc::new(Object::new(key, self.view.revision() + 1, value)));
    }

    /// What becomes of a new object.
    fn create(&self, resource: &str, hearing: &Hearing) -> Result<Decision, Halt> {
        self.decide(resource, None, hearing)
    }

    fn decide(&self, resource: &str, subresource: Option<&str>, hearing: &Hearing) -> Result<Decision, Halt> {
        let catalog = Catalog::builtin();
        let resource = catalog.by_name(resource).unwrap();
        let namespace = if resource.namespaced { "shop" } else { "" };
        let request = Request {
            who: &self.who,
            resource,
            namespace,
            manager: "test",
            subresource,
            dry_run: self.dry_run,
            now_ms: 0,
        };
        let value = json!({"apiVersion": resource.api_version(), "kind": resource.kind,
            "metadata": {"name": "web", "namespace": namespace, "labels": {"app": "web"}}, "spec": {"replicas": 2}});
        let key = Key::new(resource.name.clone(), namespace, "web");
        let decision = Decision::Put { key, base: None, value, beside: Vec::new() };
        judge(&self.view, hearing, &request, false, &decision)?;
        Ok(decision)
    }
}

fn silence() -> Hearing {
    Hearing::new(Arc::new(Catalog::with([])))
}

fn questions(outcome: Result<Decision, Halt>) -> Vec<Question> {
    match outcome {
        Err(Halt::Ask(questions)) => questions,
        Ok(_) => Vec::new(),
        Err(Halt::Refused(refusal)) => panic!("{refusal}"),
    }
}

fn refusal(outcome: Result<Decision, Halt>) -> Status {
    match outcome {
        Err(Halt::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_is_asked() {
    let rule = |groups: &str, versions: &str, operations: &str, resources: &str| {
        json!({"rules": [{"apiGroups": [groups], "apiVersions": [versions], "operations": [operations],
            "resources": [resources]}]})
    };
    let with = |mut more: Value, field: &str, value: Value| {
        more[field] = value;
        more
    };
    let scoped = |scope: &str| {
        let mut more = rule("*", "*", "*", "*");
        more["rules"][0]["scope"] = json!(scope);
        more
    };
    for (resource, more, asked) in [
        ("deployments.apps", json!({}), true),
        ("configmaps", json!({}), false),
        ("deployments.apps", rule("*", "*", "*", "*"), true),
        ("deployments.apps", rule("*", "*", "*", "*/*"), true),
        ("deployments.apps", rule("apps", "v1", "UPDATE", "deployments"), false),
        ("deployments.apps", rule("apps", "v1", "CREATE", "deployments/scale"), false),
        ("deployments.apps", rule("", "v1", "CREATE", "deployments"), false),
        ("deployments.apps", rule("apps", "v1beta1", "CREATE", "deployments"), false),
        ("deployments.apps", scoped("Namespaced"), true),
        ("deployments.apps", scoped("Cluster"), false),
        ("namespaces", scoped("Cluster"), true),
        // The newer version is stored; a rule about the older means it too, unless it says exactly that one.
        ("horizontalpodautoscalers.autoscaling", rule("autoscaling", "v1", "CREATE", "*"), true),
        (
            "horizontalpodautoscalers.autoscaling",
            with(rule("autoscaling", "v1", "CREATE", "*"), "matchPolicy", json!("Exact")),
            false,
        ),
        // Nobody is asked about those who are asked.
        (VALIDATING, rule("*", "*", "*", "*"), false),
        (MUTATING, rule("*", "*", "*", "*"), false),
        ("validatingadmissionpolicies.admissionregistration.k8s.io", rule("*", "*", "*", "*"), false),
        ("deployments.apps", json!({"namespaceSelector": {"matchLabels": {"env": "prod"}}}), true),
        ("deployments.apps", json!({"namespaceSelector": {"matchLabels": {"env": "test"}}}), false),
        ("deployments.apps", json!({"objectSelector": {"matchLabels": {"app": "web"}}}), true),
        ("deployments.apps", json!({"objectSelector": {"matchLabels": {"app": "db"}}}), false),
        (
            "deployments.apps",
            json!({"matchConditions": [{"name": "c", "expression": "object.spec.replicas > 1"}]}),
            true,
        ),
        (
            "deployments.apps",
            json!({"matchConditions": [{"name": "c", "expression": "request.userInfo.username != 'jane'"}]}),
            false,
        ),
    ] {
        let world = World::new(&json!([hook(&more)]));
        let asked_about = questions(world.create(resource, &silence()));
        assert_eq!(asked_about.len(), usize::from(asked), "{resource} {more}");
    }
}

#[test]
fn a_subresource_has_rules_of_its_own() {
    let world = World::new(&json!([hook(&json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"],
        "operations": ["*"], "resources": ["deployments/scale"]}]}))]));
    assert!(questions(world.create("deployments.apps", &silence())).is_empty());
    let asked = questions(world.decide("deployments.apps", Some("scale"), &silence()));
    let request = &asked[0].request;
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!((&request["subResource"], &request["resource"]["resource"]), (&json!("scale"), &json!("deployments")));
    assert_eq!((&request["object"]["kind"], &request["object"]["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
}

#[test]
fn an_older_version_is_asked_in_its_own_words() {
    let rules = json!([{"apiGroups": ["autoscaling"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["*"]}]);
    let world = World::new(&json!([hook(&json!({"rules": rules}))]));
    let asked = questions(world.create("horizontalpodautoscalers.autoscaling", &silence()));
    let request = &asked[0].request;
    assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(request["object"]["apiVersion"], json!("autoscaling/v1"));
}

#[test]
fn a_dry_run_leaves_no_traces() {
    let mut world = World::new(&json!([hook(&json!({"sideEffects": "Some"}))]));
    assert_eq!(questions(world.create("deployments.apps", &silence())).len(), 1);
    world.dry_run = true;
    let refused = refusal(world.create("deployments.apps", &silence()));
    let message = "admission webhook \"h.example.com\" does not support dry run";
    assert_eq!((refused.code, &*refused.message), (400, message));
    let mut world = World::new(&json!([hook(&json!({"sideEffects": "NoneOnDryRun"}))]));
    world.dry_run = true;
    let asked = questions(world.create("deployments.apps", &silence()));
    assert_eq!(asked[0].request["dryRun"], json!(true));
    assert_eq!(asked[0].request["options"]["dryRun"], json!(["All"]));
}

#[test]
fn a_condition_that_cannot_be_evaluated_is_a_failure() {
    let more = |policy: &str| json!({"failurePolicy": policy, "matchConditions": [{"name": "c", "expression": "object.nothing.here"}]});
    let refused = refusal(World::new(&json!([hook(&more("Fail"))])).create("deployments.apps", &silence()));
    assert_eq!(refused.code, 403);
    assert!(refused.message.contains("match condition 'c' of webhook 'h.example.com'"), "{refused}");
    assert!(questions(World::new(&json!([hook(&more("Ignore"))])).create("deployments.apps", &silence())).is_empty());
}

/// What becomes of a write whose one webhook's call came to this.
fn heard(more: &Value, came: Result<Value, &str>) -> Result<(Decision, Vec<String>), Status> {
    let world = World::new(&json!([hook(more)]));
    let mut hearing = silence();
    let asked = questions(world.create("deployments.apps", &hearing));
    let sent: Value = serde_json::from_slice(&asked[0].call("u1").review).unwrap();
    assert_eq!((&sent["request"]["uid"], &sent["kind"]), (&json!("u1"), &json!("AdmissionReview")));
    let came = came.map(|value| Bytes::from(value.to_string())).map_err(str::to_owned);
    hearing.hear(asked[0].clone(), "u1", came);
    match world.create("deployments.apps", &hearing) {
        Ok(decision) => Ok((decision, hearing.warnings())),
        Err(Halt::Refused(refusal)) => Err(refusal),
        Err(Halt::Ask(questions)) => panic!("asked again: {questions:?}"),
    }
}

fn answer(response: Value) -> Result<Value, &'static str> {
    let mut response = response;
    response["uid"] = json!("u1");
    Ok(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}))
}

#[test]
fn what_an_answer_means() {
    let (_, warnings) = heard(&json!({}), answer(json!({"allowed": true, "warnings": ["old", "old"]}))).unwrap();
    assert_eq!(warnings, ["old"]);
    let denied = "admission webhook \"h.example.com\" denied the request";
    let failed = "Internal error occurred: failed calling webhook \"h.example.com\": ";
    let invalid = format!("{failed}received invalid webhook response: ");
    for (came, code, message) in [
        (answer(json!({"allowed": false})), 400, format!("{denied} without explanation")),
        (answer(json!({"allowed": false, "status": {"message": "no"}})), 400, format!("{denied}: no")),
        (
            answer(json!({"allowed": false, "status": {"reason": "Forbidden", "code": 403}})),
            403,
            format!("{denied}: Forbidden"),
        ),
        (answer(json!({"allowed": false, "status": {"message": "no", "code": 200}})), 400, format!("{denied}: no")),
        (
            Err("Post \"x\": context deadline exceeded"),
            500,
            format!("{failed}failed to call webhook: Post \"x\": context deadline exceeded"),
        ),
        (Ok(json!({})), 500, format!("{invalid}webhook response was absent")),
        (
            Ok(json!({"response": {"allowed": true}})),
            500,
            format!("{invalid}expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got , Kind="),
        ),
        (
            Ok(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
            "response": {"allowed": true, "uid": "other"}})),
            500,
            format!("{invalid}expected response.uid=\"u1\", got \"other\""),
        ),
    ] {
        let refused = heard(&json!({}), came).unwrap_err();
        assert_eq!((refused.code, &*refused.message), (code, &*message));
    }
    // Who may be passed over is, but not when it was heard and refuses.
    let ignored = json!({"failurePolicy": "Ignore"});
    assert!(heard(&ignored, Err("lost")).is_ok());
    assert!(heard(&ignored, Ok(json!({}))).is_ok());
    assert_eq!(heard(&ignored, answer(json!({"allowed": false}))).unwrap_err().code, 400);
    // The older version of the review is read less strictly.
    let old = json!({"admissionReviewVersions": ["v1beta1"]});
    assert!(heard(&old, Ok(json!({"response": {"allowed": true}}))).is_ok());
}

#[test]
fn a_patch_says_what_it_is() {
    let read = |response: Value| {
        let Ok(told) = answer(response) else { unreachable!() };
        review::read("admission.k8s.io/v1", "u1", true, told.to_string().as_bytes()).map(|answer| answer.patch)
    };
    // [{"op":"add","path":"/x","value":1}]
    let patch = "W3sib3AiOiJhZGQiLCJwYXRoIjoiL3giLCJ2YWx1ZSI6MX1d";
    let whole = json!({"allowed": true, "patchType": "JSONPatch", "patch": patch});
    assert_eq!(read(whole), Ok(Some(json!([{"op": "add", "path": "/x", "value": 1}]))));
    assert_eq!(read(json!({"allowed": true})), Ok(None));
    let untyped = read(json!({"allowed": true, "patch": patch}));
    assert_eq!(untyped, Err("webhook returned response.patch but not response.patchType".into()));
    let empty = read(json!({"allowed": true, "patchType": "JSONPatch"}));
    assert_eq!(empty, Err("webhook returned response.patchType but not response.patch".into()));
    let other = read(json!({"allowed": true, "patchType": "Merge", "patch": patch}));
    assert_eq!(other, Err("invalid webhook response.patchType: \"Merge\"".into()));
}

#[test]
fn all_that_must_be_asked_are_asked_at_once() {
    let world = World::new(&json!([hook(&json!({})), hook(&json!({"name": "i.example.com"}))]));
    assert_eq!(questions(world.create("deployments.apps", &silence())).len(), 2);
}
