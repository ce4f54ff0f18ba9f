//! What a caller says when it writes, and what it hears back.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Object;
use api::check::Validation;
use serde_json::Value;

/// Who asks: what authentication found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `system:admin`, `system:serviceaccount:NAMESPACE:NAME`, …
    pub name: String,
    /// Opaque; empty for users that have none.
    pub uid: String,
    /// `system:masters`, `system:authenticated`, …
    pub groups: Vec<String>,
    /// Whatever else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A part of the control plane, such as `system:kube-controller-manager`.
    pub fn system(name: impl Into<String>) -> Self {
        Self { name: name.into(), groups: vec!["system:authenticated".into()], ..Self::default() }
    }

    /// Whether authentication put the user into this group.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|member_of| member_of == group)
    }
}

/// How a write is to be done.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// `dryRun=All`: the whole pipeline, but nothing is stored.
    pub dry_run: bool,
    /// `fieldManager`, or the User-Agent up to the first `/`; empty only where the caller has neither.
    pub field_manager: String,
    /// What to do about unknown and duplicate fields.
    pub field_validation: Validation,
    /// Paths that occurred twice in the body, as its decoder found them.
    pub duplicates: Vec<String>,
}

impl WriteOptions {
    /// Options of a part of the control plane that writes as this field manager.
    pub fn manager(field_manager: impl Into<String>) -> Self {
        Self { field_manager: field_manager.into(), ..Self::default() }
    }
}

/// A write that was done (or, in a dry run, would have been).
#[derive(Clone, Debug)]
pub struct Written {
    /// The object as it now is.
    pub object: Arc<Object>,
    /// True where the write made the object: HTTP answers 201 instead of 200.
    pub created: bool,
    /// For the `Warning` headers, without the `299 -` and the quotes.
    pub warnings: Vec<String>,
}

/// A change to a stored object, in one of the four languages of PATCH.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902: a list of operations.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' strategic merge patch; 415 for resources that have no message in the schema table.
    Strategic(Value),
    /// Server-side apply (KEP-555): the fields that the manager wants to own.
    Apply {
        /// A partial object.
        body: Value,
        /// Take fields away from others instead of answering 409.
        force: bool,
    },
}

/// `propagationPolicy`: what becomes of the objects that this one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first; the object waits with the finalizer `foregroundDeletion`.
    Foreground,
    /// They stay and lose their owner reference; the object waits with the finalizer `orphan`.
    Orphan,
}

/// How an object is to be deleted.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`; `None` leaves the object's own. Only pods have one.
    pub grace_period_seconds: Option<u32>,
    /// 409 unless these hold.
    pub preconditions: api::Precondition,
    /// `None` is the resource's default, which is background.
    pub propagation: Option<Propagation>,
    /// `dryRun=All`.
    pub dry_run: bool,
}

/// What a deletion did.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// The object is gone; its last state.
    Gone(Arc<Object>),
    /// It is marked with `deletionTimestamp` and goes when its finalizers or its grace period have ended.
    Pending(Arc<Object>),
}

impl Deleted {
    /// The object, gone or going.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Self::Gone(object) | Self::Pending(object) => object,
        }
    }
}
