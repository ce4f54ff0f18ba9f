//! One listener of a Gateway: is it sound, and whose routes does it take?

use api::selector::LabelSelector;
use api::{Object, View};
use serde_json::{Value, json};

use super::grants::{self, From, To};
use super::{GROUP, list};

/// What is wrong with a listener: condition, reason, sentence.
pub(super) struct Faults {
    pub(super) accepted: Option<(&'static str, String)>,
    pub(super) conflicted: Option<(&'static str, String)>,
    pub(super) refs: Option<(&'static str, String)>,
}

impl Faults {
    pub(super) fn any(&self) -> bool {
        self.accepted.is_some() || self.conflicted.is_some() || self.refs.is_some()
    }
}

/// Looks at one of the Gateway's listeners.
pub(super) fn look(view: &View, gateway: &Object, listener: &Value) -> Faults {
    let protocol = listener["protocol"].as_str().unwrap_or_default();
    let served = matches!(protocol, "HTTP" | "HTTPS");
    let passthrough = listener["tls"]["mode"] == "Passthrough";
    let accepted = if !served {
        Some(("UnsupportedProtocol", format!("protocol {protocol} is not served; HTTP and HTTPS are")))
    } else if passthrough {
        Some(("UnsupportedProtocol", "TLS is ended at the Gateway; mode Passthrough is not served".to_owned()))
    } else {
        None
    };
    let refs = kinds(listener).or_else(|| (protocol == "HTTPS").then(|| certificates(view, gateway, listener))?);
    Faults { accepted, conflicted: conflict(gateway, listener), refs }
}

fn conflict(gateway: &Object, listener: &Value) -> Option<(&'static str, String)> {
    let host = |listener: &Value| listener["hostname"].as_str().unwrap_or_default().to_ascii_lowercase();
    let others = list(gateway.field("spec.listeners")).filter(|other| other["name"] != listener["name"]);
    let port = others.filter(|other| other["port"] == listener["port"]);
    let mut clashes = port.filter_map(|other| {
        if other["protocol"] != listener["protocol"] {
            let name = &other["name"];
            return Some(("ProtocolConflict", format!("listener {name} has this port with another protocol")));
        }
        let same = host(other) == host(listener);
        same.then(|| ("HostnameConflict", format!("listener {} has this port and hostname too", other["name"])))
    });
    clashes.next()
}

/// The kinds of routes a listener takes that are served at all.
pub(super) fn supported(listener: &Value) -> Value {
    let asked = listener["allowedRoutes"]["kinds"].as_array().filter(|kinds| !kinds.is_empty());
    let takes = asked.is_none_or(|kinds| kinds.iter().any(is_http_route));
    if takes { json!([{"group": GROUP, "kind": "HTTPRoute"}]) } else { json!([]) }
}

fn is_http_route(kind: &Value) -> bool {
    kind["kind"] == "HTTPRoute" && kind["group"].as_str().unwrap_or(GROUP) == GROUP
}

fn kinds(listener: &Value) -> Option<(&'static str, String)> {
    let foreign = list(&listener["allowedRoutes"]["kinds"]).find(|kind| !is_http_route(kind))?;
    Some(("InvalidRouteKinds", format!("routes of kind {} are not served", foreign["kind"])))
}

fn certificates(view: &View, gateway: &Object, listener: &Value) -> Option<(&'static str, String)> {
    let references = &listener["tls"]["certificateRefs"];
    if list(references).next().is_none() {
        return Some(("InvalidCertificateRef", "an HTTPS listener needs a certificate".to_owned()));
    }
    let mut faults = list(references).filter_map(|reference| {
        let (kind, group) = (reference["kind"].as_str().unwrap_or("Secret"), reference["group"].as_str());
        let name = reference["name"].as_str().unwrap_or_default();
        let namespace = reference["namespace"].as_str().unwrap_or(gateway.namespace());
        if kind != "Secret" || !group.unwrap_or_default().is_empty() {
            return Some(("InvalidCertificateRef", format!("a certificate lies in a Secret, not in a {kind}")));
        }
        let from = From { kind: "Gateway", namespace: gateway.namespace() };
        if !grants::allow(view, &from, &To { kind, namespace, name }) {
            let message = format!("no ReferenceGrant of {namespace} lets this Gateway use Secret {name}");
            return Some(("RefNotPermitted", message));
        }
        let secret = view.get("secrets", namespace, name);
        let whole = |secret: &Object| {
            let field = |field| secret.value["data"][field].as_str().is_some_and(|text| !text.is_empty());
            secret.field("type") == "kubernetes.io/tls" && field("tls.crt") && field("tls.key")
        };
        match secret {
            None => Some(("InvalidCertificateRef", format!("Secret {namespace}/{name} does not exist"))),
            Some(secret) if !whole(secret) => {
                let message =
                    format!("Secret {namespace}/{name} is not of type kubernetes.io/tls with both its fields");
                Some(("InvalidCertificateRef", message))
            }
            Some(_) => None,
        }
    });
    faults.next()
}

/// Whether a listener takes routes of a namespace.
pub(super) fn admits(view: &View, gateway: &Object, listener: &Value, namespace: &str) -> bool {
    let spec = &listener["allowedRoutes"]["namespaces"];
    match spec["from"].as_str() {
        Some("All") => true,
        Some("Selector") => {
            let labels = view.get("namespaces", "", namespace).map(|one| one.field("metadata.labels"));
            labels.is_some_and(|labels| LabelSelector::from_value(&spec["selector"]).matches(labels))
        }
        _ => namespace == gateway.namespace(),
    }
}

/// Whether a route's hostnames and a listener's have one in common.
pub(super) fn shares_host(route: &Value, listener: &Value) -> bool {
    let own = listener["hostname"].as_str().unwrap_or_default().to_ascii_lowercase();
    let under = |host: &str, wildcard: &str| {
        let suffix = wildcard.strip_prefix('*').filter(|suffix| suffix.starts_with('.'));
        suffix.is_some_and(|suffix| host.strip_suffix(suffix).is_some_and(|label| !label.is_empty()))
    };
    let shared = |host: &Value| {
        let host = host.as_str().unwrap_or_default().to_ascii_lowercase();
        host == own || under(&host, &own) || under(&own, &host)
    };
    own.is_empty() || route.as_array().is_none_or(Vec::is_empty) || list(route).any(shared)
}
