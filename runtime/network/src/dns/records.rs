//! Which records a name of the cluster has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{A, AAAA, ANY, CNAME, Found, PTR, Record, SRV, Zone};
use crate::names;
use crate::services::{Protocol, ServiceEntry, ServiceTable};

/// The records of one type under a complete name in lower case.
pub(super) fn find(name: &str, kind: u16, zone: &Zone<'_>) -> Found {
    if let Some(ip) = reverse(name) {
        return match names_of(ip, zone) {
            names if names.is_empty() => Found::NotOurs,
            names => Found::Records(if [PTR, ANY].contains(&kind) { names } else { Vec::new() }),
        };
    }
    let Some(inside) = name.strip_suffix(zone.domain) else { return Found::NotOurs };
    if inside.is_empty() {
        return Found::Records(Vec::new());
    }
    let Some(inside) = inside.strip_suffix('.') else { return Found::NotOurs };
    let labels: Vec<&str> = inside.split('.').collect();
    match *labels.as_slice() {
        ["svc" | "pod"] => Found::Records(Vec::new()),
        [namespace, "svc"] if zone.services.has_namespace(namespace) => Found::Records(Vec::new()),
        [service, namespace, "svc"] => match zone.services.service(namespace, service) {
            None => Found::Nothing,
            Some(entry) => match &entry.service().external_name {
                Some(target) => Found::Records(alias(target, kind)),
                None => addresses(name, kind, zone),
            },
        },
        [port, protocol, service, namespace, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
            let Some(entry) = zone.services.service(namespace, service) else { return Found::Nothing };
            let base = format!("{service}.{namespace}.svc.{}", zone.domain);
            let found = ports(entry, &port[1..], &protocol[1..], &base);
            let kinds = if [SRV, ANY].contains(&kind) { found.clone() } else { Vec::new() };
            if found.is_empty() { Found::Nothing } else { Found::Records(kinds) }
        }
        _ => addresses(name, kind, zone),
    }
}

fn alias(target: &str, kind: u16) -> Vec<Record> {
    let named = [A, AAAA, CNAME, ANY].contains(&kind);
    named.then(|| Record::Cname(target.trim_end_matches('.').to_ascii_lowercase())).into_iter().collect()
}

fn addresses(name: &str, kind: u16, zone: &Zone<'_>) -> Found {
    let found = names::answer(name, zone.domain, zone.services);
    if found.is_empty() {
        // A Service without endpoints is a name all the same.
        return if is_service(name, zone) { Found::Records(Vec::new()) } else { Found::Nothing };
    }
    let records = found.into_iter().filter_map(|ip| match ip {
        IpAddr::V4(ip) if [A, ANY].contains(&kind) => Some(Record::A(ip)),
        IpAddr::V6(ip) if [AAAA, ANY].contains(&kind) => Some(Record::Aaaa(ip)),
        _ => None,
    });
    Found::Records(records.collect())
}

fn is_service(name: &str, zone: &Zone<'_>) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    let &[service, namespace, "svc", ..] = labels.as_slice() else { return false };
    zone.services.service(namespace, service).is_some()
}

/// SRV records of one named port: the Service itself, or for a headless one each endpoint under a name of its own.
fn ports(entry: &ServiceEntry, port: &str, protocol: &str, base: &str) -> Vec<Record> {
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Vec::new(),
    };
    let service = entry.service();
    let named = |candidate: &&crate::services::ServicePort| {
        candidate.name.eq_ignore_ascii_case(port) && candidate.protocol == protocol
    };
    let Some(named) = service.ports.iter().find(named) else { return Vec::new() };
    if !service.cluster_ips.is_empty() {
        return vec![Record::Srv { port: named.port, target: base.to_owned() }];
    }
    let mut records = Vec::new();
    for address in entry.endpoints(&named.name, protocol) {
        let host = entry.published().iter().find(|endpoint| endpoint.address == address.ip());
        let host = host.and_then(|endpoint| endpoint.hostname.clone()).unwrap_or_else(|| names::dash(address.ip()));
        let record = Record::Srv { port: address.port(), target: format!("{host}.{base}") };
        if !records.contains(&record) {
            records.push(record);
        }
    }
    records
}

/// The names of an address: of a Service, or of a headless Service's endpoints.
fn names_of(ip: IpAddr, zone: &Zone<'_>) -> Vec<Record> {
    let services: &ServiceTable = zone.services;
    let mut names = Vec::new();
    for entry in services.entries() {
        let service = entry.service();
        let base = format!("{}.{}.svc.{}", service.name, service.namespace, zone.domain);
        if service.cluster_ips.contains(&ip) {
            names.push(base);
        } else if service.cluster_ips.is_empty() {
            let here = entry.published().iter().filter(|endpoint| endpoint.address == ip);
            let host = |hostname: &Option<String>| hostname.clone().unwrap_or_else(|| names::dash(ip));
            names.extend(here.map(|endpoint| format!("{}.{base}", host(&endpoint.hostname))));
        }
    }
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(Record::Ptr).collect()
}

/// The address that a reverse name stands for (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let labels: Vec<&str> = digits.split('.').collect();
        if labels.len() != octets.len() {
            return None;
        }
        for (octet, label) in octets.iter_mut().zip(labels.iter().rev()) {
            *octet = label.parse().ok()?;
        }
        return Some(Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let labels: Vec<&str> = digits.split('.').collect();
    if labels.len() != 32 {
        return None;
    }
    let mut bits: u128 = 0;
    for label in labels.iter().rev() {
        let digit = if label.len() == 1 { u128::from_str_radix(label, 16).ok()? } else { return None };
        bits = bits << 4 | digit;
    }
    Some(Ipv6Addr::from_bits(bits).into())
}
