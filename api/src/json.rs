//! Reading JSON the way a strict API server must: depth bounded, duplicate keys found, numbers kept exact.
//!
//! The same visitor reads YAML (see [`crate::yaml`]), so both report duplicates with the same paths.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::limits::{DEPTH_MAX, PROBLEMS_MAX};
use crate::status::Status;

/// A document and what was wrong with it but did not keep it from being read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The document; of duplicate keys the last one counts, as in Go.
    pub value: Value,
    /// Paths of keys that occur more than once, such as `spec.replicas`; at most [`PROBLEMS_MAX`].
    pub duplicates: Vec<String>,
}

/// Reads one JSON document.
///
/// # Errors
/// 400 when the bytes are not exactly one JSON document or nest deeper than [`DEPTH_MAX`].
pub fn decode(bytes: &[u8]) -> Result<Decoded, Status> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut duplicates = Vec::new();
    let mut path = Vec::new();
    let seed = Seed { path: &mut path, duplicates: &mut duplicates, budget: None };
    let value = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    let value = value.map_err(|error| Status::bad_request(format!("json parse error: {error}")))?;
    Ok(Decoded { value, duplicates })
}

/// One step of a path.
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// `spec.containers[0].image`.
pub(crate) fn spell(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// Builds a [`Value`]; `budget` bounds how many bytes a document may unfold to, where a format has aliases.
pub(crate) struct Seed<'a> {
    pub(crate) path: &'a mut Vec<Step>,
    pub(crate) duplicates: &'a mut Vec<String>,
    pub(crate) budget: Option<&'a mut usize>,
}

impl Seed<'_> {
    fn nested(&mut self) -> Seed<'_> {
        Seed { path: self.path, duplicates: self.duplicates, budget: self.budget.as_deref_mut() }
    }

    /// Takes what a value costs from the budget.
    fn charge<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        if let Some(budget) = &mut self.budget {
            let rest = budget.checked_sub(bytes).ok_or_else(|| E::custom("the document unfolds to too much"))?;
            **budget = rest;
        }
        Ok(())
    }

    fn enter<E: Error>(&mut self, step: Step) -> Result<(), E> {
        let text_bytes = if let Step::Key(key) = &step { key.len() } else { 0 };
        self.charge(size_of::<Value>() + text_bytes)?;
        if self.path.len() >= DEPTH_MAX {
            return Err(E::custom(format!("exceeded max depth of {DEPTH_MAX}")));
        }
        self.path.push(step);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: Error>(mut self, value: &str) -> Result<Value, E> {
        self.charge(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(mut self, value: String) -> Result<Value, E> {
        self.charge(value.len())?;
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            self.enter(Step::Index(items.len()))?;
            let item = sequence.next_element_seed(self.nested())?;
            self.path.pop();
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(Key(key)) = map.next_key()? {
            self.enter(Step::Key(key.clone()))?;
            let value = map.next_value_seed(self.nested())?;
            if members.insert(key, value).is_some() && self.duplicates.len() < PROBLEMS_MAX {
                self.duplicates.push(spell(self.path));
            }
            self.path.pop();
        }
        Ok(Value::Object(members))
    }
}

/// A map key. YAML has keys that are not text; they are written as text, as `sigs.k8s.io/yaml` does.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(Key(key.to_owned()))
            }
            fn visit_string<E>(self, key: String) -> Result<Key, E> {
                Ok(Key(key))
            }
            fn visit_bool<E>(self, key: bool) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }
            fn visit_i64<E>(self, key: i64) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }
            fn visit_u64<E>(self, key: u64) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }
            fn visit_f64<E>(self, key: f64) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_found_and_the_last_counts() {
        let decoded = decode(br#"{"spec":{"a":[{"b":1,"b":2}],"a2":1},"spec2":0}"#).unwrap();
        assert_eq!(decoded.duplicates, ["spec.a[0].b"]);
        assert_eq!(decoded.value, json!({"spec": {"a": [{"b": 2}], "a2": 1}, "spec2": 0}));
    }

    #[test]
    fn numbers_stay_exact() {
        let text = r#"[9223372036854775807,18446744073709551615,-9223372036854775808,0.1,1e300]"#;
        let value = decode(text.as_bytes()).unwrap().value;
        assert_eq!(value[0].as_i64(), Some(i64::MAX));
        assert_eq!(value[1].as_u64(), Some(u64::MAX));
        assert_eq!(value[2].as_i64(), Some(i64::MIN));
        assert_eq!(value[3].as_f64(), Some(0.1));
    }

    #[test]
    fn refusals() {
        let deep = format!("{}1{}", "[".repeat(101), "]".repeat(101));
        for bad in ["", "{", "{}{}", "{a:1}", "[1,]", "nul", deep.as_str()] {
            assert_eq!(decode(bad.as_bytes()).unwrap_err().code, 400, "{bad}");
        }
        let fine = format!("{}1{}", "[".repeat(99), "]".repeat(99));
        assert!(decode(fine.as_bytes()).is_ok());
    }
}
