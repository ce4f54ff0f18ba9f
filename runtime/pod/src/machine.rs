//! The machine of one pod: which container is next, when to stop, when all is over.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as k8s;

use crate::action::{Fetched, Input, PodAction, Seat};
use crate::charter::{Charter, init_role};
use crate::container::{Container, Exit, ImageFault, Role, State};
use crate::hook::Hook;
use crate::limits::{EVICTION_GRACE_MS, GROUND_RETRY_MS, START_RETRY_MS};
use crate::probe::ProbeKind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    Absent,
    Requested,
    Failed { retry_ms: i64 },
    Ready,
    TornDown,
}

/// The pod.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) charter: Charter,
    pub(crate) seat: Seat,
    pub(crate) ground: Ground,
    /// The wait that the next failure to set it up brings.
    ground_wait_ms: i64,
    pub(crate) addresses: Vec<IpAddr>,
    /// Init containers in their order, then the others, then ephemeral ones.
    pub(crate) containers: Vec<Container>,
    pub(crate) started_ms: i64,
    /// Being deleted.
    pub(crate) stopping: bool,
    /// Why the pod as a whole has failed: reason and message.
    pub(crate) failure: Option<(&'static str, String)>,
    /// When containers that are asked to end are ended.
    deadline_ms: Option<i64>,
    pub(crate) published: k8s::PodStatus,
    forgotten: bool,
}

impl Machine {
    /// The machine of a pod as the API has it. Containers that its status calls running are not: the node was
    /// restarted, and that is how they ended.
    #[must_use]
    pub fn new(pod: &k8s::Pod, seat: Seat, now_ms: i64) -> Self {
        let charter = Charter::of(pod);
        let status = pod.status.clone().unwrap_or_default();
        let spec = pod.spec.iter();
        let inits = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
        let mains = spec.flat_map(|spec| &spec.containers).map(|spec| Container::new(spec, Role::Main));
        let containers = inits.map(|spec| Container::new(spec, init_role(spec))).chain(mains).collect();
        let policy = charter.restart_policy.clone();
        let started_ms = status.start_time.as_ref().map_or(now_ms, |time| time.0.as_millisecond());
        let mut machine = Self {
            charter,
            seat,
            ground: Ground::Absent,
            ground_wait_ms: GROUND_RETRY_MS,
            addresses: Vec::new(),
            containers,
            started_ms,
            stopping: false,
            failure: None,
            deadline_ms: None,
            published: status.clone(),
            forgotten: false,
        };
        machine.admit_guests(pod);
        let known = [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        for known in known.into_iter().flatten().flatten() {
            if let Some(container) = machine.container(&known.name) {
                container.adopt(&known, &policy, now_ms);
            }
        }
        machine
    }

    /// Takes one input and appends what follows from it. After [`PodAction::Forget`] nothing does.
    pub fn step(&mut self, now_ms: i64, input: Input, actions: &mut Vec<PodAction>) {
        if self.forgotten {
            return;
        }
        match input {
            Input::PodAssigned | Input::TimePassed => {}
            Input::PodSetUp { addresses } => {
                self.addresses = addresses;
                self.ground = Ground::Ready;
            }
            Input::SetUpFailed { message } => {
                self.ground = Ground::Failed { retry_ms: now_ms + self.ground_wait_ms };
                self.ground_wait_ms = (self.ground_wait_ms * 2).min(START_RETRY_MS);
                actions.push(tell("Warning", "FailedMount", message, None));
            }
            Input::ImageReady { container, image_id, fetched } => {
                self.image_ready(&container, image_id, fetched, actions);
            }
            Input::ImageFailed { container, fault, message } => {
                self.image_failed(&container, fault, message, now_ms, actions);
            }
            Input::ContainerStarted { container } => self.container_started(&container, now_ms, actions),
            Input::StartFailed { container, reason, message } => {
                self.start_failed(&container, reason, message, now_ms, actions);
            }
            Input::ContainerExited { container, exit } => self.container_exited(&container, exit, now_ms, actions),
            Input::ProbeAnswered { container, attempt, kind, answer } => {
                self.probe_answered(&container, attempt, kind, answer, now_ms, actions);
            }
            Input::HookEnded { container, attempt, hook, answer } => {
                self.hook_ended(&container, attempt, hook, answer, now_ms, actions);
            }
            Input::PodChanged(pod) => self.pod_changed(&pod, now_ms, actions),
            Input::Evicted { message } => self.evicted(message, now_ms, actions),
            Input::StopRequested { grace_seconds } => {
                self.stopping = true;
                self.end_by(now_ms + grace_seconds.max(0) * 1000, now_ms);
            }
        }
        self.settle(now_ms, actions);
    }

    /// When [`Input::TimePassed`] is due; `None` when only other inputs matter.
    #[must_use]
    pub fn wake_at(&self) -> Option<i64> {
        if self.is_ending() {
            let wake = |c: &Container| c.leaving.map_or(self.deadline_ms, |leaving| leaving.wake_at());
            return self.containers.iter().filter(|container| container.is_alive()).filter_map(wake).min();
        }
        let retry = match self.ground {
            Ground::Failed { retry_ms } => Some(retry_ms),
            _ => None,
        };
        let containers = self.containers.iter().filter_map(Container::wake_at);
        containers.chain(retry).chain(self.active_deadline_ms()).min()
    }

    /// What goes on after every input: stop or go on, ask probes, publish, end.
    fn settle(&mut self, now_ms: i64, actions: &mut Vec<PodAction>) {
        if self.failure.is_none() && self.active_deadline_ms().is_some_and(|at| now_ms >= at) && !self.is_ending() {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            actions.push(tell("Normal", "DeadlineExceeded", message.clone(), None));
            self.failure = Some(("DeadlineExceeded", message));
        }
        if !self.is_ending() {
            self.advance(now_ms, actions);
        }
        if self.is_ending() {
            self.stop_next(now_ms, actions);
        }
        actions.extend(self.containers.iter_mut().filter_map(|container| container.press(now_ms)));
        let over = self.is_over();
        if over && self.ground != Ground::TornDown {
            if self.ground != Ground::Absent {
                actions.push(PodAction::TearDownPod);
            }
            self.ground = Ground::TornDown;
        }
        let status = self.render(now_ms);
        if status != self.published {
            self.published = status.clone();
            actions.push(PodAction::UpdateStatus(Box::new(status)));
        }
        if over && self.stopping {
            self.forgotten = true;
            actions.push(PodAction::Forget);
        }
    }

    /// Moves every container forward that may move, in order.
    fn advance(&mut self, now_ms: i64, actions: &mut Vec<PodAction>) {
        match self.ground {
            Ground::Absent => {
                self.ground = Ground::Requested;
                return actions.push(PodAction::SetUpPod);
            }
            Ground::Failed { retry_ms } if now_ms >= retry_ms => {
                self.ground = Ground::Requested;
                return actions.push(PodAction::SetUpPod);
            }
            Ground::Ready => {}
            Ground::Failed { .. } | Ground::Requested | Ground::TornDown => return,
        }
        let (guests, others): (Vec<usize>, Vec<usize>) =
            (0..self.containers.len()).partition(|index| self.containers[*index].role == Role::Ephemeral);
        guests.into_iter().for_each(|index| self.advance_container(index, now_ms, actions));
        let mut held = false;
        for index in others {
            if held && matches!(self.containers[index].state, State::Created) {
                continue;
            }
            self.advance_container(index, now_ms, actions);
            let container = &mut self.containers[index];
            for kind in if container.leaving.is_none() { container.ask(now_ms) } else { Vec::new() } {
                let (container, attempt) = (container.name().to_owned(), container.restarts);
                actions.push(PodAction::Probe { container, attempt, kind });
            }
            if !may_pass(container) {
                break;
            }
            held |= holds(container);
        }
    }

    fn advance_container(&mut self, index: usize, now_ms: i64, actions: &mut Vec<PodAction>) {
        let policy = self.restart_policy().to_owned();
        let (container, whole_name) = (&mut self.containers[index], &self.charter.whole_name);
        let (name, image) = (container.name().to_owned(), container.image().to_owned());
        if container.show_backoff(now_ms) {
            actions.push(tell("Normal", "BackOff", format!("Back-off pulling image \"{image}\""), Some(&name)));
            actions.push(tell("Warning", "Failed", "Error: ImagePullBackOff".to_owned(), Some(&name)));
        }
        let again = matches!(container.state, State::Ended) && container.restarts_under(&policy);
        if again && container.start_again(now_ms).is_some() {
            let message = format!("Back-off restarting failed container {name} in pod {whole_name}");
            return actions.push(tell("Warning", "BackOff", message, Some(&name)));
        }
        if again || container.is_due(now_ms) {
            if again || matches!(container.state, State::CrashLoop { .. }) {
                container.restarts = container.restarts.saturating_add(1);
            }
            container.state = State::Pulling;
            actions.push(PodAction::PullImage { container: name, image });
        }
    }

    /// Asks the next containers to end: main ones together, then sidecars one by one, last first.
    fn stop_next(&mut self, now_ms: i64, actions: &mut Vec<PodAction>) {
        if self.deadline_ms.is_none() {
            self.end_by(now_ms + self.grace_seconds() * 1000, now_ms);
        }
        let deadline = self.deadline_ms.unwrap_or(now_ms);
        let grace_ms = (deadline - now_ms).max(0);
        let main_alive = self.containers.iter().any(|c| c.role != Role::Sidecar && c.is_alive());
        let mut sidecar_asked = false;
        for container in self.containers.iter_mut().rev().filter(|container| container.is_alive()) {
            let turn = if container.role == Role::Sidecar { !main_alive && !sidecar_asked } else { true };
            sidecar_asked |= container.role == Role::Sidecar;
            if container.leaving.is_some() || !(turn || grace_ms == 0) {
                continue;
            }
            let name = container.name();
            actions.push(tell("Normal", "Killing", format!("Stopping container {name}"), Some(name)));
            actions.push(container.leave(grace_ms, now_ms));
        }
    }

    /// Whatever still runs then is ended by force.
    fn end_by(&mut self, deadline_ms: i64, now_ms: i64) {
        if self.deadline_ms.is_some_and(|earlier| earlier <= deadline_ms) {
            return;
        }
        self.deadline_ms = Some(deadline_ms);
        let leaving = self.containers.iter_mut().filter_map(|container| container.leaving.as_mut());
        leaving.for_each(|leaving| leaving.hasten(deadline_ms, now_ms));
    }

    fn image_ready(&mut self, name: &str, image_id: String, fetched: Option<Fetched>, actions: &mut Vec<PodAction>) {
        let ending = self.is_ending();
        let Some(container) = self.container(name) else { return };
        if ending || !matches!(container.state, State::Pulling) {
            return;
        }
        container.image_ready(image_id);
        let (attempt, image) = (container.restarts, container.image());
        let message = match fetched {
            None => format!("Container image \"{image}\" already present on machine"),
            Some(Fetched { took_ms, waited_ms, bytes }) => format!(
                "Successfully pulled image \"{image}\" in {took_ms}ms ({waited_ms}ms including waiting). \
                 Image size: {bytes} bytes."
            ),
        };
        actions.push(tell("Normal", "Pulled", message, Some(name)));
        actions.push(PodAction::StartContainer { container: name.to_owned(), attempt });
    }

    fn image_failed(
        &mut self,
        name: &str,
        fault: ImageFault,
        message: String,
        now_ms: i64,
        actions: &mut Vec<PodAction>,
    ) {
        let ending = self.is_ending();
        let Some(container) = self.container(name).filter(|c| matches!(c.state, State::Pulling)) else { return };
        if ending {
            return;
        }
        let image = container.image();
        let failed = format!("Failed to pull image \"{image}\": {message}");
        actions.push(tell("Warning", "Failed", failed, Some(name)));
        let shown = container.pull_failed(fault, message, now_ms);
        actions.push(tell("Warning", "Failed", format!("Error: {shown}"), Some(name)));
    }

    fn container_started(&mut self, name: &str, now_ms: i64, actions: &mut Vec<PodAction>) {
        let Some(container) = self.container(name).filter(|c| matches!(c.state, State::Starting)) else { return };
        actions.push(tell("Normal", "Created", format!("Created container: {name}"), Some(name)));
        actions.push(tell("Normal", "Started", format!("Started container {name}"), Some(name)));
        if !container.plan.has(Hook::PostStart) {
            return container.begin(now_ms);
        }
        container.state = State::PostStart { started_ms: now_ms, failed: None };
        actions.push(container.run(Hook::PostStart));
    }

    /// The kubelet keeps what a hook said out of the events, for there may be secrets in it.
    fn hook_ended(
        &mut self,
        name: &str,
        attempt: i32,
        hook: Hook,
        answer: Result<(), String>,
        now_ms: i64,
        actions: &mut Vec<PodAction>,
    ) {
        let grace_ms = self.grace_seconds() * 1000;
        let Some(container) = self.container(name).filter(|c| c.is_up() && c.restarts == attempt) else { return };
        match (hook, &mut container.state, answer) {
            (Hook::PostStart, State::PostStart { started_ms, failed: None }, Ok(())) => {
                let started_ms = *started_ms;
                container.begin(started_ms);
            }
            (Hook::PostStart, State::PostStart { failed: failed @ None, .. }, Err(why)) => {
                *failed = Some(why);
                actions.push(tell("Warning", "FailedPostStartHook", "PostStartHook failed".to_owned(), Some(name)));
                if container.leaving.is_none() {
                    actions.push(tell("Normal", "Killing", "FailedPostStartHook".to_owned(), Some(name)));
                    actions.push(container.leave(grace_ms, now_ms));
                }
            }
            (Hook::PreStop, _, answer) => {
                let over = container.pre_stop_over(now_ms);
                if over.is_some() && answer.is_err() {
                    actions.push(tell("Warning", "FailedPreStopHook", "PreStopHook failed".to_owned(), Some(name)));
                }
                actions.extend(over);
            }
            _ => {}
        }
    }

    fn start_failed(
        &mut self,
        name: &str,
        reason: &'static str,
        message: String,
        now_ms: i64,
        actions: &mut Vec<PodAction>,
    ) {
        let Some(container) = self.container(name).filter(|c| matches!(c.state, State::Starting)) else { return };
        actions.push(tell("Warning", "Failed", format!("Error: {message}"), Some(name)));
        container.start_failed(reason, message, now_ms);
        container.leaving = None;
    }

    fn container_exited(&mut self, name: &str, exit: Exit, now_ms: i64, actions: &mut Vec<PodAction>) {
        let Some(container) = self.container(name).filter(|container| container.is_alive()) else { return };
        let started_ms = match container.state {
            State::Running { started_ms } | State::PostStart { started_ms, .. } => started_ms,
            _ => now_ms,
        };
        match &exit {
            Exit::NotStarted(message) => {
                actions.push(tell("Warning", "Failed", format!("Error: {message}"), Some(name)));
            }
            // What a container's status says in a word a person finds here in full, with where it happened.
            Exit::Trap(message) => {
                actions.push(tell("Warning", "Trapped", format!("Container {name} trapped: {message}"), Some(name)));
            }
            Exit::OutOfFuel(message) => {
                actions.push(tell("Warning", "FuelExhausted", format!("Container {name} {message}"), Some(name)));
            }
            _ => {}
        }
        container.end(exit, started_ms, now_ms);
    }

    fn probe_answered(
        &mut self,
        name: &str,
        attempt: i32,
        kind: ProbeKind,
        answer: Result<(), String>,
        now_ms: i64,
        actions: &mut Vec<PodAction>,
    ) {
        let (policy, ending, pod_grace) = (self.restart_policy().to_owned(), self.is_ending(), self.grace_seconds());
        let Some(container) = self.container(name).filter(|c| c.is_running() && c.restarts == attempt) else { return };
        let ok = answer.is_ok();
        if let Err(why) = answer {
            let message = format!("{} probe failed: {why}", kind.name());
            actions.push(tell("Warning", "Unhealthy", message, Some(name)));
        }
        if !container.answer(kind, ok) || ending {
            return;
        }
        let probe =
            if kind == ProbeKind::Startup { &container.plan.startup_probe } else { &container.plan.liveness_probe };
        let own_grace = probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
        let grace_ms = own_grace.unwrap_or(pod_grace) * 1000;
        let what_next = if policy == "Never" { "will be stopped" } else { "will be restarted" };
        let message = format!("Container {name} failed {} probe, {what_next}", kind.name().to_lowercase());
        actions.push(tell("Normal", "Killing", message, Some(name)));
        actions.push(container.leave(grace_ms, now_ms));
    }

    /// A container whose image changed is started anew (`kubectl set image pod/…`); nothing else in a pod's
    /// containers may change.
    fn pod_changed(&mut self, pod: &k8s::Pod, now_ms: i64, actions: &mut Vec<PodAction>) {
        let grace_ms = self.grace_seconds() * 1000;
        let spec = pod.spec.iter();
        let specs = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        for spec in specs {
            let image = spec.image.as_deref().unwrap_or_default();
            let Some(container) = self.container(&spec.name).filter(|container| container.image() != image) else {
                continue;
            };
            container.plan.image = image.into();
            if container.is_alive() && container.role != Role::Init {
                let message = format!("Container {} definition changed, will be restarted", spec.name);
                actions.push(tell("Normal", "Killing", message, Some(&spec.name)));
                container.replacing = true;
                if container.leaving.is_none() {
                    actions.push(container.leave(grace_ms, now_ms));
                }
            }
        }
        self.charter = Charter::of(pod);
        self.admit_guests(pod);
    }

    /// The pod fails, and its containers have as long as the kubelet gives for this.
    fn evicted(&mut self, message: String, now_ms: i64, actions: &mut Vec<PodAction>) {
        if self.is_ending() {
            return;
        }
        actions.push(tell("Warning", "Evicted", message.clone(), None));
        self.failure = Some(("Evicted", message));
        self.end_by(now_ms + EVICTION_GRACE_MS, now_ms);
    }

    /// Nothing is to be started any more.
    pub(crate) fn is_ending(&self) -> bool {
        self.stopping || self.failure.is_some() || self.is_done()
    }

    /// Nothing runs, and nothing will.
    pub(crate) fn is_over(&self) -> bool {
        self.is_ending() && !self.containers.iter().any(Container::is_alive)
    }

    /// The pod's own work has come to its end, good or bad: its main containers ended for good, or an init one failed.
    fn is_done(&self) -> bool {
        let policy = self.restart_policy();
        let ended =
            |container: &Container| matches!(container.state, State::Ended) && !container.restarts_under(policy);
        let mut mains = self.containers.iter().filter(|container| container.role == Role::Main);
        self.init_failed() || mains.all(ended)
    }

    pub(crate) fn init_failed(&self) -> bool {
        let policy = self.restart_policy();
        let failed = |c: &Container| c.exit_code().is_some_and(|code| code != 0) && !c.restarts_under(policy);
        self.containers.iter().any(|container| container.role == Role::Init && failed(container))
    }

    /// Every init container ended well and every sidecar has started.
    pub(crate) fn is_initialized(&self) -> bool {
        self.containers.iter().filter(|container| container.role.is_init()).all(may_pass)
    }

    pub(crate) fn restart_policy(&self) -> &str {
        &self.charter.restart_policy
    }

    fn grace_seconds(&self) -> i64 {
        self.charter.grace_seconds
    }

    fn active_deadline_ms(&self) -> Option<i64> {
        let seconds = self.charter.active_deadline_seconds?;
        Some(self.started_ms + seconds * 1000)
    }

    fn container(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.name() == name)
    }
}

/// Whether the container after this one in the order may be looked at.
fn may_pass(container: &Container) -> bool {
    match container.role {
        Role::Main | Role::Ephemeral => true,
        // Once it had started the way is free for good, also while it restarts.
        Role::Sidecar => container.started || container.restarts > 0,
        Role::Init => container.exit_code() == Some(0),
    }
}

/// Whether those after it wait to be started for the first time: until its `postStart` hook has run, or it has turned out
/// not to start.
fn holds(container: &Container) -> bool {
    let starts = matches!(container.state, State::Pulling | State::Starting | State::PostStart { .. });
    starts && container.last.is_none() && container.plan.has(Hook::PostStart)
}

fn tell(severity: &'static str, reason: &'static str, message: String, container: Option<&str>) -> PodAction {
    PodAction::Tell { severity, reason, message, container: container.map(str::to_owned) }
}
