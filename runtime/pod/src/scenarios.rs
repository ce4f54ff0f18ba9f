//! Runs the stories in `tests/scenarios/*.txt`: commands, a line `----`, and what the machine does about them.
//!
//! `UPDATE=1 cargo test -p kogia-pod` writes what happens now into the files; the diff is what a reviewer reads.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{Exit, Hook, ImageFault, Input, Machine, PodAction, ProbeKind, Seat};

#[test]
fn every_story_ends_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    for file in &files {
        let written = fs::read_to_string(file).unwrap();
        let played = play(&written);
        if played != written && std::env::var_os("UPDATE").is_some() {
            fs::write(file, &played).unwrap();
        } else if played != written {
            wrong.push(format!("{} differs; it now plays as:\n{played}", file.display()));
        }
    }
    assert!(!files.is_empty() && wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Plays a whole file: blocks are parted by empty lines, lines that begin with `#` are for people.
fn play(text: &str) -> String {
    let mut story = Story { pod: k8s::Pod::default(), machine: None, now_ms: 0, out: String::new(), asked: Vec::new() };
    let blocks: Vec<String> = text.split("\n\n").map(|block| story.block(block.trim_matches('\n'))).collect();
    blocks.join("\n\n") + "\n"
}

struct Story {
    /// The object as the API has it.
    pod: k8s::Pod,
    machine: Option<Machine>,
    now_ms: i64,
    out: String,
    /// What a willing node would report for what it was asked last.
    asked: Vec<Input>,
}

impl Story {
    fn block(&mut self, block: &str) -> String {
        let commands: Vec<&str> = block.lines().take_while(|line| *line != "----").collect();
        self.out.clear();
        for command in commands.iter().filter(|line| !line.starts_with('#')) {
            self.command(&command.split_whitespace().collect::<Vec<_>>());
        }
        let head = commands.join("\n");
        if self.out.is_empty() { head } else { format!("{head}\n----\n{}", self.out.trim_end()) }
    }

    fn command(&mut self, words: &[&str]) {
        let text = |index: usize| words[index].to_owned();
        let rest = |index: usize| words[index..].join(" ");
        match words {
            ["pod", options @ ..] => {
                self.pod = pod(options);
                self.machine = Some(Machine::new(&self.pod, seat(), self.now_ms));
                self.step(Input::PodAssigned);
            }
            // The node does everything that is asked of it, until it is asked nothing more.
            ["up"] => self.up(),
            ["set-up"] => self.step(set_up()),
            ["set-up-failed", ..] => self.step(Input::SetUpFailed { message: rest(1) }),
            ["image", _] => self.step(image_ready(text(1))),
            [fault @ ("missing" | "invalid" | "never"), _] => {
                let (fault, message) = match *fault {
                    "missing" => (ImageFault::Missing, "it is not here"),
                    "never" => (ImageFault::NeverPulled, "it is not here and may not be pulled"),
                    _ => (ImageFault::InvalidName, "it is no name"),
                };
                self.step(Input::ImageFailed { container: text(1), fault, message: message.to_owned() });
            }
            ["started", _] => self.step(Input::ContainerStarted { container: text(1) }),
            ["start-failed", _, ..] => {
                let reason = "CreateContainerConfigError";
                self.step(Input::StartFailed { container: text(1), reason, message: rest(2) });
            }
            ["exited", _, how] => {
                let exit = match *how {
                    "oom" => Exit::OomKilled,
                    "out-of-fuel" => Exit::OutOfFuel("used up its budget of 1000 instructions".to_owned()),
                    "trap" => Exit::Trap("wasm trap: unreachable".to_owned()),
                    "stopped" => Exit::Stopped,
                    "unstarted" => Exit::NotStarted("no such export".to_owned()),
                    code => Exit::Code(code.parse().unwrap()),
                };
                self.step(Input::ContainerExited { container: text(1), exit });
            }
            ["answer", _, kind, answer] => self.answer(text(1), kind, *answer == "yes"),
            ["hook", _, which, how] => {
                let (container, hook) = (text(1), hook(which));
                let attempt = self.machine().containers.iter().find(|c| c.name() == container).unwrap().restarts;
                let answer = if *how == "done" { Ok(()) } else { Err("no such file".to_owned()) };
                self.step(Input::HookEnded { container, attempt, hook, answer });
            }
            ["evicted", ..] => self.step(Input::Evicted { message: rest(1) }),
            ["stop", grace] => self.step(Input::StopRequested { grace_seconds: grace.parse().unwrap() }),
            ["set-image", name, image] => {
                let containers = &mut self.pod.spec.as_mut().unwrap().containers;
                containers.iter_mut().find(|c| c.name == **name).unwrap().image = Some((*image).to_owned());
                self.step(Input::PodChanged(self.pod.clone().into()));
            }
            ["debug", name] => {
                let image = Some("toolbox".to_owned());
                let guest =
                    k8s::EphemeralContainer { name: (*name).to_owned(), image, ..k8s::EphemeralContainer::default() };
                self.pod.spec.as_mut().unwrap().ephemeral_containers.get_or_insert_default().push(guest);
                self.step_keeping(Input::PodChanged(self.pod.clone().into()));
            }
            ["restart-node"] => {
                self.pod.status = Some(self.machine().published.clone());
                self.machine = Some(Machine::new(&self.pod, seat(), self.now_ms));
                self.step(Input::PodAssigned);
            }
            ["wait", seconds] => self.wait(seconds.parse().unwrap()),
            ["conditions"] => self.conditions(),
            _ => panic!("no such command: {words:?}"),
        }
    }

    fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("a story begins with `pod`")
    }

    fn answer(&mut self, container: String, kind: &str, yes: bool) {
        let kind = match kind {
            "startup" => ProbeKind::Startup,
            "liveness" => ProbeKind::Liveness,
            _ => ProbeKind::Readiness,
        };
        let attempt = self.machine().containers.iter().find(|c| c.name() == container).unwrap().restarts;
        let answer = if yes { Ok(()) } else { Err("HTTP probe failed with statuscode: 500".to_owned()) };
        self.step(Input::ProbeAnswered { container, attempt, kind, answer });
    }

    /// Lets the time pass, waking the machine whenever it asked to be woken.
    fn wait(&mut self, seconds: i64) {
        let (begin, end) = (self.now_ms, self.now_ms + seconds * 1000);
        while let Some(at) = self.machine().wake_at().filter(|at| *at <= end) {
            self.now_ms = at.max(self.now_ms);
            let before = self.out.len();
            self.step(Input::TimePassed);
            if self.out.len() > before {
                self.out.insert_str(before, &format!("after {} s\n", (self.now_ms - begin) / 1000));
            }
        }
        self.now_ms = end;
    }

    fn up(&mut self) {
        while !self.asked.is_empty() {
            for input in std::mem::take(&mut self.asked) {
                self.step_keeping(input);
            }
        }
    }

    fn step(&mut self, input: Input) {
        self.asked.clear();
        self.step_keeping(input);
    }

    fn step_keeping(&mut self, input: Input) {
        let (now_ms, mut actions) = (self.now_ms, Vec::new());
        self.machine().step(now_ms, input, &mut actions);
        for action in actions {
            writeln!(self.out, "{}", line(&action)).unwrap();
            match action {
                PodAction::SetUpPod => self.asked.push(set_up()),
                PodAction::PullImage { container, .. } => self.asked.push(image_ready(container)),
                PodAction::StartContainer { container, .. } => self.asked.push(Input::ContainerStarted { container }),
                PodAction::RunHook { container, attempt, hook } => {
                    self.asked.push(Input::HookEnded { container, attempt, hook, answer: Ok(()) });
                }
                _ => {}
            }
        }
    }

    fn conditions(&mut self) {
        let conditions = self.machine().published.conditions.clone().unwrap_or_default();
        for c in conditions {
            let since = c.last_transition_time.map_or(0, |time| time.0.as_second());
            let why = [c.reason, c.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
            writeln!(self.out, "{}", format!("{}={} since {since} s  {why}", c.type_, c.status).trim_end()).unwrap();
        }
    }
}

fn seat() -> Seat {
    Seat { host_addresses: vec!["192.0.2.1".parse().unwrap()] }
}

fn set_up() -> Input {
    Input::PodSetUp { addresses: vec!["10.42.0.7".parse().unwrap()] }
}

fn image_ready(container: String) -> Input {
    Input::ImageReady { container, image_id: "example@sha256:1".to_owned(), fetched: None }
}

fn hook(name: &str) -> Hook {
    if name == "postStart" { Hook::PostStart } else { Hook::PreStop }
}

/// `restart=Never main=a,b init=x sidecar=y grace=5 deadline=60 probe=liveness hook=preStop`; probes and hooks are the
/// first main container's.
fn pod(options: &[&str]) -> k8s::Pod {
    let mut spec = k8s::PodSpec::default();
    for option in options {
        let (name, value) = option.split_once('=').unwrap();
        let containers = |policy: Option<&str>| {
            value
                .split(',')
                .map(move |name| k8s::Container {
                    name: name.to_owned(),
                    image: Some(format!("{name}:1")),
                    restart_policy: policy.map(str::to_owned),
                    ..k8s::Container::default()
                })
                .collect::<Vec<_>>()
        };
        let probe = k8s::Probe { failure_threshold: Some(2), period_seconds: Some(5), ..k8s::Probe::default() };
        match name {
            "restart" => spec.restart_policy = Some(value.to_owned()),
            "main" => spec.containers = containers(None),
            "init" => spec.init_containers.get_or_insert_default().extend(containers(None)),
            "sidecar" => spec.init_containers.get_or_insert_default().extend(containers(Some("Always"))),
            "grace" => spec.termination_grace_period_seconds = Some(value.parse().unwrap()),
            "deadline" => spec.active_deadline_seconds = Some(value.parse().unwrap()),
            "probe" => match value {
                "startup" => spec.containers[0].startup_probe = Some(probe),
                "liveness" => spec.containers[0].liveness_probe = Some(probe),
                _ => spec.containers[0].readiness_probe = Some(probe),
            },
            "hook" => {
                let lifecycle = spec.containers[0].lifecycle.get_or_insert_default();
                let handler = Some(k8s::LifecycleHandler::default());
                match hook(value) {
                    Hook::PostStart => lifecycle.post_start = handler,
                    Hook::PreStop => lifecycle.pre_stop = handler,
                }
            }
            _ => panic!("no such option: {option}"),
        }
    }
    let named = |text: &str| Some(text.to_owned());
    let metadata =
        ObjectMeta { name: named("web"), namespace: named("default"), uid: named("u1"), ..ObjectMeta::default() };
    k8s::Pod { metadata, spec: Some(spec), status: None }
}

fn line(action: &PodAction) -> String {
    match action {
        PodAction::SetUpPod => "set up".to_owned(),
        PodAction::PullImage { container, image } => format!("pull {image} for {container}"),
        PodAction::StartContainer { container, attempt } => format!("start {container} #{attempt}"),
        PodAction::StopContainer { container, grace_ms } => format!("stop {container} within {} s", grace_ms / 1000),
        PodAction::Probe { container, attempt, kind } => format!("ask {container} #{attempt}: {}", kind.name()),
        PodAction::RunHook { container, attempt, hook } => format!("run {hook:?} of {container} #{attempt}"),
        PodAction::UpdateStatus(status) => status_line(status),
        PodAction::Tell { severity, reason, message, .. } => format!("{severity} {reason}: {message}"),
        PodAction::TearDownPod => "tear down".to_owned(),
        PodAction::Forget => "forget".to_owned(),
    }
}

/// `status Running: web=running ready 1x OOMKilled/137` and so on for every container.
fn status_line(status: &k8s::PodStatus) -> String {
    let mut line = format!("status {}", status.phase.as_deref().unwrap_or_default());
    if let Some(reason) = &status.reason {
        write!(line, " ({reason})").unwrap();
    }
    let ended =
        |t: &k8s::ContainerStateTerminated| format!("{}/{}", t.reason.as_deref().unwrap_or_default(), t.exit_code);
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    for c in lists.into_iter().flatten().flatten() {
        let state = c.state.clone().unwrap_or_default();
        let now = match (state.waiting, state.terminated) {
            (Some(waiting), _) => waiting.reason.unwrap_or_default(),
            (_, Some(terminated)) => ended(&terminated),
            _ => "running".to_owned(),
        };
        write!(line, " | {} {now}", c.name).unwrap();
        if c.ready {
            line.push_str(" ready");
        }
        if c.restart_count > 0 {
            write!(line, " restarts={}", c.restart_count).unwrap();
        }
        if let Some(last) = c.last_state.as_ref().and_then(|state| state.terminated.as_ref()) {
            write!(line, " last={}", ended(last)).unwrap();
        }
    }
    line
}
