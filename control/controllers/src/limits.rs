//! Every bound of the controllers, with its reason.

/// Pods one turn creates or deletes at most. It is Kubernetes' burst: the world is looked at again in between, so a
/// scale-down or a deletion need not wait for a large scale-up to end.
pub const BURST_MAX: usize = 500;

/// Events one turn tells at most. A burst of hundreds of equal lines tells a person no more than ten.
pub const TELLS_MAX: usize = 10;

/// Objects one turn of the namespace controller or the garbage collector deletes; the next turn follows at once.
pub const SWEEP_MAX: usize = 500;

/// Endpoints in one EndpointSlice, Kubernetes' default: a change of one pod rewrites at most this many entries.
pub const SLICE_ENDPOINTS_MAX: usize = 100;

/// Addresses in one Endpoints object, Kubernetes' own limit; clients that need more read EndpointSlices.
pub const ENDPOINTS_ADDRESSES_MAX: usize = 1000;

/// A node whose lease is older than this is lost. Kubernetes' node-monitor-grace-period: four missed renewals.
pub const NODE_GRACE_MS: i64 = 40_000;

/// How long a node may be without a connection before it is lost: a connection that breaks between two that live is
/// back within a fraction of this, and traffic to a node that died is over within a second.
pub const CONTACT_GRACE_MS: i64 = 250;

/// How long a pod may point to a node that does not exist: nodes and static pods may arrive in either order.
pub const ORPHAN_POD_GRACE_MS: i64 = 40_000;

/// How long an evicted pod may take until it is seen leaving (Kubernetes: two minutes); then the eviction is void.
pub const DISRUPTION_MS: i64 = 120_000;

/// How long an Event is kept, as in Kubernetes.
pub const EVENT_TTL_MS: i64 = 3_600_000;

/// The first pause before a Job replaces a failed pod; doubled with each further failure.
pub const JOB_BACKOFF_MS: i64 = 10_000;

/// The longest pause before a Job replaces a failed pod (Kubernetes: ten minutes).
pub const JOB_BACKOFF_MAX_MS: i64 = 600_000;

/// Uids a Job's status lists as "finished, not yet counted". It bounds the status object; the rest waits a turn.
pub const JOB_UNCOUNTED_MAX: usize = 500;

/// Hash collisions of pod templates that a Deployment tries to step around before it waits for a person.
pub const COLLISIONS_MAX: i64 = 100;

/// The shortest time without calls after which a Deployment may be put to sleep: reports of traffic come every quarter
/// of it, and they are writes.
pub const IDLE_MIN_MS: i64 = 5_000;

/// The longest one. Whoever wants to wait longer wants no sleep.
pub const IDLE_MAX_MS: i64 = 7 * 24 * 3_600_000;

/// How late a report of traffic may come, beside a quarter of the idle time: a node's look, and the write itself.
pub const TRAFFIC_DELAY_MS: i64 = 2_000;

/// How often an autoscaler looks, Kubernetes' `--horizontal-pod-autoscaler-sync-period`.
pub const AUTOSCALER_PERIOD_MS: u64 = 15_000;

/// How far from its target a metric may be without anything being done: Kubernetes' tenth.
pub const AUTOSCALER_TOLERANCE: f64 = 0.1;

/// How long the processor use of a pod that is not ready yet is not counted: Kubernetes' five minutes.
pub const AUTOSCALER_INITIAL_MS: i64 = 300_000;

/// The longest stabilization window and policy period, as Kubernetes validates them.
pub const AUTOSCALER_WINDOW_MAX_MS: i64 = 3_600_000;

/// Recommendations and rescales an autoscaler remembers: an hour of periods. It bounds the annotation that holds them.
pub const AUTOSCALER_HISTORY_MAX: usize = 240;

/// Missed times of a CronJob after which a person is told that something is wrong: Kubernetes' hundred.
pub const CRON_MISSED_MAX: usize = 100;
