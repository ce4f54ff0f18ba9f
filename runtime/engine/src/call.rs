//! One request on its way through an instance: what the two sides know of each other, and the response's body while
//! the instance writes it.
//!
//! A client that goes away ends an instance that works for it alone. A body that an instance began and did not finish
//! ends with an error, never as if it were whole.

use crate::cpu::Meter;
use crate::exit::Exit;
use crate::limits;
use crate::memory::is_crowded;
use crate::threads::Spawned;
use crate::workers::Worker;
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use network::BoxError;
use network::places::Place;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::sync::Notify;
use wasmtime_wasi_http::{Error, WasiBody};

/// The head of a response, or the error code the component answered with.
pub(crate) type Head = Result<Response<WasiBody>, String>;

/// How an instance ended.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Done,
    /// The node, or the container's memory, has no room for another instance now.
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

impl Ended {
    /// Of an instance that could not be made.
    pub(crate) fn unborn(error: &wasmtime::Error, fuel: Option<u64>) -> Ended {
        match error.is::<wasmtime::PoolConcurrencyLimitError>() || is_crowded(error) {
            true => Ended::Busy,
            false => Ended::Failed(Exit::from_error(error, "", fuel)),
        }
    }
}

/// What the two sides of a request know of each other.
#[derive(Default)]
pub(crate) struct Call {
    /// The client went away before the response was complete.
    abandoned: AtomicBool,
    /// The instance ended other than by returning.
    failed: AtomicBool,
    /// The response has been read to its end.
    read: Notify,
}

impl Call {
    pub(crate) fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Returns when the guest has worked long enough after its response.
    pub(crate) async fn overdue(&self) {
        self.read.notified().await;
        tokio::time::sleep(limits::AFTER_RESPONSE_TIMEOUT).await;
    }
}

/// Marks the call failed when dropped armed. To be declared after the store and so dropped before it: dropping the
/// store ends the response's body, whose reader must find the call marked by then.
pub(crate) struct Unfinished<'a> {
    pub(crate) call: &'a Call,
    pub(crate) armed: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.call.failed.store(true, Ordering::Release);
        }
    }
}

/// What stands behind a response. Dropped before the response has been read, it takes its instance along, unless
/// others are served by it too.
pub(crate) struct Behind {
    call: Arc<Call>,
    on: On,
    detached: bool,
}

enum On {
    /// An instance that works for this request alone.
    Task(Spawned<Ended>),
    /// One that answers others as well.
    Worker { worker: Arc<Worker>, _place: Place },
}

impl Behind {
    pub(crate) fn task(task: Spawned<Ended>, call: Arc<Call>) -> Behind {
        Behind { call, on: On::Task(task), detached: false }
    }

    pub(crate) fn worker(worker: Arc<Worker>, place: Place) -> Behind {
        Behind { call: worker.call.clone(), on: On::Worker { worker, _place: place }, detached: false }
    }

    /// How the instance ended that gave no response; `None` when the engine failed.
    pub(crate) async fn ended(&mut self) -> Option<Ended> {
        match &mut self.on {
            On::Task(task) => task.await,
            On::Worker { worker, .. } => worker.ended().await,
        }
    }

    /// The worker that did not answer in time.
    pub(crate) fn late(&self) -> Option<&Arc<Worker>> {
        match &self.on {
            On::Task(_) => None,
            On::Worker { worker, .. } => Some(worker),
        }
    }

    /// The response is complete; the guest may go on for a bounded while.
    pub(crate) fn detach(mut self) {
        self.detached = true;
        if let On::Task(_) = &self.on {
            self.call.read.notify_one();
        }
    }

    fn failed(&self) -> bool {
        self.call.failed.load(Ordering::Acquire)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        if let (On::Task(task), false) = (&self.on, self.detached) {
            self.call.abandoned.store(true, Ordering::Release);
            task.cancel();
        }
    }
}

/// What the guest said of its body's length, where the reader will stop reading.
pub(crate) fn content_length<B>(response: &Response<B>) -> Option<u64> {
    response.headers().get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A response's body while its instance writes it.
pub(crate) struct Streamed {
    body: WasiBody,
    /// Gone once the body has been read to its end: the instance may go on for a while.
    behind: Option<Behind>,
    /// Bytes still to come, where the guest said how many.
    left: Option<u64>,
    /// Pays for what is read.
    meter: Arc<Meter>,
}

impl Streamed {
    pub(crate) fn new(body: WasiBody, behind: Behind, left: Option<u64>, meter: Arc<Meter>) -> Streamed {
        let mut streamed = Streamed { body, behind: Some(behind), left, meter };
        if left == Some(0) {
            streamed.complete();
        }
        streamed
    }

    fn complete(&mut self) {
        if let Some(behind) = self.behind.take() {
            behind.detach();
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
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.meter.carried(length);
                self.left = self.left.map(|left| left.saturating_sub(length as u64));
                if self.left == Some(0) || frame.is_trailers() {
                    self.complete();
                }
            }
            Some(Err(_)) => self.complete(),
            // A trap closes the body like an end would; only the call knows that it is cut.
            None if self.behind.as_ref().is_some_and(Behind::failed) => {
                self.complete();
                return Poll::Ready(Some(Err(Error::HttpResponseIncomplete.into())));
            }
            None => self.complete(),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.behind.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
