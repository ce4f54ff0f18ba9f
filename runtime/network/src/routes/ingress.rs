//! Ingress objects, turned into routes.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};

use super::annotations::{self, Asked};
use super::matching::{Matcher, PathMatch};
use super::{Backend, Certificate, Labels, Pick, Route, RouteTable, Rule as Done, Share};
use crate::limits::REGEX_BYTES_MAX;
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
    /// Annotations under [`annotations::PREFIX`], without it.
    pub annotations: BTreeMap<String, String>,
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
    /// `pathType`.
    pub kind: PathKind,
    /// The Service and its port.
    pub backend: (String, PortRef),
}

/// `pathType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// This path and no other.
    Exact,
    /// Whole segments.
    Prefix,
    /// As `Prefix`, or a regular expression where an annotation says so.
    ImplementationSpecific,
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
#[derive(Clone, Debug, Default)]
pub struct IngressClass {
    /// `metadata.name`.
    pub name: String,
    /// `spec.controller`.
    pub controller: String,
    /// Annotation `ingressclass.kubernetes.io/is-default-class`.
    pub default: bool,
}

pub(super) fn insert(table: &mut RouteTable, mut ingresses: Vec<Ingress>, classes: &[IngressClass]) {
    ingresses.retain(|ingress| is_ours(ingress.class.as_deref(), classes));
    ingresses.sort_by(|a, b| (a.created, &a.namespace, &a.name).cmp(&(b.created, &b.namespace, &b.name)));
    let read = |ingress: Ingress| {
        let asked = annotations::read(&ingress.annotations);
        (ingress, asked)
    };
    let ingresses: Vec<(Ingress, Asked)> = ingresses.into_iter().map(read).collect();
    for (ingress, asked) in &ingresses {
        let place = format!("{}/{}", ingress.namespace, ingress.name);
        asked.problems.iter().for_each(|problem| table.note(format!("{place}: {problem}")));
    }
    let (canaries, mains): (Vec<_>, Vec<_>) = ingresses.iter().partition(|(_, asked)| asked.canary.is_some());
    for (ingress, asked) in mains {
        insert_one(table, ingress, asked);
    }
    for (ingress, asked) in canaries {
        insert_canary(table, ingress, asked);
    }
}

/// The hosts of a rule: its own, and what an annotation adds.
fn hosts<'a>(rule: &Rule, asked: &'a Asked) -> impl Iterator<Item = String> + use<'a> {
    [rule.host.to_ascii_lowercase()].into_iter().chain(asked.aliases.iter().cloned())
}

fn insert_one(table: &mut RouteTable, ingress: &Ingress, asked: &Asked) {
    let rule = |(service, port): &(String, PortRef)| {
        let share = Share::all(backend(ingress, asked, service, port));
        let name = format!("ingress/{}/{}", ingress.namespace, ingress.name);
        std::sync::Arc::new(Done::new(name, vec![share], asked.options.clone()))
    };
    let default = ingress.default_backend.as_ref().map(rule);
    for own in &ingress.rules {
        for host in hosts(own, asked) {
            let mut insert = |matcher, rule| {
                table.insert(&host, Labels::One, Route { matcher, created: ingress.created, rule });
            };
            for path in &own.paths {
                // A path that cannot be read fits nothing: better than fitting what was not meant.
                let Some(matched) = path_match(path, asked.regex) else { continue };
                insert(Matcher::path(matched), rule(&path.backend));
            }
            if let (true, Some(default)) = (own.paths.is_empty(), &default) {
                insert(Matcher::path(PathMatch::prefix("/")), default.clone());
            }
        }
    }
    if let Some(default) = default {
        table.set_default(default);
    }
    table.want_certificates(certificates(ingress));
}

fn backend(ingress: &Ingress, asked: &Asked, service: &str, port: &PortRef) -> Backend {
    Backend { namespace: ingress.namespace.clone(), service: service.to_owned(), port: port.clone(), h2c: asked.h2c }
}

fn path_match(path: &Path, regex: bool) -> Option<PathMatch> {
    match path.kind {
        PathKind::Exact => Some(PathMatch::Exact(path.path.clone())),
        PathKind::ImplementationSpecific if regex => Some(PathMatch::Regex(expression(&path.path)?)),
        // nginx takes every path of such an Ingress for an expression, but an exact one.
        PathKind::Prefix if regex && path.path.contains(['(', '[', '.', '*', '+', '\\', '$']) => {
            Some(PathMatch::Regex(expression(&path.path)?))
        }
        PathKind::Prefix | PathKind::ImplementationSpecific => Some(PathMatch::prefix(&path.path)),
    }
}

/// An expression as nginx reads locations: letters of either case, from the path's beginning.
fn expression(text: &str) -> Option<Regex> {
    let anchored = format!("^(?:{})", text.trim_start_matches('^'));
    RegexBuilder::new(&anchored).case_insensitive(true).size_limit(REGEX_BYTES_MAX).build().ok()
}

/// Adds a canary's backend to the routes that are there for the same host and path.
fn insert_canary(table: &mut RouteTable, ingress: &Ingress, asked: &Asked) {
    let Some(canary) = &asked.canary else { return };
    for own in &ingress.rules {
        for host in hosts(own, asked) {
            for path in &own.paths {
                let Some(wanted) = path_match(path, asked.regex) else { continue };
                let same = |route: &&mut Route| same_path(&route.matcher.path, &wanted);
                let prefix = format!("ingress/{}/", ingress.namespace);
                // A canary belongs to the main Ingress of its own namespace.
                let mut routes = table.of_host(&host).into_iter().filter(same);
                let main = routes.find(|route| route.rule.name.starts_with(&prefix));
                let Some(main) = main else { continue };
                let mut shares = main.rule.shares.clone();
                let index = shares.len();
                let (service, port) = &path.backend;
                shares.push(Share { weight: canary.weight, ..Share::all(backend(ingress, asked, service, port)) });
                if let Some(first) = shares.first_mut() {
                    first.weight = canary.total.saturating_sub(canary.weight);
                }
                let mut rule = Done::new(main.rule.name.to_string(), shares, main.rule.options.clone());
                rule.picks.clone_from(&main.rule.picks);
                let pick = |(from, value): &(super::PickFrom, Option<String>)| Pick {
                    from: from.clone(),
                    value: value.clone(),
                    share: index,
                };
                rule.picks.extend(canary.picks.iter().map(pick));
                main.rule = std::sync::Arc::new(rule);
            }
        }
    }
}

fn same_path(a: &PathMatch, b: &PathMatch) -> bool {
    match (a, b) {
        (PathMatch::Exact(a), PathMatch::Exact(b)) | (PathMatch::Prefix(a), PathMatch::Prefix(b)) => a == b,
        (PathMatch::Regex(a), PathMatch::Regex(b)) => a.as_str() == b.as_str(),
        _ => false,
    }
}

fn certificates(ingress: &Ingress) -> Vec<Certificate> {
    let mut wanted = Vec::new();
    for tls in &ingress.tls {
        let Some(secret) = &tls.secret else { continue };
        let named = ingress.rules.iter().map(|rule| &rule.host).filter(|host| !host.is_empty());
        let hosts: Vec<&String> = if tls.hosts.is_empty() { named.collect() } else { tls.hosts.iter().collect() };
        wanted.extend(hosts.into_iter().map(|host| Certificate {
            host: host.to_ascii_lowercase(),
            namespace: ingress.namespace.clone(),
            secret: secret.clone(),
        }));
    }
    wanted
}

/// Ours are: our class, a class of our controller, a class that nobody has defined, and no class where no other
/// controller's is the default. The third is why a manifest written for another controller works where only we are
/// installed.
fn is_ours(class: Option<&str>, classes: &[IngressClass]) -> bool {
    let ours = |class: &IngressClass| class.controller == CONTROLLER;
    let Some(class) = class else {
        let mut defaults = classes.iter().filter(|class| class.default).peekable();
        return defaults.peek().is_none() || defaults.any(ours);
    };
    classes.iter().find(|candidate| candidate.name == class).is_none_or(ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method};

    use crate::random::Random;
    use crate::routes::gateway::Gateways;
    use crate::routes::{Asked as Request, Backend};

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
            let kind = if exact { PathKind::Exact } else { PathKind::Prefix };
            Path { path: path.trim_end_matches('=').to_owned(), kind, backend: (service.to_owned(), port(80)) }
        };
        Rule { host, paths: words.map(path).collect() }
    }

    fn ingress(name: &str, rules: &[&str]) -> Ingress {
        let rules = rules.iter().map(|text| rule(text)).collect();
        Ingress { namespace: "default".into(), name: name.into(), rules, ..Ingress::default() }
    }

    fn build(ingresses: Vec<Ingress>, classes: &[IngressClass]) -> RouteTable {
        RouteTable::build(ingresses, classes, Gateways::default())
    }

    fn backend_of(table: &RouteTable, host: &str, path: &str) -> Option<Backend> {
        let headers = HeaderMap::new();
        let asked = Request { host, path, query: None, method: &Method::GET, headers: &headers, secure: false };
        table.find(&asked)?.rule.shares[0].backend.clone()
    }

    fn routed(table: &RouteTable, url: &str) -> String {
        let (host, path) = url.split_at(url.find('/').unwrap());
        backend_of(table, host, path).map_or("-".to_owned(), |backend| backend.service)
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
            let table = build(vec![ingress("a", &[&format!("- {path}")])], &[]);
            assert_eq!(backend_of(&table, "h", request).is_some(), matches, "{path} {request}");
        }
    }

    #[test]
    fn the_most_specific_rule_wins() {
        let table = build(
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
        let table = build(vec![with, ingress("b", &["- /only→any"])], &[]);
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
        let without = build(vec![ingress("a", &rules)], &[]);
        assert_eq!(routed(&without, "a.test/y"), "-");
        assert_eq!(routed(&without, "b.test/"), "-");
    }

    #[test]
    fn of_two_equal_rules_the_older_one_stays() {
        let aged = |name: &str, created| Ingress { created, ..ingress(name, &[&format!("h /→{name}")]) };
        for order in [["old", "new"], ["new", "old"]] {
            let ingresses = order.iter().map(|name| aged(name, if *name == "old" { 1 } else { 2 })).collect();
            assert_eq!(routed(&build(ingresses, &[]), "h/"), "old");
        }
    }

    #[test]
    fn classes_say_whose_an_ingress_is() {
        let defined = |name: &str, controller: &str| IngressClass {
            name: name.into(),
            controller: controller.into(),
            default: name == "nginx",
        };
        let classes = [defined("nginx", "k8s.io/ingress-nginx"), defined("edge", CONTROLLER)];
        for (class, ours) in
            [(None, false), (Some(CLASS), true), (Some("edge"), true), (Some("nginx"), false), (Some("unknown"), true)]
        {
            let ingress = Ingress { class: class.map(str::to_owned), ..ingress("a", &["- /→s"]) };
            let table = build(vec![ingress], &classes);
            assert_eq!(backend_of(&table, "h", "/").is_some(), ours, "{class:?}");
        }
        for defaults in [vec![], vec![defined("edge", CONTROLLER)], vec![defined("nginx", CONTROLLER)]] {
            let table = build(vec![ingress("a", &["- /→s"])], &defaults);
            assert!(backend_of(&table, "h", "/").is_some(), "{defaults:?}");
        }
    }

    #[test]
    fn a_canary_takes_its_part_of_the_main_routes() {
        let annotated = |name: &str, text: &[(&str, &str)]| {
            let annotations = text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Ingress { annotations, ..ingress(name, &[&format!("h /→{name}")]) }
        };
        let canary = annotated("canary", &[("canary", "true"), ("canary-weight", "25"), ("canary-by-header", "X-Try")]);
        let alone = Ingress { namespace: "other".into(), ..canary.clone() };
        for order in [vec![annotated("main", &[]), canary.clone()], vec![canary, annotated("main", &[])]] {
            let table = build([order, vec![alone.clone()]].concat(), &[]);
            let headers = HeaderMap::new();
            let asked =
                Request { host: "h", path: "/", query: None, method: &Method::GET, headers: &headers, secure: false };
            let rule = table.find(&asked).unwrap().rule;
            let weights: Vec<_> = rule.shares.iter().map(|share| share.weight).collect();
            assert_eq!((weights, rule.picks.len()), (vec![75, 25], 1));
        }
    }

    #[test]
    fn expressions_are_tried_before_shorter_paths() {
        let path = |path: &str, service: &str| Path {
            path: path.into(),
            kind: PathKind::ImplementationSpecific,
            backend: (service.into(), port(80)),
        };
        let rules = vec![Rule {
            host: "h".into(),
            paths: vec![path("/", "root"), path("/shop(/|$)(.*)", "shop"), path("/bad(", "bad")],
        }];
        let annotations = [("use-regex".to_owned(), "true".to_owned())].into();
        let table = build(vec![Ingress { rules, annotations, ..ingress("a", &[]) }], &[]);
        for (url, expected) in [("h/shop/cart", "shop"), ("h/SHOP", "shop"), ("h/shops", "root"), ("h/bad(", "root")] {
            assert_eq!(routed(&table, url), expected, "{url}");
        }
    }

    #[test]
    fn certificates_are_for_the_named_hosts_or_those_of_the_rules() {
        let tls = |hosts: &[&str], secret: Option<&str>| Tls {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            secret: secret.map(str::to_owned),
        };
        let tls = vec![tls(&["A.test", "*.b.test"], Some("one")), tls(&[], Some("two")), tls(&["c.test"], None)];
        let table = build(vec![Ingress { tls, ..ingress("a", &["r.test /→s", "- /→s"]) }], &[]);
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
                let exact = candidate.kind == PathKind::Exact;
                let matches = if exact { path == candidate.path } else { asked.starts_with(&wanted) };
                let length = if exact { candidate.path.len() } else { wanted.join("/").len() };
                let rank = (host_rank, length, exact);
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
                    kind: if random.below(3) == 0 { PathKind::Exact } else { PathKind::Prefix },
                    backend: (format!("s{number}"), port(80)),
                };
                let host = hosts[random.below(hosts.len())].to_owned();
                Ingress { rules: vec![Rule { host, paths: vec![path] }], ..ingress(&format!("{number:02}"), &[]) }
            };
            let ingresses: Vec<Ingress> = (0..8).map(&mut one).collect();
            let table = build(ingresses.clone(), &[]);
            for host in ["a.test", "b.test", "c.test", "x.a.test", "y.a.test", "z.x.a.test", "other"] {
                for path in paths.iter().chain(&["/c", "/abc", "/a/c", "/a/b/c/d"]) {
                    let found = backend_of(&table, host, path).map(|backend| backend.service);
                    assert_eq!(
                        found.as_deref(),
                        naive(&ingresses, host, path),
                        "seed {seed} {host}{path} {ingresses:?}"
                    );
                }
            }
        }
    }
}
