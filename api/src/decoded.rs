//! The decoded form of an object: made when somebody looks at it, given up when nobody does any more.
//!
//! Decoded, an object takes some five times its bytes, and most objects are never looked at: they are stored, sent to
//! watchers and listed as bytes. What a controller looks at it looks at again soon; what nobody has looked at for a
//! while costs its bytes only.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::encoded::Encoded;

pub(crate) const METADATA: &str = "metadata";
pub(crate) const RESOURCE_VERSION: &str = "resourceVersion";
pub(crate) const MANAGED_FIELDS: &str = "managedFields";

/// The fields of an encoded object, by name.
pub(crate) type Parts<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// An object's value without `metadata.managedFields`, which are often more than half of it and of use to writers only.
pub struct Decoded {
    json: Encoded,
    value: OnceLock<Box<Value>>,
    /// Since [`Decoded::was_looked_at`] was last asked.
    looked_at: AtomicBool,
}

impl Decoded {
    /// Of an encoded object, to be decoded when somebody looks.
    pub(crate) fn later(json: Encoded) -> Self {
        Self { json, value: OnceLock::new(), looked_at: AtomicBool::new(false) }
    }

    /// Of an object that is decoded already; `value` has no `managedFields`.
    pub(crate) fn now(json: Encoded, value: Value) -> Self {
        Self { json, value: OnceLock::from(Box::new(value)), looked_at: AtomicBool::new(true) }
    }

    pub(crate) fn json(&self) -> &Encoded {
        &self.json
    }

    pub(crate) fn is_decoded(&self) -> bool {
        self.value.get().is_some()
    }

    /// Whether somebody has looked since this was last asked.
    pub(crate) fn was_looked_at(&self) -> bool {
        self.looked_at.swap(false, Ordering::Relaxed)
    }
}

impl Deref for Decoded {
    type Target = Value;

    fn deref(&self) -> &Value {
        // Read before it is written: many threads look, and a write would take the line from all others.
        if !self.looked_at.load(Ordering::Relaxed) {
            self.looked_at.store(true, Ordering::Relaxed);
        }
        // What was stored was encoded here from a value, or its syntax was looked at when it was loaded.
        self.value.get_or_init(|| Box::new(decode(&self.json).unwrap_or_default()))
    }
}

impl PartialEq<Value> for Decoded {
    fn eq(&self, other: &Value) -> bool {
        **self == *other
    }
}

impl fmt::Debug for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Everything but `metadata.managedFields`; that part is passed over, not decoded.
fn decode(json: &Encoded) -> Option<Value> {
    let parts = json.parts()?;
    let metadata: Parts<'_> = serde_json::from_str(parts.get(METADATA)?.get()).ok()?;
    let all = |parts: &Parts<'_>, left_out: &str| -> Option<Map<String, Value>> {
        let kept = parts.iter().filter(|(name, _)| *name != left_out);
        kept.map(|(name, part)| Some((name.clone().into_owned(), serde_json::from_str(part.get()).ok()?))).collect()
    };
    let mut value = all(&parts, METADATA)?;
    let mut metadata = all(&metadata, MANAGED_FIELDS)?;
    metadata.extend(json.version().map(|version| (RESOURCE_VERSION.to_owned(), Value::String(version))));
    value.insert(METADATA.into(), Value::Object(metadata));
    Some(Value::Object(value))
}
