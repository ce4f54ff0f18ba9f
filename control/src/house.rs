//! A door with the controllers behind it, for tests of what they make of custom resources.

use std::time::Duration;

use objects::{Objects, User, WriteOptions};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::definitions::{install, served};

/// A door with the controllers behind it and all definitions installed.
pub(crate) async fn house() -> (Objects, TempDir, DropGuard) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = raft_store::Store::open(raft_store::Config::single(directory.path())).await.expect("a new store");
    let objects = Objects::open(store).await.expect("an empty store");
    let stop = CancellationToken::new();
    let lost = http_api::Relay::default().lost();
    let usage = http_api::Measured::default();
    tokio::spawn(crate::controllers_driver::run(objects.clone(), "THE CA".to_owned(), lost, usage, stop.clone()));
    tokio::spawn(crate::issuance::run(objects.clone(), stop.clone()));
    put(&objects, "{apiVersion: v1, kind: Namespace, metadata: {name: default}}").await;
    install(objects.clone()).await;
    (objects, directory, stop.drop_guard())
}

/// Creates objects of YAML text; namespaced ones in `default`.
pub(crate) async fn put(objects: &Objects, text: &str) {
    for body in api::yaml::documents(text.as_bytes()).unwrap() {
        let resource = served(objects, &body).await.unwrap();
        let namespace = if resource.namespaced { "default" } else { "" };
        let who = User::system("system:admin");
        objects.create(&who, &resource, namespace, body, &WriteOptions::default()).await.unwrap();
    }
}

/// Waits until an object's status says something.
pub(crate) async fn status_of(objects: &Objects, resource: &str, name: &str, says: impl Fn(&Value) -> bool) -> Value {
    let namespace = if resource.starts_with("gatewayclasses") { "" } else { "default" };
    let mut last = Value::Null;
    let seen = async {
        loop {
            let view = objects.view();
            let object = view.get(resource, namespace, name).map(|object| object.field("status").clone());
            last = object.unwrap_or_default();
            if says(&last) {
                return;
            }
            objects.changes(view.revision()).unwrap().next().await.unwrap();
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), seen).await;
    assert!(waited.is_ok(), "{resource} {name}: {last:#}");
    last
}
