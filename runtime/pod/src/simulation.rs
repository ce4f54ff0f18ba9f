//! A pod whose node is moody: images come and go, containers end as they like, probes lie, the node restarts.
//!
//! Whatever happens, some things hold; a failing run prints its seed. Times are the machine's own: the world goes from
//! one wake-up to the next.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as k8s;

use crate::{Exit, ImageFault, Input, Machine, PodAction, Seat};

const SEEDS: u64 = 300;
const TURNS_MAX: u64 = 200;

/// xorshift64*: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

struct World {
    seed: u64,
    dice: Dice,
    now_ms: i64,
    pod: k8s::Pod,
    machine: Machine,
    /// What the node has been asked and not answered yet.
    pending: Vec<PodAction>,
    /// Containers that were started and have not ended, with their attempt.
    alive: BTreeMap<String, i32>,
    attempts: BTreeMap<String, i32>,
    stopping: bool,
    forgotten: bool,
}

#[test]
fn whatever_happens_some_things_hold() {
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        world.step(Input::PodAssigned);
        for _ in 0..world.dice.roll(TURNS_MAX) {
            world.turn();
        }
        world.stop();
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let pod = pod(&mut dice);
        let machine = Machine::new(&pod, Seat::default(), 0);
        let (pending, alive, attempts) = Default::default();
        Self { seed, dice, now_ms: 0, pod, machine, pending, alive, attempts, stopping: false, forgotten: false }
    }

    fn step(&mut self, input: Input) {
        let before = self.machine.clone();
        let mut actions = Vec::new();
        let told = format!("{input:?}");
        self.machine.step(self.now_ms, input, &mut actions);
        for action in actions {
            self.check(&action, &told, &before);
            match &action {
                PodAction::StartContainer { container, attempt } => {
                    self.alive.insert(container.clone(), *attempt);
                    self.pending.push(action);
                }
                PodAction::Forget => self.forgotten = true,
                PodAction::UpdateStatus(_) | PodAction::Tell { .. } | PodAction::TearDownPod => {}
                _ => self.pending.push(action),
            }
        }
        let mut again = Vec::new();
        self.machine.step(self.now_ms, Input::TimePassed, &mut again);
        assert!(again.is_empty(), "seed {}: after {told}, the same moment again gives {again:?}", self.seed);
        if let Some(at) = self.machine.wake_at() {
            assert!(at > self.now_ms, "seed {}: after {told}, it wants to be woken in the past", self.seed);
        }
    }

    fn check(&mut self, action: &PodAction, told: &str, before: &Machine) {
        let seed = self.seed;
        assert!(!self.forgotten, "seed {seed}: {action:?} after Forget");
        match action {
            PodAction::StartContainer { container, attempt } => {
                assert!(!self.stopping, "seed {seed}: {action:?} while stopping");
                assert!(!self.alive.contains_key(container), "seed {seed}: {action:?} while it is alive; {before:?}");
                let last = self.attempts.get(container).copied();
                // A start that failed for its configuration is no attempt.
                assert!(last.is_none_or(|last| *attempt >= last), "seed {seed}: {action:?} after {last:?}, {told}");
                self.attempts.insert(container.clone(), *attempt);
            }
            PodAction::PullImage { .. } | PodAction::SetUpPod => assert!(!self.stopping, "seed {seed}: {action:?}"),
            PodAction::StopContainer { container, .. } => {
                assert!(self.alive.contains_key(container), "seed {seed}: {action:?} of one that is not alive");
            }
            PodAction::TearDownPod | PodAction::Forget => {
                assert!(self.alive.is_empty(), "seed {seed}: {action:?} while {:?} are alive", self.alive);
            }
            PodAction::UpdateStatus(status) => {
                let phase = status.phase.as_deref().unwrap_or_default();
                let over = phase == "Succeeded" || phase == "Failed";
                assert!(!over || self.alive.is_empty(), "seed {seed}: {phase} while {:?} are alive", self.alive);
            }
            PodAction::RunHook { container, attempt, .. } => {
                assert_eq!(
                    self.alive.get(container),
                    Some(attempt),
                    "seed {seed}: {action:?} of one that is not alive"
                );
            }
            PodAction::Probe { .. } | PodAction::Tell { .. } => {}
        }
    }

    /// One thing happens: the node answers, a container ends, time passes, the node restarts.
    fn turn(&mut self) {
        match self.dice.roll(20) {
            0..12 if !self.pending.is_empty() => self.answer(),
            0..16 => {
                let waited = i64::try_from(self.dice.roll(20_000)).unwrap();
                self.now_ms = self.machine.wake_at().unwrap_or(self.now_ms + waited);
                self.step(Input::TimePassed);
            }
            16..19 => self.end_one(),
            _ => self.restart_node(),
        }
    }

    fn answer(&mut self) {
        let index = usize::try_from(self.dice.roll(self.pending.len() as u64)).unwrap();
        let good = self.dice.roll(4) > 0;
        let message = "no".to_owned();
        let input = match self.pending.swap_remove(index) {
            PodAction::SetUpPod if good => Input::PodSetUp { addresses: Vec::new() },
            PodAction::SetUpPod => Input::SetUpFailed { message },
            PodAction::PullImage { container, .. } if good => {
                Input::ImageReady { container, image_id: String::new(), fetched: None }
            }
            PodAction::PullImage { container, .. } => {
                Input::ImageFailed { container, fault: ImageFault::Missing, message }
            }
            PodAction::StartContainer { container, .. } if good => Input::ContainerStarted { container },
            PodAction::StartContainer { container, .. } => {
                self.alive.remove(&container);
                Input::StartFailed { container, reason: "CreateContainerError", message }
            }
            PodAction::RunHook { container, attempt, hook } => {
                let answer = if good { Ok(()) } else { Err(message) };
                Input::HookEnded { container, attempt, hook, answer }
            }
            PodAction::Probe { container, attempt, kind } => {
                let answer = if good { Ok(()) } else { Err(message) };
                Input::ProbeAnswered { container, attempt, kind, answer }
            }
            PodAction::StopContainer { container, .. } if self.alive.remove(&container).is_some() => {
                let exit = if good { Exit::Code(0) } else { Exit::Stopped };
                Input::ContainerExited { container, exit }
            }
            _ => return,
        };
        if let Input::ContainerExited { container, .. } = &input {
            self.pending
                .retain(|action| !matches!(action, PodAction::StartContainer { container: c, .. } if c == container));
        }
        self.step(input);
    }

    fn end_one(&mut self) {
        let Some(container) = self.alive.keys().next().cloned() else { return };
        self.alive.remove(&container);
        self.pending.retain(|action| {
            !matches!(action, PodAction::StartContainer { container: c, .. }
                | PodAction::StopContainer { container: c, .. } if *c == container)
        });
        let exit = match self.dice.roll(4) {
            0 => Exit::Code(0),
            1 => Exit::OomKilled,
            2 => Exit::Trap("wasm trap".to_owned()),
            _ => Exit::Code(1),
        };
        self.step(Input::ContainerExited { container, exit });
    }

    /// Everything on the node is gone; the API remembers what was published.
    fn restart_node(&mut self) {
        self.pod.status = Some(self.machine.published.clone());
        self.machine = Machine::new(&self.pod, Seat::default(), self.now_ms);
        self.pending.clear();
        self.alive.clear();
        self.step(Input::PodAssigned);
    }

    /// Deletion comes to its end whatever state it finds, and within its grace period.
    fn stop(&mut self) {
        self.stopping = true;
        self.step(Input::StopRequested { grace_seconds: 5 });
        let deadline = self.now_ms + 5_000;
        while !self.alive.is_empty() && self.now_ms < deadline {
            if !self.pending.is_empty() && self.dice.roll(2) == 0 {
                self.answer();
            } else {
                self.now_ms = self.machine.wake_at().unwrap_or(deadline);
                self.step(Input::TimePassed);
            }
        }
        while !self.alive.is_empty() {
            self.end_one();
        }
        // What was asked before comes too late.
        while !self.pending.is_empty() {
            self.answer();
        }
        assert!(self.forgotten, "seed {}: stopped and not forgotten: {:?}", self.seed, self.machine);
    }
}

fn pod(dice: &mut Dice) -> k8s::Pod {
    let hook = Some(k8s::LifecycleHandler::default());
    let hooks = k8s::Lifecycle { post_start: hook.clone(), pre_stop: hook, ..k8s::Lifecycle::default() };
    let mut container = |name: &str, policy: Option<&str>| {
        let probe = |asked: bool| asked.then(|| k8s::Probe { period_seconds: Some(3), ..k8s::Probe::default() });
        k8s::Container {
            name: name.to_owned(),
            image: Some("image".to_owned()),
            restart_policy: policy.map(str::to_owned),
            readiness_probe: probe(dice.roll(3) == 0),
            liveness_probe: probe(dice.roll(3) == 0),
            startup_probe: probe(dice.roll(4) == 0),
            lifecycle: (dice.roll(3) == 0).then(|| hooks.clone()),
            ..k8s::Container::default()
        }
    };
    let inits = vec![container("init", None), container("sidecar", Some("Always")), container("later", None)];
    let containers = vec![container("a", None), container("b", None)];
    let policy = ["Always", "OnFailure", "Never"][usize::try_from(dice.roll(3)).unwrap()];
    let spec = k8s::PodSpec {
        init_containers: (dice.roll(2) == 0).then_some(inits),
        containers,
        restart_policy: Some(policy.to_owned()),
        active_deadline_seconds: (dice.roll(5) == 0).then_some(600),
        ..k8s::PodSpec::default()
    };
    k8s::Pod { spec: Some(spec), ..k8s::Pod::default() }
}
