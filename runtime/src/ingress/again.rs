//! Requests that may be sent a second time, to another pod, when the first was lost before it began to answer.
//!
//! These are requests that only read and carry nothing (RFC 9110, section 9.2.1): whatever the first pod may have done with
//! one, doing it again is no harm. nginx takes its next upstream in the same cases.

use http::header::UPGRADE;
use http::{Method, Request};
use http_body::Body as _;
use network::{Body, body};

/// The same request again; `None` for one that may not be repeated.
pub(super) fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !reads || !request.body().is_end_stream() || request.headers().contains_key(UPGRADE) {
        return None;
    }
    let mut copy = Request::new(body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_reads_and_carries_nothing_is_repeated() {
        let request = |method: &str, text: &'static str| {
            let body = if text.is_empty() { body::empty() } else { body::full(text) };
            Request::builder().method(method).uri("/x?q").header("host", "a").body(body).unwrap()
        };
        let again = copy(&request("GET", "")).unwrap();
        assert_eq!((again.uri().to_string().as_str(), &again.headers()["host"]), ("/x?q", &"a".parse().unwrap()));
        assert!(copy(&request("HEAD", "")).is_some());
        assert!(copy(&request("GET", "text")).is_none() && copy(&request("POST", "")).is_none());
        let mut upgrade = request("GET", "");
        upgrade.headers_mut().insert(UPGRADE, "websocket".parse().unwrap());
        assert!(copy(&upgrade).is_none());
    }
}
