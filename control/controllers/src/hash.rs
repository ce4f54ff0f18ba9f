//! Hashes that name things: the same content gives the same letters on every member and in every release.

use std::fmt::Write as _;

use serde_json::Value;

/// As in every generated name of Kubernetes: no vowels, so that no word comes out by accident.
const HASH_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a over the parts, with a final mix so that close inputs end far apart.
pub(crate) fn hash64(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// Ten letters that follow from the template alone (and from how often that gave a name already taken).
pub(crate) fn template_hash(template: &Value, collisions: i64) -> String {
    let mut text = String::new();
    canonical(template, &mut text);
    let mut hash = hash64(&[&text, &collisions.to_string()]);
    let letter = |_| {
        let letter = HASH_LETTERS[(hash % 27) as usize];
        hash /= 27;
        char::from(letter)
    };
    (0..10).map(letter).collect()
}

/// JSON with sorted names: the same value always gives the same text.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut names: Vec<_> = map.keys().collect();
            names.sort();
            out.push('{');
            for name in names {
                let _ = write!(out, "{name:?}:");
                canonical(&map[name.as_str()], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for item in list {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_follows_the_content_not_the_order() {
        let one = json!({"spec": {"a": 1, "b": [true, "x"]}});
        let other: Value = serde_json::from_str(r#"{"spec": {"b": [true, "x"], "a": 1}}"#).expect("valid JSON");
        assert_eq!(template_hash(&one, 0), template_hash(&other, 0));
        assert_ne!(template_hash(&one, 0), template_hash(&one, 1));
        assert_ne!(template_hash(&one, 0), template_hash(&json!({"spec": {"a": 2}}), 0));
        assert_eq!(template_hash(&one, 0).len(), 10);
    }
}
