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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::random::Random;

    fn addresses() -> Vec<IpAddr> {
        ["10.42.0.2", "127.0.0.1", "127.0.0.2", "fd42::2", "::1"].iter().map(|ip| ip.parse().unwrap()).collect()
    }

    /// Against a model that knows nothing of scopes: a set of (address, port) pairs.
    #[test]
    fn one_binding_answers_for_an_address() {
        let addresses = addresses();
        let mut scopes = vec![Scope::All, Scope::Any4, Scope::Any6];
        scopes.extend(addresses.iter().map(|ip| Scope::Only(*ip)));
        for seed in 1..100 {
            let mut random = Random(seed);
            let mut ports = Ports::default();
            let mut model: HashMap<(IpAddr, u16), usize> = HashMap::new();
            let mut bound: Vec<(Scope, u16, usize)> = Vec::new();
            for number in 0..200 {
                let (scope, port) = (scopes[random.below(scopes.len())], 1 + random.below(3) as u16);
                let covered: Vec<_> =
                    addresses.iter().filter(|ip| scope.contains(**ip)).map(|ip| (*ip, port)).collect();
                if random.below(2) == 0 {
                    let free = covered.iter().all(|place| !model.contains_key(place));
                    assert_eq!(ports.bind(scope, port, number), free.then_some(port), "seed {seed}");
                    if free {
                        model.extend(covered.iter().map(|place| (*place, number)));
                        bound.push((scope, port, number));
                    }
                } else if !bound.is_empty() {
                    let (scope, port, number) = bound.swap_remove(random.below(bound.len()));
                    assert_eq!(ports.release(scope, port), Some(number));
                    model.retain(|_, owner| *owner != number);
                }
                assert_eq!(ports.count(), bound.len());
                for ip in &addresses {
                    for port in 1..=3 {
                        assert_eq!(ports.find(*ip, port), model.get(&(*ip, port)), "seed {seed}");
                    }
                }
            }
            assert_eq!(ports.clear().len(), bound.len());
            assert!(ports.find(addresses[0], 1).is_none() && ports.count() == 0);
        }
    }

    #[test]
    fn free_ports_are_found_until_there_are_none() {
        let mut ports = Ports::default();
        ports.bind(Scope::Any4, *EPHEMERAL_PORTS.start(), 0).unwrap();
        let mut seen = HashSet::new();
        while let Some(port) = ports.bind(Scope::Any4, 0, 1) {
            assert!(EPHEMERAL_PORTS.contains(&port) && seen.insert(port));
        }
        assert_eq!(seen.len(), EPHEMERAL_PORTS.count() - 1);
        assert!(ports.bind(Scope::Any6, 0, 1).is_some());
    }
}
