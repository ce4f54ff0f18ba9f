//! A small encoder over the same table fills every field of every message; the decoder must give it all back.

use super::*;
use serde_json::json;

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(at: u32, value: u64, out: &mut Vec<u8>) {
    varint(u64::from(at) << 3, out);
    varint(value, out);
}

fn bytes(at: u32, value: &[u8], out: &mut Vec<u8>) {
    varint(u64::from(at) << 3 | 2, out);
    varint(value.len() as u64, out);
    out.extend(value);
}

fn submessage(at: u32, fill: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    fill(&mut inner);
    bytes(at, &inner, out);
}

/// One value of a type: its JSON, and its encoding as field `at`. `above` are the messages it stands in: one that is among
/// them is left empty, so that there is an end.
fn value(kind: &Type, at: u32, above: &[&str], out: &mut Vec<u8>) -> Value {
    match kind {
        Type::String => {
            bytes(at, "text é".as_bytes(), out);
            json!("text é")
        }
        Type::Bool => {
            number(at, 1, out);
            json!(true)
        }
        Type::Int32 => {
            number(at, (-7_i64).cast_unsigned(), out);
            json!(-7)
        }
        Type::Int64 => {
            number(at, i64::MAX.cast_unsigned(), out);
            json!(i64::MAX)
        }
        Type::Double => {
            varint(u64::from(at) << 3 | 1, out);
            out.extend(0.5_f64.to_le_bytes());
            json!(0.5)
        }
        Type::Bytes => {
            bytes(at, b"\x00\xff", out);
            json!("AP8=")
        }
        Type::Quantity => {
            submessage(at, |out| bytes(1, b"100m", out), out);
            json!("100m")
        }
        Type::IntOrString => {
            let fill = |out: &mut Vec<u8>| {
                number(1, 1, out);
                number(2, 0, out);
                bytes(3, b"25%", out);
            };
            submessage(at, fill, out);
            json!("25%")
        }
        Type::Time | Type::MicroTime => {
            let fill = |out: &mut Vec<u8>| {
                number(1, 1_700_000_000, out);
                number(2, 123_456_000, out);
            };
            submessage(at, fill, out);
            json!(if *kind == Type::Time { "2023-11-14T22:13:20Z" } else { "2023-11-14T22:13:20.123456Z" })
        }
        Type::Duration => {
            submessage(at, |out| number(1, 1_500_000_000, out), out);
            json!("1.5s")
        }
        Type::Raw => {
            submessage(at, |out| bytes(1, br#"{"a":1}"#, out), out);
            json!({"a": 1})
        }
        Type::Message(name) => {
            let mut json = Value::Null;
            if above.contains(&&**name) {
                submessage(at, |_| {}, out);
                return json!({});
            }
            submessage(at, |out| json = message(Schema::builtin().message(name).unwrap(), above, out), out);
            json
        }
    }
}

fn message(message: &Message, above: &[&str], out: &mut Vec<u8>) -> Value {
    let above = &[above, &[&*message.name]].concat();
    let mut map = Map::new();
    for field in message.fields.iter().filter(|field| !field.inlined) {
        let at = field.number;
        let json = match field.shape {
            Shape::One => value(&field.kind, at, above, out),
            Shape::List => json!([value(&field.kind, at, above, out), value(&field.kind, at, above, out)]),
            Shape::Map => {
                let mut json = Value::Null;
                let fill = |out: &mut Vec<u8>| {
                    bytes(1, b"key", out);
                    json = value(&field.kind, 2, above, out);
                };
                submessage(at, fill, out);
                json!({"key": json})
            }
            Shape::MapOfLists => {
                let fill = |out: &mut Vec<u8>| {
                    bytes(1, b"key", out);
                    submessage(2, |out| bytes(1, b"one", out), out);
                };
                submessage(at, fill, out);
                json!({"key": ["one"]})
            }
        };
        map.insert(field.json.to_string(), json);
    }
    for inlined in &message.inlined {
        let nested = Schema::builtin().message(&inlined.message).unwrap();
        let mut json = Value::Null;
        submessage(inlined.number, |out| json = self::message(nested, above, out), out);
        map.extend(json.as_object().unwrap().clone());
    }
    Value::Object(map)
}

fn enveloped(api_version: &str, kind: &str, raw: &[u8], content_type: &str) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let fill = |out: &mut Vec<u8>| {
        bytes(1, api_version.as_bytes(), out);
        bytes(2, kind.as_bytes(), out);
    };
    submessage(1, fill, &mut out);
    bytes(2, raw, &mut out);
    bytes(3, b"", &mut out);
    bytes(4, content_type.as_bytes(), &mut out);
    out
}

#[test]
fn every_field_of_every_message_survives() {
    for one in Schema::builtin().messages().filter(|one| !one.name.starts_with("k8s.io/apimachinery/pkg/runtime")) {
        let mut encoded = Vec::new();
        let expected = message(one, &[], &mut encoded);
        let mut decoded = Map::new();
        fields(&encoded, one, &mut decoded, 0).unwrap_or_else(|why| panic!("{}: {why}", one.name));
        let decoded = Value::Object(decoded);
        assert_eq!(decoded, expected, "{}", one.name);
        stays(&decoded, one);
    }
}

/// JSON, strictly decoded, as it is stored, and back: nothing is unknown, nothing is lost, nothing is written otherwise.
fn stays(object: &Value, message: &Message) {
    let fields = message.fields.iter().map(|field| &*field.json);
    assert_eq!(fields.filter(|field| object.get(field).is_none()).collect::<Vec<_>>(), [""; 0], "{}", message.name);
    let mut read = json::decode(object.to_string().as_bytes()).unwrap();
    assert_eq!(read.duplicates, [""; 0]);
    let unknown = crate::check::check(&mut read.value, &message.name);
    assert_eq!(unknown.unwrap_or_else(|why| panic!("{}: {why}", message.name)), [""; 0], "{}", message.name);
    assert_eq!(read.value, *object, "{}", message.name);
    let stored = crate::Object::new(crate::Key::new("things", "default", "x"), 7, read.value);
    let mut back: Value = serde_json::from_slice(&stored.json().to_bytes()).unwrap();
    if let Some(metadata) = back.get_mut("metadata").and_then(Value::as_object_mut) {
        // The store says which revision it is; the rest is what was put in.
        assert_eq!(
            metadata.insert("resourceVersion".into(), object["metadata"]["resourceVersion"].clone()),
            Some(json!("7"))
        );
    }
    assert_eq!(back, *object, "{}", message.name);
}

#[test]
fn zero_values_are_left_out_as_gos_json_leaves_them() {
    let mut raw = Vec::new();
    let spec = |out: &mut Vec<u8>| {
        number(1, 0, out); // replicas: a pointer, so 0 is meant
        number(5, 0, out); // minReadySeconds: not a pointer
        number(7, 0, out); // paused
        submessage(4, |_| {}, out); // strategy: a struct
    };
    submessage(1, |out| submessage(8, |_| {}, out), &mut raw);
    submessage(2, spec, &mut raw);
    let decoded = decode(&enveloped("apps/v1", "Deployment", &raw, "")).unwrap();
    let expected =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": {"replicas": 0, "strategy": {}}});
    assert_eq!(decoded, expected);
}

#[test]
fn envelopes_may_hold_json_or_options_of_any_group() {
    let json = enveloped("v1", "Pod", br#"{"kind":"Pod"}"#, "application/json");
    assert_eq!(decode(&json).unwrap(), json!({"kind": "Pod"}));
    let mut raw = Vec::new();
    bytes(4, b"Background", &mut raw);
    let expected = json!({"apiVersion": "policy/v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    assert_eq!(decode(&enveloped("policy/v1", "DeleteOptions", &raw, "")).unwrap(), expected);
}

#[test]
fn malformed_bodies_are_refused() {
    let whole = enveloped("v1", "Pod", b"\x12\x04\x9a\x01\x01a", "");
    assert!(decode(&whole).is_ok());
    for end in 0..whole.len() {
        let _ = decode(&whole[..end]); // must not panic; some prefixes are complete
    }
    for bad in [
        &b"{}"[..],
        &enveloped("v1", "Nonsense", b"", ""),
        &enveloped("v1", "Pod", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", ""),
        &enveloped("v1", "Pod", b"\x0a\x01", ""),
        &enveloped("v1", "Pod", b"\x10\x01", ""),
        &enveloped("v1", "Pod", b"\x13", ""),
    ] {
        assert_eq!(decode(bad).unwrap_err().code, 400);
    }
}

/// kubectl itself is the oracle: what it sends must mean what it prints.
#[test]
fn kubectls_own_bodies_mean_what_kubectl_prints() {
    let mut records = include_str!("kubectl-1.33.txt").split("\n$ ").skip(1).peekable();
    assert!(records.peek().is_some());
    for record in records {
        let mut lines = record.lines();
        let (command, body, printed) = (lines.next().unwrap(), lines.next().unwrap(), lines.next().unwrap());
        let mut sent = decode(&STANDARD.decode(body).unwrap()).unwrap();
        let mut printed: Value = serde_json::from_str(printed).unwrap();
        for value in [&mut sent, &mut printed] {
            let (group, kind) = (value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap());
            let (group, version) = group.rsplit_once('/').unwrap_or(("", group));
            let message = &Schema::builtin().message_of(group, version, kind).unwrap().name;
            assert_eq!(crate::check::check(value, message).unwrap(), [""; 0], "{command}");
        }
        assert_eq!(sent, printed, "{command}");
    }
}
