//! How objects end: finalizers, grace, namespaces, budgets.

use super::*;

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
