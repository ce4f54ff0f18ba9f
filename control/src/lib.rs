//! The control plane of one member: store, door, API server, scheduler and controllers, put together.
//!
//! # Layout
//! * [`pki`]: the cluster's certificate authority; [`trust`]: whom a machine trusts; [`token`]: who may join;
//!   `certificates`: who gets a certificate.
//! * [`server`]: the assembly; `term`: what of it runs on the leader alone; `definitions`: custom resources that come
//!   with it.
//! * [`member`]: who a member is; `join`: how it becomes one; `membership`: how the others learn of it.
//! * [`store`]: what the program's own commands need of the store.
//! * [`controllers_driver`], [`scheduler_driver`]: what runs the deciders; `workqueue`: who is next;
//!   `issuance`: keys and signatures for custom resources that ask for them.

mod bootstrap;
mod certificates;
mod clock;
pub mod controllers_driver;
mod definitions;
#[cfg(test)]
mod house;
mod issuance;
mod join;
mod limits;
pub mod member;
mod membership;
pub mod pki;
pub mod private;
pub mod scheduler_driver;
pub mod server;
mod snapshot;
pub mod store;
mod subject;
mod term;
pub mod token;
pub mod trust;
mod workqueue;

pub use objects::User;
pub use scheduler;
