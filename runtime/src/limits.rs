//! Every bound of the node agent, with its reason.

use std::time::Duration;

/// Pods on one node: what the largest range of addresses holds. Address space, mappings and the API's list size were tried
/// with ten thousand; the pod CIDR may allow fewer.
pub const PODS_MAX: u32 = 16_000;

/// How often the node renews its Lease (the kubelet's interval). It is lost after four missed ones.
pub const LEASE_RENEW: Duration = Duration::from_secs(10);

/// How long a Lease stands for a living node.
pub const LEASE_SECONDS: i32 = 40;

/// How often an unchanged node status is written again (the kubelet's interval).
pub const NODE_STATUS_RENEW: Duration = Duration::from_secs(300);

/// Services that a pod is told of by variables: each is seven or more of them in every container of the namespace, and a
/// program that wants one of so many asks for its name.
pub const SERVICE_LINKS_MAX: usize = 256;

/// How long a pod that is to be told of Services waits until they have been read: the node reads them when it starts.
pub const SERVICES_WAIT: Duration = Duration::from_secs(10);

/// First wait after a request to the API failed.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Longest wait between two tries of one request: an API that is back is noticed within it.
pub const RETRY_MAX: Duration = Duration::from_secs(10);

/// Longest answer time of one request to the API; then it is tried again.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// Events waiting to be written: ten thousand pods that start at once with three each. When full, further ones are
/// lost: they inform, nothing depends on them.
pub const EVENTS_QUEUE_MAX: usize = 32 << 10;

/// Different events remembered in order to count repeats instead of writing them anew; the oldest is forgotten first.
pub const EVENTS_KNOWN_MAX: usize = 4096;

/// Longest message of an event: Kubernetes refuses more.
pub const EVENT_MESSAGE_BYTES_MAX: usize = 1000;

/// Writes of one repeated event: after this many, only every tenth repeat is written.
pub const EVENT_WRITES_MAX: i32 = 10;

/// One file of a container's output. Kubernetes rotates at the same size.
pub const OUTPUT_FILE_BYTES_MAX: u64 = 10 << 20;

/// Files kept of one attempt: the one being written and the one before it.
pub const OUTPUT_FILES_MAX: u32 = 2;

/// Longest piece of a line that is written at once; longer lines become several pieces (CRI's 16 KiB).
pub const OUTPUT_LINE_BYTES_MAX: usize = 16 << 10;

/// Bytes of output sent to a reader at once.
pub const OUTPUT_CHUNK_BYTES: usize = 64 << 10;

/// Contents of one ConfigMap, Secret or downward API volume. The API allows 1 MiB per object; several can be projected.
pub const VOLUME_BYTES_MAX: usize = 16 << 20;

/// Probes of one kind that wait for an answer: the machine asks again only after the last answer.
pub const PROBE_TIME_MAX: Duration = Duration::from_secs(300);

/// Bytes of a gRPC health answer that are read: it holds one number.
pub(crate) const HEALTH_BYTES_MAX: usize = 4 << 10;

/// Memory of the machine that guests may hold together; the rest is the node's and the system's, so that a guest
/// without a limit ends before the machine does.
pub(crate) const GUEST_MEMORY_PERCENT: u64 = 75;

/// Bytes of a forwarded connection sent to a client at once.
pub const FORWARD_PIECE_BYTES: usize = 32 << 10;

/// How long a volume may show an old ConfigMap or Secret (the kubelet's sync period).
pub const VOLUMES_REFRESH: Duration = Duration::from_secs(60);

/// The kubelet's own settings: from this share of the disk on, images go that nobody uses, until so much is left in use.
pub const IMAGE_GC_HIGH_PERCENT: u64 = 85;
/// See [`IMAGE_GC_HIGH_PERCENT`].
pub const IMAGE_GC_LOW_PERCENT: u64 = 80;

/// How often the node looks at the disk under its images, beside after every pull (the kubelet's period).
pub const IMAGE_GC_LOOK: Duration = Duration::from_secs(300);

/// An image that was used within this stays (the kubelet's `imageMinimumGCAge`).
pub const IMAGE_GC_AGE_MIN: Duration = Duration::from_secs(120);

/// Images fetched at once. More only share the same line, and each holds a file open.
pub const PULLS_MAX: usize = 4;

/// Connections to the registry at once; a tool opens a handful.
pub const REGISTRY_CONNECTIONS_MAX: usize = 256;

/// How long a client of the registry may take for a request's head, and an idle connection is kept.
pub const REGISTRY_HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause after a connection to the registry could not be accepted: the cause, too many open files, does not pass at once.
pub const REGISTRY_ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Other nodes asked for an image that is not here: those that list it come first, and beyond these few it is quicker to say
/// that it is missing.
pub const PEERS_ASKED_MAX: usize = 8;

/// How long another node may be silent in the middle of an image.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long the members may take to say whether one of them has some machine code. The API asks them one after the other.
pub const CODE_ASKED_MAX: Duration = Duration::from_secs(5);

/// How long machine code may be on its way: in this time nearly everything is compiled here.
pub const CODE_FETCH_MAX: Duration = Duration::from_secs(60);

/// Largest machine code that is fetched: some five times the largest component.
pub const CODE_BYTES_MAX: usize = 2 << 30;

/// Images a node lists in its status: the kubelet lists 50, and ours are smaller.
pub const IMAGES_LISTED_MAX: usize = 100;
/// How long connecting to a member of the control plane may take before the next one is tried.
pub(crate) const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// How often a silent member is asked whether it lives.
pub(crate) const MEMBER_ASKED_EVERY: Duration = Duration::from_secs(1);

/// How long a member may take to answer that; then another one is turned to.
pub(crate) const MEMBER_SILENT_MAX: Duration = Duration::from_secs(2);

/// First wait before a member is dialled again: a connection that breaks between two that live is back before the node
/// counts as lost.
pub(crate) const RELAY_RETRY_FIRST: Duration = Duration::from_millis(20);

/// Longest wait before a member is dialled again: one that is back soon has its nodes.
pub(crate) const RELAY_RETRY_MAX: Duration = Duration::from_secs(1);

/// How often a node contradicts those who take it for lost.
pub(crate) const CONTRADICT_EVERY: Duration = Duration::from_millis(500);

/// Bytes that wait for a client of a running command before the command waits: a few writes of a guest.
pub const OUTLET_BYTES_MAX: usize = 256 << 10;

/// Bytes on their way into a program's stdin.
pub const STDIN_BYTES_MAX: usize = 256 << 10;

/// Longest line typed into a terminal: Linux' own bound (`N_TTY_BUF_SIZE`).
pub const TERMINAL_LINE_BYTES_MAX: usize = 4096;

/// Clients attached to one container: each holds its own outlet, and any of them can slow the container.
pub const ATTACHED_MAX: usize = 16;

/// Bytes kept for the first client of a container that has a stdin; the oldest go first.
pub const FIRST_WORDS_BYTES_MAX: usize = 64 << 10;

/// Commands that clients run in one container at once: each is an instance on the container's memory account.
pub const EXECS_MAX: usize = 32;

/// Bytes of what a probe's or hook's command said: the kubelet keeps as many.
pub const EXEC_WORDS_BYTES_MAX: usize = 10 << 10;
/// Longest wait for a response that a pod may ask for.
pub(crate) const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Instances one container may keep for a next request: half of what a node answers at once.
pub(crate) const REUSE_INSTANCES_MAX: u32 = 500;

/// Requests one instance may be asked to answer at once: as many as its container takes at all.
pub(crate) const REUSE_CONCURRENCY_MAX: u32 = engine::limits::REQUESTS_MAX as u32;

/// Longest an instance may be kept for a next request: what is kept longer belongs in a command that listens.
pub(crate) const REUSE_IDLE_MAX: Duration = Duration::from_secs(3600);

/// Characters of a value shown in a refusal.
pub(crate) const VALUE_SHOWN_MAX: usize = 100;

/// How long a status that only says that containers are being made may wait for the one that says that they run. Nobody
/// acts on it, and each write of a pod costs the store, every watcher and the history of the last minutes.
pub(crate) const STATUS_LINGER: Duration = Duration::from_secs(1);

/// A pod's object is put away when it has not changed for so long: its start is over by then.
pub(crate) const POD_REST: Duration = Duration::from_secs(5);

/// Milliseconds that it must be able to stay away for. Decoding it takes some fifty microseconds: nothing once a minute,
/// too much every second for each of thousands of pods.
pub(crate) const POD_REST_MIN_MS: i64 = 60_000;

/// How often the disk is looked at for pods that have a limit of it: the kubelet's 10 s would let a guest write gigabytes.
pub(crate) const STORAGE_LOOK: Duration = Duration::from_secs(2);

/// Files and folders of one volume that are counted; one with more counts as full.
pub(crate) const STORAGE_ENTRIES_MAX: usize = 100_000;

/// How long a projected token is good for when the pod does not say (Kubernetes' default); it is fetched anew with each
/// look at the volumes.
pub(crate) const TOKEN_SECONDS: i64 = 3600;

/// How long a connection to a member still takes requests once a newer one stands beside it: the member may just be about
/// to use it.
pub(crate) const RELAY_LEFT_AFTER: Duration = Duration::from_secs(5);

/// How often a pod's account is asked for before its container is said to be misconfigured, and how long after one another.
pub(crate) const ACCOUNT_TRIES: u32 = 10;
/// See [`ACCOUNT_TRIES`]: a new namespace has its account within this.
pub(crate) const ACCOUNT_WAIT: Duration = Duration::from_millis(500);
