//! Every bound of the program's own commands, with its reason.

use std::time::Duration;

/// Threads of the control plane. Guests have their own; more than four only cost memory on a laptop.
pub const CONTROL_THREADS_MAX: usize = 4;
/// How long tasks may take to end once they were asked to, before the process ends without them.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How long `up --detach` waits for the cluster it started. A cold start takes well under a second.
pub const START_WAIT: Duration = Duration::from_secs(60);
/// How long `down` waits for the cluster to end in order: the pods' grace period and a checkpoint.
pub const STOP_WAIT: Duration = Duration::from_secs(60);
/// How long `up --with` waits for an app; compiling a large guest takes a while on a small machine.
pub const READY_WAIT: Duration = Duration::from_secs(180);
/// How long joining waits for a server that is not there yet, and for a certificate that a person must approve.
pub const JOIN_WAIT: Duration = Duration::from_secs(30);
/// How often a node looks whether its certificate must be renewed: a machine that slept must notice.
pub const RENEWAL_LOOK: Duration = Duration::from_secs(3600);
/// How soon a renewal that failed is tried again. There are two days left for it.
pub const RENEWAL_RETRY: Duration = Duration::from_secs(60);
/// How often a member without a leader looks whether the others have removed it.
pub const REMOVED_LOOK: Duration = Duration::from_secs(2);
/// How long pods stay on a lost node of a cluster on one machine, in seconds: it is lost because its process was ended,
/// and starting a component elsewhere costs next to nothing.
pub const LAPTOP_TOLERATION_SECONDS: u32 = 1;
/// How long pods stay on a lost node of a cluster of several machines: networks have short outages.
pub const TOLERATION_SECONDS: u32 = 30;
/// Nodes of one cluster on one machine: each is a process with memory of its own, and more show nothing new.
pub const LAPTOP_NODES_MAX: u32 = 9;
/// Between the ports of two nodes on one machine, so that each has room for its own.
pub const LAPTOP_PORT_STEP: u16 = 10;
/// How long the token of nodes on this machine is good: they use it within a second.
pub const LAPTOP_TOKEN_TTL: Duration = Duration::from_secs(600);
/// How often a condition outside this process is looked at while waiting.
pub const POLL: Duration = Duration::from_millis(20);
/// How long one request to the API may take, watches and logs excepted.
pub const REQUEST_WAIT: Duration = Duration::from_secs(30);
/// Documents in the manifests of one `apply`; more belongs into several calls.
pub const DOCUMENTS_MAX: usize = 10_000;
/// How much of a response `up --with` and the benches read: enough for any greeting.
pub const RESPONSE_BYTES_MAX: usize = 4 << 20;
/// Requests a bare store member works on at one time; further lines wait in the pipe.
pub const MEMBER_ASKS_MAX: usize = 1024;
/// Longest request line of a bare store member: a value of full size, escaped.
pub const MEMBER_LINE_BYTES_MAX: u64 = 8 << 20;
