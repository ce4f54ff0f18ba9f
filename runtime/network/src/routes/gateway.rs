//! The Gateway API's routes, turned into ours.
//!
//! Which route hangs on which Gateway is decided by a controller, which writes it into the route's status; only such
//! routes come here. Left to this table: which hosts a route and a listener share, and the order of the routes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::matching::Matcher;
use super::options::Options;
use super::{Certificate, Labels, Route, RouteTable, Rule, Share};

/// What the Gateway API says of this cluster.
#[derive(Clone, Debug, Default)]
pub struct Gateways {
    /// Listeners of Gateways that are ours.
    pub listeners: Vec<Listener>,
    /// Routes that hang on one of them.
    pub routes: Vec<HttpRoute>,
}

/// A listener of a Gateway.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// Namespace of its Gateway.
    pub namespace: String,
    /// Name of its Gateway.
    pub gateway: String,
    /// Its own name.
    pub name: String,
    /// Its port; the server's own ports are what clients see.
    pub port: u16,
    /// Empty for every host; `*.example.com` for all below.
    pub hostname: String,
    /// Protocol `HTTPS`.
    pub secure: bool,
    /// Namespace and name of the Secrets with its certificates.
    pub certificates: Vec<(String, String)>,
    /// Namespaces whose routes it takes.
    pub allowed: Allowed,
}

/// Whose routes a listener takes.
#[derive(Clone, Debug, Default)]
pub enum Allowed {
    /// Those of the Gateway's own namespace.
    #[default]
    Same,
    /// Everybody's.
    All,
    /// Those of these namespaces.
    Namespaces(BTreeSet<String>),
}

/// An HTTPRoute.
#[derive(Clone, Debug, Default)]
pub struct HttpRoute {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp` in seconds since the epoch.
    pub created: i64,
    /// `spec.hostnames`; none means those of the listener.
    pub hostnames: Vec<String>,
    /// What it hangs on.
    pub parents: Vec<Parent>,
    /// `spec.rules`.
    pub rules: Vec<HttpRule>,
}

/// A Gateway, or one listener of it.
#[derive(Clone, Debug, Default)]
pub struct Parent {
    /// Namespace of the Gateway.
    pub namespace: String,
    /// Its name.
    pub gateway: String,
    /// `sectionName`: one listener only.
    pub section: Option<String>,
    /// `port`: listeners with this port only.
    pub port: Option<u16>,
}

/// One rule of a route.
#[derive(Clone, Debug, Default)]
pub struct HttpRule {
    /// One of them must fit.
    pub matches: Vec<Matcher>,
    /// `backendRefs`.
    pub shares: Vec<Share>,
    /// Filters and timeouts.
    pub options: Options,
}

impl Listener {
    /// Whether a route that hangs on `parent` is served here.
    #[must_use]
    pub fn takes(&self, route: &HttpRoute, parent: &Parent) -> bool {
        let named = parent.gateway == self.gateway && parent.namespace == self.namespace;
        let section = parent.section.as_ref().is_none_or(|section| *section == self.name);
        let allowed = match &self.allowed {
            Allowed::Same => route.namespace == self.namespace,
            Allowed::All => true,
            Allowed::Namespaces(names) => names.contains(&route.namespace),
        };
        named && section && parent.port.is_none_or(|port| port == self.port) && allowed
    }
}

pub(super) fn insert(table: &mut RouteTable, gateways: Gateways) {
    for listener in &gateways.listeners {
        table.want_certificates(listener.certificates.iter().map(|(namespace, secret)| Certificate {
            host: listener.hostname.to_ascii_lowercase(),
            namespace: namespace.clone(),
            secret: secret.clone(),
        }));
    }
    for route in gateways.routes {
        insert_one(table, &gateways.listeners, route);
    }
}

fn insert_one(table: &mut RouteTable, listeners: &[Listener], mut route: HttpRoute) {
    let rules = std::mem::take(&mut route.rules);
    let served: Vec<&Listener> =
        listeners.iter().filter(|listener| route.parents.iter().any(|parent| listener.takes(&route, parent))).collect();
    for (number, rule) in rules.into_iter().enumerate() {
        let name = format!("httproute/{}/{}/{number}", route.namespace, route.name);
        let done = Arc::new(Rule::new(name, rule.shares, rule.options));
        for listener in &served {
            for host in hosts(&route.hostnames, &listener.hostname) {
                for matcher in &rule.matches {
                    let matcher = Matcher { plain: !listener.secure, secure: listener.secure, ..matcher.clone() };
                    let route = Route { matcher, created: route.created, rule: done.clone() };
                    table.insert(&host, Labels::Many, route);
                }
            }
        }
    }
}

/// The hosts that a route and a listener share.
#[must_use]
pub fn hosts(route: &[String], listener: &str) -> Vec<String> {
    let listener = listener.to_ascii_lowercase();
    if route.is_empty() {
        return vec![listener];
    }
    let shared = |host: &String| shared(&host.to_ascii_lowercase(), &listener);
    route.iter().filter_map(shared).collect()
}

fn shared(route: &str, listener: &str) -> Option<String> {
    let under = |host: &str, wildcard: &str| {
        let suffix = wildcard.strip_prefix('*').unwrap_or(wildcard);
        // `*.a.test` is under `*.test`, and itself under itself.
        host.strip_suffix(suffix).is_some_and(|label| !label.is_empty())
    };
    if listener.is_empty() || route == listener || (listener.starts_with("*.") && under(route, listener)) {
        return Some(route.to_owned());
    }
    (route.starts_with("*.") && under(listener, route)).then(|| listener.to_owned())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::routes::matching::PathMatch;
    use crate::routes::{Asked, Backend};
    use crate::services::PortRef;

    #[test]
    fn hosts_that_both_sides_name() {
        let cases = [
            ("a.test", "", Some("a.test")),
            ("a.test", "a.test", Some("a.test")),
            ("a.test", "*.test", Some("a.test")),
            ("x.a.test", "*.test", Some("x.a.test")),
            ("*.a.test", "*.test", Some("*.a.test")),
            ("*.test", "x.a.test", Some("x.a.test")),
            ("*.test", "*.test", Some("*.test")),
            ("test", "*.test", None),
            ("a.test", "b.test", None),
            ("A.Test", "*.TEST", Some("a.test")),
        ];
        for (route, listener, expected) in cases {
            let expected: Vec<String> = expected.map(str::to_owned).into_iter().collect();
            assert_eq!(hosts(&[route.to_owned()], listener), expected, "{route} {listener}");
        }
        assert_eq!(hosts(&[], "*.test"), ["*.test"]);
    }

    fn route(name: &str, hosts: &[&str], path: &str, section: Option<&str>) -> HttpRoute {
        let port = PortRef::Number(80);
        let backend = Backend { namespace: "shop".into(), service: name.into(), port, h2c: false };
        let parent = Parent {
            namespace: "infra".into(),
            gateway: "edge".into(),
            section: section.map(str::to_owned),
            port: None,
        };
        HttpRoute {
            namespace: "shop".into(),
            name: name.into(),
            created: 0,
            hostnames: hosts.iter().map(|host| (*host).to_owned()).collect(),
            parents: vec![parent],
            rules: vec![HttpRule {
                matches: vec![Matcher::path(PathMatch::prefix(path))],
                shares: vec![Share::all(backend)],
                options: Options::default(),
            }],
        }
    }

    #[test]
    fn routes_are_served_where_they_hang() {
        let listener = |name: &str, hostname: &str, secure, allowed| Listener {
            namespace: "infra".into(),
            gateway: "edge".into(),
            name: name.into(),
            hostname: hostname.into(),
            secure,
            allowed,
            ..Listener::default()
        };
        let listeners = vec![
            listener("http", "*.test", false, Allowed::All),
            listener("https", "", true, Allowed::Namespaces(["shop".to_owned()].into())),
            listener("own", "", false, Allowed::Same),
        ];
        let routes = vec![
            route("all", &[], "/", None),
            route("deep", &["*.a.test"], "/deep", None),
            route("secure", &["a.test"], "/only", Some("https")),
            route("nowhere", &["b.test"], "/", Some("own")),
        ];
        let table = RouteTable::build(Vec::new(), &[], Gateways { listeners, routes });
        let found = |host: &str, path: &str, secure: bool| {
            let headers = HeaderMap::new();
            let asked = Asked { host, path, query: None, method: &Method::GET, headers: &headers, secure };
            table.find(&asked).map(|found| found.rule.name.split('/').nth(2).unwrap().to_owned())
        };
        let cases = [
            ("x.test", "/", false, Some("all")),
            ("x.y.test", "/", false, Some("all")),
            ("test", "/", false, None),
            ("other", "/", true, Some("all")),
            ("x.a.test", "/deep/er", false, Some("deep")),
            ("x.y.a.test", "/deep", true, Some("deep")),
            ("a.test", "/only", false, Some("all")),
            ("a.test", "/only", true, Some("secure")),
            ("b.test", "/", false, Some("all")),
        ];
        for (host, path, secure, expected) in cases {
            assert_eq!(found(host, path, secure).as_deref(), expected, "{host}{path} {secure}");
        }
    }
}
