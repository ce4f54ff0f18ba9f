//! Policies as their documentation shows them, over a picture.

use std::sync::Arc;

use api::{ChangeKind, Key};
use serde_json::json;

use super::*;
use crate::request::User;

struct World {
    view: View,
    who: User,
}

impl World {
    fn new() -> Self {
        let mut world = Self { view: View::default(), who: User::system("jane") };
        world.put("namespaces", "", json!({"metadata": {"name": "shop", "labels": {"env": "prod"}}}));
        world
    }

    fn put(&mut self, resource: &str, namespace: &str, value: Value) {
        let key = Key::new(resource, namespace, meta::name(&value));
        self.view.apply(ChangeKind::Added, &Arc::new(Object::new(key, self.view.revision() + 1, value)));
    }

    fn policy(&mut self, spec: Value) {
        let mut spec = spec;
        if spec["matchConstraints"].is_null() {
            spec["matchConstraints"] = json!({"resourceRules": [
                {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]},
            ]});
        }
        self.put(POLICIES, "", json!({"metadata": {"name": "p"}, "spec": spec}));
    }

    fn bind(&mut self, more: Value) {
        let mut spec = json!({"policyName": "p", "validationActions": ["Deny"]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.put(BINDINGS, "", json!({"metadata": {"name": "b"}, "spec": spec}));
    }

    /// What a deployment of so many replicas hears: the warnings, or the refusal.
    fn create(&self, replicas: u32) -> Result<Vec<String>, Status> {
        let value = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": replicas}});
        self.decide(None, value)
    }

    fn decide(&self, base: Option<Value>, value: Value) -> Result<Vec<String>, Status> {
        let catalog = Catalog::builtin();
        let request = Request {
            who: &self.who,
            resource: catalog.by_name("deployments.apps").unwrap(),
            namespace: "shop",
            manager: "test",
            subresource: None,
            dry_run: false,
            now_ms: 0,
        };
        let key = Key::new("deployments.apps", "shop", "web");
        let base = base.map(|base| Arc::new(Object::new(key.clone(), 1, base)));
        let mut warnings = Vec::new();
        let decision = Decision::Put { key, base, value, beside: Vec::new() };
        judge(&self.view, &request, false, &decision, &mut warnings)?;
        Ok(warnings)
    }
}

#[test]
fn a_bound_policy_denies_in_kubernetes_words() {
    let mut world = World::new();
    world.policy(json!({"validations": [{"expression": "object.spec.replicas <= 5"}]}));
    assert!(world.create(6).is_ok(), "nothing binds it");
    world.bind(json!({}));
    assert_eq!(world.create(5).unwrap(), [""; 0]);
    let refusal = world.create(6).unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (422, "Invalid"));
    assert_eq!(
        refusal.message,
        "deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed \
         expression: object.spec.replicas <= 5"
    );
}

#[test]
fn actions_messages_and_reasons() {
    let mut world = World::new();
    world.policy(json!({
        "variables": [{"name": "limit", "expression": "5"}, {"name": "over", "expression": "object.spec.replicas - variables.limit"}],
        "validations": [{"expression": "variables.over <= 0", "reason": "Forbidden",
            "messageExpression": "'%d too many in %s'.format([variables.over, namespaceObject.metadata.labels.env])"}],
    }));
    world.bind(json!({"validationActions": ["Warn", "Audit"]}));
    let warned = world.create(7).unwrap();
    assert_eq!(warned, ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': 2 too many in prod"]);
    world.bind(json!({}));
    let refusal = world.create(7).unwrap_err();
    assert_eq!((refusal.code, refusal.message.ends_with("2 too many in prod")), (403, true));
}

#[test]
fn conditions_and_failures() {
    let mut world = World::new();
    let policy = |failure: &str, condition: &str| {
        json!({
            "failurePolicy": failure,
            "matchConditions": [{"name": "who", "expression": condition}],
            "validations": [{"expression": "object.spec.nothing.here == 1"}],
        })
    };
    world.bind(json!({}));
    world.policy(policy("Fail", "request.userInfo.username != 'jane'"));
    assert!(world.create(1).is_ok(), "the condition leaves jane out");
    world.policy(policy("Fail", "request.operation == 'CREATE'"));
    let refusal = world.create(1).unwrap_err();
    assert!(refusal.message.ends_with("resulted in error: no such key: nothing"), "{refusal}");
    world.policy(policy("Ignore", "true"));
    assert!(world.create(1).is_ok());
}

#[test]
fn parameters_come_from_the_binding() {
    let mut world = World::new();
    world.policy(json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)"}],
    }));
    world.bind(json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}}));
    assert!(world.create(1).unwrap_err().message.contains("no params found for policy binding"));
    world.put("configmaps", "shop", json!({"metadata": {"name": "limits", "namespace": "shop"}, "data": {"max": "3"}}));
    assert!(world.create(3).is_ok());
    assert_eq!(world.create(4).unwrap_err().code, 422);
    world.bind(json!({"paramRef": {"name": "none", "parameterNotFoundAction": "Allow"}}));
    assert!(world.create(4).is_ok());
}

#[test]
fn what_is_matched() {
    let mut world = World::new();
    world.policy(json!({"validations": [{"expression": "false"}]}));
    for (more, denied) in [
        (json!({}), true),
        (json!({"namespaceSelector": {"matchLabels": {"env": "prod"}}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"env": "test"}}}), false),
        (json!({"objectSelector": {"matchLabels": {"app": "web"}}}), false),
        (
            json!({"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}]}),
            true,
        ),
        (
            json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1beta1"], "operations": ["CREATE"],
            "resources": ["deployments"]}]}),
            true,
        ),
        (
            json!({"matchPolicy": "Exact", "resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1beta1"],
            "operations": ["CREATE"], "resources": ["deployments"]}]}),
            false,
        ),
        (
            json!({"excludeResourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
            "resources": ["deployments"], "resourceNames": ["web"]}]}),
            false,
        ),
        (
            json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
            "resources": ["deployments"]}]}),
            false,
        ),
        (
            json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
            "resources": ["deployments/scale"]}]}),
            false,
        ),
    ] {
        world.bind(json!({"matchResources": more}));
        assert_eq!(world.create(1).is_err(), denied, "{more}");
    }
}

#[test]
fn an_update_sees_what_was() {
    let mut world = World::new();
    world.policy(json!({"validations": [
        {"expression": "oldObject == null || object.spec.replicas >= oldObject.spec.replicas"},
    ]}));
    world.bind(json!({}));
    let deployment =
        |replicas: u32| json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": replicas}});
    assert!(world.decide(Some(deployment(1)), deployment(2)).is_ok());
    assert!(world.decide(Some(deployment(2)), deployment(1)).is_err());
    assert!(world.create(1).is_ok());
}
