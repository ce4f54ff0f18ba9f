//! What the API is told of the pod: its newest status, one request at a time.

use k8s_openapi::api::core::v1 as k8s;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Driver, Ending, Outcome};
use crate::limits::{REQUEST_TIME_MAX, STATUS_LINGER};
use crate::patch::difference;
use crate::retry::is_gone;

impl Driver {
    /// While its node was taken for lost, somebody else may have said that the pod is not ready. What this node last said
    /// holds, and is said again.
    pub(super) fn object_to_overruling(&mut self) {
        let pod = self.pod.pod();
        if self.publishing || self.wanted.is_some() || is_ready(pod.status.as_ref()) {
            return;
        }
        let said: Option<k8s::PodStatus> = serde_json::from_str(&self.published).unwrap_or_default();
        if is_ready(said.as_ref()) {
            self.wanted = Some(self.published());
            self.published = shown(&pod);
        }
    }

    fn published(&self) -> Value {
        // It was encoded here.
        serde_json::from_str(&self.published).unwrap_or_default()
    }

    pub(super) fn want(&mut self, status: &k8s::PodStatus) {
        self.finish_outputs(Some(status));
        self.wanted = serde_json::to_value(status).ok();
        let until = || self.linger.unwrap_or_else(|| Instant::now() + STATUS_LINGER);
        self.linger = is_being_made(status).then(until);
    }

    /// A container that is shown as terminated is not started again: its followers have seen all.
    pub(super) fn finish_outputs(&self, status: Option<&k8s::PodStatus>) {
        for container in status.into_iter().flat_map(containers) {
            let over = container.state.as_ref().is_some_and(|state| state.terminated.is_some());
            if let (true, Some(output)) = (over, self.outputs.get(&container.name)) {
                output.finish();
            }
        }
    }

    /// Writes the newest status, one request at a time.
    pub(super) fn publish(&mut self) {
        let lingers = self.ending == Ending::Not && self.linger.is_some_and(|until| Instant::now() < until);
        if self.publishing || self.removed || lingers {
            return;
        }
        self.linger = None;
        let Some(status) = self.wanted.take() else { return };
        let diff = difference(&self.published(), &status);
        let Some(diff) = diff else { return };
        let (pods, name, uid) = self.api();
        let wait = self.retry.wait();
        self.publishing = true;
        self.outcomes.spawn(async move {
            tokio::time::sleep(wait).await;
            let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "status": diff}));
            let parameters = PatchParams::default();
            let written = tokio::time::timeout(REQUEST_TIME_MAX, pods.patch_status(&name, &parameters, &patch)).await;
            let ok = match written {
                Ok(Ok(_)) => true,
                Ok(Err(error)) => {
                    tracing::debug!(pod = name, %error, "status not written");
                    is_gone(&error)
                }
                Err(_) => false,
            };
            Outcome::Published { ok, status }
        });
    }
}

/// Whether a status says no more than that every container is on its way.
fn is_being_made(status: &k8s::PodStatus) -> bool {
    status.reason.is_none()
        && containers(status).all(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
            container.restart_count == 0 && matches!(reason, Some("ContainerCreating" | "PodInitializing"))
        })
}

fn containers(status: &k8s::PodStatus) -> impl Iterator<Item = &k8s::ContainerStatus> {
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten()
}

/// The status that the API shows, as JSON.
pub(super) fn shown(pod: &k8s::Pod) -> Box<str> {
    serde_json::to_string(&pod.status).unwrap_or_default().into()
}

/// Whether a status says that the pod is ready.
fn is_ready(status: Option<&k8s::PodStatus>) -> bool {
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
