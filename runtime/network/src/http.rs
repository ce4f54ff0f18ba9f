//! HTTP in the fabric: a call between two HTTP components is a function call; where one side speaks raw TCP, HTTP/1.1
//! is spoken over the connection, so that both worlds meet.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Notify;

use crate::body::{self, Body};
use crate::conn::Conn;
use crate::fabric::NetError;
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEAD_TIMEOUT, HTTP_LAST_ASK_TIMEOUT, HTTP_READER_TIMEOUT};
use crate::patient::Patient;

/// A future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that answers HTTP requests in this process: an HTTP component bound to a pod's port.
pub trait HttpService: Send + Sync {
    /// Answers one request of a caller: a pod's address, a client's of the Ingress, or the node's own. It is no more than
    /// a name to tell callers apart by. Dropping the future abandons the request.
    fn call(
        self: Arc<Self>,
        request: Request<Body>,
        caller: IpAddr,
    ) -> BoxFuture<'static, Result<Response<Body>, HttpError>>;
}

/// Why a request was not answered; each variant is another thing the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody listens there. Another endpoint may.
    #[error("connection refused")]
    ConnectionRefused,
    /// No such name. Asking again will not help until something is created.
    #[error("no such name: {0}")]
    NameNotFound(String),
    /// A policy forbids it; the text is the reason. Nothing was sent.
    #[error("{0}")]
    Denied(String),
    /// No answer in time. The request may have been processed.
    #[error("no answer in time")]
    Timeout,
    /// Alive but full. Ask again after this time.
    #[error("overloaded")]
    Overloaded {
        /// How long to wait before asking again.
        retry_after: Duration,
    },
    /// The connection broke during the request. It may have been processed.
    #[error("the connection was closed before the answer was complete")]
    Reset,
    /// Whoever answers has no certificate that is good for the host; nothing was sent.
    #[error("the certificate is not trusted: {0}")]
    Untrusted(String),
    /// Whoever answers speaks no TLS, or none that is spoken here; nothing was sent.
    #[error("no TLS: {0}")]
    Tls(String),
    /// The callee failed; the text is for the cluster's operator, not for the client.
    #[error("{0}")]
    Internal(String),
}

impl HttpError {
    /// The answer a client gets in place of the missing one: 403, 502, 503 with `Retry-After`, 504 or 500.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let status = match self {
            Self::ConnectionRefused | Self::Overloaded { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NameNotFound(_) | Self::Reset | Self::Untrusted(_) | Self::Tls(_) => StatusCode::BAD_GATEWAY,
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let text = match self {
            Self::Internal(_) => "internal error\n".to_owned(),
            other => format!("{other}\n"),
        };
        let mut response = Response::new(body::full(text));
        *response.status_mut() = status;
        let wait = match self {
            Self::ConnectionRefused => Some(Duration::from_secs(1)),
            Self::Overloaded { retry_after } => Some(*retry_after),
            _ => None,
        };
        if let Some(wait) = wait {
            // RFC 9110 §10.2.3 counts whole seconds; rounding up keeps the promise.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

impl From<NetError> for HttpError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::ConnectionRefused | NetError::Unreachable => Self::ConnectionRefused,
            NetError::TimedOut => Self::Timeout,
            NetError::NameNotFound(name) => Self::NameNotFound(name),
            NetError::Denied(reason) => Self::Denied(reason),
            NetError::LimitReached(_) => Self::Overloaded { retry_after: Duration::from_secs(1) },
            NetError::InvalidAddress => Self::Denied(error.to_string()),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<hyper::Error> for HttpError {
    fn from(error: hyper::Error) -> Self {
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_incomplete_message()
            || error.is_closed()
            || error.is_canceled()
            || error.is_body_write_aborted()
            // What it answered is no HTTP, or has a head without end.
            || error.is_parse()
            // The connection broke in any other way.
            || std::error::Error::source(&error).is_some_and(|cause| cause.is::<std::io::Error>())
        {
            Self::Reset
        } else {
            Self::Internal(error.to_string())
        }
    }
}

/// An endpoint that was dialled and is there; nothing has been sent yet.
pub enum HttpTarget {
    /// An HTTP component of this node, and who calls it.
    Service(Arc<dyn HttpService>, IpAddr),
    /// A connection to something that speaks HTTP/1.1.
    Conn(Conn),
    /// A connection to something that speaks HTTP/2 without TLS, and knows so (RFC 9113 §3.3).
    H2c(Conn),
}

impl fmt::Debug for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(..) => f.write_str("Service"),
            Self::Conn(conn) | Self::H2c(conn) => fmt::Debug::fmt(conn, f),
        }
    }
}

impl HttpTarget {
    /// The pod at the other end of a connection; `None` for a component of this node, which is called without one.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Service(..) => None,
            Self::Conn(conn) | Self::H2c(conn) => Some(conn.peer()),
        }
    }

    /// Sends the request and returns the head of the answer; its body streams.
    ///
    /// # Errors
    /// [`HttpError::Reset`] when the endpoint closes the connection first, or what the component answers with.
    pub async fn send(self, request: Request<Body>) -> Result<Response<Body>, HttpError> {
        match self {
            Self::Service(service, caller) => service.call(request, caller).await,
            Self::Conn(conn) => send_over(TokioIo::new(conn), request).await,
            Self::H2c(conn) => send_over_h2(conn, request).await,
        }
    }

    /// The same, called on behalf of somebody else. What lies behind a connection knows only who dialled.
    #[must_use]
    pub(crate) fn on_behalf_of(self, client: IpAddr) -> Self {
        match self {
            Self::Service(service, _) => Self::Service(service, client),
            other => other,
        }
    }

    /// The same, spoken to in HTTP/2. A component of this node is called as ever: it sees messages, not frames.
    #[must_use]
    pub fn over_h2(self) -> Self {
        match self {
            Self::Conn(conn) => Self::H2c(conn),
            other => other,
        }
    }
}

/// Makes sure that the request names its host: `Host` is what every server reads (RFC 9112 §3.2).
pub(crate) fn name_host(request: &mut Request<Body>, authority: &str) {
    if !request.headers().contains_key(HOST)
        && let Ok(value) = HeaderValue::from_str(authority)
    {
        request.headers_mut().insert(HOST, value);
    }
}

/// HTTP/1.1 as a client. One connection per request: opening one costs two allocations, a pool would cost a lock.
pub(crate) async fn send_over<T>(stream: T, mut request: Request<Body>) -> Result<Response<Body>, HttpError>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    if let Some(authority) = request.uri().authority().map(ToString::to_string) {
        name_host(&mut request, &authority);
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = path.parse::<Uri>().map_err(|error| HttpError::Internal(error.to_string()))?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(http::header::UPGRADE) {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::Builder::new().max_buf_size(HTTP_HEAD_BYTES_MAX).handshake(stream).await?;
    // Ends when the response body is read or lost; its error reaches the caller through the body.
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await?;
    Ok(response.map(body::boxed))
}

/// HTTP/2 as a client: gRPC's trailers and streams in both directions at once. One connection per request here too.
async fn send_over_h2(conn: Conn, mut request: Request<Body>) -> Result<Response<Body>, HttpError> {
    let host = request.headers_mut().remove(HOST);
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build();
    *request.uri_mut() = uri.map_err(|error| HttpError::Internal(error.to_string()))?;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(CONNECTION);
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(HTTP_HEAD_BYTES_MAX as u32)
        .handshake(TokioIo::new(conn))
        .await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    // The connection ends when nobody can send on it any more, which is not before the answer has been read.
    Ok(response.map(|body| body::held(body::boxed(body), Some(sender))))
}

/// HTTP/1.1 as a server: what answers a raw TCP connection to an HTTP component's port, until either side closes, or
/// `over` and there is no request to answer. A client that has been let in and has not asked yet may ask once, soon. One
/// that goes away takes what it asked with it, so that asking and leaving costs nobody but itself.
pub(crate) async fn serve_over(conn: Conn, service: Arc<dyn HttpService>, over: impl Future<Output = ()>) {
    let (caller, gone) = (conn.peer().ip(), conn.peer_gone());
    let asked = Arc::new(Notify::new());
    let asking = asked.clone();
    let answer = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        asking.notify_one();
        let call = Arc::clone(&service).call(request.map(body::boxed), caller);
        async move {
            match call.await {
                Ok(response) => Ok(response),
                // The answer cannot be trusted to be complete, so the client must see a broken connection.
                Err(HttpError::Reset) => Err(HttpError::Reset),
                Err(error) => Ok(error.response()),
            }
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP_HEAD_TIMEOUT)
        .half_close(true)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(conn, HTTP_READER_TIMEOUT)), answer);
    let mut served = std::pin::pin!(served);
    let mut gone = std::pin::pin!(gone);
    let last = async {
        over.await;
        let _ = tokio::time::timeout(HTTP_LAST_ASK_TIMEOUT, asked.notified()).await;
    };
    // A malformed request or a client that went away ends this connection and nothing else.
    tokio::select! {
        ended = served.as_mut() => return drop(ended),
        () = gone.as_mut() => return,
        () = last => served.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = served => drop(ended),
        () = gone => {}
    }
}
