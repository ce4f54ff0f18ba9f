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
