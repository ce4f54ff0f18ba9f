//! Request bodies: read within a bound, decoded by their media type.

use api::Status;
use api::json::Decoded;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};
use serde_json::Value;

use crate::limits::BODY_BYTES_MAX;
use crate::negotiate::{self, PatchType, Syntax};
use crate::{Body, BoxError};

/// Reads a whole body; 413 when it is longer than [`BODY_BYTES_MAX`].
pub(crate) async fn read(body: Body) -> Result<Bytes, Status> {
    // Boxed, because the compiler cannot see that `Limited` is `Send` for every lifetime of its error.
    let collected: BoxFuture<'static, Result<Collected<Bytes>, BoxError>> =
        Box::pin(Limited::new(body, BODY_BYTES_MAX).collect());
    match collected.await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::too_large(BODY_BYTES_MAX)),
        Err(error) => Err(Status::bad_request(format!("the request body could not be read: {error}"))),
    }
}

/// The media type a body says it has.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Decodes an object.
pub(crate) fn decode(syntax: Syntax, bytes: &[u8]) -> Result<Decoded, Status> {
    let decoded = match syntax {
        Syntax::Json => api::json::decode(bytes)?,
        Syntax::Yaml => api::yaml::decode(bytes)?,
        Syntax::Protobuf => Decoded { value: api::protobuf::decode(bytes)?, duplicates: Vec::new() },
    };
    if decoded.value.is_object() { Ok(decoded) } else { Err(Status::bad_request("the body is not an object")) }
}

/// Reads and decodes an object.
pub(crate) async fn object(headers: &HeaderMap, body: Body) -> Result<Decoded, Status> {
    // Refused before it is read: nobody waits for 3 MiB of the wrong type.
    let syntax = negotiate::syntax(content_type(headers))?;
    decode(syntax, &read(body).await?)
}

/// Reads and decodes options that may be absent; `Null` when they are.
pub(crate) async fn options(headers: &HeaderMap, body: Body) -> Result<Value, Status> {
    let bytes = read(body).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    Ok(decode(negotiate::syntax(content_type(headers))?, &bytes)?.value)
}

/// Reads and decodes a patch.
pub(crate) async fn patch(headers: &HeaderMap, body: Body) -> Result<(PatchType, Decoded), Status> {
    let type_ = negotiate::patch_type(content_type(headers))?;
    let bytes = read(body).await?;
    // Apply may be YAML, which JSON is too; the JSON reader is much faster.
    let yaml = type_ == PatchType::Apply && bytes.first() != Some(&b'{');
    let decoded = if yaml { api::yaml::decode(&bytes)? } else { api::json::decode(&bytes)? };
    Ok((type_, decoded))
}
