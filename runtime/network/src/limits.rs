//! Every bound of the virtual network, with its reason.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Bytes one direction of a connection may hold: enough for full speed between two guests (measured: a larger pipe
/// gains nothing), small enough that a thousand stalled connections stay below a gigabyte.
pub const PIPE_BYTES_MAX: usize = 256 * 1024;

/// Writes below this size are gathered in one buffer when the reader is behind, so that a million one-byte writes
/// do not cost a million allocations.
pub const GATHER_BELOW_BYTES: usize = 1024;

/// A listener's backlog when it asks for none, and the most it gets; Linux' `somaxconn` has been 4096 since 5.4.
pub const BACKLOG_DEFAULT: usize = 128;
/// See [`BACKLOG_DEFAULT`].
pub const BACKLOG_MAX: usize = 4096;

/// Bound ports of one pod, TCP and UDP together: nobody needs more, and a guest in a loop must stop somewhere.
pub const PORTS_PER_POD_MAX: usize = 1024;

/// Ports given to those who ask for port 0 (RFC 6335 leaves the choice; this is Linux' default range).
pub const EPHEMERAL_PORTS: RangeInclusive<u16> = 32768..=60999;

/// Datagrams waiting in one UDP socket; more are lost, as UDP allows. 256 × 64 KiB is 16 MiB at the very worst.
pub const DATAGRAMS_MAX: usize = 256;

/// The largest UDP payload over IPv4 (RFC 768: 65,535 less the headers).
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Service addresses one UDP socket may talk to at a time while answers still come back under the Service's address.
pub const UDP_FLOWS_MAX: usize = 64;

/// Senders one UDP socket remembers in order to be allowed to answer them; further ones are answered if the policies let
/// this side begin.
pub const UDP_HEARD_MAX: usize = 1024;

/// For how long a sender may be answered (Linux' `nf_conntrack_udp_timeout_stream`).
pub const UDP_ANSWER_TIME: Duration = Duration::from_secs(120);

/// Connections that may be served at a time on one port of an HTTP component by raw TCP, half of them for one caller
/// ([`crate::places`]). In-process calls do not count: the engine bounds those itself.
pub const SERVED_CONNECTIONS_MAX: usize = 2048;

/// Endpoints tried for one connection to a Service before the caller is told it was refused.
pub const DIAL_ATTEMPTS_MAX: usize = 8;

/// Clients of one sticky Service port that are remembered; further ones are served in turn. A megabyte.
pub const AFFINITY_CLIENTS_MAX: usize = 10_000;

/// Bytes of the head of an HTTP message read from a guest's connection before it is refused (nginx: 32 KiB).
pub const HTTP_HEAD_BYTES_MAX: usize = 64 * 1024;

/// A guest that dialled an HTTP component must finish a request's head within this time; also how long it may keep an
/// idle connection that counts against [`SERVED_CONNECTIONS_MAX`].
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest name that is looked up: 253 characters of RFC 1035 and a trailing dot.
pub const NAME_BYTES_MAX: usize = 254;

/// The largest answer over UDP for an asker that says nothing of its size (RFC 1035).
pub const DNS_UDP_BYTES: usize = 512;

/// The largest answer over UDP at all: what fits into a packet on any path (DNS Flag Day 2020).
pub const DNS_UDP_BYTES_MAX: usize = 1232;

/// Records in one answer over a connection; a headless Service may have more endpoints, and nobody reads so many.
pub const DNS_ANSWERS_MAX: usize = 1000;

/// Connections to the outside, and UDP exchanges with an address outside, that one pod may have at a time: each is a
/// descriptor of the node's, and a node has tens of thousands for hundreds of pods.
pub const EGRESS_PER_POD_MAX: usize = 512;

/// UDP exchanges with addresses outside that one socket may have at a time; datagrams to further ones are lost.
pub const EGRESS_UDP_PER_SOCKET_MAX: usize = 64;

/// Clients outside that may have a flow through this node's UDP ports at a time; datagrams of further ones are lost until
/// others have been quiet.
pub const NODE_FLOWS_MAX: usize = 4096;

/// Answers that wait in one flow until the host's socket has taken them; more are lost. They wait for nobody but the
/// kernel, so few are enough.
pub const NODE_FLOW_DATAGRAMS_MAX: usize = 32;

/// How long the outside may take to accept a connection; a guest's own time-out is usually shorter.
pub const EGRESS_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Names that the host's resolver may be asked at a time: each occupies a thread.
pub const LOOKUPS_MAX: usize = 32;

/// How long a guest waits for the host's resolver (`resolv.conf`: two attempts of five seconds).
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a node may take to answer for one endpoint of a Service before the next is tried. Far more than a round trip
/// between machines, little enough that a node that has just died costs a client well under a second.
pub const DIAL_NEXT_AFTER: Duration = Duration::from_millis(500);

/// How long a node may take to answer where there is nobody else to try. TCP would go on for two minutes; a program that
/// asks a cluster is better told.
pub const OVERLAY_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the sentence with which another node refuses a connection; a longer one is cut.
pub const REFUSAL_BYTES_MAX: usize = 1024;

/// Calls held for one Service whose pods are being started; further ones are refused. Each holds a request's head or an
/// accepted connection, 64 KiB at most: 16 MiB.
pub const HELD_PER_SERVICE_MAX: usize = 256;

/// Calls held on one node, so that many sleeping Services together stay below 256 MiB.
pub const HELD_MAX: usize = 4096;

/// How long a call is held (nginx and most clients wait this long for a first byte).
pub const HELD_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a held call is tried though nothing was heard of a change: a pod on another node begins to listen unheard.
pub const HELD_RETRY: Duration = Duration::from_millis(50);

/// Bytes that a compiled expression of a path may take: larger ones cost more memory than a route is worth.
pub const REGEX_BYTES_MAX: usize = 64 << 10;

/// How long who asked over HTTP may read nothing of an answer that waits for it (nginx's `send_timeout`).
pub const HTTP_READER_TIMEOUT: Duration = Duration::from_secs(60);

/// How often somebody who waits for another node looks whether it has fallen silent: far less than its silence takes.
pub const SILENCE_LOOK: Duration = Duration::from_millis(100);

/// How long a client that was let in by an HTTP component may take to ask once the component's port is freed: far more
/// than a request's way between two machines, and what a connection that nobody uses may delay the end of a pod.
pub const HTTP_LAST_ASK_TIMEOUT: Duration = Duration::from_secs(2);
