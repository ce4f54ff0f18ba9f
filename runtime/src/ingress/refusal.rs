//! Why a request got no answer from a pod, and what its client is told.

use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use network::{Body, HttpError, body};

/// Why a request got no answer from a pod.
#[derive(Debug)]
pub(super) enum Refusal {
    /// `CONNECT`.
    NoTunnel,
    NoHost,
    /// The head can be read in two ways (RFC 9112 §11.2), or its path leads upwards.
    Ambiguous(&'static str),
    TooLarge(u64),
    NoRule {
        host: String,
        path: String,
    },
    /// The client's address is not among those that may come in.
    NotAdmitted,
    /// More requests than the rule lets one client send.
    TooMany,
    /// The rule names no Service that is there and may be used.
    NoBackend,
    NoEndpoint(String),
    Failed(HttpError),
}

impl Refusal {
    pub(super) fn failed(error: HttpError, host: &str) -> Self {
        if let HttpError::Internal(text) = &error {
            tracing::warn!(host, text, "a backend failed");
        }
        Self::Failed(error)
    }

    pub(super) fn response(self) -> Response<Body> {
        // Where the head is doubtful, so is what follows it on the connection.
        let doubtful = matches!(self, Self::Ambiguous(_) | Self::NoTunnel);
        let (status, text) = match self {
            Self::NoTunnel => (StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here".to_owned()),
            Self::NoHost => (StatusCode::BAD_REQUEST, "the request names no valid host".to_owned()),
            Self::Ambiguous(why) => (StatusCode::BAD_REQUEST, why.to_owned()),
            Self::TooLarge(max) => {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("the request body is larger than {max} bytes"))
            }
            Self::NoRule { host, path } => {
                (StatusCode::NOT_FOUND, format!("no Ingress rule matches host {host} path {path}"))
            }
            Self::NotAdmitted => {
                (StatusCode::FORBIDDEN, "this address is not among those the Ingress admits".to_owned())
            }
            Self::TooMany => {
                (StatusCode::SERVICE_UNAVAILABLE, "more requests than the Ingress admits from one address".to_owned())
            }
            Self::NoBackend => (StatusCode::INTERNAL_SERVER_ERROR, "the route leads to no Service".to_owned()),
            Self::NoEndpoint(sentence) => (StatusCode::SERVICE_UNAVAILABLE, sentence),
            Self::Failed(HttpError::ConnectionRefused) => {
                (StatusCode::SERVICE_UNAVAILABLE, "connection refused".to_owned())
            }
            Self::Failed(error) => return error.response(),
        };
        let mut response = Response::new(body::full(text + "\n"));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if doubtful {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
