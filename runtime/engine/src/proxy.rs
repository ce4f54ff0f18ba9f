//! Requests to components of `wasi:http` 0.2: each by a fresh instance, or one after the other by instances that are
//! kept on a [`Shelf`] in between.
//!
//! An instance is kept only if it returned: one that trapped, was abandoned or ran out of fuel goes. What is kept
//! counts in its container's memory, and is bounded in number, in requests and in time.

use crate::Reuse;
use crate::call::{Call, Ended, Head, Unfinished};
use crate::guest::{Container, Guest};
use crate::limits;
use crate::memory::is_crowded;
use crate::parts::Parts;
use http::Request;
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::{Error, WasiHttpView};

/// An instance between two requests.
struct Warm {
    store: Store<Guest>,
    proxy: Proxy,
    served: u32,
}

/// Answers one request.
pub(crate) async fn invoke(
    pre: &ProxyPre<Guest>,
    container: &Container,
    shelf: Option<&Arc<Shelf>>,
    request: Request<network::Body>,
    head: oneshot::Sender<Head>,
    call: &Call,
) -> Ended {
    let fuel = container.spec.terms.fuel;
    let mut warm = match shelf.and_then(|shelf| shelf.take()) {
        Some(warm) => warm,
        None => match begin(pre, container).await {
            Ok(warm) => warm,
            Err(error) => return Ended::unborn(&error, fuel),
        },
    };
    let mut unfinished = Unfinished { call, armed: true };
    let run = async {
        if let (Some(fuel), true) = (fuel, warm.served > 0) {
            warm.store.set_fuel(fuel)?;
        }
        warm.served += 1;
        warm.store.data_mut().forget_words();
        let request = request.map(|body| body.map_err(|_| Error::ConnectionTerminated));
        let mut http = warm.store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request)?;
        let outparam = http.new_response_outparam_from_callback(move |response| {
            // Nobody waits any more: the request was given up.
            let _ = head.send(response.map_err(|code| format!("{code:?}")));
        })?;
        warm.proxy.wasi_http_incoming_handler().call_handle(&mut warm.store, request, outparam).await
    };
    match run.await {
        Ok(()) => {
            unfinished.armed = false;
            drop(unfinished);
            if let Some(shelf) = shelf {
                shelf.put(warm, container.code.parts());
            }
            Ended::Done
        }
        Err(error) => {
            let ended = match is_crowded(&error) {
                true => Ended::Busy,
                false => warm.store.data().exit(&error).into(),
            };
            unfinished.armed = !matches!(ended, Ended::Done);
            ended
        }
    }
}

async fn begin(pre: &ProxyPre<Guest>, container: &Container) -> wasmtime::Result<Warm> {
    let mut store = container.store()?;
    let proxy = pre.instantiate_async(&mut store).await?;
    Ok(Warm { store, proxy, served: 0 })
}

/// Instances that wait for a next request, the one that rested least last.
pub(crate) struct Shelf {
    reuse: Reuse,
    resting: Mutex<VecDeque<Resting>>,
    /// Whether a task looks after those that have rested too long.
    tended: AtomicBool,
}

struct Resting {
    warm: Warm,
    since: Instant,
    _room: OwnedSemaphorePermit,
}

impl Shelf {
    pub(crate) fn new(reuse: Reuse) -> Arc<Shelf> {
        Arc::new(Shelf { reuse, resting: Mutex::default(), tended: AtomicBool::new(false) })
    }

    fn resting(&self) -> std::sync::MutexGuard<'_, VecDeque<Resting>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance used last, whose memory is warm.
    fn take(&self) -> Option<Warm> {
        self.resting().pop_back().map(|resting| resting.warm)
    }

    fn put(self: &Arc<Self>, warm: Warm, parts: &Parts) {
        if warm.served >= self.reuse.requests {
            return;
        }
        let Ok(room) = parts.resting.clone().try_acquire_owned() else { return };
        let mut resting = self.resting();
        if resting.len() >= self.reuse.instances as usize {
            // Dropped without the lock: an instance takes a while to go.
            drop(resting);
            return drop(warm);
        }
        resting.push_back(Resting { warm, since: Instant::now(), _room: room });
        drop(resting);
        if !self.tended.swap(true, Ordering::AcqRel) {
            parts.threads.beside(tend(Arc::downgrade(self), self.reuse.idle));
        }
    }

    /// Lets all of them go.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.resting());
        drop(all);
    }

    /// Lets those go that have rested too long, and says when to look again; `None` is never.
    fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut resting = self.resting();
        while let Some(oldest) = resting.front() {
            if now < oldest.since + self.reuse.idle {
                break;
            }
            gone.extend(resting.pop_front());
        }
        let next = resting.front().map(|oldest| oldest.since + self.reuse.idle);
        if next.is_none() {
            self.tended.store(false, Ordering::Release);
        }
        drop(resting);
        next
    }
}

/// One task for all resting instances of a container, and none while there are none.
async fn tend(shelf: Weak<Shelf>, idle: Duration) {
    let mut next = Instant::now() + idle;
    loop {
        tokio::time::sleep_until(next.max(Instant::now() + limits::TEND_MIN)).await;
        let Some(shelf) = shelf.upgrade() else { return };
        match shelf.expire() {
            Some(at) => next = at,
            None => return,
        }
    }
}
