//! Where the Services of a pod's namespace are, as variables (`enableServiceLinks`): what Kubernetes sets, and Docker's
//! links set before it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use network::services::{Protocol, Service, ServicePort, ServiceTable};

use crate::limits::SERVICE_LINKS_MAX;

/// The Service whose variables every container gets: the API. The address is one for which the API has a certificate.
pub(super) fn api() -> Service {
    let port = ServicePort { name: "https".into(), protocol: Protocol::Tcp, port: 443, node_port: None, h2c: false };
    Service {
        name: "kubernetes".into(),
        cluster_ips: vec![IpAddr::V4(Ipv4Addr::new(10, 43, 0, 1))],
        ports: vec![port],
        ..Service::default()
    }
}

/// The Services of a namespace that have an address, by name; of more than [`SERVICE_LINKS_MAX`] the first.
pub(crate) fn linked<'a>(table: &'a ServiceTable, namespace: &str) -> Vec<&'a Service> {
    let all = table.in_namespace(namespace).map(|entry| entry.service());
    let mut services: Vec<&Service> = all.filter(|service| !service.cluster_ips.is_empty()).collect();
    let by_name = |one: &&Service, other: &&Service| one.name.cmp(&other.name);
    if services.len() > SERVICE_LINKS_MAX {
        // Every container that starts comes here: what is left out is not sorted.
        services.select_nth_unstable_by(SERVICE_LINKS_MAX, by_name);
        services.truncate(SERVICE_LINKS_MAX);
    }
    services.sort_unstable_by(by_name);
    services
}

/// The variables of one Service; none for one without an address.
pub(super) fn variables(service: &Service) -> Vec<(String, String)> {
    let (Some(address), Some(first)) = (service.cluster_ips.first(), service.ports.first()) else { return Vec::new() };
    let name = word(&service.name);
    let mut all = vec![
        (format!("{name}_SERVICE_HOST"), address.to_string()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
        (format!("{name}_PORT"), url(*address, first)),
    ];
    let named = service.ports.iter().filter(|port| !port.name.is_empty());
    all.extend(named.map(|port| (format!("{name}_SERVICE_PORT_{}", word(&port.name)), port.port.to_string())));
    for port in &service.ports {
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol(port).to_uppercase());
        all.extend([
            (prefix.clone(), url(*address, port)),
            (format!("{prefix}_PROTO"), protocol(port).to_owned()),
            (format!("{prefix}_PORT"), port.port.to_string()),
            (format!("{prefix}_ADDR"), address.to_string()),
        ]);
    }
    all
}

fn url(address: IpAddr, port: &ServicePort) -> String {
    format!("{}://{}", protocol(port), SocketAddr::new(address, port.port))
}

fn protocol(port: &ServicePort) -> &'static str {
    match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// A DNS label as part of a variable's name.
fn word(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}
