//! The nouns of Kogia: what objects are, how they are written down, and what Kubernetes says about them.
//!
//! This crate is pure: no clock, no socket, no task. Everything that reads the schema table stands here, so that
//! built-in and custom resources run the same code.
//!
//! # Layout
//! * [`object`], [`view`], [`action`]: one object, the cluster's picture, what a decider asks for.
//! * [`kinds`]: one row per resource.
//! * [`status`]: Kubernetes' form of an error.

pub mod action;
pub mod kinds;
pub mod object;
pub mod status;
pub mod view;

pub use action::{Action, Precondition, Severity};
pub use kinds::Resource;
pub use object::{Key, Object, OwnerReference};
pub use status::{Cause, Status};
pub use view::{Change, ChangeKind, View};
