//! The grammar of the API's URLs, without any knowledge of which resources exist.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`. Trailing slashes are tolerated, because some
//! clients send them. Query strings are read by whoever needs them.

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/version`, `/healthz`, `/openapi/v3/…`: the path without trailing slashes, `/` for the root.
    NonResource(String),
    /// What exists.
    Discovery(Discovery),
    /// An object, a collection or a subresource.
    Resource(Target),
}

/// Which discovery document is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// `/api`: the versions of the core group, or the aggregated document of it.
    Core,
    /// `/apis`: the groups, or the aggregated document of them.
    Groups,
    /// `/apis/apps`.
    Group(String),
    /// `/api/v1`, `/apis/apps/v1`.
    Resources {
        /// Empty for the core group.
        group: String,
        /// `v1`.
        version: String,
    },
}

/// What a resource request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Empty for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `deployments`.
    pub plural: String,
    /// Empty for cluster-scoped resources and for all namespaces. For `namespaces` themselves it is empty, too.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// `status`, `log`, …; empty for the object itself.
    pub subresource: String,
    /// What follows the subresource, without a leading slash: the path behind `proxy`.
    pub rest: String,
    /// True for the old spelling `/api/v1/watch/…`.
    pub watch: bool,
}

/// Takes a path (percent-encoded, without its query) apart.
#[must_use]
pub fn parse(path: &str) -> Route {
    let trimmed = path.trim_end_matches('/');
    let segments: Vec<String> = trimmed.split('/').skip(1).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let resources = |group: &str, version: &str| {
        Route::Discovery(Discovery::Resources { group: group.into(), version: version.into() })
    };
    match segments.as_slice() {
        _ if path.contains("//") && !path.contains("/proxy/") => Route::NonResource(path.into()),
        ["api"] => Route::Discovery(Discovery::Core),
        ["api", version] => resources("", version),
        ["api", version, rest @ ..] => Route::Resource(target("", version, rest, path)),
        ["apis"] => Route::Discovery(Discovery::Groups),
        ["apis", group] => Route::Discovery(Discovery::Group((*group).into())),
        ["apis", group, version] => resources(group, version),
        ["apis", group, version, rest @ ..] => Route::Resource(target(group, version, rest, path)),
        _ => Route::NonResource(if trimmed.is_empty() { "/".into() } else { trimmed.into() }),
    }
}

/// What may follow `namespaces/NAME` and belongs to the namespace itself.
const OF_NAMESPACES: &[&str] = &["status", "finalize"];

fn target(group: &str, version: &str, segments: &[&str], path: &str) -> Target {
    let (watch, segments) = match segments {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        _ => (false, segments),
    };
    let (namespace, segments) = match segments {
        ["namespaces", name, third, ..] if !(group.is_empty() && OF_NAMESPACES.contains(third)) => {
            (*name, &segments[2..])
        }
        _ => ("", segments),
    };
    let at = |index: usize| segments.get(index).map_or_else(String::new, |segment| (*segment).to_owned());
    let mut rest = segments.get(3..).unwrap_or_default().join("/");
    if !rest.is_empty() && path.ends_with('/') {
        // Behind a proxy a trailing slash means something.
        rest.push('/');
    }
    Target {
        group: group.into(),
        version: version.into(),
        plural: at(0),
        namespace: namespace.into(),
        name: at(1),
        subresource: at(2),
        rest,
        watch,
    }
}

/// The verb of a request, as authorization and discovery spell it; `None` for a method that resources do not know.
///
/// `watch` is true when the query says `watch=true` or `watch=1`.
#[must_use]
pub fn verb(method: &str, target: &Target, watch: bool) -> Option<&'static str> {
    let one = !target.name.is_empty();
    Some(match method {
        "GET" | "HEAD" if watch || target.watch => "watch",
        "GET" | "HEAD" => {
            if one {
                "get"
            } else {
                "list"
            }
        }
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => {
            if one {
                "delete"
            } else {
                "deletecollection"
            }
        }
        _ => return None,
    })
}

/// Percent-decoding (RFC 3986); what is not a valid escape stays as it is.
fn decode(segment: &str) -> String {
    if !segment.contains('%') {
        return segment.to_owned();
    }
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let escaped = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| segment.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `group|version|plural|namespace|name|subresource|rest`
    fn flat(path: &str) -> String {
        match parse(path) {
            Route::Resource(t) => [t.group, t.version, t.plural, t.namespace, t.name, t.subresource, t.rest].join("|"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn resources() {
        for (path, expected) in [
            ("/api/v1/pods", "|v1|pods||||"),
            ("/api/v1/namespaces", "|v1|namespaces||||"),
            ("/api/v1/namespaces/", "|v1|namespaces||||"),
            ("/api/v1/namespaces/a", "|v1|namespaces||a||"),
            ("/api/v1/namespaces/a/status", "|v1|namespaces||a|status|"),
            ("/api/v1/namespaces/a/finalize", "|v1|namespaces||a|finalize|"),
            ("/api/v1/namespaces/a/pods", "|v1|pods|a|||"),
            ("/api/v1/namespaces/a/pods/web-1/", "|v1|pods|a|web-1||"),
            ("/api/v1/namespaces/a/pods/web-1/log", "|v1|pods|a|web-1|log|"),
            ("/api/v1/namespaces/a/services/x:80/proxy/b/c%20d", "|v1|services|a|x:80|proxy|b/c d"),
            ("/api/v1/nodes/n/proxy/a//b/", "|v1|nodes||n|proxy|a//b/"),
            ("/apis/apps/v1/namespaces/a/deployments/x/scale", "apps|v1|deployments|a|x|scale|"),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "rbac.authorization.k8s.io|v1|clusterroles||system:node||",
            ),
        ] {
            assert_eq!(flat(path), expected, "{path}");
        }
        assert!(
            matches!(parse("/api/v1/watch/namespaces/a/pods"), Route::Resource(t) if t.watch && t.plural == "pods")
        );
    }

    #[test]
    fn everything_else() {
        assert_eq!(parse("/api/"), Route::Discovery(Discovery::Core));
        assert_eq!(parse("/apis"), Route::Discovery(Discovery::Groups));
        assert_eq!(parse("/apis/apps/"), Route::Discovery(Discovery::Group("apps".into())));
        let resources = Discovery::Resources { group: "apps".into(), version: "v1".into() };
        assert_eq!(parse("/apis/apps/v1"), Route::Discovery(resources));
        assert_eq!(parse("/version/"), Route::NonResource("/version".into()));
        assert_eq!(parse("/"), Route::NonResource("/".into()));
        assert_eq!(parse("/openapi/v3/apis/apps/v1"), Route::NonResource("/openapi/v3/apis/apps/v1".into()));
        assert_eq!(parse("/api/v1//pods"), Route::NonResource("/api/v1//pods".into()));
    }

    #[test]
    fn verbs() {
        let one = Target { plural: "pods".into(), name: "a".into(), ..Target::default() };
        let many = Target { plural: "pods".into(), ..Target::default() };
        assert_eq!(verb("GET", &one, false), Some("get"));
        assert_eq!(verb("GET", &many, false), Some("list"));
        assert_eq!(verb("GET", &many, true), Some("watch"));
        assert_eq!(verb("DELETE", &many, false), Some("deletecollection"));
        assert_eq!(verb("OPTIONS", &one, false), None);
    }
}
