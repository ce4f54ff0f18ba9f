//! HTTP containers: each request is answered by a fresh instance, and between requests nothing is held.
//!
//! The response's head comes through a channel while the instance goes on writing the body; both bodies stream, with
//! two pieces in flight. A client that goes away ends its instance, which is no fault of the guest; a trap ends one
//! request with 500 (or cuts a body that has begun), is told in the output and remembered as a fault, and the
//! container goes on. More requests than [`limits::REQUESTS_MAX`] at once are turned away with `Retry-After: 1`.

use crate::component::{CodeError, Kind, Pre};
use crate::exit::Exit;
use crate::guest::{Accounts, Container, Usage};
use crate::limits;
use crate::threads::Spawned;
use bytes::Bytes;
use http::header::{HOST, HeaderValue, ToStrError};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use network::{BoxError, BoxFuture, HttpError, HttpService};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, WasiHttpView};

type Head = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// A container that answers HTTP requests.
pub struct HttpContainer {
    container: Arc<Container>,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
    faults: Mutex<VecDeque<Exit>>,
    faulted: Notify,
}

impl HttpContainer {
    pub(crate) fn new(container: Arc<Container>) -> Result<Arc<HttpContainer>, CodeError> {
        if container.code.kind() != Kind::HttpProxy {
            return Err(CodeError::Invalid("it is a command and answers no HTTP requests".into()));
        }
        Ok(Arc::new(HttpContainer {
            container,
            slots: Arc::new(Semaphore::new(limits::REQUESTS_MAX)),
            stop: CancellationToken::new(),
            faults: Mutex::default(),
            faulted: Notify::new(),
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
        limits::REQUESTS_MAX - self.slots.available_permits()
    }

    /// Waits until no request is being answered. New ones are still taken: unbind the container first.
    pub async fn drained(&self) {
        // Fails only on a closed semaphore, which this one never is.
        let _ = self.slots.acquire_many(limits::REQUESTS_MAX as u32).await;
    }

    /// Ends every instance at its next yield and refuses further requests.
    pub fn stop(&self) {
        self.stop.cancel();
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

    fn report(&self, line: &str, exit: Exit) {
        self.container.note(&format!("{line}: {exit}\n"));
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() == limits::FAULTS_MAX {
            faults.pop_front();
        }
        faults.push_back(exit);
        drop(faults);
        self.faulted.notify_one();
    }

    async fn answer(self: Arc<Self>, request: Request<network::Body>) -> Result<Response<network::Body>, HttpError> {
        let Ok(request) = with_authority(request) else {
            let mut refusal = Response::new(network::body::full("the Host header is not text\n"));
            *refusal.status_mut() = StatusCode::BAD_REQUEST;
            return Ok(refusal);
        };
        let overloaded = || HttpError::Overloaded { retry_after: Duration::from_secs(1) };
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| overloaded())?;
        let path = request.uri().path().chars().take(limits::PATH_SHOWN_MAX).collect::<String>();
        let line = format!("{} {path}", request.method());
        let failed = |reason: String| {
            self.container.note(&format!("{line}: {reason}\n"));
            HttpError::Internal(reason)
        };
        let bodiless = request.method() == http::Method::HEAD;
        let call = Arc::new(Call::default());
        let (send, head) = oneshot::channel();
        let task = self.clone().serve(line.clone(), request, send, call.clone(), slot);
        let threads = &self.container.code.parts().threads;
        let mut instance = Instance { task: threads.spawn(&self.container.meter, task), call, detached: false };

        match tokio::time::timeout(limits::REQUEST_TIMEOUT, head).await {
            Ok(Ok(Ok(response))) => {
                let length = if bodiless { Some(0) } else { content_length(&response) };
                Ok(response.map(|body| Streamed::new(body, instance, length).boxed_unsync()))
            }
            Ok(Ok(Err(code))) => {
                instance.detach();
                Err(failed(format!("the component answered with the error {code:?}")))
            }
            // The instance ended without a response; why is the task's result.
            Ok(Err(_)) => Err(match (&mut instance.task).await {
                Some(Ended::Busy) => overloaded(),
                Some(Ended::Failed(exit)) => HttpError::Internal(exit.to_string()),
                Some(Ended::Done) => failed("the component gave no response".into()),
                None => failed("the engine failed".into()),
            }),
            Err(_) => {
                self.container.note(&format!("{line}: no response within {:?}\n", limits::REQUEST_TIMEOUT));
                Err(HttpError::Timeout)
            }
        }
    }

    /// The life of one instance, on the guests' threads; the slot is free when it is gone.
    async fn serve(
        self: Arc<Self>,
        line: String,
        request: Request<network::Body>,
        head: oneshot::Sender<Head>,
        call: Arc<Call>,
        _slot: OwnedSemaphorePermit,
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
        let mut store = match self.container.store() {
            Ok(store) => store,
            Err(error) => return Ended::Failed(Exit::Failed(format!("{error:#}"))),
        };
        // Declared after the store and so dropped before it: dropping the store ends the response's body, whose reader
        // must find the call marked by then.
        let mut unfinished = Unfinished { call, armed: true };
        let run = async {
            let Pre::HttpProxy(pre) = self.container.code.pre() else {
                return Err(wasmtime::Error::msg("the component is a command"));
            };
            let request = request.map(|body| body.map_err(|_| Error::ConnectionTerminated));
            let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
            let outparam = store.data_mut().http().new_response_outparam(head)?;
            let proxy = pre.instantiate_async(&mut store).await?;
            proxy.wasi_http_incoming_handler().call_handle(&mut store, request, outparam).await
        };
        match run.await {
            Ok(()) => {
                unfinished.armed = false;
                Ended::Done
            }
            Err(error) => {
                let busy = error.is::<wasmtime::PoolConcurrencyLimitError>();
                let ended = if busy { Ended::Busy } else { store.data().exit(&error).into() };
                unfinished.armed = !matches!(ended, Ended::Done);
                ended
            }
        }
    }
}

impl HttpService for HttpContainer {
    fn call(
        self: Arc<Self>,
        request: Request<network::Body>,
    ) -> BoxFuture<'static, Result<Response<network::Body>, HttpError>> {
        Box::pin(self.answer(request))
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

/// What the guest said of its body's length, where the reader will stop reading.
fn content_length<B>(response: &Response<B>) -> Option<u64> {
    response.headers().get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How an instance ended.
enum Ended {
    Done,
    /// The node has no room for another instance now.
    Busy,
    Failed(Exit),
}

impl From<Exit> for Ended {
    fn from(exit: Exit) -> Ended {
        match exit {
            Exit::Code(0) => Ended::Done,
            exit => Ended::Failed(exit),
        }
    }
}

/// What the two sides of a request know of each other.
#[derive(Default)]
struct Call {
    /// The client went away before the response was complete.
    abandoned: AtomicBool,
    /// The instance ended other than by returning.
    failed: AtomicBool,
    /// The response has been read to its end.
    read: Notify,
}

impl Call {
    fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Returns when the guest has worked long enough after its response.
    async fn overdue(&self) {
        self.read.notified().await;
        tokio::time::sleep(limits::AFTER_RESPONSE_TIMEOUT).await;
    }
}

/// Marks the call failed when dropped armed.
struct Unfinished<'a> {
    call: &'a Call,
    armed: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.call.failed.store(true, Ordering::Release);
        }
    }
}

/// The instance behind a response. Dropped before the response has been read, it takes the instance along.
struct Instance {
    task: Spawned<Ended>,
    call: Arc<Call>,
    detached: bool,
}

impl Instance {
    /// The response is complete; the guest may go on for a bounded while.
    fn detach(mut self) {
        self.detached = true;
        self.call.read.notify_one();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.detached {
            self.call.abandoned.store(true, Ordering::Release);
            self.task.cancel();
        }
    }
}

/// A response's body while its instance writes it.
struct Streamed {
    body: HyperOutgoingBody,
    /// Gone once the body has been read to its end: the instance may go on for a while.
    instance: Option<Instance>,
    /// Bytes still to come, where the guest said how many.
    left: Option<u64>,
}

impl Streamed {
    fn new(body: HyperOutgoingBody, instance: Instance, left: Option<u64>) -> Streamed {
        let mut streamed = Streamed { body, instance: Some(instance), left };
        if left == Some(0) {
            streamed.complete();
        }
        streamed
    }

    fn complete(&mut self) {
        if let Some(instance) = self.instance.take() {
            instance.detach();
        }
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.left = self.left.map(|left| left.saturating_sub(length));
                if self.left == Some(0) || frame.is_trailers() {
                    self.complete();
                }
            }
            Some(Err(_)) => self.complete(),
            // A trap closes the body like an end would; only the call knows that it is cut.
            None if self.instance.as_ref().is_some_and(|instance| instance.call.failed.load(Ordering::Acquire)) => {
                self.complete();
                return Poll::Ready(Some(Err(Error::HttpResponseIncomplete.into())));
            }
            None => self.complete(),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.instance.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
