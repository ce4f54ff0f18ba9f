//! Kubernetes objects, reduced to what the network reads. Pure; what cannot be read is left out.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use network::routes::annotations;
use network::routes::ingress::{Ingress, IngressClass, Path, PathKind, Rule, Tls};
use network::services::{Endpoint, EndpointSlice, PortRef, Protocol, Service, ServicePort};

/// Names the Service an EndpointSlice belongs to (KEP-752).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is absent.
const AFFINITY_DEFAULT: Duration = Duration::from_secs(10_800);

/// What named the class before `spec.ingressClassName` did; still widely used.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The class of Ingresses that name none.
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

pub(super) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}

/// A Service; ports of other protocols than TCP and UDP are left out.
#[must_use]
pub fn service(object: &core::Service) -> Service {
    let spec = object.spec.clone().unwrap_or_default();
    let external = spec.type_.as_deref() == Some("ExternalName");
    // `clusterIP` stands for the first of `clusterIPs` where only it is set.
    let cluster_ips = spec.cluster_ips.filter(|ips| !ips.is_empty()).or(spec.cluster_ip.map(|ip| vec![ip]));
    let exposed = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let seconds = spec.session_affinity_config.and_then(|config| config.client_ip?.timeout_seconds);
    let affinity =
        seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(AFFINITY_DEFAULT, Duration::from_secs);
    let ports = spec.ports.unwrap_or_default().into_iter().filter_map(|entry| {
        Some(ServicePort {
            name: entry.name.unwrap_or_default(),
            protocol: protocol(entry.protocol.as_deref())?,
            port: port(entry.port)?,
            node_port: entry.node_port.filter(|_| exposed).and_then(port),
            h2c: matches!(entry.app_protocol.as_deref(), Some("kubernetes.io/h2c" | "h2c" | "grpc")),
        })
    });
    Service {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
        // `None` of a headless Service is no address.
        cluster_ips: cluster_ips.unwrap_or_default().iter().filter_map(|ip| ip.parse().ok()).collect(),
        external_name: spec.external_name.filter(|_| external),
        ports: ports.collect(),
        affinity: (spec.session_affinity.as_deref() == Some("ClientIP")).then_some(affinity),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: exposed && spec.external_traffic_policy.as_deref() == Some("Local"),
        load_balancer: spec.type_.as_deref() == Some("LoadBalancer"),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
    }
}

/// The name of the Service that an EndpointSlice belongs to.
pub(super) fn service_of(object: &discovery::EndpointSlice) -> Option<&str> {
    object.metadata.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str)
}

/// An EndpointSlice of addresses; `None` when it belongs to no Service or holds names (`addressType: FQDN`).
#[must_use]
pub fn slice(object: &discovery::EndpointSlice) -> Option<EndpointSlice> {
    if object.address_type == "FQDN" {
        return None;
    }
    let service = service_of(object)?.to_owned();
    let ports = object.ports.iter().flatten().filter_map(|entry| {
        Some((entry.name.clone().unwrap_or_default(), protocol(entry.protocol.as_deref())?, port(entry.port?)?))
    });
    Some(EndpointSlice {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        service,
        ports: ports.collect(),
        endpoints: object.endpoints.iter().filter_map(endpoint).collect(),
    })
}

fn endpoint(object: &discovery::Endpoint) -> Option<Endpoint> {
    let address: IpAddr = object.addresses.first()?.parse().ok()?;
    let conditions = object.conditions.clone().unwrap_or_default();
    // "ready: nil should be interpreted as true"; serving follows ready where it is absent.
    let ready = conditions.ready.unwrap_or(true);
    Some(Endpoint {
        address,
        hostname: object.hostname.clone().filter(|hostname| !hostname.is_empty()),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: object.node_name.clone(),
        zones: object
            .hints
            .iter()
            .flat_map(|hints| hints.for_zones.iter().flatten())
            .map(|zone| zone.name.clone())
            .collect(),
    })
}

/// An Ingress; paths whose backend is not a Service are left out.
pub(super) fn ingress(object: &networking::Ingress) -> Ingress {
    let metadata = &object.metadata;
    let spec = object.spec.clone().unwrap_or_default();
    let annotated = metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION).cloned());
    let rules = spec.rules.unwrap_or_default().into_iter().map(|rule| {
        let paths = rule.http.map(|http| http.paths).unwrap_or_default();
        Rule { host: rule.host.unwrap_or_default(), paths: paths.into_iter().filter_map(path).collect() }
    });
    let tls = spec.tls.unwrap_or_default().into_iter();
    let all = metadata.annotations.iter().flatten();
    let known = all.filter_map(|(name, text)| Some((name.strip_prefix(annotations::PREFIX)?.to_owned(), text.clone())));
    Ingress {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        class: spec.ingress_class_name.or(annotated),
        default_backend: spec.default_backend.and_then(backend),
        rules: rules.collect(),
        tls: tls.map(|tls| Tls { hosts: tls.hosts.unwrap_or_default(), secret: tls.secret_name }).collect(),
        annotations: known.collect(),
    }
}

fn path(object: networking::HTTPIngressPath) -> Option<Path> {
    Some(Path {
        path: object.path.unwrap_or_default(),
        kind: match object.path_type.as_str() {
            "Exact" => PathKind::Exact,
            "ImplementationSpecific" => PathKind::ImplementationSpecific,
            _ => PathKind::Prefix,
        },
        backend: backend(object.backend)?,
    })
}

fn backend(object: networking::IngressBackend) -> Option<(String, PortRef)> {
    let service = object.service?;
    let named = service.port?;
    let port = match (named.number.and_then(port), named.name) {
        (Some(number), _) => PortRef::Number(number),
        (None, Some(name)) => PortRef::Name(name),
        (None, None) => return None,
    };
    Some((service.name, port))
}

/// An IngressClass.
pub(super) fn class(object: &networking::IngressClass) -> IngressClass {
    IngressClass {
        name: object.metadata.name.clone().unwrap_or_default(),
        controller: object.spec.clone().unwrap_or_default().controller.unwrap_or_default(),
        default: object
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(DEFAULT_CLASS))
            .is_some_and(|text| text == "true"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn a_service_as_the_api_has_it() {
        let read = |spec: Value| {
            service(&from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).unwrap())
        };
        let full = read(json!({
            "type": "NodePort", "clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd43::5"],
            "sessionAffinity": "ClientIP", "publishNotReadyAddresses": true, "externalName": "ignored",
            "externalTrafficPolicy": "Local",
            "ports": [
                {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "phone", "port": 5060, "protocol": "SCTP"},
            ],
        }));
        assert_eq!((full.namespace.as_str(), full.name.as_str()), ("shop", "web"));
        assert_eq!(full.cluster_ips.len(), 2);
        assert!(full.publish_not_ready && full.external_name.is_none());
        assert_eq!((full.affinity, full.internal_local, full.external_local), (Some(AFFINITY_DEFAULT), false, true));
        let short =
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}}});
        assert_eq!(read(short).affinity, Some(Duration::from_secs(9)));
        let local = read(json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}));
        assert_eq!((local.affinity, local.internal_local, local.external_local), (None, true, false));
        let ports: Vec<_> = full.ports.iter().map(|port| (port.port, port.protocol, port.node_port)).collect();
        assert_eq!(ports, [(80, Protocol::Tcp, Some(30080)), (53, Protocol::Udp, None)]);

        assert!(read(json!({"clusterIP": "None", "clusterIPs": ["None"]})).cluster_ips.is_empty());
        assert_eq!(read(json!({"clusterIP": "10.43.0.9"})).cluster_ips.len(), 1);
        let alias = read(json!({"type": "ExternalName", "externalName": "example.com"}));
        assert_eq!(alias.external_name.as_deref(), Some("example.com"));
    }

    #[test]
    fn a_slice_as_the_api_has_it() {
        let read = |kind: &str, labels: Value| {
            slice(
                &from_value(json!({
                    "addressType": kind, "metadata": {"namespace": "shop", "labels": labels},
                    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"port": null}],
                    "endpoints": [
                        {"addresses": ["10.42.0.2"], "hostname": "db-0", "nodeName": "n1"},
                        {"addresses": ["10.42.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                        {"addresses": ["10.42.0.4"], "conditions": {"ready": false}},
                        {"addresses": ["nonsense"]},
                        {"addresses": []},
                    ],
                }))
                .unwrap(),
            )
        };
        let read_one = read("IPv4", json!({SERVICE_NAME: "web"})).unwrap();
        assert_eq!(read_one.ports, [("http".to_owned(), Protocol::Tcp, 8080)]);
        let conditions: Vec<_> = read_one.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
        assert_eq!(conditions, [(true, true, false), (false, true, true), (false, false, false)]);
        assert_eq!(read_one.endpoints[0].hostname.as_deref(), Some("db-0"));
        assert_eq!(read_one.endpoints[0].node.as_deref(), Some("n1"));
        assert!(read("FQDN", json!({SERVICE_NAME: "web"})).is_none());
        assert!(read("IPv4", json!({})).is_none());
    }

    #[test]
    fn an_ingress_as_the_api_has_it() {
        let object = json!({
            "metadata": {
                "name": "web", "namespace": "shop", "creationTimestamp": "1970-01-01T00:01:00Z",
                "annotations": {CLASS_ANNOTATION: "old", "nginx.ingress.kubernetes.io/use-regex": "true", "other": "x"},
            },
            "spec": {
                "defaultBackend": {"service": {"name": "rest", "port": {"name": "http"}}},
                "tls": [{"hosts": ["a.test"], "secretName": "cert"}],
                "rules": [{"host": "a.test", "http": {"paths": [
                    {"path": "/x", "pathType": "Exact", "backend": {"service": {"name": "x", "port": {"number": 80}}}},
                    {"pathType": "ImplementationSpecific", "backend": {"service": {"name": "y", "port": {"number": 81}}}},
                    {"path": "/z", "pathType": "Prefix", "backend": {"resource": {"kind": "Bucket", "name": "z"}}},
                ]}}],
            },
        });
        let read = ingress(&from_value(object).unwrap());
        assert_eq!((read.created, read.class.as_deref()), (60, Some("old")));
        assert_eq!(read.annotations, [("use-regex".to_owned(), "true".to_owned())].into());
        assert_eq!(read.default_backend, Some(("rest".to_owned(), PortRef::Name("http".into()))));
        let paths: Vec<_> =
            read.rules[0].paths.iter().map(|p| (p.path.as_str(), p.kind, p.backend.0.as_str())).collect();
        assert_eq!(paths, [("/x", PathKind::Exact, "x"), ("", PathKind::ImplementationSpecific, "y")]);
        assert_eq!(
            (read.tls[0].hosts.as_slice(), read.tls[0].secret.as_deref()),
            (&["a.test".to_owned()][..], Some("cert"))
        );
    }
}
