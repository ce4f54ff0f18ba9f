//! Stories of the door against a real store: each test opens one in a fresh directory.

use std::sync::Arc;

use api::{ChangeKind, Object, Precondition, Resource, Status};
use serde_json::{Value, json};

use crate::{DeleteOptions, Deleted, Objects, Patch, Propagation, User, Validation, WriteOptions, Written};

mod endings;
mod pictures;
mod quotas;
mod webhooks;

/// A door to a store of its own, with the namespace `default`.
pub(crate) struct House {
    pub(crate) objects: Objects,
    who: User,
    options: WriteOptions,
    _directory: tempfile::TempDir,
}

impl House {
    pub(crate) async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = raft_store::Store::open(raft_store::Config::single(directory.path())).await.unwrap();
        let objects = Objects::open(store).await.unwrap();
        let house = Self {
            objects,
            who: User::system("system:admin"),
            options: WriteOptions::manager("test"),
            _directory: directory,
        };
        house.create("namespaces", json!({"metadata": {"name": "default"}})).await.unwrap();
        house
    }

    fn resource(&self, name: &str) -> Arc<Resource> {
        self.objects.catalog().by_name(name).unwrap().clone()
    }

    fn namespace(resource: &Resource) -> &'static str {
        if resource.namespaced { "default" } else { "" }
    }

    pub(crate) async fn create(&self, resource: &str, body: Value) -> Result<Arc<Object>, Status> {
        let resource = self.resource(resource);
        let namespace = body["metadata"]["namespace"].as_str().unwrap_or(Self::namespace(&resource)).to_owned();
        let written = self.objects.create(&self.who, &resource, &namespace, body, &self.options).await?;
        assert!(written.created);
        Ok(written.object)
    }

    async fn update(&self, resource: &str, subresource: Option<&str>, body: Value) -> Result<Written, Status> {
        let resource = self.resource(resource);
        let name = api::meta::name(&body).to_owned();
        let namespace = Self::namespace(&resource);
        self.objects.update(&self.who, &resource, namespace, &name, subresource, body, &self.options).await
    }

    async fn patch_as(&self, manager: &str, resource: &str, name: &str, patch: Patch) -> Result<Arc<Object>, Status> {
        let resource = self.resource(resource);
        let options = WriteOptions::manager(manager);
        let namespace = Self::namespace(&resource);
        let written = self.objects.patch(&self.who, &resource, namespace, name, None, patch, &options).await?;
        Ok(written.object)
    }

    async fn delete(&self, resource: &str, name: &str, options: DeleteOptions) -> Result<Deleted, Status> {
        let resource = self.resource(resource);
        self.objects.delete(&self.who, &resource, Self::namespace(&resource), name, &options).await
    }

    fn get(&self, resource: &str, name: &str) -> Option<Arc<Object>> {
        let resource = self.resource(resource);
        self.objects.view().get(&resource.name, Self::namespace(&resource), name).cloned()
    }
}

fn configmap(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}})
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]},
            },
        },
    })
}

fn background() -> DeleteOptions {
    DeleteOptions::default()
}

#[tokio::test]
async fn a_created_object_has_what_the_server_owns_and_is_seen_at_once() {
    let house = House::open().await;
    let web = house.create("deployments.apps", deployment("web", 2)).await.unwrap();
    assert_eq!((web.generation(), web.namespace(), web.uid().len()), (1, "default", 36));
    assert_eq!(house.get("deployments.apps", "web").unwrap().revision, web.revision);
    assert_eq!(web.whole()["metadata"]["managedFields"][0]["manager"], json!("test"));
    assert!(web.value.get("status").is_none_or(|status| status == &json!({})));
    let again = house.create("deployments.apps", deployment("web", 2)).await.unwrap_err();
    assert_eq!(again.reason, "AlreadyExists");
    let lost = house.create("configmaps", json!({"metadata": {"name": "x", "namespace": "nowhere"}})).await;
    assert_eq!(lost.unwrap_err().message, r#"namespaces "nowhere" not found"#);
}

#[tokio::test]
async fn names_are_generated() {
    let house = House::open().await;
    let body = json!({"metadata": {"generateName": "job-"}});
    let a = house.create("configmaps", body.clone()).await.unwrap();
    let b = house.create("configmaps", body).await.unwrap();
    assert!(a.name().starts_with("job-") && a.name().len() == 9 && a.name() != b.name());
    let nameless = house.create("configmaps", json!({"metadata": {}})).await.unwrap_err();
    assert_eq!((nameless.code, &*nameless.causes[0].field), (422, "metadata.name"));
}

#[tokio::test]
async fn a_stale_put_is_a_conflict_and_an_identical_one_is_nothing() {
    let house = House::open().await;
    let first = house.create("configmaps", configmap("c")).await.unwrap();
    let mut body = first.value.clone();
    assert_eq!(house.update("configmaps", None, body.clone()).await.unwrap().object.revision, first.revision);
    body["data"]["a"] = json!("2");
    let second = house.update("configmaps", None, body.clone()).await.unwrap();
    assert!(second.object.revision > first.revision && !second.created);
    let stale = house.update("configmaps", None, body.clone()).await.unwrap_err();
    assert_eq!(
        stale.message,
        "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; \
         please apply your changes to the latest version and try again"
    );
    body["metadata"]["resourceVersion"] = json!("");
    body["data"]["a"] = json!("3");
    assert_eq!(house.update("configmaps", None, body).await.unwrap().object.value["data"]["a"], json!("3"));
}

#[tokio::test]
async fn status_and_specification_have_doors_of_their_own() {
    let house = House::open().await;
    let web = house.create("deployments.apps", deployment("web", 1)).await.unwrap();
    let mut body = web.value.clone();
    body["spec"]["replicas"] = json!(5);
    body["status"]["replicas"] = json!(1);
    let reported = house.update("deployments.apps", Some("status"), body.clone()).await.unwrap().object;
    assert_eq!((reported.field("spec.replicas"), reported.field("status.replicas")), (&json!(1), &json!(1)));
    assert_eq!(reported.generation(), 1);
    body["metadata"]["resourceVersion"] = json!("");
    body["status"]["replicas"] = json!(9);
    let wanted = house.update("deployments.apps", None, body).await.unwrap().object;
    assert_eq!((wanted.field("spec.replicas"), wanted.field("status.replicas")), (&json!(5), &json!(1)));
    assert_eq!(wanted.generation(), 2);
}

#[tokio::test]
async fn scale_is_the_number_of_replicas() {
    let house = House::open().await;
    house.create("deployments.apps", deployment("web", 1)).await.unwrap();
    let deployments = house.resource("deployments.apps");
    let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
    let options = WriteOptions::manager("kubectl");
    let scaled = house.objects.patch(&house.who, &deployments, "default", "web", Some("scale"), patch, &options).await;
    let scaled = scaled.unwrap().object;
    assert_eq!((scaled.field("spec.replicas"), scaled.generation()), (&json!(4), 2));
    assert_eq!(crate::scale_of(&deployments, &scaled)["status"]["selector"], json!("app=web"));
}

#[tokio::test]
async fn a_certificate_request_says_who_asked_and_is_approved_apart() {
    let house = House::open().await;
    let requests = "certificatesigningrequests.certificates.k8s.io";
    let spec = json!({
        "signerName": "kubernetes.io/kube-apiserver-client", "request": "AAAA", "usages": ["client auth"],
        "username": "somebody-else",
    });
    let made = house.create(requests, json!({"metadata": {"name": "r"}, "spec": spec})).await.unwrap();
    assert_eq!(made.field("spec.username"), "system:admin");
    let mut body = made.value.clone();
    body["status"] = json!({"conditions": [
        {"type": "Approved", "status": "True", "reason": "Reviewed", "message": "by a person"},
    ]});
    body["spec"]["username"] = json!("somebody-else");
    let approved = house.update(requests, Some("approval"), body).await.unwrap().object;
    assert!(api::meta::is_true(&approved.value, "Approved"));
    assert_eq!(approved.field("spec.username"), "system:admin");
}

#[tokio::test]
async fn a_dry_run_goes_all_the_way_and_leaves_no_trace() {
    let house = House::open().await;
    let options = WriteOptions { dry_run: true, ..house.options.clone() };
    let before = house.objects.view().revision();
    let configmaps = house.resource("configmaps");
    let made = house.objects.create(&house.who, &configmaps, "default", configmap("c"), &options).await.unwrap();
    assert!(made.created && !made.object.uid().is_empty());
    assert_eq!(house.objects.view().revision(), before);
}

#[tokio::test]
async fn an_object_that_is_too_large_is_refused() {
    let house = House::open().await;
    let body = json!({"metadata": {"name": "big"}, "revision": 1, "data": {"a": "x".repeat(1_600_000)}});
    let refused = house.create("controllerrevisions.apps", body).await.unwrap_err();
    assert_eq!((refused.code, refused.reason), (413, "RequestEntityTooLarge"));
}

#[tokio::test]
async fn applying_makes_changes_and_refuses() {
    let house = House::open().await;
    let apply = |manager: &'static str, replicas: i64, force| {
        let patch = Patch::Apply { body: deployment("web", replicas), force };
        house.patch_as(manager, "deployments.apps", "web", patch)
    };
    let made = apply("ci", 2, false).await.unwrap();
    assert_eq!((made.generation(), made.field("spec.replicas")), (1, &json!(2)));
    assert_eq!(made.whole()["metadata"]["managedFields"][0]["operation"], json!("Apply"));
    assert_eq!(apply("ci", 2, false).await.unwrap().revision, made.revision, "nothing changed, nothing is written");
    let refused = apply("other", 3, false).await.unwrap_err();
    assert_eq!((refused.code, refused.reason), (409, "Conflict"));
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"ci\": .spec.replicas");
    let cause = &refused.causes[0];
    assert_eq!((cause.reason, cause.field.as_str()), ("FieldManagerConflict", ".spec.replicas"));
    let forced = apply("other", 3, true).await.unwrap();
    assert_eq!((forced.generation(), forced.field("spec.replicas")), (2, &json!(3)));
    let nameless = apply("", 3, true).await.unwrap_err();
    assert_eq!(nameless.code, 422);
}

#[tokio::test]
async fn unknown_fields_are_told_or_refused() {
    let house = House::open().await;
    let deployments = house.resource("deployments.apps");
    let mut body = deployment("web", 1);
    body["spec"]["replicaz"] = json!(2);
    let write = |field_validation, name: &str| {
        let mut body = body.clone();
        body["metadata"]["name"] = json!(name);
        let duplicates = vec!["spec.replicas".to_owned()];
        let options = WriteOptions { field_validation, duplicates, ..house.options.clone() };
        let (house, deployments) = (&house, &deployments);
        async move { house.objects.create(&house.who, deployments, "default", body, &options).await }
    };
    let warned = write(Validation::Warn, "a").await.unwrap();
    assert_eq!(warned.warnings, [r#"duplicate field "spec.replicas""#, r#"unknown field "spec.replicaz""#]);
    assert!(warned.object.field("spec.replicaz").is_null());
    assert_eq!(write(Validation::Ignore, "b").await.unwrap().warnings, [""; 0]);
    let refused = write(Validation::Strict, "c").await.unwrap_err();
    assert_eq!(refused.code, 400);
    assert!(
        refused
            .message
            .ends_with(r#"strict decoding error: duplicate field "spec.replicas", unknown field "spec.replicaz""#)
    );
    let patch =
        Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "imagee": "y"}]}}}}));
    let options = WriteOptions { field_validation: Validation::Strict, ..house.options.clone() };
    let refused = house.objects.patch(&house.who, &deployments, "default", "a", None, patch, &options).await;
    assert!(refused.unwrap_err().message.contains(r#"unknown field "spec.template.spec.containers[0].imagee""#));
}

#[tokio::test]
async fn a_strategic_patch_finds_items_by_their_keys() {
    let house = House::open().await;
    house.create("deployments.apps", deployment("web", 1)).await.unwrap();
    let containers = json!([{"name": "c", "image": "x:2"}, {"name": "side", "image": "s:1"}]);
    let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
    let patched = house.patch_as("kubectl-patch", "deployments.apps", "web", patch).await.unwrap();
    let list = &patched.value["spec"]["template"]["spec"]["containers"];
    let images: Vec<_> = list.as_array().unwrap().iter().map(|container| &container["image"]).collect();
    assert_eq!(images.len(), 2);
    assert!(images.contains(&&json!("x:2")) && images.contains(&&json!("s:1")));
    assert_eq!(patched.generation(), 2);
    let whole = patched.whole();
    let entries = whole["metadata"]["managedFields"].as_array().unwrap();
    let mine = entries.iter().find(|entry| entry["manager"] == "kubectl-patch").unwrap();
    let path = "/fieldsV1/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"c\"}";
    assert_eq!(mine.pointer(path), Some(&json!({"f:image": {}})), "only what the patch changed");
}
