//! HTTP containers: each request is answered by a fresh instance, and between requests nothing is held; or by an
//! instance that answers several, if the pod asks for it (`proxy` for WASI 0.2, `workers` for 0.3).
//!
//! The response's head comes through a channel while the instance goes on writing the body; both bodies stream, with
//! two pieces in flight. A client that goes away ends its instance, which is no fault of the guest; a trap ends one
//! request with 500 (or cuts a body that has begun), is told in the output and remembered as a fault, and the
//! container goes on. More requests than [`limits::REQUESTS_MAX`] at once are turned away with `Retry-After: 1`. Callers
//! share these places ([`network::places`]) and take turns on the threads ([`crate::turns`]), so that one that floods is
//! in nobody's way but its own.

use crate::call::{Behind, Call, Ended, Head, Streamed, content_length};
use crate::component::Pre;
use crate::exit::Exit;
use crate::guest::{Accounts, Container, Guest, Usage};
use crate::inspect::{CodeError, Kind};
use crate::limits;
use crate::proxy::{self, Shelf};
use crate::threads::Threads;
use crate::workers::{self, Job, Workers};
use http::header::{HOST, HeaderValue, ToStrError};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use network::places::{Place, Places};
use network::{BoxFuture, HttpError, HttpService};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::p3::bindings::ServicePre;

/// A container that answers HTTP requests.
pub struct HttpContainer {
    container: Arc<Container>,
    places: Arc<Places>,
    stop: CancellationToken,
    faults: Mutex<VecDeque<Exit>>,
    faulted: Notify,
    reuse: Option<Kept>,
}

/// Where instances are between their requests.
enum Kept {
    OneByOne(Arc<Shelf>),
    Together(Workers),
}

impl HttpContainer {
    pub(crate) fn new(container: Arc<Container>) -> Result<Arc<HttpContainer>, CodeError> {
        if container.code.kind() != Kind::HttpProxy {
            return Err(CodeError::Invalid("it is a command and answers no HTTP requests".into()));
        }
        let terms = container.spec.terms;
        let reuse = terms.reuse.map(|reuse| match container.code.pre() {
            Pre::Service(_) => Kept::Together(Workers::new(reuse, terms.fuel)),
            _ => Kept::OneByOne(Shelf::new(reuse)),
        });
        Ok(Arc::new(HttpContainer {
            container,
            places: Places::new(limits::REQUESTS_MAX),
            stop: CancellationToken::new(),
            faults: Mutex::default(),
            faulted: Notify::new(),
            reuse,
        }))
    }

    /// What all its instances have used.
    pub fn usage(&self) -> Usage {
        self.container.usage()
    }

    /// The accounts of all its instances.
    pub fn accounts(&self) -> Accounts {
        self.container.accounts()
    }

    /// Requests being answered now.
    pub fn in_flight(&self) -> usize {
        self.places.taken()
    }

    /// Waits until no request is being answered. New ones are still taken: unbind the container first.
    pub async fn drained(&self) {
        self.places.emptied().await;
    }

    /// Ends every instance at its next yield and refuses further requests.
    pub fn stop(&self) {
        self.stop.cancel();
        match &self.reuse {
            Some(Kept::OneByOne(shelf)) => shelf.clear(),
            Some(Kept::Together(workers)) => workers.clear(),
            None => {}
        }
    }

    /// The next fault of an instance: a trap, the memory limit, a failed start. The last few are kept while nobody
    /// waits here.
    pub async fn fault(&self) -> Exit {
        loop {
            let mut faulted = std::pin::pin!(self.faulted.notified());
            faulted.as_mut().enable();
            if let Some(exit) = self.faults.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                return exit;
            }
            faulted.await;
        }
    }

    pub(crate) fn report(&self, line: &str, exit: Exit) {
        self.container.note(&format!("{line}: {exit}\n"));
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() == limits::FAULTS_MAX {
            faults.pop_front();
        }
        faults.push_back(exit);
        drop(faults);
        self.faulted.notify_one();
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<network::Body>,
        caller: IpAddr,
    ) -> Result<Response<network::Body>, HttpError> {
        let Ok(request) = with_authority(request) else {
            let mut refusal = Response::new(network::body::full("the Host header is not text\n"));
            *refusal.status_mut() = StatusCode::BAD_REQUEST;
            return Ok(refusal);
        };
        let overloaded = || HttpError::Overloaded { retry_after: Duration::from_secs(1) };
        let place = self.places.take(caller).ok_or_else(overloaded)?;
        let path = request.uri().path().chars().take(limits::PATH_SHOWN_MAX).collect::<String>();
        let line = format!("{} {path}", request.method());
        let failed = |reason: String| {
            self.container.note(&format!("{line}: {reason}\n"));
            HttpError::Internal(reason)
        };
        let bodiless = request.method() == http::Method::HEAD;
        let (send, head) = oneshot::channel();
        let mut behind = match &self.reuse {
            Some(Kept::Together(workers)) => {
                let worker = workers.send(&self, Job { request, head: send }).ok_or_else(overloaded)?;
                Behind::worker(worker, place)
            }
            _ => {
                let call = Arc::new(Call::default());
                let task = self.clone().serve(line.clone(), request, send, call.clone(), place);
                Behind::task(self.threads().spawn(&self.container.meter, Some(caller), task), call)
            }
        };
        match tokio::time::timeout(self.patience(), head).await {
            Ok(Ok(Ok(response))) => {
                let length = if bodiless { Some(0) } else { content_length(&response) };
                let meter = self.container.meter.clone();
                Ok(response.map(|body| Streamed::new(body, behind, length, meter).boxed_unsync()))
            }
            Ok(Ok(Err(code))) => {
                behind.detach();
                Err(failed(format!("the component answered with the error {code}")))
            }
            // The instance ended without a response; why is the task's result.
            Ok(Err(_)) => Err(match behind.ended().await {
                Some(Ended::Busy) => overloaded(),
                // More work than it may cost: to the caller the same as more than the time allows.
                Some(Ended::Failed(Exit::OutOfFuel(_))) => HttpError::Timeout,
                Some(Ended::Failed(exit)) => HttpError::Internal(exit.to_string()),
                Some(Ended::Done) => failed("the component gave no response".into()),
                None => failed("the engine failed".into()),
            }),
            Err(_) => {
                self.container.note(&format!("{line}: no response within {:?}\n", self.patience()));
                if let (Some(Kept::Together(workers)), Some(late)) = (&self.reuse, behind.late()) {
                    workers.retire(&self, late);
                }
                Err(HttpError::Timeout)
            }
        }
    }

    /// The life of one instance, on the guests' threads; the place is free when it is gone.
    async fn serve(
        self: Arc<Self>,
        line: String,
        request: Request<network::Body>,
        head: oneshot::Sender<Head>,
        call: Arc<Call>,
        _place: Place,
    ) -> Ended {
        let ended = tokio::select! {
            biased;
            () = self.stop.cancelled() => Ended::Failed(Exit::Stopped),
            () = call.overdue() => Ended::Failed(Exit::Stopped),
            ended = self.invoke(request, head, &call) => ended,
        };
        match &ended {
            Ended::Failed(exit) if *exit != Exit::Stopped && !call.abandoned() => self.report(&line, exit.clone()),
            Ended::Done | Ended::Busy | Ended::Failed(_) => {}
        }
        ended
    }

    async fn invoke(&self, request: Request<network::Body>, head: oneshot::Sender<Head>, call: &Call) -> Ended {
        match (self.container.code.pre(), &self.reuse) {
            (Pre::Proxy(pre), Some(Kept::OneByOne(shelf))) => {
                proxy::invoke(pre, &self.container, Some(shelf), request, head, call).await
            }
            (Pre::Proxy(pre), _) => proxy::invoke(pre, &self.container, None, request, head, call).await,
            (Pre::Service(pre), _) => workers::invoke(pre, &self.container, Job { request, head }, call).await,
            _ => no_service(),
        }
    }

    /// Runs something of this container on the guests' threads.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.threads().spawn(&self.container.meter, None, task));
    }

    pub(crate) fn threads(&self) -> &Threads {
        &self.container.code.parts().threads
    }

    /// How long to wait for the head of a response.
    pub(crate) fn patience(&self) -> Duration {
        self.container.spec.terms.request_timeout.unwrap_or(limits::REQUEST_TIMEOUT)
    }

    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Its code, if it is of 0.3.
    pub(crate) fn service(&self) -> Result<(&ServicePre<Guest>, &Container), Ended> {
        match self.container.code.pre() {
            Pre::Service(pre) => Ok((pre, &self.container)),
            _ => Err(no_service()),
        }
    }
}

fn no_service() -> Ended {
    Ended::Failed(Exit::Failed("the component answers no HTTP requests".into()))
}

impl HttpService for HttpContainer {
    fn call(
        self: Arc<Self>,
        request: Request<network::Body>,
        caller: IpAddr,
    ) -> BoxFuture<'static, Result<Response<network::Body>, HttpError>> {
        Box::pin(self.answer(request, caller))
    }
}

/// wasi:http wants every request to name its authority, as text; HTTP/1.0 clients and probes may not. A bad name is
/// the client's fault and must not look like the guest's.
fn with_authority<B>(mut request: Request<B>) -> Result<Request<B>, ToStrError> {
    if request.uri().authority().is_none() {
        match request.headers().get(HOST) {
            Some(host) => drop(host.to_str()?),
            None => drop(request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"))),
        }
    }
    Ok(request)
}
