//! The one body type that travels between the Ingress, the fabric and the engine.
//!
//! It is not `Sync`: a guest's stream can be read from one place only.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// Why a body ended early.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A stream of bytes and, at its end, trailers.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body without bytes.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(never).boxed_unsync()
}

/// Any other body of bytes.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A body that keeps something until it has been read or dropped.
pub fn held<T: Send + 'static>(body: Body, keep: Option<T>) -> Body {
    match keep {
        Some(keep) => body
            .map_frame(move |frame| {
                let _ = &keep;
                frame
            })
            .boxed_unsync(),
        None => body,
    }
}

fn never(impossible: Infallible) -> BoxError {
    match impossible {}
}
