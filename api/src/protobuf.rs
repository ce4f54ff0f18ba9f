//! Protobuf.
use serde_json::Value;

use crate::status::Status;

/// Decodes an envelope.
///
/// # Errors
/// 400.
pub fn decode(bytes: &[u8]) -> Result<Value, Status> {
    let _ = bytes;
    Err(Status::bad_request("not protobuf"))
}
