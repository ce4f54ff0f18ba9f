//! Every bound of the scheduler, with its reason.

/// Pods planned in one turn. The turn's binds are written before the next turn is planned, so this bounds how long a
/// pod of high priority that arrives now waits behind others.
pub const PLAN_PODS_MAX: usize = 256;

/// Nodes that must fit before the search stops, below which every node is looked at (Kubernetes' own number): with
/// few nodes the best one is wanted, with thousands a good one soon.
pub const FEASIBLE_MIN: usize = 100;

/// The first pause after a pod fitted nowhere; doubled with each further attempt. Kubernetes pauses a second; an
/// attempt costs far less than that, and a node that is just getting ready changes several times.
pub const BACKOFF_MS: i64 = 100;

/// The longest such pause.
pub const BACKOFF_MAX_MS: i64 = 10_000;

/// A pod that fits nowhere is looked at again after this long even if nothing seems to have changed.
pub const RETRY_MS: i64 = 300_000;

/// Nodes on which a preemption works out before the best of them is taken (Kubernetes' own number).
pub const PREEMPTION_NODES_MAX: usize = 100;

/// Nodes on which a preemption is thought through for one pod: each costs a look at every pod there.
pub const PREEMPTION_TRIES_MAX: usize = 400;
