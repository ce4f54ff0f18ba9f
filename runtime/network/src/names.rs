//! What a name means inside a pod: the answers of the cluster's DNS and of the pod's `/etc/hosts`, as a pure function.
//!
//! The records are those of the specification "Kubernetes DNS-Based Service Discovery" 1.1.0 for A and AAAA; the
//! search path and `ndots:5` are what the kubelet writes into `/etc/resolv.conf` with `dnsPolicy: ClusterFirst`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::NAME_BYTES_MAX;
use crate::resolver::Resolver;
use crate::services::{Endpoint, ServiceEntry, ServiceTable};

/// ExternalName may point to another ExternalName; resolvers give up on longer chains too.
const ALIASES_MAX: usize = 8;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's own hostname, which resolves to its addresses.
    pub hostname: &'a str,
    /// The pod's addresses.
    pub addresses: &'a [IpAddr],
    /// The cluster's domain, `cluster.local`.
    pub domain: &'a str,
    /// Its own way of looking up names.
    pub resolver: &'a Resolver,
}

/// The domains in which short names are looked up unless a pod says others: its namespace's, `svc`, and the cluster's.
#[must_use]
pub fn search_path(namespace: &str, domain: &str) -> [String; 3] {
    [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()]
}

/// The addresses of a name, IPv4 before IPv6; empty when there is no such name in the cluster.
///
/// For example `web` asked by a pod in `shop` is tried as `web.shop.svc.cluster.local`, `web.svc.cluster.local`,
/// `web.cluster.local` and `web`, and the first with an address wins.
#[must_use]
pub fn resolve(name: &str, asker: &Asker<'_>, services: &ServiceTable) -> Vec<IpAddr> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Vec::new();
    }
    if let Ok(ip) = name.parse::<IpAddr>() {
        return vec![ip];
    }
    let name = name.to_ascii_lowercase();
    let bare = name.strip_suffix('.').unwrap_or(&name);
    // RFC 6761 §6.3: every name under localhost is the asker itself.
    if bare == "localhost" || bare.ends_with(".localhost") {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    if bare == asker.hostname {
        return sorted(asker.addresses.iter().copied());
    }
    let aliases = sorted(asker.resolver.alias(bare));
    if !aliases.is_empty() || !asker.resolver.cluster {
        return aliases;
    }
    let Asker { namespace, domain, .. } = asker;
    let usual;
    let search = match &asker.resolver.search {
        Some(search) => &search[..],
        None => {
            usual = search_path(namespace, domain);
            &usual
        }
    };
    let search: Vec<String> = search.iter().map(|domain| format!("{bare}.{}", domain.trim_end_matches('.'))).collect();
    let search = search.iter().map(String::as_str);
    let find = |candidate: &str| Some(answer(candidate, domain, services)).filter(|found| !found.is_empty());
    let found = if name.ends_with('.') {
        find(bare)
    } else if bare.matches('.').count() < asker.resolver.ndots {
        search.chain([bare]).find_map(find)
    } else {
        std::iter::once(bare).chain(search).find_map(find)
    };
    found.unwrap_or_default()
}

/// The name that somebody outside has to be asked for, when the cluster itself has no answer: the name, or what an
/// ExternalName Service stands for. Names of one label are nobody's outside, and those under the cluster's domain are
/// the cluster's alone.
#[must_use]
pub fn outside(name: &str, asker: &Asker<'_>, services: &ServiceTable) -> Option<String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.parse::<IpAddr>().is_ok() {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let bare = name.strip_suffix('.').unwrap_or(&name);
    let Asker { namespace, domain, .. } = asker;
    let searched = [bare.to_owned(), format!("{bare}.{namespace}.svc.{domain}"), format!("{bare}.svc.{domain}")];
    let searched = if name.ends_with('.') { &searched[..1] } else { &searched[..] };
    let target = searched.iter().find_map(|candidate| alias(candidate, domain, services));
    let target = target.unwrap_or_else(|| bare.to_owned());
    let ours = is_under(&target, domain) || is_under(&target, "localhost");
    (target.contains('.') && !ours).then_some(target)
}

fn is_under(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Where the chain of ExternalName Services that begins at a complete name leaves the cluster.
fn alias(name: &str, domain: &str, services: &ServiceTable) -> Option<String> {
    let mut name = name.to_owned();
    for turn in 0..ALIASES_MAX {
        let Some(inside) = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) else {
            return (turn > 0).then_some(name);
        };
        let labels: Vec<&str> = inside.split('.').collect();
        let &[service, namespace, "svc"] = labels.as_slice() else { return None };
        let target = services.service(namespace, service)?.service().external_name.as_ref()?;
        name = target.trim_end_matches('.').to_ascii_lowercase();
    }
    None
}

/// The records of one complete name.
pub(crate) fn answer(name: &str, domain: &str, services: &ServiceTable) -> Vec<IpAddr> {
    let mut name = name.to_owned();
    for _ in 0..ALIASES_MAX {
        let Some(inside) = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) else { return Vec::new() };
        let labels: Vec<&str> = inside.split('.').collect();
        match *labels.as_slice() {
            [service, namespace, "svc"] => {
                let Some(entry) = services.service(namespace, service) else { return Vec::new() };
                match &entry.service().external_name {
                    Some(target) => name = target.trim_end_matches('.').to_ascii_lowercase(),
                    None => return service_addresses(entry),
                }
            }
            [host, service, namespace, "svc"] => {
                let Some(entry) = services.service(namespace, service) else { return Vec::new() };
                let of_host = |endpoint: &&Endpoint| is_called(endpoint, host);
                return sorted(entry.published().iter().filter(of_host).map(|endpoint| endpoint.address));
            }
            [dashed, _, "pod"] => return undash(dashed).into_iter().collect(),
            _ => return Vec::new(),
        }
    }
    Vec::new()
}

/// The cluster IPs, or for a headless Service its endpoints.
fn service_addresses(entry: &ServiceEntry) -> Vec<IpAddr> {
    let service = entry.service();
    if service.cluster_ips.is_empty() {
        sorted(entry.published().iter().map(|endpoint| endpoint.address))
    } else {
        sorted(service.cluster_ips.iter().copied())
    }
}

/// An endpoint is called by its hostname, or by its address with dashes where it has none.
fn is_called(endpoint: &Endpoint, host: &str) -> bool {
    match &endpoint.hostname {
        Some(hostname) => hostname == host,
        None => undash(host) == Some(endpoint.address),
    }
}

/// `10-42-0-7` is 10.42.0.7, `fd42--7` is fd42::7.
fn undash(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// What an endpoint without a hostname is called: its address with dashes.
pub(crate) fn dash(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// IPv4 first, otherwise in the given order, each once.
fn sorted(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut unique: Vec<IpAddr> = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    unique.sort_by_key(IpAddr::is_ipv6);
    unique
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::{EndpointSlice, Service};

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    fn endpoint(address: &str, hostname: Option<&str>, ready: bool) -> Endpoint {
        let hostname = hostname.map(str::to_owned);
        Endpoint { hostname, ready, serving: ready, ..Endpoint::ready_at(address.parse().unwrap()) }
    }

    fn service(namespace: &str, name: &str, cluster_ips: &str) -> Service {
        Service { namespace: namespace.into(), name: name.into(), cluster_ips: ips(cluster_ips), ..Service::default() }
    }

    fn alias(name: &str, target: &str) -> Service {
        Service { external_name: Some(target.into()), ..service("shop", name, "") }
    }

    fn table() -> ServiceTable {
        let starting = Service { publish_not_ready: true, ..service("shop", "peers", "") };
        let services = vec![
            service("shop", "web", "fd43::5 10.43.0.5"),
            service("other", "web", "10.43.0.6"),
            service("shop", "db", ""),
            starting,
            service("shop", "svc", "10.43.0.7"),
            alias("alias", "web.other.svc.cluster.local."),
            alias("outside", "example.com"),
            alias("ring", "gnir.shop.svc.cluster.local"),
            alias("gnir", "ring.shop.svc.cluster.local"),
        ];
        let slice = |service: &str, endpoints| EndpointSlice {
            namespace: "shop".into(),
            service: service.into(),
            ports: Vec::new(),
            endpoints,
        };
        let db = vec![endpoint("10.42.0.8", Some("db-0"), true), endpoint("10.42.0.9", Some("db-1"), false)];
        let db6 = vec![endpoint("fd42::8", Some("db-0"), true), endpoint("10.42.0.7", None, true)];
        let peers = vec![endpoint("10.42.0.11", None, false)];
        ServiceTable::build(services, &[slice("db", db), slice("db", db6), slice("peers", peers)])
    }

    #[test]
    fn names_mean_what_cluster_dns_says() {
        let services = table();
        let addresses = ips("fd42::2 10.42.0.2");
        let usual = Resolver::default();
        let asker = Asker {
            namespace: "shop",
            hostname: "front-0",
            addresses: &addresses,
            domain: "cluster.local",
            resolver: &usual,
        };
        let cases = [
            ("web", "10.43.0.5 fd43::5"),
            ("WEB.Shop", "10.43.0.5 fd43::5"),
            ("web.other", "10.43.0.6"),
            ("web.other.svc", "10.43.0.6"),
            ("web.other.svc.cluster.local", "10.43.0.6"),
            ("web.other.svc.cluster.local.", "10.43.0.6"),
            ("web.", ""),
            ("web.other.svc.", ""),
            ("svc", "10.43.0.7"),
            ("db", "10.42.0.8 10.42.0.7 fd42::8"),
            ("db-0.db", "10.42.0.8 fd42::8"),
            ("db-0.db.shop.svc.cluster.local", "10.42.0.8 fd42::8"),
            ("db-1.db", ""),
            ("10-42-0-7.db", "10.42.0.7"),
            ("10-42-0-8.db", ""),
            ("peers", "10.42.0.11"),
            ("10-42-0-99.shop.pod.cluster.local", "10.42.0.99"),
            ("fd42--9.shop.pod", "fd42::9"),
            ("alias", "10.43.0.6"),
            ("outside", ""),
            ("ring", ""),
            ("localhost", "127.0.0.1 ::1"),
            ("a.localhost.", "127.0.0.1 ::1"),
            ("front-0", "10.42.0.2 fd42::2"),
            ("10.43.0.5", "10.43.0.5"),
            ("fd43::5", "fd43::5"),
            ("nobody", ""),
            ("example.com", ""),
            ("cluster.local", ""),
            ("", ""),
            (".", ""),
            ("..", ""),
            ("a..b", ""),
        ];
        for (name, expected) in cases {
            assert_eq!(resolve(name, &asker, &services), ips(expected), "{name}");
        }
        assert_eq!(resolve(&"a.".repeat(200), &asker, &services), ips(""));
    }

    #[test]
    fn only_names_outside_are_asked_outside() {
        let services = table();
        let usual = Resolver::default();
        let asker =
            Asker { namespace: "shop", hostname: "x", addresses: &[], domain: "cluster.local", resolver: &usual };
        let cases = [
            ("example.com", Some("example.com")),
            ("Example.com.", Some("example.com")),
            ("outside", Some("example.com")),
            ("outside.shop", Some("example.com")),
            ("outside.shop.svc.cluster.local.", Some("example.com")),
            ("nobody", None),
            ("nobody.", None),
            ("ring", None),
            ("nobody.shop.svc.cluster.local", None),
            ("cluster.local", None),
            ("xcluster.local", Some("xcluster.local")),
            ("a.localhost", None),
            ("1.2.3.4", None),
            ("fd42::1", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(outside(name, &asker, &services).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn another_domain_is_another_cluster() {
        let usual = Resolver::default();
        let asker = Asker { namespace: "shop", hostname: "x", addresses: &[], domain: "house.test", resolver: &usual };
        assert_eq!(resolve("web.shop.svc.house.test", &asker, &table()), ips("10.43.0.5 fd43::5"));
        assert_eq!(resolve("web.shop.svc.cluster.local.", &asker, &table()), ips(""));
        assert_eq!(resolve("web.shop.svc.xhouse.test.", &asker, &table()), ips(""));
    }

    #[test]
    fn a_pod_may_look_up_names_in_its_own_way() {
        let alias = |name: &str, ip: &str| (name.to_owned(), ip.parse().unwrap());
        let own = Resolver {
            aliases: vec![alias("Printer.local", "192.168.0.9"), alias("web", "192.168.0.8")],
            search: Some(vec!["other.svc.cluster.local".to_owned()]),
            ndots: 1,
            ..Resolver::default()
        };
        let far = Resolver { cluster: false, ..own.clone() };
        let asked = |resolver: &Resolver, name: &str| {
            let asker = Asker { namespace: "shop", hostname: "x", addresses: &[], domain: "cluster.local", resolver };
            resolve(name, &asker, &table())
        };
        // A hosts file comes before everything else but the pod's own name.
        assert_eq!(asked(&own, "printer.LOCAL"), ips("192.168.0.9"));
        assert_eq!(asked(&own, "web"), ips("192.168.0.8"));
        assert_eq!(asked(&Resolver { aliases: Vec::new(), ..own.clone() }, "web"), ips("10.43.0.6"));
        assert_eq!(asked(&own, "db"), ips(""));
        assert_eq!(asked(&far, "web.shop.svc.cluster.local"), ips(""));
        assert_eq!(asked(&far, "localhost"), ips("127.0.0.1 ::1"));
    }
}
