//! Whether a Job is over, and why.

use api::{Action, Severity};
use serde_json::Value;

use super::Turn;
use super::policy::{self, Meaning};
use crate::status::{self, Condition};
use crate::{moment, pods};

/// How a Job ends.
pub(super) struct Verdict {
    success: bool,
    reason: &'static str,
    message: String,
}

/// Why Jobs end, as Kubernetes says it; the second part is empty where the message tells more.
const REASONS: [(&str, &str); 7] = [
    ("CompletionsReached", "Reached expected number of succeeded pods"),
    ("SuccessPolicy", ""),
    ("BackoffLimitExceeded", "Job has reached the specified backoff limit"),
    ("DeadlineExceeded", "Job was active longer than specified deadline"),
    ("PodFailurePolicy", ""),
    ("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes"),
    ("FailedIndexes", "Job has failed indexes"),
];

impl Verdict {
    fn of(success: bool, reason: &str, message: Option<String>) -> Option<Self> {
        let (reason, usual) = REASONS.iter().find(|(known, _)| *known == reason)?;
        Some(Self { success, reason, message: message.unwrap_or_else(|| (*usual).to_owned()) })
    }

    /// One that is written down already.
    fn written(success: bool, condition: &Value) -> Option<Self> {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        Self::of(success, text("reason"), Some(text("message").to_owned()))
    }
}

/// It has its last condition.
pub(crate) fn is_over(conditions: &[Value]) -> bool {
    status::is_true(conditions, "Complete") || status::is_true(conditions, "Failed")
}

impl Turn<'_> {
    /// Looks for a reason to end. A reason once written down stays, whatever happens to the pods meanwhile.
    pub(super) fn verdict(&mut self) -> Option<Verdict> {
        for (type_, success) in [("FailureTarget", false), ("SuccessCriteriaMet", true)] {
            let target = status::find(&self.conditions, type_).filter(|condition| condition["status"] == "True");
            if let Some(verdict) = target.and_then(|target| Verdict::written(success, target)) {
                return Some(verdict);
            }
        }
        let failures = self.pods.iter().filter(|pod| pods::phase(pod) == "Failed");
        let fatal = failures.map(|pod| policy::meaning(self.job, pod)).find_map(|meaning| match meaning {
            Meaning::FailsJob(why) => Some(why),
            _ => None,
        });
        if fatal.is_some() {
            return Verdict::of(false, "PodFailurePolicy", fatal);
        }
        if self.tally.failed > self.spec.backoff_max || self.restarts_exceeded() {
            return Verdict::of(false, "BackoffLimitExceeded", None);
        }
        let failed_indexes = self.tally.failed_indexes.len();
        let most = self.job.field("spec.maxFailedIndexes").as_u64().and_then(|most| usize::try_from(most).ok());
        if most.is_some_and(|most| failed_indexes > most) {
            return Verdict::of(false, "MaxFailedIndexesExceeded", None);
        }
        if !self.spec.suspended
            && let (Some(deadline), Some(start)) = (self.spec.deadline_seconds, moment::ms(&self.start))
        {
            let due = start + deadline * 1000;
            if due <= self.world.now_ms {
                return Verdict::of(false, "DeadlineExceeded", None);
            }
            self.wake_at(due);
        }
        if let Some(why) = policy::is_enough(self.job, &self.tally.indexes) {
            return Verdict::of(true, "SuccessPolicy", Some(why));
        }
        let complete = match self.spec.completions {
            Some(completions) => self.tally.over() >= completions,
            None => self.tally.succeeded > 0 && self.active.is_empty(),
        };
        match complete {
            true if failed_indexes > 0 => Verdict::of(false, "FailedIndexes", None),
            true => Verdict::of(true, "CompletionsReached", None),
            false => None,
        }
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
        let Verdict { success, reason, message } = verdict;
        let (target, end) = if *success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
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
        work.push(if *success {
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
