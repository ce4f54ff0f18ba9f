//! Several writers and readers at once: races, watchers, pictures, restarts.

use super::*;

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
    assert_eq!((found.revision, &*found.value), (made.revision, &*made.value));
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

/// Two members each have a door and a picture of their own; here both stand before one store.
#[tokio::test(flavor = "multi_thread")]
async fn two_doors_never_give_the_same_address_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = raft_store::Store::open(raft_store::Config::single(directory.path())).await.unwrap();
    let doors = [Objects::open(store.clone()).await.unwrap(), Objects::open(store).await.unwrap()];
    let (who, options) = (User::system("system:admin"), WriteOptions::manager("test"));
    let catalog = doors[0].catalog();
    let (namespaces, services) = (catalog.by_name("namespaces").unwrap(), catalog.by_name("services").unwrap());
    let home = json!({"metadata": {"name": "default"}});
    doors[0].create(&who, namespaces, "", home, &options).await.unwrap();
    let made = (0..24).map(|n| {
        let body = json!({"metadata": {"name": format!("s{n}")}, "spec": {"ports": [{"port": 80}]}});
        doors[n % 2].create(&who, services, "default", body, &options)
    });
    let made = futures::future::join_all(made.collect::<Vec<_>>()).await;
    let addresses: std::collections::BTreeSet<String> =
        made.into_iter().map(|written| written.unwrap().object.field("spec.clusterIP").to_string()).collect();
    assert_eq!(addresses.len(), 24);
    let gone = doors[0].delete(&who, services, "default", "s0", &background()).await.unwrap();
    let late = doors[1].delete(&who, services, "default", "s0", &background()).await.unwrap_err();
    assert!(matches!(gone, Deleted::Gone(_)) && late.code == 404, "a door that has not heard of it asks first");
}
