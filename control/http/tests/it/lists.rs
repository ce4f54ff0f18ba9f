//! Lists: pages of one picture, selectors, tables.

use http::Method;
use serde_json::{Value, json};

use crate::harness::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pages_belong_to_one_picture() {
    let api = Api::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        api.config_map(name, json!({})).await;
    }
    let first = api.get(&format!("{MAPS}?limit=2")).await.json();
    assert_eq!(first["kind"], "ConfigMapList");
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(3)));
    // What happens between two pages does not show.
    api.config_map("bb", json!({})).await;
    api.send(Method::DELETE, &format!("{MAPS}/d"), &[], "").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = api.get(&format!("{MAPS}?limit=2&continue={token}")).await.json();
    assert_eq!((names(&second), &second["metadata"]["remainingItemCount"]), (vec!["c", "d"], &json!(1)));
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = api.get(&format!("{MAPS}?limit=2&continue={token}")).await.json();
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["e"], None));
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = api.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")).await.json();
    assert_eq!(names(&exact), ["a", "b", "c", "d", "e"]);
    assert_eq!(names(&api.get(MAPS).await.json()), ["a", "b", "bb", "c", "e"]);
    api.close().await;
}

#[tokio::test]
async fn an_old_token_is_refused_with_a_fresh_one() {
    use base64::Engine;
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.config_map(name, json!({})).await;
    }
    let old = json!({"v": "meta.k8s.io/v1", "rv": 1, "start": "default/b"}).to_string();
    let old = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(old);
    let refused = api.get(&format!("{MAPS}?limit=1&continue={old}")).await;
    assert_eq!((refused.code, &refused.json()["reason"]), (410, &json!("Expired")), "{}", refused.text());
    let refused = refused.json();
    let fresh = refused["metadata"]["continue"].as_str().unwrap();
    assert_eq!(names(&api.get(&format!("{MAPS}?continue={fresh}")).await.json()), ["b", "c"]);
    assert_eq!(api.get(&format!("{MAPS}?continue=nonsense")).await.code, 400);
    api.close().await;
}

#[tokio::test]
async fn tables_selectors_and_metadata() {
    let api = Api::start().await;
    api.config_map("a", json!({"app": "web"})).await;
    api.config_map("b", json!({"app": "db"})).await;
    assert_eq!(names(&api.get(&format!("{MAPS}?labelSelector=app%3Dweb")).await.json()), ["a"]);
    assert_eq!(names(&api.get("/api/v1/configmaps?fieldSelector=metadata.name%3Db").await.json()), ["b"]);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let list = api.send(Method::GET, MAPS, &[("accept", table)], "").await.json();
    assert_eq!((&list["kind"], &list["columnDefinitions"][1]["name"]), (&json!("Table"), &json!("Data")));
    assert_eq!(list["rows"][0]["cells"].as_array().unwrap()[..2], [json!("a"), json!(1)]);
    assert_eq!(list["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let one = api.send(Method::GET, &format!("{MAPS}/a?includeObject=Object"), &[("accept", table)], "").await.json();
    assert_eq!(one["rows"][0]["object"]["data"]["a"], "b");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = api.send(Method::GET, MAPS, &[("accept", partial)], "").await.json();
    assert_eq!((&list["kind"], list["items"][0].get("data")), (&json!("PartialObjectMetadataList"), None));
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}).to_string();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let only_table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    assert_eq!(api.send(Method::POST, path, &only_table, review).await.code, 406);

    let gone = api.send(Method::DELETE, &format!("{MAPS}?labelSelector=app%3Dweb"), &[], "").await.json();
    assert_eq!(names(&gone), ["a"]);
    assert_eq!(names(&api.get(MAPS).await.json()), ["b"]);
    api.close().await;
}
