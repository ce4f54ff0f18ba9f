//! The control plane of one member: store, door, API server, scheduler and controllers, put together.
//!
//! # Layout
//! * [`pki`]: the cluster's certificate authority.
//! * [`server`]: the assembly; `definitions`: custom resources that come with it.
//! * [`store`]: what the program's own commands need of the store.
//! * [`controllers_driver`], [`scheduler_driver`]: what runs the deciders; `workqueue`: who is next.

mod clock;
pub mod controllers_driver;
mod definitions;
mod limits;
pub mod pki;
pub mod private;
pub mod scheduler_driver;
pub mod server;
mod snapshot;
pub mod store;
mod workqueue;

pub use objects::User;
