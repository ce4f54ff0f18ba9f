//! A cluster in memory: the door's rules that the controllers rely on, the controllers' queue, and obedient nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::usage::UsageTable;
use api::{Action, Catalog, Change, ChangeKind, Key, Object, Precondition, Quantity, View};
use controllers::{Settings, World};
use serde_json::{Value, json};

use super::table;

/// Names as the reader sees them.
#[derive(Default)]
pub(crate) struct Names {
    /// Real name and shown name, longest real name first.
    list: Vec<(String, String)>,
    counts: BTreeMap<String, usize>,
}

impl Names {
    fn note(&mut self, key: &Key, value: &Value) {
        let metadata = &value["metadata"];
        let hash = metadata["labels"]["pod-template-hash"].as_str();
        let shown = if let (Some(hash), "replicasets.apps") = (hash, &*key.resource) {
            let stem = key.name.trim_end_matches(hash).to_owned();
            let count = self.counts.entry(stem.clone()).or_default();
            *count += 1;
            format!("{stem}{}", char::from(b'A' + u8::try_from(*count - 1).unwrap()))
        } else if let Some(stem) = metadata["generateName"].as_str() {
            let stem = self.tell(stem);
            let count = self.counts.entry(stem.clone()).or_default();
            *count += 1;
            format!("{stem}{count}")
        } else {
            return;
        };
        self.list.push((key.name.to_string(), shown));
        self.list.sort_by_key(|(real, _)| std::cmp::Reverse(real.len()));
    }

    /// The text with every generated name replaced.
    pub(crate) fn tell(&self, text: &str) -> String {
        self.list.iter().fold(text.to_owned(), |text, (real, shown)| text.replace(real, shown))
    }

    /// The JSON with every quoted name that is shown replaced by the generated one.
    pub(crate) fn untell(&self, json: &str) -> String {
        let quoted = |name: &str| format!("{name:?}");
        self.list.iter().fold(json.to_owned(), |json, (real, shown)| json.replace(&quoted(shown), &quoted(real)))
    }

    /// The generated name behind a shown one.
    pub(crate) fn real(&self, shown: &str) -> String {
        self.list.iter().find(|(_, name)| name == shown).map_or(shown, |(real, _)| real).to_owned()
    }
}

/// A controller's place in the table, and one of its keys.
pub(crate) type Work = (usize, Key);

pub(crate) struct Cluster {
    pub(crate) view: View,
    pub(crate) now_ms: i64,
    pub(crate) catalog: Catalog,
    pub(crate) names: Names,
    pub(crate) told: Vec<String>,
    usage: UsageTable,
    /// When the node last told of a pod, and the CPU time in all until then, in nanoseconds.
    spent: BTreeMap<String, (i64, u64)>,
    /// Requests answered, by route.
    answered: BTreeMap<String, u64>,
    settings: Settings,
    uids: usize,
    addresses: usize,
    woken: BTreeSet<Work>,
    timers: BTreeSet<(i64, usize, Key)>,
    /// Every change, for somebody who reads them later.
    records: Option<Vec<Change>>,
}

impl Default for Cluster {
    fn default() -> Self {
        let mut cluster = Self {
            view: View::default(),
            now_ms: 1_700_000_000_000,
            catalog: Catalog::builtin(),
            names: Names::default(),
            told: Vec::new(),
            usage: UsageTable::default(),
            spent: BTreeMap::new(),
            answered: BTreeMap::new(),
            settings: Settings { cluster_ca: "THE CA".into(), ..Settings::default() },
            uids: 0,
            addresses: 0,
            woken: BTreeSet::new(),
            timers: BTreeSet::new(),
            records: None,
        };
        // One node that is well for the next ten years.
        let lease = json!({"metadata": {"name": "n1"}, "spec": {"renewTime": "2033-11-14T00:00:00.000000Z"}});
        let ready = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]});
        let node = json!({"metadata": {"name": "n1"}, "spec": {}, "status": ready});
        cluster.apply(&Key::new("namespaces", "", "default"), json!({"metadata": {"name": "default"}}));
        cluster.apply(&Key::new("leases.coordination.k8s.io", "kube-node-lease", "n1"), lease);
        cluster.apply(&Key::new("nodes", "", "n1"), node);
        cluster.round(&mut String::new());
        cluster
    }
}

impl Cluster {
    pub(crate) fn now(&self) -> String {
        api::time::rfc3339(self.now_ms)
    }

    /// The node tells what every pod whose shown name begins with `group` has used since it last told.
    pub(crate) fn tell_usage(&mut self, group: &str, cpu: &Quantity, memory: &Quantity) {
        let shown = |pod: &&Arc<Object>| self.names.tell(pod.name()).starts_with(group);
        let pods: Vec<Arc<Object>> = self.view.list("pods").filter(shown).cloned().collect();
        let mut told = Vec::new();
        for pod in pods {
            let started = api::time::parse(pod.creation_timestamp()).unwrap();
            let (since, spent) = self.spent.entry(pod.name().to_owned()).or_insert((started, 0));
            *spent += u64::try_from((self.now_ms - *since) * cpu.millis() * 1_000).unwrap();
            *since = self.now_ms;
            let container = json!({"name": "web", "startTime": pod.creation_timestamp(),
                "cpu": {"usageCoreNanoSeconds": *spent}, "memory": {"workingSetBytes": memory.bytes()}});
            let reference = json!({"namespace": pod.namespace(), "name": pod.name()});
            told.push(json!({"podRef": reference, "containers": [container]}));
        }
        self.usage.take("n1", &json!({ "pods": told }), self.now_ms);
    }

    /// The node tells of further requests that a route has answered.
    pub(crate) fn tell_requests(&mut self, route: &str, further: u64) {
        let answered = self.answered.entry(route.to_owned()).or_insert(0);
        *answered += further;
        let told = json!({"routes": [{"name": route, "requests": *answered}]});
        self.usage.take("n1", &told, self.now_ms);
    }

    /// Creates an object, or merges it into the one that is there.
    pub(crate) fn apply(&mut self, key: &Key, value: Value) {
        if let Some(old) = self.view.at(key).cloned() {
            let subresource = value.get("status").is_some().then_some("status");
            let patch = |subresource| Action::Patch {
                key: old.key.clone(),
                subresource,
                patch: value.clone(),
                precondition: Precondition::default(),
            };
            self.perform(patch(None));
            if subresource.is_some() {
                self.perform(patch(subresource));
            }
            return;
        }
        let status = value["status"].clone();
        self.perform(Action::Create { key: key.clone(), body: value });
        if !status.is_null() {
            let patch = json!({ "status": status });
            let precondition = Precondition::default();
            self.perform(Action::Patch { key: key.clone(), subresource: Some("status"), patch, precondition });
        }
    }

    /// Gives every woken key one turn, and writes down what they do; `false` when nobody was woken.
    pub(crate) fn round(&mut self, log: &mut String) -> bool {
        let woken = self.woken();
        for work in &woken {
            for action in self.decide(work) {
                log.push_str(&table::sentence(&action));
                if !self.perform(action) {
                    self.wake(work.clone());
                }
            }
        }
        !woken.is_empty()
    }

    /// From now on changes are kept until [`Cluster::recorded`].
    pub(crate) fn record(&mut self) {
        self.records = Some(Vec::new());
    }

    /// The changes since the last time.
    pub(crate) fn recorded(&mut self) -> Vec<Change> {
        self.records.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Every controller starts anew: whatever the picture concerns gets a turn.
    pub(crate) fn wake_all(&mut self) {
        self.timers.clear();
        let view = self.view.clone();
        for object in view.resources().flat_map(|resource| view.list(resource)) {
            let (revision, object) = (object.revision, object.clone());
            let change = Change { revision, kind: ChangeKind::Added, object, previous: None };
            for (index, controller) in controllers::table().iter().enumerate() {
                self.woken.extend((controller.keys)(&change, &view).into_iter().map(|key| (index, key)));
            }
        }
    }

    /// The key wants a turn.
    pub(crate) fn wake(&mut self, work: Work) {
        self.woken.insert(work);
    }

    /// The keys that want a turn.
    pub(crate) fn woken(&mut self) -> BTreeSet<Work> {
        while let Some((_, index, key)) = self.timers.first().filter(|(due, ..)| *due <= self.now_ms).cloned() {
            self.timers.pop_first();
            self.woken.insert((index, key));
        }
        self.woken.clone()
    }

    /// One turn of one key: what it wants done.
    pub(crate) fn decide(&mut self, work: &Work) -> Vec<Action> {
        self.woken.remove(work);
        let (index, key) = work;
        let world = World {
            view: &self.view,
            now_ms: self.now_ms,
            settings: &self.settings,
            heard: None,
            usage: &self.usage,
            refused: None,
        };
        let mut actions = (controllers::table()[*index].reconcile)(&world, key);
        actions.retain(|action| {
            if let Action::Again { after_ms } = action {
                self.timers.insert((self.now_ms.saturating_add_unsigned(*after_ms), *index, key.clone()));
            }
            !matches!(action, Action::Again { .. })
        });
        actions
    }

    fn put(&mut self, old: Option<&Arc<Object>>, key: Key, value: Value) {
        let kind = if old.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let object = Arc::new(Object::new(key, self.view.revision() + 1, value));
        self.change(kind, object);
    }

    fn change(&mut self, kind: ChangeKind, object: Arc<Object>) {
        let previous = self.view.apply(kind, &object);
        let change = Change { revision: object.revision, kind, object, previous };
        for (index, controller) in controllers::table().iter().enumerate() {
            let keys = (controller.keys)(&change, &self.view);
            self.woken.extend(keys.into_iter().map(|key| (index, key)));
        }
        self.records.iter_mut().for_each(|records| records.push(change.clone()));
    }

    /// Does one action; what does not apply is dropped. Answers whether it was done.
    pub(crate) fn perform(&mut self, action: Action) -> bool {
        match action {
            Action::Create { key, body } => self.create(&key, body),
            Action::Patch { key, subresource, patch, precondition } => {
                let Some(old) = self.meant(&key, &precondition) else { return false };
                self.patch(&old, subresource, &patch);
                true
            }
            Action::Delete { key, precondition, grace_seconds } => {
                let Some(old) = self.meant(&key, &precondition) else { return false };
                self.delete(&old, grace_seconds);
                true
            }
            Action::Tell { reason, message, about, .. } => {
                self.told.push(format!("{} {reason}: {message}", about.name));
                true
            }
            Action::Bind { .. } | Action::Again { .. } => true,
        }
    }

    fn meant(&self, key: &Key, precondition: &Precondition) -> Option<Arc<Object>> {
        let object = self.view.at(key)?;
        let same = precondition.uid.as_ref().is_none_or(|uid| uid == object.uid())
            && precondition.revision.is_none_or(|revision| revision == object.revision);
        same.then(|| object.clone())
    }

    fn create(&mut self, key: &Key, mut body: Value) -> bool {
        let namespace = self.view.get("namespaces", "", &key.namespace);
        let terminating = namespace.is_some_and(|namespace| namespace.deletion_timestamp().is_some());
        if self.view.at(key).is_some() || terminating {
            return false;
        }
        self.names.note(key, &body);
        self.uids += 1;
        let metadata = body["metadata"].as_object_mut().unwrap();
        metadata.insert("uid".into(), json!(format!("u{}", self.uids)));
        metadata.insert("creationTimestamp".into(), json!(api::time::rfc3339(self.now_ms)));
        metadata.insert("generation".into(), json!(1));
        body.as_object_mut().unwrap().remove("status");
        if &*key.resource == "namespaces" {
            body["spec"]["finalizers"] = json!(["kubernetes"]);
        }
        self.put(None, key.clone(), body);
        true
    }

    fn patch(&mut self, old: &Arc<Object>, subresource: Option<&'static str>, patch: &Value) {
        let mut new = old.value.clone();
        merge(&mut new, patch);
        if subresource == Some("status") {
            let status = new["status"].take();
            new = old.value.clone();
            new["status"] = status;
        } else {
            new["status"] = old.value["status"].clone();
        }
        if new == *old.value {
            return;
        }
        if new["spec"] != old.value["spec"] {
            new["metadata"]["generation"] = json!(old.generation() + 1);
        }
        let held = !new["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        let kept = new["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        let waits = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
        if old.deletion_timestamp().is_some() && !held && !kept && !waits {
            self.gone(old);
        } else {
            self.put(Some(old), old.key.clone(), new);
        }
    }

    fn delete(&mut self, old: &Arc<Object>, grace: Option<u32>) {
        let running = &*old.key.resource == "pods"
            && old.field("spec.nodeName").is_string()
            && !matches!(old.field("status.phase").as_str(), Some("Succeeded" | "Failed"));
        let grace = if running { grace.unwrap_or(30) } else { 0 };
        let held = old.finalizers().next().is_some() || old.field("spec.finalizers").is_array();
        if grace == 0 && !held {
            self.gone(old);
            return;
        }
        let mut new = old.value.clone();
        new["metadata"]["deletionTimestamp"] = json!(self.now());
        new["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        if new != *old.value {
            self.put(Some(old), old.key.clone(), new);
        }
    }

    fn gone(&mut self, old: &Arc<Object>) {
        let last = Object::new(old.key.clone(), self.view.revision() + 1, old.value.clone());
        self.change(ChangeKind::Deleted, Arc::new(last));
    }

    /// Every node does its part for its pods; unbound pods go where they want, else to `n1`. Returns whether there was anything.
    pub(crate) fn run_nodes(&mut self) -> bool {
        let pods: Vec<_> = self.view.list("pods").cloned().collect();
        let mut busy = false;
        for pod in pods {
            busy |= self.run_pod(&pod);
        }
        busy
    }

    /// The node does the next thing for one pod, if there is any.
    pub(crate) fn run_pod(&mut self, pod: &Arc<Object>) -> bool {
        let phase = pod.field("status.phase").as_str().unwrap_or("Pending");
        if pod.deletion_timestamp().is_some() {
            let waits = pod.value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
            if waits {
                self.delete(pod, Some(0));
            }
            return waits;
        }
        if phase == "Pending" {
            self.start(pod);
        }
        phase == "Pending"
    }

    fn start(&mut self, pod: &Arc<Object>) {
        let mut value = pod.value.clone();
        let broken = pod.field("spec.containers")[0]["image"] == "broken";
        if value["spec"]["nodeName"].is_null() {
            let required = "requiredDuringSchedulingIgnoredDuringExecution";
            let terms = &pod.field("spec.affinity.nodeAffinity")[required]["nodeSelectorTerms"];
            let node = terms[0]["matchFields"][0]["values"][0].as_str().unwrap_or("n1");
            value["spec"]["nodeName"] = json!(node);
        }
        self.addresses += 1;
        let address = format!("10.42.0.{}", self.addresses);
        let ready = if broken { "False" } else { "True" };
        value["status"] = json!({
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": self.now()}],
        });
        self.put(Some(pod), pod.key.clone(), value);
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}
