//! `kogia bench scheduler`: how many pods per second get a node in a large cluster.
//!
//! The scheduler is a pure machine; what is measured is all of its work: reading each pod, planning, and taking in the
//! change that shows each bind. Writing the binds is the store's work, which `kogia bench store` measures. The
//! workloads are those of Kubernetes' own scheduler benchmark (`test/integration/scheduler_perf`): plain pods, one per
//! host, together in a zone, evenly over zones, and pods that displace others.

use std::sync::Arc;
use std::time::Instant;

use api::{Action, Change, ChangeKind, Key, Object, View};
use control::scheduler::Scheduler;
use serde_json::{Value, json};

use super::{Metric, median};

const ZONES: usize = 3;
/// One measured pod displaces others where this many are measured otherwise: each costs a look at many nodes.
const DISPLACING_SHARE: usize = 10;

const WORKLOADS: [(&str, Workload); 5] = [
    ("basic", Workload::Basic),
    ("anti_affinity", Workload::AntiAffinity),
    ("affinity", Workload::Affinity),
    ("spread", Workload::Spread),
    ("preemption", Workload::Preemption),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Workload {
    Basic,
    AntiAffinity,
    Affinity,
    Spread,
    Preemption,
}

/// Measures in a cluster of so many nodes with as many pods, to which as many come.
pub fn measure(rounds: u32, nodes: usize) -> anyhow::Result<Vec<Metric>> {
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); WORKLOADS.len()];
    for _ in 0..rounds {
        for ((_, workload), rates) in WORKLOADS.iter().zip(&mut rates) {
            rates.push(round(*workload, nodes)?);
        }
    }
    let metric = |(name, _): &(&str, Workload), rates| Metric {
        bench: "scheduler",
        name: format!("scheduler.{name}_per_s"),
        value: median(rates),
        unit: "pods/s",
        peer: None,
    };
    Ok(WORKLOADS.iter().zip(rates).map(|(workload, rates)| metric(workload, rates)).collect())
}

/// Pods per second of one workload.
fn round(workload: Workload, nodes: usize) -> anyhow::Result<f64> {
    let mut world = World::new(nodes);
    let crowded = workload == Workload::Preemption;
    for index in 0..nodes * if crowded { 4 } else { 1 } {
        // Four of these fill a node.
        let spec = if crowded { container("900m", "500Mi") } else { container("100m", "500Mi") };
        world.bring(&format!("running-{index}"), "running", &spec);
    }
    world.run();
    let count = if crowded { nodes.div_ceil(DISPLACING_SHARE) } else { nodes };
    let pods: Vec<Change> = (0..count).map(|index| measured(workload, index, world.next())).collect();
    let bound = world.bound;
    let start = Instant::now();
    for pod in pods {
        world.observe(&pod);
    }
    world.run();
    let seconds = start.elapsed().as_secs_f64();
    let placed = world.bound - bound;
    anyhow::ensure!(placed == count, "only {placed} of {count} pods got a node");
    Ok(count as f64 / seconds)
}

fn measured(workload: Workload, index: usize, revision: u64) -> Change {
    let near = |kind: &str, topology: &str| {
        let term = json!({"topologyKey": topology, "labelSelector": {"matchLabels": {"app": "measured"}}});
        json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
    };
    let mut spec = container("100m", "500Mi");
    match workload {
        Workload::Basic => {}
        Workload::AntiAffinity => spec["affinity"] = near("podAntiAffinity", "kubernetes.io/hostname"),
        Workload::Affinity => spec["affinity"] = near("podAffinity", "topology.kubernetes.io/zone"),
        Workload::Spread => {
            spec["topologySpreadConstraints"] = json!([{
                "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "measured"}},
            }]);
        }
        Workload::Preemption => {
            spec = container("3000m", "500Mi");
            spec["priority"] = json!(1000);
        }
    }
    pod(&format!("measured-{index}"), "measured", &spec, revision)
}

fn container(cpu: &str, memory: &str) -> Value {
    let requests = json!({"cpu": cpu, "memory": memory});
    json!({"priority": 0, "containers": [{"name": "c", "image": "c:1", "resources": {"requests": requests}}]})
}

fn pod(name: &str, app: &str, spec: &Value, revision: u64) -> Change {
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app, "controller": true});
    let value = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": app}, "ownerReferences": [owner]},
        "spec": spec,
    });
    let object = Arc::new(Object::new(Key::new("pods", "default", name), revision, value));
    Change { revision, kind: ChangeKind::Added, object, previous: None }
}

/// The scheduler, and a cluster that does what it decides.
struct World {
    view: View,
    scheduler: Scheduler,
    now_ms: i64,
    revision: u64,
    bound: usize,
}

impl World {
    fn new(nodes: usize) -> Self {
        let mut view = View::default();
        for index in 0..nodes {
            let name = format!("node-{index}");
            let zone = format!("zone-{}", index % ZONES);
            let room = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
            let value = json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
                "status": {"allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]},
            });
            view.apply(ChangeKind::Added, &Arc::new(Object::new(Key::new("nodes", "", name), 1, value)));
        }
        let scheduler = Scheduler::new(&view);
        Self { view, scheduler, now_ms: 0, revision: 1, bound: 0 }
    }

    fn next(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn bring(&mut self, name: &str, app: &str, spec: &Value) {
        let revision = self.next();
        self.observe(&pod(name, app, spec, revision));
    }

    fn observe(&mut self, change: &Change) {
        self.view.apply(change.kind, &change.object);
        self.scheduler.observe(change);
    }

    /// Plans until nobody waits, and does what is planned.
    fn run(&mut self) {
        while let Some(due) = self.scheduler.wake_at() {
            // Whoever waits for five minutes fits nowhere.
            if due > self.now_ms + 60_000 {
                return;
            }
            self.now_ms = self.now_ms.max(due);
            for decision in self.scheduler.plan(self.now_ms) {
                for action in decision.actions {
                    self.perform(action);
                }
            }
        }
    }

    fn perform(&mut self, action: Action) {
        let revision = self.next();
        match action {
            Action::Bind { pod, node, .. } => {
                let Some(old) = self.view.at(&pod).cloned() else { return };
                let mut value = old.value.clone();
                value["spec"]["nodeName"] = json!(node);
                self.bound += 1;
                let object = Arc::new(Object::new(pod, revision, value));
                self.observe(&Change { revision, kind: ChangeKind::Modified, object, previous: Some(old) });
            }
            Action::Delete { key, .. } => {
                let Some(old) = self.view.at(&key).cloned() else { return };
                let object = Arc::new(Object::new(key, revision, old.value.clone()));
                self.observe(&Change { revision, kind: ChangeKind::Deleted, object, previous: Some(old) });
            }
            _ => {}
        }
    }
}
