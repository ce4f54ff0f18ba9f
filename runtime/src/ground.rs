//! What all containers of a pod stand on: its address, its volumes, its folders on this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use k8s_openapi::api::core::v1 as k8s;
use network::{PodIdentity, PodNet};
use tokio::sync::OnceCell;

use crate::etc::Etc;
use crate::host::private_folder;
use crate::limits::{ACCOUNT_TRIES, ACCOUNT_WAIT};
use crate::node::Agent;
use crate::resident::Resident;
use crate::volumes::claims::KEPT;
use crate::volumes::{self, Volume};
use crate::{environment, etc, settings};

/// What all containers of a pod share.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) network: PodNet,
    pub(crate) volumes: Arc<BTreeMap<String, Volume>>,
    pub(crate) sight: Arc<Sight>,
    /// The pod's folder on this node.
    pub(crate) folder: PathBuf,
}

/// What stands before a pod's containers and most never look at: its `/etc` and its account's token. Components that answer
/// requests seldom import files; a node that fills with them would do little else than make folders and ask for tokens.
#[derive(Debug)]
pub(crate) struct Sight {
    /// Namespace, name and uid of the pod.
    whose: [Box<str>; 3],
    addresses: Vec<IpAddr>,
    pub(crate) etc: Etc,
    shown: OnceCell<()>,
}

impl Sight {
    /// Makes it be there, before the first looks. A new namespace has its account and its authority a moment later than
    /// its first pods; that is waited for.
    ///
    /// # Errors
    /// The sentence for `CreateContainerConfigError`.
    pub(crate) async fn show(self: &Arc<Self>, agent: &Agent) -> Result<(), String> {
        let make = || async {
            let [namespace, name, uid] = &self.whose;
            let tenant = agent.roster.get(namespace, name).filter(|tenant| tenant.pod.uid == *uid);
            let pod = tenant.ok_or("the pod is not on this node any more")?.pod.pod();
            let mut tries = 1;
            while let Err(error) = fill_volumes(agent, &pod, &self.addresses, volumes::is_account).await {
                if tries == ACCOUNT_TRIES {
                    return Err(error);
                }
                tries += 1;
                tokio::time::sleep(ACCOUNT_WAIT).await;
            }
            let sight = self.clone();
            let written = tokio::task::spawn_blocking(move || sight.etc.write()).await.map_err(io::Error::other);
            written.flatten().map_err(|error| format!("its /etc cannot be written: {error}"))
        };
        self.shown.get_or_try_init(make).await.map(drop)
    }

    /// Whether somebody looks.
    pub(crate) fn is_shown(&self) -> bool {
        self.shown.initialized()
    }
}

/// Materialises the volumes and connects the pod to the network.
///
/// # Errors
/// The sentence for the pod's `FailedMount` event.
pub(crate) async fn set_up(agent: &Agent, resident: &Arc<Resident>, address: IpAddr) -> Result<Ground, String> {
    let pod = &*resident.pod();
    let addresses = agent.with_others(address);
    let folder = pod_folder(agent, &resident.uid);
    let mut volumes = fill_volumes(agent, pod, &addresses, |volume| !volumes::is_account(volume)).await?;
    for later in volumes::of(pod).filter(|volume| volumes::is_account(volume)) {
        let place = folder.join(VOLUMES_OF_POD).join(&later.name);
        volumes.insert(later.name.clone(), Volume { folder: place, read_only: true });
    }
    let identity = PodIdentity {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        hostname: environment::host_name(pod).to_owned(),
        addresses: addresses.clone(),
    };
    let dns = etc::Dns::of(pod, &agent.config.fabric.config().domain, etc::host_resolv_conf);
    let etc = Etc { folder: folder.join(ETC), files: etc::files(pod, &identity, &dns) };
    let whose = [&resident.namespace, &resident.name, &resident.uid].map(Clone::clone);
    let sight = Arc::new(Sight { whose, addresses, etc, shown: OnceCell::new() });
    let network = agent.config.fabric.attach_with(identity, dns.resolver(pod));
    Ok(Ground { network, volumes: Arc::new(volumes), sight, folder })
}

/// Makes those of the pod's volumes that are `wanted` show what their sources say now. What the pod wrote itself stays.
///
/// # Errors
/// The sentence for the pod's `FailedMount` event.
pub(crate) async fn fill_volumes(
    agent: &Agent,
    pod: &k8s::Pod,
    addresses: &[IpAddr],
    wanted: impl Fn(&k8s::Volume) -> bool,
) -> Result<BTreeMap<String, Volume>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let settings = settings::fetch(&agent.config.client, namespace, volumes::references(pod, &wanted)).await?;
    let place = agent.place(addresses);
    let mut contents = Vec::new();
    for volume in volumes::of(pod).filter(|volume| wanted(volume)) {
        let rendered = volumes::render(volume, pod, &settings, &place, agent.config.allow_host_path);
        let failed = |why| format!("MountVolume.SetUp failed for volume \"{}\" : {why}", volume.name);
        contents.push((volume.name.clone(), rendered.map_err(failed)?));
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let root = pod_folder(agent, uid).join(VOLUMES_OF_POD);
    let kept = agent.config.data_dir.join(KEPT);
    let materialised = tokio::task::spawn_blocking(move || {
        let one = |(name, contents): (String, volumes::Contents)| {
            let volume = volumes::materialise(&root.join(&name), &kept, &contents);
            volume.map(|volume| (name.clone(), volume)).map_err(|error| format!("volume \"{name}\": {error}"))
        };
        contents.into_iter().map(one).collect()
    });
    materialised.await.map_err(|error| error.to_string())?
}

/// Where in its folder a pod's volumes are.
const VOLUMES_OF_POD: &str = "volumes";

/// Where in its folder a pod's `/etc` is.
const ETC: &str = "etc";

const VOLUMES: &str = "pods";
const OUTPUT: &str = "output";

/// Where the pod keeps its volumes.
pub(crate) fn pod_folder(agent: &Agent, uid: &str) -> PathBuf {
    agent.config.data_dir.join(VOLUMES).join(uid)
}

/// Where the pod's output is kept.
pub(crate) fn output_folder(agent: &Agent, uid: &str) -> PathBuf {
    agent.config.data_dir.join(OUTPUT).join(uid)
}

/// Makes the folders in which pods get theirs.
pub(crate) fn make_folders(data_dir: &Path) -> io::Result<()> {
    private_folder(&data_dir.join(VOLUMES))?;
    private_folder(&data_dir.join(KEPT))?;
    private_folder(&data_dir.join(OUTPUT))
}

/// The folders of pods that are there now, by uid.
pub(crate) fn leftovers(data_dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for folder in [VOLUMES, OUTPUT] {
        for entry in fs::read_dir(data_dir.join(folder))? {
            let entry = entry?;
            found.extend(entry.file_name().into_string().ok().map(|uid| (uid, entry.path())));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_tells_whose_it_is() {
        let data_dir = tempfile::tempdir().unwrap();
        make_folders(data_dir.path()).unwrap();
        assert_eq!(leftovers(data_dir.path()).unwrap(), []);
        for folder in ["pods/u1/volumes", "output/u1", "output/u2/web"] {
            fs::create_dir_all(data_dir.path().join(folder)).unwrap();
        }
        let mut found = leftovers(data_dir.path()).unwrap();
        found.sort();
        let expected = [("u1", "output/u1"), ("u1", "pods/u1"), ("u2", "output/u2")];
        assert_eq!(found, expected.map(|(uid, path)| (uid.to_owned(), data_dir.path().join(path))));
    }
}
