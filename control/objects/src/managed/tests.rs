//! Scenarios of several managers on one object, in the manner of structured-merge-diff's tables.

use super::*;

/// One object and its managers; each step is a second later than the last.
struct Live {
    value: Value,
    shape: Shape<'static>,
    api_version: &'static str,
    seconds: u32,
}

impl Live {
    fn new(message: &str, api_version: &'static str) -> Self {
        let value = json!({"metadata": {"name": "x"}});
        Self { value, shape: Shape::of_message(message), api_version, seconds: 0 }
    }

    fn deployment() -> Self {
        Self::new("k8s.io/api/apps/v1.Deployment", "apps/v1")
    }

    fn pod() -> Self {
        Self::new("k8s.io/api/core/v1.Pod", "v1")
    }

    fn now(&mut self) -> String {
        self.seconds += 1;
        format!("2026-01-01T00:00:{:02}Z", self.seconds)
    }

    fn try_apply(&mut self, manager: &str, config: &Value, force: bool) -> Result<(), Vec<String>> {
        let now = self.now();
        let writer = Writer { manager, api_version: self.api_version, subresource: "", now: &now };
        match apply(self.shape, &self.value, config, &writer, force) {
            Ok(value) => {
                self.value = value;
                Ok(())
            }
            Err(conflicts) => Err(conflicts.into_iter().map(|c| format!("{}: {}", c.manager, c.field)).collect()),
        }
    }

    fn apply(&mut self, manager: &str, config: &Value) {
        self.try_apply(manager, config, false).unwrap();
    }

    fn update(&mut self, manager: &str, subresource: &str, change: impl FnOnce(&mut Value)) {
        let now = self.now();
        let mut new = self.value.clone();
        change(&mut new);
        let writer = Writer { manager, api_version: self.api_version, subresource, now: &now };
        track(self.shape, Some(&self.value), &mut new, &writer);
        self.value = new;
    }

    /// What a manager manages, as paths.
    fn managed(&self, manager: &str) -> Vec<String> {
        let entries = decode(&self.value).into_iter().filter(|entry| entry.manager == manager);
        entries.flat_map(|entry| entry.fields.paths()).collect()
    }

    fn time(&self, manager: &str) -> String {
        decode(&self.value).into_iter().find(|entry| entry.manager == manager).unwrap().time
    }
}

fn containers(list: &Value) -> Value {
    json!({"spec": {"containers": list}})
}

#[test]
fn what_an_applier_no_longer_wants_goes() {
    let mut live = Live::deployment();
    live.apply("a", &json!({"metadata": {"labels": {"x": "1", "y": "2"}}, "spec": {"replicas": 1, "paused": true}}));
    live.apply("a", &json!({"metadata": {"labels": {"x": "1"}}, "spec": {"replicas": 1}}));
    assert_eq!(live.value["metadata"]["labels"], json!({"x": "1"}));
    assert_eq!(live.value["spec"], json!({"replicas": 1}));
    assert_eq!(live.managed("a"), [".metadata.labels.x", ".spec.replicas"]);
}

#[test]
fn the_same_value_is_shared_and_another_is_a_conflict() {
    let mut live = Live::deployment();
    live.apply("a", &json!({"spec": {"replicas": 1}}));
    live.apply("b", &json!({"spec": {"replicas": 1}}));
    let conflict = live.try_apply("a", &json!({"spec": {"replicas": 2}}), false);
    assert_eq!(conflict, Err(vec!["\"b\": .spec.replicas".to_owned()]));
    live.try_apply("a", &json!({"spec": {"replicas": 2}}), true).unwrap();
    assert_eq!((live.managed("a"), live.managed("b")), (vec![".spec.replicas".to_owned()], vec![]));
    assert_eq!(live.value["spec"]["replicas"], json!(2));
}

#[test]
fn a_zero_is_a_wish_that_two_may_share() {
    let mut live = Live::deployment();
    live.apply("a", &json!({"spec": {"paused": true}}));
    live.apply("a", &json!({"spec": {"paused": false}}));
    live.apply("b", &json!({"spec": {"paused": false}}));
    assert_eq!(live.value["spec"].get("paused"), None);
    assert_eq!((live.managed("a"), live.managed("b")), (vec![".spec.paused".into()], vec![".spec.paused".into()]));
}

#[test]
fn what_another_still_wants_stays() {
    let mut live = Live::deployment();
    live.apply("a", &json!({"spec": {"replicas": 1, "paused": true}}));
    live.apply("b", &json!({"spec": {"replicas": 1}}));
    live.apply("a", &json!({"spec": {"paused": true}}));
    assert_eq!(live.value["spec"], json!({"replicas": 1, "paused": true}));
    live.apply("b", &json!({}));
    assert_eq!(live.value["spec"], json!({"paused": true}));
    assert_eq!(live.managed("b"), [""; 0]);
}

#[test]
fn an_update_takes_what_it_changes() {
    let mut live = Live::deployment();
    live.apply("a", &json!({"spec": {"replicas": 1, "paused": true}}));
    live.update("kubectl", "", |value| value["spec"]["replicas"] = json!(3));
    assert_eq!(
        (live.managed("a"), live.managed("kubectl")),
        (vec![".spec.paused".into()], vec![".spec.replicas".into()])
    );
    assert!(live.try_apply("a", &json!({"spec": {"replicas": 1, "paused": true}}), false).is_err());
    live.apply("a", &json!({"spec": {"replicas": 3, "paused": true}}));
    live.update("kubectl", "", |value| {
        value["spec"].as_object_mut().unwrap().remove("paused");
    });
    assert_eq!(live.managed("a"), [".spec.replicas"]);
}

#[test]
fn an_autoscaler_that_scales_keeps_the_replicas_when_the_applier_gives_them_up() {
    let mut live = Live::deployment();
    live.apply("owner", &json!({"spec": {"replicas": 1, "paused": true}}));
    live.update("hpa", "scale", |value| value["spec"]["replicas"] = json!(5));
    live.apply("owner", &json!({"spec": {"paused": true}}));
    assert_eq!(live.value["spec"]["replicas"], json!(5));
    assert_eq!(live.value["metadata"]["managedFields"][1]["subresource"], json!("scale"));
}

#[test]
fn two_appliers_each_have_their_items() {
    let mut live = Live::pod();
    live.apply("a", &containers(&json!([{"name": "web", "image": "w"}])));
    live.apply("b", &containers(&json!([{"name": "side", "image": "s"}])));
    assert_eq!(
        live.value["spec"],
        containers(&json!([{"name": "web", "image": "w"}, {"name": "side", "image": "s"}]))["spec"]
    );
    live.apply("a", &containers(&json!([])));
    assert_eq!(live.value["spec"], containers(&json!([{"name": "side", "image": "s"}]))["spec"]);
}

#[test]
fn an_item_stays_while_somebody_manages_a_field_of_it() {
    let mut live = Live::pod();
    live.apply("a", &containers(&json!([{"name": "web", "image": "w", "stdin": true}])));
    live.update("kubectl", "", |value| value["spec"]["containers"][0]["image"] = json!("w:2"));
    live.apply("a", &json!({"spec": {"hostname": "h"}}));
    assert_eq!(live.value["spec"], json!({"hostname": "h", "containers": [{"name": "web", "image": "w:2"}]}));
}

#[test]
fn ports_that_leave_out_the_protocol_mean_tcp() {
    let mut live = Live::pod();
    let ports = |list: &Value| containers(&json!([{"name": "web", "ports": list}]));
    live.apply("a", &ports(&json!([{"containerPort": 80}])));
    live.update("defaults", "", |value| value["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP"));
    live.apply("a", &ports(&json!([{"containerPort": 80, "name": "http"}, {"containerPort": 80, "protocol": "UDP"}])));
    assert_eq!(
        live.value["spec"]["containers"][0]["ports"],
        json!([
            {"containerPort": 80, "name": "http", "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"},
        ])
    );
}

#[test]
fn sets_are_shared_item_by_item_and_atomic_lists_as_a_whole() {
    let mut live = Live::pod();
    live.apply(
        "a",
        &json!({"metadata": {"finalizers": ["x/a"]}, "spec": {"containers": [{"name": "c", "args": ["1"]}]}}),
    );
    live.apply("b", &json!({"metadata": {"finalizers": ["x/b"]}}));
    live.apply("a", &json!({"metadata": {"finalizers": []}, "spec": {"containers": [{"name": "c", "args": ["2"]}]}}));
    assert_eq!(live.value["metadata"]["finalizers"], json!(["x/b"]));
    let conflict = live.try_apply("b", &containers(&json!([{"name": "c", "args": ["3"]}])), false).unwrap_err();
    assert_eq!(conflict, ["\"a\": .spec.containers[name=\"c\"].args"]);
}

#[test]
fn an_apply_that_changes_nothing_leaves_the_time() {
    let mut live = Live::deployment();
    let config = json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}}});
    live.apply("a", &config);
    let before = live.value.clone();
    live.apply("a", &config);
    assert_eq!(live.value, before);
    assert_eq!(live.managed("a"), [".spec.replicas", ".spec.selector"], "a label selector has one owner");
    live.update("b", "", |_| {});
    assert_eq!(live.value, before);
    live.apply("a", &json!({"spec": {"replicas": 2}}));
    assert_ne!(live.time("a"), before["metadata"]["managedFields"][0]["time"].as_str().unwrap());
}

#[test]
fn nobody_manages_what_the_server_owns_or_another_door_writes() {
    let mut live = Live::deployment();
    let body = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "uid": "u", "resourceVersion": "1"},
        "spec": {"replicas": 1}, "status": {"replicas": 1},
    });
    live.apply("a", &body);
    assert_eq!(live.managed("a"), [".spec.replicas"]);
    assert!(live.value["metadata"].get("uid").is_none());
    live.update("controller", "status", |value| value["status"]["replicas"] = json!(2));
    assert_eq!(live.managed("controller"), [".status.replicas"]);
}

#[test]
fn a_client_can_forget_all_managers_but_not_by_accident() {
    let mut live = Live::deployment();
    live.apply("a", &json!({"spec": {"replicas": 1}}));
    live.update("b", "", |value| {
        value["metadata"].as_object_mut().unwrap().remove("managedFields");
        value["spec"]["paused"] = json!(true);
    });
    assert_eq!((live.managed("a"), live.managed("b")), (vec![".spec.replicas".into()], vec![".spec.paused".into()]));
    live.update("b", "", |value| value["metadata"]["managedFields"] = json!([{}]));
    assert!(live.value["metadata"].get("managedFields").is_none());
}

#[test]
fn old_updates_become_one_entry() {
    let mut live = Live::deployment();
    for n in 0..UPDATE_MANAGERS_MAX + 3 {
        live.update(&format!("m{n}"), "", |value| value["metadata"]["labels"][format!("l{n}")] = json!("x"));
    }
    let entries = decode(&live.value);
    assert_eq!((entries.len(), &*entries[0].manager), (UPDATE_MANAGERS_MAX, ANCIENT));
    assert_eq!(live.managed(ANCIENT).len(), 4);
}

#[test]
fn what_has_no_schema_is_granular_in_objects_and_atomic_in_lists() {
    let mut live = Live::new("", "example.com/v1");
    live.apply("a", &json!({"spec": {"size": {"x": 1}, "list": [{"name": "a"}]}}));
    live.apply("b", &json!({"spec": {"size": {"y": 2}}}));
    assert_eq!(live.value["spec"], json!({"size": {"x": 1, "y": 2}, "list": [{"name": "a"}]}));
    assert_eq!(live.managed("a"), [".spec.list", ".spec.size.x"]);
}

/// A small random pod from a generator without state to share: every value is chosen by one number of the sequence.
fn random_config(seed: &mut u64) -> Value {
    let mut choose = |below: u64| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % below
    };
    let mut config = json!({"metadata": {}, "spec": {}});
    for label in ["a", "b", "c"] {
        if choose(2) == 0 {
            config["metadata"]["labels"][label] = json!(choose(3).to_string());
        }
    }
    if choose(2) == 0 {
        config["spec"]["hostname"] = json!(choose(3).to_string());
    }
    let mut list = Vec::new();
    for name in ["x", "y", "z"] {
        if choose(2) == 0 {
            let mut container = json!({"name": name, "image": choose(3).to_string()});
            if choose(2) == 0 {
                container["args"] = json!([choose(3).to_string()]);
            }
            list.insert(usize::try_from(choose(list.len() as u64 + 1)).unwrap(), container);
        }
    }
    if !list.is_empty() {
        config["spec"]["containers"] = json!(list);
    }
    config
}

/// Every leaf of `part` is in `whole`, items found by their name.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|whole| contains(whole, value)))
        }
        (Value::Array(whole), Value::Array(part)) if part.iter().all(Value::is_object) => {
            part.iter().all(|item| whole.iter().any(|whole| whole["name"] == item["name"] && contains(whole, item)))
        }
        _ => whole == part,
    }
}

#[test]
fn whatever_managers_want_in_whatever_order() {
    for seed in 0..400 {
        let mut live = Live::pod();
        let mut random = seed;
        for step in 0..6 {
            let manager = ["a", "b", "c"][step % 3];
            let config = random_config(&mut random);
            live.seconds = 0;
            live.try_apply(manager, &config, true).unwrap();
            let applied = live.value.clone();
            assert!(contains(&applied, &config), "seed {seed}, step {step}: {config} is not in {applied}");
            live.try_apply(manager, &config, false).unwrap_or_else(|why| panic!("seed {seed}, step {step}: {why:?}"));
            live.value["metadata"]["managedFields"] = applied["metadata"]["managedFields"].clone();
            assert_eq!(live.value, applied, "seed {seed}, step {step}: a second time changes nothing");
        }
        for manager in ["a", "b", "c"] {
            live.apply(manager, &json!({}));
        }
        assert_eq!(live.value, json!({"metadata": {"name": "x"}}), "seed {seed}: nobody wants anything");
    }
}
