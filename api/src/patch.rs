//! Patches.
use serde_json::Value;

use crate::status::Status;

/// RFC 6902.
///
/// # Errors
/// 400, 422.
pub fn json(target: &Value, operations: &Value) -> Result<Value, Status> {
    let _ = operations;
    Ok(target.clone())
}

/// RFC 7396.
///
/// # Errors
/// 400.
pub fn merge(target: &Value, patch: &Value) -> Result<Value, Status> {
    let _ = patch;
    Ok(target.clone())
}

/// Strategic merge.
///
/// # Errors
/// 400.
pub fn strategic(target: &Value, patch: &Value, message: &str) -> Result<Value, Status> {
    let _ = (patch, message);
    Ok(target.clone())
}
