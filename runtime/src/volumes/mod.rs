//! Volumes: folders of a pod on this node, and where its containers see them.
//!
//! [`render`] decides purely what a volume holds; [`materialise`] writes it; [`mounts`] says what a container gets.
//! Offered: emptyDir, configMap, secret, downwardAPI, projected, persistentVolumeClaim, and hostPath where the node's
//! owner allows it. Refused, by name: every other kind, and sub-paths that leave their volume.

pub(crate) mod claims;
mod mounts;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use api::volumes::ACCOUNT_PREFIX;
use k8s_openapi::api::core::v1 as k8s;

use crate::environment::{self, Place, References, Settings, Token};
use crate::limits::{TOKEN_SECONDS, VOLUME_BYTES_MAX};

pub(crate) use mounts::mounts;

/// Files by their path in the volume.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What a volume is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Nothing at first; the pod writes it and it lasts as long as the pod.
    Empty,
    /// These files, for reading only.
    Files(Files),
    /// A folder of this machine.
    Host {
        /// Where.
        path: PathBuf,
        /// Whether pods may only read it.
        read_only: bool,
    },
    /// A folder of the node that outlives its pods.
    Kept {
        /// Its name among the others.
        handle: String,
        /// Whether pods may only read it.
        read_only: bool,
    },
}

/// A volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) folder: PathBuf,
    pub(crate) read_only: bool,
}

/// The ConfigMaps, Secrets and claims that the pod's volumes show.
pub(crate) fn references(pod: &k8s::Pod, wanted: impl Fn(&k8s::Volume) -> bool) -> References {
    let mut found = References::default();
    for volume in of(pod).filter(|volume| wanted(volume)) {
        found.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        found.claims.extend(volume.persistent_volume_claim.iter().map(|source| source.claim_name.clone()));
        found.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            found.config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            found.secrets.extend(source.secret.iter().map(|source| source.name.clone()));
            found.tokens.extend(source.service_account_token.iter().map(|source| token(pod, source)));
        }
    }
    found
}

/// The volumes of a pod.
pub(crate) fn of(pod: &k8s::Pod) -> impl Iterator<Item = &k8s::Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// Whether it is the volume of the account's token, under the name that the API puts it into every pod with.
pub(crate) fn is_account(volume: &k8s::Volume) -> bool {
    volume.name.starts_with(ACCOUNT_PREFIX) && volume.projected.is_some()
}

/// The token a source asks for.
fn token(pod: &k8s::Pod, source: &k8s::ServiceAccountTokenProjection) -> Token {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    Token {
        account: account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned()),
        pod: (text(&pod.metadata.name), text(&pod.metadata.uid)),
        audience: source.audience.clone().filter(|audience| !audience.is_empty()),
        seconds: source.expiration_seconds.unwrap_or(TOKEN_SECONDS),
    }
}

/// What a pod hears that mounts another kind.
const NOT_OFFERED: &str =
    "this node offers emptyDir, configMap, secret, downwardAPI, projected and persistentVolumeClaim volumes only";

/// What a volume is to hold.
///
/// # Errors
/// The sentence for the pod's `FailedMount` event.
pub(crate) fn render(
    volume: &k8s::Volume,
    pod: &k8s::Pod,
    settings: &Settings,
    place: &Place,
    allow_host_path: bool,
) -> Result<Contents, String> {
    let files = if volume.empty_dir.is_some() {
        return Ok(Contents::Empty);
    } else if let Some(source) = &volume.host_path {
        if !allow_host_path {
            return Err("hostPath volumes are not allowed on this node".to_owned());
        }
        return Ok(Contents::Host { path: PathBuf::from(&source.path), read_only: false });
    } else if let Some(source) = &volume.persistent_volume_claim {
        let claim = settings.claims.get(&source.claim_name);
        return claims::render(&source.claim_name, claim, source.read_only == Some(true), allow_host_path);
    } else if let Some(source) = &volume.config_map {
        config_map_files(&source.name, source.items.as_deref(), source.optional, settings)?
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret_files(name, source.items.as_deref(), source.optional, settings)?
    } else if let Some(source) = &volume.downward_api {
        downward_files(source.items.as_deref().unwrap_or_default(), pod, place)?
    } else if let Some(source) = &volume.projected {
        let mut files = Files::new();
        for source in source.sources.iter().flatten() {
            files.extend(projected_files(source, pod, settings, place)?);
        }
        files
    } else {
        return Err(NOT_OFFERED.to_owned());
    };
    if files.values().map(Vec::len).sum::<usize>() > VOLUME_BYTES_MAX {
        return Err("its contents are larger than 16 MiB".to_owned());
    }
    match files.keys().find(|path| !stays_inside(path)) {
        Some(path) => Err(format!("the path {path:?} leaves the volume")),
        None => Ok(Contents::Files(files)),
    }
}

fn projected_files(
    source: &k8s::VolumeProjection,
    pod: &k8s::Pod,
    settings: &Settings,
    place: &Place,
) -> Result<Files, String> {
    if let Some(source) = &source.config_map {
        config_map_files(&source.name, source.items.as_deref(), source.optional, settings)
    } else if let Some(source) = &source.secret {
        secret_files(&source.name, source.items.as_deref(), source.optional, settings)
    } else if let Some(source) = &source.downward_api {
        downward_files(source.items.as_deref().unwrap_or_default(), pod, place)
    } else if let Some(source) = &source.service_account_token {
        let given = settings.tokens.get(&token(pod, source)).ok_or_else(|| "failed to fetch token".to_owned())?;
        Ok(Files::from([(source.path.clone(), given.clone().into_bytes())]))
    } else {
        Err("this node projects configMap, secret, downwardAPI and serviceAccountToken sources only".to_owned())
    }
}

fn config_map_files(
    name: &str,
    items: Option<&[k8s::KeyToPath]>,
    optional: Option<bool>,
    settings: &Settings,
) -> Result<Files, String> {
    let map = settings.config_maps.get(name);
    let data = map.map(|map| {
        let text = map.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes()));
        let bytes = map.binary_data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone()));
        text.chain(bytes).collect()
    });
    select("configmap", name, data, items, optional == Some(true))
}

fn secret_files(
    name: &str,
    items: Option<&[k8s::KeyToPath]>,
    optional: Option<bool>,
    settings: &Settings,
) -> Result<Files, String> {
    let secret = settings.secrets.get(name);
    let data =
        secret.map(|secret| secret.data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone())).collect());
    select("secret", name, data, items, optional == Some(true))
}

/// All keys as files, or the chosen ones at their paths.
fn select(
    kind: &str,
    name: &str,
    data: Option<Files>,
    items: Option<&[k8s::KeyToPath]>,
    optional: bool,
) -> Result<Files, String> {
    let Some(mut data) = data else {
        return if optional { Ok(Files::new()) } else { Err(format!("{kind} \"{name}\" not found")) };
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else { return Ok(data) };
    let mut files = Files::new();
    for item in items {
        match data.remove(&item.key) {
            Some(bytes) => drop(files.insert(item.path.clone(), bytes)),
            None if optional => {}
            None => return Err(format!("{kind} \"{name}\" references non-existent key: {}", item.key)),
        }
    }
    Ok(files)
}

fn downward_files(items: &[k8s::DownwardAPIVolumeFile], pod: &k8s::Pod, place: &Place) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => environment::field_value(pod, place, &field.field_path)?,
            (None, Some(wanted)) => {
                let name = wanted.container_name.as_deref().unwrap_or_default();
                let container = pod.spec.iter().flat_map(|spec| &spec.containers).find(|c| c.name == name);
                let container = container.ok_or_else(|| format!("there is no container \"{name}\""))?;
                environment::resource_value(pod, container, place, wanted)?
            }
            (None, None) => String::new(),
        };
        files.insert(item.path.clone(), value.into_bytes());
    }
    Ok(files)
}

/// Whether a relative path stays below where it begins.
pub(crate) fn stays_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Makes the volume's folder hold what it is to hold. What a pod wrote into an empty volume stays.
///
/// Files are replaced one by one and whole: a guest that has the folder open sees each file's old text or its new one.
/// `kept` is where folders are that outlive their pods.
pub(crate) fn materialise(folder: &Path, kept: &Path, contents: &Contents) -> io::Result<Volume> {
    match contents {
        Contents::Host { path, read_only } => return Ok(Volume { folder: path.clone(), read_only: *read_only }),
        Contents::Kept { handle, read_only } => {
            let folder = kept.join(handle);
            fs::create_dir_all(&folder)?;
            return Ok(Volume { folder, read_only: *read_only });
        }
        Contents::Empty => fs::create_dir_all(folder)?,
        Contents::Files(files) => {
            fs::create_dir_all(folder)?;
            remove_others(folder, folder, files)?;
            for (path, bytes) in files {
                let path = folder.join(path);
                if fs::read(&path).is_ok_and(|old| old == *bytes) {
                    continue;
                }
                fs::create_dir_all(path.parent().unwrap_or(folder))?;
                let new = folder.with_extension("new");
                fs::write(&new, bytes)?;
                fs::rename(new, path)?;
            }
        }
    }
    Ok(Volume { folder: folder.to_owned(), read_only: matches!(contents, Contents::Files(_)) })
}

/// Removes what is in a volume and not in its contents.
fn remove_others(root: &Path, folder: &Path, files: &Files) -> io::Result<()> {
    let wanted: Vec<PathBuf> = files.keys().map(|path| root.join(path)).collect();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_file_wanted = wanted.contains(&path);
        if !path.is_dir() {
            if !is_file_wanted {
                fs::remove_file(path)?;
            }
        } else if !is_file_wanted && wanted.iter().any(|file| file.starts_with(&path)) {
            remove_others(root, &path, files)?;
        } else {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
