//! Which addresses of the node's pod CIDRs are free. Pure.
//!
//! A pod has one offset in all of them: with `10.42.0.0/20` and `fd42::/64` the pod at 10.42.0.7 is also fd42::7.
//!
//! The search goes round: an address that was given back is given out again only after all others, so that a client
//! with an old address does not reach a stranger at once. Refuses the network's own address, the node's (`.1`) and the
//! broadcast address.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of an IPv4 pod CIDR, and of an IPv6 one beside it.
#[derive(Debug)]
pub(crate) struct Addresses {
    base: u32,
    base_v6: Option<u128>,
    /// Offsets `2..end` may be given out.
    end: u32,
    next: u32,
    taken: HashSet<u32>,
}

impl Addresses {
    /// Reads the CIDRs of a node, of which one must be IPv4: `10.42.0.0/24`, `fd42::/64`. `None` for anything else, and
    /// for a network without room for a pod.
    pub(crate) fn parse(cidrs: &[String]) -> Option<Self> {
        let v4 = cidrs.iter().find_map(|cidr| Self::parse_v4(cidr))?;
        Some(Self { base_v6: cidrs.iter().find_map(|cidr| parse_v6(cidr)), ..v4 })
    }

    fn parse_v4(cidr: &str) -> Option<Self> {
        let (base, length) = cidr.split_once('/')?;
        let (base, length): (Ipv4Addr, u32) = (base.parse().ok()?, length.parse().ok()?);
        if !(1..=29).contains(&length) {
            return None;
        }
        let size = 1_u32 << (32 - length);
        let base = u32::from(base) & !(size - 1);
        Some(Self { base, base_v6: None, end: size - 1, next: 2, taken: HashSet::new() })
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

    /// The other address of a pod that has this one.
    pub(crate) fn beside(&self, address: IpAddr) -> Option<IpAddr> {
        let offset = self.offset(address)?;
        self.base_v6.map(|base| IpAddr::V6(Ipv6Addr::from_bits(base + u128::from(offset))))
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

/// The first address of an IPv6 network that has room for all of an IPv4 one.
fn parse_v6(cidr: &str) -> Option<u128> {
    let (base, length) = cidr.split_once('/')?;
    let (base, length): (Ipv6Addr, u32) = (base.parse().ok()?, length.parse().ok()?);
    (1..=96).contains(&length).then(|| base.to_bits() & !(u128::MAX >> length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Addresses> {
        let cidrs: Vec<String> = text.split(' ').map(str::to_owned).collect();
        Addresses::parse(&cidrs)
    }

    #[test]
    fn an_address_given_back_is_the_last_to_be_given_out_again() {
        let mut addresses = parse("10.42.3.0/29").unwrap();
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
        let mut addresses = parse("10.42.0.0/24").unwrap();
        let wanted = IpAddr::from([10, 42, 0, 77]);
        assert_eq!(addresses.take(Some(wanted)), Some(wanted));
        assert_eq!(addresses.take(Some(wanted)), Some(IpAddr::from([10, 42, 0, 2])));
        for foreign in [[10, 42, 0, 1], [10, 42, 0, 255], [10, 42, 1, 9]] {
            assert_ne!(addresses.take(Some(IpAddr::from(foreign))), Some(IpAddr::from(foreign)));
        }
        for bad in ["10.42.0.0", "10.42.0.0/31", "fd42::/64", "x/24"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_pod_has_the_same_place_in_both_families() {
        let mut addresses = parse("10.42.16.0/20 fd42:0:0:1::/64").unwrap();
        let first = addresses.take(None).unwrap();
        assert_eq!((first, addresses.beside(first)), (IpAddr::from([10, 42, 16, 2]), "fd42:0:0:1::2".parse().ok()));
        let last: IpAddr = "10.42.31.254".parse().unwrap();
        assert_eq!(addresses.beside(last), "fd42:0:0:1::ffe".parse().ok());
        assert_eq!(addresses.beside("10.42.32.2".parse().unwrap()), None);
        for single in ["10.42.16.0/20", "10.42.16.0/20 fd42::/127", "10.42.16.0/20 what"] {
            assert_eq!(parse(single).unwrap().beside(first), None, "{single}");
        }
    }
}
