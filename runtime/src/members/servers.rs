//! The API behind several servers: one HTTP/2 connection to one of them, and to the next when it breaks, falls silent or
//! says that it cannot serve.
//!
//! A request that was not sent, or only reads, is sent again to the next server; the outcome of any other is for its
//! caller to find out. What streams on a connection that is given up ends with an error, so that watches begin anew.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use network::BoxError;
use rustls::ClientConfig;
use tokio_util::task::AbortOnDropHandle;

use super::{SERVER_NAME, relay};
use crate::limits::{CONNECT_TIME_MAX, MEMBER_ASKED_EVERY, MEMBER_SILENT_MAX};

/// The servers of one cluster. Clones share the connection.
#[derive(Clone)]
pub struct Servers {
    shared: Arc<Shared>,
}

struct Shared {
    tls: ClientConfig,
    bearer: Option<HeaderValue>,
    addresses: Mutex<Vec<String>>,
    /// Held while connecting, so that all who wait share what comes of it.
    current: tokio::sync::Mutex<Current>,
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    /// Counts connections; whoever saw one break names it.
    number: u64,
    /// Which address is tried first.
    next: usize,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Ends every stream of the connection when it is given up.
    driver: AbortOnDropHandle<()>,
}

impl Servers {
    /// Servers at these addresses, `host:port`; `tls` shows a client certificate, or `bearer` is the token shown.
    ///
    /// # Errors
    /// When the token cannot stand in a header.
    pub fn new(addresses: Vec<String>, tls: &ClientConfig, bearer: Option<&str>) -> io::Result<Self> {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let bearer = bearer.map(|token| HeaderValue::try_from(format!("Bearer {token}")));
        let shared = Shared {
            tls,
            bearer: bearer.transpose().map_err(io::Error::other)?,
            addresses: Mutex::new(addresses),
            current: tokio::sync::Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A client of the API behind them. Must be called within tokio.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// Where the servers are now. The connection stays while it lasts.
    pub fn set(&self, addresses: Vec<String>) {
        *self.shared.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Where the servers are, as `HOST:PORT`.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.shared.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn send(&self, head: Parts, body: Bytes) -> Result<Response<Incoming>, BoxError> {
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        let mut tries = self.addresses().len().max(1);
        loop {
            let (number, mut sender) = self.connection().await?;
            let request = Request::from_parts(head.clone(), Full::new(body.clone()));
            tries -= 1;
            match sender.try_send_request(request).await {
                Ok(response) if cannot_serve(response.status()) => {
                    self.give_up(number).await;
                    if !reads || tries == 0 {
                        return Ok(response);
                    }
                }
                Ok(response) => return Ok(response),
                Err(mut error) => {
                    self.give_up(number).await;
                    let unsent = error.take_message().is_some();
                    if tries == 0 || !(unsent || reads) {
                        return Err(error.into_error().into());
                    }
                }
            }
        }
    }

    /// The connection, made if there is none: to each server in turn, beginning after the last one that failed.
    async fn connection(&self) -> Result<(u64, SendRequest<Full<Bytes>>), BoxError> {
        let mut current = self.shared.current.lock().await;
        if let Some(connection) = current.connection.as_ref().filter(|connection| !connection.sender.is_closed()) {
            return Ok((current.number, connection.sender.clone()));
        }
        let addresses = self.addresses();
        let mut refusal: BoxError = "there is no server".into();
        for turn in 0..addresses.len() {
            let at = (current.next + turn) % addresses.len();
            match tokio::time::timeout(CONNECT_TIME_MAX, self.connect(&addresses[at])).await {
                Ok(Ok(connection)) => {
                    current.next = at;
                    current.number += 1;
                    let sender = connection.sender.clone();
                    current.connection = Some(connection);
                    return Ok((current.number, sender));
                }
                Ok(Err(error)) => refusal = error,
                Err(_) => refusal = format!("{} does not answer", addresses[at]).into(),
            }
        }
        Err(refusal)
    }

    async fn connect(&self, address: &str) -> Result<Connection, BoxError> {
        let stream = relay::connect(address, self.shared.tls.clone()).await?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(MEMBER_ASKED_EVERY)
            .keep_alive_timeout(MEMBER_SILENT_MAX)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a server ended");
            }
        });
        Ok(Connection { sender, driver: AbortOnDropHandle::new(driver) })
    }

    /// Leaves the connection, because there is another certificate to show: the next request makes a new one, and what
    /// streams on this one goes on to its end.
    pub async fn renew(&self) {
        if let Some(connection) = self.shared.current.lock().await.connection.take() {
            drop(connection.sender);
            drop(connection.driver.detach());
        }
    }

    /// Leaves a connection; the next request goes to the next server.
    async fn give_up(&self, number: u64) {
        let mut current = self.shared.current.lock().await;
        if current.number == number && current.connection.take().is_some() {
            current.next += 1;
        }
    }
}

/// A server that stops, or has no majority behind it, says so; another one may be better off.
fn cannot_serve(status: StatusCode) -> bool {
    matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

impl tower::Service<Request<kube::client::Body>> for Servers {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Incoming>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let servers = self.clone();
        // On a task of its own: a caller that looks elsewhere for a while must not hold up all others with the lock that is
        // held while connecting. It ends with the caller.
        let sent = AbortOnDropHandle::new(tokio::spawn(async move {
            let (mut head, body) = request.into_parts();
            let mut uri = std::mem::take(&mut head.uri).into_parts();
            uri.scheme = Some(Scheme::HTTPS);
            uri.authority = Some(Authority::from_static(SERVER_NAME));
            head.uri = Uri::from_parts(uri)?;
            if let Some(bearer) = &servers.shared.bearer {
                head.headers.insert(AUTHORIZATION, bearer.clone());
            }
            head.headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("kubelet"));
            let body = body.collect().await?.to_bytes();
            servers.send(head, body).await
        }));
        Box::pin(async move { sent.await? })
    }
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}
