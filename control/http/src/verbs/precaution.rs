//! Rights that depend on what a write would make: it is rehearsed first, and looked at.
//!
//! A PUT or an apply of an object that is not there creates it, which takes the right to create; a role or a binding
//! must not give more than its author has. Everything else is decided before the body is read.

use api::Status;
use objects::{User, WriteOptions, Written};

use super::Place;
use crate::auth::{Attributes, authorize, escalation};
use crate::service::Inner;

/// What to look at before a write is done.
pub(super) struct Precaution<'a> {
    inner: &'a Inner,
    who: &'a User,
    guarded: bool,
    creation: Result<(), Status>,
}

impl<'a> Precaution<'a> {
    /// For a POST, whose author may create.
    pub(super) fn of_creation(inner: &'a Inner, who: &'a User, place: &Place) -> Self {
        let guarded = escalation::guards(who, &place.resource.name);
        Self { inner, who, guarded, creation: Ok(()) }
    }

    /// For a PUT or a PATCH, whose author may change.
    pub(super) fn of_change(inner: &'a Inner, who: &'a User, place: &Place) -> Self {
        let view = inner.objects.view();
        let there = view.get(&place.resource.name, &place.namespace, &place.name).is_some();
        let create = || Attributes {
            verb: "create".into(),
            group: place.resource.group.clone(),
            resource: place.resource.plural.clone(),
            namespace: place.namespace.clone(),
            name: place.name.clone(),
            ..Attributes::default()
        };
        let creation = if there { Ok(()) } else { authorize(&view, who, &create()) };
        Self { creation, ..Self::of_creation(inner, who, place) }
    }

    /// The options of the rehearsal, where one is needed.
    pub(super) fn rehearsal(&self, options: &WriteOptions) -> Option<WriteOptions> {
        let needed = self.guarded || self.creation.is_err();
        needed.then(|| WriteOptions { dry_run: true, ..options.clone() })
    }

    /// 403 when the write would do what its author may not.
    pub(super) fn check(self, would: &Written) -> Result<(), Status> {
        if would.created {
            self.creation?;
        }
        if self.guarded {
            escalation::check(&self.inner.objects.view(), self.who, &would.object)?;
        }
        Ok(())
    }
}
