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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn port(number: u16) -> PortRef {
        PortRef::Number(number)
    }

    /// `host path[=]→service …`, where `=` after a path makes it exact.
    fn rule(text: &str) -> Rule {
        let mut words = text.split(' ');
        let host = words.next().unwrap().trim_start_matches('-').to_owned();
        let path = |word: &str| {
            let (path, service) = word.split_once('→').unwrap();
            let exact = path.ends_with('=');
            Path { path: path.trim_end_matches('=').to_owned(), exact, backend: (service.to_owned(), port(80)) }
        };
        Rule { host, paths: words.map(path).collect() }
    }

    fn ingress(name: &str, rules: &[&str]) -> Ingress {
        let rules = rules.iter().map(|text| rule(text)).collect();
        Ingress { namespace: "default".into(), name: name.into(), rules, ..Ingress::default() }
    }

    fn routed<'a>(table: &'a IngressTable, url: &str) -> &'a str {
        let (host, path) = url.split_at(url.find('/').unwrap());
        table.route(host, path).map_or("-", |backend| backend.service.as_str())
    }

    /// The table of the Kubernetes documentation, "Path types: examples", and its neighbours.
    #[test]
    fn paths_match_as_documented() {
        let cases = [
            ("/→s", "/any/path", true),
            ("→s", "/any/path", true),
            ("/foo=→s", "/foo", true),
            ("/foo=→s", "/bar", false),
            ("/foo=→s", "/foo/", false),
            ("/foo/=→s", "/foo", false),
            ("/foo/=→s", "/foo/", true),
            ("/foo→s", "/foo", true),
            ("/foo→s", "/foo/", true),
            ("/foo/→s", "/foo", true),
            ("/foo/→s", "/foo/", true),
            ("/aaa/bb→s", "/aaa/bbb", false),
            ("/aaa/bbb→s", "/aaa/bbb", true),
            ("/aaa/bbb/→s", "/aaa/bbb", true),
            ("/aaa/bbb→s", "/aaa/bbb/", true),
            ("/aaa/bbb→s", "/aaa/bbb/ccc", true),
            ("/aaa/bbb→s", "/aaa/bbbxyz", false),
            ("/foo→s", "/FOO", false),
        ];
        for (path, request, matches) in cases {
            let table = IngressTable::build(vec![ingress("a", &[&format!("- {path}")])], &[]);
            assert_eq!(table.route("h", request).is_some(), matches, "{path} {request}");
        }
    }

    #[test]
    fn the_most_specific_rule_wins() {
        let table = IngressTable::build(
            vec![ingress(
                "a",
                &[
                    "- /→any /deep/er→any-deep",
                    "*.example.com /→wild /w→wild-w",
                    "www.example.com /→www /api→api /api/v1→v1 /api=→api-exact",
                    "Shop.Example.com /cart→cart",
                ],
            )],
            &[],
        );
        let cases = [
            ("www.example.com/", "www"),
            ("WWW.example.com:8080/x", "www"),
            ("www.example.com./x", "www"),
            ("www.example.com/api", "api-exact"),
            ("www.example.com/api/", "api"),
            ("www.example.com/api/v1/x", "v1"),
            ("www.example.com/api/v10", "api"),
            ("www.example.com/w", "www"),
            ("shop.example.com/cart/1", "cart"),
            ("shop.example.com/other", "wild"),
            ("a.example.com/w/1", "wild-w"),
            ("a.b.example.com/", "any"),
            ("example.com/", "any"),
            (".example.com/", "any"),
            ("/", "any"),
            ("[fd42::1]:8080/deep/er/x", "any-deep"),
            ("nobody.test/deep", "any"),
        ];
        for (url, expected) in cases {
            assert_eq!(routed(&table, url), expected, "{url}");
        }
    }

    #[test]
    fn the_default_backend_answers_for_the_rest() {
        let backend = Some(("fallback".to_owned(), PortRef::Name("http".into())));
        let rules = ["a.test /x→x", "b.test"];
        let with = Ingress { default_backend: backend, ..ingress("a", &rules) };
        let table = IngressTable::build(vec![with, ingress("b", &["- /only→any"])], &[]);
        let cases = [
            ("a.test/x", "x"),
            ("a.test/y", "fallback"),
            ("b.test/only", "fallback"),
            ("c.test/only", "any"),
            ("c.test/", "fallback"),
        ];
        for (url, expected) in cases {
            assert_eq!(routed(&table, url), expected, "{url}");
        }
        let without = IngressTable::build(vec![ingress("a", &rules)], &[]);
        assert_eq!(routed(&without, "a.test/y"), "-");
        assert_eq!(routed(&without, "b.test/"), "-");
    }

    #[test]
    fn of_two_equal_rules_the_older_one_stays() {
        let aged = |name: &str, created| Ingress { created, ..ingress(name, &[&format!("h /→{name}")]) };
        for order in [["old", "new"], ["new", "old"]] {
            let ingresses = order.iter().map(|name| aged(name, if *name == "old" { 1 } else { 2 })).collect();
            assert_eq!(routed(&IngressTable::build(ingresses, &[]), "h/"), "old");
        }
    }

    #[test]
    fn classes_say_whose_an_ingress_is() {
        let defined = |name: &str, controller: &str| IngressClass { name: name.into(), controller: controller.into() };
        let classes = [defined("nginx", "k8s.io/ingress-nginx"), defined("edge", CONTROLLER)];
        for (class, ours) in
            [(None, true), (Some(CLASS), true), (Some("edge"), true), (Some("nginx"), false), (Some("unknown"), true)]
        {
            let ingress = Ingress { class: class.map(str::to_owned), ..ingress("a", &["- /→s"]) };
            let table = IngressTable::build(vec![ingress], &classes);
            assert_eq!(table.route("h", "/").is_some(), ours, "{class:?}");
        }
    }

    #[test]
    fn certificates_are_for_the_named_hosts_or_those_of_the_rules() {
        let tls = |hosts: &[&str], secret: Option<&str>| Tls {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            secret: secret.map(str::to_owned),
        };
        let tls = vec![tls(&["A.test", "*.b.test"], Some("one")), tls(&[], Some("two")), tls(&["c.test"], None)];
        let table = IngressTable::build(vec![Ingress { tls, ..ingress("a", &["r.test /→s", "- /→s"]) }], &[]);
        let found: Vec<_> =
            table.certificates().iter().map(|wanted| (wanted.host.as_str(), wanted.secret.as_str())).collect();
        assert_eq!(found, [("a.test", "one"), ("*.b.test", "one"), ("r.test", "two")]);
    }

    /// The specification word by word, slow and without a table.
    fn naive<'a>(ingresses: &'a [Ingress], host: &str, path: &str) -> Option<&'a str> {
        let mut best: Option<((u8, usize, bool), &str)> = None;
        for rule in ingresses.iter().flat_map(|ingress| &ingress.rules) {
            let host_rank = match rule.host.strip_prefix('*') {
                Some(suffix) if host.ends_with(suffix) && !host[..host.len() - suffix.len()].contains('.') => 1,
                None if rule.host == host => 2,
                None if rule.host.is_empty() => 0,
                _ => continue,
            };
            for candidate in &rule.paths {
                let segments =
                    |path: &str| -> Vec<String> { path.trim_end_matches('/').split('/').map(str::to_owned).collect() };
                let (wanted, asked) = (segments(&candidate.path), segments(path));
                let matches = if candidate.exact { path == candidate.path } else { asked.starts_with(&wanted) };
                let length = if candidate.exact { candidate.path.len() } else { wanted.join("/").len() };
                let rank = (host_rank, length, candidate.exact);
                if matches && best.is_none_or(|(other, _)| rank > other) {
                    best = Some((rank, &candidate.backend.0));
                }
            }
        }
        best.map(|(_, service)| service)
    }

    #[test]
    fn the_table_agrees_with_the_specification() {
        let hosts = ["", "a.test", "b.test", "*.test", "*.a.test", "x.a.test"];
        let paths = ["/", "/a", "/a/", "/a/b", "/ab", "/b", "/a/b/c", "/a/b/"];
        for seed in 1..400 {
            let mut random = Random(seed);
            let mut one = |number: usize| {
                let path = Path {
                    path: paths[random.below(paths.len())].to_owned(),
                    exact: random.below(3) == 0,
                    backend: (format!("s{number}"), port(80)),
                };
                let host = hosts[random.below(hosts.len())].to_owned();
                Ingress { rules: vec![Rule { host, paths: vec![path] }], ..ingress(&format!("{number:02}"), &[]) }
            };
            let ingresses: Vec<Ingress> = (0..8).map(&mut one).collect();
            let table = IngressTable::build(ingresses.clone(), &[]);
            for host in ["a.test", "b.test", "c.test", "x.a.test", "y.a.test", "z.x.a.test", "other"] {
                for path in paths.iter().chain(&["/c", "/abc", "/a/c", "/a/b/c/d"]) {
                    let found = table.route(host, path).map(|backend| backend.service.as_str());
                    assert_eq!(found, naive(&ingresses, host, path), "seed {seed} {host}{path} {ingresses:?}");
                }
            }
        }
    }
}
