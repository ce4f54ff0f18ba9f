//! When a probe is due, and what a row of answers means.

use k8s_openapi::api::core::v1 as k8s;

/// The three questions Kubernetes asks a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Has it started? Until then the other two are not asked.
    Startup,
    /// Should it get traffic?
    Readiness,
    /// Does it still live? If not it is started anew.
    Liveness,
}

impl ProbeKind {
    /// As it stands in event messages: `Readiness`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What a row of equal answers has just decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
}

/// One probe of one running container.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) kind: ProbeKind,
    period_ms: i64,
    success_threshold: i32,
    failure_threshold: i32,
    next_ms: i64,
    asking: bool,
    /// Length of the current row of equal answers, and what they were.
    row: (i32, bool),
}

impl Schedule {
    pub(crate) fn new(kind: ProbeKind, probe: &k8s::Probe, started_ms: i64) -> Self {
        let positive = |value: Option<i32>, default: i32| value.filter(|n| *n > 0).unwrap_or(default);
        Self {
            kind,
            period_ms: i64::from(positive(probe.period_seconds, 10)) * 1000,
            success_threshold: positive(probe.success_threshold, 1),
            failure_threshold: positive(probe.failure_threshold, 3),
            next_ms: started_ms + i64::from(probe.initial_delay_seconds.unwrap_or(0).max(0)) * 1000,
            asking: false,
            row: (0, true),
        }
    }

    /// True once per period, when the question is to be asked now.
    pub(crate) fn ask(&mut self, now_ms: i64) -> bool {
        let due = !self.asking && now_ms >= self.next_ms;
        if due {
            self.asking = true;
            self.next_ms = now_ms + self.period_ms;
        }
        due
    }

    /// Takes an answer; `Some` when a threshold is reached.
    pub(crate) fn answer(&mut self, ok: bool) -> Option<Verdict> {
        self.asking = false;
        self.row = if self.row.1 == ok { (self.row.0.saturating_add(1), ok) } else { (1, ok) };
        match self.row {
            (n, true) if n >= self.success_threshold => Some(Verdict::Passed),
            (n, false) if n >= self.failure_threshold => Some(Verdict::Failed),
            _ => None,
        }
    }

    pub(crate) fn wake_at(&self) -> Option<i64> {
        (!self.asking).then_some(self.next_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_rows_and_a_question_is_asked_once() {
        let probe = k8s::Probe {
            initial_delay_seconds: Some(5),
            period_seconds: Some(2),
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..k8s::Probe::default()
        };
        let mut schedule = Schedule::new(ProbeKind::Readiness, &probe, 1_000);
        assert_eq!(schedule.wake_at(), Some(6_000));
        assert!(!schedule.ask(5_999));
        assert!(schedule.ask(6_000));
        assert!(!schedule.ask(60_000), "the answer is still out");
        let answers = [true, true, false, true, false, false, false, false];
        let verdicts: Vec<_> = answers.into_iter().map(|ok| schedule.answer(ok)).collect();
        let (passed, failed) = (Some(Verdict::Passed), Some(Verdict::Failed));
        assert_eq!(verdicts, [None, passed, None, None, None, None, failed, failed]);
    }
}
