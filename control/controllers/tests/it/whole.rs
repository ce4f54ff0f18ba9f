//! A whole cluster from its pure parts: state, picture, every controller, the scheduler, nodes that run pods. Seeded.
//!
//! The scheduler hears of changes late. Writes are refused now and then, as if somebody else had written first. Nodes
//! fall silent and come back, controllers and scheduler start anew and know nothing. People roll out, scale and evict
//! meanwhile. At every step:
//!
//! * no pod runs on two nodes, and no two pods of one StatefulSet name run at the same time, although a silent node
//!   goes on running what it had;
//! * an eviction that is granted leaves as many ready pods as the budget demands;
//! * while no node is silent, a rollout keeps the availability its strategy promises.
//!
//! When the faults stop, everything asked for runs, and nothing else. `SEED=17 cargo test` repeats one run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use api::{Action, Change, Key, Object, Precondition, meta};
use scheduler::Scheduler;
use serde_json::{Value, json};

use crate::interpreter::cluster::{Cluster, Work};
use crate::simulation::{Dice, seeds};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const REPLICAS: i64 = 4;
const UNAVAILABLE: i64 = 1;
const SURGE: i64 = 1;
/// Of the StatefulSet's three.
const BUDGET: i64 = 2;
/// Steps with faults; afterwards the cluster is left alone.
const FAULTY: usize = 600;
const STEPS_MAX: usize = 60_000;

#[test]
fn a_cluster_keeps_its_promises_and_heals() {
    for seed in seeds(100) {
        Whole::new(seed).run();
    }
}

/// One node: what runs there, by the pod's uid.
#[derive(Default)]
struct Machine {
    /// Cut off: it hears nothing and says nothing.
    silent: bool,
    running: BTreeMap<String, Arc<Object>>,
}

struct Whole {
    seed: u64,
    dice: Dice,
    cluster: Cluster,
    scheduler: Scheduler,
    /// Changes that the scheduler has not heard of yet.
    late: VecDeque<Change>,
    turns: BTreeMap<Work, VecDeque<Action>>,
    machines: BTreeMap<&'static str, Machine>,
    faulty: bool,
    /// Nobody has fallen silent since everything was up: the rollout's promise holds.
    calm: bool,
    images: usize,
    bound: BTreeSet<String>,
}

impl Whole {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::default();
        cluster.record();
        let tolerations: Vec<Value> = ["not-ready", "unreachable"]
            .map(|key| {
                let key = format!("node.kubernetes.io/{key}");
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5})
            })
            .into();
        let room = json!({"cpu": "4", "memory": "8Gi", "pods": "20"});
        for name in NODES {
            let status = json!({
                "allocatable": room, "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            });
            cluster
                .apply(&Key::new("nodes", "", name), json!({"metadata": {"name": name}, "spec": {}, "status": status}));
        }
        let pod = |app: &str| {
            json!({
                "metadata": {"labels": {"app": app}},
                "spec": {"tolerations": tolerations, "containers": [{"name": app, "image": "one"}]},
            })
        };
        let selector = |app: &str| json!({"matchLabels": {"app": app}});
        let rolling = json!({"maxSurge": SURGE, "maxUnavailable": UNAVAILABLE});
        let web = json!({
            "replicas": REPLICAS, "selector": selector("web"), "template": pod("web"),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
        });
        let db = json!({
            "replicas": 3, "serviceName": "db", "selector": selector("db"), "template": pod("db"),
            "podManagementPolicy": if seed.is_multiple_of(2) { "Parallel" } else { "OrderedReady" }, "revisionHistoryLimit": 3,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        });
        let budget = json!({"minAvailable": BUDGET, "selector": selector("db")});
        for (resource, name, spec) in
            [("deployments.apps", "web", web), ("statefulsets.apps", "db", db), (BUDGETS, "db", budget)]
        {
            let key = Key::new(resource, "default", name);
            cluster.apply(&key, json!({"metadata": {"name": name}, "spec": spec}));
        }
        let scheduler = Scheduler::new(&cluster.view);
        cluster.recorded();
        let machines = NODES.into_iter().map(|name| (name, Machine::default())).collect();
        Self {
            seed,
            dice: Dice::new(seed),
            cluster,
            scheduler,
            late: VecDeque::new(),
            turns: BTreeMap::new(),
            machines,
            faulty: false,
            calm: false,
            images: 0,
            bound: BTreeSet::new(),
        }
    }

    fn run(mut self) {
        // First it comes up, then the faults come, then they stop.
        let mut faults_left = FAULTY;
        for step in 0..STEPS_MAX {
            let busy = self.step();
            self.check(step);
            if self.faulty {
                self.trouble();
                faults_left -= 1;
                if faults_left == 0 {
                    self.faulty = false;
                    self.machines.values_mut().for_each(|machine| machine.silent = false);
                }
            } else if !busy && self.is_well() {
                if faults_left == 0 {
                    return self.check_end();
                }
                (self.faulty, self.calm) = (true, true);
            } else if !busy {
                // Only timers are left: leases are renewed while the time passes.
                self.pass(2_000);
            }
        }
        let pods: Vec<String> = self.cluster.view.list("pods").map(|pod| pod.value.to_string()).collect();
        panic!("seed {}: it does not heal\n{}", self.seed, pods.join("\n"));
    }

    /// One small thing happens; `false` when there is nothing to do.
    fn step(&mut self) -> bool {
        self.late.extend(self.cluster.recorded());
        self.pass(20);
        let free: Vec<Work> = self.cluster.woken().into_iter().filter(|work| !self.turns.contains_key(work)).collect();
        let busy: Vec<Work> = self.turns.keys().cloned().collect();
        let due: Vec<(&'static str, Arc<Object>)> = self.due();
        let plans = usize::from(self.scheduler.wake_at().is_some_and(|due| due <= self.cluster.now_ms));
        let hears = usize::from(!self.late.is_empty());
        let choices = [free.len(), busy.len(), due.len(), 2 * hears, 2 * plans];
        let all = choices.iter().sum();
        if all == 0 {
            return false;
        }
        let mut choice = self.dice.below(all);
        let mut kind = 0;
        while choice >= choices[kind] {
            choice -= choices[kind];
            kind += 1;
        }
        match kind {
            0 => {
                let actions = self.cluster.decide(&free[choice]);
                self.turns.insert(free[choice].clone(), actions.into());
            }
            1 => self.go_on(&busy[choice]),
            2 => self.live(due[choice].0, &due[choice].1.clone()),
            3 => {
                if let Some(change) = self.late.pop_front() {
                    self.scheduler.observe(&change);
                }
            }
            _ => self.plan(),
        }
        true
    }

    /// Time passes; nodes that can be heard renew their leases, and say that they are ready if somebody thinks otherwise.
    fn pass(&mut self, ms: i64) {
        self.cluster.now_ms += ms;
        for (name, _) in self.machines.iter().filter(|(_, machine)| !machine.silent) {
            let key = Key::new("nodes", "", *name);
            if self.cluster.view.at(&key).is_some_and(|node| !meta::is_true(&node.value, "Ready")) {
                let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady"}]);
                self.cluster.apply(&key, json!({"metadata": {"name": name}, "status": {"conditions": ready}}));
            }
        }
        let renewed = api::time::rfc3339(self.cluster.now_ms);
        for (name, machine) in &self.machines {
            let key = Key::new("leases.coordination.k8s.io", "kube-node-lease", *name);
            let last =
                self.cluster.view.at(&key).and_then(|lease| api::time::parse(lease.field("spec.renewTime").as_str()?));
            if !machine.silent
                && last.is_none_or(|last| last + 10_000 < self.cluster.now_ms || last > self.cluster.now_ms)
            {
                self.cluster.apply(&key, json!({"metadata": {"name": name}, "spec": {"renewTime": renewed}}));
            }
        }
    }

    /// A turn writes its next action, which somebody else may have come before.
    fn go_on(&mut self, work: &Work) {
        match self.turns.get_mut(work).and_then(VecDeque::pop_front) {
            Some(action) => {
                let refused = self.faulty && self.dice.below(8) == 0;
                if refused || !self.cluster.perform(action) {
                    self.cluster.wake(work.clone());
                }
            }
            None => drop(self.turns.remove(work)),
        }
    }

    fn plan(&mut self) {
        for decision in self.scheduler.plan(self.cluster.now_ms) {
            for action in decision.actions {
                let refused = self.faulty && self.dice.below(8) == 0;
                let done = !refused
                    && match action {
                        Action::Bind { pod, uid, node } => self.bind(&pod, &uid, &node),
                        other => self.cluster.perform(other),
                    };
                if !done {
                    self.scheduler.refused(&decision.pod, self.cluster.now_ms);
                    break;
                }
            }
        }
    }

    /// The door binds a pod once.
    fn bind(&mut self, pod: &Key, uid: &str, node: &str) -> bool {
        let Some(found) = self.cluster.view.at(pod).filter(|found| found.uid() == uid).cloned() else { return false };
        if found.field("spec.nodeName").is_string() || found.deletion_timestamp().is_some() {
            return false;
        }
        assert!(self.bound.insert(uid.to_owned()), "seed {}: {pod} is bound twice", self.seed);
        let (key, precondition) = (pod.clone(), Precondition::same(&found));
        let patch = json!({"spec": {"nodeName": node}});
        self.cluster.perform(Action::Patch { key, subresource: None, patch, precondition })
    }

    /// What nodes that can be heard have to do: pods to start, to end, to say that they run.
    fn due(&self) -> Vec<(&'static str, Arc<Object>)> {
        let mut due = Vec::new();
        for (name, machine) in self.machines.iter().filter(|(_, machine)| !machine.silent) {
            for pod in self.cluster.view.pods_on(name) {
                let here = machine.running.contains_key(pod.uid());
                let leaving = pod.deletion_timestamp().is_some();
                let said = pod.field("status.phase") == "Running" && meta::is_true(&pod.value, "Ready");
                if leaving || !here || !said {
                    due.push((*name, pod.clone()));
                }
            }
            let known = |uid: &str| self.cluster.view.find(uid).is_some();
            due.extend(machine.running.iter().filter(|(uid, _)| !known(uid)).map(|(_, pod)| (*name, pod.clone())));
        }
        due
    }

    /// A node does the next thing for one pod.
    fn live(&mut self, node: &'static str, pod: &Arc<Object>) {
        let Some(machine) = self.machines.get_mut(node) else { return };
        let current = self.cluster.view.at(&pod.key).filter(|current| current.uid() == pod.uid()).cloned();
        let Some(current) = current.filter(|current| current.deletion_timestamp().is_none()) else {
            // First it ends, then the node says so.
            machine.running.remove(pod.uid());
            if let Some(leaving) = self.cluster.view.at(&pod.key).filter(|leaving| leaving.uid() == pod.uid()).cloned()
            {
                let (key, precondition) = (leaving.key.clone(), Precondition::same(&leaving));
                self.cluster.perform(Action::Delete { key, precondition, grace_seconds: Some(0) });
            }
            return;
        };
        if machine.running.insert(current.uid().to_owned(), current.clone()).is_none() {
            return;
        }
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": self.cluster.now()});
        let patch = json!({"status": {"phase": "Running", "conditions": [ready]}});
        let (key, precondition) = (current.key.clone(), Precondition::same(&current));
        self.cluster.perform(Action::Patch { key, subresource: Some("status"), patch, precondition });
    }

    /// Something goes wrong, or somebody wants something.
    fn trouble(&mut self) {
        match self.dice.below(60) {
            0 => {
                let chosen = NODES[self.dice.below(NODES.len())];
                if self.machines.values().all(|machine| !machine.silent) {
                    self.calm = false;
                    self.machines.get_mut(chosen).unwrap().silent = true;
                    // Long enough that it is noticed, most of the time.
                    let ms = 15_000 * i64::try_from(self.dice.below(5)).unwrap();
                    self.pass(ms);
                } else {
                    self.machines.values_mut().for_each(|machine| machine.silent = false);
                }
            }
            1 => {
                self.turns.clear();
                self.cluster.wake_all();
            }
            2 => {
                self.scheduler = Scheduler::new(&self.cluster.view);
                self.late.clear();
                self.cluster.recorded();
            }
            3 => {
                self.images += 1;
                let image = format!("image-{}", self.images);
                for (resource, name) in [("deployments.apps", "web"), ("statefulsets.apps", "db")] {
                    let key = Key::new(resource, "default", name);
                    let containers = json!([{"name": name, "image": image}]);
                    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
                    self.cluster.perform(Action::Patch {
                        key,
                        subresource: None,
                        patch,
                        precondition: Precondition::default(),
                    });
                }
            }
            4..=6 => self.evict(),
            _ => {}
        }
    }

    /// The eviction API's rule: one disruption is spent, the pod is noted, then it is deleted.
    fn evict(&mut self) {
        let pods = self.pods("db", |pod| meta::is_true(&pod.value, "Ready") && pod.deletion_timestamp().is_none());
        if pods.is_empty() {
            return;
        }
        let pod = pods[self.dice.below(pods.len())].clone();
        let budget = self.cluster.view.get(BUDGETS, "default", "db").unwrap().clone();
        let allowed = budget.field("status.disruptionsAllowed").as_i64().unwrap_or(0);
        if allowed <= 0 || budget.field("status.observedGeneration") != budget.generation() {
            return;
        }
        let disrupted = json!({pod.name(): self.cluster.now()});
        let patch = json!({"status": {"disruptionsAllowed": allowed - 1, "disruptedPods": disrupted}});
        let (key, precondition) = (budget.key.clone(), Precondition::unchanged(&budget));
        assert!(self.cluster.perform(Action::Patch { key, subresource: Some("status"), patch, precondition }));
        let (key, precondition) = (pod.key.clone(), Precondition::same(&pod));
        assert!(self.cluster.perform(Action::Delete { key, precondition, grace_seconds: None }));
        if self.calm {
            let noted = budget.field("status.disruptedPods").as_object().map_or(0, serde_json::Map::len);
            let left = i64::try_from(pods.len() - 1).unwrap();
            // The StatefulSet's own rollout asks no budget: it may have taken one pod since it was counted.
            let promised = BUDGET - i64::from(self.images > 0) - i64::try_from(noted).unwrap_or(0);
            assert!(left >= promised, "seed {}: {left} of the budget's {BUDGET} are left", self.seed);
        }
    }

    fn pods(&self, app: &str, which: impl Fn(&Object) -> bool) -> Vec<Arc<Object>> {
        let all = self.cluster.view.list("pods").filter(|pod| pod.label("app") == Some(app) && which(pod));
        all.cloned().collect()
    }

    fn check(&self, step: usize) {
        let (seed, mut places, mut names) = (self.seed, BTreeSet::new(), BTreeSet::new());
        for (uid, pod) in self.machines.values().flat_map(|machine| &machine.running) {
            assert!(places.insert(uid), "seed {seed} step {step}: {} runs on two nodes", pod.name());
            assert!(names.insert(pod.name()), "seed {seed} step {step}: there are two {}", pod.name());
        }
        let sets = self.cluster.view.list("replicasets.apps");
        let asked: i64 = sets.map(|set| set.field("spec.replicas").as_i64().unwrap_or(0)).sum();
        assert!(asked <= REPLICAS + SURGE, "seed {seed} step {step}: {asked} pods are asked for");
        if self.calm {
            let ready = |pod: &Object| pod.deletion_timestamp().is_none() && meta::is_true(&pod.value, "Ready");
            let ready = i64::try_from(self.pods("web", ready).len()).unwrap();
            assert!(ready >= REPLICAS - UNAVAILABLE, "seed {seed} step {step}: only {ready} are available");
        }
    }

    /// Everything asked for runs.
    fn is_well(&self) -> bool {
        let count = |resource: &str, name: &str, field: &str| {
            self.cluster.view.get(resource, "default", name).and_then(|object| object.field(field).as_i64())
        };
        let nodes = self.cluster.view.list("nodes").all(|node| meta::is_true(&node.value, "Ready"));
        nodes
            && count("deployments.apps", "web", "status.availableReplicas") == Some(REPLICAS)
            && count("deployments.apps", "web", "status.updatedReplicas") == Some(REPLICAS)
            && count("statefulsets.apps", "db", "status.readyReplicas") == Some(3)
            && count("statefulsets.apps", "db", "status.updatedReplicas") == Some(3)
            && self.cluster.view.count("pods") == 7
            && count(BUDGETS, "db", "status.currentHealthy") == Some(3)
    }

    fn check_end(&self) {
        let image = if self.images == 0 { "one".to_owned() } else { format!("image-{}", self.images) };
        let seed = self.seed;
        for pod in self.cluster.view.list("pods") {
            assert_eq!(pod.field("spec.containers")[0]["image"], image, "seed {seed}: {}", pod.name());
            let node = pod.field("spec.nodeName").as_str().unwrap_or_default();
            let there = self.machines.get(node).is_some_and(|machine| machine.running.contains_key(pod.uid()));
            assert!(there, "seed {seed}: {} does not run on {node}", pod.name());
        }
        let running: usize = self.machines.values().map(|machine| machine.running.len()).sum();
        assert_eq!(running, 7, "seed {seed}: a node runs what nobody asked for");
        let budget = self.cluster.view.get(BUDGETS, "default", "db").unwrap();
        assert_eq!(budget.field("status.currentHealthy"), 3, "seed {seed}: {}", budget.value["status"]);
        assert_eq!(budget.field("status.disruptionsAllowed"), 3 - BUDGET, "seed {seed}: {}", budget.value["status"]);
    }
}

const BUDGETS: &str = "poddisruptionbudgets.policy";
