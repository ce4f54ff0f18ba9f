//! The Kubernetes API over HTTP: one generic path from a request to the door of the state ([`objects::Objects`]).
//!
//! There is no handler per resource: the catalog's rows say what exists, the schema table says what it looks like,
//! and this crate turns URLs, media types and query parameters into calls of the door and its answers into bytes.
//! Lists and watches copy each object's stored bytes; nothing is encoded per client but tables.
//!
//! # Layout
//! * [`ApiService`] (`service.rs`): who asks, may they, which verb; panics and timeouts end here.
//! * `verbs`: get, list, watch, write; `negotiate`, `body`, `reply`: media types in and out.
//! * `discovery`, `openapi`, `table`: what clients want to know about resources, made from the same rows.
//! * `auth`: certificates, tokens, impersonation; RBAC and the node's rights.
//! * [`Relay`]: the way back to a pod's node, for its output and its ports; `stream`: conversations instead of answers.
//! * `webhooks`: the way to servers that are asked about writes.
//! * `images`: what lies on one node, handed to another.
//! * [`Measured`], [`measure`]: what pods and nodes use, for `kubectl top` and autoscalers.
//! * [`serve`]: TLS, connections, orderly end.
#![forbid(unsafe_code)]

mod auth;
mod body;
mod container;
mod discovery;
mod images;
mod limits;
mod negotiate;
mod openapi;
mod protowire;
mod query;
mod relay;
mod reply;
mod serve;
mod service;
mod stream;
mod table;
mod usage;
mod verbs;
mod webhooks;

use bytes::Bytes;

pub use auth::{Authenticator, KeyError, ServiceAccountTokens, StaticTokens};
pub use relay::{Lost, MEMBERS, NodeService, Relay, Standing};
pub use serve::serve;
pub use service::{ApiService, Config, InProcess, in_process, service};
pub use usage::{Measured, measure};
pub use webhooks::tls_client;

/// An error of a body or a transport, whatever it is.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every request and response here.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;
