//! The clock guests yield by: one thread that advances the engines' epochs while a guest is on a CPU, and sleeps
//! otherwise, so that an idle node uses no CPU at all.

use crate::limits;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use wasmtime::Engine;

/// Counts guests on CPUs and wakes the ticking thread.
#[derive(Default)]
pub(crate) struct Ticker {
    guests: AtomicUsize,
    asleep: AtomicBool,
    stopped: AtomicBool,
    engines: Mutex<Vec<Engine>>,
    thread: std::sync::OnceLock<thread::Thread>,
}

/// Held while a guest is being polled.
pub(crate) struct OnCpu<'a>(&'a Ticker);

impl Drop for OnCpu<'_> {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ticker {
    /// Starts the thread; [`Ticker::stop`] ends it.
    pub(crate) fn start() -> std::io::Result<Arc<Ticker>> {
        let ticker = Arc::new(Ticker::default());
        let shared = ticker.clone();
        let handle = thread::Builder::new().name("guest-ticker".into()).spawn(move || shared.tick())?;
        // The thread cannot be needed before it is known: guests are polled only after `start` has returned.
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(ticker)
    }

    /// Names an engine whose guests yield by this clock.
    pub(crate) fn tell(&self, engine: Engine) {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine);
    }

    /// Says that a guest is about to be polled.
    pub(crate) fn guest_on_cpu(&self) -> OnCpu<'_> {
        self.guests.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
        OnCpu(self)
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn tick(&self) {
        let mut idle = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            thread::sleep(limits::TICK);
            self.engines.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Engine::increment_epoch);
            idle = if self.guests.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
            if idle < limits::IDLE_TICKS_MAX {
                continue;
            }
            // A guest counts itself before it looks at `asleep`, we announce sleep before we look at the count: one of
            // the two sees the other.
            self.asleep.store(true, Ordering::SeqCst);
            if self.guests.load(Ordering::SeqCst) == 0 {
                thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}
