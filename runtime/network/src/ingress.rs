//! Ingress objects, turned into a table that routes a host and a path to a Service port.
//!
//! [`IngressTable::build`] is pure. Precedence is Kubernetes': the most specific host first (a rule without a host
//! applies to all), then the longest path, then `Exact` before `Prefix`, then the older object.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::services::PortRef;

/// The IngressClass that is ours without anybody creating it.
pub const CLASS: &str = "kogia";

/// The `spec.controller` of IngressClasses that are ours.
pub const CONTROLLER: &str = "kogia.dev/ingress";

/// An Ingress, reduced to what routing reads.
#[derive(Clone, Debug, Default)]
pub struct Ingress {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp` in seconds since the epoch.
    pub created: i64,
    /// `spec.ingressClassName`, or the annotation `kubernetes.io/ingress.class`.
    pub class: Option<String>,
    /// `spec.defaultBackend.service`.
    pub default_backend: Option<(String, PortRef)>,
    /// `spec.rules`.
    pub rules: Vec<Rule>,
    /// `spec.tls`.
    pub tls: Vec<Tls>,
}

/// One rule: a host, and paths under it.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Empty for every host; `*.example.com` for one label more.
    pub host: String,
    /// Empty means that the default backend answers for the host.
    pub paths: Vec<Path>,
}

/// One path of a rule.
#[derive(Clone, Debug)]
pub struct Path {
    /// `path`; empty counts as `/`.
    pub path: String,
    /// `pathType: Exact`; `Prefix` and `ImplementationSpecific` are both prefixes of whole segments.
    pub exact: bool,
    /// The Service and its port.
    pub backend: (String, PortRef),
}

/// One entry of `spec.tls`.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Hosts the certificate is for; empty means those of the rules.
    pub hosts: Vec<String>,
    /// `secretName`.
    pub secret: Option<String>,
}

/// An IngressClass, reduced likewise.
#[derive(Clone, Debug)]
pub struct IngressClass {
    /// `metadata.name`.
    pub name: String,
    /// `spec.controller`.
    pub controller: String,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Namespace of the Ingress and of its Service.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// Its port.
    pub port: PortRef,
    /// The name of the Ingress, for traces.
    pub ingress: String,
}

/// A host whose certificate lies in a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The host, possibly a wildcard.
    pub host: String,
    /// Namespace of the Secret.
    pub namespace: String,
    /// Its name.
    pub secret: String,
}

#[derive(Debug)]
struct Route {
    /// Without the trailing slash; the root is empty.
    path: String,
    exact: bool,
    backend: Arc<Backend>,
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        if self.exact {
            return path == self.path;
        }
        path.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// All routes of the cluster's Ingress objects that are ours.
#[derive(Debug, Default)]
pub struct IngressTable {
    hosts: HashMap<String, Vec<Route>>,
    /// `*.example.com` under `example.com`.
    wildcards: HashMap<String, Vec<Route>>,
    any: Vec<Route>,
    default: Option<Arc<Backend>>,
    certificates: Vec<Certificate>,
}

impl IngressTable {
    /// Builds the table from the Ingress objects whose class is ours.
    #[must_use]
    pub fn build(mut ingresses: Vec<Ingress>, classes: &[IngressClass]) -> Self {
        ingresses.retain(|ingress| is_ours(ingress.class.as_deref(), classes));
        ingresses.sort_by(|a, b| (a.created, &a.namespace, &a.name).cmp(&(b.created, &b.namespace, &b.name)));
        let mut table = Self::default();
        for ingress in &ingresses {
            table.insert(ingress);
        }
        let all = table.hosts.values_mut().chain(table.wildcards.values_mut()).chain([&mut table.any]);
        for routes in all {
            // Stable: of two equal paths the older object's stays first.
            routes.sort_by_key(|route| (std::cmp::Reverse(route.path.len()), !route.exact));
        }
        table
    }

    fn insert(&mut self, ingress: &Ingress) {
        let backend = |(service, port): &(String, PortRef)| {
            Arc::new(Backend {
                namespace: ingress.namespace.clone(),
                service: service.clone(),
                port: port.clone(),
                ingress: ingress.name.clone(),
            })
        };
        let default = ingress.default_backend.as_ref().map(backend);
        for rule in &ingress.rules {
            let routes = self.routes_of(&rule.host.to_ascii_lowercase());
            for path in &rule.paths {
                // An exact path keeps its slash: `/foo/` and `/foo` are two paths there.
                let matched = if path.exact { path.path.as_str() } else { path.path.trim_end_matches('/') };
                routes.push(Route { path: matched.to_owned(), exact: path.exact, backend: backend(&path.backend) });
            }
            if let (true, Some(backend)) = (rule.paths.is_empty(), &default) {
                routes.push(Route { path: String::new(), exact: false, backend: backend.clone() });
            }
        }
        self.default = self.default.take().or(default);
        for tls in &ingress.tls {
            let Some(secret) = &tls.secret else { continue };
            let rules: Vec<String>;
            let hosts = if tls.hosts.is_empty() {
                rules = ingress.rules.iter().map(|rule| rule.host.clone()).filter(|host| !host.is_empty()).collect();
                &rules
            } else {
                &tls.hosts
            };
            self.certificates.extend(hosts.iter().map(|host| Certificate {
                host: host.to_ascii_lowercase(),
                namespace: ingress.namespace.clone(),
                secret: secret.clone(),
            }));
        }
    }

    fn routes_of(&mut self, host: &str) -> &mut Vec<Route> {
        match host.strip_prefix("*.") {
            Some(suffix) => self.wildcards.entry(suffix.to_owned()).or_default(),
            None if host.is_empty() => &mut self.any,
            None => self.hosts.entry(host.to_owned()).or_default(),
        }
    }

    /// Where a request for this host (as in the `Host` header, a port is ignored) and path goes.
    #[must_use]
    pub fn route(&self, host: &str, path: &str) -> Option<&Arc<Backend>> {
        let host = bare_host(host);
        let exact = self.hosts.get(&*host);
        let wildcard = host.split_once('.').and_then(|(first, rest)| {
            // One label, and not an empty one: `*.example.com` is not `.example.com`.
            if first.is_empty() { None } else { self.wildcards.get(rest) }
        });
        let routes = exact.into_iter().chain(wildcard).chain([&self.any]).flatten();
        let mut matching = routes.filter(|route| route.matches(path));
        matching.next().map(|route| &route.backend).or(self.default.as_ref())
    }

    /// The certificates that hosts want, oldest Ingress first.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }
}

/// Ours are: no class, our class, a class of our controller, and a class that nobody has defined. The last is why a
/// manifest written for another controller works where only we are installed.
fn is_ours(class: Option<&str>, classes: &[IngressClass]) -> bool {
    let Some(class) = class else { return true };
    match classes.iter().find(|candidate| candidate.name == class) {
        Some(defined) => defined.controller == CONTROLLER,
        None => true,
    }
}

/// A `Host` header without port and trailing dot, in lower case.
#[must_use]
pub fn bare_host(host: &str) -> Cow<'_, str> {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    let bare = host[..end].trim_end_matches('.');
    if bare.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}
