//! Images: where a node keeps the components its pods run.
//!
//! The folder is an OCI image layout (`oci-layout`, `index.json`, `blobs/sha256`), so other tools can read and fill
//! it. What is put here takes the form of the CNCF Wasm artifact: one config, one layer `application/wasm`.
//! Every blob is checked against its digest before it is handed out; a changed one is refused, never repaired.
//!
//! Refuses: fetching from a registry (there is no network in this crate), and images with more than one component.
//!
//! # Layout
//! * [`Images`]: put, resolve, list.
//! * [`Reference`]: how people name images, and which names mean the same one.
//! * `layout`: the files of an image layout; `artifact`: the documents in them.
#![forbid(unsafe_code)]

mod artifact;
mod error;
mod images;
mod layout;
pub mod limits;
mod reference;

pub use error::ImageError;
pub use images::{Images, Listed, Resolved};
pub use reference::Reference;
