//! Every bound of the Ingress server, with its reason.

use std::time::Duration;

/// Connections served at a time; the next ones wait in the kernel's backlog. Each costs two buffers and a task.
pub(crate) const CONNECTIONS_MAX: usize = 8192;

/// Bytes of a request's head (nginx: 32 KiB in all, Node.js 16 KiB).
pub(crate) const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Header lines of a request, as hyper counts them; more are answered with 431.
pub(crate) const HEADERS_MAX: usize = 128;

/// Bytes of a request's body. Bodies stream, so this bounds what a client can send, not what we hold.
pub(crate) const BODY_BYTES_MAX: u64 = 1 << 30;

/// Requests one HTTP/2 connection may have open at a time (RFC 9113 §6.5.2 recommends at least 100).
pub(crate) const STREAMS_MAX: u32 = 256;

/// A client must finish a request's head within this time; also how long an idle connection is kept.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// A client must finish the TLS handshake within this time.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A backend must begin its answer within this time, or the client gets 504 (nginx: 60 s).
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// After being told to stop, requests in flight may finish within this time.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after the kernel refused to accept (out of descriptors): long enough for one to be closed.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Clients whose requests are counted against a rate at a time; a bucket takes about a hundred bytes.
pub(crate) const LIMITED_CLIENTS_MAX: usize = 64 << 10;

/// Routes that are measured each for itself: as many as there may be Services. The rest is counted together.
pub(crate) const ROUTES_MEASURED_MAX: usize = 10_000;

/// Pieces of a request's body that a mirror may be behind.
pub(crate) const MIRROR_PIECES_MAX: usize = 16;

/// A client's own `X-Request-Id` is kept up to this length.
pub(crate) const REQUEST_ID_BYTES_MAX: usize = 128;
