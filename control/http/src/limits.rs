//! Every bound of this crate, with its reason.

use std::time::Duration;

/// Largest request body: kube-apiserver's limit, which clients know (413).
pub(crate) const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// How long anything but a watch or a stream of output may take; kube-apiserver's `--request-timeout`.
pub(crate) const REQUEST_MAX: Duration = Duration::from_secs(60);

/// Answers smaller than this are not compressed: below it the work costs more than the bytes, as upstream found.
pub(crate) const GZIP_BYTES_MIN: usize = 128 * 1024;

/// How long a watch lasts when the client names no `timeoutSeconds`; up to twice this, so that clients which
/// connected together do not come back together. kube-apiserver's `--min-request-timeout`.
pub(crate) const WATCH_MIN: Duration = Duration::from_secs(30 * 60);

/// How often a quiet watch tells its revision to a client that allowed bookmarks: once a minute, as upstream.
pub(crate) const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How many bytes of list items or watch events are put into one frame before it is handed to the connection: more
/// would only be held twice.
pub(crate) const FRAME_BYTES: usize = 64 * 1024;

/// How many items one page of a list may have; more than any client asks for, far less than memory.
pub(crate) const PAGE_ITEMS_MAX: usize = 1_000_000;

/// How many connections one member serves. Beyond it new ones wait in the kernel's queue.
pub(crate) const CONNECTIONS_MAX: usize = 8_192;

/// How long a TLS handshake may take before the connection is closed: a silent peer must not hold a place.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long a client may take to send the head of a request.
pub(crate) const HEAD_MAX: Duration = Duration::from_secs(30);

/// How many header fields an HTTP/1 request may have.
pub(crate) const HEADERS_MAX: usize = 100;

/// How many bytes the head of a request may have; Go's `DefaultMaxHeaderBytes` is 1 MiB, nobody needs a tenth of it.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How many requests one HTTP/2 connection may have under way; kube-apiserver's `--http2-max-streams-per-connection`.
pub(crate) const STREAMS_MAX: u32 = 1_000;

/// How long connections may take to finish their requests when the server stops.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How long the accept loop rests after an error such as "too many open files", instead of spinning.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many groups or extra values one request may impersonate.
pub(crate) const IMPERSONATED_MAX: usize = 64;

/// How long a service-account token lives when its request does not say: upstream's default.
pub(crate) const TOKEN_SECONDS_USUAL: i64 = 3_600;
/// Shortest life of a service-account token, as upstream validates it: below it clients would only renew.
pub(crate) const TOKEN_SECONDS_MIN: i64 = 600;
/// Longest life of a service-account token, as upstream validates it.
pub(crate) const TOKEN_SECONDS_MAX: i64 = 1 << 32;

/// Longest bearer token that is looked at; service-account tokens have about 1 KiB.
pub(crate) const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// How many exec, attach and port-forward sessions one member serves: each holds a connection and some buffers. Beyond
/// it clients are told to come back (429).
pub(crate) const STREAM_SESSIONS_MAX: usize = 1_024;

/// How long a session's client may say nothing, pings included, before it counts as gone; kubelet's
/// `streamingConnectionIdleTimeout`.
pub(crate) const STREAM_IDLE_MAX: Duration = Duration::from_secs(4 * 60 * 60);

/// How many bytes are read from a session's client at once.
pub(crate) const STREAM_PIECE_BYTES: usize = 32 * 1024;

/// How many pieces wait for a pod that does not read, per forwarded connection, and how many for a client that does
/// not, per session; then the sender waits.
pub(crate) const STREAM_PIECES_MAX: usize = 8;

/// Largest WebSocket message: clients send what they read at once, which is 128 KiB at most (Python's asyncio).
pub(crate) const WEBSOCKET_MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// How many connections one port-forward session may have open; a browser opens six per host.
pub(crate) const FORWARDS_MAX: usize = 256;

/// How long a pod may leave the bytes of a forwarded connection unread before it loses that connection: meanwhile
/// everything else of the session waits, because neither encoding can hold up one stream alone.
pub(crate) const FORWARD_STALL_MAX: Duration = Duration::from_secs(30);

/// How long an exec or attach client may take to open its SPDY streams; kubelet's `streamCreationTimeout`.
pub(crate) const STREAMS_OPEN_MAX: Duration = Duration::from_secs(30);

/// How long a WebSocket's client may take to answer the first ping before it is talked to all the same.
pub(crate) const PONG_MAX: Duration = Duration::from_secs(2);

/// How long a client that still sends is heard after its program has ended.
pub(crate) const STREAM_LINGER: Duration = Duration::from_secs(5);

/// How many ports one WebSocket may forward: their channels are numbered by one byte, and 255 is the close signal.
pub(crate) const FORWARD_PORTS_MAX: usize = 127;

/// Longest SPDY control frame: a few headers; the connection ends at a longer one.
pub(crate) const SPDY_CONTROL_BYTES_MAX: usize = 16 * 1024;

/// Longest decompressed header block: Kubernetes' streams have three short headers.
pub(crate) const SPDY_HEADER_BYTES_MAX: usize = 64 * 1024;

/// How many headers a SPDY stream may have.
pub(crate) const SPDY_HEADERS_MAX: usize = 100;

/// Longest refusal of a node that is passed on to a client.
pub(crate) const REFUSAL_BYTES_MAX: usize = 4 * 1024;

/// How many lost nodes the relay remembers: more than a cluster has; the one that was lost first is forgotten.
pub(crate) const RELAY_LOST_MAX: usize = 8_192;

/// How often a node's connection is asked whether it lives, and how long it may take to answer. A process that dies
/// closes its connection and is noticed at once; this is for machines that fall silent. Together well under a second
/// in a small cluster; in a large one each node is asked more seldom, so that a member sends some thousand small
/// packets a second at most.
pub(crate) fn relay_patience(nodes: usize) -> (Duration, Duration) {
    let every = Duration::from_micros(500) * u32::try_from(nodes).unwrap_or(u32::MAX);
    let every = every.clamp(Duration::from_millis(200), Duration::from_secs(5));
    (every, every * 2)
}

/// How long a member may take to say whether it has some machine code: most components compile in less than a second.
pub(crate) const CODE_ASKED_MAX: Duration = Duration::from_secs(1);

/// How often nodes are asked what their pods use: metrics-server's `--metric-resolution`.
pub(crate) const USAGE_EVERY: Duration = Duration::from_secs(15);

/// How long a node may take to say it; the next turn asks again.
pub(crate) const USAGE_ANSWER_MAX: Duration = Duration::from_secs(10);

/// Nodes asked at the same time.
pub(crate) const USAGE_NODES_AT_ONCE: usize = 16;

/// Longest such answer: ten thousand pods of four containers, 400 bytes each.
pub(crate) const USAGE_BYTES_MAX: usize = 16 << 20;

/// How many webhooks are called at the same time; further calls wait, within their own timeouts. Each holds a connection
/// and an object of 1.5 MiB at most.
pub(crate) const WEBHOOK_CALLS_MAX: usize = 256;

/// Longest answer of a webhook: a patch that replaces the largest object there can be, in base64, with room beside it.
pub(crate) const WEBHOOK_ANSWER_BYTES_MAX: usize = 3 << 20;
