//! Services of type LoadBalancer on this machine: their ports are opened on the host like NodePorts, and once all are open
//! the host's address stands in the Service's status. Of two Services that want the same port the first by name has it;
//! the other stays pending, as it does while a port is taken by another program.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use network::ServiceTable;
use network::services::Protocol;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::objects::{port, protocol};

/// Statuses that wait to be written; what does not fit is seen to with the next table.
const WRITES_MAX: usize = 256;

/// Whose implementation this is, for `spec.loadBalancerClass`; Services without a class are its own too.
const CLASS: &str = "kogia.dev/host";

/// A status to be written.
struct Write {
    service: Arc<Service>,
    ingress: Vec<LoadBalancerIngress>,
}

/// Keeps the statuses true.
pub(super) struct LoadBalancers {
    address: IpAddr,
    writes: mpsc::Sender<Write>,
    /// `namespace/name` of the Services that this process has said it serves.
    announced: HashSet<String>,
}

impl LoadBalancers {
    pub(super) fn new(client: Client, address: IpAddr, stop: CancellationToken) -> Self {
        let (writes, wanted) = mpsc::channel(WRITES_MAX);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = write(client, wanted) => {}
            }
        });
        Self { address, writes, announced: HashSet::new() }
    }

    /// Has the statuses written that are not what they should be.
    pub(super) fn follow(
        &mut self,
        services: &[Arc<Service>],
        table: &ServiceTable,
        is_open: impl Fn(u16, Protocol) -> bool,
    ) {
        for service in services.iter().filter(|service| is_balanced(service) || !said(service).is_empty()) {
            let name = format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any());
            let served = is_served(service, |port, protocol| {
                is_open(port, protocol)
                    && table.node_port(port, protocol).is_some_and(|exposed| exposed.service == name)
            });
            let own = self.announced.contains(&name);
            let Some(ingress) = should_say(service, self.address, served, own) else { continue };
            let wanted = Write { service: service.clone(), ingress };
            if self.writes.try_send(wanted).is_ok() {
                if served {
                    self.announced.insert(name)
                } else {
                    self.announced.remove(&name)
                };
            }
        }
    }
}

fn is_balanced(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let ours = spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS);
    spec.type_.as_deref() == Some("LoadBalancer") && ours
}

/// What its status says of where it is reached.
fn said(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

/// Whether every port of a Service is this machine's to serve.
fn is_served(service: &Service, is_open: impl Fn(u16, Protocol) -> bool) -> bool {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut ports = ports.map(|entry| (port(entry.port), protocol(entry.protocol.as_deref()))).peekable();
    let opened = |(port, protocol): (Option<u16>, Option<Protocol>)| {
        port.zip(protocol).is_some_and(|(port, protocol)| is_open(port, protocol))
    };
    is_balanced(service) && ports.peek().is_some() && ports.all(opened)
}

/// What `status.loadBalancer.ingress` should be; `None` where it is that already. Addresses of other machines stay; `own`
/// is whether this process has put its address there: another one of this machine may have, and it knows better.
fn should_say(service: &Service, address: IpAddr, served: bool, own: bool) -> Option<Vec<LoadBalancerIngress>> {
    let said = said(service);
    let text = address.to_string();
    let is_said = said.iter().any(|entry| entry.ip.as_deref() == Some(&text));
    let stays = served || (is_said && !own && is_balanced(service));
    if stays == is_said {
        return None;
    }
    let mut ingress: Vec<_> = said.iter().filter(|entry| entry.ip.as_deref() != Some(&text)).cloned().collect();
    if stays {
        ingress.push(LoadBalancerIngress {
            ip: Some(text),
            // Connections arrive with the host's own address, not past it (KEP-1860).
            ip_mode: Some("Proxy".to_owned()),
            ..LoadBalancerIngress::default()
        });
    }
    Some(ingress)
}

async fn write(client: Client, mut wanted: mpsc::Receiver<Write>) {
    while let Some(Write { service, ingress }) = wanted.recv().await {
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
        // Only over what was read: another machine may have added its own meanwhile, and the watch tells.
        let version = &service.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "status": {"loadBalancer": {"ingress": ingress}}});
        if let Err(error) = services.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            tracing::debug!(%namespace, %name, %error, "cannot say where a Service is served");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value};

    use super::*;

    fn service(kind: &str, ports: &Value, ingress: &Value) -> Service {
        from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"type": kind, "ports": ports},
            "status": {"loadBalancer": {"ingress": ingress}}}))
        .unwrap()
    }

    #[test]
    fn a_service_is_served_when_all_its_ports_are_open() {
        let cases = [
            ("LoadBalancer", json!([{"port": 80}, {"port": 443}]), true),
            ("LoadBalancer", json!([{"port": 80}, {"port": 81}]), false),
            ("LoadBalancer", json!([{"port": 80, "protocol": "UDP"}]), false),
            ("LoadBalancer", json!([{"port": 53, "protocol": "UDP"}, {"port": 80}]), true),
            ("LoadBalancer", json!([]), false),
            ("NodePort", json!([{"port": 80}]), false),
        ];
        for (kind, ports, expected) in cases {
            let open = [(80, Protocol::Tcp), (443, Protocol::Tcp), (53, Protocol::Udp)];
            let found = is_served(&service(kind, &ports, &json!([])), |port, way| open.contains(&(port, way)));
            assert_eq!(found, expected, "{kind} {ports}");
        }
        let mut other = service("LoadBalancer", &json!([{"port": 80}]), &json!([]));
        other.spec.as_mut().unwrap().load_balancer_class = Some("example.com/cloud".into());
        assert!(!is_served(&other, |_, _| true), "another implementation's");
    }

    #[test]
    fn the_status_has_this_address_and_keeps_others() {
        let (here, there) = (json!({"ip": "127.0.0.1"}), json!({"ip": "192.0.2.1"}));
        let ports = json!([{"port": 80}]);
        // Said, served, own; then what it should be: `None` is as it is.
        let cases = [
            (json!([]), true, false, Some(vec!["127.0.0.1"])),
            (json!([there]), true, false, Some(vec!["192.0.2.1", "127.0.0.1"])),
            (json!([here]), true, true, None),
            (json!([here, there]), false, true, Some(vec!["192.0.2.1"])),
            (json!([here]), false, false, None),
            (json!([]), false, true, None),
        ];
        for (said, served, own, expected) in cases {
            let object = service("LoadBalancer", &ports, &said);
            let wanted = should_say(&object, "127.0.0.1".parse().unwrap(), served, own);
            let wanted = wanted.map(|list| list.into_iter().filter_map(|entry| entry.ip).collect::<Vec<_>>());
            assert_eq!(wanted, expected.map(|list| list.into_iter().map(str::to_owned).collect()), "{said}");
        }
        let changed = service("ClusterIP", &ports, &json!([here]));
        assert_eq!(should_say(&changed, "127.0.0.1".parse().unwrap(), false, false), Some(Vec::new()));
    }
}
