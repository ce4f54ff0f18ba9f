//! Chooses among the endpoints of one Service port in one address family, when a connection is made.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{AFFINITY_CLIENTS_MAX, DIAL_ATTEMPTS_MAX};

/// The endpoints of one port, and whose turn it is.
#[derive(Debug, Default)]
pub struct Balancer {
    /// In order of their addresses.
    endpoints: Vec<SocketAddr>,
    turn: AtomicUsize,
    /// How long a client keeps its endpoint (`sessionAffinity: ClientIP`).
    affinity: Option<Duration>,
    clients: Mutex<HashMap<IpAddr, Mine>>,
}

/// A client's endpoint.
#[derive(Clone, Copy, Debug)]
struct Mine {
    endpoint: SocketAddr,
    used: Instant,
}

impl Balancer {
    pub(crate) fn new(endpoints: Vec<SocketAddr>, affinity: Option<Duration>) -> Self {
        Self { endpoints, affinity, ..Self::default() }
    }

    /// The endpoints that get traffic.
    #[must_use]
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    /// Endpoints in the order to try them: the next in turn first, or the one that the client has; those that `reachable`
    /// does not count on come after all others.
    pub fn choose<'a>(
        &'a self,
        client: IpAddr,
        reachable: impl Fn(IpAddr) -> bool + 'a,
    ) -> impl Iterator<Item = SocketAddr> + 'a {
        let count = self.endpoints.len();
        let mine = self.of(client).filter(|index| reachable(self.endpoints[*index].ip()));
        let start = mine.unwrap_or_else(|| self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1));
        // Two rounds over all: a node may be gone with most of a Service's endpoints.
        let rounds = (0..2 * count).map(move |step| (step < count, self.endpoints[(start + step) % count]));
        let mut order = rounds
            .filter(move |(first, endpoint)| reachable(endpoint.ip()) == *first)
            .map(|(_, endpoint)| endpoint)
            .take(DIAL_ATTEMPTS_MAX)
            .peekable();
        if let Some(first) = order.peek() {
            self.remember(client, *first);
        }
        order
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, Mine>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of the endpoint that a client has and whose time is not over.
    fn of(&self, client: IpAddr) -> Option<usize> {
        let affinity = self.affinity?;
        let mine = self.clients().get(&client).copied().filter(|mine| mine.used.elapsed() < affinity)?;
        self.endpoints.binary_search(&mine.endpoint).ok()
    }

    fn remember(&self, client: IpAddr, endpoint: SocketAddr) {
        let Some(affinity) = self.affinity else { return };
        let mut clients = self.clients();
        if clients.len() >= AFFINITY_CLIENTS_MAX && !clients.contains_key(&client) {
            clients.retain(|_, mine| mine.used.elapsed() < affinity);
            if clients.len() >= AFFINITY_CLIENTS_MAX {
                return;
            }
        }
        clients.insert(client, Mine { endpoint, used: Instant::now() });
    }

    /// Goes on where `old` was, before its endpoints changed.
    pub(crate) fn go_on(&self, old: &Self) {
        self.turn.store(old.turn.load(Ordering::Relaxed), Ordering::Relaxed);
        if self.affinity.is_some() {
            self.clients().clone_from(&old.clients());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn balancer(count: u8, sticky: bool) -> Balancer {
        let endpoints = (0..count).map(|last| SocketAddr::from(([10, 42, 0, last], 80))).collect();
        Balancer::new(endpoints, sticky.then_some(Duration::from_secs(3600)))
    }

    #[test]
    fn every_endpoint_gets_its_turn() {
        let balancer = balancer(3, false);
        let client = IpAddr::from([10, 42, 1, 1]);
        let mut first = HashMap::new();
        for _ in 0..300 {
            let order: Vec<_> = balancer.choose(client, |_| true).collect();
            assert_eq!(order.iter().collect::<HashSet<_>>().len(), 3);
            *first.entry(order[0]).or_insert(0) += 1;
        }
        assert_eq!(first.values().copied().collect::<Vec<_>>(), [100, 100, 100]);
        assert_eq!(Balancer::default().choose(client, |_| true).count(), 0);
    }

    #[test]
    fn a_sticky_client_stays_while_its_endpoint_does_and_its_time_lasts() {
        let all = balancer(10, true);
        let clients: Vec<IpAddr> = (0..=255).map(|last| IpAddr::from([10, 42, 7, last])).collect();
        let first = |balancer: &Balancer, client: &IpAddr| balancer.choose(*client, |_| true).next().unwrap();
        let mine: Vec<SocketAddr> = clients.iter().map(|client| first(&all, client)).collect();
        assert_eq!(mine.iter().collect::<HashSet<_>>().len(), 10);
        // Endpoints come and go: only the clients of one that went move.
        for count in [9, 20] {
            let next = balancer(count, true);
            next.go_on(&all);
            for (client, mine) in clients.iter().zip(&mine) {
                let now = first(&next, client);
                assert!(now == *mine || !next.endpoints().contains(mine), "{client} moved from {mine} to {now}");
                assert_eq!(first(&next, client), now);
            }
        }
        // One that cannot be reached is left.
        let client = clients[0];
        let other = all.choose(client, |ip| ip != mine[0].ip()).next().unwrap();
        assert_ne!(other, mine[0]);
        assert_eq!(first(&all, &client), other);
        // Without time nobody stays.
        let short = Balancer::new(all.endpoints().to_vec(), Some(Duration::ZERO));
        let used: HashSet<SocketAddr> = (0..10).map(|_| first(&short, &client)).collect();
        assert_eq!(used.len(), 10);
    }

    #[test]
    fn clients_beyond_the_bound_are_served_and_not_remembered() {
        let balancer = balancer(3, true);
        for number in 0..AFFINITY_CLIENTS_MAX as u32 + 10 {
            let client = IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a2a_0000 + number));
            assert_eq!(balancer.choose(client, |_| true).count(), 3);
        }
        assert_eq!(balancer.clients().len(), AFFINITY_CLIENTS_MAX);
    }

    #[test]
    fn endpoints_out_of_reach_are_tried_last() {
        let client = IpAddr::from([10, 42, 1, 1]);
        let gone = |ip: IpAddr| ip != IpAddr::from([10, 42, 0, 1]);
        for sticky in [false, true] {
            let balancer = balancer(3, sticky);
            for _ in 0..6 {
                let order: Vec<_> = balancer.choose(client, gone).collect();
                assert_eq!((order.len(), order[2]), (3, balancer.endpoints[1]));
            }
        }
        // However many they are.
        let balancer = balancer(200, false);
        let order: Vec<_> = balancer.choose(client, |ip| ip == IpAddr::from([10, 42, 0, 150])).collect();
        assert_eq!((order.len(), order[0]), (DIAL_ATTEMPTS_MAX, balancer.endpoints[150]));
    }
}
