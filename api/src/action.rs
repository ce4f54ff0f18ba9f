//! What a decider asks its driver to do, as data: an action can be printed, compared and refused.
//!
//! Actions carry preconditions. One that no longer holds is not an error: the driver drops the action and the next
//! turn sees the new world.

use serde_json::Value;

use crate::object::{Key, Object};

/// What must still be true of an object when an action is performed on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// `metadata.uid` must be this.
    pub uid: Option<String>,
    /// `metadata.resourceVersion` must be this.
    pub revision: Option<u64>,
}

impl Precondition {
    /// The object must be the same one, in any version.
    #[must_use]
    pub fn same(object: &Object) -> Self {
        Self { uid: Some(object.uid().to_owned()), revision: None }
    }

    /// The object must be exactly this version.
    #[must_use]
    pub fn unchanged(object: &Object) -> Self {
        Self { uid: Some(object.uid().to_owned()), revision: Some(object.revision) }
    }
}

/// The two kinds of Kubernetes Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// `type: Normal`.
    Normal,
    /// `type: Warning`.
    Warning,
}

/// One thing to be done to the cluster's state.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// POST an object. `key.name` may be empty when `metadata.generateName` is set.
    Create {
        /// Where; the driver posts to this resource and namespace.
        key: Key,
        /// The whole object.
        body: Value,
    },
    /// Merge-patch an object or one of its subresources (RFC 7396).
    Patch {
        /// Which object.
        key: Key,
        /// `status`, `scale`, …; `None` for the object itself.
        subresource: Option<&'static str>,
        /// The patch.
        patch: Value,
        /// Dropped unless this holds.
        precondition: Precondition,
    },
    /// Delete an object in the background.
    Delete {
        /// Which object.
        key: Key,
        /// Dropped unless this holds.
        precondition: Precondition,
        /// `gracePeriodSeconds`; `None` leaves the object's own.
        grace_seconds: Option<u32>,
    },
    /// Bind a pod to a node (POST `pods/NAME/binding`).
    Bind {
        /// Which pod.
        pod: Key,
        /// Its uid, so that a namesake is never bound by mistake.
        uid: String,
        /// The node's name.
        node: String,
    },
    /// Tell people what happened (an Event; repeated ones are counted, not multiplied).
    Tell {
        /// What it is about.
        about: Key,
        /// uid of that object.
        uid: String,
        /// `kind` of that object.
        kind: &'static str,
        /// Normal or Warning.
        severity: Severity,
        /// UpperCamelCase, such as `FailedScheduling`.
        reason: &'static str,
        /// A sentence for a person.
        message: String,
    },
    /// Look at the same key again after this long even if nothing changes.
    Again {
        /// Milliseconds from now.
        after_ms: u64,
    },
}
