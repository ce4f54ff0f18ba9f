//! How a container comes to its end: its `preStop` hook, a request, and when the time is over, force.

use crate::action::PodAction;
use crate::container::Container;
use crate::hook::Hook;
use crate::limits::GRACE_AFTER_HOOK_MS;

/// How far a container has come on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Its `preStop` hook is being run, and it runs on.
    PreStop,
    /// It was asked to end.
    Asked,
    /// It was ended, whatever it was doing; the news of it is on its way.
    Forced,
}

/// A container that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaving {
    deadline_ms: i64,
    step: Step,
}

impl Leaving {
    /// When time alone will change something.
    pub(crate) fn wake_at(&self) -> Option<i64> {
        (self.step != Step::Forced).then_some(self.deadline_ms)
    }

    /// It has no longer than that. Whoever has no time at all has none for a hook.
    pub(crate) fn hasten(&mut self, deadline_ms: i64, now_ms: i64) {
        self.deadline_ms = self.deadline_ms.min(deadline_ms);
        if self.deadline_ms <= now_ms && self.step == Step::PreStop {
            self.step = Step::Asked;
        }
    }
}

impl Container {
    /// The first thing to be done so that it ends within the time.
    pub(crate) fn leave(&mut self, grace_ms: i64, now_ms: i64) -> PodAction {
        let hooked = self.is_up() && self.plan.has(Hook::PreStop);
        let step = match grace_ms {
            ..=0 => Step::Forced,
            _ if hooked => Step::PreStop,
            _ => Step::Asked,
        };
        self.leaving = Some(Leaving { deadline_ms: now_ms + grace_ms, step });
        match step {
            Step::PreStop => self.run(Hook::PreStop),
            Step::Asked | Step::Forced => self.stop_within(grace_ms),
        }
    }

    /// Its `preStop` hook is over, or was not over in time. It always gets a moment more, as from the kubelet.
    pub(crate) fn pre_stop_over(&mut self, now_ms: i64) -> Option<PodAction> {
        let leaving = self.leaving.as_mut().filter(|leaving| leaving.step == Step::PreStop)?;
        let grace_ms = (leaving.deadline_ms - now_ms).max(GRACE_AFTER_HOOK_MS);
        *leaving = Leaving { deadline_ms: now_ms + grace_ms, step: Step::Asked };
        Some(self.stop_within(grace_ms))
    }

    /// The next thing to be done when the time for the last one is over.
    pub(crate) fn press(&mut self, now_ms: i64) -> Option<PodAction> {
        let leaving = self.leaving.as_mut().filter(|leaving| now_ms >= leaving.deadline_ms)?;
        match leaving.step {
            Step::PreStop => self.pre_stop_over(now_ms),
            Step::Asked => {
                leaving.step = Step::Forced;
                Some(self.stop_within(0))
            }
            Step::Forced => None,
        }
    }

    pub(crate) fn run(&self, hook: Hook) -> PodAction {
        PodAction::RunHook { container: self.name().to_owned(), attempt: self.restarts, hook }
    }

    fn stop_within(&self, grace_ms: i64) -> PodAction {
        PodAction::StopContainer { container: self.name().to_owned(), grace_ms }
    }
}
