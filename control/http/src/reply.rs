//! What is sent back, before and after it becomes an HTTP response.
//!
//! A [`Reply`] holds its content as parts, so that a list hands out each object's stored bytes without copying them;
//! compression, lengths and headers are added in one place.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use api::Status;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::limits::{FRAME_BYTES, GZIP_BYTES_MIN};
use crate::{Body, BoxError};

/// `application/json`.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// `text/plain`.
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The content of a reply.
pub(crate) enum Content {
    /// All of it is known.
    Parts(Vec<Bytes>),
    /// It comes piece by piece and is never compressed.
    Stream(Body),
}

/// What is sent back.
pub(crate) struct Reply {
    pub(crate) code: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) content: Content,
}

impl Reply {
    /// Bytes of that type.
    pub(crate) fn bytes(code: StatusCode, type_: HeaderValue, bytes: impl Into<Bytes>) -> Self {
        Self { code, headers: vec![(header::CONTENT_TYPE, type_)], content: Content::Parts(vec![bytes.into()]) }
    }

    /// A JSON document that is encoded already.
    pub(crate) fn json(code: StatusCode, bytes: impl Into<Bytes>) -> Self {
        Self::bytes(code, JSON, bytes)
    }

    /// A JSON document.
    pub(crate) fn value(code: StatusCode, value: &Value) -> Self {
        Self::json(code, value.to_string())
    }

    /// A JSON document in several parts.
    pub(crate) fn parts(parts: Vec<Bytes>) -> Self {
        Self { code: StatusCode::OK, headers: vec![(header::CONTENT_TYPE, JSON)], content: Content::Parts(parts) }
    }

    /// A stream of that type.
    pub(crate) fn stream(type_: HeaderValue, body: Body) -> Self {
        Self { code: StatusCode::OK, headers: vec![(header::CONTENT_TYPE, type_)], content: Content::Stream(body) }
    }

    /// A refusal.
    pub(crate) fn status(status: &Status) -> Self {
        let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut reply = Self::value(code, &status.to_value());
        if status.retry_after_seconds > 0 {
            reply.headers.push((header::RETRY_AFTER, HeaderValue::from(status.retry_after_seconds)));
        }
        reply
    }

    /// Adds a header.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds `Warning: 299 - "…"` headers (RFC 7234 §5.5); text that a header cannot carry is escaped.
    pub(crate) fn warn(mut self, warnings: &[String]) -> Self {
        for warning in warnings {
            let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"");
            let printable: String = escaped.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{printable}\"")) {
                self.headers.push((header::WARNING, value));
            }
        }
        self
    }

    /// The HTTP response; compressed when the client accepts that and it is worth it.
    pub(crate) async fn into_response(self, gzip: bool) -> Response<Body> {
        let mut response = Response::new(());
        *response.status_mut() = self.code;
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        let uncached = HeaderValue::from_static("no-cache, private");
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert(uncached);
        let mut parts = match self.content {
            Content::Stream(body) => return response.map(|()| body),
            Content::Parts(parts) => parts,
        };
        if gzip && length(&parts) > GZIP_BYTES_MIN {
            let plain = parts.clone();
            // Compressing megabytes would hold up every other request of this thread.
            if let Ok(packed) = tokio::task::spawn_blocking(move || compress(&plain)).await {
                parts = vec![packed];
                response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            }
        }
        if self.code != StatusCode::NOT_MODIFIED {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length(&parts)));
        }
        response.map(|()| Parts(parts.into()).map_err(|never| match never {}).boxed_unsync())
    }
}

fn length(parts: &[Bytes]) -> usize {
    parts.iter().map(Bytes::len).sum()
}

fn compress(parts: &[Bytes]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for part in parts {
        encoder.write_all(part).expect("a Vec takes every write");
    }
    encoder.finish().expect("a Vec takes every write").into()
}

/// A body of known parts: its length is known, its bytes are shared.
struct Parts(VecDeque<Bytes>);

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(first) = self.0.pop_front() else { return Poll::Ready(None) };
        if first.len() >= FRAME_BYTES || self.0.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        // Small parts travel together: a frame per object would cost more than this copy.
        let mut frame = BytesMut::with_capacity(FRAME_BYTES);
        frame.extend_from_slice(&first);
        while let Some(next) = self.0.front() {
            if frame.len() + next.len() > FRAME_BYTES {
                break;
            }
            frame.extend_from_slice(next);
            self.0.pop_front();
        }
        Poll::Ready(Some(Ok(Frame::data(frame.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}

/// The answer to a HEAD: what a GET would get, but for the content. HTTP/2 clients break the connection over one.
pub(crate) fn headless(response: Response<Body>) -> Response<Body> {
    response.map(|_| Parts(VecDeque::new()).map_err(|never| match never {}).boxed_unsync())
}

/// A body from any other one.
pub(crate) fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[tokio::test]
    async fn large_answers_are_compressed_on_request() {
        let text = "kogia ".repeat(GZIP_BYTES_MIN);
        let (half, rest) = text.split_at(text.len() / 2);
        let reply = || Reply::parts(vec![Bytes::from(half.to_owned()), Bytes::from(rest.to_owned())]);
        let plain = reply().into_response(false).await;
        assert!(plain.headers().get(header::CONTENT_ENCODING).is_none());
        assert_eq!(http_body::Body::size_hint(plain.body()).exact(), Some(text.len() as u64));
        let packed = reply().into_response(true).await;
        assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
        let head = headless(reply().into_response(false).await);
        assert_eq!(head.headers()[header::CONTENT_LENGTH], text.len().to_string());
        assert!(http_body::Body::is_end_stream(head.body()));
        let bytes = packed.into_body().collect().await.unwrap().to_bytes();
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut unpacked).unwrap();
        assert!(unpacked == text);
    }

    #[test]
    fn warnings_are_quoted() {
        let reply = Reply::json(StatusCode::OK, "{}").warn(&[r#"unknown field "spec.replicaz""#.into()]);
        assert_eq!(reply.headers[1].1, r#"299 - "unknown field \"spec.replicaz\"""#);
    }
}
