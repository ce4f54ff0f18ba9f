//! The guests' threads. They run guests and nothing else, a slice at a time, in the order of [`Turns`].
//!
//! Work-stealing runtimes are fast but not fair in CPU time, and a guest that computes is never idle. So guests are
//! polled here, and a small tokio runtime beside does what they wait for: timers, and what hosts do for them. CPU time
//! is measured around every slice and charged to the container; one in debt rests until the debt is paid.
//!
//! There are two sets of them. A guest that woke up is in front: a request that takes a moment is answered at once. One
//! that goes on computing is behind, on threads to which the system prefers any other: they take every CPU that is idle,
//! and are put off it by whoever wakes. Where no CPU is idle for long they would starve; then all are in front.

use crate::cpu::{Meter, thread_cpu_nanos};
use crate::limits;
use crate::priority;
use crate::ticker::Ticker;
use crate::turns::Turns;
use std::future::Future;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
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
    /// Until when nobody is behind, in nanoseconds since `began`.
    crowded_until: AtomicU64,
    began: Instant,
    /// Of each set, in the order of [`Place`].
    work: [Condvar; 2],
    ticker: Arc<Ticker>,
    handle: Handle,
}

struct Queue {
    turns: [Turns<Arc<Task>>; 2],
    stopped: bool,
}

/// Which set of threads runs a guest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Front,
    Behind,
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
        let queue = Mutex::new(Queue { turns: [Turns::new(), Turns::new()], stopped: false });
        let handle = runtime.handle().clone();
        let work = [Condvar::new(), Condvar::new()];
        let (crowded_until, began) = (AtomicU64::new(0), Instant::now());
        let shared = Arc::new(Shared { queue, crowded_until, began, work, ticker, handle });
        let count = if count == 0 { cpus } else { count };
        let threads = Threads { shared, runtime: Some(runtime), count };
        for (place, name) in [(Place::Front, "guest"), (Place::Behind, "guest-behind")] {
            for number in 0..count {
                let shared = threads.shared.clone();
                std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || shared.work(place))?;
            }
        }
        Ok(threads)
    }

    /// How many run guests that woke up: at most so many are on a CPU at once, but for those that yield to any other.
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
            computed: AtomicU64::new(0),
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
        self.shared.work.iter().for_each(Condvar::notify_all);
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
    /// CPU time used since it last waited for something, in nanoseconds.
    computed: AtomicU64,
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
        let place = self.place(task);
        self.queue().turns[place as usize].push(task.meter.lane(), task.caller, task.clone());
        self.work[place as usize].notify_one();
    }

    fn pop(&self, place: Place) -> Option<Arc<Task>> {
        let mut queue = self.queue();
        loop {
            if queue.stopped {
                return None;
            }
            if let Some(task) = queue.turns[place as usize].pop() {
                return Some(task);
            }
            if place == Place::Front
                && self.is_crowded()
                && let Some(task) = queue.turns[Place::Behind as usize].pop()
            {
                return Some(task);
            }
            queue = self.work[place as usize].wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn place(&self, task: &Task) -> Place {
        let computes = task.computed.load(Ordering::Relaxed) >= limits::FRONT_NANOS;
        if computes && !self.is_crowded() { Place::Behind } else { Place::Front }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn is_crowded(&self) -> bool {
        let until = self.crowded_until.load(Ordering::Relaxed);
        until != 0 && self.now() < until
    }

    /// A slice behind took so long, and so much of that on a CPU.
    fn note_slice_behind(&self, took: Duration, used: u64) {
        if took.saturating_sub(Duration::from_nanos(used)) > limits::CROWDED_WAIT {
            self.crowded_until.store(self.now().saturating_add(limits::CROWDED_FOR_NANOS), Ordering::Relaxed);
            self.work[Place::Front as usize].notify_all();
        }
    }

    /// A thread's life.
    fn work(self: Arc<Shared>, place: Place) {
        if place == Place::Behind {
            priority::give_way();
        }
        // What guests wait for (timers, tasks of the host) belongs to the runtime beside.
        let handle = self.handle.clone();
        let _beside = handle.enter();
        while let Some(task) = self.pop(place) {
            task.stage.store(RUNNING, Ordering::Release);
            self.step(&task, place);
        }
    }

    /// One slice of a guest.
    fn step(&self, task: &Arc<Task>, place: Place) {
        let cancelled = task.cancelled.load(Ordering::Acquire);
        if let Some(debt) = task.meter.wait().filter(|_| !cancelled) {
            return self.rest(task, debt);
        }
        let begun = (place == Place::Behind).then(Instant::now);
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
        let used = thread_cpu_nanos().saturating_sub(before);
        task.meter.charge(used);
        if let Some(begun) = begun {
            self.note_slice_behind(begun.elapsed(), used);
        }
        // Nobody else touches it until the stage is told.
        let computed = task.computed.swap(0, Ordering::Relaxed);
        if done {
            task.stage.store(DONE, Ordering::Release);
        } else if task.stage.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_err() {
            task.computed.store(computed.saturating_add(used), Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the threads that ran a guest: when it began, when it had computed, and when it had waited.
    async fn ran_by(threads: &Threads) -> Vec<String> {
        let name = || std::thread::current().name().unwrap_or_default().to_owned();
        let guest = async move {
            let mut seen = vec![name()];
            let began = thread_cpu_nanos();
            while thread_cpu_nanos() - began < limits::FRONT_NANOS {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
            seen.push(name());
            tokio::time::sleep(Duration::from_millis(1)).await;
            seen.push(name());
            seen
        };
        threads.spawn(&Meter::new(None, None), None, guest).await.unwrap()
    }

    #[tokio::test]
    async fn who_computes_goes_behind_until_it_waits_unless_all_processors_are_busy() {
        let ticker = Ticker::start().unwrap();
        let threads = Threads::start(1, ticker.clone()).unwrap();
        assert_eq!(ran_by(&threads).await, ["guest-0", "guest-behind-0", "guest-0"]);
        threads.shared.note_slice_behind(limits::CROWDED_WAIT * 2, 0);
        assert_eq!(ran_by(&threads).await, ["guest-0", "guest-0", "guest-0"]);
        ticker.stop();
    }
}
