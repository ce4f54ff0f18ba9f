//! One container of a pod: its states, its restarts, and the record of how it ended.

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::backoff::Backoff;
use crate::charter::Plan;
use crate::leaving::Leaving;
use crate::limits::{MESSAGE_BYTES_MAX, PULL_ERROR_SHOWN_MS, START_RETRY_MS};
use crate::probe::{ProbeKind, Schedule, Verdict};

/// What part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: the next one starts once it has started; it ends last.
    Sidecar,
    /// What the pod is for.
    Main,
    /// Came later to look into the pod; runs once.
    Ephemeral,
}

impl Role {
    /// Whether it stands among the init containers.
    pub(crate) fn is_init(self) -> bool {
        matches!(self, Self::Init | Self::Sidecar)
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself.
    Code(i32),
    /// It wanted more memory than its limit.
    OomKilled,
    /// It used up its budget of instructions; the text says so.
    OutOfFuel(String),
    /// It trapped; the text says how, and where.
    Trap(String),
    /// We cancelled it.
    Stopped,
    /// It could not be instantiated.
    NotStarted(String),
    /// It was running when its node went away.
    NodeRestarted,
}

impl Exit {
    /// Exit code, reason and message as a container status shows them. Codes above 128 are 128 + signal number.
    fn record(self) -> (i32, &'static str, Option<String>) {
        match self {
            Self::Code(0) => (0, "Completed", None),
            Self::Code(code) => (code, "Error", None),
            Self::OomKilled => (137, "OOMKilled", None),
            // As a process that used up its CPU time: SIGXCPU.
            Self::OutOfFuel(message) => (152, "FuelExhausted", Some(message)),
            Self::Trap(message) => (134, "Error", Some(message)),
            Self::Stopped => (143, "Error", None),
            Self::NotStarted(message) => (128, "StartError", Some(message)),
            Self::NodeRestarted => (255, "NodeRestarted", Some("the container ran when its node was restarted".into())),
        }
    }
}

/// Why an image is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFault {
    /// It may come: `ErrImagePull`, then `ImagePullBackOff`.
    Missing,
    /// `imagePullPolicy: Never` and it is not here: `ErrImageNeverPull`.
    NeverPulled,
    /// The name can never name an image: `InvalidImageName`.
    InvalidName,
}

#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Waits for the pod's network, or for init containers.
    Created,
    Pulling,
    /// `shown` is the reason in the status.
    PullFailed {
        shown: &'static str,
        message: String,
        failed_ms: i64,
        retry_ms: i64,
    },
    Starting,
    StartFailed {
        reason: &'static str,
        message: String,
        retry_ms: i64,
    },
    /// It runs, and its `postStart` hook does; `failed` says what came of it if it ends the container.
    PostStart {
        started_ms: i64,
        failed: Option<String>,
    },
    Running {
        started_ms: i64,
    },
    Ended,
    CrashLoop {
        wait_ms: i64,
        until_ms: i64,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) plan: Plan,
    pub(crate) role: Role,
    pub(crate) state: State,
    /// How it ended last; shown as `state.terminated` while [`State::Ended`], as `lastState` otherwise.
    pub(crate) last: Option<k8s::ContainerStateTerminated>,
    pub(crate) restarts: i32,
    pub(crate) image_id: String,
    pub(crate) started: bool,
    pub(crate) ready: bool,
    /// Once it is to end: how far that has come.
    pub(crate) leaving: Option<Leaving>,
    /// It is stopped in order to be started anew, whatever the restart policy says.
    pub(crate) replacing: bool,
    probes: Vec<Schedule>,
    crashes: Backoff,
    pulls: Backoff,
}

pub(crate) fn time(ms: i64) -> Time {
    Time(Timestamp::from_second(ms.div_euclid(1000)).unwrap_or(Timestamp::UNIX_EPOCH))
}

impl Container {
    pub(crate) fn new(spec: &k8s::Container, role: Role) -> Self {
        Self {
            plan: Plan::of(spec),
            role,
            state: State::Created,
            last: None,
            restarts: 0,
            image_id: String::new(),
            started: false,
            ready: false,
            leaving: None,
            replacing: false,
            probes: Vec::new(),
            crashes: Backoff::default(),
            pulls: Backoff::default(),
        }
    }

    /// Takes over what the API remembers of it from before the node was restarted.
    pub(crate) fn adopt(&mut self, status: &k8s::ContainerStatus, policy: &str, now_ms: i64) {
        self.restarts = status.restart_count;
        self.image_id.clone_from(&status.image_id);
        self.last = status.last_state.as_ref().and_then(|state| state.terminated.clone());
        let Some(state) = &status.state else { return };
        if let Some(ended) = &state.terminated {
            self.last = Some(ended.clone());
            self.state = State::Ended;
        } else if let Some(running) = &state.running {
            let started_ms = running.started_at.as_ref().map_or(now_ms, |time| time.0.as_millisecond());
            self.end(Exit::NodeRestarted, started_ms, now_ms);
        } else if self.last.is_some() && self.restarts_under(policy) {
            // It waited to be started again. What it waited for is forgotten; the count of its starts is not.
            self.state = State::Ended;
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.plan.name
    }

    pub(crate) fn image(&self) -> &str {
        &self.plan.image
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether its code runs, also where it does not count as running.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::PostStart { .. })
    }

    /// Whether something of it is alive on the node.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_up() || matches!(self.state, State::Starting)
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        matches!(self.state, State::Ended).then(|| self.last.as_ref().map_or(0, |last| last.exit_code))
    }

    /// Whether an ended container of this role is started again under the pod's policy.
    pub(crate) fn restarts_under(&self, policy: &str) -> bool {
        let failed = self.last.as_ref().is_some_and(|last| last.exit_code != 0);
        match (self.role, policy) {
            (Role::Ephemeral, _) => false,
            _ if self.replacing => true,
            (Role::Sidecar, _) | (Role::Main, "Always") => true,
            (Role::Init, "Always") | (_, "OnFailure") => failed,
            _ => false,
        }
    }

    pub(crate) fn start_again(&mut self, now_ms: i64) -> Option<i64> {
        let wait_ms = if self.replacing { 0 } else { self.crashes.after_exit(now_ms) };
        self.replacing = false;
        if wait_ms == 0 {
            return None;
        }
        self.state = State::CrashLoop { wait_ms, until_ms: now_ms + wait_ms };
        Some(wait_ms)
    }

    pub(crate) fn pull_failed(&mut self, fault: ImageFault, message: String, now_ms: i64) -> &'static str {
        let shown = match fault {
            ImageFault::Missing => "ErrImagePull",
            ImageFault::NeverPulled => "ErrImageNeverPull",
            ImageFault::InvalidName => "InvalidImageName",
        };
        let retry_ms = now_ms + self.pulls.after_failure();
        self.state = State::PullFailed { shown, message, failed_ms: now_ms, retry_ms };
        shown
    }

    pub(crate) fn image_ready(&mut self, image_id: String) {
        self.image_id = image_id;
        self.pulls = Backoff::default();
        self.state = State::Starting;
    }

    pub(crate) fn start_failed(&mut self, reason: &'static str, message: String, now_ms: i64) {
        self.state = State::StartFailed { reason, message, retry_ms: now_ms + START_RETRY_MS };
    }

    pub(crate) fn begin(&mut self, started_ms: i64) {
        self.state = State::Running { started_ms };
        let probes = [
            (ProbeKind::Startup, &self.plan.startup_probe),
            (ProbeKind::Readiness, &self.plan.readiness_probe),
            (ProbeKind::Liveness, &self.plan.liveness_probe),
        ];
        let schedules =
            probes.into_iter().filter_map(|(kind, probe)| Some(Schedule::new(kind, probe.as_deref()?, started_ms)));
        self.probes = schedules.collect();
        self.started = self.plan.startup_probe.is_none();
        self.ready = self.started && self.plan.readiness_probe.is_none();
    }

    pub(crate) fn end(&mut self, exit: Exit, started_ms: i64, now_ms: i64) {
        let (exit_code, reason, message) = exit.record();
        self.last = Some(k8s::ContainerStateTerminated {
            exit_code,
            reason: Some(reason.to_owned()),
            message: message.map(shorten),
            started_at: Some(time(started_ms)),
            finished_at: Some(time(now_ms)),
            ..k8s::ContainerStateTerminated::default()
        });
        self.state = State::Ended;
        self.probes.clear();
        (self.started, self.ready, self.leaving) = (false, false, None);
    }

    /// A failed pull is `ErrImagePull` for a moment, then `ImagePullBackOff`. True when that has just changed.
    pub(crate) fn show_backoff(&mut self, now_ms: i64) -> bool {
        match &mut self.state {
            State::PullFailed { shown, failed_ms, .. }
                if *shown == "ErrImagePull" && now_ms >= *failed_ms + PULL_ERROR_SHOWN_MS =>
            {
                *shown = "ImagePullBackOff";
                true
            }
            _ => false,
        }
    }

    /// Whether the time to try again has come.
    pub(crate) fn is_due(&self, now_ms: i64) -> bool {
        match self.state {
            State::Created => true,
            State::PullFailed { retry_ms: at, .. }
            | State::StartFailed { retry_ms: at, .. }
            | State::CrashLoop { until_ms: at, .. } => now_ms >= at,
            _ => false,
        }
    }

    /// Probes to be asked now. Until it has started, only the startup probe is.
    pub(crate) fn ask(&mut self, now_ms: i64) -> Vec<ProbeKind> {
        let started = self.started;
        let askable = |schedule: &&mut Schedule| started != (schedule.kind == ProbeKind::Startup);
        let due = self.probes.iter_mut().filter(askable).filter_map(|probe| probe.ask(now_ms).then_some(probe.kind));
        due.collect()
    }

    /// Takes a probe's answer. True when the container must be started anew because of it.
    pub(crate) fn answer(&mut self, kind: ProbeKind, ok: bool) -> bool {
        let verdict = self.probes.iter_mut().find(|probe| probe.kind == kind).and_then(|probe| probe.answer(ok));
        match (kind, verdict) {
            (ProbeKind::Startup, Some(Verdict::Passed)) => {
                self.started = true;
                self.ready = self.plan.readiness_probe.is_none();
                false
            }
            (ProbeKind::Readiness, Some(verdict)) => {
                self.ready = verdict == Verdict::Passed;
                false
            }
            (ProbeKind::Startup | ProbeKind::Liveness, Some(Verdict::Failed)) => self.leaving.is_none(),
            _ => false,
        }
    }

    pub(crate) fn wake_at(&self) -> Option<i64> {
        if let Some(leaving) = &self.leaving {
            return leaving.wake_at();
        }
        match self.state {
            State::PullFailed { shown: "ErrImagePull", failed_ms, .. } => Some(failed_ms + PULL_ERROR_SHOWN_MS),
            State::PullFailed { retry_ms: at, .. }
            | State::StartFailed { retry_ms: at, .. }
            | State::CrashLoop { until_ms: at, .. } => Some(at),
            State::Running { .. } => {
                let started = self.started;
                let askable = |probe: &&Schedule| started != (probe.kind == ProbeKind::Startup);
                self.probes.iter().filter(askable).filter_map(Schedule::wake_at).min()
            }
            _ => None,
        }
    }
}

/// Cuts a message to Kubernetes' bound, at a character.
fn shorten(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
    }
    message
}
