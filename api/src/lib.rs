//! The nouns of Kogia: what objects are, how they are written down, and what Kubernetes says about them.
//!
//! This crate is pure: no clock, no socket, no task. Everything that reads the schema table stands here, so that
//! built-in and custom resources run the same code.
//!
//! # Layout
//! * [`object`], [`view`], [`action`], [`meta`]: one object, the cluster's picture, what a decider asks for.
//! * [`schema`], [`kinds`], [`catalog`]: what fields there are, what a resource is, which resources there are.
//! * [`versions`]: resources of Kubernetes' own that are served in two forms.
//! * [`custom`], [`structural`]: resources that users define, and their schemas. [`cel`]: expressions about values.
//! * [`path`], [`selector`], [`quantity`], [`time`], [`jsonpath`]: Kubernetes' small languages.
//! * [`json`], [`yaml`], [`protobuf`]: bytes to values.
//! * [`check`], [`defaults`], [`validate`], [`patch`]: what happens to a body on its way in, in this order.
//! * [`status`]: Kubernetes' form of an error; [`channels`]: the bytes of a conversation with a container.
//! * [`usage`]: what pods and nodes use, for `kubectl top` and autoscalers.
//! * [`resources`], [`quota`], [`volumes`]: how much pods ask for, what objects cost, which volume serves which claim.

#![forbid(unsafe_code)]

pub mod action;
pub mod catalog;
pub mod cel;
pub mod channels;
pub mod check;
pub mod claims;
pub mod custom;
pub mod decoded;
pub mod defaults;
pub mod encoded;
pub mod json;
pub mod jsonpath;
pub mod kinds;
pub mod limits;
pub mod meta;
pub mod object;
pub mod patch;
pub mod path;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod structural;
pub mod time;
pub mod usage;
pub mod validate;
pub mod versions;
pub mod view;
pub mod volumes;
pub mod yaml;

pub use action::{Action, Precondition, Severity};
pub use catalog::Catalog;
pub use kinds::Resource;
pub use object::{Key, Object, OwnerReference};
pub use quantity::Quantity;
pub use schema::Schema;
pub use status::{Cause, Status};
pub use view::{Change, ChangeKind, View};
