//! Every bound of the traffic between nodes, with its reason.

use std::time::Duration;

/// Connections of pods that one node may have open to another at a time; further ones wait, and are told after
/// [`network::limits::OVERLAY_CONNECT_TIMEOUT`] that they were not answered. An Ingress in front of a busy node needs
/// thousands.
pub const STREAMS_MAX: u32 = 4096;

/// Bytes of one connection that may wait unread at the receiving node: full speed over 5 ms at 200 MB/s. A reader that
/// stops holds this much and no more, and nobody else's.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Bytes of all connections of a pair of nodes on their way and not yet confirmed.
pub const SEND_WINDOW_BYTES: u64 = 16 << 20;

/// Large datagrams of a pair of nodes on their way at a time; further ones are lost, as UDP allows.
pub const LARGE_DATAGRAMS_MAX: u32 = 64;

/// Bytes of datagrams waiting to be sent or to be taken, each; further ones are lost. A thousand full packets.
pub const DATAGRAM_BUFFER_BYTES: usize = 1500 * 1024;

/// Datagrams that wait for a connection that is being made; further ones are lost.
pub const DATAGRAMS_WAITING_MAX: usize = 256;

/// How long a datagram may wait for a connection: then it is too old to be of use.
pub const DATAGRAM_WAIT: Duration = Duration::from_secs(1);

/// How long a node may take to send what stands at the beginning of a connection, and a large datagram.
pub const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a handshake may take: three lost first packets at QUIC's initial time-out of one second.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Handshakes from other nodes at a time; further ones are refused and come again. Each costs a signature.
pub const HANDSHAKES_MAX: usize = 64;

/// From this many handshakes on, a caller must first prove that it is where it says (RFC 9000, section 8.1).
pub const HANDSHAKES_UNPROVEN_MAX: usize = 16;

/// First pause after a node could not be reached.
pub const REDIAL_FIRST: Duration = Duration::from_millis(100);

/// Longest pause between two attempts to reach a node: one that is back is noticed within it.
pub const REDIAL_MAX: Duration = Duration::from_secs(5);

/// Something comes from a living node at least this often.
pub const KEEP_ALIVE: Duration = Duration::from_millis(250);

/// A node from which nothing has come for this long is passed over by Services until something comes again: three
/// missed signs of life. Connections to it go on.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(750);

/// A node from which nothing has come for this long is gone; its connections end as timed out. A path that is cut for
/// less is survived.
pub const GONE_AFTER: Duration = Duration::from_secs(10);

/// A pair of nodes that has had nothing to say to each other for this long gives up its connection, unless one of them is a
/// member and the other is not.
pub const UNUSED_AFTER: Duration = Duration::from_secs(120);

/// A connection that is not the one in use, since a newer one stands beside it, is given up when it has carried nothing for
/// this long: the other node may just have begun to use it.
pub const LEFT_AFTER: Duration = Duration::from_secs(5);

/// A connection whose certificates end within this is followed by another, whoever made it: the other node may have a new
/// certificate and no way to dial. Nodes renew days before.
pub const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(3600);

/// A node that has not answered for this long is looked for over a member as well, and over another after as long again.
/// Most answer before: a round trip to the other side of the earth takes 300 ms, but its pods' calls have been tried
/// elsewhere by [`network::limits::DIAL_NEXT_AFTER`].
pub const RELAY_AFTER: Duration = Duration::from_millis(200);

/// Members over which one node is looked for at a time.
pub const RELAYS_MAX: usize = 3;

/// How often a node that is reached over a member is looked for without.
pub const DIRECT_LOOK: Duration = Duration::from_secs(60);

/// Packets passed on by members that wait to be read; further ones are lost.
pub const PASSED_WAITING_MAX: usize = 1024;

/// Addresses that one node may name; more are not tried.
pub const ENDPOINTS_MAX: usize = 8;

/// How often a node looks whether its own addresses have changed.
pub const ADDRESSES_LOOK: Duration = Duration::from_secs(15);

/// Bytes handed over at once: large enough that a copy is the cost and not the call.
pub const PIECE_BYTES_MAX: usize = 64 << 10;

/// Received pieces gathered into one hand-over: a packet's worth each, [`PIECE_BYTES_MAX`] together.
pub const PIECES_MAX: usize = 48;

/// The kernel's buffers of the one socket, as far as it allows: bursts of many connections must not be lost there.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The largest packet that path discovery tries and this node takes, where loopback or jumbo frames carry it: ten of them, which
/// is what quinn hands to the kernel at once, are just below the 65,507 bytes that the kernel takes. `kogia bench net` measures
/// with it twice what it measures with Ethernet's 1,472 bytes; with 8,952, ten no longer fit, and it was a third less.
pub const PACKET_BYTES_MAX: u16 = 6500;
