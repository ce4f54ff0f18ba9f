//! Images: where a node keeps the components its pods run, and how they come there.
//!
//! The folder is an OCI image layout (`oci-layout`, `index.json`, `blobs/sha256`), so other tools can read and fill
//! it. What is put here takes the form of the CNCF Wasm artifact: one config, one layer `application/wasm`.
//! Every blob is checked against its digest before it is handed out; a changed one is refused, never repaired.
//!
//! Refuses: images with more than one component, and everything in an image that is not its component.
//!
//! # Layout
//! * [`Images`]: put, resolve, list. [`Reference`]: how people name images, and which names mean the same one.
//! * `pull`: what is taken of an image, from whatever [`Source`]. [`Remote`]: registries as sources, and pushing to them;
//!   `session` speaks with one, [`Keyring`] knows who we are there.
//! * [`Registry`]: the registry inside the cluster, the other side of the same protocol.
//! * `layout`: the files of an image layout; `artifact`: the documents in them; `packed`: components inside layers of
//!   container images; `incoming`: blobs on their way in.
#![forbid(unsafe_code)]

mod artifact;
mod credentials;
mod error;
mod gc;
mod images;
mod incoming;
mod layout;
pub mod limits;
mod packed;
mod pull;
mod reference;
mod registry;
mod remote;
mod session;
mod uses;

pub use credentials::{Credential, Keyring};
pub use error::ImageError;
pub use gc::Collected;
pub use images::{Images, Listed, Resolved};
pub use pull::{Answer, PullError, Pulled, Source};
pub use reference::Reference;
pub use registry::{Body, BoxError, Registry, RequestBody};
pub use remote::Remote;
