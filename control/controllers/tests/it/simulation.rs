//! Rollouts under every order of events that a seed can think of.
//!
//! Turns of different keys overlap as in the driver: each decides on the picture of its beginning and writes one
//! action after the other while others write too. Nodes start and stop pods whenever they like. At no moment may
//! more pods be asked for than the surge allows or fewer be available than the strategy promises, and when nobody
//! interferes any more, the last template must be everywhere.
//!
//! A failure names its seed: `SEED=17 cargo test` repeats it alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use api::{Action, Key, Object, Precondition};
use serde_json::{Value, json};

use crate::interpreter::cluster::{Cluster, Work};

/// A small generator (xorshift), so that a seed means the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }
}

#[test]
fn a_rollout_never_breaks_its_promise() {
    let only: Option<u64> = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in only.map_or(1..=100, |seed| seed..=seed) {
        Rollout::new(seed).run();
    }
}

struct Rollout {
    seed: u64,
    dice: Dice,
    cluster: Cluster,
    replicas: i64,
    surge: i64,
    unavailable: i64,
    images: usize,
    running: BTreeMap<Work, VecDeque<Action>>,
    /// Everything was up once: from now on the promise holds.
    promised: bool,
}

impl Rollout {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let replicas = 1 + i64::try_from(dice.below(6)).unwrap();
        let surge = i64::try_from(dice.below(3)).unwrap();
        let unavailable = i64::try_from(dice.below(3)).unwrap().max(i64::from(surge == 0));
        let mut cluster = Cluster::default();
        let strategy = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let spec = json!({
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(0),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": strategy},
        });
        let body = json!({"metadata": {"name": "web"}, "spec": spec});
        cluster.apply(&Key::new("deployments.apps", "default", "web"), body);
        let running = BTreeMap::new();
        Self { seed, dice, cluster, replicas, surge, unavailable, images: 0, running, promised: false }
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
            if left > 0 && self.promised && self.dice.below(40) == 0 {
                left -= 1;
                self.images += 1;
                let image = self.dice.below(3) * usize::from(self.dice.below(3) == 0) + self.images;
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
        self.cluster.perform(Action::Patch { key, subresource: None, patch, precondition });
    }

    /// One small thing happens; `false` when nothing can.
    fn step(&mut self) -> bool {
        let free: Vec<Work> =
            self.cluster.woken().into_iter().filter(|work| !self.running.contains_key(work)).collect();
        let busy: Vec<Work> = self.running.keys().cloned().collect();
        let waiting = |pod: &&Arc<Object>| pod.deletion_timestamp().is_some() || pod.field("status.phase").is_null();
        let pods: Vec<_> = self.cluster.view.list("pods").filter(waiting).cloned().collect();
        let choices = free.len() + busy.len() + pods.len();
        if choices == 0 {
            return false;
        }
        let choice = self.dice.below(choices);
        if let Some(work) = free.get(choice) {
            let actions = self.cluster.decide(work);
            self.running.insert(work.clone(), actions.into());
        } else if let Some(work) = busy.get(choice.wrapping_sub(free.len())) {
            let next = self.running.get_mut(work).and_then(VecDeque::pop_front);
            match next {
                Some(action) => self.cluster.perform(action),
                None => {
                    self.running.remove(work);
                }
            }
        } else {
            self.cluster.run_pod(&pods[choice - free.len() - busy.len()]);
        }
        self.cluster.now_ms += 50;
        true
    }

    fn check(&self, step: usize) {
        let pods = || self.cluster.view.list("pods").filter(|pod| pod.deletion_timestamp().is_none());
        let most = self.replicas + self.surge;
        let sets = self.cluster.view.list("replicasets.apps");
        let asked: i64 = sets.map(|set| set.field("spec.replicas").as_i64().unwrap()).sum();
        assert!(asked <= most, "seed {} step {step}: {asked} pods asked for, {most} allowed", self.seed);
        let ready = pods().filter(|pod| pod.field("status.conditions")[0]["status"] == "True").count();
        let least = self.replicas - self.unavailable;
        let enough = !self.promised || i64::try_from(ready).unwrap() >= least;
        assert!(enough, "seed {} step {step}: {ready} available, {least} promised", self.seed);
    }

    fn check_end(&self) {
        let image = json!(format!("web:{}", self.images));
        let pods: Vec<_> = self.cluster.view.list("pods").collect();
        assert_eq!(i64::try_from(pods.len()).unwrap(), self.replicas, "seed {}", self.seed);
        assert!(pods.iter().all(|pod| pod.field("spec.containers")[0]["image"] == image), "seed {}", self.seed);
        let deployment = self.cluster.view.get("deployments.apps", "default", "web").unwrap();
        for field in ["status.updatedReplicas", "status.availableReplicas"] {
            assert_eq!(*deployment.field(field), json!(self.replicas), "seed {}: {field}", self.seed);
        }
    }
}

fn template(image: usize) -> Value {
    let container = json!({"name": "web", "image": format!("web:{image}")});
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}})
}
