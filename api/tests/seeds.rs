//! Random objects of every resource through the whole way in: nothing may panic, and every step must be at peace with
//! the one before. A failure prints its seed; put it into `SEEDS` to see it again.

use api::schema::{Field, Message, Schema, Shape, Type};
use api::{Catalog, check, defaults, json, patch, protobuf, validate, yaml};
use serde_json::{Map, Value, json};

/// How many seeds each story tries.
const SEEDS: std::ops::Range<u64> = 0..40;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("the bound fits")
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

const TEXTS: &[&str] =
    &["", "a", "web", "RollingUpdate", "Always", "ClusterIP", "None", "x/y", "-", "é", "10.0.0.1", "25%", "*"];

fn value(random: &mut Random, kind: &Type) -> Value {
    match kind {
        Type::String => json!(random.pick(TEXTS)),
        Type::Bool => json!(random.below(2) == 0),
        Type::Int32 | Type::Int64 => json!(*random.pick(&[-1, 0, 1, 80, 65_536])),
        Type::Double => json!(0.5),
        Type::Bytes => json!(random.pick(&["", "AA=="])),
        Type::Quantity => json!(random.pick(&["0", "100m", "1.5Gi", "-1", "1e3", "99E"])),
        Type::IntOrString => random.pick(&[json!(0), json!(3), json!("25%"), json!("http"), json!("%")]).clone(),
        Type::Time | Type::MicroTime => json!("2024-01-01T00:00:00.123456+01:00"),
        Type::Duration => json!("1h"),
        Type::Raw => random.pick(&[json!(null), json!({"a": [1]}), json!("x")]).clone(),
        Type::Message(name) => message(random, Schema::builtin().message(name).expect("the table is closed")),
    }
}

fn field(random: &mut Random, field: &Field) -> Value {
    let count = random.below(3);
    match field.shape {
        Shape::One => value(random, &field.kind),
        Shape::List => (0..count).map(|_| value(random, &field.kind)).collect(),
        Shape::Map => (0..count).map(|n| (format!("k{n}"), value(random, &field.kind))).collect::<Map<_, _>>().into(),
        Shape::MapOfLists => json!({"k": ["a"]}),
    }
}

/// Fields are left out at random, so that no object grows without bound.
fn message(random: &mut Random, message: &Message) -> Value {
    let mut map = Map::new();
    for one in message.fields.iter().filter(|one| one.message() != Some(&*message.name)) {
        match random.below(8) {
            0..4 => drop(map.insert(one.json.to_string(), field(random, one))),
            4 => drop(map.insert(one.json.to_string(), Value::Null)),
            _ => {}
        }
    }
    Value::Object(map)
}

fn each(story: impl Fn(&mut Random, &api::Resource, Value)) {
    for resource in Catalog::builtin().iter() {
        for seed in SEEDS {
            let mut random = Random(seed);
            let object = message(&mut random, Schema::builtin().message(&resource.message).expect("rows are whole"));
            let told = Told(&resource.name, seed);
            story(&mut random, resource, object);
            drop(told);
        }
    }
}

/// Tells the seed when the story ends badly.
struct Told<'a>(&'a str, u64);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} with seed {}", self.0, self.1);
        }
    }
}

#[test]
fn what_is_checked_stays_as_it_is() {
    each(|_, resource, mut object| {
        assert_eq!(check::check(&mut object, &resource.message).unwrap(), [""; 0]);
        let once = object.clone();
        check::check(&mut object, &resource.message).unwrap();
        assert_eq!(object, once);
    });
}

#[test]
fn defaults_are_values_that_a_client_could_have_sent() {
    each(|_, resource, mut object| {
        check::check(&mut object, &resource.message).unwrap();
        defaults::apply(resource, &mut object);
        let once = object.clone();
        defaults::apply(resource, &mut object);
        assert_eq!(object, once, "applying them again changes nothing");
        assert_eq!(check::check_applied(&mut object, &resource.message).unwrap(), [""; 0]);
        assert_eq!(object, once, "they are spelled as the checker spells them");
    });
}

#[test]
fn any_object_can_be_judged() {
    each(|random, resource, mut old| {
        let mut new = message(random, Schema::builtin().message(&resource.message).unwrap());
        for object in [&mut old, &mut new] {
            check::check(object, &resource.message).unwrap();
            defaults::apply(resource, object);
        }
        // What is found does not matter here, only that looking is safe.
        let _ = (validate::create(resource, &old), validate::update(resource, &old, &new));
        for part in &resource.subresources {
            let _ = validate::update_part(resource, part.name, &old, &new);
        }
        let unchanged = validate::update(resource, &old, &old);
        assert!(unchanged.iter().all(|cause| !cause.message.contains("immutable")), "{unchanged:?}");
    });
}

#[test]
fn patching_an_object_with_itself_keeps_it() {
    each(|random, resource, mut target| {
        check::check(&mut target, &resource.message).unwrap();
        let merged = patch::merge(&target, &target).unwrap();
        assert_eq!(merged, target);
        // Random lists may repeat a merge key or lack one: then a refusal is as good.
        let other = message(random, Schema::builtin().message(&resource.message).unwrap());
        if let Ok(mut patched) = patch::strategic(&target, &other, &resource.message) {
            check::check(&mut patched, &resource.message).unwrap();
        }
    });
}

#[test]
fn broken_bytes_are_refused_politely() {
    let whole = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}"#;
    let mut envelope =
        b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x0d\x0a\x03\x0a\x01a\x12\x06\x12\x04\x0a\x02aa".to_vec();
    assert!(protobuf::decode(&envelope).is_ok());
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let mut text = whole.to_vec();
        for bytes in [&mut text, &mut envelope] {
            let at = random.below(bytes.len());
            bytes[at] = random.next().to_le_bytes()[0];
        }
        let _ = (json::decode(&text), yaml::decode(&text), protobuf::decode(&envelope));
    }
}
