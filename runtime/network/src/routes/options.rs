//! What is done with a request beside forwarding it.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::Backend;
use crate::cidr::Cidr;

/// Changes to the headers of a message: first removed, then set, then added.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// Names that go.
    pub remove: Vec<HeaderName>,
    /// Replaced, or put there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside those that are there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl Headers {
    /// Does it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// Another path for the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// This one.
    Full(String),
    /// In the place of what the route names; the rest stays.
    Prefix(String),
    /// With `$1` and so on for what the groups of the route's expression caught.
    Captures(String),
}

impl Rewrite {
    /// The new path.
    #[must_use]
    pub fn path(&self, path: &str, matched: usize, captures: &[String]) -> String {
        match self {
            Self::Full(full) => full.clone(),
            Self::Prefix(prefix) => {
                let rest = path.get(matched..).unwrap_or_default();
                let joined = format!("{}{rest}", prefix.trim_end_matches('/'));
                if joined.starts_with('/') { joined } else { format!("/{joined}") }
            }
            Self::Captures(text) => {
                let mut path = String::new();
                let mut rest = text.as_str();
                while let Some((before, after)) = rest.split_once('$') {
                    path.push_str(before);
                    let digit = after.chars().next().and_then(|digit| digit.to_digit(10)).filter(|digit| *digit > 0);
                    match digit {
                        Some(digit) => {
                            path.push_str(captures.get(digit as usize - 1).map_or("", String::as_str));
                            rest = &after[1..];
                        }
                        None => {
                            path.push('$');
                            rest = after;
                        }
                    }
                }
                path.push_str(rest);
                if path.starts_with('/') { path } else { format!("/{path}") }
            }
        }
    }
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// A whole URL, which decides alone.
    pub url: Option<String>,
    /// `http` or `https`; the request's own by default.
    pub scheme: Option<String>,
    /// The request's own by default.
    pub host: Option<String>,
    /// That of the scheme by default.
    pub port: Option<u16>,
    /// The request's own by default.
    pub path: Option<Rewrite>,
}

/// Cross-origin requests (the Fetch standard).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `*`, or origins; `https://*.example.com` stands for every host under it.
    pub origins: Vec<String>,
    /// `GET, PUT`.
    pub methods: HeaderValue,
    /// Request headers that scripts may set.
    pub headers: HeaderValue,
    /// Response headers that scripts may read.
    pub expose: Option<HeaderValue>,
    /// Whether cookies may come along.
    pub credentials: bool,
    /// For how many seconds the answer may be remembered.
    pub age_seconds: u64,
}

impl Cors {
    /// The `Access-Control-Allow-Origin` for an origin; `None` when it may not.
    #[must_use]
    pub fn allowed(&self, origin: &str) -> Option<HeaderValue> {
        let fits = |own: &String| match own.split_once("*.") {
            _ if own == "*" || own == origin => true,
            Some((scheme, suffix)) => origin
                .strip_prefix(scheme)
                .and_then(|host| host.strip_suffix(suffix)?.strip_suffix('.'))
                .is_some_and(|label| !label.is_empty()),
            None => false,
        };
        if !self.origins.iter().any(fits) {
            return None;
        }
        // With credentials `*` is not accepted by browsers: the origin itself is named.
        let any = self.origins.iter().any(|own| own == "*") && !self.credentials;
        HeaderValue::from_str(if any { "*" } else { origin }).ok()
    }
}

/// How many requests one client may send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second, on average.
    pub per_second: f64,
    /// How many at once after a quiet time.
    pub burst: f64,
}

/// What is done with the requests of a rule.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Answered with a redirect.
    pub redirect: Option<Redirect>,
    /// Requests without TLS are sent to where there is some.
    pub https_only: bool,
    /// Clients of these ranges only, when there are any.
    pub allow: Vec<Cidr>,
    /// No clients of these.
    pub deny: Vec<Cidr>,
    /// How many requests a client may send.
    pub rate: Option<Rate>,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
    /// Bytes of a request's body; the server's own bound stands beside it.
    pub body_bytes_max: Option<u64>,
    /// How long a backend may take to begin its answer.
    pub answer: Option<Duration>,
    /// How long the whole exchange may take, until the answer begins.
    pub whole: Option<Duration>,
    /// Another path.
    pub rewrite: Option<Rewrite>,
    /// Another `Host`.
    pub host: Option<HeaderValue>,
    /// Headers of the request.
    pub request_headers: Headers,
    /// Headers of the answer.
    pub response_headers: Headers,
    /// Services that get a copy of each request; what they answer is not looked at.
    pub mirrors: Vec<Backend>,
}

impl Options {
    /// Whether a client may come in at all.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        let within = |ranges: &[Cidr]| ranges.iter().any(|range| range.contains(client));
        (self.allow.is_empty() || within(&self.allow)) && !within(&self.deny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_rewritten() {
        let captures = ["/".to_owned(), "cart/1".to_owned()];
        let cases = [
            (Rewrite::Full("/all".into()), "/shop/x", 5, "/all"),
            (Rewrite::Prefix("/".into()), "/shop/x", 5, "/x"),
            (Rewrite::Prefix("/".into()), "/shop", 5, "/"),
            (Rewrite::Prefix("/new/".into()), "/shop/x", 5, "/new/x"),
            (Rewrite::Prefix("/new".into()), "/shop", 5, "/new"),
            (Rewrite::Captures("/$2".into()), "/shop/cart/1", 12, "/cart/1"),
            (Rewrite::Captures("/v1$1$2?".into()), "/shop/cart/1", 12, "/v1/cart/1?"),
            (Rewrite::Captures("$9x$".into()), "/shop/cart/1", 12, "/x$"),
        ];
        for (rewrite, path, matched, expected) in cases {
            assert_eq!(rewrite.path(path, matched, &captures), expected, "{rewrite:?}");
        }
    }

    #[test]
    fn origins_are_allowed_by_name() {
        let cors = |origins: &[&str], credentials| Cors {
            origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            methods: HeaderValue::from_static("GET"),
            headers: HeaderValue::from_static("*"),
            expose: None,
            credentials,
            age_seconds: 1,
        };
        let said = |cors: Cors, origin: &str| cors.allowed(origin).map(|value| value.to_str().unwrap().to_owned());
        let all = Some("https://a.test".to_owned());
        assert_eq!(said(cors(&["*"], false), "https://a.test").as_deref(), Some("*"));
        assert_eq!(said(cors(&["*"], true), "https://a.test"), all);
        assert_eq!(said(cors(&["https://*.test"], true), "https://a.test"), all);
        assert_eq!(said(cors(&["https://*.test"], true), "https://.test"), None);
        assert_eq!(said(cors(&["https://*.test"], true), "http://a.test"), None);
        assert_eq!(said(cors(&["https://b.test"], true), "https://a.test"), None);
    }
}
