//! Reads a story, does what it says to a cluster in memory, and writes down what is seen.
//!
//! Commands:
//! * `apply`, with YAML documents under it: create, or merge into what is there.
//! * `patch RESOURCE/NAME [SUBRESOURCE] JSON`; `delete RESOURCE/NAME [foreground|orphan]`.
//! * `turns [N]`: N rounds in which every woken key gets one turn; `settle`: rounds until nobody has anything to do.
//! * `run`: nodes do their part (bind, start, end what was asked to go); `live`: settle and run until both are quiet.
//! * `use TIME GROUP CPU MEMORY`: so long each pod of that group uses so much, the node tells of it every 15 s, and all
//!   goes on as with `live`.
//! * `ask TIME ROUTE RATE`: so long the node's Ingress answers so many requests of a route each second, and tells of it.
//! * `end POD Succeeded|Failed`, `ready POD True|False`, `wait 40s`.
//! * `show RESOURCE [PATH …]`: a table; `told`: Events since the last time.
//!
//! Generated names are shown as they would read in a book: `web-A` is the first ReplicaSet of `web`, `web-A-1` its
//! first pod.

pub(crate) mod cluster;
mod table;

use std::fmt::Write as _;

use api::{Action, Key, Precondition};
use serde_json::{Value, json};

use cluster::Cluster;

/// How often a node tells what its pods use.
const TELLING_MS: i64 = 15_000;

/// `40s`, `6m`, `1h`.
fn millis(text: &str) -> i64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "s" => 1_000,
        "m" => 60_000,
        _ => 3_600_000,
    };
    number.parse::<i64>().unwrap() * unit
}

/// One story being told.
#[derive(Default)]
pub(crate) struct Story {
    cluster: Cluster,
}

impl Story {
    /// Runs every block and returns the text with what was seen in the place of what was told.
    pub(crate) fn retell(mut self, told: &str) -> String {
        let mut seen = String::new();
        let mut lines = told.lines().peekable();
        while let Some(line) = lines.next() {
            let _ = writeln!(seen, "{line}");
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut document = String::new();
            while let Some(line) = lines.next_if(|line| *line != "----") {
                let _ = writeln!(seen, "{line}");
                let _ = writeln!(document, "{line}");
            }
            assert_eq!(lines.next(), Some("----"), "after `{line}`");
            while lines.next_if(|line| !line.is_empty()).is_some() {}
            let output = self.command(line, &document);
            let _ = write!(seen, "----\n{}", self.cluster.names.tell(&output));
        }
        seen
    }

    fn command(&mut self, line: &str, document: &str) -> String {
        let mut words = line.split(' ');
        let (verb, rest): (_, Vec<&str>) = (words.next().unwrap_or_default(), words.collect());
        match verb {
            "apply" => self.apply(document),
            "patch" => self.patch(line),
            "delete" => self.delete(&rest),
            "turns" => self.turns(rest.first().map_or(1, |count| count.parse().unwrap())),
            "settle" => self.turns(200),
            "run" => {
                self.cluster.run_nodes();
                String::new()
            }
            "live" => self.live(),
            "end" => {
                let ended = json!([{"state": {"terminated": {"finishedAt": self.cluster.now()}}}]);
                self.pod_status(rest[0], &json!({"phase": rest[1], "containerStatuses": ended}))
            }
            "ready" => {
                let now = self.cluster.now();
                let ready = json!([{"type": "Ready", "status": rest[1], "lastTransitionTime": now}]);
                self.pod_status(rest[0], &json!({ "conditions": ready }))
            }
            "wait" => {
                self.cluster.now_ms += millis(rest[0]);
                String::new()
            }
            "ask" => {
                let further = rest[2].parse::<u64>().unwrap() * TELLING_MS.unsigned_abs() / 1000;
                self.tellings(rest[0], |cluster| cluster.tell_requests(rest[1], further))
            }
            "use" => {
                let [cpu, memory] = [rest[2], rest[3]].map(|text| api::Quantity::parse(text).unwrap());
                self.tellings(rest[0], |cluster| cluster.tell_usage(rest[1], &cpu, &memory))
            }
            "show" => table::show(&self.cluster, rest[0], &rest[1..]),
            "told" => self.cluster.told.drain(..).map(|line| line + "\n").collect(),
            other => panic!("what does `{other}` mean?"),
        }
    }

    /// So long the node tells something every 15 s, and all goes on as with `live`.
    fn tellings(&mut self, time: &str, tell: impl Fn(&mut Cluster)) -> String {
        let mut log = String::new();
        for _ in 0..millis(time) / TELLING_MS {
            self.cluster.now_ms += TELLING_MS;
            tell(&mut self.cluster);
            log.push_str(&self.live());
        }
        log
    }

    fn apply(&mut self, document: &str) -> String {
        for value in api::yaml::documents(document.as_bytes()).unwrap() {
            let (group_version, kind) = (value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap());
            let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
            let resource = self.cluster.catalog.by_kind(group, version, kind).unwrap();
            let namespace = value["metadata"]["namespace"].as_str().unwrap_or("default");
            let namespace = if resource.namespaced { namespace } else { "" };
            let key = Key::new(resource.name.clone(), namespace, value["metadata"]["name"].as_str().unwrap());
            self.cluster.apply(&key, value);
        }
        String::new()
    }

    fn key(&self, text: &str) -> Key {
        let mut parts: Vec<&str> = text.split('/').collect();
        let name = self.cluster.names.real(parts.pop().unwrap());
        let namespaced = self.cluster.catalog.by_name(parts[0]).unwrap().namespaced;
        let namespace = if namespaced { parts.get(1).copied().unwrap_or("default") } else { "" };
        Key::new(parts[0], namespace, name)
    }

    fn patch(&mut self, line: &str) -> String {
        let (head, json) = line.split_at(line.find('{').unwrap());
        let words: Vec<&str> = head.split_whitespace().collect();
        let subresource = words.get(2).map(|word| if *word == "status" { "status" } else { "scale" });
        let patch: Value = serde_json::from_str(&self.cluster.names.untell(json)).unwrap();
        let key = self.key(words[1]);
        self.cluster.perform(Action::Patch { key, subresource, patch, precondition: Precondition::default() });
        String::new()
    }

    fn delete(&mut self, words: &[&str]) -> String {
        let key = self.key(words[0]);
        let finalizer = match words.get(1) {
            Some(&"foreground") => Some("foregroundDeletion"),
            Some(&"orphan") => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer {
            let patch = json!({"metadata": {"finalizers": [finalizer]}});
            let precondition = Precondition::default();
            self.cluster.perform(Action::Patch { key: key.clone(), subresource: None, patch, precondition });
        }
        self.cluster.perform(Action::Delete { key, precondition: Precondition::default(), grace_seconds: None });
        String::new()
    }

    fn turns(&mut self, rounds: usize) -> String {
        let mut log = String::new();
        for _ in 0..rounds {
            let before = log.len();
            if !self.cluster.round(&mut log) {
                break;
            }
            if rounds <= 20 && log.len() > before {
                log.push('\n');
            }
        }
        if log.ends_with("\n\n") {
            log.pop();
        }
        log.replace("\n\n", "\n~\n")
    }

    fn live(&mut self) -> String {
        let mut log = String::new();
        for _ in 0..200 {
            let busy = self.cluster.round(&mut log);
            if !busy && !self.cluster.run_nodes() {
                return log;
            }
        }
        panic!("the story has no end:\n{log}");
    }

    fn pod_status(&mut self, pod: &str, status: &Value) -> String {
        let key = self.key(&format!("pods/{pod}"));
        let (patch, precondition) = (json!({ "status": status }), Precondition::default());
        self.cluster.perform(Action::Patch { key, subresource: Some("status"), patch, precondition });
        String::new()
    }
}
