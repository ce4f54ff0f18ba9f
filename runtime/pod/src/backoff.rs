//! How long to wait before trying again: 10 s, doubling to 300 s, as the kubelet does.

use crate::limits::{BACKOFF_INITIAL_MS, BACKOFF_MAX_MS, BACKOFF_RESET_MS};

/// The record of one thing that may fail again and again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    /// The wait that the next failure brings.
    delay_ms: i64,
    /// When the last wait was over.
    last_end_ms: Option<i64>,
}

impl Backoff {
    /// A container ended: how long until it may start again. The first restart comes at once, and so does one after a
    /// long good run.
    pub(crate) fn after_exit(&mut self, now_ms: i64) -> i64 {
        let clean = self.last_end_ms.is_none_or(|end| now_ms - end > BACKOFF_RESET_MS);
        let wait = if clean { 0 } else { self.delay_ms };
        self.delay_ms = if clean { BACKOFF_INITIAL_MS } else { (self.delay_ms * 2).min(BACKOFF_MAX_MS) };
        self.last_end_ms = Some(now_ms + wait);
        wait
    }

    /// A pull failed: how long until the next. Never at once.
    pub(crate) fn after_failure(&mut self) -> i64 {
        let wait = self.delay_ms.max(BACKOFF_INITIAL_MS);
        self.delay_ms = (wait * 2).min(BACKOFF_MAX_MS);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_a_long_run_clears_the_record() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = backoff.after_exit(now);
            waits.push(wait / 1000);
            now += wait + 1000;
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.after_exit(now + BACKOFF_RESET_MS + 1), 0);
    }
}
