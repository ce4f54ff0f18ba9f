//! Whether a Job is over, and why.

use api::{Action, Severity};
use serde_json::Value;

use super::Turn;
use crate::status::{self, Condition};
use crate::{moment, pods};

/// How a Job ends.
pub(super) struct Verdict {
    success: bool,
    reason: &'static str,
    message: &'static str,
}

/// It has its last condition.
pub(crate) fn is_over(conditions: &[Value]) -> bool {
    status::is_true(conditions, "Complete") || status::is_true(conditions, "Failed")
}

impl Turn<'_> {
    /// Looks for a reason to end. A reason once written down stays, whatever happens to the pods meanwhile.
    pub(super) fn verdict(&mut self) -> Option<Verdict> {
        const REACHED: (&str, &str) = ("CompletionsReached", "Reached expected number of succeeded pods");
        const LIMIT: (&str, &str) = ("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        const LATE: (&str, &str) = ("DeadlineExceeded", "Job was active longer than specified deadline");
        let verdict = |success, (reason, message)| Some(Verdict { success, reason, message });
        if let Some(target) = status::find(&self.conditions, "FailureTarget") {
            return verdict(false, if target["reason"] == LATE.0 { LATE } else { LIMIT });
        }
        if status::is_true(&self.conditions, "SuccessCriteriaMet") {
            return verdict(true, REACHED);
        }
        if self.tally.failed > self.spec.backoff_max || self.restarts_exceeded() {
            return verdict(false, LIMIT);
        }
        if !self.spec.suspended
            && let (Some(deadline), Some(start)) = (self.spec.deadline_seconds, moment::ms(&self.start))
        {
            let due = start + deadline * 1000;
            if due <= self.world.now_ms {
                return verdict(false, LATE);
            }
            self.wake_at(due);
        }
        let complete = match self.spec.completions {
            Some(completions) => self.tally.succeeded >= completions,
            None => self.tally.succeeded > 0 && self.active.is_empty(),
        };
        if complete { verdict(true, REACHED) } else { None }
    }

    /// With `restartPolicy: OnFailure` failures do not end pods: restarts of their containers count instead.
    fn restarts_exceeded(&self) -> bool {
        if self.job.field("spec.template.spec.restartPolicy") != "OnFailure" {
            return false;
        }
        let restarts: i64 = self.active.iter().map(|pod| pods::restarts(pod)).sum();
        restarts > 0 && restarts >= self.spec.backoff_max
    }

    /// Writes the reason down at once and the end itself when every pod has ended and is counted.
    pub(super) fn conclude(&mut self, verdict: &Verdict, work: &mut Vec<Action>) {
        let &Verdict { success, reason, message } = verdict;
        let (target, end) = if success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        let now_ms = self.world.now_ms;
        let mut put = |type_| {
            let condition = Condition { type_, status: "True", reason, message };
            status::put(&mut self.conditions, &condition, Some("lastProbeTime"), now_ms);
        };
        put(target);
        let running = self.pods.iter().any(|pod| !pods::is_finished(pod));
        if running || !self.tally.settled() {
            return;
        }
        put(end);
        work.push(if success {
            self.tell(Severity::Normal, "Completed", "Job completed".to_owned())
        } else {
            self.tell(Severity::Warning, reason, message.to_owned())
        });
    }

    /// The `Suspended` condition follows `spec.suspend`.
    pub(super) fn note_suspension(&mut self, work: &mut Vec<Action>) {
        let was = status::is_true(&self.conditions, "Suspended");
        if was == self.spec.suspended {
            return;
        }
        let (status, reason, message) = if self.spec.suspended {
            ("True", "JobSuspended", "Job suspended")
        } else {
            ("False", "JobResumed", "Job resumed")
        };
        let condition = Condition { type_: "Suspended", status, reason, message };
        status::put(&mut self.conditions, &condition, Some("lastProbeTime"), self.world.now_ms);
        let reason = if self.spec.suspended { "Suspended" } else { "Resumed" };
        work.push(self.tell(Severity::Normal, reason, message.to_owned()));
    }
}
