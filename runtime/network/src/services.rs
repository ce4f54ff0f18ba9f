//! Services and their endpoints, as the API has them, turned into what a connection needs to know.
//!
//! [`ServiceTable::build`] is pure; the driver that watches the API calls it and installs the result whole.
//! Who balances: every (Service, port, address family) has one [`Balancer`], which chooses at connect time.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use crate::balancer::Balancer;

/// Transport protocol of a Service port. SCTP does not exist in this network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A Service, reduced to what the network reads.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.clusterIPs` without `None`; empty for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalName` of a Service of type ExternalName.
    pub external_name: Option<String>,
    /// `spec.ports` with protocol TCP or UDP.
    pub ports: Vec<ServicePort>,
    /// With `spec.sessionAffinity: ClientIP`, how long a client keeps its endpoint after its last connection.
    pub affinity: Option<Duration>,
    /// `spec.internalTrafficPolicy: Local`: pods reach endpoints of their own node only.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy: Local`: what comes in at a node's port stays on that node.
    pub external_local: bool,
    /// `spec.type: LoadBalancer`: its ports are also offered under their own numbers.
    pub load_balancer: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
}

/// One of a Service's ports.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Empty when the Service has one unnamed port.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port on the cluster IP.
    pub port: u16,
    /// The port on every node, for NodePort and LoadBalancer.
    pub node_port: Option<u16>,
    /// `appProtocol: kubernetes.io/h2c` (KEP-3726) or `grpc`: HTTP/2 without TLS.
    pub h2c: bool,
}

/// An EndpointSlice, reduced likewise.
#[derive(Clone, Debug, Default)]
pub struct EndpointSlice {
    /// `metadata.namespace`.
    pub namespace: String,
    /// Label `kubernetes.io/service-name`.
    pub service: String,
    /// `ports`: name, protocol, number.
    pub ports: Vec<(String, Protocol, u16)>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is; the first counts (the others are equivalent, says the API).
    pub address: IpAddr,
    /// `hostname`, which gets a record of its own.
    pub hostname: Option<String>,
    /// Condition `ready`, true when absent.
    pub ready: bool,
    /// Condition `serving`, as `ready` when absent.
    pub serving: bool,
    /// Condition `terminating`.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<String>,
    /// `hints.forZones`: the zones whose callers it is meant for (KEP-2433).
    pub zones: Vec<String>,
}

impl Endpoint {
    /// One that is ready, on no node that is known.
    #[must_use]
    pub fn ready_at(address: IpAddr) -> Self {
        let (ready, serving, terminating) = (true, true, false);
        Self { address, hostname: None, ready, serving, terminating, node: None, zones: Vec::new() }
    }
}

/// From where a table is seen: traffic policies and zones ask for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Here<'a> {
    /// The Node's name; empty for nowhere.
    pub node: &'a str,
    /// Its label `topology.kubernetes.io/zone`.
    pub zone: Option<&'a str>,
}

/// A Service port as others name it: an Ingress backend has a number or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortRef {
    /// `port.number`.
    Number(u16),
    /// `port.name`.
    Name(String),
}

/// Namespace and name of a Service.
pub type ServiceName = (String, String);

/// A Service as it is now, with its EndpointSlices.
pub type Present = (Service, Vec<EndpointSlice>);

/// What the table knows of one Service.
#[derive(Debug)]
pub struct ServiceEntry {
    service: Service,
    /// Per port of `service.ports`: IPv4 and IPv6, for pods and for the node itself.
    balancers: Vec<[Arc<Balancer>; 2]>,
    /// Likewise, for what comes in at the node's ports.
    outer: Vec<[Arc<Balancer>; 2]>,
    /// Published endpoints: what a headless Service resolves to.
    published: Vec<Endpoint>,
}

impl ServiceEntry {
    /// The Service itself.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The endpoints DNS shows: ready ones, or all with `publishNotReadyAddresses`.
    #[must_use]
    pub fn published(&self) -> &[Endpoint] {
        &self.published
    }

    /// The endpoints of a port, of both families.
    pub(crate) fn endpoints(&self, port: &str, protocol: Protocol) -> impl Iterator<Item = SocketAddr> {
        let named = |candidate: &ServicePort| candidate.name == port && candidate.protocol == protocol;
        let index = self.service.ports.iter().position(named);
        let balancers = index.map(|index| &self.balancers[index]);
        balancers.into_iter().flatten().flat_map(|balancer| balancer.endpoints().iter().copied())
    }

    /// The balancer of a TCP port: the first address family that has endpoints, IPv4 before IPv6.
    ///
    /// `None` when the Service has no such port.
    #[must_use]
    pub fn balancer(&self, port: &PortRef) -> Option<&Arc<Balancer>> {
        let [v4, v6] = &self.balancers[self.position(port)?];
        Some(if v4.endpoints().is_empty() { v6 } else { v4 })
    }

    /// Whether HTTP/2 without TLS is spoken on a TCP port.
    #[must_use]
    pub fn speaks_h2c(&self, port: &PortRef) -> bool {
        self.position(port).is_some_and(|index| self.service.ports[index].h2c)
    }

    /// Lets its balancers go on where those of its predecessor were.
    fn go_on(&self, before: &Self) {
        let own = self.balancers.iter().chain(&self.outer).flatten();
        for (new, old) in own.zip(before.balancers.iter().chain(&before.outer).flatten()) {
            new.go_on(old);
        }
    }

    fn position(&self, port: &PortRef) -> Option<usize> {
        let matches = |candidate: &ServicePort| match port {
            PortRef::Number(number) => candidate.port == *number,
            PortRef::Name(name) => candidate.name == *name,
        };
        self.service.ports.iter().position(|port| port.protocol == Protocol::Tcp && matches(port))
    }
}

/// A port that every node offers for a Service: a node port, or a load balancer's own.
#[derive(Clone, Debug)]
pub struct NodePort {
    /// `namespace/name` of the Service, for traces.
    pub service: String,
    /// Where connections go.
    pub balancer: Arc<Balancer>,
}

/// All Services of the cluster, as a connection looks them up. A copy shares its entries with the original.
#[derive(Clone, Debug, Default)]
pub struct ServiceTable {
    by_name: HashMap<Arc<str>, HashMap<Arc<str>, Arc<ServiceEntry>>>,
    by_address: HashMap<(IpAddr, u16, Protocol), Arc<Balancer>>,
    addresses: HashSet<IpAddr>,
    node_ports: HashMap<(u16, Protocol), NodePort>,
    /// Whether it was made of what the API has; the one before the first was not.
    pub(crate) is_read: bool,
}

impl ServiceTable {
    /// Joins Services with their EndpointSlices, as seen from no node: traffic policies that keep to one find nobody.
    #[must_use]
    pub fn build(services: Vec<Service>, slices: &[EndpointSlice]) -> Self {
        Self::of_node(Here::default(), services, slices)
    }

    /// Joins Services with their EndpointSlices, as seen from a node. Slices of a Service that does not exist are
    /// left out.
    #[must_use]
    pub fn of_node(here: Here<'_>, services: Vec<Service>, slices: &[EndpointSlice]) -> Self {
        let mut slices_of: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices {
            slices_of.entry((&slice.namespace, &slice.service)).or_default().push(slice);
        }
        let mut table = Self { is_read: true, ..Self::default() };
        for service in services {
            let key = (service.namespace.as_str(), service.name.as_str());
            let slices = slices_of.get(&key).cloned().unwrap_or_default();
            table.insert(service, &slices, here);
        }
        table
    }

    /// Has some Services be what they are now, each with its EndpointSlices and as seen from the same node as all others;
    /// `None` for one that is gone. What it costs does not depend on how many others there are, unless a node's port changes
    /// hands.
    pub fn update(&mut self, here: Here<'_>, changes: Vec<(ServiceName, Option<Present>)>) {
        // An address may pass from one to another.
        let before: Vec<_> = changes.iter().map(|((namespace, name), _)| self.remove(namespace, name)).collect();
        if before.iter().flatten().any(|entry| exposed(entry).next().is_some()) {
            // Another load balancer may have wanted the same port.
            self.node_ports.clear();
            let all = self.by_name.values().flat_map(HashMap::values);
            all.for_each(|entry| expose(&mut self.node_ports, entry));
        }
        for ((name, now), before) in changes.into_iter().zip(before) {
            let Some((service, slices)) = now else { continue };
            self.insert(service, &slices.iter().collect::<Vec<_>>(), here);
            if let (Some(entry), Some(before)) = (self.service(&name.0, &name.1), before) {
                entry.go_on(&before);
            }
        }
    }

    /// Leaves the ports of every node to be made anew.
    fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<ServiceEntry>> {
        let names = self.by_name.get_mut(namespace)?;
        let entry = names.remove(name)?;
        if names.is_empty() {
            self.by_name.remove(namespace);
        }
        let service = &entry.service;
        for ip in &service.cluster_ips {
            self.addresses.remove(ip);
            for port in &service.ports {
                self.by_address.remove(&(*ip, port.port, port.protocol));
            }
        }
        Some(entry)
    }

    /// Lets every balancer go on where its predecessor in `old` was. Without this, a cluster whose tables change more
    /// often than a Service is called would send all calls to the first endpoint.
    pub(crate) fn continue_turns(&self, old: &Self) {
        for entry in self.entries() {
            if let Some(before) = old.service(&entry.service.namespace, &entry.service.name) {
                entry.go_on(before);
            }
        }
    }

    fn insert(&mut self, service: Service, slices: &[&EndpointSlice], here: Here<'_>) {
        let balance = |local: bool| -> Vec<_> {
            let ports = service.ports.iter();
            ports.map(|port| balance(&service, port, slices, here, local)).collect()
        };
        let balancers = balance(service.internal_local);
        let outer = if service.external_local == service.internal_local {
            balancers.clone()
        } else {
            balance(service.external_local)
        };
        self.addresses.extend(&service.cluster_ips);
        for (port, [v4, v6]) in service.ports.iter().zip(&balancers) {
            for ip in &service.cluster_ips {
                let balancer = if ip.is_ipv4() { v4 } else { v6 };
                self.by_address.insert((*ip, port.port, port.protocol), balancer.clone());
            }
        }
        let everybody = slices.iter().flat_map(|slice| &slice.endpoints);
        let published = everybody.filter(|endpoint| endpoint.ready || service.publish_not_ready).cloned().collect();
        let names = self.by_name.entry(service.namespace.as_str().into()).or_default();
        let entry = Arc::new(ServiceEntry { service, balancers, outer, published });
        expose(&mut self.node_ports, &entry);
        names.insert(entry.service.name.as_str().into(), entry);
    }

    /// One Service.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        self.by_name.get(namespace)?.get(name).map(|entry| &**entry)
    }

    /// All Services, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &ServiceEntry> {
        self.by_name.values().flat_map(HashMap::values).map(|entry| &**entry)
    }

    /// The Services of a namespace, in no order.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &ServiceEntry> {
        self.by_name.get(namespace).into_iter().flat_map(HashMap::values).map(|entry| &**entry)
    }

    /// Whether some Service is in this namespace.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.by_name.contains_key(namespace)
    }

    /// Whether some Service has this cluster IP.
    #[must_use]
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip)
    }

    /// Who balances connections to this cluster IP and port.
    #[must_use]
    pub fn balancer(&self, destination: SocketAddr, protocol: Protocol) -> Option<&Arc<Balancer>> {
        self.by_address.get(&(destination.ip(), destination.port(), protocol))
    }

    /// The ports every node offers.
    pub fn node_ports(&self) -> impl Iterator<Item = (u16, Protocol)> {
        self.node_ports.keys().copied()
    }

    /// What one of them is for.
    #[must_use]
    pub fn node_port(&self, port: u16, protocol: Protocol) -> Option<&NodePort> {
        self.node_ports.get(&(port, protocol))
    }
}

/// The ports that every node offers for a Service, and who balances what comes in there.
fn exposed(entry: &ServiceEntry) -> impl Iterator<Item = ((u16, Protocol), &Arc<Balancer>)> {
    let service = &entry.service;
    service.ports.iter().zip(&entry.outer).flat_map(|(port, [v4, v6])| {
        let balancer = if v4.endpoints().is_empty() { v6 } else { v4 };
        let numbers = port.node_port.into_iter().chain(service.load_balancer.then_some(port.port));
        numbers.map(move |number| ((number, port.protocol), balancer))
    })
}

/// Node ports are unique; of two load balancers with one port the first by name has it.
fn expose(node_ports: &mut HashMap<(u16, Protocol), NodePort>, entry: &ServiceEntry) {
    for (port, balancer) in exposed(entry) {
        let service = format!("{}/{}", entry.service.namespace, entry.service.name);
        let holder = node_ports.get(&port);
        if holder.is_none_or(|holder| service < holder.service) {
            node_ports.insert(port, NodePort { service, balancer: balancer.clone() });
        }
    }
}

/// The endpoints of one port in both families. A slice's port belongs to the Service port of the same name. Where traffic
/// is `local`, no other node's endpoints count.
///
/// While no endpoint is ready, those that still serve while terminating get the traffic (KEP-1669).
fn balance(
    service: &Service,
    port: &ServicePort,
    slices: &[&EndpointSlice],
    here: Here<'_>,
    local: bool,
) -> [Arc<Balancer>; 2] {
    let mut ready = Vec::new();
    let mut leaving = Vec::new();
    for slice in slices {
        let numbers = slice.ports.iter().filter(|(name, protocol, _)| *name == port.name && *protocol == port.protocol);
        for (_, _, number) in numbers {
            let counts = |endpoint: &&Endpoint| !local || endpoint.node.as_deref() == Some(here.node);
            for endpoint in slice.endpoints.iter().filter(counts) {
                let address = SocketAddr::new(endpoint.address, *number);
                if endpoint.ready || (service.publish_not_ready && !endpoint.terminating) {
                    ready.push((address, &endpoint.zones[..]));
                } else if endpoint.serving && endpoint.terminating {
                    leaving.push((address, &[][..]));
                }
            }
        }
    }
    let family = |v4: bool| {
        let of = |list: &[(SocketAddr, &[String])]| {
            let list: Vec<_> = list.iter().copied().filter(|(address, _)| address.is_ipv4() == v4).collect();
            near(&list, here.zone)
        };
        let mut endpoints = of(&ready);
        if endpoints.is_empty() {
            endpoints = of(&leaving);
        }
        // An endpoint may be in two slices while it moves between them.
        endpoints.sort_unstable();
        endpoints.dedup();
        Arc::new(Balancer::new(endpoints, service.affinity))
    };
    [family(true), family(false)]
}

/// The endpoints whose hints name this zone. All of them where the zone is unknown, none is meant for it, or one has no
/// hint: then the hints are being written or removed (KEP-2433).
fn near(endpoints: &[(SocketAddr, &[String])], zone: Option<&str>) -> Vec<SocketAddr> {
    let hinted = endpoints.iter().all(|(_, zones)| !zones.is_empty());
    let meant = |zones: &[String]| zone.is_some_and(|zone| zones.iter().any(|one| one == zone));
    let addresses = |only: bool| -> Vec<SocketAddr> {
        endpoints.iter().filter(|(_, zones)| !only || meant(zones)).map(|(address, _)| *address).collect()
    };
    let near = addresses(true);
    if hinted && !near.is_empty() { near } else { addresses(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, ready: bool, terminating: bool) -> Endpoint {
        let address = address.parse().unwrap();
        Endpoint { ready, serving: ready || terminating, terminating, ..Endpoint::ready_at(address) }
    }

    fn slice(ports: &[(&str, u16)], endpoints: Vec<Endpoint>) -> EndpointSlice {
        let ports = ports.iter().map(|(name, port)| ((*name).to_owned(), Protocol::Tcp, *port)).collect();
        EndpointSlice { namespace: "default".into(), service: "web".into(), ports, endpoints }
    }

    fn web(ports: &[(&str, u16)]) -> Service {
        let port = |(name, port): &(&str, u16)| ServicePort {
            name: (*name).to_owned(),
            protocol: Protocol::Tcp,
            port: *port,
            node_port: Some(30000 + port % 1000),
            h2c: false,
        };
        Service {
            namespace: "default".into(),
            name: "web".into(),
            cluster_ips: vec!["10.43.0.5".parse().unwrap(), "fd43::5".parse().unwrap()],
            ports: ports.iter().map(port).collect(),
            ..Service::default()
        }
    }

    fn at(table: &ServiceTable, address: &str) -> Vec<String> {
        let balancer = table.balancer(address.parse().unwrap(), Protocol::Tcp).expect("a Service has this address");
        balancer.endpoints().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ports_meet_by_name_and_families_stay_apart() {
        let slices = [
            slice(&[("http", 8080), ("admin", 9090)], vec![endpoint("10.42.0.3", true, false)]),
            slice(&[("http", 8081)], vec![endpoint("10.42.0.2", true, false), endpoint("10.42.0.4", false, false)]),
            slice(&[("http", 8080)], vec![endpoint("fd42::3", true, false)]),
            slice(&[("http", 8080)], vec![endpoint("10.42.0.3", true, false)]),
        ];
        let table = ServiceTable::build(vec![web(&[("http", 80), ("admin", 90)])], &slices);
        assert_eq!(at(&table, "10.43.0.5:80"), ["10.42.0.2:8081", "10.42.0.3:8080"]);
        assert_eq!(at(&table, "10.43.0.5:90"), ["10.42.0.3:9090"]);
        assert_eq!(at(&table, "[fd43::5]:80"), ["[fd42::3]:8080"]);
        assert_eq!(at(&table, "[fd43::5]:90"), [""; 0]);
        assert!(table.balancer("10.43.0.5:8080".parse().unwrap(), Protocol::Tcp).is_none());
        assert!(table.balancer("10.43.0.5:80".parse().unwrap(), Protocol::Udp).is_none());
        let entry = table.service("default", "web").unwrap();
        let by_name = entry.balancer(&PortRef::Name("admin".into())).unwrap();
        assert!(Arc::ptr_eq(by_name, entry.balancer(&PortRef::Number(90)).unwrap()));
        assert!(entry.balancer(&PortRef::Number(8080)).is_none());
        let node_ports: HashSet<_> = table.node_ports().collect();
        assert_eq!(node_ports, HashSet::from([(30080, Protocol::Tcp), (30090, Protocol::Tcp)]));
        assert_eq!(table.node_port(30080, Protocol::Tcp).unwrap().service, "default/web");
    }

    #[test]
    fn traffic_goes_to_ready_endpoints_and_else_to_those_that_still_serve() {
        let cases = [
            (vec![("10.42.0.2", true, false), ("10.42.0.3", false, true)], false, vec!["10.42.0.2:1"]),
            (vec![("10.42.0.2", false, false), ("10.42.0.3", false, true)], false, vec!["10.42.0.3:1"]),
            (vec![("10.42.0.2", false, false)], false, vec![]),
            (vec![("10.42.0.2", false, false)], true, vec!["10.42.0.2:1"]),
        ];
        for (endpoints, publish_not_ready, expected) in cases {
            let endpoints = endpoints.iter().map(|(ip, ready, leaving)| endpoint(ip, *ready, *leaving)).collect();
            let service = Service { publish_not_ready, ..web(&[("", 80)]) };
            let table = ServiceTable::build(vec![service], &[slice(&[("", 1)], endpoints)]);
            assert_eq!(at(&table, "10.43.0.5:80"), expected);
        }
    }

    const HERE: Here<'_> = Here { node: "here", zone: Some("a") };

    #[test]
    fn a_table_that_is_kept_up_is_the_table_made_anew() {
        let service = |name: &str, ip: &str, load_balancer: bool| Service {
            name: name.into(),
            cluster_ips: vec![ip.parse().unwrap()],
            load_balancer,
            ports: vec![ServicePort { node_port: None, ..web(&[("", 80)]).ports.remove(0) }],
            ..web(&[])
        };
        let behind = |name: &str, address: &str| EndpointSlice {
            service: name.into(),
            ..slice(&[("", 8080)], vec![endpoint(address, true, false)])
        };
        let name = |name: &str| ("default".to_owned(), name.to_owned());
        let with = |name: &str, ip: &str, balanced: bool, address: &str| {
            Some((service(name, ip, balanced), vec![behind(name, address)]))
        };
        let mut table = ServiceTable::of_node(HERE, vec![service("idle", "10.43.0.9", false)], &[]);
        let idle = Arc::as_ptr(&table.by_name["default"]["idle"]);
        // Two load balancers want one port; the first by name goes, and its address passes on.
        let steps = [
            (vec![(name("b"), with("b", "10.43.0.2", true, "10.42.0.2"))], "b", "10.42.0.2:8080"),
            (vec![(name("a"), with("a", "10.43.0.1", true, "10.42.0.1"))], "a", "10.42.0.1:8080"),
            (vec![(name("a"), with("a", "10.43.0.1", true, "10.42.0.7"))], "a", "10.42.0.7:8080"),
            (vec![(name("c"), with("c", "10.43.0.1", false, "10.42.0.3")), (name("a"), None)], "b", "10.42.0.2:8080"),
        ];
        for (changes, holder, behind) in steps {
            table.update(HERE, changes);
            let port = table.node_port(80, Protocol::Tcp).unwrap();
            assert_eq!(port.service, format!("default/{holder}"));
            assert_eq!(port.balancer.endpoints(), [behind.parse().unwrap()]);
        }
        assert_eq!(at(&table, "10.43.0.1:80"), ["10.42.0.3:8080"]);
        assert!(table.service("default", "a").is_none() && table.service("default", "c").is_some());
        assert_eq!(Arc::as_ptr(&table.by_name["default"]["idle"]), idle, "what nothing happened to is not made anew");
        table.update(HERE, ["b", "c", "idle"].map(|gone| (name(gone), None)).into());
        assert!(table.by_name.is_empty() && table.by_address.is_empty() && table.addresses.is_empty());
        assert!(table.node_ports.is_empty());
    }

    #[test]
    fn hints_keep_traffic_in_its_zone_while_all_endpoints_have_them() {
        let cases = [
            (vec!["a", "b"], Some("a"), 1),
            (vec!["a", "b", "a"], Some("a"), 2),
            (vec!["a", "b"], Some("c"), 2),
            (vec!["a", "b"], None, 2),
            (vec!["a", ""], Some("a"), 2),
            (vec!["", ""], Some("a"), 2),
        ];
        for (zones, zone, expected) in cases {
            let hinted = |(last, zone): (usize, &&str)| Endpoint {
                zones: (!zone.is_empty()).then(|| (*zone).to_owned()).into_iter().collect(),
                ..endpoint(&format!("10.42.0.{last}"), true, false)
            };
            let slices = [slice(&[("", 1)], zones.iter().enumerate().map(hinted).collect())];
            let table = ServiceTable::of_node(Here { node: "here", zone }, vec![web(&[("", 80)])], &slices);
            assert_eq!(at(&table, "10.43.0.5:80").len(), expected, "{zones:?} from {zone:?}");
        }
    }

    #[test]
    fn local_traffic_policies_keep_to_this_node() {
        let on = |node: &str, address: &str| Endpoint { node: Some(node.into()), ..endpoint(address, true, false) };
        let slices = [slice(&[("", 1)], vec![on("here", "10.42.0.2"), on("there", "10.42.16.2")])];
        let cases = [(false, false, 2, 2), (true, false, 1, 2), (false, true, 2, 1), (true, true, 1, 1)];
        for (internal_local, external_local, inside, outside) in cases {
            let service = Service { internal_local, external_local, ..web(&[("", 80)]) };
            let table = ServiceTable::of_node(HERE, vec![service], &slices);
            assert_eq!(at(&table, "10.43.0.5:80").len(), inside);
            assert_eq!(table.node_port(30080, Protocol::Tcp).unwrap().balancer.endpoints().len(), outside);
        }
        let balanced = |name: &str| Service { name: name.into(), load_balancer: true, ..web(&[("", 80)]) };
        let table = ServiceTable::of_node(HERE, vec![balanced("web"), balanced("also")], &slices);
        assert_eq!(table.node_port(80, Protocol::Tcp).unwrap().service, "default/also");
        let nowhere = Service { internal_local: true, ..web(&[("", 80)]) };
        let elsewhere = Here { node: "elsewhere", zone: None };
        assert_eq!(at(&ServiceTable::of_node(elsewhere, vec![nowhere], &slices), "10.43.0.5:80"), [""; 0]);
    }
}
