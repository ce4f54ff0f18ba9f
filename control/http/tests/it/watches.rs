//! Watches: what is told, in which order, and how a watch ends.

use http::Method;
use serde_json::json;

use crate::harness::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn relabel(api: &Api, name: &str, app: &str) {
    let headers = [("content-type", "application/merge-patch+json")];
    let patch = json!({"metadata": {"labels": {"app": app}}}).to_string();
    assert_eq!(api.send(Method::PATCH, &format!("{MAPS}/{name}"), &headers, patch).await.code, 200);
}

#[tokio::test]
async fn a_watch_tells_the_state_and_then_what_happens() {
    let api = Api::start().await;
    let revision = api.config_map("a", json!({"app": "web"})).await;
    api.config_map("b", json!({"app": "db"})).await;
    let mut all = api.watch(&format!("{MAPS}?watch=true"), "").await;
    let mut later = api.watch(&format!("{MAPS}?watch=true&resourceVersion={revision}"), "").await;
    let mut web = api.watch(&format!("{MAPS}?watch=1&labelSelector=app%3Dweb"), "").await;
    let mut one = api.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db"), "").await;
    assert_eq!([all.brief().await, all.brief().await], ["ADDED a", "ADDED b"]);
    assert_eq!(later.brief().await, "ADDED b");
    assert_eq!([web.brief().await, one.brief().await], ["ADDED a", "ADDED b"]);
    relabel(&api, "a", "db").await;
    relabel(&api, "b", "web").await;
    api.send(Method::DELETE, &format!("{MAPS}/b"), &[], "").await;
    assert_eq!([all.brief().await, all.brief().await, all.brief().await], ["MODIFIED a", "MODIFIED b", "DELETED b"]);
    assert_eq!([web.brief().await, web.brief().await, web.brief().await], ["DELETED a", "ADDED b", "DELETED b"]);
    assert_eq!([one.brief().await, one.brief().await], ["MODIFIED b", "DELETED b"]);
    api.close().await;
}

#[tokio::test]
async fn a_list_as_a_watch_ends_with_a_mark() {
    let api = Api::start().await;
    api.config_map("a", json!({})).await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.watch(&format!("{MAPS}?{query}&timeoutSeconds=1"), "").await;
    assert_eq!(watch.brief().await, "ADDED a");
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["kind"], "ConfigMap");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let revision = mark["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    // Before it ends, a watch tells its revision once more.
    let last = watch.next().await.unwrap();
    assert!(last["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() >= revision);
    assert_eq!((last["type"].as_str(), watch.next().await), (Some("BOOKMARK"), None));
    assert_eq!(api.get(&format!("{MAPS}?watch=true&sendInitialEvents=true")).await.code, 422);
    api.close().await;
}

#[tokio::test]
async fn whoever_comes_too_late_is_told_to_list_again() {
    let api = Api::start().await;
    api.config_map("a", json!({})).await;
    // A member that starts now knows nothing of what was before.
    let api = api.restart().await;
    let mut watch = api.watch(&format!("{MAPS}?watch=true&resourceVersion=1"), "").await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!((&event["object"]["reason"], watch.next().await), (&json!("Expired"), None));
    api.close().await;
}

#[tokio::test]
async fn a_watch_can_be_a_table() {
    let api = Api::start().await;
    api.config_map("a", json!({})).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = api.watch(&format!("{MAPS}?watch=true"), accept).await;
    let first = watch.next().await.unwrap();
    assert_eq!((&first["object"]["kind"], &first["object"]["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert!(first["object"]["columnDefinitions"].is_array());
    api.config_map("b", json!({})).await;
    let second = watch.next().await.unwrap();
    assert_eq!((&second["type"], &second["object"]["rows"][0]["cells"][0]), (&json!("ADDED"), &json!("b")));
    assert!(second["object"]["columnDefinitions"].is_null());
    api.close().await;
}
