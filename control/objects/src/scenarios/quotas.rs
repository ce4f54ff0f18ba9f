//! Stories of quotas: nobody enters who does not fit, however many come at once.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{House, configmap, pod};

fn quota(name: &str, hard: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"hard": hard}})
}

fn used(house: &House, what: &str) -> Value {
    house.get("resourcequotas", "q").unwrap().value["status"]["used"][what].clone()
}

#[tokio::test]
async fn of_many_that_come_at_once_as_many_enter_as_fit() {
    let house = House::open().await;
    house.create("resourcequotas", quota("q", &json!({"pods": "7", "count/configmaps": "3"}))).await.unwrap();
    let entries = join_all((0..25).map(|index| {
        let house = &house;
        async move { house.create("pods", pod(&format!("p{index}"))).await }
    }));
    let entries = entries.await;
    let refusals: Vec<_> = entries.iter().filter_map(|entry| entry.as_ref().err()).collect();
    assert_eq!((entries.len() - refusals.len(), refusals.len()), (7, 18));
    for refusal in refusals {
        assert_eq!((refusal.code, refusal.reason), (403, "Forbidden"));
        let words = "is forbidden: exceeded quota: q, requested: pods=1, used: pods=7, limited: pods=7";
        assert!(refusal.message.ends_with(words), "{}", refusal.message);
    }
    assert_eq!(house.objects.view().count("pods"), 7);
    assert_eq!((used(&house, "pods"), used(&house, "count/configmaps")), (json!("7"), json!("0")));
    house.create("configmaps", configmap("c")).await.unwrap();
    assert_eq!(used(&house, "count/configmaps"), json!("1"));
}

#[tokio::test]
async fn compute_is_summed_and_must_be_said() {
    let house = House::open().await;
    let hard = json!({"requests.cpu": "1", "limits.memory": "1Gi"});
    house.create("resourcequotas", quota("q", &hard)).await.unwrap();
    let silent = house.create("pods", pod("silent")).await.unwrap_err();
    let words = "pods \"silent\" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c";
    assert_eq!(silent.message, words);
    let asking = |name: &str, cpu: &str| {
        let mut body = pod(name);
        body["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}, "limits": {"memory": "64Mi"}});
        body
    };
    house.create("pods", asking("a", "600m")).await.unwrap();
    let refused = house.create("pods", asking("b", "500m")).await.unwrap_err();
    assert_eq!(
        refused.message,
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, \
         limited: requests.cpu=1"
    );
    house.create("pods", asking("c", "400m")).await.unwrap();
    assert_eq!((used(&house, "requests.cpu"), used(&house, "limits.memory")), (json!("1"), json!("128Mi")));
}

#[tokio::test]
async fn a_claim_is_counted_again_when_it_grows_and_only_then() {
    let house = House::open().await;
    house.create("resourcequotas", quota("q", &json!({"requests.storage": "5Gi"}))).await.unwrap();
    let class = json!({"metadata": {"name": "fast"}, "provisioner": "x.io/y", "allowVolumeExpansion": true});
    house.create("storageclasses.storage.k8s.io", class).await.unwrap();
    let claim = json!({"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}}});
    let mut made = house.create("persistentvolumeclaims", claim).await.unwrap().value.clone();
    assert_eq!(used(&house, "requests.storage"), json!("2Gi"));
    let mut resize = async |size: &str| {
        made["spec"]["resources"]["requests"]["storage"] = json!(size);
        made["metadata"]["resourceVersion"] = json!("");
        house.update("persistentvolumeclaims", None, made.clone()).await.map(|_| ())
    };
    let refused = resize("6Gi").await.unwrap_err();
    assert!(refused.message.contains("requested: requests.storage=4Gi, used: requests.storage=2Gi"), "{refused}");
    resize("5Gi").await.unwrap();
    assert_eq!(used(&house, "requests.storage"), json!("5Gi"));
}
