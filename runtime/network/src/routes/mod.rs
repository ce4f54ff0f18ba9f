//! Where a request from outside goes: one table, made of Ingress objects and of the Gateway API's routes alike.
//!
//! [`RouteTable::find`] is pure. Precedence is what both APIs say: the most specific host first, then an exact path,
//! then the longest one, then a method, more headers, more query parameters, and the older object.
//!
//! * [`ingress`], [`gateway`]: objects become routes; [`annotations`]: what ingress-nginx's annotations ask for.
//! * [`options`]: what is done with a request beside forwarding it; [`matching`]: whether a route fits a request.

pub mod annotations;
pub mod gateway;
pub mod ingress;
pub mod matching;
pub mod options;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, Method};

use self::matching::{Matcher, cookie};
use self::options::{Headers, Options};
use crate::services::PortRef;

/// The parts of a request that decide about its way.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As in the `Host` header; a port is ignored.
    pub host: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// What stands behind `?`.
    pub query: Option<&'a str>,
    /// `GET`.
    pub method: &'a Method,
    /// All of them.
    pub headers: &'a HeaderMap,
    /// Whether it came over TLS.
    pub secure: bool,
}

/// A Service that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Its port.
    pub port: PortRef,
    /// HTTP/2 without TLS is spoken to it, whatever its port says (gRPC).
    pub h2c: bool,
}

/// One of the Services among which a rule spreads its requests.
#[derive(Clone, Debug)]
pub struct Share {
    /// `None` stands for a reference that leads nowhere: its share of the requests is answered with 500.
    pub backend: Option<Backend>,
    /// In proportion to the other weights.
    pub weight: u32,
    /// Headers of requests that go here, after those of the rule.
    pub request_headers: Headers,
    /// Headers of answers that come from here.
    pub response_headers: Headers,
}

impl Share {
    /// Everything goes to one Service.
    #[must_use]
    pub fn all(backend: Backend) -> Self {
        let (request_headers, response_headers) = (Headers::default(), Headers::default());
        Self { backend: Some(backend), weight: 1, request_headers, response_headers }
    }
}

/// Sends particular requests to one of the shares (ingress-nginx's canary rules).
#[derive(Clone, Debug)]
pub struct Pick {
    /// A header or a cookie.
    pub from: PickFrom,
    /// With this value; without one `always` means the share and `never` means all but it.
    pub value: Option<String>,
    /// Index into [`Rule::shares`].
    pub share: usize,
}

/// What a [`Pick`] looks at.
#[derive(Clone, Debug)]
pub enum PickFrom {
    /// A request header, lower case.
    Header(String),
    /// A cookie.
    Cookie(String),
}

/// What is done with the requests of one route.
#[derive(Debug, Default)]
pub struct Rule {
    /// `ingress/NAMESPACE/NAME` or `httproute/NAMESPACE/NAME/RULE`: for metrics and traces.
    pub name: Arc<str>,
    /// Who answers.
    pub shares: Vec<Share>,
    /// Asked before the weights.
    pub picks: Vec<Pick>,
    /// What else is done.
    pub options: Options,
    turn: AtomicU64,
}

impl Rule {
    /// A rule of this name with these shares.
    #[must_use]
    pub fn new(name: String, shares: Vec<Share>, options: Options) -> Self {
        Self { name: name.into(), shares, picks: Vec::new(), options, turn: AtomicU64::new(0) }
    }

    /// The share whose turn it is; `None` when all weights are zero. Over as many requests as the weights add up to,
    /// every share gets exactly its part.
    #[must_use]
    pub fn choose(&self, headers: &HeaderMap) -> Option<&Share> {
        let mut barred = None;
        for pick in &self.picks {
            let given = match &pick.from {
                PickFrom::Header(name) => headers.get(name).and_then(|value| value.to_str().ok()),
                PickFrom::Cookie(name) => cookie(headers, name),
            };
            match (given, &pick.value) {
                (Some(given), Some(value)) if given == value => return self.shares.get(pick.share),
                (Some("always"), None) => return self.shares.get(pick.share),
                (Some("never"), None) => barred = Some(pick.share),
                _ => {}
            }
        }
        let weight = |(index, share): (usize, &Share)| if Some(index) == barred { 0 } else { u64::from(share.weight) };
        let total: u64 = self.shares.iter().enumerate().map(weight).sum();
        if total == 0 {
            return None;
        }
        let turn = if total == 1 { 0 } else { self.turn.fetch_add(1, Ordering::Relaxed) };
        // A step that shares no factor with the total visits every point once, far from its neighbours.
        let mut point = (turn % total) * step(total) % total;
        self.shares.iter().enumerate().find_map(|(index, share)| {
            let weight = weight((index, share));
            if point < weight {
                return Some(share);
            }
            point -= weight;
            None
        })
    }
}

/// A number near the golden section of `total` that has no factor in common with it.
fn step(total: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let near = (total * 618 / 1000).max(1);
    (near..total).find(|candidate| gcd(*candidate, total) == 1).unwrap_or(1)
}

/// One way from a host and a path to a rule.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) matcher: Matcher,
    /// Seconds since the epoch.
    pub(crate) created: i64,
    pub(crate) rule: Arc<Rule>,
}

/// A host as rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Labels {
    /// `*` stands for one label (Ingress).
    One,
    /// `*` stands for one or more (Gateway API).
    Many,
}

/// A host whose certificate lies in a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The host, possibly a wildcard; empty for every host.
    pub host: String,
    /// Namespace of the Secret.
    pub namespace: String,
    /// Its name.
    pub secret: String,
}

/// A route that fits a request.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is to be done.
    pub rule: Arc<Rule>,
    /// How much of the path the route names; what follows is the rest.
    pub matched: usize,
    /// What the groups of a regular expression caught.
    pub captures: Vec<String>,
}

/// All routes of the cluster that are ours.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: HashMap<String, Vec<Route>>,
    /// `*.example.com` under `example.com`.
    wildcards: HashMap<String, Vec<(Labels, Route)>>,
    any: Vec<Route>,
    default: Option<Arc<Rule>>,
    certificates: Vec<Certificate>,
    problems: Vec<String>,
}

impl RouteTable {
    /// Builds the table.
    #[must_use]
    pub fn build(
        ingresses: Vec<ingress::Ingress>,
        classes: &[ingress::IngressClass],
        gateways: gateway::Gateways,
    ) -> Self {
        let mut table = Self::default();
        ingress::insert(&mut table, ingresses, classes);
        gateway::insert(&mut table, gateways);
        let rank = |route: &Route| (route.matcher.rank(), route.created, route.rule.name.clone());
        for routes in table.hosts.values_mut().chain([&mut table.any]) {
            // Stable: of two equal routes the one that was inserted first stays first.
            routes.sort_by_cached_key(rank);
        }
        for routes in table.wildcards.values_mut() {
            routes.sort_by_cached_key(|(_, route)| rank(route));
        }
        table
    }

    pub(crate) fn insert(&mut self, host: &str, labels: Labels, route: Route) {
        match host.strip_prefix("*.") {
            Some(suffix) => self.wildcards.entry(suffix.to_owned()).or_default().push((labels, route)),
            None if host.is_empty() => self.any.push(route),
            None => self.hosts.entry(host.to_owned()).or_default().push(route),
        }
    }

    /// The routes of a host, for what is added to them.
    pub(crate) fn of_host(&mut self, host: &str) -> Vec<&mut Route> {
        match host.strip_prefix("*.") {
            Some(suffix) => self.wildcards.get_mut(suffix).into_iter().flatten().map(|(_, route)| route).collect(),
            None if host.is_empty() => self.any.iter_mut().collect(),
            None => self.hosts.get_mut(host).into_iter().flatten().collect(),
        }
    }

    pub(crate) fn set_default(&mut self, rule: Arc<Rule>) {
        self.default.get_or_insert(rule);
    }

    pub(crate) fn want_certificates(&mut self, wanted: impl IntoIterator<Item = Certificate>) {
        self.certificates.extend(wanted);
    }

    /// Where a request goes.
    #[must_use]
    pub fn find(&self, asked: &Asked<'_>) -> Option<Found> {
        let host = bare_host(asked.host);
        let exact = self.hosts.get(&*host).into_iter().flatten();
        exact
            .chain(self.wild(&host))
            .chain(&self.any)
            .find_map(|route| {
                let (matched, captures) = route.matcher.matches(asked)?;
                Some(Found { rule: route.rule.clone(), matched, captures })
            })
            .or_else(|| Some(Found { rule: self.default.clone()?, matched: 0, captures: Vec::new() }))
    }

    /// Routes of wildcards, the longest suffix first.
    fn wild<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Route> {
        let mut rest = if self.wildcards.is_empty() { None } else { host.split_once('.') };
        let mut first = true;
        let suffixes = std::iter::from_fn(move || {
            let (label, suffix) = rest?;
            let found = (suffix, std::mem::replace(&mut first, false));
            // An empty label is none: `*.example.com` is not `.example.com`.
            rest = if label.is_empty() { None } else { suffix.split_once('.') };
            (!label.is_empty()).then_some(found)
        });
        suffixes.flat_map(move |(suffix, one)| {
            let routes = self.wildcards.get(suffix).into_iter().flatten();
            routes.filter(move |(labels, _)| one || *labels == Labels::Many).map(|(_, route)| route)
        })
    }

    /// What of the objects could not be read, for traces.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(crate) fn note(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The certificates that hosts want, oldest object first.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
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

    fn share(service: &str, weight: u32) -> Share {
        let port = PortRef::Number(80);
        let backend = Backend { namespace: "default".into(), service: service.into(), port, h2c: false };
        Share { weight, ..Share::all(backend) }
    }

    fn chosen<'a>(rule: &'a Rule, headers: &HeaderMap) -> &'a str {
        let share = rule.choose(headers);
        share.map_or("-", |share| share.backend.as_ref().map_or("?", |backend| backend.service.as_str()))
    }

    #[test]
    fn weights_are_kept_exactly() {
        for weights in [[1, 1, 0], [90, 10, 0], [1, 2, 3], [7, 0, 0], [999, 1, 500]] {
            let names = ["a", "b", "c"];
            let shares = weights.iter().zip(names).map(|(weight, name)| share(name, *weight)).collect();
            let rule = Rule::new("rule".into(), shares, Options::default());
            let mut seen = HashMap::new();
            for _ in 0..weights.iter().sum() {
                *seen.entry(chosen(&rule, &HeaderMap::new())).or_insert(0) += 1;
            }
            for (name, weight) in names.iter().zip(weights) {
                assert_eq!(seen.get(name).copied().unwrap_or(0), weight, "{weights:?}");
            }
        }
        let none = Rule::new("rule".into(), vec![share("a", 0)], Options::default());
        assert_eq!(chosen(&none, &HeaderMap::new()), "-");
    }

    #[test]
    fn picks_go_before_weights() {
        let mut rule = Rule::new("rule".into(), vec![share("main", 0), share("canary", 100)], Options::default());
        rule.picks = vec![
            Pick { from: PickFrom::Header("x-canary".into()), value: Some("yes".into()), share: 1 },
            Pick { from: PickFrom::Cookie("canary".into()), value: None, share: 1 },
        ];
        let asked = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            chosen(&rule, &headers).to_owned()
        };
        assert_eq!(asked("x-canary", "yes"), "canary");
        assert_eq!(asked("cookie", "a=b; canary=always"), "canary");
        assert_eq!(asked("cookie", "canary=never"), "-", "the main share has no weight here");
        assert_eq!(asked("cookie", "canary=perhaps"), "canary");
    }
}
