//! One connection to another node: who made it, until when its certificates let it live, and who uses it. And which of
//! several is the one in use.
//!
//! A connection outlives neither of the certificates it was made with. So that nothing is cut, a node with a new
//! certificate makes a connection beside the one that stands; both nodes choose the same one of the two, and the other
//! ends when what it carries has ended, at the latest with its certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use quinn::Connection;

use super::identity;

/// Who made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Dialled,
    Accepted,
}

/// Which way a connection takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Course {
    /// Over a third node.
    Relayed,
    Direct,
}

/// One connection to another node.
pub(super) struct Standing {
    pub(super) connection: Connection,
    pub(super) made: Made,
    pub(super) course: Course,
    /// Which of this node's identities was shown.
    pub(super) shown: u64,
    /// The ends of both certificates, the earlier first; the same seen from both nodes.
    ends: [SystemTime; 2],
    /// Calls that it carries, or is about to.
    using: AtomicUsize,
}

/// Held while a call uses a connection.
pub(super) struct Used(Arc<Standing>);

impl Drop for Used {
    fn drop(&mut self) {
        self.0.using.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Standing {
    /// `own_ends` is the end of the certificate that this node has shown.
    pub(super) fn new(
        connection: Connection,
        (made, course): (Made, Course),
        shown: u64,
        own_ends: SystemTime,
    ) -> Arc<Self> {
        // A peer without a certificate was refused before; one that cannot be read ends at once.
        let peer_ends = identity::peer_ends(&connection).unwrap_or(SystemTime::UNIX_EPOCH);
        let ends = [own_ends.min(peer_ends), own_ends.max(peer_ends)];
        Arc::new(Self { connection, made, course, shown, ends, using: AtomicUsize::new(0) })
    }

    pub(super) fn stands(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(super) fn is_used(&self) -> bool {
        self.using.load(Ordering::Relaxed) > 0
    }

    pub(super) fn used(self: &Arc<Self>) -> Used {
        self.using.fetch_add(1, Ordering::Relaxed);
        Used(self.clone())
    }

    /// How long its certificates let it live; `None` when they are over.
    pub(super) fn left(&self, now: SystemTime) -> Option<Duration> {
        self.ends[0].duration_since(now).ok()
    }

    /// What the choice between two goes by, the greatest being the one in use. Both nodes see the same certificates and the
    /// same course; where those do not decide, both use the one that the first of their names has dialled, and of these the
    /// last.
    fn rank(&self, is_first: bool) -> ([SystemTime; 2], Course, bool) {
        (self.ends, self.course, (self.made == Made::Dialled) == is_first)
    }
}

/// The connection in use, if one stands. `is_first`: whether this node's name comes before the other's.
pub(super) fn choose<'a>(
    all: impl IntoIterator<Item = &'a Arc<Standing>>,
    is_first: bool,
) -> Option<&'a Arc<Standing>> {
    all.into_iter().filter(|standing| standing.stands()).max_by_key(|standing| standing.rank(is_first))
}
