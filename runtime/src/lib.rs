//! The hands: a node agent, its pods, and the way in from outside.

pub mod ingress;
pub mod network_driver;
