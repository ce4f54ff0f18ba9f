//! A client library of others (crate `kube`) against the API: in the same process and through TLS.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use http_api::{in_process, serve};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use objects::User;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{self, PATIENCE};
use crate::tls::Authority;

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "b"}})).unwrap()
}

/// Serves the API on a free port until `stop`: its URL, and the end of it.
async fn listening(api: &harness::Api, authority: &Authority, stop: &CancellationToken) -> (String, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("https://{}", listener.local_addr().unwrap());
    let tls = authority.server().unwrap();
    (server, tokio::spawn(serve(listener, tls, api.service.clone(), stop.clone())))
}

#[tokio::test]
async fn a_client_in_the_same_process_needs_no_socket() {
    let api = harness::Api::start().await;
    let user = User { name: "me".into(), groups: vec!["system:masters".into()], ..User::default() };
    let client = Client::new(in_process(api.service.clone(), user, "me"), "default");
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    maps.create(&PostParams::default(), &map("a")).await.unwrap();
    let configs = [watcher::Config::default(), watcher::Config::default().streaming_lists()];
    for (round, config) in configs.into_iter().enumerate() {
        let mut seen = Vec::new();
        let mut events = watcher(maps.clone(), config).boxed();
        while let Some(event) = tokio::time::timeout(PATIENCE, events.try_next()).await.unwrap().unwrap() {
            match event {
                Event::Init => {}
                Event::InitApply(map) => seen.push(format!("init {}", map.name_any())),
                Event::InitDone => {
                    let patch = Patch::Merge(json!({"data": {"round": round.to_string()}}));
                    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
                }
                Event::Apply(map) => {
                    seen.push(format!("apply {}", map.name_any()));
                    break;
                }
                Event::Delete(map) => seen.push(format!("delete {}", map.name_any())),
            }
        }
        assert_eq!(seen, ["init a", "apply a"]);
    }
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ssa"}, "data": {"x": "y"}});
    maps.patch("ssa", &PatchParams::apply("me"), &Patch::Apply(&applied)).await.unwrap();
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 2);
    assert!(matches!(maps.get("none").await, Err(kube::Error::Api(status)) if status.code == 404));
    api.close().await;
}

#[tokio::test]
async fn a_certificate_opens_the_door_and_watches_end_with_the_server() {
    let api = harness::Api::start().await;
    let authority = Authority::new().unwrap();
    let stop = CancellationToken::new();
    let (server, served) = listening(&api, &authority, &stop).await;
    let client = |user: &str, group: &str| {
        let config: Kubeconfig = serde_json::from_value(authority.kubeconfig(&server, user, group).unwrap()).unwrap();
        async {
            Client::try_from(kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap())
        }
    };
    let admin: Api<ConfigMap> = Api::default_namespaced(client("root", "system:masters").await.unwrap());
    admin.create(&PostParams::default(), &map("a")).await.unwrap();
    let guest: Api<ConfigMap> = Api::default_namespaced(client("guest", "guests").await.unwrap());
    assert!(matches!(guest.get("a").await, Err(kube::Error::Api(status)) if status.code == 403));
    let mut events = admin.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    assert!(matches!(events.try_next().await.unwrap(), Some(WatchEvent::Added(map)) if map.name_any() == "a"));
    stop.cancel();
    let rest = tokio::time::timeout(PATIENCE, events.collect::<Vec<_>>()).await.expect("the watch ends");
    assert!(rest.iter().all(|event| !matches!(event, Ok(WatchEvent::Added(_)))), "{rest:?}");
    tokio::time::timeout(PATIENCE, served).await.expect("the server ends").unwrap();
    api.close().await;
}

#[tokio::test]
async fn a_connection_that_stands_is_nobodys_once_its_certificate_is_over() {
    let api = harness::Api::start().await;
    let authority = Authority::new().unwrap();
    let stop = CancellationToken::new();
    let (server, served) = listening(&api, &authority, &stop).await;
    let config = authority.kubeconfig_for(&server, "root", "system:masters", Duration::from_secs(2)).unwrap();
    let config: Kubeconfig = serde_json::from_value(config).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::try_from(config).unwrap());
    maps.create(&PostParams::default(), &map("a")).await.unwrap();
    // Asked without a pause, so that it is the same connection all the time.
    let over = async {
        loop {
            if let Err(error) = maps.get("a").await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, over).await.expect("the certificate is over");
    assert!(matches!(&error, kube::Error::Api(status) if [401, 403].contains(&status.code)), "{error}");
    stop.cancel();
    tokio::time::timeout(PATIENCE, served).await.expect("the server ends").unwrap();
    api.close().await;
}
