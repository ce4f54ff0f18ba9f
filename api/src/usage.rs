//! What pods and nodes use, and what routes answer, as nodes last told: one small table that `kubectl top` and autoscalers
//! read.
//!
//! Nodes tell cumulative CPU time; how much is used *now* is the difference between two tellings, or, for a container
//! that has been told of once, the time since it started. A node that has not told for long is forgotten, so that
//! nobody scales by old figures. The table holds nothing but the last two tellings of each node.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

/// How long a node's last telling counts, in milliseconds.
pub const USAGE_AGE_MAX_MS: i64 = 60_000;

/// CPU and memory in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Billionths of a CPU, over the window.
    pub nano_cpus: u64,
    /// Bytes, now.
    pub memory_bytes: u64,
}

/// When something was measured, and over which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its end, milliseconds since 1970.
    pub at_ms: i64,
    /// Its length.
    pub length_ms: i64,
}

/// What a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUsage {
    /// When.
    pub window: Window,
    /// Each running container, by name.
    pub containers: BTreeMap<String, Usage>,
}

impl PodUsage {
    /// All containers together.
    #[must_use]
    pub fn total(&self) -> Usage {
        self.containers.values().fold(Usage::default(), |sum, usage| Usage {
            nano_cpus: sum.nano_cpus.saturating_add(usage.nano_cpus),
            memory_bytes: sum.memory_bytes.saturating_add(usage.memory_bytes),
        })
    }
}

/// One figure of a telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    started_ms: i64,
    cpu_nanos: u64,
    memory_bytes: u64,
}

/// Namespace, pod, container.
type Place = (String, String, String);

/// What a node told at one time.
#[derive(Debug)]
struct Telling {
    at_ms: i64,
    node: Told,
    containers: BTreeMap<Place, Told>,
    /// Requests answered since the node started, by route: `ingress/NAMESPACE/NAME`, or with more behind it.
    routes: BTreeMap<String, u64>,
}

/// The table. Clones share what was told.
#[derive(Clone, Debug, Default)]
pub struct UsageTable {
    /// The last telling and the one before it.
    nodes: BTreeMap<String, (Arc<Telling>, Option<Arc<Telling>>)>,
    pods: BTreeMap<(String, String), PodUsage>,
}

impl UsageTable {
    /// Takes what a node tells: kubelet's `GET /stats/summary`.
    pub fn take(&mut self, node: &str, summary: &Value, now_ms: i64) {
        let telling = Arc::new(Telling::read(summary, now_ms));
        let before = self.nodes.remove(node).map(|(last, _)| last);
        self.nodes.insert(node.to_owned(), (telling, before));
        self.settle(now_ms);
    }

    /// Forgets nodes that have not told for long.
    pub fn settle(&mut self, now_ms: i64) {
        self.nodes.retain(|_, (last, _)| now_ms - last.at_ms <= USAGE_AGE_MAX_MS);
        self.pods.clear();
        for (last, before) in self.nodes.values() {
            for (place, told) in &last.containers {
                let earlier =
                    before.as_ref().and_then(|telling| Some((telling.at_ms, *telling.containers.get(place)?)));
                let Some((window, usage)) = rate(last.at_ms, *told, earlier) else { continue };
                let (namespace, pod, container) = place.clone();
                let entry = self.pods.entry((namespace, pod));
                let pod = entry.or_insert_with(|| PodUsage { window, containers: BTreeMap::new() });
                pod.containers.insert(container, usage);
            }
        }
    }

    /// What a pod uses; `None` when no node has told of it lately.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&PodUsage> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Requests per second, in thousandths, that all nodes together answer for an object that is a `route`:
    /// `ingress/NAMESPACE/NAME` or `httproute/NAMESPACE/NAME`. `None` when no node has told lately.
    #[must_use]
    pub fn requests(&self, route: &str) -> Option<u64> {
        let of_nodes = self.nodes.values().filter_map(|(last, before)| last.requests(before.as_deref(), route));
        of_nodes.reduce(u64::saturating_add)
    }

    /// What a node uses, guests and itself.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<(Window, Usage)> {
        let (last, before) = self.nodes.get(name)?;
        rate(last.at_ms, last.node, before.as_ref().map(|telling| (telling.at_ms, telling.node)))
    }
}

/// Usage between two figures, or since the start where there is no earlier one of the same attempt.
fn rate(at_ms: i64, told: Told, earlier: Option<(i64, Told)>) -> Option<(Window, Usage)> {
    let same = |(_, before): &(i64, Told)| before.started_ms == told.started_ms && before.cpu_nanos <= told.cpu_nanos;
    let (from_ms, before) = match earlier.filter(same) {
        Some((from_ms, before)) => (from_ms, before.cpu_nanos),
        None => (told.started_ms, 0),
    };
    let length_ms = at_ms.checked_sub(from_ms).filter(|length| *length > 0)?;
    let nano_cpus = per_second(told.cpu_nanos - before, length_ms);
    Some((Window { at_ms, length_ms }, Usage { nano_cpus, memory_bytes: told.memory_bytes }))
}

/// `length_ms` is above zero.
fn per_second(amount: u64, length_ms: i64) -> u64 {
    let rate = u128::from(amount) * 1000 / u128::from(length_ms.unsigned_abs());
    u64::try_from(rate).unwrap_or(u64::MAX)
}

impl Telling {
    fn read(summary: &Value, now_ms: i64) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut containers = BTreeMap::new();
        for pod in summary["pods"].as_array().into_iter().flatten() {
            let of = &pod["podRef"];
            for container in pod["containers"].as_array().into_iter().flatten() {
                let place = (text(&of["namespace"]), text(&of["name"]), text(&container["name"]));
                containers.insert(place, Told::read(container));
            }
        }
        let mut routes = BTreeMap::new();
        for route in summary["routes"].as_array().into_iter().flatten() {
            routes.insert(text(&route["name"]), route["requests"].as_u64().unwrap_or(0));
        }
        Self { at_ms: now_ms, node: Told::read(&summary["node"]), containers, routes }
    }

    fn requests(&self, before: Option<&Telling>, route: &str) -> Option<u64> {
        let before = before.filter(|before| before.node.started_ms == self.node.started_ms);
        let from_ms = before.map_or(self.node.started_ms, |before| before.at_ms);
        let length_ms = self.at_ms.checked_sub(from_ms).filter(|length| *length > 0)?;
        let of = |telling: &Telling| {
            let from = telling.routes.range(route.to_owned()..).take_while(|(name, _)| name.starts_with(route));
            let own = |name: &str| name.len() == route.len() || name.as_bytes()[route.len()] == b'/';
            from.filter(|(name, _)| own(name)).map(|(_, requests)| *requests).sum::<u64>()
        };
        let answered = of(self).saturating_sub(before.map_or(0, of));
        Some(per_second(answered.saturating_mul(1000), length_ms))
    }
}

impl Told {
    fn read(stats: &Value) -> Self {
        let started = stats["startTime"].as_str().and_then(crate::time::parse);
        Self {
            started_ms: started.unwrap_or(0),
            cpu_nanos: stats["cpu"]["usageCoreNanoSeconds"].as_u64().unwrap_or(0),
            memory_bytes: stats["memory"]["workingSetBytes"].as_u64().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn summary(started: &str, cpu_nanos: u64) -> Value {
        let figures = |cpu: u64, memory: u64| json!({"startTime": started, "cpu": {"usageCoreNanoSeconds": cpu}, "memory": {"workingSetBytes": memory}});
        let mut container = figures(cpu_nanos, 1 << 20);
        container["name"] = json!("main");
        let pod = json!({"podRef": {"namespace": "d", "name": "web"}, "containers": [container]});
        let mut node = figures(cpu_nanos * 2, 1 << 30);
        node["nodeName"] = json!("n1");
        json!({"node": node, "pods": [pod]})
    }

    #[test]
    fn use_is_the_difference_of_two_tellings() {
        let started = "2030-01-01T00:00:00Z";
        let start_ms = crate::time::parse(started).unwrap();
        let mut table = UsageTable::default();
        // 1 s of CPU in the first 10 s, then half a CPU for 15 s.
        table.take("n1", &summary(started, 1_000_000_000), start_ms + 10_000);
        let usage = |table: &UsageTable| table.pod("d", "web").unwrap().total();
        assert_eq!(usage(&table), Usage { nano_cpus: 100_000_000, memory_bytes: 1 << 20 });
        table.take("n1", &summary(started, 8_500_000_000), start_ms + 25_000);
        assert_eq!(usage(&table).nano_cpus, 500_000_000);
        assert_eq!(table.pod("d", "web").unwrap().window, Window { at_ms: start_ms + 25_000, length_ms: 15_000 });
        assert_eq!(table.node("n1").unwrap().1, Usage { nano_cpus: 1_000_000_000, memory_bytes: 1 << 30 });

        // A container that was started anew begins to count anew.
        let restarted = "2030-01-01T00:00:30Z";
        table.take("n1", &summary(restarted, 1_000_000_000), start_ms + 40_000);
        assert_eq!(usage(&table).nano_cpus, 100_000_000);
        assert!(table.pod("d", "other").is_none() && table.node("n2").is_none());
    }

    #[test]
    fn requests_of_a_route_are_those_of_all_nodes_and_of_all_its_parts() {
        let start_ms = crate::time::parse("2030-01-01T00:00:00Z").unwrap();
        let told = |counts: &[(&str, u64)]| {
            let routes: Vec<Value> = counts.iter().map(|(name, n)| json!({"name": name, "requests": n})).collect();
            let mut told = summary("2030-01-01T00:00:00Z", 0);
            told["routes"] = json!(routes);
            told
        };
        let mut table = UsageTable::default();
        assert_eq!(table.requests("ingress/d/web"), None);
        table.take("n1", &told(&[("ingress/d/web", 100)]), start_ms + 10_000);
        let rate = |table: &UsageTable, route: &str| table.requests(route).unwrap();
        assert_eq!(rate(&table, "ingress/d/web"), 10_000, "since the node started");
        table.take("n1", &told(&[("ingress/d/web", 400), ("ingress/d/web2", 900)]), start_ms + 20_000);
        assert_eq!((rate(&table, "ingress/d/web"), rate(&table, "ingress/d/web2")), (30_000, 90_000));
        table.take(
            "n2",
            &told(&[("ingress/d/web", 50), ("httproute/d/web/0", 7), ("httproute/d/web/1", 3)]),
            start_ms + 20_000,
        );
        assert_eq!((rate(&table, "ingress/d/web"), rate(&table, "httproute/d/web")), (32_500, 500));
        assert_eq!(rate(&table, "ingress/d/other"), 0);
    }

    #[test]
    fn a_silent_node_is_forgotten_and_nonsense_tells_nothing() {
        let mut table = UsageTable::default();
        table.take("n1", &summary("2030-01-01T00:00:00Z", 1), 1_893_456_010_000);
        table.settle(1_893_456_010_000 + USAGE_AGE_MAX_MS);
        assert!(table.pod("d", "web").is_some());
        table.settle(1_893_456_010_001 + USAGE_AGE_MAX_MS);
        assert!(table.pod("d", "web").is_none() && table.node("n1").is_none());
        for nonsense in [json!(null), json!([1]), json!({"pods": {"a": 1}}), json!({"pods": [{"containers": [1]}]})] {
            table.take("n1", &nonsense, 1);
        }
    }
}
