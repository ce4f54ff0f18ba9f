//! The hands: a node agent, its pods, and the way in from outside.
//!
//! A node is an ordinary Kubernetes client: it registers, renews its Lease, watches the pods bound to it and writes
//! their status. It knows nothing of the control plane behind its [`kube::Client`], which may be this process or a
//! foreign cluster.
//!
//! # Layout
//! * [`Node`]: a node from registration to its end; `registration`: its object and Lease.
//! * `pods`: which pods are here; `pod_driver`: one task per pod that performs what its machine (crate `pod`) asks.
//! * `ground`: a pod's address and folders; `container`: from image to running code; `environment`, `settings`,
//!   `volumes`, `output`: what it sees and prints.
//! * `terms`: what a pod asks in `kogia.dev/…` annotations; `storage`: how much of the disk it uses.
//! * `reclaim`: the end of persistent volumes. `pull`, `peers`, `code`: images and machine code from elsewhere.
//! * `events`, `probes`, `addresses`, `roster`: told, asked, given out, known.
//! * `rooms`, `console`, `outlet`: running containers seen from inside, and those who are connected to them; `exec`: what
//!   is run in them; `toolbox`, `terminal`: what a component has no `/bin` and no tty for.
//! * [`KubeletService`]: what the API asks a node about its containers; `stats`: what they use; [`members`]: how it is reached by those who ask,
//!   and how it reaches them, from another machine.
//! * [`dns`]: the cluster's names for those who ask in bytes.
//! * [`ingress`], [`network_driver`], [`overlay`]: the way in from outside, the tables of the virtual network, and the way to
//!   other nodes.

mod addresses;
mod code;
mod console;
mod container;
pub mod dns;
mod environment;
mod etc;
mod events;
mod exec;
mod ground;
mod hooks;
mod host;
mod image_gc;
pub mod ingress;
mod kubelet;
pub mod limits;
pub mod members;
pub mod network_driver;
mod node;
mod outlet;
mod output;
pub mod overlay;
mod patch;
mod peers;
mod pod_driver;
mod pods;
mod probes;
mod pull;
mod reclaim;
mod registration;
pub mod registry_driver;
mod resident;
mod retry;
mod rooms;
mod roster;
mod settings;
mod stats;
mod storage;
mod terminal;
mod terms;
mod toolbox;
mod volumes;

pub use code::MembersCode;
pub use engine;
pub use host::Capacity;
pub use image;
pub use kubelet::KubeletService;
pub use network;
pub use node::{Node, NodeConfig};
