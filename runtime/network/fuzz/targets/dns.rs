//! A question about names: an answer to it, bounded, or silence.
#![no_main]

use network::ServiceTable;
use network::dns::{Transport, Zone, answer};
use network::limits::DNS_UDP_BYTES_MAX;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let services = ServiceTable::build(Vec::new(), &[]);
    let zone = Zone { domain: "cluster.local", services: &services };
    for transport in [Transport::Udp, Transport::Tcp] {
        let Some(said) = answer(bytes, transport, &zone) else { continue };
        assert_eq!(said[..2], bytes[..2]);
        assert!(transport == Transport::Tcp || said.len() <= DNS_UDP_BYTES_MAX);
    }
});
