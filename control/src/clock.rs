//! The one place where the drivers read the clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limits::PAUSE_MIN_MS;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Waits until a moment in milliseconds since 1970; for ever without one.
pub(crate) async fn until(due_ms: Option<i64>) {
    match due_ms {
        Some(due_ms) => {
            let wait = u64::try_from(due_ms.saturating_sub(now_ms())).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        None => std::future::pending().await,
    }
}

/// Notices when the two clocks part: the one on the wall goes on while a machine sleeps, or is set by somebody; the
/// other does neither.
#[derive(Debug)]
pub(crate) struct Pauses {
    began: Instant,
    /// The wall's clock when the other one began, as last seen.
    wall_ms: i64,
}

impl Pauses {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), wall_ms: now_ms() }
    }

    /// Whether the machine was paused, or its clock set, since the last look.
    pub(crate) fn look(&mut self) -> bool {
        self.compare(now_ms(), self.began.elapsed())
    }

    fn compare(&mut self, wall_ms: i64, elapsed: Duration) -> bool {
        let began_ms = wall_ms - i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        let apart = began_ms.abs_diff(self.wall_ms) >= PAUSE_MIN_MS;
        if apart {
            self.wall_ms = began_ms;
        }
        apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_noticed_once() {
        let mut pauses = Pauses { began: Instant::now(), wall_ms: 1_000_000 };
        let second = Duration::from_secs(1);
        assert!(!pauses.compare(1_001_000, second), "time passes");
        assert!(!pauses.compare(1_003_000, second * 2), "a clock that is adjusted a little");
        let slept = 3_600_000;
        assert!(pauses.compare(1_003_000 + slept, second * 3), "an hour of sleep");
        assert!(!pauses.compare(1_004_000 + slept, second * 4));
        assert!(pauses.compare(1_000_000, second * 5), "the clock was set back");
    }
}
