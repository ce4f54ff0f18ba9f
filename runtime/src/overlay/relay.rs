//! The way to a node that can be dialled no more than it can dial: over a third that both are connected to.
//!
//! A node that is no member of the cluster keeps a connection to every member (see [`Hold`](super::link::Hold)), since it
//! may be behind a router or a firewall that lets nobody in. So members pass packets on between such nodes. To QUIC that is a
//! path as any other: a [`Relay`] is a socket whose addresses stand for a pair of nodes, who passes on and who is meant.
//! The two encrypt what they say, to each other, with the certificates they always show; who passes it on sees names and
//! lengths and can lose packets, which QUIC expects of any path.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use network::tunnel::{self, Passage};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use super::limits::{PASSED_WAITING_MAX, RELAYS_MAX};
use super::link::Link;
use super::{Links, calls};

/// What the addresses begin with: of a range for private use (RFC 4193), seen by nobody but this process's QUIC.
const PREFIX: [u16; 4] = [0xfd6b, 0x6f67, 0x6961, 0];
/// QUIC wants one that is not 0.
const PORT: u16 = 1;

/// A socket for packets that others pass on.
pub(super) struct Relay {
    links: Arc<Links>,
    ways: Mutex<Ways>,
    arrive: mpsc::Sender<(SocketAddr, Bytes)>,
    arrived: Mutex<mpsc::Receiver<(SocketAddr, Bytes)>>,
}

/// Over one node to another.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Way {
    over: Arc<str>,
    to: Arc<str>,
}

#[derive(Default)]
struct Ways {
    /// The cluster's members, which pass packets on.
    members: Vec<Arc<str>>,
    numbers: HashMap<Way, u64>,
    ways: HashMap<u64, Way>,
    /// How many there have been: a number is never given twice.
    count: u64,
}

impl Relay {
    pub(super) fn new(links: Arc<Links>) -> Arc<Self> {
        let (arrive, arrived) = mpsc::channel(PASSED_WAITING_MAX);
        Arc::new(Self { links, ways: Mutex::default(), arrive, arrived: Mutex::new(arrived) })
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says who the members are, and forgets the ways over and to nodes that are gone.
    pub(super) fn set(&self, members: Vec<Arc<str>>, there: &HashSet<String>) {
        let mut ways = self.ways();
        ways.members = members;
        ways.numbers.retain(|way, _| there.contains(&*way.over) && there.contains(&*way.to));
        let Ways { numbers, ways, .. } = &mut *ways;
        ways.retain(|_, way| numbers.contains_key(way));
    }

    /// Where a node may be found, over members that this one is connected to; for each node in another order, so that all
    /// have a share of it.
    pub(super) fn to(&self, node: &Arc<str>) -> Vec<SocketAddr> {
        let mut members = self.ways().members.clone();
        members.retain(|member| member != node && self.links.get(member).is_some_and(|link| link.direct().is_some()));
        members.sort_by_cached_key(|member| {
            let mut hasher = DefaultHasher::new();
            (member, node).hash(&mut hasher);
            hasher.finish()
        });
        let ways = members.into_iter().take(RELAYS_MAX).map(|over| Way { over, to: node.clone() });
        ways.map(|way| self.ways().address(way)).collect()
    }

    /// Takes a message that carries a packet: passes it on, or has it read by QUIC.
    pub(super) fn take(&self, from: &Link, message: &Bytes) {
        let (passage, name, packet) = match tunnel::decode_packet(message) {
            Ok(read) => read,
            Err(error) => return tracing::debug!(node = from.name(), %error, "a node's packet cannot be understood"),
        };
        // Whom the cluster does not know, nobody passes on to or for.
        let Some(other) = self.links.get(name) else { return };
        match passage {
            Passage::Onward => {
                if let Ok(message) = tunnel::encode_packet(Passage::Passed, from.name(), &packet) {
                    calls::pass(&other, message);
                }
            }
            Passage::Passed => {
                let way = Way { over: from.name().into(), to: other.name().into() };
                let address = self.ways().address(way);
                // One too many is lost.
                let _ = self.arrive.try_send((address, packet));
            }
        }
    }
}

impl Ways {
    fn address(&mut self, way: Way) -> SocketAddr {
        let number = match self.numbers.entry(way) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.count += 1;
                self.ways.insert(self.count, new.key().clone());
                *new.insert(self.count)
            }
        };
        let [a, b, c, d] = PREFIX;
        let ip = Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_bits() | u128::from(number);
        SocketAddr::new(Ipv6Addr::from_bits(ip).into(), PORT)
    }

    fn at(&self, address: SocketAddr) -> Option<Way> {
        let IpAddr::V6(ip) = address.ip() else { return None };
        self.ways.get(&(ip.to_bits() as u64)).cloned()
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relay({} ways)", self.ways().ways.len())
    }
}

impl AsyncUdpSocket for Relay {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(way) = self.ways().at(transmit.destination) else { return Ok(()) };
        let message = tunnel::encode_packet(Passage::Onward, &way.to, transmit.contents);
        if let (Some(over), Ok(message)) = (self.links.get(&way.over), message) {
            calls::pass(&over, message);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Poll::Ready(Some((addr, packet))) = arrived.poll_recv(cx) else { break };
            let len = packet.len().min(buffer.len());
            buffer[..len].copy_from_slice(&packet[..len]);
            *meta = RecvMeta { addr, len, stride: len, ..RecvMeta::default() };
            count += 1;
        }
        if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), PORT))
    }

    /// Packets that are too large for a message go as a stream, whole.
    fn may_fragment(&self) -> bool {
        false
    }
}

/// A relay can always be sent to: what does not fit is lost.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
