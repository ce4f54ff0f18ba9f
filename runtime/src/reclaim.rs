//! The end of volumes: removes the folder of a deleted volume of this node, then lets its object go.
//!
//! A volume made by `kogia.dev/local` is born with that finalizer. Its object is deleted only when its claim has gone
//! and the reclaim policy says so; the folder goes first, so that what is deleted is really gone when nobody sees it
//! any more.

use std::path::Path;
use std::sync::Arc;

use api::volumes::{LOCAL, ON_NODE};
use futures::StreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;

use crate::node::Agent;
use crate::retry::{is_gone, until_ok};
use crate::volumes::claims::{KEPT, is_handle};

/// Watches volumes until it is dropped.
pub(crate) async fn run(agent: Arc<Agent>) {
    let volumes: Api<PersistentVolume> = Api::all(agent.config.client.clone());
    let mut changes = watcher(volumes.clone(), watcher::Config::default()).default_backoff().boxed();
    while let Some(change) = changes.next().await {
        let volume = match change {
            Ok(Event::Apply(volume) | Event::InitApply(volume)) => volume,
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "watch of volumes interrupted");
                continue;
            }
        };
        let Some(handle) = doomed(&volume, &agent.config.name) else { continue };
        let folder = agent.config.data_dir.join(KEPT).join(handle);
        let removed = tokio::task::spawn_blocking(move || remove(&folder)).await;
        match removed.map_err(std::io::Error::other).flatten() {
            Ok(()) => release(&volumes, &volume).await,
            Err(error) => {
                let name = volume.metadata.name.unwrap_or_default();
                tracing::error!(volume = name, %error, "the data of a deleted volume cannot be removed");
            }
        }
    }
}

/// The handle of a volume whose folder is to be removed by this node.
fn doomed<'a>(volume: &'a PersistentVolume, node: &str) -> Option<&'a str> {
    let held = volume.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == LOCAL);
    let csi = volume.spec.as_ref()?.csi.as_ref().filter(|csi| csi.driver == LOCAL && is_handle(&csi.volume_handle))?;
    let here = csi.volume_attributes.as_ref()?.get(ON_NODE).is_some_and(|on| on == node);
    (held && here && volume.metadata.deletion_timestamp.is_some()).then_some(&*csi.volume_handle)
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Takes the finalizer away; whoever changed the volume meanwhile is heard through the watch.
async fn release(volumes: &Api<PersistentVolume>, volume: &PersistentVolume) {
    let name = volume.metadata.name.clone().unwrap_or_default();
    let rest: Vec<&String> = volume.metadata.finalizers.iter().flatten().filter(|held| *held != LOCAL).collect();
    let patch = json!({"metadata": {
        "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version, "finalizers": rest,
    }});
    until_ok("the end of a volume", || async {
        match volumes.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(error) if is_gone(&error) => Ok(()),
            written => written.map(|_| ()),
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn only_deleted_volumes_of_this_node_lose_their_data() {
        let volume = |change: &dyn Fn(&mut Value)| {
            let mut value = json!({
                "metadata": {"finalizers": [LOCAL], "deletionTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"csi": {"driver": LOCAL, "volumeHandle": "pvc-1", "volumeAttributes": {ON_NODE: "n1"}}},
            });
            change(&mut value);
            serde_json::from_value::<PersistentVolume>(value).unwrap()
        };
        assert_eq!(doomed(&volume(&|_| {}), "n1"), Some("pvc-1"));
        assert_eq!(doomed(&volume(&|_| {}), "n2"), None);
        for change in [
            (&|value: &mut Value| value["metadata"]["deletionTimestamp"] = Value::Null) as &dyn Fn(&mut Value),
            &|value| value["metadata"]["finalizers"] = json!(["kubernetes.io/pv-protection"]),
            &|value| value["spec"]["csi"]["volumeHandle"] = json!("../x"),
            &|value| value["spec"]["csi"]["driver"] = json!("other"),
        ] {
            assert_eq!(doomed(&volume(change), "n1"), None);
        }
    }

    #[test]
    fn data_goes_once() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("pvc-1");
        std::fs::create_dir_all(folder.join("deep")).unwrap();
        remove(&folder).unwrap();
        remove(&folder).unwrap();
        assert!(!folder.exists());
    }
}
