//! What a pod looks like from outside: `pod.status`, as the kubelet would write it.

use k8s_openapi::api::core::v1 as k8s;

use crate::charter::OURS;
use crate::container::{Container, Role, State, time};
use crate::machine::{Ground, Machine};

impl Machine {
    pub(crate) fn render(&self, now_ms: i64) -> k8s::PodStatus {
        let theirs = &self.charter.theirs;
        let mut mains = self.statuses(|role| role == Role::Main);
        // The kubelet sorts by name; init containers stay in their order.
        mains.sort_by(|a, b| a.name.cmp(&b.name));
        let inits = self.statuses(Role::is_init);
        let guests = self.statuses(|role| role == Role::Ephemeral);
        let phase = self.phase();
        let hosts: Vec<String> = self.seat.host_addresses.iter().map(ToString::to_string).collect();
        let mut pods: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        if pods.is_empty() {
            pods = theirs.addresses.iter().map(|address| address.to_string()).collect();
        }
        let failure = self.failure.as_ref();
        k8s::PodStatus {
            conditions: Some(self.conditions(phase, now_ms)),
            phase: Some(phase.to_owned()),
            reason: failure.map(|(reason, _)| (*reason).to_owned()),
            message: failure.map(|(_, message)| message.clone()),
            start_time: Some(time(self.started_ms)),
            host_ip: hosts.first().cloned(),
            host_ips: list(hosts.into_iter().map(|ip| k8s::HostIP { ip })),
            pod_ip: pods.first().cloned(),
            pod_ips: list(pods.into_iter().map(|ip| k8s::PodIP { ip })),
            qos_class: Some(self.charter.qos_class.to_string()),
            container_statuses: Some(mains),
            init_container_statuses: (!inits.is_empty()).then_some(inits),
            ephemeral_container_statuses: (!guests.is_empty()).then_some(guests),
            nominated_node_name: theirs.nominated_node_name.as_deref().map(str::to_owned),
            ..k8s::PodStatus::default()
        }
    }

    fn statuses(&self, wanted: impl Fn(Role) -> bool) -> Vec<k8s::ContainerStatus> {
        self.containers.iter().filter(|c| wanted(c.role)).map(|container| self.container_status(container)).collect()
    }

    fn container_status(&self, container: &Container) -> k8s::ContainerStatus {
        let ended = matches!(container.state, State::Ended);
        let last = container.last.clone();
        let terminated = |last| k8s::ContainerState { terminated: last, ..k8s::ContainerState::default() };
        let attempted = last.is_some() || container.is_running();
        let ready = match container.role {
            Role::Init => container.exit_code() == Some(0),
            Role::Sidecar | Role::Main => container.ready,
            Role::Ephemeral => false,
        };
        k8s::ContainerStatus {
            name: container.name().to_owned(),
            image: container.image().to_owned(),
            image_id: container.image_id.clone(),
            container_id: attempted.then(|| self.container_id(container)),
            ready,
            started: Some(container.started),
            restart_count: container.restarts,
            state: Some(if ended { terminated(last.clone()) } else { self.container_state(container) }),
            last_state: Some(terminated(last.filter(|_| !ended))),
            ..k8s::ContainerStatus::default()
        }
    }

    fn container_id(&self, container: &Container) -> String {
        let uid = &self.charter.uid;
        format!("kogia://{uid}/{}/{}", container.name(), container.restarts)
    }

    fn container_state(&self, container: &Container) -> k8s::ContainerState {
        let waiting = |reason: &str, message: Option<String>| k8s::ContainerState {
            waiting: Some(k8s::ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
            ..k8s::ContainerState::default()
        };
        let name = container.name();
        match &container.state {
            State::Running { started_ms } => k8s::ContainerState {
                running: Some(k8s::ContainerStateRunning { started_at: Some(time(*started_ms)) }),
                ..k8s::ContainerState::default()
            },
            State::PullFailed { shown: shown @ "ImagePullBackOff", message, .. } => {
                let image = container.image();
                waiting(shown, Some(format!("Back-off pulling image \"{image}\": ErrImagePull: {message}")))
            }
            State::PullFailed { shown: reason, message, .. } | State::StartFailed { reason, message, .. } => {
                waiting(reason, Some(message.clone()))
            }
            State::CrashLoop { wait_ms, .. } => {
                let wait = go_duration(*wait_ms / 1000);
                let pod = &self.charter.whole_name;
                let message = format!("back-off {wait} restarting failed container={name} pod={pod}");
                waiting("CrashLoopBackOff", Some(message))
            }
            State::PostStart { failed: Some(why), .. } => waiting("PostStartHookError", Some(why.clone())),
            State::Created | State::Pulling | State::Starting | State::PostStart { .. } | State::Ended => {
                let has_inits = self.containers.iter().any(|container| container.role.is_init())
                    && container.role != Role::Ephemeral;
                waiting(if has_inits { "PodInitializing" } else { "ContainerCreating" }, None)
            }
        }
    }

    /// The kubelet's rules: what waits for the first time is pending, what waits after an end counts as ended.
    fn phase(&self) -> &'static str {
        let mains: Vec<&Container> = self.containers.iter().filter(|c| c.role == Role::Main).collect();
        let all_succeeded = mains.iter().all(|c| c.exit_code() == Some(0)) && !self.init_failed();
        if self.is_over() {
            return if all_succeeded && self.failure.is_none() { "Succeeded" } else { "Failed" };
        }
        let has_run = |c: &&Container| c.is_running() || c.last.is_some();
        if !self.is_initialized() && !mains.iter().any(has_run) || !mains.iter().all(has_run) {
            return "Pending";
        }
        "Running"
    }

    fn conditions(&self, phase: &str, now_ms: i64) -> Vec<k8s::PodCondition> {
        let terminal = match phase {
            "Succeeded" => Some("PodCompleted"),
            "Failed" => Some("PodFailed"),
            _ => None,
        };
        let uninitialized = self.names(|c| c.role == Role::Init && c.exit_code() != Some(0));
        let initialized = if terminal == Some("PodCompleted") || self.is_initialized() {
            Ok(())
        } else {
            Err(("ContainersNotInitialized", format!("containers with incomplete status: [{uninitialized}]")))
        };
        let unready = self.names(|c| matches!(c.role, Role::Sidecar | Role::Main) && !c.ready);
        let containers_ready = match terminal {
            Some(reason) => Err((reason, String::new())),
            None if unready.is_empty() => Ok(()),
            None => Err(("ContainersNotReady", format!("containers with unready status: [{unready}]"))),
        };
        let ready = containers_ready.clone().and_then(|()| self.gates_open());
        let network = if self.ground == Ground::Ready { Ok(()) } else { Err(("", String::new())) };
        let answers = [network, initialized, ready, containers_ready];
        let ours = OURS.into_iter().zip(answers).map(|(name, answer)| self.condition(name, answer, now_ms));
        let mut conditions: Vec<k8s::PodCondition> = ours.collect();
        conditions.extend(self.charter.theirs.conditions.iter().cloned());
        if !conditions.iter().any(|condition| condition.type_ == "PodScheduled") {
            conditions.push(self.condition("PodScheduled", Ok(()), now_ms));
        }
        conditions
    }

    fn gates_open(&self) -> Result<(), (&'static str, String)> {
        self.charter.closed_gate.as_ref().map_or(Ok(()), |gate| {
            let message =
                format!("corresponding condition of pod readiness gate \"{gate}\" does not exist or is not true.");
            Err(("ReadinessGatesNotReady", message))
        })
    }

    /// A condition keeps the time of its last change.
    fn condition(&self, name: &str, answer: Result<(), (&'static str, String)>, now_ms: i64) -> k8s::PodCondition {
        let status = if answer.is_ok() { "True" } else { "False" };
        let published = self.published.conditions.iter().flatten().find(|condition| condition.type_ == name);
        let unchanged = published.filter(|condition| condition.status == status);
        let (reason, message) = answer.err().unwrap_or_default();
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        k8s::PodCondition {
            type_: name.to_owned(),
            status: status.to_owned(),
            reason: text(reason),
            message: text(&message),
            last_transition_time: unchanged
                .and_then(|condition| condition.last_transition_time.clone())
                .or_else(|| Some(time(now_ms))),
            ..k8s::PodCondition::default()
        }
    }

    /// Names of containers, as the kubelet lists them in messages: `[a b]` without the brackets.
    fn names(&self, wanted: impl Fn(&Container) -> bool) -> String {
        let names: Vec<&str> = self.containers.iter().filter(|c| wanted(c)).map(Container::name).collect();
        names.join(" ")
    }
}

/// `10s`, `1m20s`, `5m0s`: as Go prints a duration of whole seconds.
fn go_duration(seconds: i64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

fn list<T>(items: impl Iterator<Item = T>) -> Option<Vec<T>> {
    let items: Vec<T> = items.collect();
    (!items.is_empty()).then_some(items)
}
