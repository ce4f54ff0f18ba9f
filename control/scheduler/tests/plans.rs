//! Plans of the scheduler, read from `plans/*.txt`.
//!
//! A file is a list of lines: what there is, `plan`, and the decisions that follow it, indented. With `UPDATE=1` the
//! decisions are written back and the reviewer reads the difference. Decisions are done at once, as the driver does.
//!
//! * `node NAME cpu=4 memory=8Gi pods=10 zone=a [taint=KEY:EFFECT] [cordoned] [notready]`; `gone NAME`
//! * `pod NAME [cpu=…] [memory=…] [port=…] [app=…] [owner=…] [priority=…] [created=SECONDS] [tolerates=KEY] [claim=NAME] [spec={…}]`
//! * `object RESOURCE NAME {…}`: anything else, merged into what is there: claims, volumes, classes, budgets, namespaces
//! * `end POD`, `delete POD`, `refuse POD`, `wait 10s`, `waiting` (how long until the next plan)

use std::path::Path;
use std::sync::Arc;
use std::{env, fs};

use api::{Action, Change, ChangeKind, Key, Object, View};
use scheduler::Scheduler;
use serde_json::{Value, json};

#[test]
fn plans_are_as_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let told = fs::read_to_string(&file).unwrap();
        let seen = World::default().retell(&told);
        if env::var_os("UPDATE").is_some() {
            fs::write(&file, seen).unwrap();
        } else {
            assert_eq!(told, seen, "{}: UPDATE=1 rewrites it", file.display());
        }
    }
}

#[test]
fn a_refused_pod_is_planned_again_as_it_became_while_its_decision_was_written() {
    let mut world = World::default();
    world.line("node n1 cpu=1 memory=1Gi pods=1");
    world.line("pod x cpu=1");
    let plan = world.scheduler.plan(world.now_ms);
    assert_eq!(plan.len(), 1);
    world.line("pod x cpu=2");
    world.scheduler.refused(&plan[0].pod, world.now_ms);
    world.line("wait 1s");
    assert_eq!(world.line("plan")[0], "x is Unschedulable");
}

#[derive(Default)]
struct World {
    view: View,
    scheduler: Scheduler,
    now_ms: i64,
    refused: Vec<String>,
}

impl World {
    fn retell(mut self, told: &str) -> String {
        let mut seen = String::new();
        for line in told.lines().filter(|line| !line.starts_with("  ")) {
            seen.push_str(line);
            seen.push('\n');
            for output in self.line(line) {
                seen.push_str(&format!("  {output}\n"));
            }
        }
        seen
    }

    fn line(&mut self, line: &str) -> Vec<String> {
        let (line, spec) = line.split_once(" spec=").unwrap_or((line, "{}"));
        let mut words = line.split(' ');
        let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let options: Vec<(&str, &str)> = words.map(|word| word.split_once('=').unwrap_or((word, ""))).collect();
        match verb {
            "node" => self.put("nodes", "", name, node(&options)),
            "pod" => self.put("pods", "default", name, pod(&options, &serde_json::from_str(spec).unwrap())),
            "object" => {
                let (name, json) = line.splitn(3, ' ').nth(2).unwrap().split_once(' ').unwrap();
                let resource = line.split(' ').nth(1).unwrap();
                let namespaced = matches!(resource, "persistentvolumeclaims" | "poddisruptionbudgets.policy");
                let namespace = if namespaced { "default" } else { "" };
                let old = self.view.get(resource, namespace, name).map(|old| old.value.clone());
                let mut value = old.unwrap_or_else(|| json!({}));
                merge(&mut value, &serde_json::from_str(json).unwrap());
                self.put(resource, namespace, name, value);
            }
            "gone" => self.remove("nodes", "", name),
            "delete" => self.remove("pods", "default", name),
            "end" => {
                let mut value = self.view.get("pods", "default", name).unwrap().value.clone();
                value["status"]["phase"] = json!("Succeeded");
                self.put("pods", "default", name, value);
            }
            "refuse" => self.refused.push(name.to_owned()),
            "wait" => self.now_ms += name.trim_end_matches('s').parse::<i64>().unwrap() * 1000,
            "waiting" => {
                let wake = self.scheduler.wake_at().map(|due| (due - self.now_ms).max(0));
                return vec![wake.map_or_else(|| "for ever".to_owned(), |ms| format!("{ms} ms"))];
            }
            "plan" => return self.plan(),
            _ => {}
        }
        Vec::new()
    }

    fn put(&mut self, resource: &str, namespace: &str, name: &str, mut value: Value) {
        let revision = self.view.revision() + 1;
        value["metadata"]["name"] = json!(name);
        value["metadata"]["namespace"] = json!(namespace);
        value["metadata"]["uid"] = json!(format!("uid-{name}"));
        let object = Arc::new(Object::new(Key::new(resource, namespace, name), revision, value));
        let kind = if self.view.at(&object.key).is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let previous = self.view.apply(kind, &object);
        self.scheduler.observe(&Change { revision, kind, object, previous });
    }

    fn remove(&mut self, resource: &str, namespace: &str, name: &str) {
        let old = self.view.get(resource, namespace, name).unwrap().clone();
        let revision = self.view.revision() + 1;
        let object = Arc::new(Object::new(old.key.clone(), revision, old.value.clone()));
        self.view.apply(ChangeKind::Deleted, &object);
        self.scheduler.observe(&Change { revision, kind: ChangeKind::Deleted, object, previous: Some(old) });
    }

    fn plan(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for decision in self.scheduler.plan(self.now_ms) {
            let name = decision.pod.name.to_string();
            for action in decision.actions {
                match action {
                    Action::Bind { node, .. } if self.refused.contains(&name) => {
                        self.refused.clear();
                        self.scheduler.refused(&decision.pod, self.now_ms);
                        lines.push(format!("{name} → {node} (refused)"));
                        break;
                    }
                    Action::Bind { node, .. } => {
                        let mut value = self.view.at(&decision.pod).unwrap().value.clone();
                        value["spec"]["nodeName"] = json!(node);
                        self.put("pods", "default", &name, value);
                        lines.push(format!("{name} → {node}"));
                    }
                    Action::Patch { key, patch, .. } => {
                        let mut value = self.view.at(&key).unwrap().value.clone();
                        merge(&mut value, &patch);
                        self.put(&key.resource, &key.namespace, &key.name, value);
                        let node = patch["status"]["nominatedNodeName"].as_str();
                        let node = node.map(|node| format!(", {node} is kept for it")).unwrap_or_default();
                        lines.push(match &*key.resource {
                            "pods" if key == decision.pod => format!("{name} is Unschedulable{node}"),
                            "pods" => continue,
                            _ => format!("{name}: {} {} {patch}", key.resource, key.name),
                        });
                    }
                    Action::Delete { key, .. } => {
                        let mut value = self.view.at(&key).unwrap().value.clone();
                        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                        self.put("pods", "default", &key.name, value);
                        lines.push(format!("{} is displaced", key.name));
                    }
                    Action::Tell { reason: "Preempted", about, message, .. } => {
                        lines.push(format!("{}: {message}", about.name));
                    }
                    Action::Tell { reason: "FailedScheduling", message, .. } => {
                        lines.push(format!("{name}: {message}"));
                    }
                    _ => {}
                }
            }
        }
        lines
    }
}

/// RFC 7396.
fn merge(value: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (name, part) in patch {
        if part.is_null() {
            value.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut value[name], part);
        }
    }
}

fn node(options: &[(&str, &str)]) -> Value {
    let mut node = json!({"metadata": {"labels": {}}, "spec": {"taints": []}, "status": {"allocatable": {}}});
    node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    for &(name, value) in options {
        match name {
            "cordoned" => node["spec"]["unschedulable"] = json!(true),
            "notready" => node["status"]["conditions"][0]["status"] = json!("False"),
            "taint" => {
                let (key, effect) = value.split_once(':').unwrap();
                node["spec"]["taints"].as_array_mut().unwrap().push(json!({"key": key, "effect": effect}));
            }
            "cpu" | "memory" | "pods" | "gpu" => node["status"]["allocatable"][name] = json!(value),
            label => node["metadata"]["labels"][label] = json!(value),
        }
    }
    node
}

fn pod(options: &[(&str, &str)], spec: &Value) -> Value {
    let mut container = json!({"name": "c", "resources": {"requests": {}}});
    let mut pod = json!({"metadata": {"labels": {}}, "spec": spec});
    for &(name, value) in options {
        match name {
            "cpu" | "memory" | "gpu" => container["resources"]["requests"][name] = json!(value),
            "port" => container["ports"] = json!([{"containerPort": 80, "hostPort": value.parse::<i64>().unwrap()}]),
            "claim" => {
                let claim = json!({"name": value, "persistentVolumeClaim": {"claimName": value}});
                pod["spec"]["volumes"] = json!([claim]);
            }
            "priority" => pod["spec"]["priority"] = json!(value.parse::<i64>().unwrap()),
            "created" => {
                let at = api::time::rfc3339(value.parse::<i64>().unwrap() * 1000);
                pod["metadata"]["creationTimestamp"] = json!(at);
            }
            "tolerates" => pod["spec"]["tolerations"] = json!([{"key": value, "operator": "Exists"}]),
            "owner" => {
                let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": value, "uid": value});
                pod["metadata"]["ownerReferences"] = json!([owner]);
                pod["metadata"]["ownerReferences"][0]["controller"] = json!(true);
            }
            label => pod["metadata"]["labels"][label] = json!(value),
        }
    }
    pod["spec"]["containers"] = json!([container]);
    pod
}
