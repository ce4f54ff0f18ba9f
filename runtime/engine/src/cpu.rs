//! CPU of a container: time, not work. A token bucket over the CPU time its instances' threads really spend.
//!
//! `resources.limits.cpu: 250m` lets a container spend 250 ms of CPU per second. Guests yield at every epoch tick, so a
//! poll of a guest lasts about a tick; the time it took is charged afterwards and a container in debt is not polled
//! until the debt is paid. What one slice overdraws is carried over, so the long-run rate is exact.

use crate::limits;
use crate::turns::Lane;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// CPU time of a rate, saved up to a burst; in debt after an overdraw. Pure: the caller brings the time.
#[derive(Debug)]
struct Bucket {
    /// Thousandths of a CPU.
    rate_millis: u64,
    /// Nanoseconds of CPU time; negative is debt.
    tokens: i64,
    /// When tokens were last added, in nanoseconds since the meter began.
    filled_at: u64,
}

impl Bucket {
    fn new(rate_millis: u64) -> Bucket {
        let rate_millis = rate_millis.max(1);
        Bucket { rate_millis, tokens: Bucket::burst(rate_millis), filled_at: 0 }
    }

    fn burst(rate_millis: u64) -> i64 {
        (rate_millis * limits::CPU_BURST_MS * 1_000).min(i64::MAX as u64) as i64
    }

    fn charge(&mut self, nanos: u64) {
        self.tokens = self.tokens.saturating_sub_unsigned(nanos);
    }

    /// How long to wait before the container may run again; `None` is now.
    fn wait(&mut self, now: u64) -> Option<Duration> {
        let elapsed = now.saturating_sub(self.filled_at);
        let earned = u128::from(elapsed) * u128::from(self.rate_millis) / 1000;
        if earned > 0 {
            let full = Bucket::burst(self.rate_millis);
            self.tokens = self.tokens.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX)).min(full);
            self.filled_at = now;
        }
        if self.tokens > 0 {
            return None;
        }
        let debt = u128::from(self.tokens.unsigned_abs()) + 1;
        Some(Duration::from_nanos(u64::try_from(debt * 1000 / u128::from(self.rate_millis)).unwrap_or(u64::MAX)))
    }
}

/// The CPU account of a container, shared by all its instances.
#[derive(Debug)]
pub(crate) struct Meter {
    used_nanos: AtomicU64,
    lane: Arc<Lane>,
    began: Instant,
    bucket: Option<Mutex<Bucket>>,
}

impl Meter {
    pub(crate) fn new(request_millis: Option<u64>, limit_millis: Option<u64>) -> Arc<Meter> {
        Arc::new(Meter {
            used_nanos: AtomicU64::new(0),
            lane: Lane::new(request_millis),
            began: Instant::now(),
            bucket: limit_millis.map(|millis| Mutex::new(Bucket::new(millis))),
        })
    }

    /// CPU time spent so far, in nanoseconds.
    pub(crate) fn used_nanos(&self) -> u64 {
        self.used_nanos.load(Ordering::Relaxed)
    }

    /// The container's place among those that want to run.
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Charges CPU time that was spent.
    pub(crate) fn charge(&self, nanos: u64) {
        self.lane.charge(nanos);
        self.used_nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(bucket) = &self.bucket {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).charge(nanos);
        }
    }

    /// Charges what it costs the host to carry so many bytes on.
    pub(crate) fn carried(&self, bytes: usize) {
        self.charge(bytes as u64 * limits::CARRY_NANOS_PER_KIB / 1024);
    }

    /// How long the container has to rest; `None` is not at all.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let bucket = self.bucket.as_ref()?;
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        bucket.lock().unwrap_or_else(PoisonError::into_inner).wait(now)
    }
}

/// CPU time of the calling thread.
#[cfg(unix)]
pub(crate) fn thread_cpu_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Wall time where threads have no CPU clock at hand: a poll never sleeps, so it differs only under contention.
#[cfg(not(unix))]
pub(crate) fn thread_cpu_nanos() -> u64 {
    static BEGAN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_rate_holds_whatever_the_slices() {
        for rate in [50, 100, 250, 500, 1000, 2000] {
            for slice in [MS / 10, MS, 7 * MS, 130 * MS] {
                let mut bucket = Bucket::new(rate);
                let (mut now, mut spent) = (0, 0);
                while now < 60_000 * MS {
                    match bucket.wait(now) {
                        Some(wait) => now += u64::try_from(wait.as_nanos()).unwrap(),
                        None => {
                            bucket.charge(slice);
                            spent += slice;
                            now += slice.min(slice * 1000 / rate);
                        }
                    }
                }
                let share = spent as f64 * 1000.0 / now as f64;
                assert!((share - rate as f64).abs() <= rate as f64 * 0.02, "{rate}m in slices of {slice} ns: {share}");
            }
        }
    }

    #[test]
    fn idle_time_is_saved_only_up_to_the_burst() {
        let mut bucket = Bucket::new(100);
        assert_eq!(bucket.wait(3_600_000 * MS), None);
        bucket.charge(10 * MS);
        assert!(bucket.wait(3_600_000 * MS).is_some(), "an hour of rest buys 100 ms at the rate, not six minutes");
    }
}
