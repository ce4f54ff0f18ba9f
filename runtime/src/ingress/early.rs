//! Requests that are answered without asking a pod: redirects, what browsers ask before a cross-origin request, and what
//! ACME servers want to see before they sign a certificate for the host.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, ORIGIN, VARY,
};
use http::{Method, Request, Response, StatusCode};
use network::routes::options::{Cors, Options, Redirect};
use network::routes::{Found, bare_host};
use network::{Body, Fabric, body, challenges};

/// The answer to an ACME server that looks whether the host is this cluster's. Most often nobody waits for one, and then
/// this costs next to nothing.
pub(super) fn proof(fabric: &Fabric, host: &str, path: &str) -> Option<Response<Body>> {
    if !path.starts_with(challenges::PATH) {
        return None;
    }
    let open = fabric.challenges();
    let key = open.answer(&bare_host(host), path)?;
    let mut response = Response::new(body::full(Bytes::copy_from_slice(key.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Some(response)
}

/// The answer, if this is such a request. `https_port` is where TLS is spoken, if anywhere.
pub(super) fn answer<B>(
    request: &Request<B>,
    found: &Found,
    host: &str,
    secure: bool,
    https_port: Option<u16>,
) -> Option<Response<Body>> {
    let options: &Options = &found.rule.options;
    if let (true, false, Some(port)) = (options.https_only, secure, https_port) {
        let to = Redirect {
            status: StatusCode::PERMANENT_REDIRECT,
            url: None,
            scheme: Some("https".to_owned()),
            host: None,
            port: Some(port),
            path: None,
        };
        return Some(redirect(&to, request, found, host, secure));
    }
    if let Some(to) = &options.redirect {
        return Some(redirect(to, request, found, host, secure));
    }
    let cors = options.cors.as_ref()?;
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    preflight.then(|| {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        if allow(cors, request.headers().get(ORIGIN), headers) {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone());
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.age_seconds));
        }
        response
    })
}

/// Says in an answer's headers what a script of this origin may do with it.
pub(super) fn allow(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) -> bool {
    let Some(allowed) = origin.and_then(|origin| cors.allowed(origin.to_str().ok()?)) else { return false };
    if allowed != "*" {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if cors.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(expose) = &cors.expose {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
    true
}

fn redirect<B>(to: &Redirect, request: &Request<B>, found: &Found, host: &str, secure: bool) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = to.status;
    let location = to.url.clone().unwrap_or_else(|| location(to, request, found, host, secure));
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn location<B>(to: &Redirect, request: &Request<B>, found: &Found, host: &str, secure: bool) -> String {
    let own = if secure { "https" } else { "http" };
    let scheme = to.scheme.as_deref().unwrap_or(own);
    let bare = bare_host(host);
    let asked = host[bare.len().min(host.len())..].strip_prefix(':').and_then(|port| port.parse::<u16>().ok());
    // The port that the client used belongs to the scheme that the client used.
    let port = to.port.or_else(|| asked.filter(|_| to.scheme.is_none() || scheme == own));
    let usual = matches!((scheme, port), (_, None) | ("http", Some(80)) | ("https", Some(443)));
    let port = if usual { String::new() } else { format!(":{}", port.unwrap_or_default()) };
    let uri = request.uri();
    let path = match &to.path {
        Some(rewrite) => rewrite.path(uri.path(), found.matched, &found.captures),
        None => uri.path().to_owned(),
    };
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    format!("{scheme}://{}{port}{path}{query}", to.host.as_deref().unwrap_or(&bare))
}

#[cfg(test)]
mod tests {
    use network::routes::Rule;
    use network::routes::options::Rewrite;

    use super::*;

    #[test]
    fn locations_are_what_the_route_and_the_request_make_of_them() {
        let none = Redirect { status: StatusCode::FOUND, url: None, scheme: None, host: None, port: None, path: None };
        let https = Redirect { scheme: Some("https".into()), ..none.clone() };
        let cases = [
            (none.clone(), "a.test:8080", "http://a.test:8080/shop/x?q=1"),
            (https.clone(), "a.test:8080", "https://a.test/shop/x?q=1"),
            (Redirect { port: Some(8443), ..https }, "a.test:8080", "https://a.test:8443/shop/x?q=1"),
            (
                Redirect { host: Some("b.test".into()), port: Some(80), ..none.clone() },
                "a.test",
                "http://b.test/shop/x?q=1",
            ),
            (
                Redirect { path: Some(Rewrite::Prefix("/new".into())), ..none.clone() },
                "a.test",
                "http://a.test/new/x?q=1",
            ),
            (Redirect { url: Some("https://c.test/".into()), ..none }, "a.test", "https://c.test/"),
        ];
        for (to, host, expected) in cases {
            let options = Options { redirect: Some(to), ..Options::default() };
            let rule = std::sync::Arc::new(Rule::new("r".into(), Vec::new(), options));
            let found = Found { rule, matched: 5, captures: Vec::new() };
            let request = Request::get("/shop/x?q=1").body(()).unwrap();
            let answer = answer(&request, &found, host, false, None).unwrap();
            assert_eq!(answer.headers()[LOCATION], expected);
        }
    }
}
