//! Questions as resolvers ask them, answers as they read them, and bytes that are neither.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::random::Random;
use crate::services::{Endpoint, EndpointSlice, Protocol, Service, ServicePort};

fn table() -> ServiceTable {
    let port =
        |name: &str, protocol, port| ServicePort { name: name.into(), protocol, port, node_port: None, h2c: false };
    let web = Service {
        namespace: "shop".into(),
        name: "web".into(),
        cluster_ips: vec!["10.43.0.5".parse().unwrap(), "fd43::5".parse().unwrap()],
        ports: vec![port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)],
        affinity: Some(Duration::from_secs(1)),
        ..Service::default()
    };
    let db = Service {
        namespace: "shop".into(),
        name: "db".into(),
        ports: vec![port("sql", Protocol::Tcp, 5432)],
        ..Service::default()
    };
    let empty = Service { namespace: "shop".into(), name: "empty".into(), ..Service::default() };
    let alias = Service {
        namespace: "shop".into(),
        name: "alias".into(),
        external_name: Some("Example.com.".into()),
        ..Service::default()
    };
    let endpoint = |ip: &str, hostname: Option<&str>| Endpoint {
        hostname: hostname.map(str::to_owned),
        ..Endpoint::ready_at(ip.parse().unwrap())
    };
    let slice = EndpointSlice {
        namespace: "shop".into(),
        service: "db".into(),
        ports: vec![("sql".into(), Protocol::Tcp, 15432)],
        endpoints: vec![
            endpoint("10.42.0.8", Some("db-0")),
            endpoint("10.42.0.9", None),
            endpoint("fd42::8", Some("db-0")),
        ],
    };
    ServiceTable::build(vec![web, db, empty, alias], &[slice])
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(name_bytes(name));
    bytes.put_u16(kind);
    bytes.put_u16(INTERNET);
    bytes
}

/// The answer as a line: code, whether it is ours, then the records.
fn asked(name: &str, kind: u16) -> String {
    let services = table();
    let zone = Zone { domain: "cluster.local", services: &services };
    let bytes = answer(&query(name, kind), Transport::Tcp, &zone).unwrap();
    assert_eq!(bytes[..2], [0xab, 0xcd]);
    let code = match bytes[3] {
        0 => "ok",
        NO_SUCH_NAME => "no-such-name",
        REFUSED => "refused",
        other => panic!("code {other}"),
    };
    let count = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (_, mut at) = read_name(&bytes, HEADER_BYTES).unwrap();
    at += 4;
    let mut line = code.to_owned();
    for _ in 0..count(6) {
        assert_eq!(count(at), QUESTION_NAME);
        let (kind, length) = (count(at + 2), usize::from(count(at + 10)));
        let data = &bytes[at + 12..at + 12 + length];
        at += 12 + length;
        line.push_str(&match kind {
            A => format!(" {}", IpAddr::from(<[u8; 4]>::try_from(data).unwrap())),
            AAAA => format!(" {}", IpAddr::from(<[u8; 16]>::try_from(data).unwrap())),
            CNAME | PTR => format!(" {}", read_name(data, 0).unwrap().0),
            SRV => format!(" {}:{}", read_name(data, 6).unwrap().0, u16::from_be_bytes([data[4], data[5]])),
            other => panic!("record of type {other}"),
        });
    }
    assert_eq!(count(8) == 1, count(6) == 0 && code != "refused", "{name}: nothing comes with an SOA record");
    line
}

#[test]
fn names_have_the_records_of_the_specification() {
    let cases = [
        ("web.shop.svc.cluster.local", A, "ok 10.43.0.5"),
        ("WEB.Shop.svc.Cluster.Local", AAAA, "ok fd43::5"),
        ("web.shop.svc.cluster.local", ANY, "ok 10.43.0.5 fd43::5"),
        ("web.shop.svc.cluster.local", SRV, "ok"),
        ("db.shop.svc.cluster.local", A, "ok 10.42.0.8 10.42.0.9"),
        ("db-0.db.shop.svc.cluster.local", AAAA, "ok fd42::8"),
        ("10-42-0-9.db.shop.svc.cluster.local", A, "ok 10.42.0.9"),
        ("db-9.db.shop.svc.cluster.local", A, "no-such-name"),
        ("empty.shop.svc.cluster.local", A, "ok"),
        ("nope.shop.svc.cluster.local", A, "no-such-name"),
        ("alias.shop.svc.cluster.local", A, "ok example.com"),
        ("alias.shop.svc.cluster.local", SRV, "ok"),
        ("10-42-0-77.shop.pod.cluster.local", A, "ok 10.42.0.77"),
        ("shop.svc.cluster.local", A, "ok"),
        ("what.svc.cluster.local", A, "no-such-name"),
        ("svc.cluster.local", A, "ok"),
        ("cluster.local", A, "ok"),
        ("_http._tcp.web.shop.svc.cluster.local", SRV, "ok web.shop.svc.cluster.local:80"),
        ("_dns._udp.web.shop.svc.cluster.local", SRV, "ok web.shop.svc.cluster.local:53"),
        ("_http._udp.web.shop.svc.cluster.local", SRV, "no-such-name"),
        ("_http._tcp.web.shop.svc.cluster.local", A, "ok"),
        (
            "_sql._tcp.db.shop.svc.cluster.local",
            SRV,
            "ok db-0.db.shop.svc.cluster.local:15432 10-42-0-9.db.shop.svc.cluster.local:15432",
        ),
        ("5.0.43.10.in-addr.arpa", PTR, "ok web.shop.svc.cluster.local"),
        ("8.0.42.10.in-addr.arpa", PTR, "ok db-0.db.shop.svc.cluster.local"),
        (
            "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa",
            PTR,
            "ok web.shop.svc.cluster.local",
        ),
        ("5.0.43.10.in-addr.arpa", A, "ok"),
        ("1.1.1.1.in-addr.arpa", PTR, "refused"),
        ("example.com", A, "refused"),
        ("xcluster.local", A, "refused"),
        ("", A, "refused"),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(asked(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn an_answer_that_does_not_fit_a_datagram_says_so() {
    let slice = EndpointSlice {
        namespace: "shop".into(),
        service: "many".into(),
        endpoints: (0..200_u8).map(|last| Endpoint::ready_at(IpAddr::from([10, 42, 1, last]))).collect(),
        ..EndpointSlice::default()
    };
    let many = Service { namespace: "shop".into(), name: "many".into(), ..Service::default() };
    let services = ServiceTable::build(vec![many], &[slice]);
    let zone = Zone { domain: "cluster.local", services: &services };
    let plain = query("many.shop.svc.cluster.local", A);
    let mut sized = plain.clone();
    sized[11] = 1;
    sized.extend([0, 0, 41, 0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    for (message, transport, truncated) in
        [(&plain, Transport::Udp, true), (&sized, Transport::Udp, true), (&plain, Transport::Tcp, false)]
    {
        let answer = answer(message, transport, &zone).unwrap();
        assert_eq!(answer[2] & 2 != 0, truncated);
        assert!(!truncated || answer.len() <= DNS_UDP_BYTES);
        assert_eq!(u16::from_be_bytes([answer[6], answer[7]]), if truncated { 0 } else { 200 });
        assert_eq!(answer[11] == 1, std::ptr::eq(message, &sized), "who says a size is told ours");
    }
}

#[test]
fn what_is_no_question_is_no_harm() {
    let services = table();
    let zone = Zone { domain: "cluster.local", services: &services };
    let say = |bytes: &[u8]| answer(bytes, Transport::Udp, &zone);
    assert_eq!(say(b""), None);
    assert_eq!(say(&[0; 11]), None);
    let mut reply = query("web.shop.svc.cluster.local", A);
    reply[2] |= 0x80;
    assert_eq!(say(&reply), None, "two servers must not answer each other for ever");
    let mut update = query("web.shop.svc.cluster.local", A);
    update[2] = 5 << 3;
    assert_eq!(say(&update).unwrap()[3], NOT_IMPLEMENTED);
    let mut two = query("web.shop.svc.cluster.local", A);
    two[5] = 2;
    assert_eq!(say(&two).unwrap()[3], FORMAT_ERROR);
    let mut looped = query("", A);
    looped.truncate(HEADER_BYTES);
    looped.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(say(&looped).unwrap()[3], FORMAT_ERROR);

    let said =
        [query("web.shop.svc.cluster.local", A), query("_sql._tcp.db.shop.svc.cluster.local", SRV), query("x", PTR)];
    for seed in 1..20_000 {
        let mut random = Random(seed);
        let mut bytes = said[random.below(said.len())].clone();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len() + 1);
            match random.below(3) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] = random.below(256) as u8,
                _ => bytes.insert(at, random.below(256) as u8),
            }
        }
        if let Some(answer) = say(&bytes) {
            assert!((HEADER_BYTES..=DNS_UDP_BYTES_MAX).contains(&answer.len()) && answer[2] & 0x80 != 0, "seed {seed}");
            assert_eq!(answer[..2], bytes[..2]);
        }
    }
}
