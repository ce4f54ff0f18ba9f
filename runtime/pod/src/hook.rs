//! The two moments at which a container may have something done: right after its start, and before its end.
//!
//! A container counts as running once its `postStart` hook is over; a failed one ends it. `preStop` comes first when a
//! container is to end, out of its grace period, and the container runs on until it is over.

use k8s_openapi::api::core::v1 as k8s;

/// A lifecycle hook of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Begins with the container's start.
    PostStart,
    /// Comes before the container is asked to end.
    PreStop,
}

impl Hook {
    /// What a container wants done at that moment, if anything.
    #[must_use]
    pub fn handler(self, container: &k8s::Container) -> Option<&k8s::LifecycleHandler> {
        let lifecycle = container.lifecycle.as_ref()?;
        match self {
            Self::PostStart => lifecycle.post_start.as_ref(),
            Self::PreStop => lifecycle.pre_stop.as_ref(),
        }
    }
}
