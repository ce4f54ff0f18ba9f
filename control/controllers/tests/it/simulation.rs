//! Controllers under every order of events that a seed can think of.
//!
//! Turns of different keys overlap as in the driver: each decides on the picture of its beginning and writes one
//! action after the other while others write too. Nodes start and stop pods whenever they like.
//!
//! * A rollout: at no moment may more pods be asked for than the surge allows or fewer be available than the strategy
//!   promises, and when nobody interferes any more, the last template must be everywhere.
//! * A Job: every end of a pod counts once, whoever deletes the pod and whenever.
//!
//! A failure names its seed: `SEED=17 cargo test` repeats it alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use api::{Action, Key, Object, Precondition};
use serde_json::{Value, json};

use crate::interpreter::cluster::{Cluster, Work};

/// A small generator (xorshift), so that a seed means the same everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }
}

pub(crate) fn seeds(count: u64) -> RangeInclusive<u64> {
    let only: Option<u64> = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    only.map_or(1..=count, |seed| seed..=seed)
}

/// A cluster whose turns overlap.
struct Shuffle {
    dice: Dice,
    cluster: Cluster,
    running: BTreeMap<Work, VecDeque<Action>>,
}

impl Shuffle {
    fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed), cluster: Cluster::default(), running: BTreeMap::new() }
    }

    /// One small thing happens: a turn begins, writes one action or ends, or one of `pods` is chosen and returned.
    /// `None` when nothing can happen.
    fn step(&mut self, pods: &[Arc<Object>]) -> Option<Option<Arc<Object>>> {
        let free: Vec<Work> =
            self.cluster.woken().into_iter().filter(|work| !self.running.contains_key(work)).collect();
        let busy: Vec<Work> = self.running.keys().cloned().collect();
        let choices = free.len() + busy.len() + pods.len();
        if choices == 0 {
            return None;
        }
        self.cluster.now_ms += 50;
        let choice = self.dice.below(choices);
        if let Some(work) = free.get(choice) {
            let actions = self.cluster.decide(work);
            self.running.insert(work.clone(), actions.into());
            return Some(None);
        }
        let Some(work) = busy.get(choice - free.len()) else {
            return Some(Some(pods[choice - free.len() - busy.len()].clone()));
        };
        match self.running.get_mut(work).and_then(VecDeque::pop_front) {
            Some(action) => {
                if !self.cluster.perform(action) {
                    self.cluster.wake(work.clone());
                }
            }
            None => {
                self.running.remove(work);
            }
        }
        Some(None)
    }

    fn pods(&self, which: impl Fn(&Object) -> bool) -> Vec<Arc<Object>> {
        self.cluster.view.list("pods").filter(|pod| which(pod)).cloned().collect()
    }
}

#[test]
fn a_rollout_never_breaks_its_promise() {
    for seed in seeds(100) {
        Rollout::new(seed).run();
    }
}

struct Rollout {
    seed: u64,
    shuffle: Shuffle,
    replicas: i64,
    surge: i64,
    unavailable: i64,
    images: usize,
    /// Everything was up once: from now on the promise holds.
    promised: bool,
}

impl Rollout {
    fn new(seed: u64) -> Self {
        let mut shuffle = Shuffle::new(seed);
        let dice = &mut shuffle.dice;
        let replicas = 1 + i64::try_from(dice.below(6)).unwrap();
        let surge = i64::try_from(dice.below(3)).unwrap();
        let unavailable = i64::try_from(dice.below(3)).unwrap().max(i64::from(surge == 0));
        let strategy = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let spec = json!({
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(0),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": strategy},
        });
        let body = json!({"metadata": {"name": "web"}, "spec": spec});
        shuffle.cluster.apply(&Key::new("deployments.apps", "default", "web"), body);
        Self { seed, shuffle, replicas, surge, unavailable, images: 0, promised: false }
    }

    fn run(mut self) {
        let mut left = 3;
        for step in 0..20_000 {
            if !self.step() {
                self.promised = true;
                if left == 0 {
                    return self.check_end();
                }
            }
            // A new template comes at rest or in the middle.
            if left > 0 && self.promised && self.shuffle.dice.below(40) == 0 {
                left -= 1;
                self.images += 1;
                let image = self.shuffle.dice.below(3) * usize::from(self.shuffle.dice.below(3) == 0) + self.images;
                self.patch(&json!({"spec": {"template": template(image)}}));
                self.images = image;
            }
            self.check(step);
        }
        panic!("seed {}: no end", self.seed);
    }

    fn patch(&mut self, patch: &Value) {
        let key = Key::new("deployments.apps", "default", "web");
        let (patch, precondition) = (patch.clone(), Precondition::default());
        self.shuffle.cluster.perform(Action::Patch { key, subresource: None, patch, precondition });
    }

    fn step(&mut self) -> bool {
        let waiting = |pod: &Object| pod.deletion_timestamp().is_some() || pod.field("status.phase").is_null();
        let pods = self.shuffle.pods(waiting);
        let chosen = self.shuffle.step(&pods);
        if let Some(Some(pod)) = &chosen {
            self.shuffle.cluster.run_pod(pod);
        }
        chosen.is_some()
    }

    fn check(&self, step: usize) {
        let pods = || self.shuffle.cluster.view.list("pods").filter(|pod| pod.deletion_timestamp().is_none());
        let most = self.replicas + self.surge;
        let sets = self.shuffle.cluster.view.list("replicasets.apps");
        let asked: i64 = sets.map(|set| set.field("spec.replicas").as_i64().unwrap()).sum();
        assert!(asked <= most, "seed {} step {step}: {asked} pods asked for, {most} allowed", self.seed);
        let ready = pods().filter(|pod| pod.field("status.conditions")[0]["status"] == "True").count();
        let least = self.replicas - self.unavailable;
        let enough = !self.promised || i64::try_from(ready).unwrap() >= least;
        assert!(enough, "seed {} step {step}: {ready} available, {least} promised", self.seed);
    }

    fn check_end(&self) {
        let image = json!(format!("web:{}", self.images));
        let pods: Vec<_> = self.shuffle.cluster.view.list("pods").collect();
        assert_eq!(i64::try_from(pods.len()).unwrap(), self.replicas, "seed {}", self.seed);
        assert!(pods.iter().all(|pod| pod.field("spec.containers")[0]["image"] == image), "seed {}", self.seed);
        let deployment = self.shuffle.cluster.view.get("deployments.apps", "default", "web").unwrap();
        for field in ["status.updatedReplicas", "status.availableReplicas"] {
            assert_eq!(*deployment.field(field), json!(self.replicas), "seed {}: {field}", self.seed);
        }
    }
}

fn template(image: usize) -> Value {
    let container = json!({"name": "web", "image": format!("web:{image}")});
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}})
}

#[test]
fn a_job_counts_every_end_once() {
    for seed in seeds(60) {
        let (expected, job) = run_job(seed);
        let count = |field: &str| job.field(field).as_i64().unwrap_or(0);
        let counted = (count("status.succeeded"), count("status.failed"));
        assert_eq!(counted, expected, "seed {seed}: {}", job.value["status"]);
        assert!(job.value["status"].to_string().contains("Complete"), "seed {seed}: {}", job.value["status"]);
    }
}

/// Runs a Job of a few pods to its end; returns how many succeeded and failed, and the Job.
fn run_job(seed: u64) -> ((i64, i64), Arc<Object>) {
    let mut shuffle = Shuffle::new(seed);
    let (completions, parallelism) = (1 + shuffle.dice.below(5), 1 + shuffle.dice.below(3));
    let key = Key::new("jobs.batch", "default", "sum");
    let template = json!({"metadata": {"labels": {"job": "sum"}}, "spec": {"containers": [{"name": "sum"}]}});
    let spec = json!({
        "completions": completions, "parallelism": parallelism, "backoffLimit": 1000, "template": template,
    });
    shuffle.cluster.apply(&key, json!({"metadata": {"name": "sum"}, "spec": spec}));
    let mut ends: [BTreeSet<String>; 2] = Default::default();
    for _ in 0..20_000 {
        let pods = shuffle.pods(|_| true);
        let over = shuffle.cluster.view.at(&key).unwrap().value["status"].to_string().contains("\"Complete\"");
        match shuffle.step(if over { &[] } else { &pods }) {
            Some(Some(pod)) => live_pod(&mut shuffle, &pod, &mut ends),
            Some(None) => {}
            None if over => {
                assert!(shuffle.pods(|pod| pod.finalizers().next().is_some()).is_empty(), "seed {seed}");
                let [succeeded, failed] = ends.map(|set| i64::try_from(set.len()).unwrap());
                return ((succeeded, failed), shuffle.cluster.view.at(&key).unwrap().clone());
            }
            // Only a pause after a failure is left.
            None => shuffle.cluster.now_ms += 600_000,
        }
    }
    panic!("seed {seed}: no end");
}

/// A pod takes one step of its life: it starts, it ends well or badly, somebody deletes it, it goes.
fn live_pod(shuffle: &mut Shuffle, pod: &Arc<Object>, ends: &mut [BTreeSet<String>; 2]) {
    let uid = pod.uid().to_owned();
    let running = pod.field("status.phase") == "Running" && pod.deletion_timestamp().is_none();
    if !running {
        shuffle.cluster.run_pod(pod);
        return;
    }
    let precondition = Precondition::same(pod);
    let end = |phase: &str| Action::Patch {
        key: pod.key.clone(),
        subresource: Some("status"),
        patch: json!({"status": {"phase": phase}}),
        precondition: precondition.clone(),
    };
    let choice = shuffle.dice.below(4);
    ends[usize::from(choice > 1)].insert(uid);
    shuffle.cluster.perform(end(if choice > 1 { "Failed" } else { "Succeeded" }));
    if choice % 2 == 1 {
        shuffle.cluster.perform(Action::Delete { key: pod.key.clone(), precondition, grace_seconds: None });
    }
}
