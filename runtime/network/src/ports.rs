//! The ports of one pod in one protocol: who is bound where, and who answers at an address.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::limits::EPHEMERAL_PORTS;

/// Which of a pod's addresses a binding answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Every address of both families: an HTTP component.
    All,
    /// `0.0.0.0`.
    Any4,
    /// `::`, which in WASI never includes IPv4.
    Any6,
    /// One address, which may be a loopback one.
    Only(IpAddr),
}

impl Scope {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip {
            ip if !ip.is_unspecified() => Self::Only(ip),
            IpAddr::V4(_) => Self::Any4,
            IpAddr::V6(_) => Self::Any6,
        }
    }

    fn contains(self, ip: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Any4 => ip.is_ipv4(),
            Self::Any6 => ip.is_ipv6(),
            Self::Only(only) => only == ip,
        }
    }

    fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => true,
            (Self::Any4, Self::Any4) | (Self::Any6, Self::Any6) => true,
            (Self::Any4, Self::Any6) | (Self::Any6, Self::Any4) => false,
            (Self::Only(ip), scope) | (scope, Self::Only(ip)) => scope.contains(ip),
        }
    }
}

/// Bound ports. At most one binding answers for an address and port.
#[derive(Debug)]
pub(crate) struct Ports<T> {
    bound: HashMap<u16, Vec<(Scope, T)>>,
    count: usize,
    next: u16,
}

impl<T> Default for Ports<T> {
    fn default() -> Self {
        Self { bound: HashMap::new(), count: 0, next: *EPHEMERAL_PORTS.start() }
    }
}

impl<T> Ports<T> {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Binds `port`, or a free one for 0, and returns which; `None` when taken.
    pub(crate) fn bind(&mut self, scope: Scope, port: u16, bound: T) -> Option<u16> {
        let port = if port == 0 { self.free(scope)? } else { port };
        if self.is_taken(scope, port) {
            return None;
        }
        self.bound.entry(port).or_default().push((scope, bound));
        self.count += 1;
        Some(port)
    }

    fn is_taken(&self, scope: Scope, port: u16) -> bool {
        self.bound.get(&port).is_some_and(|bound| bound.iter().any(|(other, _)| scope.overlaps(*other)))
    }

    fn free(&mut self, scope: Scope) -> Option<u16> {
        for _ in EPHEMERAL_PORTS {
            let port = self.ephemeral();
            if !self.is_taken(scope, port) {
                return Some(port);
            }
        }
        None
    }

    /// The next port for an outgoing connection. It only tells connections apart, so nothing is reserved.
    pub(crate) fn ephemeral(&mut self) -> u16 {
        let port = self.next;
        self.next = if port == *EPHEMERAL_PORTS.end() { *EPHEMERAL_PORTS.start() } else { port + 1 };
        port
    }

    pub(crate) fn release(&mut self, scope: Scope, port: u16) -> Option<T> {
        let bound = self.bound.get_mut(&port)?;
        let index = bound.iter().position(|(other, _)| *other == scope)?;
        let (_, released) = bound.swap_remove(index);
        if bound.is_empty() {
            self.bound.remove(&port);
        }
        self.count -= 1;
        Some(released)
    }

    /// Who answers at an address and port.
    pub(crate) fn find(&self, ip: IpAddr, port: u16) -> Option<&T> {
        let bound = self.bound.get(&port)?;
        bound.iter().find(|(scope, _)| scope.contains(ip)).map(|(_, bound)| bound)
    }

    /// Releases everything.
    pub(crate) fn clear(&mut self) -> Vec<T> {
        self.count = 0;
        self.bound.drain().flat_map(|(_, bound)| bound).map(|(_, bound)| bound).collect()
    }
}
