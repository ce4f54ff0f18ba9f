//! Which addresses of the node's pod CIDR are free. Pure.
//!
//! The search goes round: an address that was given back is given out again only after all others, so that a client
//! with an old address does not reach a stranger at once. Refuses the network's own address, the node's (`.1`) and the
//! broadcast address.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

/// The addresses of one IPv4 pod CIDR.
#[derive(Debug)]
pub(crate) struct Addresses {
    base: u32,
    /// Offsets `2..end` may be given out.
    end: u32,
    next: u32,
    taken: HashSet<u32>,
}

impl Addresses {
    /// Reads `10.42.0.0/24`. `None` for anything else, and for a network without room for a pod.
    pub(crate) fn parse(cidr: &str) -> Option<Self> {
        let (base, length) = cidr.split_once('/')?;
        let (base, length): (Ipv4Addr, u32) = (base.parse().ok()?, length.parse().ok()?);
        if !(1..=29).contains(&length) {
            return None;
        }
        let size = 1_u32 << (32 - length);
        Some(Self { base: u32::from(base) & !(size - 1), end: size - 1, next: 2, taken: HashSet::new() })
    }

    /// How many pods can have an address at once.
    pub(crate) fn capacity(&self) -> u32 {
        self.end - 2
    }

    /// The address wanted if it is free, else the next free one; `None` when all are taken.
    pub(crate) fn take(&mut self, wanted: Option<IpAddr>) -> Option<IpAddr> {
        let wanted = wanted.and_then(|address| self.offset(address)).filter(|offset| !self.taken.contains(offset));
        let offset = match wanted {
            Some(offset) => offset,
            None => (self.next..self.end).chain(2..self.next).find(|offset| !self.taken.contains(offset))?,
        };
        self.taken.insert(offset);
        if wanted.is_none() {
            self.next = if offset + 1 >= self.end { 2 } else { offset + 1 };
        }
        Some(IpAddr::V4(Ipv4Addr::from(self.base + offset)))
    }

    /// Gives an address back.
    pub(crate) fn give_back(&mut self, address: IpAddr) {
        if let Some(offset) = self.offset(address) {
            self.taken.remove(&offset);
        }
    }

    fn offset(&self, address: IpAddr) -> Option<u32> {
        let IpAddr::V4(address) = address else { return None };
        let offset = u32::from(address).checked_sub(self.base)?;
        (2..self.end).contains(&offset).then_some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_given_back_is_the_last_to_be_given_out_again() {
        let mut addresses = Addresses::parse("10.42.3.0/29").unwrap();
        let all: Vec<IpAddr> = std::iter::from_fn(|| addresses.take(None)).collect();
        let expected: Vec<IpAddr> = (2..7).map(|n| IpAddr::from([10, 42, 3, n])).collect();
        assert_eq!((all, addresses.capacity()), (expected.clone(), 5));
        addresses.give_back(expected[1]);
        addresses.give_back(expected[0]);
        assert_eq!(addresses.take(None), Some(expected[0]));
        addresses.give_back(expected[0]);
        assert_eq!(addresses.take(None), Some(expected[1]), "not the one that has just been given back");
    }

    #[test]
    fn a_pod_that_is_known_keeps_its_address_where_it_can() {
        let mut addresses = Addresses::parse("10.42.0.0/24").unwrap();
        let wanted = IpAddr::from([10, 42, 0, 77]);
        assert_eq!(addresses.take(Some(wanted)), Some(wanted));
        assert_eq!(addresses.take(Some(wanted)), Some(IpAddr::from([10, 42, 0, 2])));
        for foreign in [[10, 42, 0, 1], [10, 42, 0, 255], [10, 42, 1, 9]] {
            assert_ne!(addresses.take(Some(IpAddr::from(foreign))), Some(IpAddr::from(foreign)));
        }
        for bad in ["10.42.0.0", "10.42.0.0/31", "fd42::/64", "x/24"] {
            assert!(Addresses::parse(bad).is_none(), "{bad}");
        }
    }
}
