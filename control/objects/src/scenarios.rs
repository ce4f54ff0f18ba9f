//! Stories of the door against a real store: each test opens one in a fresh directory.

use std::sync::Arc;

use api::{ChangeKind, Object, Precondition, Resource, Status};
use serde_json::{Value, json};

use crate::{DeleteOptions, Deleted, Objects, Patch, Propagation, User, WriteOptions, Written};

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
    assert_eq!(web.value["metadata"]["managedFields"][0]["manager"], json!("test"));
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
    assert_eq!(crate::scale_of(&scaled)["status"]["selector"], json!("app=web"));
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let house = House::open().await;
    let mut body = configmap("c");
    body["metadata"]["finalizers"] = json!(["example.com/a"]);
    house.create("configmaps", body).await.unwrap();
    let Deleted::Pending(going) = house.delete("configmaps", "c", background()).await.unwrap() else { panic!("held") };
    assert!(going.deletion_timestamp().is_some());
    let again = house.delete("configmaps", "c", background()).await.unwrap();
    assert_eq!(again.object().revision, going.revision);
    let more = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/a", "example.com/b"]}}));
    let refused = house.patch_as("test", "configmaps", "c", more).await.unwrap_err();
    assert_eq!((refused.code, &*refused.causes[0].field), (422, "metadata.finalizers"));
    let last = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    house.patch_as("test", "configmaps", "c", last).await.unwrap();
    assert!(house.get("configmaps", "c").is_none());
    assert_eq!(house.delete("configmaps", "c", background()).await.unwrap_err().code, 404);
}

#[tokio::test]
async fn propagation_is_written_as_a_finalizer() {
    let house = House::open().await;
    for (policy, finalizer) in [(Propagation::Foreground, "foregroundDeletion"), (Propagation::Orphan, "orphan")] {
        house.create("configmaps", configmap(finalizer.to_lowercase().as_str())).await.unwrap();
        let options = DeleteOptions { propagation: Some(policy), ..background() };
        let deleted = house.delete("configmaps", &finalizer.to_lowercase(), options).await.unwrap();
        assert_eq!(deleted.object().finalizers().collect::<Vec<_>>(), [finalizer]);
    }
}

#[tokio::test]
async fn a_deletion_means_one_object_in_one_version() {
    let house = House::open().await;
    let object = house.create("configmaps", configmap("c")).await.unwrap();
    let with = |uid: &str, revision| DeleteOptions {
        preconditions: Precondition { uid: Some(uid.to_owned()), revision },
        ..background()
    };
    assert_eq!(house.delete("configmaps", "c", with("other", None)).await.unwrap_err().code, 409);
    let old = with(object.uid(), Some(object.revision - 1));
    assert_eq!(house.delete("configmaps", "c", old).await.unwrap_err().code, 409);
    let exact = with(object.uid(), Some(object.revision));
    assert!(matches!(house.delete("configmaps", "c", exact).await, Ok(Deleted::Gone(_))));
}

#[tokio::test]
async fn a_bound_pod_goes_gracefully_and_an_unbound_one_at_once() {
    let house = House::open().await;
    house.create("pods", pod("idle")).await.unwrap();
    assert!(matches!(house.delete("pods", "idle", background()).await, Ok(Deleted::Gone(_))));
    house.create("pods", pod("web")).await.unwrap();
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    house.objects.bind_pod(&house.who, "default", "web", &binding, &house.options).await.unwrap();
    let web = house.get("pods", "web").unwrap();
    assert_eq!(web.field("spec.nodeName"), "n1");
    assert!(api::meta::is_true(&web.value, "PodScheduled"));
    let twice = house.objects.bind_pod(&house.who, "default", "web", &binding, &house.options).await.unwrap_err();
    assert_eq!(twice.code, 409);
    let Deleted::Pending(going) = house.delete("pods", "web", background()).await.unwrap() else { panic!("grace") };
    assert_eq!(going.field("metadata.deletionGracePeriodSeconds"), &json!(30));
    let hurry = DeleteOptions { grace_period_seconds: Some(5), ..background() };
    let hurried = house.delete("pods", "web", hurry).await.unwrap();
    assert_eq!(hurried.object().field("metadata.deletionGracePeriodSeconds"), &json!(5));
    assert!(hurried.object().deletion_timestamp() < going.deletion_timestamp());
    let now = DeleteOptions { grace_period_seconds: Some(0), ..background() };
    assert!(matches!(house.delete("pods", "web", now).await, Ok(Deleted::Gone(_))));
}

#[tokio::test]
async fn a_namespace_ends_when_its_content_has_gone() {
    let house = House::open().await;
    let made = house.create("namespaces", json!({"metadata": {"name": "shop"}})).await.unwrap();
    assert_eq!(made.label("kubernetes.io/metadata.name"), Some("shop"));
    assert_eq!(made.field("status.phase"), "Active");
    let going = house.delete("namespaces", "shop", background()).await.unwrap();
    assert_eq!(going.object().field("status.phase"), "Terminating");
    let late = house.create("configmaps", json!({"metadata": {"name": "c", "namespace": "shop"}})).await.unwrap_err();
    assert_eq!((late.code, late.causes[0].reason), (403, "NamespaceTerminating"));
    let mut body = going.object().value.clone();
    body["spec"]["finalizers"] = json!([]);
    house.update("namespaces", None, body.clone()).await.unwrap();
    assert!(house.get("namespaces", "shop").is_some(), "only /finalize takes its finalizers");
    house.update("namespaces", Some("finalize"), body).await.unwrap();
    assert!(house.get("namespaces", "shop").is_none());
    assert_eq!(house.delete("namespaces", "default", background()).await.unwrap_err().code, 403);
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
async fn patches_of_one_object_all_take_effect() {
    let house = House::open().await;
    house.create("configmaps", configmap("c")).await.unwrap();
    let patches = (0..50).map(|n| {
        let patch = Patch::Merge(json!({"data": {format!("k{n}"): "v"}}));
        house.patch_as("test", "configmaps", "c", patch)
    });
    for patched in futures::future::join_all(patches).await {
        patched.unwrap();
    }
    assert_eq!(house.get("configmaps", "c").unwrap().value["data"].as_object().unwrap().len(), 51);
}

#[tokio::test]
async fn services_made_at_once_get_addresses_of_their_own() {
    let house = House::open().await;
    let service = |n: usize| {
        let spec = json!({"type": "NodePort", "ports": [{"port": 80}], "selector": {"app": "a"}});
        house.create("services", json!({"metadata": {"name": format!("s{n}")}, "spec": spec}))
    };
    let made = futures::future::join_all((0..20).map(service)).await;
    let made: Vec<Arc<Object>> = made.into_iter().map(Result::unwrap).collect();
    let distinct = |of: &dyn Fn(&Object) -> String| {
        made.iter().map(|object| of(object)).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(distinct(&|object| object.field("spec.clusterIP").to_string()), 20);
    assert_eq!(distinct(&|object| object.value["spec"]["ports"][0]["nodePort"].to_string()), 20);
    house.delete("services", "s0", background()).await.unwrap();
    let next = house.create("services", json!({"metadata": {"name": "next"}, "spec": {"ports": [{"port": 1}]}}));
    let freed = made.iter().find(|object| object.name() == "s0").unwrap();
    assert_eq!(next.await.unwrap().field("spec.clusterIP"), freed.field("spec.clusterIP"));
}

#[tokio::test]
async fn an_object_that_is_too_large_is_refused() {
    let house = House::open().await;
    let body = json!({"metadata": {"name": "big"}, "revision": 1, "data": {"a": "x".repeat(1_600_000)}});
    let refused = house.create("controllerrevisions.apps", body).await.unwrap_err();
    assert_eq!((refused.code, refused.reason), (413, "RequestEntityTooLarge"));
}

#[tokio::test]
async fn watchers_see_every_change_in_the_stores_order() {
    let house = House::open().await;
    let mut changes = house.objects.changes(house.objects.view().revision()).unwrap();
    house.create("configmaps", configmap("c")).await.unwrap();
    house.patch_as("test", "configmaps", "c", Patch::Merge(json!({"data": {"a": "2"}}))).await.unwrap();
    house.delete("configmaps", "c", background()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(changes.next().await.unwrap());
    }
    let kinds: Vec<ChangeKind> = seen.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Added, ChangeKind::Modified, ChangeKind::Deleted]);
    let (modified, deleted) = (&seen[1], &seen[2]);
    assert_eq!(modified.previous.as_ref().unwrap().revision, seen[0].object.revision);
    assert_eq!(deleted.object.value["metadata"]["resourceVersion"], json!(deleted.revision.to_string()));
    assert_eq!(deleted.object.value["data"]["a"], json!("2"));
}

#[tokio::test]
async fn a_budget_keeps_a_pod_from_being_evicted() {
    let house = House::open().await;
    let mut body = pod("web");
    body["metadata"]["labels"] = json!({"app": "web"});
    house.create("pods", body.clone()).await.unwrap();
    body["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let running = json!({"status": body["status"]});
    let pods = house.resource("pods");
    let options = &house.options;
    let patch = Patch::Merge(running);
    house.objects.patch(&house.who, &pods, "default", "web", Some("status"), patch, options).await.unwrap();
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    house.create("poddisruptionbudgets.policy", json!({"metadata": {"name": "b"}, "spec": spec})).await.unwrap();
    let refused = house.objects.evict(&house.who, "default", "web", &background()).await.unwrap_err();
    assert_eq!((refused.code, refused.causes[0].reason), (429, "DisruptionBudget"));
    let counted = json!({
        "metadata": {"name": "b"},
        "status": {
            "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1,
            "expectedPods": 2,
        },
    });
    house.update("poddisruptionbudgets.policy", Some("status"), counted).await.unwrap();
    house.objects.evict(&house.who, "default", "web", &background()).await.unwrap();
    assert!(house.get("pods", "web").is_none());
    assert_eq!(house.get("poddisruptionbudgets.policy", "b").unwrap().field("status.disruptionsAllowed"), &json!(0));
}

#[tokio::test]
async fn drivers_actions_that_came_too_late_are_dropped() {
    let house = House::open().await;
    let object = house.create("configmaps", configmap("c")).await.unwrap();
    house.patch_as("test", "configmaps", "c", Patch::Merge(json!({"data": {"a": "2"}}))).await.unwrap();
    let act = |action| house.objects.perform(&house.who, action);
    let patch = json!({"data": {"a": "late"}});
    let precondition = Precondition::unchanged(&object);
    act(api::Action::Patch { key: object.key.clone(), subresource: None, patch, precondition }).await.unwrap();
    assert_eq!(house.get("configmaps", "c").unwrap().value["data"]["a"], json!("2"));
    act(api::Action::Create { key: object.key.clone(), body: configmap("c") }).await.unwrap();
    let tell = || api::Action::Tell {
        about: object.key.clone(),
        uid: object.uid().to_owned(),
        kind: "ConfigMap",
        severity: api::Severity::Normal,
        reason: "Seen",
        message: "it was seen".into(),
    };
    act(tell()).await.unwrap();
    act(tell()).await.unwrap();
    let view = house.objects.view();
    let told: Vec<_> = view.list("events").collect();
    assert_eq!((told.len(), told[0].field("count")), (1, &json!(2)));
}

#[tokio::test]
async fn a_collection_is_deleted_by_what_is_selected() {
    let house = House::open().await;
    for name in ["a", "b", "c"] {
        house.create("configmaps", configmap(name)).await.unwrap();
    }
    let configmaps = house.resource("configmaps");
    let selected = |object: &Object| object.name() != "b";
    let options = background();
    let deleted = house.objects.delete_collection(&house.who, &configmaps, "default", selected, &options).await;
    assert_eq!(deleted.unwrap().len(), 2);
    assert!(house.get("configmaps", "b").is_some() && house.get("configmaps", "a").is_none());
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
    assert_eq!(made.value["metadata"]["managedFields"][0]["operation"], json!("Apply"));
    assert_eq!(apply("ci", 2, false).await.unwrap().revision, made.revision, "nothing changed, nothing is written");
    let refused = apply("other", 3, false).await.unwrap_err();
    assert_eq!((refused.code, refused.reason), (409, "Conflict"));
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"ci\" using apps/v1: .spec.replicas");
    let cause = &refused.causes[0];
    assert_eq!((cause.reason, cause.field.as_str()), ("FieldManagerConflict", ".spec.replicas"));
    let forced = apply("other", 3, true).await.unwrap();
    assert_eq!((forced.generation(), forced.field("spec.replicas")), (2, &json!(3)));
    let nameless = apply("", 3, true).await.unwrap_err();
    assert_eq!(nameless.code, 422);
}

#[tokio::test]
async fn a_kept_picture_is_found_again_and_the_future_is_waited_for() {
    let house = House::open().await;
    let before = house.objects.view();
    house.objects.retain(&before);
    house.create("configmaps", configmap("c")).await.unwrap();
    let kept = house.objects.view_at(before.revision()).unwrap();
    assert_eq!((kept.count("configmaps"), house.objects.view().count("configmaps")), (0, 1));
    assert_eq!(house.objects.view_at(before.revision() - 1).err().unwrap().code, 410);
    let next = house.objects.view().revision() + 1;
    let (waited, made) = tokio::join!(house.objects.view_at_least(next), house.create("configmaps", configmap("d")));
    assert!(waited.unwrap().revision() >= made.unwrap().revision);
    let shared = house.get("configmaps", "d").unwrap();
    assert!(Arc::ptr_eq(&shared, &house.get("configmaps", "d").unwrap()), "decoded once for everybody");
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let open = || async {
        let store = raft_store::Store::open(raft_store::Config::single(directory.path())).await.unwrap();
        (store.clone(), Objects::open(store).await.unwrap())
    };
    let who = User::system("system:admin");
    let (store, objects) = open().await;
    let namespaces = objects.catalog().by_name("namespaces").unwrap().clone();
    let body = json!({"metadata": {"name": "shop"}});
    let made = objects.create(&who, &namespaces, "", body, &WriteOptions::manager("test")).await.unwrap().object;
    let mut changes = objects.changes(made.revision).unwrap();
    store.close().await;
    assert_eq!(changes.next().await.err(), Some(crate::ChangesEnd::Closed));
    let (_store, objects) = open().await;
    let found = objects.view().get("namespaces", "", "shop").cloned().unwrap();
    assert_eq!((found.revision, &found.value), (made.revision, &made.value));
    assert_eq!(objects.changes(made.revision - 1).err().unwrap().code, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_one_after_the_other_give_the_picture() {
    let house = Arc::new(House::open().await);
    let start = house.objects.view();
    let mut changes = house.objects.changes(start.revision()).unwrap();
    let writers = (0..4_u64).map(|writer| {
        let house = house.clone();
        tokio::spawn(async move {
            for step in 0..60_u64 {
                let name = format!("c{}", (writer * 7 + step * step) % 9);
                // Somebody else may have made, changed or deleted it: every answer is right.
                drop(match (writer + step) % 3 {
                    0 => house.create("configmaps", configmap(&name)).await.map(drop),
                    1 => {
                        let patch = Patch::Merge(json!({"data": {"w": format!("{writer}-{step}")}}));
                        house.patch_as("test", "configmaps", &name, patch).await.map(drop)
                    }
                    _ => house.delete("configmaps", &name, background()).await.map(drop),
                });
            }
        })
    });
    futures::future::join_all(writers.collect::<Vec<_>>()).await;
    let end = house.objects.view();
    let (mut replayed, mut last) = (start, 0);
    while replayed.revision() < end.revision() {
        for change in changes.next().await.unwrap() {
            assert!(change.revision >= last && change.revision == change.object.revision);
            last = change.revision;
            let previous = replayed.apply(change.kind, &change.object);
            assert_eq!(previous.map(|o| o.revision), change.previous.as_ref().map(|o| o.revision));
            assert_eq!(change.kind == ChangeKind::Added, change.previous.is_none());
        }
    }
    let revisions = |view: &api::View| view.list("configmaps").map(|object| object.revision).collect::<Vec<_>>();
    assert_eq!((revisions(&replayed), replayed.revision()), (revisions(&end), end.revision()));
}
