//! What of a request's head reaches a pod, and what may not come in at all.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Uri, Version};
use hyper::body::Incoming;

use super::limits;
use super::refusal::Refusal;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers about one connection, not about the message (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// `Host`, or the authority of an HTTP/2 request or of an absolute URI, which goes before it (RFC 9112 §3.2.2).
pub(super) fn host_of(request: &Request<Incoming>) -> Option<&str> {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    authority.or_else(|| request.headers().get(HOST)?.to_str().ok()).filter(|host| !host.is_empty())
}

/// `websocket` when the client wants to switch to that; HTTP/2 has no such thing (RFC 9113 §8.6).
///
/// Nothing else is passed on: a client that switched to `h2c` could send requests past the rules.
pub(super) fn wanted_upgrade(request: &Request<Incoming>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let asks = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")))
    };
    let asked = request.headers().get_all(CONNECTION).iter().any(asks);
    let upgrade = request.headers().get(UPGRADE).filter(|_| asked)?;
    upgrade.as_bytes().eq_ignore_ascii_case(b"websocket").then(|| upgrade.clone())
}

/// Where a request comes from, for the pod's eyes.
pub(super) struct Origin<'a> {
    pub(super) host: &'a str,
    pub(super) peer: SocketAddr,
    pub(super) secure: bool,
    pub(super) id: &'a HeaderValue,
}

/// Turns the client's request into what the pod is to see. A path in the place of the request's own may be given.
pub(super) fn prepare<B>(
    request: &mut Request<B>,
    origin: &Origin<'_>,
    path: Option<String>,
    upgrade: Option<&HeaderValue>,
) -> Result<(), Refusal> {
    let host = HeaderValue::from_str(origin.host).map_err(|_| Refusal::NoHost)?;
    let uri = match (path, request.uri().query()) {
        (Some(path), Some(query)) if !path.contains('?') => format!("{path}?{query}").parse::<Uri>(),
        (Some(path), _) => path.parse(),
        (None, _) => request.uri().path_and_query().map_or("/", |path| path.as_str()).parse(),
    };
    *request.uri_mut() = uri.map_err(|_| Refusal::Ambiguous("the path cannot be rewritten"))?;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    let claims: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-forwarded-")).cloned().collect();
    for name in claims.iter().chain(&[FORWARDED]) {
        headers.remove(name);
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    let ip = origin.peer.ip().to_canonical().to_string();
    // An address is made of digits, letters, dots and colons.
    if let Ok(ip) = HeaderValue::from_str(&ip) {
        headers.insert(X_FORWARDED_FOR, ip.clone());
        headers.insert(X_REAL_IP, ip);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if origin.secure { "https" } else { "http" }));
    headers.insert(X_FORWARDED_HOST, host.clone());
    headers.insert(X_REQUEST_ID, origin.id.clone());
    headers.insert(HOST, host);
    Ok(())
}

/// Refuses what two servers could read differently.
///
/// hyper has already refused what is no HTTP; this is about what is, and is used to get past rules: two lengths, two
/// hosts, and paths that lead upwards, which some servers resolve and others do not.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::NoTunnel);
    }
    let headers = request.headers();
    let count = |name: &HeaderName| headers.get_all(name).iter().count();
    if count(&HOST) > 1 {
        return Err(Refusal::Ambiguous("the request names two hosts"));
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) || count(&CONTENT_LENGTH) > 1 {
        return Err(Refusal::Ambiguous("the request says twice how long its body is"));
    }
    let climbs = |segment: &str| {
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        plain == "." || plain == ".."
    };
    if request.uri().path().contains(['.', '%']) && request.uri().path().split(['/', '\\']).any(climbs) {
        return Err(Refusal::Ambiguous("the path leads upwards"));
    }
    Ok(())
}

/// Removes what concerns one connection only, including what `Connection` names. `TE: trailers` stays: gRPC needs it.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let trailers = headers.get(TE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Ids that tell requests apart: a keyed hash of a counter, so that they are cheap and do not repeat.
#[derive(Default)]
pub(super) struct RequestIds {
    keys: RandomState,
    count: AtomicU64,
}

impl RequestIds {
    /// The client's own id when it has a sane one, else a new one of 32 hexadecimal digits.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(own) = headers.get(X_REQUEST_ID).filter(|own| own.len() <= limits::REQUEST_ID_BYTES_MAX) {
            return own.clone();
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let (high, low) = (self.keys.hash_one((count, 0_u8)), self.keys.hash_one((count, 1_u8)));
        HeaderValue::from_str(&format!("{high:016x}{low:016x}")).expect("hexadecimal digits are a valid header value")
    }
}
