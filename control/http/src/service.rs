//! A request from its arrival to its answer: who asks, may they, which part answers; here panics and timeouts end.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use api::Status;
use api::path::Route;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::upgrade::OnUpgrade;
use objects::{Objects, User};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{error, info};

use crate::auth::{self, Attributes, Authenticator, ServiceAccountTokens};
use crate::limits::{REQUEST_MAX, STREAM_SESSIONS_MAX};
use crate::openapi::OpenApi;
use crate::query::Query;
use crate::relay::Relay;
use crate::reply::{Reply, boxed, headless};
use crate::usage::{self, Measured};
use crate::{Body, BoxError, discovery, verbs, webhooks};

/// What the service is made of besides the state.
#[derive(Clone)]
pub struct Config {
    /// Kogia's own version, such as `0.1.0`; `GET /version` says `v1.33.0+kogia.0.1.0`.
    pub server_version: String,
    /// Where requests about running containers go.
    pub node_relay: Relay,
    /// What pods and nodes use, for `metrics.k8s.io`; [`crate::measure`] fills it.
    pub usage: Measured,
    /// Who a bearer token belongs to; client certificates are read by [`crate::serve`].
    pub authenticator: Arc<dyn Authenticator>,
    /// Gives service-account tokens out and reads them; without it there are none.
    pub service_accounts: Option<Arc<ServiceAccountTokens>>,
    /// What `GET /kogia/status` answers: the members of the control plane and how they are.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
    /// What `POST /kogia/join` answers to a new member, from the body it sent.
    pub join: Arc<dyn Fn(Value) -> BoxFuture<'static, Result<Value, Status>> + Send + Sync>,
    /// What `GET /kogia/snapshot` answers: everything the store holds, as the bytes of a snapshot file.
    pub snapshot: Arc<dyn Fn() -> BoxFuture<'static, Result<Body, Status>> + Send + Sync>,
}

impl Default for Config {
    /// No nodes, no tokens, this crate's version.
    fn default() -> Self {
        Self {
            server_version: env!("CARGO_PKG_VERSION").into(),
            node_relay: Relay::default(),
            usage: Measured::default(),
            authenticator: Arc::new(crate::StaticTokens::default()),
            service_accounts: None,
            status: Arc::new(|| Value::Null),
            join: Arc::new(|_| async { Err(Status::no_such_path()) }.boxed()),
            snapshot: Arc::new(|| async { Err(Status::no_such_path()) }.boxed()),
        }
    }
}

/// The Kubernetes API as a `tower` service; clones share everything.
///
/// The identity is the request extension [`User`], put there by [`crate::serve`] or [`in_process`]; without one a
/// bearer token is looked at, and without that the request is anonymous.
#[derive(Clone)]
pub struct ApiService {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) objects: Objects,
    pub(crate) config: Config,
    pub(crate) openapi: OpenApi,
    /// Places for exec, attach and port-forward sessions.
    pub(crate) sessions: Arc<Semaphore>,
}

/// Builds the service over the door to the state.
#[must_use]
pub fn service(objects: Objects, config: Config) -> ApiService {
    let sessions = Arc::new(Semaphore::new(STREAM_SESSIONS_MAX));
    objects.call_webhooks_by(webhooks::caller(config.node_relay.clone()));
    ApiService { inner: Arc::new(Inner { objects, config, openapi: OpenApi::default(), sessions }) }
}

/// A request extension: when this is cancelled, endless answers end.
#[derive(Clone)]
pub(crate) struct Stop(pub(crate) CancellationToken);

/// One request being answered, its head read and its sender known.
pub(crate) struct Call {
    pub(crate) user: User,
    pub(crate) method: Method,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) stop: CancellationToken,
    /// The connection below, if it can become something else than HTTP.
    pub(crate) upgrade: Option<OnUpgrade>,
}

impl Call {
    /// A header as text; empty when absent or not text.
    pub(crate) fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// All `Accept` headers as one list.
    pub(crate) fn accept(&self) -> String {
        let values = self.headers.get_all(header::ACCEPT).iter();
        values.filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",")
    }
}

/// What the audit line says about a request besides its answer.
struct Audit {
    method: Method,
    uri: String,
    user: String,
    impersonated_by: String,
}

impl ApiService {
    /// Answers one request; never fails and never panics.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let gzip = accepts_gzip(request.headers());
        let mut audit = Audit {
            method: request.method().clone(),
            uri: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
            user: String::new(),
            impersonated_by: String::new(),
        };
        let timeout = time_allowed(request.uri().query());
        let outcome = AssertUnwindSafe(tokio::time::timeout(timeout, self.route(request, &mut audit)));
        let reply = match outcome.catch_unwind().await {
            Ok(Ok(Ok(reply))) => reply,
            Ok(Ok(Err(status))) => Reply::status(&status),
            Ok(Err(_)) => {
                Reply::status(&Status::timeout(format!("request did not complete within {} s", timeout.as_secs()), 0))
            }
            Err(panic) => {
                error!(method = %audit.method, uri = audit.uri, panic = panic_text(&*panic), "a handler panicked");
                Reply::status(&Status::internal("the request could not be handled; the server's output says why"))
            }
        };
        info!(
            target: "audit",
            user = audit.user, impersonated_by = audit.impersonated_by, verb = %audit.method, uri = audit.uri,
            code = reply.code.as_u16(), ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        );
        let response = reply.into_response(gzip).await;
        if audit.method == Method::HEAD { headless(response) } else { response }
    }

    /// Identity, authorisation, dispatch.
    async fn route(&self, request: Request<Body>, audit: &mut Audit) -> Result<Reply, Status> {
        let (head, body) = request.into_parts();
        let view = self.inner.objects.view();
        let user = auth::identify(&self.inner.config, &view, head.extensions.get::<User>(), &head.headers)?;
        audit.user.clone_from(&user.name);
        let real = user.name.clone();
        let user = auth::impersonate(&view, user, &head.headers)?;
        if user.name != real {
            audit.user.clone_from(&user.name);
            audit.impersonated_by = real;
        }
        let query_text = head.uri.query().unwrap_or_default();
        let route = api::path::parse(head.uri.path());
        let call = Call {
            user,
            method: head.method,
            query: Query::parse(query_text),
            headers: head.headers,
            stop: head.extensions.get::<Stop>().map(|stop| stop.0.clone()).unwrap_or_default(),
            upgrade: head.extensions.get::<OnUpgrade>().cloned(),
        };
        auth::authorize(&view, &call.user, &Attributes::of(&call, &route)?)?;
        match route {
            Route::Resource(target) if target.group == usage::GROUP => usage::answer(&self.inner, &call, target).await,
            Route::Resource(target) => verbs::dispatch(&self.inner, &call, body, target).await,
            Route::Discovery(which) => discovery::dispatch(&self.inner, &call, &which),
            Route::NonResource(path) => discovery::non_resource(&self.inner, &call, body, &path).await,
        }
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim() == "gzip" && weight.trim() != "q=0"
    })
}

/// `?timeout=32s` may shorten the request's time, never lengthen it.
fn time_allowed(query: Option<&str>) -> Duration {
    let asked = Query::parse(query.unwrap_or_default());
    let seconds = asked.get("timeout").and_then(|text| text.trim_end_matches('s').parse::<u64>().ok());
    seconds.filter(|seconds| *seconds > 0).map_or(REQUEST_MAX, |seconds| Duration::from_secs(seconds).min(REQUEST_MAX))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl Service<Request<Body>> for ApiService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move { Ok(api.answer(request).await) })
    }
}

/// The API without a socket, for a client in the same process: every request is this user's, and of this program
/// (`User-Agent`, by which fields are managed) unless it says otherwise.
///
/// Any body goes in, so that `kube::Client::new(in_process(api, user, program), "default")` works.
#[must_use]
pub fn in_process(api: ApiService, user: User, program: &'static str) -> InProcess {
    InProcess { api, user, program: HeaderValue::from_static(program) }
}

/// See [`in_process`].
#[derive(Clone)]
pub struct InProcess {
    api: ApiService,
    user: User,
    program: HeaderValue,
}

impl<B> Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let api = self.api.clone();
        let mut request = request.map(boxed);
        request.extensions_mut().insert(self.user.clone());
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| self.program.clone());
        Box::pin(async move { Ok(api.answer(request).await) })
    }
}

impl std::fmt::Debug for ApiService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiService").field("relay", &self.inner.config.node_relay).finish_non_exhaustive()
    }
}
