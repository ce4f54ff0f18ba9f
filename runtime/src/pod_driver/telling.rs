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
        if self.publishing || self.wanted.is_some() || is_shown_ready(&self.pod) {
            return;
        }
        let said = self.published();
        if is_ready(&said) {
            self.published = serde_json::to_value(&self.pod.status).unwrap_or_default().to_string().into();
            self.wanted = Some(said);
        }
    }

    fn published(&self) -> Value {
        // It was encoded here.
        serde_json::from_str(&self.published).unwrap_or_default()
    }

    pub(super) fn want(&mut self, status: &k8s::PodStatus) {
        self.finish_outputs(status);
        self.wanted = serde_json::to_value(status).ok();
        let until = || self.linger.unwrap_or_else(|| Instant::now() + STATUS_LINGER);
        self.linger = is_being_made(status).then(until);
    }

    /// A container that is shown as terminated is not started again: its followers have seen all.
    pub(super) fn finish_outputs(&self, status: &k8s::PodStatus) {
        let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        for container in lists.into_iter().flatten().flatten() {
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
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let mut all = lists.into_iter().flatten().flatten();
    status.reason.is_none()
        && all.all(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
            container.restart_count == 0 && matches!(reason, Some("ContainerCreating" | "PodInitializing"))
        })
}

/// Whether the API shows a pod as ready.
fn is_shown_ready(pod: &k8s::Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a pod's status says that it is ready.
fn is_ready(status: &Value) -> bool {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
