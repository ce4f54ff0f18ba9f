//! Three machines that decide and three that work, each in a network of its own. What decides, what works, or one of each
//! is killed or cut off, while clients write through every member and call an app through every worker.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Over, eventually, fetch, run_with_input};
use crate::machines::{Machine, is_ready, says_ready};
use crate::store::Networks;
use crate::two_machines::build;

const MEMBERS: [&str; 3] = ["m1", "m2", "m3"];
const WORKERS: [&str; 3] = ["w1", "w2", "w3"];
/// Number of the machine from which the app is called.
const CALLER: usize = 6;
/// Where every worker leads to the app.
const NODE_PORT: u16 = 30080;
/// Writes and calls that show that things go on.
const PROGRESS: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Killed,
    CutOff,
}

struct Six {
    machines: Vec<Machine>,
    arguments: Vec<Vec<String>>,
    networks: Networks,
    _dir: TempDir,
}

/// What clients saw while there was trouble.
#[derive(Default)]
struct Seen {
    acknowledged: Mutex<BTreeSet<String>>,
    /// Calls that were answered well, and others, by the worker whose port was asked.
    answered: [AtomicUsize; 3],
    failed: [AtomicUsize; 3],
    over: AtomicBool,
}

impl Six {
    fn start() -> Option<Self> {
        let Some(networks) = Networks::of('x', CALLER + 1) else {
            eprintln!("network namespaces cannot be made here (root and iproute2 are needed): this test shows nothing");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("kogia-six-").tempdir().unwrap();
        let mut six = Self { machines: Vec::new(), arguments: Vec::new(), networks, _dir: dir };
        build(&six.folder("m1"), "hello-http");
        six.add("m1", &["server", "--peer-port", "7000"]);
        let token =
            |kind: &[&str]| six.machines[0].kogia(&[&["token", "create"], kind].concat()).ok().trim().to_owned();
        let (member, worker) = (token(&["--member"]), token(&[]));
        for name in &MEMBERS[1..] {
            six.add(name, &["server", "--peer-port", "7000", "--join", "10.99.0.1:6443", "--token", &member]);
        }
        for name in WORKERS {
            six.add(name, &["agent", "--join", "10.99.0.1:6443", "--token", &worker]);
        }
        eventually("three voters", || {
            (six.machines[0].members()?.iter().filter(|member| member["role"] != "learner").count() == 3).then_some(())
        });
        for name in MEMBERS.into_iter().chain(WORKERS) {
            six.ready(0, name, true);
        }
        six.start_app(0, "first");
        Some(six)
    }

    fn folder(&self, name: &str) -> std::path::PathBuf {
        self._dir.path().join(name)
    }

    /// Starts the next machine.
    fn add(&mut self, name: &str, rest: &[&str]) {
        let number = self.machines.len();
        let address = format!("10.99.0.{}", number + 1);
        let arguments = [&rest[..1], &["--name", name, "--bind", &address], &rest[1..]].concat();
        self.machines.push(Machine::start_inside(&self.folder(name), &arguments, self.networks.inside(number)));
        self.arguments.push(arguments.into_iter().map(str::to_owned).collect());
    }

    /// Three pods, one on each worker as far as there are three; new ones for each round, so that all workers have one again.
    fn start_app(&self, through: usize, round: &str) {
        let workers = WORKERS.join(", ");
        let manifest = format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{replicas: 3, selector: {{matchLabels: \
             {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}, annotations: {{round: {round}}}}}, spec: {{affinity: \
             {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{{matchExpressions: \
             [{{key: kubernetes.io/hostname, operator: In, values: [{workers}]}}]}}]}}}}}}, topologySpreadConstraints: \
             [{{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: \
             {{matchLabels: {{app: web}}}}, matchLabelKeys: [pod-template-hash]}}], containers: [{{name: web, image: \
             'hello-http:0.1.0'}}]}}}}}}}}\n---\n\
             {{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{type: NodePort, selector: {{app: web}}, ports: \
             [{{port: 80, targetPort: 8080, nodePort: {NODE_PORT}}}]}}}}\n"
        );
        run_with_input(&mut self.machines[through].command(&["apply", "-f", "-"]), &manifest).ok();
        eventually("a pod on each worker", || (self.serving(through)? == WORKERS.map(str::to_owned)).then_some(()));
        for worker in 0..3 {
            eventually("the app through each worker", || self.call(worker).then_some(()));
        }
    }

    fn json(&self, through: usize, args: &[&str]) -> Option<Value> {
        let ran = self.machines[through].kogia(&[args, &["-o", "json"]].concat());
        (ran.code == Some(0)).then(|| serde_json::from_str(&ran.out).unwrap())
    }

    /// Number of the member that leads.
    fn leader(&self, through: usize) -> Option<usize> {
        let leader = self.machines[through].members()?.into_iter().find(|member| member["role"] == "leader")?;
        MEMBERS.iter().position(|name| leader["name"] == *name)
    }

    fn ready(&self, through: usize, node: &str, ready: bool) {
        let what = format!("{node} to be {}", if ready { "ready" } else { "lost" });
        eventually(&what, || is_ready(&self.machines[through], node).filter(|found| *found == ready));
    }

    /// Nodes of the pods of the app that are ready and stay, in order; a node stands there once for each.
    fn serving(&self, through: usize) -> Option<Vec<String>> {
        let pods = self.json(through, &["get", "pods", "-l", "app=web"])?;
        let serves = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null() && says_ready(pod);
        let pods = pods["items"].as_array()?.iter().filter(serves);
        let mut nodes: Vec<String> = pods.map(|pod| pod["spec"]["nodeName"].as_str().unwrap().to_owned()).collect();
        nodes.sort();
        Some(nodes)
    }

    /// Calls the app through a worker, from a machine that is none of them.
    fn call(&self, worker: usize) -> bool {
        self.networks.enter(CALLER, || answers(worker))
    }

    /// Writes through all members and calls through all workers while `trouble` has its way.
    fn under_load(&self, round: &str, trouble: impl FnOnce(&Seen)) -> Seen {
        let seen = Seen::default();
        thread::scope(|scope| {
            for member in 0..3 {
                let seen = &seen;
                scope.spawn(move || {
                    for turn in 0.. {
                        if seen.over.load(Ordering::Relaxed) {
                            return;
                        }
                        let name = format!("{round}-{member}-{turn}");
                        let manifest = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}");
                        let mut command = self.machines[member].command(&["apply", "-f", "-"]);
                        if run_with_input(&mut command, &manifest).code == Some(0) {
                            seen.acknowledged().insert(name);
                        }
                    }
                });
            }
            for worker in 0..3 {
                let seen = &seen;
                let calls = move || {
                    while !seen.over.load(Ordering::Relaxed) {
                        let counted = if answers(worker) { &seen.answered } else { &seen.failed };
                        counted[worker].fetch_add(1, Ordering::Relaxed);
                    }
                };
                scope.spawn(move || self.networks.enter(CALLER, calls));
            }
            let _over = Over(&seen.over);
            trouble(&seen);
        });
        seen
    }

    /// Something happens to a member, to a worker or to both; what decides and what serves goes on, and is whole again
    /// when it is over.
    fn trial(&mut self, how: How, member: bool, worker: bool) {
        let leader = eventually("a leader", || self.leader(0));
        let survivor = (leader + 1) % 3;
        let round = format!("{how:?}-{member}-{worker}").to_lowercase();
        // The one that is not the first to be asked, whichever member leads.
        let lost = WORKERS[1];
        let victims: Vec<usize> = member.then_some(leader).into_iter().chain(worker.then_some(4)).collect();
        let seen = self.under_load(&round, |seen| {
            seen.progress(&[0, 1, 2]);
            for victim in &victims {
                self.begin(how, *victim);
            }
            if member {
                eventually("the others to elect", || self.leader(survivor).filter(|found| *found != leader));
            }
            let reached: &[usize] = if worker { &[0, 2] } else { &[0, 1, 2] };
            seen.progress(reached);
            if worker {
                self.ready(survivor, lost, false);
                eventually("the pods to be replaced", || {
                    let nodes = self.serving(survivor)?;
                    (nodes.len() == 3 && nodes.iter().all(|node| node != lost)).then_some(())
                });
            }
            seen.progress(reached);
            if how == How::CutOff {
                for victim in &victims {
                    self.networks.set(*victim, "up");
                }
            }
        });
        if how == How::Killed {
            for victim in &victims {
                self.machines[*victim].bury();
                let arguments: Vec<&str> = self.arguments[*victim].iter().map(String::as_str).collect();
                self.machines[*victim].again(&arguments);
            }
        }
        let failed = seen.failed.each_ref().map(|count| count.load(Ordering::Relaxed));
        if !worker {
            assert_eq!(failed, [0; 3], "{round}: calls need nobody who decides");
        }
        let acknowledged = seen.acknowledged().clone();
        for through in 0..3 {
            eventually("everything acknowledged through every member", || {
                let there = self.machines[through].kogia(&["get", "configmaps", "-o", "name"]);
                let there: BTreeSet<&str> =
                    there.out.lines().filter_map(|line| line.strip_prefix("configmap/")).collect();
                acknowledged.iter().all(|name| there.contains(&**name)).then_some(())
            });
        }
        for name in MEMBERS.into_iter().chain(WORKERS) {
            self.ready(survivor, name, true);
        }
        for worker in 0..3 {
            eventually("the app through each worker again", || self.call(worker).then_some(()));
        }
        eventually("three pods and no more", || {
            let pods = self.json(survivor, &["get", "pods", "-l", "app=web"])?;
            (pods["items"].as_array()?.len() == 3 && self.serving(survivor)?.len() == 3).then_some(())
        });
        self.start_app(survivor, &round);
    }

    fn begin(&self, how: How, victim: usize) {
        match how {
            How::Killed => self.machines[victim].end(),
            How::CutOff => self.networks.set(victim, "down"),
        }
    }
}

impl Seen {
    fn acknowledged(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until further writes are acknowledged, and calls answered through each of these workers.
    fn progress(&self, workers: &[usize]) {
        let counts = || workers.iter().map(|worker| self.answered[*worker].load(Ordering::Relaxed)).collect::<Vec<_>>();
        let (written, answered) = (self.acknowledged().len(), counts());
        eventually("writes and calls to go on", || {
            let further = counts().iter().zip(&answered).all(|(now, before)| *now >= before + PROGRESS);
            (further && self.acknowledged().len() >= written + PROGRESS).then_some(())
        });
    }
}

/// Whether the app answers through the port of a worker; to be asked from within a network.
fn answers(worker: usize) -> bool {
    let port: SocketAddr = format!("10.99.0.{}:{NODE_PORT}", worker + 4).parse().unwrap();
    fetch(port, "web", "/").is_some_and(|(status, _)| status == 200)
}

#[test]
fn whatever_is_killed_or_cut_off_what_decides_and_what_serves_goes_on() {
    let Some(mut six) = Six::start() else { return };
    for how in [How::Killed, How::CutOff] {
        for (member, worker) in [(true, false), (false, true), (true, true)] {
            six.trial(how, member, worker);
        }
    }
}
