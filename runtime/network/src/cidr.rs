//! Blocks of addresses in CIDR notation (RFC 4632).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A block of addresses, `10.0.0.0/8` or `fd00::/8`. Bits behind the prefix are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u32,
}

/// The text is not a block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a block of addresses in CIDR notation")]
pub struct NotACidr;

impl FromStr for Cidr {
    type Err = NotACidr;

    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let (address, prefix) = text.split_once('/').ok_or(NotACidr)?;
        let address: IpAddr = address.parse().map_err(|_| NotACidr)?;
        let prefix = prefix.parse().map_err(|_| NotACidr)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix <= longest { Ok(Self { address, prefix }) } else { Err(NotACidr) }
    }
}

impl Cidr {
    /// Whether the address lies in the block. The families are two worlds: `::/0` has no IPv4 address.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let differs = own.to_bits() ^ ip.to_bits();
                differs.checked_shr(32 - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let differs = own.to_bits() ^ ip.to_bits();
                differs.checked_shr(128 - self.prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Cidr {
    /// The block's first address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !self.host_v4()).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !self.host_v6()).into(),
        }
    }

    /// The block's last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() | self.host_v4()).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() | self.host_v6()).into(),
        }
    }

    /// The bits behind the prefix.
    fn host_v4(&self) -> u32 {
        u32::MAX.checked_shr(self.prefix).unwrap_or(0)
    }

    fn host_v6(&self) -> u128 {
        u128::MAX.checked_shr(self.prefix).unwrap_or(0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_contains_its_addresses() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.42.0.9/24", "10.42.0.1", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("1.2.3.4/32", "1.2.3.4", true),
            ("1.2.3.4/32", "1.2.3.5", false),
            ("::/0", "fd00::1", true),
            ("fd42::/48", "fd42:0:0:1::1", true),
            ("fd42::/48", "fd42:0:1::1", false),
            ("::1/128", "::1", true),
        ];
        for (block, ip, expected) in cases {
            assert_eq!(block.parse::<Cidr>().unwrap().contains(ip.parse().unwrap()), expected, "{block} {ip}");
        }
        for (block, first, last) in [
            ("10.42.16.9/20", "10.42.16.0", "10.42.31.255"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("1.2.3.4/32", "1.2.3.4", "1.2.3.4"),
            ("fd42::9/64", "fd42::", "fd42::ffff:ffff:ffff:ffff"),
        ] {
            let block: Cidr = block.parse().unwrap();
            assert_eq!((block.first(), block.last()), (first.parse().unwrap(), last.parse().unwrap()), "{block}");
        }
        for text in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1", "10.0/8"] {
            assert_eq!(text.parse::<Cidr>(), Err(NotACidr), "{text}");
        }
    }
}
