//! One request: which Ingress rule, which pod, what is told to it, and what the client is told when that fails.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use network::ingress::bare_host;
use network::sleepers::Visit;
use network::{Body, Fabric, HttpError, HttpTarget, body};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::limits;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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

/// Who sent the request.
pub(super) struct Client {
    pub(super) peer: SocketAddr,
    pub(super) secure: bool,
    /// Whether a whole request head has ever arrived.
    pub(super) asked: AtomicBool,
    /// Counts the connection, and what it was upgraded to, against the bound.
    pub(super) _permit: OwnedSemaphorePermit,
}

pub(super) struct Forwarder {
    fabric: Fabric,
    /// How long a pod may take to begin its answer.
    answer: Duration,
    /// Upgraded connections outlive their request; they are waited for at the end.
    tasks: TaskTracker,
    abort: CancellationToken,
    ids: RequestIds,
}

impl Forwarder {
    pub(super) fn new(fabric: Fabric, answer: Duration, tasks: TaskTracker, abort: CancellationToken) -> Self {
        Self { fabric, answer, tasks, abort, ids: RequestIds::default() }
    }

    /// Answers one request; failures become answers too.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Arc<Client>,
    ) -> Result<Response<Body>, Infallible> {
        client.asked.store(true, Ordering::Relaxed);
        let id = self.ids.of(request.headers());
        let mut response = match self.forward(request, &client, &id).await {
            Ok(response) => response,
            Err(refusal) => refusal.response(),
        };
        response.headers_mut().insert(X_REQUEST_ID, id);
        Ok(response)
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        client: &Arc<Client>,
        id: &HeaderValue,
    ) -> Result<Response<Body>, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::NoTunnel);
        }
        let host = host_of(&request).ok_or(Refusal::NoHost)?.to_owned();
        let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limits::BODY_BYTES_MAX) {
            return Err(Refusal::TooLarge);
        }
        let (target, visit) = self.target(&host, request.uri().path(), client).await?;
        let upgrade = wanted_upgrade(&request);
        let on_client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        prepare(&mut request, &host, client, id, upgrade.as_ref())?;
        let request = request.map(|incoming| {
            let max = usize::try_from(limits::BODY_BYTES_MAX).unwrap_or(usize::MAX);
            body::boxed(Limited::new(incoming, max))
        });
        let sent = tokio::time::timeout(self.answer, target.send(request)).await;
        let mut response = sent.unwrap_or(Err(HttpError::Timeout)).map_err(|error| Refusal::failed(error, &host))?;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let agreed = response.headers().get(UPGRADE).cloned();
        strip_hop_by_hop(response.headers_mut());
        match (switched, on_client, agreed) {
            (false, ..) => Ok(response.map(|body| body::held(body, visit))),
            (true, Some(on_client), Some(protocol)) => {
                self.join(on_client, hyper::upgrade::on(&mut response), (client.clone(), visit));
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
                response.headers_mut().insert(UPGRADE, protocol);
                Ok(response)
            }
            (true, ..) => Err(Refusal::failed(HttpError::Reset, &host)),
        }
    }

    /// Dials a ready endpoint of the Service that the rules name; pods that sleep are woken. Nothing has been sent yet,
    /// so an endpoint that refuses is simply skipped.
    async fn target(&self, host: &str, path: &str, client: &Client) -> Result<(HttpTarget, Option<Visit>), Refusal> {
        let routes = self.fabric.routes();
        let Some(backend) = routes.route(host, path) else {
            return Err(Refusal::NoRule { host: bare_host(host).into_owned(), path: path.to_owned() });
        };
        let network::ingress::Backend { namespace, service, port, .. } = &**backend;
        let client = client.peer.ip().to_canonical();
        let (dialled, visit) = self.fabric.reach_service(namespace, service, port, client).await;
        dialled.map(|target| (target, visit)).map_err(|error| Refusal::NoEndpoint(error.to_string()))
    }

    /// After `101 Switching Protocols` the bytes of both sides belong together, whatever they mean.
    fn join(&self, a: hyper::upgrade::OnUpgrade, b: hyper::upgrade::OnUpgrade, counted: (Arc<Client>, Option<Visit>)) {
        let abort = self.abort.clone();
        self.tasks.spawn(async move {
            let copy = async {
                let (Ok(a), Ok(b)) = tokio::join!(a, b) else { return };
                // Either side closing is the ordinary end.
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(a), &mut TokioIo::new(b)).await;
            };
            tokio::select! {
                () = abort.cancelled() => {}
                () = copy => {}
            }
            drop(counted);
        });
    }
}

/// `Host`, or the authority of an HTTP/2 request or of an absolute URI, which goes before it (RFC 9112 §3.2.2).
fn host_of(request: &Request<Incoming>) -> Option<&str> {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    authority.or_else(|| request.headers().get(HOST)?.to_str().ok()).filter(|host| !host.is_empty())
}

/// `websocket` when the client wants to switch to that; HTTP/2 has no such thing (RFC 9113 §8.6).
///
/// Nothing else is passed on: a client that switched to `h2c` could send requests past the rules.
fn wanted_upgrade(request: &Request<Incoming>) -> Option<HeaderValue> {
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

/// Turns the client's request into what the pod is to see.
fn prepare(
    request: &mut Request<Incoming>,
    host: &str,
    client: &Client,
    id: &HeaderValue,
    upgrade: Option<&HeaderValue>,
) -> Result<(), Refusal> {
    let host = HeaderValue::from_str(host).map_err(|_| Refusal::NoHost)?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = path.parse::<Uri>().map_err(|_| Refusal::NoHost)?;
    *request.uri_mut() = uri;
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
    let ip = client.peer.ip().to_canonical().to_string();
    // An address is made of digits, letters, dots and colons.
    if let Ok(ip) = HeaderValue::from_str(&ip) {
        headers.insert(X_FORWARDED_FOR, ip.clone());
        headers.insert(X_REAL_IP, ip);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if client.secure { "https" } else { "http" }));
    headers.insert(X_FORWARDED_HOST, host.clone());
    headers.insert(X_REQUEST_ID, id.clone());
    headers.insert(HOST, host);
    Ok(())
}

/// Removes what concerns one connection only, including what `Connection` names. `TE: trailers` stays: gRPC needs it.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
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

/// Why a request got no answer from a pod.
#[derive(Debug)]
enum Refusal {
    NoTunnel,
    NoHost,
    TooLarge,
    NoRule { host: String, path: String },
    NoEndpoint(String),
    Failed(HttpError),
}

impl Refusal {
    fn failed(error: HttpError, host: &str) -> Self {
        if let HttpError::Internal(text) = &error {
            tracing::warn!(host, text, "a backend failed");
        }
        Self::Failed(error)
    }

    fn response(self) -> Response<Body> {
        let (status, text) = match self {
            Self::NoTunnel => (StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here".to_owned()),
            Self::NoHost => (StatusCode::BAD_REQUEST, "the request names no valid host".to_owned()),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the request body is larger than {} bytes", limits::BODY_BYTES_MAX),
            ),
            Self::NoRule { host, path } => {
                (StatusCode::NOT_FOUND, format!("no Ingress rule matches host {host} path {path}"))
            }
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
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Ids that tell requests apart: a keyed hash of a counter, so that they are cheap and do not repeat.
#[derive(Default)]
struct RequestIds {
    keys: RandomState,
    count: AtomicU64,
}

impl RequestIds {
    /// The client's own id when it has a sane one, else a new one of 32 hexadecimal digits.
    fn of(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(own) = headers.get(X_REQUEST_ID).filter(|own| own.len() <= limits::REQUEST_ID_BYTES_MAX) {
            return own.clone();
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let (high, low) = (self.keys.hash_one((count, 0_u8)), self.keys.hash_one((count, 1_u8)));
        HeaderValue::from_str(&format!("{high:016x}{low:016x}")).expect("hexadecimal digits are a valid header value")
    }
}
