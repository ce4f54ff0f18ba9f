//! The guests' threads. They run guests and nothing else, a slice at a time, in the order of [`Turns`].
//!
//! Work-stealing runtimes are fast but not fair in CPU time, and a guest that computes is never idle. So guests are
//! polled here, and a small tokio runtime beside does what they wait for: timers, and what hosts do for them. CPU time
//! is measured around every slice and charged to the container; one in debt rests until the debt is paid.

use crate::cpu::{Meter, thread_cpu_nanos};
use crate::limits;
use crate::ticker::Ticker;
use crate::turns::Turns;
use std::future::Future;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// The threads, and the runtime beside them.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    /// Only `None` while being dropped.
    runtime: Option<Runtime>,
    count: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    ticker: Arc<Ticker>,
    handle: Handle,
}

struct Queue {
    turns: Turns<Arc<Task>>,
    stopped: bool,
}

impl Threads {
    /// Starts them; 0 means one per CPU.
    pub(crate) fn start(count: usize, ticker: Arc<Ticker>) -> std::io::Result<Threads> {
        let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(limits::BLOCKING_THREADS_MAX)
            .thread_keep_alive(Duration::from_secs(5))
            .thread_name("guest-io")
            .enable_all()
            .build()?;
        let queue = Mutex::new(Queue { turns: Turns::new(), stopped: false });
        let shared = Arc::new(Shared { queue, work: Condvar::new(), ticker, handle: runtime.handle().clone() });
        let count = if count == 0 { cpus } else { count };
        let threads = Threads { shared, runtime: Some(runtime), count };
        for number in 0..count {
            let shared = threads.shared.clone();
            std::thread::Builder::new().name(format!("guest-{number}")).spawn(move || shared.work())?;
        }
        Ok(threads)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Runs something of the host's beside the guests.
    pub(crate) fn beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.handle.spawn(task);
    }

    /// Runs a guest on a container's account, for a caller of it or for the container itself.
    pub(crate) fn spawn<F>(&self, meter: &Arc<Meter>, caller: Option<IpAddr>, guest: F) -> Spawned<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let (send, output) = oneshot::channel();
        let future = async move {
            // Nobody waits any more: the guest has ended all the same.
            let _ = send.send(guest.await);
        };
        let task = Arc::new(Task {
            shared: self.shared.clone(),
            meter: meter.clone(),
            caller,
            stage: AtomicU8::new(IDLE),
            cancelled: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            future: Mutex::new(Some(Box::pin(future))),
        });
        task.wake_by_ref();
        Spawned { task, output }
    }
}

impl Drop for Threads {
    /// Asks the threads to end. The last owner may be one of them, so nobody waits.
    fn drop(&mut self) {
        self.shared.queue().stopped = true;
        self.shared.work.notify_all();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A guest on its way. Await it for its result; `None` means that it was cancelled or the engine failed.
pub(crate) struct Spawned<T> {
    task: Arc<Task>,
    output: oneshot::Receiver<T>,
}

impl<T> Spawned<T> {
    /// Drops the guest at its next yield.
    pub(crate) fn cancel(&self) {
        self.task.cancelled.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.task.cancelled.load(Ordering::Acquire)
    }
}

impl<T> Future for Spawned<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.output).poll(cx).map(Result::ok)
    }
}

/// Waits for something; not queued.
const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
/// Running, and woken since it began.
const AGAIN: u8 = 3;
const DONE: u8 = 4;

type Guest = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    shared: Arc<Shared>,
    meter: Arc<Meter>,
    /// For whom it works, if it is for one.
    caller: Option<IpAddr>,
    stage: AtomicU8,
    cancelled: AtomicBool,
    /// A timer will wake it when its container's debt is paid.
    resting: AtomicBool,
    future: Mutex<Option<Guest>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let next = |stage| match stage {
            IDLE => Some(QUEUED),
            RUNNING => Some(AGAIN),
            _ => None,
        };
        if self.stage.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) == Ok(IDLE) {
            self.shared.push(self);
        }
    }
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: &Arc<Task>) {
        self.queue().turns.push(task.meter.lane(), task.caller, task.clone());
        self.work.notify_one();
    }

    fn pop(&self) -> Option<Arc<Task>> {
        let mut queue = self.queue();
        loop {
            if queue.stopped {
                return None;
            }
            if let Some(task) = queue.turns.pop() {
                return Some(task);
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A thread's life.
    fn work(self: Arc<Shared>) {
        // What guests wait for (timers, tasks of the host) belongs to the runtime beside.
        let handle = self.handle.clone();
        let _beside = handle.enter();
        while let Some(task) = self.pop() {
            task.stage.store(RUNNING, Ordering::Release);
            self.step(&task);
        }
    }

    /// One slice of a guest.
    fn step(&self, task: &Arc<Task>) {
        let cancelled = task.cancelled.load(Ordering::Acquire);
        if let Some(debt) = task.meter.wait().filter(|_| !cancelled) {
            return self.rest(task, debt);
        }
        let before = thread_cpu_nanos();
        let done = {
            let _ticking = self.ticker.guest_on_cpu();
            let mut future = task.future.lock().unwrap_or_else(PoisonError::into_inner);
            let waker = Waker::from(task.clone());
            let poll = |guest: &mut Guest| guest.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            // A host call that panics ends its guest, not the thread of all guests.
            let done = cancelled
                || future.as_mut().is_none_or(|guest| catch_unwind(AssertUnwindSafe(|| poll(guest))).unwrap_or(true));
            if done {
                *future = None;
            }
            done
        };
        task.meter.charge(thread_cpu_nanos().saturating_sub(before));
        if done {
            task.stage.store(DONE, Ordering::Release);
        } else if task.stage.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_err() {
            task.stage.store(QUEUED, Ordering::Release);
            self.push(task);
        }
    }

    fn rest(&self, task: &Arc<Task>, debt: Duration) {
        // Whoever wakes it meanwhile is heard when it has rested.
        task.stage.store(IDLE, Ordering::Release);
        if !task.resting.swap(true, Ordering::AcqRel) {
            let task = task.clone();
            self.handle.spawn(async move {
                tokio::time::sleep(debt).await;
                task.resting.store(false, Ordering::Release);
                task.wake();
            });
        }
    }
}
