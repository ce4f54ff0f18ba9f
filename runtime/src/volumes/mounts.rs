//! Where a container sees its pod's volumes.
//!
//! A guest sees folders only (a WASI preopen is one), so a sub-path that is a single file is copied into a folder of
//! its own that is mounted in place of the file's parent; several files of one parent share that folder. Such files do
//! not follow later changes of the ConfigMap, as in Kubernetes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use engine::Mount;
use k8s_openapi::api::core::v1 as k8s;

use super::{Volume, stays_inside};
use crate::environment;

/// The container's mounts. `stage` is a folder of this container where single files may be put.
///
/// # Errors
/// The sentence for `CreateContainerConfigError`.
pub(crate) fn mounts(
    container: &k8s::Container,
    environment: &[(String, String)],
    volumes: &BTreeMap<String, Volume>,
    stage: &Path,
) -> Result<Vec<Mount>, String> {
    let mut mounts: Vec<Mount> = Vec::new();
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let volume = volumes.get(&wanted.name);
        let volume = volume.ok_or_else(|| format!("volume \"{}\" of the mount is not defined", wanted.name))?;
        let sub_path = match (&wanted.sub_path, &wanted.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => Some(path.clone()),
            (_, Some(path)) if !path.is_empty() => Some(environment::expand(path, environment)),
            _ => None,
        };
        let host = match sub_path {
            Some(path) => below(volume, &path)?,
            None => volume.folder.clone(),
        };
        let guest = wanted.mount_path.trim_end_matches('/').to_owned();
        if host.is_file() {
            let (parent, name) = guest.rsplit_once('/').unwrap_or(("", &guest));
            let target = stage.join(files.len().to_string());
            let copies = files.entry(parent.to_owned()).or_default();
            let target = copies.first().and_then(|copy| copy.parent()).map_or(target, Path::to_owned);
            copy(&host, &target, name)?;
            copies.push(target.join(name));
        } else {
            let read_only = volume.read_only || wanted.read_only == Some(true);
            mounts.push(Mount { host, guest: or_root(guest), read_only });
        }
    }
    for (parent, copies) in files {
        let guest = or_root(parent);
        if mounts.iter().any(|mount| mount.guest == guest) {
            return Err(format!(
                "a file and a folder are both mounted at {guest}; this node cannot lay one over the other"
            ));
        }
        let host = copies.first().and_then(|copy| copy.parent()).map(Path::to_owned).unwrap_or_default();
        mounts.push(Mount { host, guest, read_only: true });
    }
    Ok(mounts)
}

fn or_root(path: String) -> String {
    if path.is_empty() { "/".to_owned() } else { path }
}

/// A path below a volume. Folders that are missing are made, where the volume may be written; links are not followed,
/// since the pod may have made them.
fn below(volume: &Volume, sub_path: &str) -> Result<PathBuf, String> {
    if !stays_inside(sub_path) {
        return Err(format!("subPath {sub_path:?} leaves its volume"));
    }
    let mut path = volume.folder.clone();
    for part in Path::new(sub_path).components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => return Err(format!("subPath {sub_path:?} leads through a link")),
            Ok(_) => {}
            Err(_) if volume.read_only => return Err(format!("subPath {sub_path:?} does not exist in its volume")),
            Err(_) => fs::create_dir(&path).map_err(|error| format!("subPath {sub_path:?} cannot be made: {error}"))?,
        }
    }
    Ok(path)
}

fn copy(file: &Path, folder: &Path, name: &str) -> Result<(), String> {
    let copied = fs::create_dir_all(folder).and_then(|()| fs::copy(file, folder.join(name)));
    copied.map(drop).map_err(|error| format!("{name} cannot be mounted: {error}"))
}
