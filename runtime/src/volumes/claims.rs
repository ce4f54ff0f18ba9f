//! What a PersistentVolumeClaim is on this node: a folder that outlives pods.
//!
//! Volumes of the driver `kogia.dev/local` are folders below the node's own `volumes`, named by their handle; so are
//! those that a person made with that driver and a handle of their choice. Volumes that are a path of this machine
//! (`local`, `hostPath`) are shown where the node's owner allows paths at all. Every other kind is refused by name.

use std::path::PathBuf;

use k8s_openapi::api::core::v1 as k8s;

use super::{Contents, stays_inside};

/// The folder of the node's data in which volumes are kept.
pub(crate) const KEPT: &str = "volumes";

/// The volume's name in the claim; `None` until it is bound.
pub(crate) fn volume_name(claim: &k8s::PersistentVolumeClaim) -> Option<&str> {
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| bound && !name.is_empty())
}

/// What a pod's volume shows that names this claim: `found` is the claim's volume, once it has one.
///
/// # Errors
/// The sentence for the pod's `FailedMount` event.
pub(super) fn render(
    name: &str,
    found: Option<&Option<k8s::PersistentVolume>>,
    read_only: bool,
    allow_paths: bool,
) -> Result<Contents, String> {
    let found = found.ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
    let volume = found.as_ref().ok_or_else(|| format!("persistentvolumeclaim \"{name}\" is not bound"))?;
    let spec = volume.spec.as_ref();
    let modes = spec.and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
    let only_reading = !modes.is_empty() && modes.iter().all(|mode| mode == "ReadOnlyMany");
    let read_only = read_only || only_reading;
    if let Some(csi) = spec.and_then(|spec| spec.csi.as_ref()) {
        let handle = csi.volume_handle.clone();
        if csi.driver != api::volumes::LOCAL {
            return Err(format!("the driver {} is not offered on this node", csi.driver));
        }
        if !is_handle(&handle) {
            return Err(format!("the volume handle {handle:?} is not the name of a folder"));
        }
        return Ok(Contents::Kept { handle, read_only: read_only || csi.read_only == Some(true) });
    }
    let local = spec.and_then(|spec| spec.local.as_ref()).map(|source| &source.path);
    let host = spec.and_then(|spec| spec.host_path.as_ref()).map(|source| &source.path);
    match local.or(host) {
        Some(path) if allow_paths => Ok(Contents::Host { path: PathBuf::from(path), read_only }),
        Some(_) => Err("volumes that are paths of the machine are not allowed on this node".to_owned()),
        None => Err("this node offers volumes of kogia.dev/local, local and hostPath only".to_owned()),
    }
}

/// Whether a handle names exactly one folder.
pub(crate) fn is_handle(handle: &str) -> bool {
    stays_inside(handle) && !handle.contains(['/', '\\']) && handle != "."
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shown(spec: &Value, read_only: bool, allow_paths: bool) -> Result<Contents, String> {
        let volume = serde_json::from_value(json!({ "spec": spec })).unwrap();
        render("data", Some(&Some(volume)), read_only, allow_paths)
    }

    #[test]
    fn a_claim_is_a_folder_or_a_reason_why_not() {
        let ours = |handle: &str| json!({"csi": {"driver": "kogia.dev/local", "volumeHandle": handle}});
        let kept = |read_only| Ok(Contents::Kept { handle: "pvc-1".to_owned(), read_only });
        assert_eq!(shown(&ours("pvc-1"), false, false), kept(false));
        assert_eq!(shown(&ours("pvc-1"), true, false), kept(true));
        let mut rox = ours("pvc-1");
        rox["accessModes"] = json!(["ReadOnlyMany"]);
        assert_eq!(shown(&rox, false, false), kept(true));
        for handle in ["..", "a/b", "", ".", "/etc", "a\\b"] {
            assert!(shown(&ours(handle), false, true).unwrap_err().contains("is not the name of a folder"), "{handle}");
        }
        let path = json!({"local": {"path": "/mnt/disk"}});
        let host = Contents::Host { path: PathBuf::from("/mnt/disk"), read_only: false };
        assert_eq!(shown(&path, false, true), Ok(host));
        assert!(shown(&path, false, false).is_err());
        let foreign = json!({"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": "x"}});
        assert!(shown(&foreign, false, true).unwrap_err().contains("ebs.csi.aws.com"));
        assert!(shown(&json!({"nfs": {"server": "s", "path": "/"}}), false, true).is_err());
        assert!(render("data", Some(&None), false, false).unwrap_err().ends_with("is not bound"));
        assert!(render("data", None, false, false).unwrap_err().ends_with("not found"));
    }
}
