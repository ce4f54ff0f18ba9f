//! The Gateway API's objects, reduced to what the network reads. Pure; what cannot be read is left out.
//!
//! A controller has decided which Gateways are ours, which of their listeners are sound and which routes hang on them,
//! and has written it into their status. What it refused is not served.

use std::collections::BTreeSet;
use std::time::Duration;

use api::selector::LabelSelector;
use api::time::parse_duration;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use network::routes::gateway::{Allowed, HttpRoute, HttpRule, Listener, Parent};
use network::routes::matching::{Matcher, PathMatch, Text};
use network::routes::options::{Headers, Options, Redirect, Rewrite};
use network::routes::{Backend, Share};
use network::services::PortRef;
use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::custom::{Gateway, HTTPRoute, ReferenceGrant};

/// Who decides about our Gateways.
const CONTROLLER: &str = "kogia.dev/gateway";

/// Bytes that a compiled expression may take: larger ones cost more memory than a route is worth.
const REGEX_BYTES_MAX: usize = 64 << 10;

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn port(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok().filter(|port| *port != 0)
}

fn is_true(conditions: &Value, type_: &str) -> bool {
    list(conditions).any(|condition| condition["type"] == type_ && condition["status"] == "True")
}

/// The listeners of a Gateway that its controller has programmed.
pub(super) fn listeners(gateway: &Gateway, namespaces: &[std::sync::Arc<Namespace>]) -> Vec<Listener> {
    let namespace = gateway.namespace().unwrap_or_default();
    let sound = |name: &Value| {
        let mut all = list(&gateway.status["listeners"]).filter(|status| status["name"] == *name);
        all.any(|status| is_true(&status["conditions"], "Programmed"))
    };
    let read = |spec: &Value| {
        if !sound(&spec["name"]) {
            return None;
        }
        let secret = |reference: &Value| {
            let own = text(&reference["namespace"]).unwrap_or_else(|| namespace.clone());
            Some((own, text(&reference["name"])?))
        };
        Some(Listener {
            namespace: namespace.clone(),
            gateway: gateway.name_any(),
            name: text(&spec["name"])?,
            port: port(&spec["port"])?,
            hostname: text(&spec["hostname"]).unwrap_or_default(),
            secure: spec["protocol"] == "HTTPS",
            certificates: list(&spec["tls"]["certificateRefs"]).filter_map(secret).collect(),
            allowed: allowed(&spec["allowedRoutes"]["namespaces"], namespaces),
        })
    };
    list(&gateway.spec["listeners"]).filter_map(read).collect()
}

fn allowed(spec: &Value, namespaces: &[std::sync::Arc<Namespace>]) -> Allowed {
    match spec["from"].as_str() {
        Some("All") => Allowed::All,
        Some("Selector") => {
            let selector = LabelSelector::from_value(&spec["selector"]);
            let fits =
                |namespace: &&std::sync::Arc<Namespace>| selector.matches(&serde_json::json!(namespace.labels()));
            Allowed::Namespaces(namespaces.iter().filter(fits).map(|namespace| namespace.name_any()).collect())
        }
        _ => Allowed::Same,
    }
}

/// What [`ReferenceGrant`]s allow: from whose namespace, to whose, and which Service.
#[derive(Default)]
pub(super) struct Grants(BTreeSet<(String, String, Option<String>)>);

impl Grants {
    pub(super) fn read(grants: &[std::sync::Arc<ReferenceGrant>]) -> Self {
        let mut all = BTreeSet::new();
        for grant in grants {
            let to_namespace = grant.namespace().unwrap_or_default();
            let from = list(&grant.spec["from"])
                .filter(|from| from["kind"] == "HTTPRoute" && from["group"] == "gateway.networking.k8s.io");
            for from in from.filter_map(|from| text(&from["namespace"])) {
                for to in list(&grant.spec["to"]).filter(|to| to["kind"] == "Service" && to["group"] == "") {
                    all.insert((from.clone(), to_namespace.clone(), text(&to["name"])));
                }
            }
        }
        Self(all)
    }

    fn allow(&self, from: &str, to: &str, service: &str) -> bool {
        let granted = |name: Option<String>| self.0.contains(&(from.to_owned(), to.to_owned(), name));
        from == to || granted(None) || granted(Some(service.to_owned()))
    }
}

/// A route; `None` when it hangs on none of our Gateways.
pub(super) fn route(route: &HTTPRoute, grants: &Grants) -> Option<HttpRoute> {
    let namespace = route.namespace().unwrap_or_default();
    let accepted =
        |status: &&Value| status["controllerName"] == CONTROLLER && is_true(&status["conditions"], "Accepted");
    let parent = |status: &Value| {
        let reference = &status["parentRef"];
        Some(Parent {
            namespace: text(&reference["namespace"]).unwrap_or_else(|| namespace.clone()),
            gateway: text(&reference["name"])?,
            section: text(&reference["sectionName"]),
            port: port(&reference["port"]),
        })
    };
    let parents: Vec<_> = list(&route.status["parents"]).filter(accepted).filter_map(parent).collect();
    if parents.is_empty() {
        return None;
    }
    Some(HttpRoute {
        rules: list(&route.spec["rules"]).map(|spec| rule(spec, &namespace, grants)).collect(),
        name: route.name_any(),
        created: route.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        hostnames: list(&route.spec["hostnames"]).filter_map(text).collect(),
        namespace,
        parents,
    })
}

fn rule(spec: &Value, namespace: &str, grants: &Grants) -> HttpRule {
    let mut matches: Vec<_> = list(&spec["matches"]).filter_map(matcher).collect();
    if spec["matches"].as_array().is_none_or(Vec::is_empty) {
        matches.push(Matcher::path(PathMatch::prefix("/")));
    }
    let mut options = Options::default();
    for filter in list(&spec["filters"]) {
        apply(filter, namespace, grants, &mut options);
    }
    let time = |field: &str| {
        let nanos = parse_duration(spec["timeouts"][field].as_str()?)?;
        // Zero switches a timeout off, says GEP-1742.
        u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    };
    (options.whole, options.answer) = (time("request"), time("backendRequest"));
    let shares = list(&spec["backendRefs"]).map(|reference| share(reference, namespace, grants)).collect();
    HttpRule { matches, shares, options }
}

fn share(reference: &Value, namespace: &str, grants: &Grants) -> Share {
    let (mut request_headers, mut response_headers) = (Headers::default(), Headers::default());
    for filter in list(&reference["filters"]) {
        match filter["type"].as_str() {
            Some("RequestHeaderModifier") => request_headers = headers(&filter["requestHeaderModifier"]),
            Some("ResponseHeaderModifier") => response_headers = headers(&filter["responseHeaderModifier"]),
            _ => {}
        }
    }
    let weight = reference["weight"].as_u64().map_or(1, |weight| u32::try_from(weight).unwrap_or(u32::MAX));
    Share { backend: backend(reference, namespace, grants), weight, request_headers, response_headers }
}

fn backend(reference: &Value, namespace: &str, grants: &Grants) -> Option<Backend> {
    let (kind, group) = (reference["kind"].as_str().unwrap_or("Service"), reference["group"].as_str().unwrap_or(""));
    let service = text(&reference["name"]).filter(|_| kind == "Service" && group.is_empty())?;
    let own = text(&reference["namespace"]).unwrap_or_else(|| namespace.to_owned());
    let allowed = grants.allow(namespace, &own, &service);
    allowed.then_some(Backend { port: PortRef::Number(port(&reference["port"])?), namespace: own, service, h2c: false })
}

fn matcher(spec: &Value) -> Option<Matcher> {
    let value = spec["path"]["value"].as_str().unwrap_or("/");
    let path = match spec["path"]["type"].as_str().unwrap_or("PathPrefix") {
        "Exact" => PathMatch::Exact(value.to_owned()),
        "PathPrefix" => PathMatch::prefix(value),
        "RegularExpression" => PathMatch::Regex(expression(value)?),
        _ => return None,
    };
    let wanted = |entry: &Value| {
        let value = entry["value"].as_str()?;
        match entry["type"].as_str().unwrap_or("Exact") {
            "Exact" => Some(Text::Is(value.to_owned())),
            "RegularExpression" => Some(Text::Fits(expression(value)?)),
            _ => None,
        }
    };
    let header = |entry: &Value| Some((entry["name"].as_str()?.parse::<HeaderName>().ok()?, wanted(entry)?));
    let query = |entry: &Value| Some((text(&entry["name"])?, wanted(entry)?));
    let method = match spec["method"].as_str() {
        Some(method) => Some(method.parse::<Method>().ok()?),
        None => None,
    };
    // Half a match would let in what the other half keeps out.
    Some(Matcher {
        method,
        headers: list(&spec["headers"]).map(header).collect::<Option<_>>()?,
        query: list(&spec["queryParams"]).map(query).collect::<Option<_>>()?,
        ..Matcher::path(path)
    })
}

fn expression(text: &str) -> Option<Regex> {
    RegexBuilder::new(&format!("^(?:{text})$")).size_limit(REGEX_BYTES_MAX).build().ok()
}

fn headers(spec: &Value) -> Headers {
    let pair = |entry: &Value| {
        let name = entry["name"].as_str()?.parse::<HeaderName>().ok()?;
        Some((name, HeaderValue::from_str(entry["value"].as_str()?).ok()?))
    };
    Headers {
        remove: list(&spec["remove"]).filter_map(|name| name.as_str()?.parse().ok()).collect(),
        set: list(&spec["set"]).filter_map(pair).collect(),
        add: list(&spec["add"]).filter_map(pair).collect(),
    }
}

fn new_path(spec: &Value) -> Option<Rewrite> {
    match spec["type"].as_str()? {
        "ReplaceFullPath" => Some(Rewrite::Full(spec["replaceFullPath"].as_str()?.to_owned())),
        "ReplacePrefixMatch" => Some(Rewrite::Prefix(spec["replacePrefixMatch"].as_str()?.to_owned())),
        _ => None,
    }
}

fn apply(filter: &Value, namespace: &str, grants: &Grants, options: &mut Options) {
    match filter["type"].as_str() {
        Some("RequestHeaderModifier") => options.request_headers = headers(&filter["requestHeaderModifier"]),
        Some("ResponseHeaderModifier") => options.response_headers = headers(&filter["responseHeaderModifier"]),
        Some("RequestMirror") => {
            options.mirrors.extend(backend(&filter["requestMirror"]["backendRef"], namespace, grants));
        }
        Some("URLRewrite") => {
            let spec = &filter["urlRewrite"];
            options.host = text(&spec["hostname"]).and_then(|host| HeaderValue::from_str(&host).ok());
            options.rewrite = new_path(&spec["path"]);
        }
        Some("RequestRedirect") => {
            let spec = &filter["requestRedirect"];
            let code = spec["statusCode"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(302);
            options.redirect = Some(Redirect {
                status: StatusCode::from_u16(code).unwrap_or(StatusCode::FOUND),
                url: None,
                scheme: text(&spec["scheme"]),
                host: text(&spec["hostname"]),
                port: port(&spec["port"]),
                path: new_path(&spec["path"]),
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn example() -> HTTPRoute {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "1970-01-01T00:01:00Z"},
            "spec": {"hostnames": ["a.test"], "rules": [{
                "matches": [
                    {"path": {"type": "Exact", "value": "/x"}, "method": "GET",
                     "headers": [{"name": "X-Team", "value": "blue"}], "queryParams": [{"name": "a", "value": "1"}]},
                    {"path": {"type": "RegularExpression", "value": "/[0-9"}},
                    {"path": {"value": "/y"}, "headers": [{"name": "bad name", "value": "x"}]},
                ],
                "filters": [
                    {"type": "RequestHeaderModifier", "requestHeaderModifier": {
                        "set": [{"name": "a", "value": "1"}], "add": [{"name": "b", "value": "2"}], "remove": ["c"]}},
                    {"type": "URLRewrite", "urlRewrite": {"hostname": "b.test",
                        "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/z"}}},
                    {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "copy", "port": 81}}},
                ],
                "timeouts": {"request": "10s", "backendRequest": "0s"},
                "backendRefs": [
                    {"name": "one", "port": 80, "weight": 9},
                    {"name": "two", "port": 80, "namespace": "other"},
                    {"name": "three", "port": 80, "namespace": "closed"},
                    {"kind": "Bucket", "name": "four"},
                ],
            }, {}]},
            "status": {"parents": [
                {"controllerName": CONTROLLER, "parentRef": {"name": "edge", "namespace": "infra", "sectionName": "http"},
                 "conditions": [{"type": "Accepted", "status": "True"}]},
                {"controllerName": CONTROLLER, "parentRef": {"name": "refused"},
                 "conditions": [{"type": "Accepted", "status": "False"}]},
                {"controllerName": "somebody.else/gateway", "parentRef": {"name": "theirs"},
                 "conditions": [{"type": "Accepted", "status": "True"}]},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn a_route_as_the_api_has_it() {
        let grant = json!({"metadata": {"name": "g", "namespace": "other"}, "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
            "to": [{"group": "", "kind": "Service", "name": "two"}]}});
        let grants = Grants::read(&[Arc::new(serde_json::from_value(grant).unwrap())]);
        let read = route(&example(), &grants).unwrap();
        assert_eq!((read.created, read.hostnames.as_slice()), (60, &["a.test".to_owned()][..]));
        let parents: Vec<_> = read.parents.iter().map(|parent| parent.gateway.as_str()).collect();
        assert_eq!(parents, ["edge"]);
        let rule = &read.rules[0];
        assert_eq!(rule.matches.len(), 1, "a match that cannot be read whole fits nothing");
        let shares: Vec<_> = rule
            .shares
            .iter()
            .map(|share| (share.backend.as_ref().map(|backend| backend.service.as_str()), share.weight))
            .collect();
        assert_eq!(shares, [(Some("one"), 9), (Some("two"), 1), (None, 1), (None, 1)]);
        let options = &rule.options;
        assert_eq!((options.whole, options.answer), (Some(Duration::from_secs(10)), None));
        assert_eq!(options.rewrite, Some(Rewrite::Prefix("/z".into())));
        assert_eq!(options.mirrors[0].service, "copy");
        assert_eq!((options.request_headers.set.len(), options.request_headers.remove.len()), (1, 1));
        assert_eq!(read.rules[1].matches.len(), 1, "a rule without matches fits everything");
        let theirs = HTTPRoute { status: json!({}), ..example() };
        assert!(route(&theirs, &grants).is_none());
    }

    #[test]
    fn only_programmed_listeners_are_served() {
        let listener = |name: &str, from: Value| {
            json!({"name": name, "port": 443, "protocol": "HTTPS", "hostname": "*.test",
                   "tls": {"certificateRefs": [{"name": "cert"}]}, "allowedRoutes": {"namespaces": from}})
        };
        let selector = json!({"from": "Selector", "selector": {"matchLabels": {"edge": "yes"}}});
        let gateway: Gateway = serde_json::from_value(json!({
            "metadata": {"name": "edge", "namespace": "infra"},
            "spec": {"listeners": [listener("a", selector), listener("b", json!({"from": "All"}))]},
            "status": {"listeners": [
                {"name": "a", "conditions": [{"type": "Programmed", "status": "True"}]},
                {"name": "b", "conditions": [{"type": "Programmed", "status": "False"}]},
            ]},
        }))
        .unwrap();
        let namespace = |name: &str, label: &str| -> Arc<Namespace> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"edge": label}}})).unwrap())
        };
        let read = listeners(&gateway, &[namespace("in", "yes"), namespace("out", "no")]);
        assert_eq!(read.len(), 1);
        assert!(read[0].secure && read[0].certificates == [("infra".to_owned(), "cert".to_owned())]);
        assert!(matches!(&read[0].allowed, Allowed::Namespaces(names) if names.len() == 1 && names.contains("in")));
    }
}
