//! How much of the node's disk a pod uses, and whether that is more than it may. Evicted pods say it in the kubelet's words.
//!
//! Looked at are emptyDir volumes with a `sizeLimit` and containers with a limit of `ephemeral-storage`. What a
//! container keeps on this node is its output; what a pod keeps is that and its emptyDir volumes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::quantity::Quantity;
use k8s_openapi::api::core::v1 as k8s;

use crate::limits::STORAGE_ENTRIES_MAX;
use crate::volumes;

/// Where a pod's files are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Folders of its emptyDir volumes, by the volume's name.
    pub(crate) volumes: BTreeMap<String, PathBuf>,
    /// Folders of its containers' output, by the container's name.
    pub(crate) outputs: BTreeMap<String, PathBuf>,
}

/// Bytes in use, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    volumes: BTreeMap<String, u64>,
    outputs: BTreeMap<String, u64>,
}

/// Whether the pod has any limit that has to be looked after.
pub(crate) fn is_limited(pod: &k8s::Pod) -> bool {
    volumes::of(pod).any(|volume| size_limit(volume).is_some()) || containers(pod).any(|c| storage_limit(c).is_some())
}

/// The sentence about the first limit that is exceeded, in the kubelet's order: volumes, the pod, its containers.
pub(crate) fn excess(pod: &k8s::Pod, used: &Used) -> Option<String> {
    for volume in volumes::of(pod) {
        let bytes = used.volumes.get(&volume.name).copied().unwrap_or(0);
        if let Some((_, shown)) = size_limit(volume).filter(|(limit, _)| bytes > *limit) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {shown:?}. ", volume.name));
        }
    }
    let limits: Option<Vec<u64>> = containers(pod).map(|c| storage_limit(c).map(|(limit, _)| limit)).collect();
    if let Some(total) = limits.filter(|limits| !limits.is_empty()).map(|limits| limits.iter().sum::<u64>()) {
        let all = used.volumes.values().chain(used.outputs.values()).sum::<u64>();
        if all > total {
            return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {total}. "));
        }
    }
    containers(pod).find_map(|container| {
        let bytes = used.outputs.get(&container.name).copied().unwrap_or(0);
        let (_, shown) = storage_limit(container).filter(|(limit, _)| bytes > *limit)?;
        let name = &container.name;
        Some(format!("Container {name} exceeded its local ephemeral storage limit {shown:?}. "))
    })
}

/// Looks at the files. Blocks.
pub(crate) fn measure(places: &Places) -> Used {
    let sizes = |folders: &BTreeMap<String, PathBuf>| {
        folders.iter().map(|(name, folder)| (name.clone(), size(folder))).collect::<BTreeMap<_, _>>()
    };
    Used { volumes: sizes(&places.volumes), outputs: sizes(&places.outputs) }
}

/// Bytes of all files below a folder; links are not followed. A folder with more entries than anybody needs counts as
/// full: looking at all of them would cost the node more than the limit saves.
fn size(folder: &Path) -> u64 {
    let (mut sum, mut entries, mut folders) = (0_u64, 0_usize, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        // What is deleted meanwhile is not there.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            entries += 1;
            if entries > STORAGE_ENTRIES_MAX {
                return u64::MAX;
            }
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => sum = sum.saturating_add(found.len()),
                Err(_) => {}
            }
        }
    }
    sum
}

fn containers(pod: &k8s::Pod) -> impl Iterator<Item = &k8s::Container> {
    pod.spec.iter().flat_map(|spec| &spec.containers)
}

fn size_limit(volume: &k8s::Volume) -> Option<(u64, &str)> {
    limit(volume.empty_dir.as_ref()?.size_limit.as_ref())
}

fn storage_limit(container: &k8s::Container) -> Option<(u64, &str)> {
    limit(container.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage"))
}

fn limit(quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> Option<(u64, &str)> {
    let shown = &*quantity?.0;
    let bytes = u64::try_from(Quantity::parse(shown)?.bytes()).ok()?;
    (bytes > 0).then_some((bytes, shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: &serde_json::Value) -> k8s::Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn used(volume: u64, output: u64) -> Used {
        Used { volumes: BTreeMap::from([("cache".into(), volume)]), outputs: BTreeMap::from([("c".into(), output)]) }
    }

    #[test]
    fn a_pod_is_evicted_in_the_kubelets_words() {
        let limited = pod(&json!({
            "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "1Ki"}}],
            "containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "2Ki"}}}]}));
        assert!(is_limited(&limited));
        for (found, expected) in [
            (used(1024, 1024), None),
            (used(1025, 0), Some("Usage of EmptyDir volume \"cache\" exceeds the limit \"1Ki\". ")),
            (used(1000, 1100), Some("Pod ephemeral local storage usage exceeds the total limit of containers 2048. ")),
        ] {
            assert_eq!(excess(&limited, &found).as_deref(), expected);
        }
        let two = pod(&json!({"containers": [
            {"name": "c", "resources": {"limits": {"ephemeral-storage": "2Ki"}}}, {"name": "free"}]}));
        let expected = "Container c exceeded its local ephemeral storage limit \"2Ki\". ";
        assert_eq!(excess(&two, &used(9000, 3000)).as_deref(), Some(expected));
    }

    #[test]
    fn a_pod_without_limits_is_not_looked_at() {
        let free = pod(&json!({"volumes": [{"name": "cache", "emptyDir": {}}], "containers": [{"name": "c"}]}));
        assert!(!is_limited(&free));
        assert_eq!(excess(&free, &used(u64::MAX, 0)), None);
    }

    #[test]
    fn all_files_count_and_links_do_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("volume/deep")).unwrap();
        std::fs::write(dir.path().join("volume/a"), [0; 100]).unwrap();
        std::fs::write(dir.path().join("volume/deep/b"), [0; 20]).unwrap();
        std::fs::write(dir.path().join("outside"), [0; 5000]).unwrap();
        let places = Places {
            volumes: BTreeMap::from([("cache".into(), dir.path().join("volume"))]),
            outputs: BTreeMap::from([("c".into(), dir.path().join("never made"))]),
        };
        let found = measure(&places);
        assert_eq!((found.volumes["cache"], found.outputs["c"]), (120, 0));
    }
}
