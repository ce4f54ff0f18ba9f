//! Every bound of this crate in one place, each with its reason. Sizes are bytes, durations are named by unit.

use std::time::Duration;

/// Commands alive at once on a node. A pooled instance takes up to six memory mappings and Linux allows a process
/// 65,530 of them by default; beyond that *every* mapping of the process fails, so all pools together end before it.
pub const COMMANDS_MAX: u32 = 8_000;

/// Requests being answered at once on a node, over all HTTP containers.
pub const REQUEST_INSTANCES_MAX: u32 = 1_000;

/// Commands alive at once for each other way of compiling them: of WASI 0.3, with their instructions counted, both.
pub(crate) const SPECIAL_COMMANDS_MAX: u32 = 256;

/// Requests being answered at once for each other way of compiling what answers them.
pub(crate) const SPECIAL_REQUESTS_MAX: u32 = 192;

/// Instances kept for a next request on a node: half of the room for requests stays for those that are coming.
pub(crate) const RESTING_INSTANCES_MAX: usize = 500;

/// Core instances inside one component: adapters and the C library split a component into a handful.
pub(crate) const CORE_INSTANCES_PER_COMPONENT_MAX: u32 = 100;

/// Memories inside one component: one per language runtime composed into it.
pub(crate) const MEMORIES_PER_COMPONENT_MAX: u32 = 8;

/// Tables inside one component.
pub(crate) const TABLES_PER_COMPONENT_MAX: u32 = 40;

/// Elements of one table: function pointers of the largest language runtimes stay below 64 Ki.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 65_536;

/// Bytes a table element is charged for in the container's memory: one pointer.
pub(crate) const TABLE_ELEMENT_BYTES: u64 = 8;

/// Slots for requests that stay bound to a component after use, which makes the next instance of it cheap.
pub(crate) const WARM_SLOTS_MAX: u32 = 32;

/// Bytes of each request's memory that are cleared in place instead of being handed back to the kernel. Only what a
/// guest wrote stays resident, and only as many slots are used as requests ever ran at once.
pub(crate) const WARM_MEMORY_BYTES: usize = 512 << 10;

/// Bytes of each request's tables that are cleared in place.
pub(crate) const WARM_TABLE_BYTES: usize = 64 << 10;

/// Host objects (sockets, streams, pollables, headers, bodies) one instance may hold.
pub(crate) const HOST_RESOURCES_MAX: usize = 4_096;

/// Handles one instance may hold in its own tables.
pub(crate) const HANDLES_MAX: usize = 10_000;

/// Bytes one call from guest to host may make the host copy (arguments, lists, strings).
pub(crate) const HOSTCALL_BYTES_MAX: usize = 16 << 20;

/// Random bytes one call may ask for.
pub(crate) const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// Epoch tick, the longest a guest computes before its thread looks at anything else. 10 ms would starve neighbours.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Ticks without any guest on a CPU before the ticker sleeps: saves waking it for every request of a busy node.
pub(crate) const IDLE_TICKS_MAX: u32 = 50;

/// Epoch ticks a guest runs before it yields.
pub(crate) const SLICE_TICKS: u64 = 1;

/// CPU time for which a guest that woke up is in front of those that compute. Most requests take less.
pub(crate) const FRONT_NANOS: u64 = 1_000_000;

/// A slice behind that waits so long for a CPU means that none is idle: a slice is a thousandth of a second.
pub(crate) const CROWDED_WAIT: Duration = Duration::from_millis(20);

/// How long nobody is behind then. A slice that is lost to finding out that it is still so takes a third of a second, since
/// Linux gives a thread of the lowest kind 3 parts of 1,024 beside another: a thirtieth of the time.
pub(crate) const CROWDED_FOR_NANOS: u64 = 10_000_000_000;

/// Weight of a container that requests less CPU than this or none, in thousandths of a CPU: enough to be answered.
pub(crate) const WEIGHT_MIN: u64 = 100;

/// CPU time a container that slept may use before those that did not: a few slices, so that whoever uses less than its
/// share is never behind a whole round of those that use all they get.
pub(crate) const WAKE_CREDIT_NANOS: u64 = 5_000_000;

/// CPU time a container may save up while idle, in milliseconds of its own rate: the CFS period of Kubernetes.
pub(crate) const CPU_BURST_MS: u64 = 100;

/// What a connection is charged to the guest that makes it, beside its own time: about what it costs the host to carry it
/// to an HTTP component and to parse what comes. Else a guest could make the host work many times its limit.
pub(crate) const CONNECT_NANOS: u64 = 50_000;

/// What a kibibyte that a guest sends is charged to it, over a connection, as the body of a response or to its output:
/// about what it costs the host to carry it on. Else a guest that sends without end has a whole processor copy and encode
/// for it, and one that prints without end has the system make and free pages.
pub(crate) const CARRY_NANOS_PER_KIB: u64 = 1_000;

/// Threads for blocking file access of all guests together.
pub(crate) const BLOCKING_THREADS_MAX: usize = 16;

/// Compilations at once: one takes about a core and a few hundred MiB.
pub(crate) const COMPILATIONS_MAX: usize = 2;

/// Longest compilation; about 40 MiB of Wasm.
pub(crate) const COMPILE_TIMEOUT: Duration = Duration::from_secs(120);

/// Address space of a compiler process.
#[cfg(unix)]
pub(crate) const COMPILER_MEMORY_BYTES: u64 = 8 << 30;

/// Bytes heard of what a compiler process prints.
pub(crate) const COMPILER_TEXT_BYTES_MAX: u64 = 8 << 10;

/// Largest component file read.
pub(crate) const COMPONENT_BYTES_MAX: u64 = 256 << 20;

/// Compiled components kept open in memory. They are mapped files, so keeping one costs little; an evicted one that
/// still runs stays alive through its containers.
pub(crate) const CODES_MAX: usize = 64;

/// Compiled components kept on disk, a few MiB each; the one unused for longest goes first.
pub(crate) const ARTEFACTS_MAX: usize = 256;

/// Imports named in one refusal.
pub(crate) const UNKNOWN_IMPORTS_SHOWN_MAX: usize = 16;

/// Requests one HTTP container handles at once, half of them for one caller; the next gets 503 with `Retry-After: 1`. A
/// quarter of what the node can: a crowded container leaves room for others.
pub const REQUESTS_MAX: usize = 256;

/// Characters of a request's path shown where a fault is told.
pub(crate) const PATH_SHOWN_MAX: usize = 200;

/// Longest wait for the head of a response.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests a reused instance answers when its pod does not say: what leaks in a guest stays small, and the cost of a
/// fresh instance is spread over a thousand.
pub(crate) const REUSE_REQUESTS: u32 = 1_000;

/// Instances of one container kept for a next request when its pod does not say.
pub(crate) const REUSE_INSTANCES: u32 = 16;

/// How long an instance is kept for a next request when its pod does not say.
pub(crate) const REUSE_IDLE: Duration = Duration::from_secs(10);

/// Least time between two looks at the instances of a container that rest: those of one burst go together.
pub(crate) const TEND_MIN: Duration = Duration::from_millis(100);

/// Requests one instance of 0.3 answers at once when its pod does not say (`wasmtime serve` has the same).
pub(crate) const REUSE_CONCURRENCY: u32 = 16;

/// Longest a guest may go on working after its response has been sent.
pub(crate) const AFTER_RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Header bytes of one request or response, counted as they lie in memory.
pub(crate) const HEADER_BYTES_MAX: usize = 128 << 10;

/// Bytes of one piece of an outgoing body, and of one write to any stream of ours.
pub(crate) const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Pieces of an outgoing body that wait for the reader.
pub(crate) const BODY_CHUNKS_MAX: usize = 2;

/// Outgoing HTTP requests of one container in flight.
pub(crate) const OUTGOING_MAX: usize = 64;

/// Wait for the response head of an outgoing request when the guest sets none.
pub(crate) const OUTGOING_TIMEOUT: Duration = Duration::from_secs(60);

/// Faults of an HTTP container remembered until the pod's driver reads them; the oldest are forgotten first.
pub(crate) const FAULTS_MAX: usize = 16;

/// Bytes of an instance's stderr remembered, to tell why it trapped.
pub(crate) const LAST_WORDS_BYTES_MAX: usize = 2 << 10;

/// Bytes of a backtrace kept: pods report it in a status field and an event.
pub(crate) const BACKTRACE_BYTES_MAX: usize = 8 << 10;

/// Sockets one instance may have open.
pub(crate) const SOCKETS_MAX: usize = 512;

/// Datagrams one call may send or receive.
pub(crate) const DATAGRAMS_PER_CALL_MAX: usize = 64;

/// Bytes of a name to look up: RFC 1035 §2.3.4.
pub(crate) const NAME_BYTES_MAX: usize = 255;
