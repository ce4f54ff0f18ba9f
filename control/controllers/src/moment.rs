//! Moments: objects write them as RFC 3339, the controllers count milliseconds since 1970.

use api::Object;
use serde_json::Value;

/// Milliseconds since 1970 of a timestamp field; `None` when absent or unreadable.
pub(crate) fn ms(value: &Value) -> Option<i64> {
    api::time::parse(value.as_str()?)
}

/// When an object was created; 0 when it does not say.
pub(crate) fn created(object: &Object) -> i64 {
    api::time::parse(object.creation_timestamp()).unwrap_or(0)
}

/// How long from `now_ms` until `due_ms`, as an `Action::Again` wants it: never zero, so that the next turn is later.
pub(crate) fn until(due_ms: i64, now_ms: i64) -> u64 {
    u64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(0).max(1)
}
