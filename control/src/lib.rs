//! The control plane of one member: store, door, API server, scheduler and controllers, put together.
//!
//! # Layout
//! * [`pki`]: the cluster's certificate authority.
//! * [`server`]: the assembly.

pub mod pki;
