//! Kubernetes' IP and CIDR libraries. Addresses are written as Go's `netip` takes them: no leading zeros, no zones, no
//! IPv4 in IPv6.

use std::net::IpAddr;

use super::{Arg, BOOL, Failure, Function, Gives, INT, S, Val, fail, global, member, text};
use crate::cel::value::Cidr;

const A: Arg = Arg::Is("net.IP");
const C: Arg = Arg::Is("net.CIDR");
const IP: Gives = Gives::Is("net.IP");
const CIDR: Gives = Gives::Is("net.CIDR");

pub(super) const ROWS: &[Function] = &[
    global("ip", &[S], IP, |_, args| Ok(Val::Ip(parse(text(args, 0))?))),
    global("isIP", &[S], BOOL, |_, args| Ok(Val::Bool(parse(text(args, 0)).is_ok()))),
    global("ip.isCanonical", &[S], BOOL, |_, args| Ok(Val::Bool(parse(text(args, 0))?.to_string() == text(args, 0)))),
    member("family", &[A], INT, |_, args| Ok(Val::Int(if address(args, 0)?.is_ipv4() { 4 } else { 6 }))),
    member("isUnspecified", &[A], BOOL, |_, args| Ok(Val::Bool(address(args, 0)?.is_unspecified()))),
    member("isLoopback", &[A], BOOL, |_, args| Ok(Val::Bool(address(args, 0)?.is_loopback()))),
    member("isLinkLocalMulticast", &[A], BOOL, |_, args| Ok(Val::Bool(is_link_local_multicast(address(args, 0)?)))),
    member("isLinkLocalUnicast", &[A], BOOL, |_, args| Ok(Val::Bool(is_link_local(address(args, 0)?)))),
    member("isGlobalUnicast", &[A], BOOL, |_, args| {
        let address = address(args, 0)?;
        let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        let other = address.is_unspecified() || address.is_loopback() || address.is_multicast();
        Ok(Val::Bool(!(other || broadcast || is_link_local(address))))
    }),
    global("cidr", &[S], CIDR, |_, args| Ok(Val::Cidr(parse_network(text(args, 0))?))),
    global("isCIDR", &[S], BOOL, |_, args| Ok(Val::Bool(parse_network(text(args, 0)).is_ok()))),
    member("containsIP", &[C, A], BOOL, |_, args| Ok(Val::Bool(contains(network(args, 0)?, address(args, 1)?)))),
    member("containsIP", &[C, S], BOOL, |_, args| Ok(Val::Bool(contains(network(args, 0)?, parse(text(args, 1))?)))),
    member("containsCIDR", &[C, C], BOOL, |_, args| Ok(Val::Bool(holds(network(args, 0)?, network(args, 1)?)))),
    member("containsCIDR", &[C, S], BOOL, |_, args| {
        Ok(Val::Bool(holds(network(args, 0)?, parse_network(text(args, 1))?)))
    }),
    member("ip", &[C], IP, |_, args| Ok(Val::Ip(network(args, 0)?.address))),
    member("masked", &[C], CIDR, |_, args| {
        let network = network(args, 0)?;
        Ok(Val::Cidr(Cidr { address: masked(network.address, network.length), ..network }))
    }),
    member("prefixLength", &[C], INT, |_, args| Ok(Val::Int(i64::from(network(args, 0)?.length)))),
];

fn parse(text: &str) -> Result<IpAddr, Failure> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            fail(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Ok(address) => Ok(address),
        Err(_) => fail(format!("IP Address {text:?} parse error during conversion from string: invalid address")),
    }
}

fn parse_network(text: &str) -> Result<Cidr, Failure> {
    let wrong = || fail(format!("network address parse error during conversion from string: {text:?}"));
    let Some((address, length)) = text.split_once('/') else { return wrong() };
    let (Ok(address), Ok(length)) = (parse(address), length.parse::<u8>()) else { return wrong() };
    let most = if address.is_ipv4() { 32 } else { 128 };
    if length > most || text.ends_with(&format!("/0{length}")) && length > 0 {
        return wrong();
    }
    Ok(Cidr { address, length })
}

fn address(args: &[Val<'_>], at: usize) -> Result<IpAddr, Failure> {
    match args.get(at) {
        Some(Val::Ip(address)) => Ok(*address),
        _ => fail("no such overload"),
    }
}

fn network(args: &[Val<'_>], at: usize) -> Result<Cidr, Failure> {
    match args.get(at) {
        Some(Val::Cidr(network)) => Ok(*network),
        _ => fail("no such overload"),
    }
}

/// The address with all bits behind the prefix cleared.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
            IpAddr::from((u32::from(address) & mask).to_be_bytes())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0);
            IpAddr::from((u128::from(address) & mask).to_be_bytes())
        }
    }
}

fn contains(network: Cidr, address: IpAddr) -> bool {
    network.address.is_ipv4() == address.is_ipv4()
        && masked(network.address, network.length) == masked(address, network.length)
}

fn holds(network: Cidr, other: Cidr) -> bool {
    network.length <= other.length && contains(network, other.address)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    }
}
