//! The way in: HTTP/1.1, HTTP/2 and TLS from outside the cluster, routed by Ingress rules to ready pods.
//!
//! A request that ends in an HTTP component of this node is a function call; one that ends in a pod that listens by
//! itself travels through the fabric, as HTTP/1.1, or as HTTP/2 where its Service says so. Routes and endpoints are read from the [`Fabric`]'s tables at the
//! moment of the request; nothing is looked up in the API.
//!
//! Refused: more than `limits` say, heads that can be read in two ways, and every client-supplied `X-Forwarded-*` (this is the edge, nobody before it is
//! trusted).

mod again;
mod early;
mod forward;
mod headers;
mod limiter;
mod limits;
pub mod metrics;
mod mirror;
mod refusal;
#[cfg(test)]
mod tests;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use network::{Fabric, Patient};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::forward::{Client, Forwarder};
use self::headers::RequestIds;
use self::limiter::Limiter;
use self::metrics::Metrics;
use self::tls::Certificates;

/// Where the Ingress listens. The sockets are bound by the caller, who therefore knows their ports.
#[derive(Debug)]
pub struct Config {
    /// Plain HTTP/1.1 and HTTP/2 with prior knowledge.
    pub http: TcpListener,
    /// The same over TLS.
    pub https: Option<TcpListener>,
    /// Certificates by host name.
    pub certificates: Arc<Certificates>,
    /// How long others are waited for.
    pub patience: Patience,
    /// Counts what is answered.
    pub metrics: Arc<Metrics>,
}

/// How long others are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A client must finish a request's head within this time; also how long an idle connection is kept.
    pub head: Duration,
    /// A pod must begin its answer within this time, or the client gets 504.
    pub answer: Duration,
    /// After the server was told to stop, requests in flight may finish within this time.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { head: limits::HEAD_TIMEOUT, answer: limits::ANSWER_TIMEOUT, drain: limits::DRAIN_TIMEOUT }
    }
}

/// The Ingress server.
pub struct Ingress {
    config: Config,
    server: Arc<Server>,
}

struct Server {
    forwarder: Arc<Forwarder>,
    patience: Patience,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
    /// No new requests.
    drain: CancellationToken,
    /// No more patience.
    abort: CancellationToken,
}

impl Ingress {
    /// A server that is not accepting yet.
    #[must_use]
    pub fn new(config: Config, fabric: Fabric) -> Self {
        let tasks = TaskTracker::new();
        let abort = CancellationToken::new();
        let server = Server {
            forwarder: Arc::new(Forwarder {
                fabric,
                answer: config.patience.answer,
                https_port: config.https.as_ref().and_then(|https| Some(https.local_addr().ok()?.port())),
                metrics: config.metrics.clone(),
                tasks: tasks.clone(),
                abort: abort.clone(),
                limiter: Limiter::default(),
                ids: RequestIds::default(),
            }),
            patience: config.patience,
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)),
            tasks,
            drain: CancellationToken::new(),
            abort,
        };
        Self { config, server: Arc::new(server) }
    }

    /// Serves until `stop`, then lets requests in flight finish for a bounded time.
    pub async fn run(self, stop: CancellationToken) {
        let Self { config, server } = self;
        let plain = server.clone().accept(config.http, None, stop.clone());
        match config.https {
            Some(https) => {
                let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(config.certificates)));
                tokio::join!(plain, server.clone().accept(https, Some(acceptor), stop));
            }
            None => plain.await,
        }
        server.drain.cancel();
        server.tasks.close();
        if tokio::time::timeout(server.patience.drain, server.tasks.wait()).await.is_err() {
            tracing::warn!(connections = server.tasks.len(), "requests still in flight are cut off");
            server.abort.cancel();
            server.tasks.wait().await;
        }
    }
}

impl Server {
    /// Accepts connections until `stop`.
    async fn accept(self: Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>, stop: CancellationToken) {
        loop {
            let connections = self.connections.clone();
            let next = async {
                // Never closed, so this fails never.
                let permit = connections.acquire_owned().await.ok();
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = stop.cancelled() => return,
                next = next => next,
            };
            match (permit, accepted) {
                (Some(permit), Ok((stream, peer))) => {
                    self.tasks.spawn(self.clone().connection(stream, peer, tls.clone(), permit));
                }
                (_, Err(error)) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
                (None, Ok(_)) => return,
            }
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<TlsAcceptor>,
        permit: OwnedSemaphorePermit,
    ) {
        // Small answers must not wait for Nagle; a socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        let client = Arc::new(Client { peer, secure: tls.is_some(), asked: AtomicBool::new(false), _permit: permit });
        let Some(acceptor) = tls else { return self.serve(stream, client).await };
        let handshake = self.within(limits::HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
        match handshake {
            Some(Ok(stream)) => self.serve(stream, client).await,
            Some(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            None => {}
        }
    }

    /// The future's result, unless time runs out or the server stops first.
    async fn within<T>(&self, time: Duration, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.drain.cancelled() => None,
            result = tokio::time::timeout(time, future) => result.ok(),
        }
    }

    async fn serve<S>(&self, stream: S, client: Arc<Client>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let forwarder = self.forwarder.clone();
        let peer = client.peer;
        let silent = silent(client.clone(), self.patience.head);
        let answer = hyper::service::service_fn(move |request| forwarder.clone().answer(request, client.clone()));
        let builder = builder(self.patience.head);
        let stream = Patient::new(stream, network::limits::HTTP_READER_TIMEOUT);
        let mut connection = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), answer));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = silent => return,
            () = self.drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.abort.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error, "connection ended early");
        }
    }
}

/// Returns when a client has had its time and not sent a whole head: hyper's own timer starts only once it has seen
/// which version of HTTP is spoken.
async fn silent(client: Arc<Client>, patience: Duration) {
    tokio::time::sleep(patience).await;
    if client.asked.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn builder(head: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(limits::HEAD_BYTES_MAX)
        .max_headers(limits::HEADERS_MAX)
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(head)
        .max_concurrent_streams(limits::STREAMS_MAX)
        .max_header_list_size(limits::HEAD_BYTES_MAX as u32);
    builder
}
