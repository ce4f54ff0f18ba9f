//! What all containers of a pod stand on: its address, its volumes, its folders on this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;
use network::{PodIdentity, PodNet};

use crate::node::Agent;
use crate::volumes::{self, Volume};
use crate::{environment, settings};

/// What all containers of a pod share.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) network: PodNet,
    pub(crate) volumes: Arc<BTreeMap<String, Volume>>,
    /// The pod's folder on this node.
    pub(crate) folder: PathBuf,
}

/// Materialises the volumes and connects the pod to the network.
///
/// # Errors
/// The sentence for the pod's `FailedMount` event.
pub(crate) async fn set_up(agent: &Agent, pod: &k8s::Pod, address: IpAddr) -> Result<Ground, String> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let settings = settings::fetch(&agent.config.client, &namespace, volumes::references(pod)).await?;
    let place = agent.place(&[address]);
    let folder = pod_folder(agent, pod);
    let mut contents = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let rendered = volumes::render(volume, pod, &settings, &place, agent.config.allow_host_path);
        let failed = |why| format!("MountVolume.SetUp failed for volume \"{}\" : {why}", volume.name);
        contents.push((volume.name.clone(), rendered.map_err(failed)?));
    }
    let root = folder.join("volumes");
    let materialised = tokio::task::spawn_blocking(move || {
        let one = |(name, contents): (String, volumes::Contents)| {
            let volume = volumes::materialise(&root.join(&name), &contents);
            volume.map(|volume| (name.clone(), volume)).map_err(|error| format!("volume \"{name}\": {error}"))
        };
        contents.into_iter().map(one).collect::<Result<BTreeMap<_, _>, String>>()
    });
    let volumes = Arc::new(materialised.await.map_err(|error| error.to_string())??);
    let identity = PodIdentity {
        namespace,
        name: pod.metadata.name.clone().unwrap_or_default(),
        hostname: environment::host_name(pod).to_owned(),
        addresses: vec![address],
    };
    Ok(Ground { network: agent.config.fabric.attach(identity), volumes, folder })
}

/// Where the pod keeps its volumes.
pub(crate) fn pod_folder(agent: &Agent, pod: &k8s::Pod) -> PathBuf {
    agent.config.data_dir.join("pods").join(pod.metadata.uid.as_deref().unwrap_or_default())
}

/// Where the pod's output is kept.
pub(crate) fn output_folder(agent: &Agent, pod: &k8s::Pod) -> PathBuf {
    agent.config.data_dir.join("output").join(pod.metadata.uid.as_deref().unwrap_or_default())
}
