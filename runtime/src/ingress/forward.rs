//! One request: which route, which pod, what is told to it, and what the client is told when that fails.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, ORIGIN, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use network::routes::{Asked, Backend, Found, Rule, Share, bare_host};
use network::sleepers::Visit;
use network::{Body, Fabric, HttpError, HttpTarget, body};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::headers::{self, Origin, RequestIds};
use super::limiter::Limiter;
use super::metrics::Metrics;
use super::refusal::Refusal;
use super::{again, early, limits, mirror};

/// Who sent the request.
pub(super) struct Client {
    pub(super) peer: SocketAddr,
    pub(super) secure: bool,
    /// Whether a whole request head has ever arrived.
    pub(super) asked: AtomicBool,
    /// Counts the connection, and what it was upgraded to, against the bound.
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Client {
    fn ip(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }
}

pub(super) struct Forwarder {
    pub(super) fabric: Fabric,
    /// How long a pod may take to begin its answer, where its route does not say.
    pub(super) answer: Duration,
    /// Where TLS is spoken, for redirects.
    pub(super) https_port: Option<u16>,
    pub(super) metrics: Arc<Metrics>,
    /// Upgraded connections outlive their request; they are waited for at the end.
    pub(super) tasks: TaskTracker,
    pub(super) abort: CancellationToken,
    pub(super) limiter: Limiter,
    pub(super) ids: RequestIds,
}

impl Forwarder {
    /// Answers one request; failures become answers too.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Arc<Client>,
    ) -> Result<Response<Body>, Infallible> {
        client.asked.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let id = self.ids.of(request.headers());
        let mut rule = None;
        let mut response = match self.route(request, &client, &id, &mut rule).await {
            Ok(response) => response,
            Err(refusal) => refusal.response(),
        };
        let name = rule.as_ref().map(|rule: &Arc<Rule>| &rule.name);
        self.metrics.count(name, response.status().as_u16(), began.elapsed());
        response.headers_mut().insert(headers::X_REQUEST_ID, id);
        Ok(response)
    }

    /// Finds the route and does what it says; `done` is told which one it was.
    async fn route(
        &self,
        request: Request<Incoming>,
        client: &Arc<Client>,
        id: &HeaderValue,
        done: &mut Option<Arc<Rule>>,
    ) -> Result<Response<Body>, Refusal> {
        headers::check(&request)?;
        let host = headers::host_of(&request).ok_or(Refusal::NoHost)?.to_owned();
        if let Some(proof) = early::proof(&self.fabric, &host, request.uri().path()) {
            return Ok(proof);
        }
        let routes = self.fabric.routes();
        let found = routes.find(&Asked {
            host: &host,
            path: request.uri().path(),
            query: request.uri().query(),
            method: request.method(),
            headers: request.headers(),
            secure: client.secure,
        });
        let Some(found) = found else {
            let path = request.uri().path().to_owned();
            return Err(Refusal::NoRule { host: bare_host(&host).into_owned(), path });
        };
        // A request may take long; the table may be replaced meanwhile.
        drop(routes);
        let rule = done.insert(found.rule.clone()).clone();
        if !rule.options.admits(client.ip()) {
            return Err(Refusal::NotAdmitted);
        }
        if let Some(rate) = rule.options.rate
            && !self.limiter.admits(&rule.name, client.ip(), rate, Instant::now())
        {
            return Err(Refusal::TooMany);
        }
        if let Some(early) = early::answer(&request, &found, &host, client.secure, self.https_port) {
            return Ok(early);
        }
        let origin = request.headers().get(ORIGIN).filter(|_| rule.options.cors.is_some()).cloned();
        let forwarded = self.forward(request, client, id, &host, &found);
        let mut response = match rule.options.whole {
            Some(whole) => tokio::time::timeout(whole, forwarded)
                .await
                .unwrap_or_else(|_| Err(Refusal::failed(HttpError::Timeout, &host)))?,
            None => forwarded.await?,
        };
        rule.options.response_headers.apply(response.headers_mut());
        if let Some(cors) = &rule.options.cors {
            early::allow(cors, origin.as_ref(), response.headers_mut());
        }
        Ok(response)
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        client: &Arc<Client>,
        id: &HeaderValue,
        host: &str,
        found: &Found,
    ) -> Result<Response<Body>, Refusal> {
        let options = &found.rule.options;
        let body_max = options.body_bytes_max.unwrap_or(u64::MAX).min(limits::BODY_BYTES_MAX);
        let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > body_max) {
            return Err(Refusal::TooLarge(body_max));
        }
        let (share, backend) = chosen(&found.rule, &request)?;
        let (target, mut visit) = self.reach(backend, client).await?;
        let upgrade = headers::wanted_upgrade(&request);
        let on_client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let path = options.rewrite.as_ref().map(|rewrite| {
            let path = request.uri().path();
            rewrite.path(path, found.matched, &found.captures)
        });
        let origin = Origin { host, peer: client.peer, secure: client.secure, id };
        headers::prepare(&mut request, &origin, path, upgrade.as_ref())?;
        if let Some(host) = &options.host {
            request.headers_mut().insert(http::header::HOST, host.clone());
        }
        options.request_headers.apply(request.headers_mut());
        share.request_headers.apply(request.headers_mut());
        let max = usize::try_from(body_max).unwrap_or(usize::MAX);
        let mut request = request.map(|incoming| body::boxed(Limited::new(incoming, max)));
        for backend in &options.mirrors {
            let beside = (&self.tasks, &self.abort);
            request = mirror::copy(request, backend, &self.fabric, client.ip(), beside);
        }
        let answer = options.answer.unwrap_or(self.answer);
        let again = target.peer().zip(again::copy(&request));
        let sent = async {
            let Some((peer, copy)) = again else { return Ok(target.send(request).await) };
            let first = tokio::select! {
                biased;
                answered = target.send(request) => answered,
                () = self.fabric.falls_silent(peer.ip()) => Err(HttpError::Reset),
            };
            if !matches!(first, Err(HttpError::Reset)) {
                return Ok(first);
            }
            tracing::debug!(%peer, "a pod was lost before it answered; another one is asked");
            let (target, other) = self.reach(backend, client).await?;
            visit = other;
            Ok(target.send(copy).await)
        };
        let sent = tokio::time::timeout(answer, sent).await.unwrap_or(Ok(Err(HttpError::Timeout)))?;
        let mut response = sent.map_err(|error| Refusal::failed(error, host))?;
        share.response_headers.apply(response.headers_mut());
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let agreed = response.headers().get(UPGRADE).cloned();
        headers::strip_hop_by_hop(response.headers_mut());
        match (switched, on_client, agreed) {
            (false, ..) => Ok(response.map(|body| body::held(body, visit))),
            (true, Some(on_client), Some(protocol)) => {
                self.join(on_client, hyper::upgrade::on(&mut response), (client.clone(), visit));
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
                response.headers_mut().insert(UPGRADE, protocol);
                Ok(response)
            }
            (true, ..) => Err(Refusal::failed(HttpError::Reset, host)),
        }
    }

    /// Dials a ready endpoint of a Service; pods that sleep are woken. Nothing has been sent yet, so an endpoint that
    /// refuses is simply skipped.
    async fn reach(&self, backend: &Backend, client: &Client) -> Result<(HttpTarget, Option<Visit>), Refusal> {
        let Backend { namespace, service, port, h2c } = backend;
        let (dialled, visit) = self.fabric.reach_service(namespace, service, port, client.ip()).await;
        let target = dialled.map_err(|error| Refusal::NoEndpoint(error.to_string()))?;
        Ok((if *h2c { target.over_h2() } else { target }, visit))
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

/// Which of a rule's Services gets this request.
fn chosen<'a, B>(rule: &'a Rule, request: &Request<B>) -> Result<(&'a Share, &'a Backend), Refusal> {
    let share = rule.choose(request.headers()).ok_or(Refusal::NoBackend)?;
    share.backend.as_ref().map(|backend| (share, backend)).ok_or(Refusal::NoBackend)
}
