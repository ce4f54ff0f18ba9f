//! The product's one test binary: real `kogia` processes, real guests, real kubectl.
//!
//! Every test starts its own cluster on free ports in its own temporary directory. Tests that need kubectl use the one
//! on PATH, and the other versions beside it where there are any; where there is none they say so and pass, except in
//! CI, where they fail.
// A test binary exports nothing; `pub` here means: for the other modules.
#![allow(unreachable_pub)]

mod account;
mod acme;
mod apps;
mod autoscaling;
mod bad_input;
mod bench;
mod client;
mod cluster_of_three;
mod crd;
mod debug;
mod edge;
mod forward;
mod harness;
mod images;
mod joining;
mod kube_client;
mod kubectl;
mod languages;
mod lifecycle;
mod machines;
mod misbehave;
mod modules;
mod network;
mod operator;
mod policy;
mod restart;
#[cfg(target_os = "linux")]
mod six_machines;
mod store;
mod store_damage;
mod streams;
mod suite;
mod tidy;
mod tutorials;
#[cfg(target_os = "linux")]
mod two_machines;
mod webhooks;
mod workloads;
