//! Which addresses outside the cluster a pod may reach at all, before any policy is asked. Pure.
//!
//! Everything that leads back to this machine, to its links or to a cloud's metadata is refused, in every way an address
//! can be written. Names are judged by what they resolve to, never by their spelling. Private ranges are allowed, as
//! Kubernetes allows them: policies are for that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cidr::Cidr;

/// Why an address outside is refused. The text is a sentence for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// 127.0.0.0/8, ::1.
    #[error("the host's loopback cannot be reached from pods")]
    Loopback,
    /// An address of this machine.
    #[error("the host's own addresses cannot be reached from pods")]
    Host,
    /// 169.254.0.0/16, fe80::/10: there the host's neighbours and most metadata services are.
    #[error("link-local addresses cannot be reached from pods")]
    LinkLocal,
    /// An address at which a cloud hands out its machines' credentials.
    #[error("a cloud's metadata cannot be reached from pods")]
    Metadata,
    /// In the cluster's own ranges, and neither a pod nor a Service.
    #[error("the address is the cluster's, and no pod and no Service has it")]
    Cluster,
    /// Unspecified, multicast, broadcast, reserved or outdated.
    #[error("not an address one can connect to")]
    NotAnAddress,
    /// An IPv4 address wrapped in IPv6 by a method that is not used any more.
    #[error("an IPv4 address inside an outdated form of IPv6 address")]
    Tunnel,
}

/// The prefix that stands for IPv4 behind a NAT64 (RFC 6052); the last 32 bits are the IPv4 address.
const NAT64: u128 = 0x0064_ff9b << 96;

/// The IPv4 address that packets for `ip` end up at, when a translator stands between.
#[must_use]
pub fn translated(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return None };
    let (high, low) = (v6.to_bits() >> 32 << 32, v6.to_bits() as u32);
    (high == NAT64).then(|| Ipv4Addr::from_bits(low))
}

/// Whether a pod may reach an address that no pod and no Service has. `is_host` says whether it is one of this machine.
///
/// # Errors
/// Why not.
pub fn judge(ip: IpAddr, cluster: &[Cidr], is_host: impl Fn(IpAddr) -> bool) -> Result<(), Forbidden> {
    let ip = ip.to_canonical();
    if cluster.iter().any(|range| range.contains(ip)) {
        return Err(Forbidden::Cluster);
    }
    match ip {
        IpAddr::V4(v4) => judge_v4(v4)?,
        IpAddr::V6(v6) => judge_v6(v6)?,
    }
    if is_host(ip) {
        return Err(Forbidden::Host);
    }
    match translated(ip) {
        // RFC 6052 §3.1: the prefix must not stand for addresses that are not global.
        Some(v4) if v4.is_private() => Err(Forbidden::Tunnel),
        Some(v4) => judge(v4.into(), cluster, is_host),
        None => Ok(()),
    }
}

fn judge_v4(ip: Ipv4Addr) -> Result<(), Forbidden> {
    match ip.octets() {
        [127, ..] => Err(Forbidden::Loopback),
        [169, 254, ..] => Err(Forbidden::LinkLocal),
        // Alibaba; Azure; Oracle in the block of RFC 6890 for protocol assignments.
        [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, _] => Err(Forbidden::Metadata),
        // "This network", multicast, reserved and broadcast (RFC 6890).
        [0 | 224..=255, ..] => Err(Forbidden::NotAnAddress),
        _ => Ok(()),
    }
}

fn judge_v6(ip: Ipv6Addr) -> Result<(), Forbidden> {
    let segments = ip.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] => Err(Forbidden::Loopback),
        [0, 0, 0, 0, 0, 0, 0, 0] => Err(Forbidden::NotAnAddress),
        [0xfe80..=0xfebf, ..] => Err(Forbidden::LinkLocal),
        // AWS, Google.
        [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, ..] => Err(Forbidden::Metadata),
        // IPv4-compatible, IPv4-translated, 6to4, Teredo; ISATAP under any prefix.
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x2002, ..] | [0x2001, 0, ..] => Err(Forbidden::Tunnel),
        [_, _, _, _, 0 | 0x0200, 0x5efe, ..] => Err(Forbidden::Tunnel),
        // Documentation, and identifiers that look like addresses (RFC 4843, RFC 7343).
        [0x2001, 0x0db8, ..] | [0x2001, 0x0010..=0x002f, ..] => Err(Forbidden::NotAnAddress),
        // Global unicast, unique local, NAT64. Nothing else is in use for hosts.
        [0x2000..=0x3fff | 0xfc00..=0xfdff, ..] | [0x0064, 0xff9b, 0, 0, 0, 0, ..] => Ok(()),
        _ => Err(Forbidden::NotAnAddress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cluster's ranges, and a host with 192.168.7.7, 203.0.113.7 and 2600::7.
    fn said(text: &str) -> Result<(), Forbidden> {
        let cluster: Vec<Cidr> =
            ["10.42.0.0/16", "10.43.0.0/16", "fd42::/48", "fd43::/48"].iter().map(|c| c.parse().unwrap()).collect();
        let host: Vec<IpAddr> =
            ["192.168.7.7", "203.0.113.7", "2600::7"].iter().map(|ip| ip.parse().unwrap()).collect();
        judge(text.parse().unwrap(), &cluster, |ip| host.contains(&ip))
    }

    #[test]
    fn no_spelling_leads_back_here() {
        let refused = "127.0.0.1 127.0.0.53 127.1.2.3 127.255.255.255 ::1 0:0:0:0:0:0:0:1 ::ffff:127.0.0.1 \
            ::ffff:7f00:1 ::ffff:7f00:0001 ::127.0.0.1 ::7f00:1 ::ffff:0:127.0.0.1 ::ffff:0:7f00:1 64:ff9b::127.0.0.1 \
            64:ff9b::7f00:1 64:ff9b:1::127.0.0.1 64:ff9b:1::7f00:1 2002:7f00:1:: 2002:7f00:0001::1 \
            2001:0:7f00:1:: 2001:0:4136:e378:8000:63bf:80ff:fffe fe80::5efe:127.0.0.1 2600::5efe:7f00:1 \
            2600::200:5efe:7f00:1 0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0 64:ff9b::0.0.0.0 169.254.169.254 169.254.0.1 \
            169.254.170.2 ::ffff:169.254.169.254 ::ffff:a9fe:a9fe ::169.254.169.254 ::a9fe:a9fe ::ffff:0:a9fe:a9fe \
            64:ff9b::169.254.169.254 64:ff9b::a9fe:a9fe 64:ff9b:1::a9fe:a9fe 2002:a9fe:a9fe:: 2002:a9fe:a9fe::1 \
            2001:0:a9fe:a9fe:: 2001::5601:5601 fe80::a9fe:a9fe fe80::1 febf::1 fd00:ec2::254 fd00:ec2:0::254 \
            fd20:ce::254 100.100.100.200 ::ffff:100.100.100.200 64:ff9b::6464:64c8 168.63.129.16 64:ff9b::a83f:8110 \
            192.0.0.192 64:ff9b::c000:c0 192.168.7.7 ::ffff:192.168.7.7 64:ff9b::c0a8:707 203.0.113.7 \
            ::ffff:203.0.113.7 64:ff9b::cb00:7107 2600::7 10.42.0.2 10.43.0.1 ::ffff:10.43.0.1 64:ff9b::a2b:1 \
            64:ff9b::10.42.0.2 fd42::2 fd43::1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 \
            64:ff9b::ffff:ffff ff02::1 ff0e::1 fec0::1 100::1 2001:db8::1 2001:10::1 2001:20::1 5f00::1 4000::1 \
            64:ff9b::10.0.0.1 64:ff9b::192.168.0.1 0:0:0:0:0:ffff:7f00:1 0000:0000:0000:0000:0000:0000:0000:0001 \
            0:0::1 ::0:1 ::ffff:0:0 ::ffff:127.1.2.3 ::ffff:10.42.0.1 0:0:0:0:0:ffff:a9fe:a9fe \
            2001:0:7f00:1:0:0:80ff:fffe 2002:a0a:0a0a:: 2002:c0a8:707::c0a8:707 2600::0:5efe:a9fe:a9fe \
            2600::200:5efe:a9fe:a9fe fd42:0:0:1::1 fd43::a fd43:0:0:0:0:0:0:1 64:ff9b:0:0:0:0:7f00:1 \
            64:ff9b::ff00:1 fe80::a00:1 fe80::5efe:10.0.0.1 febf:ffff::1 fd00:0ec2:0:0:0:0:0:254 ff05::1:3 \
            ff02::fb 2001:db8:: 2001:002f::1";
        let spellings: Vec<&str> = refused.split_whitespace().collect();
        assert!(spellings.len() >= 60, "{}", spellings.len());
        for text in spellings {
            assert!(said(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_reason_is_the_right_one() {
        let cases = [
            ("127.0.0.1", Forbidden::Loopback),
            ("::ffff:127.0.0.1", Forbidden::Loopback),
            ("64:ff9b::7f00:1", Forbidden::Loopback),
            ("64:ff9b::a9fe:a9fe", Forbidden::LinkLocal),
            ("169.254.169.254", Forbidden::LinkLocal),
            ("fd00:ec2::254", Forbidden::Metadata),
            ("10.42.9.9", Forbidden::Cluster),
            ("2002:7f00:1::", Forbidden::Tunnel),
            ("203.0.113.7", Forbidden::Host),
            ("64:ff9b::cb00:7107", Forbidden::Host),
            ("255.255.255.255", Forbidden::NotAnAddress),
        ];
        for (text, expected) in cases {
            assert_eq!(said(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn the_rest_of_the_world_and_private_networks_are_reached() {
        let allowed = "1.1.1.1 ::ffff:1.1.1.1 64:ff9b::101:101 2606:4700::1111 10.0.0.1 172.16.0.1 172.31.9.9 \
            192.168.0.1 fd12::1 fc00::1 100.64.0.1 203.0.113.8 126.255.255.255 128.0.0.1";
        for text in allowed.split_whitespace() {
            assert_eq!(said(text), Ok(()), "{text}");
        }
    }
}
