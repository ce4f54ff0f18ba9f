//! Ephemeral containers: guests of a running pod, who come to look into it and never come back.
//!
//! They start as soon as they are there, whatever the other containers do, and end with the pod. They are never started
//! again, and neither the pod's phase nor its readiness knows of them.

use k8s_openapi::api::core::v1 as k8s;

use crate::container::{Container, Role};
use crate::machine::Machine;

/// An ephemeral container as a container of its pod. It sees the volumes of the one it is about
/// (`targetContainerName`) where that one does, and any that it mounts itself.
#[must_use]
pub fn as_container(guest: &k8s::EphemeralContainer, pod: &k8s::PodSpec) -> k8s::Container {
    let own = guest.volume_mounts.iter().flatten();
    let target = guest.target_container_name.as_deref().filter(|name| !name.is_empty());
    let mut others = pod.containers.iter().chain(pod.init_containers.iter().flatten());
    let target = target.and_then(|name| others.find(|container| container.name == name));
    let is_free = |mount: &&k8s::VolumeMount| {
        // What such a path means depends on the environment of the container it stands in.
        let expands = mount.sub_path_expr.as_deref().is_some_and(|path| !path.is_empty());
        !expands && !own.clone().any(|other| other.mount_path == mount.mount_path)
    };
    let shared = target.into_iter().flat_map(|target| target.volume_mounts.iter().flatten()).filter(is_free);
    let mounts: Vec<k8s::VolumeMount> = own.clone().chain(shared).cloned().collect();
    k8s::Container {
        args: guest.args.clone(),
        command: guest.command.clone(),
        env: guest.env.clone(),
        env_from: guest.env_from.clone(),
        image: guest.image.clone(),
        image_pull_policy: guest.image_pull_policy.clone(),
        name: guest.name.clone(),
        security_context: guest.security_context.clone(),
        stdin: guest.stdin,
        stdin_once: guest.stdin_once,
        tty: guest.tty,
        volume_mounts: (!mounts.is_empty()).then_some(mounts),
        working_dir: guest.working_dir.clone(),
        ..k8s::Container::default()
    }
}

impl Machine {
    /// Takes in the ephemeral containers that have come since.
    pub(crate) fn admit_guests(&mut self, pod: &k8s::Pod) {
        let Some(spec) = &pod.spec else { return };
        for guest in spec.ephemeral_containers.iter().flatten() {
            if !self.containers.iter().any(|container| container.name() == guest.name) {
                self.containers.push(Container::new(&as_container(guest, spec), Role::Ephemeral));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_sees_what_its_target_sees() {
        let mount = |name: &str, path: &str| k8s::VolumeMount {
            name: name.to_owned(),
            mount_path: path.to_owned(),
            ..k8s::VolumeMount::default()
        };
        let expanded = k8s::VolumeMount { sub_path_expr: Some("$(POD)".to_owned()), ..mount("data", "/mine") };
        let web = k8s::Container {
            name: "web".to_owned(),
            volume_mounts: Some(vec![mount("data", "/data"), mount("tmp", "/tmp"), expanded]),
            ..k8s::Container::default()
        };
        let pod = k8s::PodSpec { containers: vec![web], ..k8s::PodSpec::default() };
        let mut guest = k8s::EphemeralContainer {
            name: "debugger".to_owned(),
            volume_mounts: Some(vec![mount("other", "/tmp")]),
            ..k8s::EphemeralContainer::default()
        };
        let seen = |guest: &k8s::EphemeralContainer| {
            let mounts = as_container(guest, &pod).volume_mounts.unwrap_or_default();
            mounts.into_iter().map(|mount| format!("{} {}", mount.name, mount.mount_path)).collect::<Vec<_>>()
        };
        assert_eq!(seen(&guest), ["other /tmp"]);
        guest.target_container_name = Some("web".to_owned());
        assert_eq!(seen(&guest), ["other /tmp", "data /data"]);
    }
}
