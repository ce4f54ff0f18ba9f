//! What holds of server-side apply whatever is applied: seeded, with fragments that meet in the same lists and maps. A
//! failure prints its seed.

use super::*;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).expect("the bound fits")
    }
}

/// Parts of a Deployment that no two of which set the same field, with where each stands.
fn fragments() -> Vec<(&'static str, Value)> {
    let pod = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let container = |more: Value| {
        let mut container = json!({"name": "web"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        pod(json!({"containers": [container]}))
    };
    let c = "/spec/template/spec/containers/0";
    vec![
        ("/metadata/labels/a", json!({"metadata": {"labels": {"a": "1"}}})),
        ("/metadata/labels/b", json!({"metadata": {"labels": {"b": "2"}}})),
        ("/metadata/annotations/x", json!({"metadata": {"annotations": {"x": "y"}}})),
        ("/metadata/finalizers/0", json!({"metadata": {"finalizers": ["example.com/one"]}})),
        ("/spec/replicas", json!({"spec": {"replicas": 3}})),
        ("/spec/paused", json!({"spec": {"paused": true}})),
        ("/spec/minReadySeconds", json!({"spec": {"minReadySeconds": 7}})),
        ("/spec/selector", json!({"spec": {"selector": {"matchLabels": {"app": "web"}}}})),
        ("/spec/strategy/rollingUpdate/maxSurge", json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1}}}})),
        ("/spec/template/spec/nodeSelector", pod(json!({"nodeSelector": {"disk": "fast"}}))),
        ("/spec/template/spec/tolerations", pod(json!({"tolerations": [{"key": "k", "operator": "Exists"}]}))),
        ("/spec/template/spec/volumes/0", pod(json!({"volumes": [{"name": "v", "emptyDir": {}}]}))),
        (c, container(json!({"image": "web:1"}))),
        (c, container(json!({"args": ["--fast"]}))),
        (c, container(json!({"env": [{"name": "A", "value": "1"}]}))),
        (c, container(json!({"ports": [{"containerPort": 80, "protocol": "TCP"}]}))),
        (c, container(json!({"resources": {"limits": {"memory": "1Mi"}}}))),
        ("/spec/template/spec/containers/1", pod(json!({"containers": [{"name": "side", "image": "side:1"}]}))),
    ]
}

fn shape() -> Shape<'static> {
    Shape::of_message("k8s.io/api/apps/v1.Deployment")
}

/// One configuration of several fragments.
fn joined<'f>(fragments: impl Iterator<Item = &'f (&'static str, Value)>) -> Value {
    fragments.fold(json!({}), |whole, (_, fragment)| merge(shape(), &whole, fragment))
}

fn applied(live: &Value, manager: &str, config: &Value, second: u32) -> Value {
    let now = format!("2026-01-01T00:00:{second:02}Z");
    let writer = Writer { manager, api_version: "apps/v1", subresource: "", now: &now };
    apply(shape(), live, config, &writer, false).unwrap_or_else(|conflicts| panic!("{conflicts:?}"))
}

/// Without what must differ: times, and the order of items that have keys.
fn settled(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| *name != "time");
            kept.map(|(name, value)| (name.clone(), settled(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(settled).collect();
            items.sort_by_key(Value::to_string);
            items.into()
        }
        other => other.clone(),
    }
}

fn each(story: impl Fn(&mut Random)) {
    struct Told(u64);
    impl Drop for Told {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}", self.0);
            }
        }
    }
    for seed in 0..300 {
        let told = Told(seed);
        story(&mut Random(seed));
        drop(told);
    }
}

fn start() -> Value {
    json!({"metadata": {"name": "x"}})
}

#[test]
fn applying_again_changes_nothing() {
    each(|random| {
        let all = fragments();
        let (mine, others): (Vec<_>, Vec<_>) = all.iter().partition(|_| random.below(2) == 0);
        let live = applied(&start(), "other", &joined(others.into_iter()), 1);
        let config = joined(mine.into_iter());
        let once = applied(&live, "me", &config, 2);
        assert_eq!(applied(&once, "me", &config, 3), once);
    });
}

#[test]
fn appliers_that_do_not_meet_may_come_in_any_order() {
    each(|random| {
        let all = fragments();
        let owner: Vec<usize> = all.iter().map(|_| random.below(3)).collect();
        let of = |who: usize| joined(all.iter().zip(&owner).filter(|(_, owner)| **owner == who).map(|(one, _)| one));
        let (a, b) = (of(0), of(1));
        let ab = applied(&applied(&start(), "a", &a, 1), "b", &b, 2);
        let ba = applied(&applied(&start(), "b", &b, 1), "a", &a, 2);
        assert_eq!(settled(&ab), settled(&ba));
    });
}

#[test]
fn what_is_withdrawn_disappears_and_nothing_else() {
    each(|random| {
        let all = fragments();
        let (mine, others): (Vec<_>, Vec<_>) = all.iter().partition(|_| random.below(3) > 0);
        if mine.is_empty() {
            return;
        }
        let gone = random.below(mine.len());
        let others = joined(others.into_iter());
        let whole = applied(&applied(&start(), "other", &others, 1), "me", &joined(mine.iter().copied()), 2);
        let rest = joined(mine.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, one)| *one));
        let less = applied(&whole, "me", &rest, 3);
        // The same as if it had never been wanted.
        let never = applied(&applied(&start(), "other", &others, 1), "me", &rest, 2);
        assert_eq!(settled(&less), settled(&never), "withdrawn: {}", mine[gone].0);
    });
}

#[test]
fn nobody_owns_what_is_not_there_and_all_that_is_there_is_owned() {
    each(|random| {
        let all = fragments();
        let mut live = start();
        for second in 0..6 {
            let some: Vec<_> = all.iter().filter(|_| random.below(2) == 0).collect();
            let manager = ["a", "b", "c"][random.below(3)];
            live = applied(&live, manager, &joined(some.into_iter()), second);
            let there = managed_part(fields_of(shape(), &live), shape(), "");
            let owned = decode(&live).iter().fold(FieldSet::default(), |all, entry| all.union(&entry.fields));
            assert_eq!(owned.minus(&there).paths(), [""; 0], "owned, but not there");
            assert_eq!(there.minus(&owned).paths(), [""; 0], "there, but nobody's");
        }
    });
}
