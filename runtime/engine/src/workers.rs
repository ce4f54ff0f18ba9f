//! Requests to components of `wasi:http` 0.3: each by a fresh instance, or several at once by instances that go on.
//!
//! An instance that is reused is a [`Worker`]: one task with one event loop, to which requests are sent. There are as
//! many workers as guest threads before two requests share one, since an instance runs on one thread at a time. A trap
//! ends its worker and the requests it was answering, nothing else; so does a request that is not answered in time,
//! after those beside it have had their time.

use crate::Reuse;
use crate::call::{Call, Ended, Head, Unfinished};
use crate::exit::Exit;
use crate::guest::{Container, Guest};
use crate::http::HttpContainer;
use crate::limits;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::uri::{Authority, Scheme};
use http::{Request, header};
use http_body_util::BodyExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut, Store};
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{Error, FieldMap, WasiHttpView, p3};

/// A request and where its response's head goes.
pub(crate) struct Job {
    pub(crate) request: Request<network::Body>,
    pub(crate) head: oneshot::Sender<Head>,
}

/// Answers one request by an instance of its own.
pub(crate) async fn invoke(pre: &ServicePre<Guest>, container: &Container, job: Job, call: &Call) -> Ended {
    let (mut store, service) = match begin(pre, container).await {
        Ok(begun) => begun,
        Err(error) => return Ended::unborn(&error, container.spec.terms.fuel),
    };
    let mut unfinished = Unfinished { call, armed: true };
    let ran = store.run_concurrent(async |accessor: &Accessor<Guest>| {
        answer(accessor, &service, job).await?;
        settled(accessor).await;
        wasmtime::Result::Ok(())
    });
    let ran = ran.await.and_then(|ran| ran);
    end(ran, &store, &mut unfinished)
}

async fn begin(pre: &ServicePre<Guest>, container: &Container) -> wasmtime::Result<(Store<Guest>, Service)> {
    let mut store = container.store()?;
    let service = pre.instantiate_async(&mut store).await?;
    Ok((store, service))
}

fn end(ran: wasmtime::Result<()>, store: &Store<Guest>, unfinished: &mut Unfinished<'_>) -> Ended {
    let ended = match ran {
        Ok(()) => Ended::Done,
        Err(error) => store.data().exit(&error).into(),
    };
    unfinished.armed = !matches!(ended, Ended::Done);
    ended
}

/// Calls the handler; returns when the head of the response is known. The guest writes the body in tasks of its own.
async fn answer(accessor: &Accessor<Guest>, service: &Service, job: Job) -> wasmtime::Result<()> {
    let Job { request, head } = job;
    let (request, io) = accessor.with(|mut store| incoming(store.data_mut(), request));
    let response = match service.handle(accessor, request).await? {
        Ok(response) => Ok(accessor.with(|store| response.into_http(store, io))?),
        Err(code) => Err(format!("{code:?}")),
    };
    // Nobody waits any more: the request was given up.
    let _ = head.send(response);
    Ok(())
}

/// Waits until the guest has nothing more to do for the requests it has answered.
async fn settled(accessor: &Accessor<Guest>) {
    std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
}

/// A request as the guest sees it. `Host` is the authority (it is no header in wasi:http).
fn incoming(
    guest: &mut Guest,
    request: Request<network::Body>,
) -> (p3::Request, impl Future<Output = Result<(), Error>> + Send + 'static + use<>) {
    let (head, body) = request.into_parts();
    let uri = head.uri.into_parts();
    let host = || head.headers.get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let authority = uri.authority.or_else(host);
    let body = body.map_err(|_| Error::ConnectionTerminated);
    let headers = FieldMap::new_immutable(guest.http().hooks, head.headers);
    p3::Request::new(head.method, Some(Scheme::HTTP), authority, uri.path_and_query, headers, None, body)
}

/// What others know of an instance that answers many requests.
pub(crate) struct Worker {
    pub(crate) call: Arc<Call>,
    /// Requests sent to it and not answered yet.
    load: AtomicU32,
    /// Requests ever sent to it.
    sent: AtomicU32,
    cancel: CancellationToken,
    ended: watch::Sender<Option<Ended>>,
}

impl Worker {
    /// Waits for its end. `None` when the engine failed.
    pub(crate) async fn ended(&self) -> Option<Ended> {
        self.ended.subscribe().wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// The instances of a container that take requests.
pub(crate) struct Workers {
    reuse: Reuse,
    open: Mutex<Vec<(Arc<Worker>, mpsc::Sender<Job>)>>,
}

impl Workers {
    pub(crate) fn new(mut reuse: Reuse, fuel: Option<u64>) -> Workers {
        if fuel.is_some() {
            // An instance has one budget; two requests at once would spend each other's.
            reuse.concurrency = 1;
        }
        Workers { reuse, open: Mutex::default() }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<(Arc<Worker>, mpsc::Sender<Job>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to an instance, a new one if need be. `None` when all there may be are full.
    pub(crate) fn send(&self, container: &Arc<HttpContainer>, mut job: Job) -> Option<Arc<Worker>> {
        let mut open = self.open();
        open.retain(|(_, jobs)| !jobs.is_closed());
        let threads = container.threads().count();
        if let Some(at) = choose(&open, &self.reuse, threads) {
            match self.give(&mut open, at, job) {
                Ok(worker) => return Some(worker),
                Err(returned) => job = *returned,
            }
        }
        if open.len() >= self.reuse.instances as usize {
            return None;
        }
        let (send, jobs) = mpsc::channel(self.reuse.concurrency as usize);
        let worker = Arc::new(Worker {
            call: Arc::default(),
            load: AtomicU32::new(0),
            sent: AtomicU32::new(0),
            cancel: CancellationToken::new(),
            ended: watch::Sender::new(None),
        });
        open.push((worker.clone(), send));
        let at = open.len() - 1;
        // It has room for at least one.
        let given = self.give(&mut open, at, job).ok()?;
        container.spawn(work(container.clone(), jobs, worker, self.reuse));
        Some(given)
    }

    fn give(
        &self,
        open: &mut Vec<(Arc<Worker>, mpsc::Sender<Job>)>,
        at: usize,
        job: Job,
    ) -> Result<Arc<Worker>, Box<Job>> {
        let (worker, jobs) = &open[at];
        let worker = worker.clone();
        worker.load.fetch_add(1, Ordering::Relaxed);
        if let Err(refused) = jobs.try_send(job) {
            worker.load.fetch_sub(1, Ordering::Relaxed);
            return Err(Box::new(refused.into_inner()));
        }
        if worker.sent.fetch_add(1, Ordering::Relaxed) + 1 >= self.reuse.requests {
            // Without its sender it ends when it has answered what it has.
            open.swap_remove(at);
        }
        Ok(worker)
    }

    /// Sends nothing more to an instance that did not answer in time, and ends it when all it has been given are
    /// answered or late as well.
    pub(crate) fn retire(&self, container: &HttpContainer, late: &Arc<Worker>) {
        self.open().retain(|(worker, _)| !Arc::ptr_eq(worker, late));
        let cancel = late.cancel.clone();
        let patience = container.patience() + limits::AFTER_RESPONSE_TIMEOUT;
        container.threads().beside(async move {
            tokio::time::sleep(patience).await;
            cancel.cancel();
        });
    }

    /// Lets all of them go.
    pub(crate) fn clear(&self) {
        self.open().clear();
    }
}

/// The one to send the next request to; `None` asks for a new one.
fn choose(open: &[(Arc<Worker>, mpsc::Sender<Job>)], reuse: &Reuse, threads: usize) -> Option<usize> {
    let loads = open.iter().map(|(worker, _)| worker.load.load(Ordering::Relaxed)).enumerate();
    let (at, load) = loads.min_by_key(|(_, load)| *load)?;
    let full = open.len() >= threads.min(reuse.instances as usize);
    (load == 0 || (full && load < reuse.concurrency)).then_some(at)
}

/// The life of a worker, on the guests' threads.
async fn work(container: Arc<HttpContainer>, jobs: mpsc::Receiver<Job>, worker: Arc<Worker>, reuse: Reuse) {
    let ended = tokio::select! {
        biased;
        () = container.stopped() => Ended::Failed(Exit::Stopped),
        () = worker.cancel.cancelled() => Ended::Failed(Exit::Stopped),
        ended = answer_all(&container, jobs, &worker, reuse) => ended,
    };
    if let Ended::Failed(exit) = &ended
        && *exit != Exit::Stopped
    {
        container.report("an instance answering several requests", exit.clone());
    }
    worker.ended.send_replace(Some(ended));
}

async fn answer_all(container: &HttpContainer, mut jobs: mpsc::Receiver<Job>, worker: &Worker, reuse: Reuse) -> Ended {
    let (pre, container) = match container.service() {
        Ok(service) => service,
        Err(ended) => return ended,
    };
    let (mut store, service) = match begin(pre, container).await {
        Ok(begun) => begun,
        Err(error) => return Ended::unborn(&error, container.spec.terms.fuel),
    };
    let mut unfinished = Unfinished { call: &worker.call, armed: true };
    let fuel = container.spec.terms.fuel;
    let ran = store.run_concurrent(async |accessor: &Accessor<Guest>| {
        let mut running = FuturesUnordered::new();
        let mut open = true;
        while open || !running.is_empty() {
            tokio::select! {
                Some(done) = running.next(), if !running.is_empty() => {
                    worker.load.fetch_sub(1, Ordering::Relaxed);
                    done?;
                }
                job = jobs.recv(), if open => match job {
                    Some(job) => {
                        if let Some(fuel) = fuel {
                            accessor.with(|mut store| store.as_context_mut().set_fuel(fuel))?;
                        }
                        running.push(answer(accessor, &service, job));
                    }
                    None => open = false,
                },
                // What was sent in this moment is still received.
                () = tokio::time::sleep(reuse.idle), if open && running.is_empty() => jobs.close(),
            }
        }
        settled(accessor).await;
        wasmtime::Result::Ok(())
    });
    let ran = ran.await.and_then(|ran| ran);
    end(ran, &store, &mut unfinished)
}
