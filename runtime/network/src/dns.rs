//! DNS in bytes (RFC 1035) for those who speak it: people on a port of the host, and guests that ask the cluster's DNS
//! address themselves. Pure: a query in, an answer out.
//!
//! One question per message, as everybody asks. Answered with authority are the names under the cluster's domain and the
//! reverse names of its addresses; everything else is refused, so that nobody uses this as their resolver. What can be
//! answered are the records of the specification "Kubernetes DNS-Based Service Discovery": A, AAAA, CNAME, SRV and PTR.
//! A query that cannot be read gets a format error, one that is no query gets nothing.

mod records;

use bytes::BufMut;

use crate::limits::{DNS_ANSWERS_MAX, DNS_UDP_BYTES, DNS_UDP_BYTES_MAX};
use crate::services::ServiceTable;

/// What is answered from.
#[derive(Clone, Copy, Debug)]
pub struct Zone<'a> {
    /// The cluster's domain, `cluster.local`.
    pub domain: &'a str,
    /// The Services in force.
    pub services: &'a ServiceTable,
}

/// How a query came; an answer over UDP has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A connection; messages have two bytes of length before them.
    Tcp,
}

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const OPT: u16 = 41;
const ANY: u16 = 255;
const INTERNET: u16 = 1;

const FORMAT_ERROR: u8 = 1;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// Seconds that an answer may be kept (CoreDNS' default for cluster names is 30; endpoints change faster here).
const TTL: u32 = 5;

const HEADER_BYTES: usize = 12;
const NAME_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 63;
/// Where the question's name begins, as a compression pointer.
const QUESTION_NAME: u16 = 0xc000 | HEADER_BYTES as u16;

/// One record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Record {
    A(std::net::Ipv4Addr),
    Aaaa(std::net::Ipv6Addr),
    Cname(String),
    Ptr(String),
    Srv { port: u16, target: String },
}

/// What there is under a name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The name exists and has these records of the type asked.
    Records(Vec<Record>),
    /// There is no such name.
    Nothing,
    /// The name is not this cluster's business.
    NotOurs,
}

/// A question as it was asked.
struct Question<'a> {
    /// In lower case, without the last dot.
    name: String,
    kind: u16,
    class: u16,
    /// Its bytes, which are said again.
    bytes: &'a [u8],
    /// The size of datagram that the asker takes, when it says so (RFC 6891).
    size: Option<usize>,
}

/// Answers one message; `None` for what is not a query.
#[must_use]
pub fn answer(message: &[u8], transport: Transport, zone: &Zone<'_>) -> Option<Vec<u8>> {
    let header = message.first_chunk::<HEADER_BYTES>()?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    let opcode = header[2] >> 3 & 0xf;
    let question = if opcode == 0 { read(message) } else { None };
    let Some(question) = question else {
        let code = if opcode == 0 { FORMAT_ERROR } else { NOT_IMPLEMENTED };
        return Some(head(header, code, false, false, [0; 4]));
    };
    let found = match question.class {
        INTERNET => records::find(&question.name, question.kind, zone),
        _ => Found::NotOurs,
    };
    let limit = match transport {
        Transport::Udp => question.size.unwrap_or(DNS_UDP_BYTES).clamp(DNS_UDP_BYTES, DNS_UDP_BYTES_MAX),
        Transport::Tcp => usize::from(u16::MAX),
    };
    let whole = render(header, &question, &found, zone.domain, false);
    Some(if whole.len() <= limit { whole } else { render(header, &question, &found, zone.domain, true) })
}

/// Reads the one question and what the asker says of itself.
fn read(message: &[u8]) -> Option<Question<'_>> {
    let count = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let (questions, additional) = (count(4)?, count(10)?);
    if questions != 1 || count(6)? != 0 || count(8)? != 0 {
        return None;
    }
    let (name, end) = read_name(message, HEADER_BYTES)?;
    let (kind, class) = (count(end)?, count(end + 2)?);
    let bytes = message.get(HEADER_BYTES..end + 4)?;
    // An OPT record has the root as its name, one byte; anything else that is added says nothing to us.
    let opt = (additional > 0 && message.get(end + 4) == Some(&0) && count(end + 5)? == OPT).then(|| count(end + 7));
    Some(Question { name, kind, class, bytes, size: opt.flatten().map(usize::from) })
}

/// Reads a name without compression, which nobody uses in a question, and where it ends.
fn read_name(message: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut name, mut at) = (String::new(), start);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if length > LABEL_BYTES_MAX || at + length - start >= NAME_BYTES_MAX {
            return None;
        }
        let label = std::str::from_utf8(message.get(at..at + length)?).ok().filter(|label| !label.contains('.'))?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&label.to_ascii_lowercase());
        at += length;
    }
}

/// The header of an answer; `counts` are questions, answers, authorities and additional records.
fn head(header: &[u8; HEADER_BYTES], code: u8, ours: bool, truncated: bool, counts: [u16; 4]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DNS_UDP_BYTES);
    bytes.put_slice(&header[..2]);
    let (opcode, wants_recursion) = (header[2] & 0x78, header[2] & 1);
    bytes.put_u8(0x80 | opcode | u8::from(ours) << 2 | u8::from(truncated) << 1 | wants_recursion);
    bytes.put_u8(code);
    for count in counts {
        bytes.put_u16(count);
    }
    bytes
}

fn render(
    header: &[u8; HEADER_BYTES],
    question: &Question<'_>,
    found: &Found,
    domain: &str,
    truncated: bool,
) -> Vec<u8> {
    let (code, records): (u8, &[Record]) = match found {
        Found::Records(records) => (0, &records[..records.len().min(DNS_ANSWERS_MAX)]),
        Found::Nothing => (NO_SUCH_NAME, &[]),
        Found::NotOurs => (REFUSED, &[]),
    };
    let ours = code != REFUSED;
    let records = if truncated { &[] } else { records };
    // Whoever finds nothing is told for how long that stands (RFC 2308).
    let denied = ours && records.is_empty() && !truncated;
    let additional = u16::from(question.size.is_some());
    let counts = [1, records.len() as u16, u16::from(denied), additional];
    let mut bytes = head(header, code, ours, truncated, counts);
    bytes.put_slice(question.bytes);
    for record in records {
        put_record(&mut bytes, record);
    }
    if denied {
        put_authority(&mut bytes, domain);
    }
    if question.size.is_some() {
        bytes.put_u8(0);
        bytes.put_u16(OPT);
        bytes.put_u16(DNS_UDP_BYTES_MAX as u16);
        bytes.put_slice(&[0; 6]);
    }
    bytes
}

fn put_record(bytes: &mut Vec<u8>, record: &Record) {
    let (kind, data) = match record {
        Record::A(ip) => (A, ip.octets().to_vec()),
        Record::Aaaa(ip) => (AAAA, ip.octets().to_vec()),
        Record::Cname(target) => (CNAME, name_bytes(target)),
        Record::Ptr(target) => (PTR, name_bytes(target)),
        Record::Srv { port, target } => {
            // No endpoint goes before another, and all have the same weight.
            let mut data = vec![0, 0, 0, 100];
            data.put_u16(*port);
            data.extend(name_bytes(target));
            (SRV, data)
        }
    };
    bytes.put_u16(QUESTION_NAME);
    bytes.put_u16(kind);
    bytes.put_u16(INTERNET);
    bytes.put_u32(TTL);
    bytes.put_u16(data.len() as u16);
    bytes.put_slice(&data);
}

/// The SOA record of the cluster's domain.
fn put_authority(bytes: &mut Vec<u8>, domain: &str) {
    let mut data = name_bytes(&format!("ns.dns.{domain}"));
    data.extend(name_bytes(&format!("hostmaster.{domain}")));
    // Serial, refresh, retry, expire: nobody transfers this zone. Then how long nothing stays nothing.
    for number in [1, 7200, 1800, 86_400, TTL] {
        data.put_u32(number);
    }
    bytes.extend(name_bytes(domain));
    bytes.put_u16(SOA);
    bytes.put_u16(INTERNET);
    bytes.put_u32(TTL);
    bytes.put_u16(data.len() as u16);
    bytes.put_slice(&data);
}

/// A name as labels. A label that is too long for DNS ends the name: no Service can have one.
fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()).take_while(|label| label.len() <= LABEL_BYTES_MAX) {
        bytes.put_u8(label.len() as u8);
        bytes.put_slice(label.as_bytes());
    }
    bytes.put_u8(0);
    bytes
}

#[cfg(test)]
mod tests;
