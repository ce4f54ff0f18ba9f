//! As much of gRPC as the benches need to drive a peer: unary calls and one streaming call over HTTP/2, and protobuf
//! written and read field by field. No generated code, and no compiler for it.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::limits;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Length of the head of each message: one byte of flags, four of length.
const HEAD_BYTES: usize = 5;

/// One HTTP/2 connection. Clones share it.
#[derive(Clone)]
pub struct Channel {
    sender: http2::SendRequest<Body>,
    address: SocketAddr,
}

impl Channel {
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let tcp = tokio::net::TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, address })
    }

    /// One message there, one message back.
    pub async fn call(&self, method: &str, message: &[u8]) -> anyhow::Result<Bytes> {
        let response = self.send(method, Full::new(framed([message])).boxed_unsync()).await?;
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let status = collected.trailers().and_then(|trailers| trailers.get("grpc-status"));
        let status = status.or_else(|| head.headers.get("grpc-status")).cloned();
        anyhow::ensure!(status.as_ref().is_some_and(|status| status == "0"), "{method} answered {status:?}");
        let mut bytes = collected.to_bytes();
        anyhow::ensure!(bytes.len() >= HEAD_BYTES, "{method} answered without a message");
        bytes.advance(HEAD_BYTES);
        Ok(bytes)
    }

    /// Sends all messages, keeps the request open, and returns the messages that come back.
    pub async fn stream(&self, method: &str, messages: &[Vec<u8>]) -> anyhow::Result<Messages> {
        let all = framed(messages.iter().map(Vec::as_slice));
        let body = stream::once(async { Ok(Frame::data(all)) }).chain(stream::pending());
        let response = self.send(method, StreamBody::new(body).boxed_unsync()).await?;
        Ok(Messages { body: response.into_body(), rest: BytesMut::new() })
    }

    async fn send(&self, method: &str, body: Body) -> anyhow::Result<Response<Incoming>> {
        let request = Request::post(format!("http://{}/{method}", self.address));
        let request = request.header("content-type", "application/grpc").header("te", "trailers").body(body)?;
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        anyhow::ensure!(response.status() == 200, "{method} answered {}", response.status());
        Ok(response)
    }
}

/// What a streaming call returns, message by message.
pub struct Messages {
    body: Incoming,
    rest: BytesMut,
}

impl Messages {
    pub async fn next(&mut self) -> anyhow::Result<Bytes> {
        loop {
            if let Some(mut head) = self.rest.get(1..HEAD_BYTES) {
                let length = head.get_u32() as usize;
                anyhow::ensure!(length <= limits::RESPONSE_BYTES_MAX, "a message of {length} bytes");
                if self.rest.len() >= HEAD_BYTES + length {
                    self.rest.advance(HEAD_BYTES);
                    return Ok(self.rest.split_to(length).freeze());
                }
            }
            let frame = self.body.frame().await.context("the stream ended")??;
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}

fn framed<'a>(messages: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut all = BytesMut::new();
    for message in messages {
        all.put_u8(0);
        all.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        all.put_slice(message);
    }
    all.freeze()
}

/// Appends a length-delimited field.
pub fn write_bytes(to: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    to.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        to.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    to.push(length as u8);
    to.extend_from_slice(bytes);
}

/// A field as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    Number(u64),
    Bytes(Bytes),
}

/// All fields of a message; nothing after the first that cannot be read.
pub fn fields(mut message: Bytes) -> impl Iterator<Item = (u64, Field)> {
    std::iter::from_fn(move || {
        let key = varint(&mut message)?;
        let field = match key & 7 {
            0 => Field::Number(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                (length <= message.len()).then(|| Field::Bytes(message.split_to(length)))?
            }
            _ => return None,
        };
        Some((key >> 3, field))
    })
}

fn varint(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_they_were_written() {
        let long = vec![7; 300];
        let mut message = vec![4 << 3, 0x96, 0x01];
        write_bytes(&mut message, 1, b"key");
        write_bytes(&mut message, 2, &long);
        let read: Vec<_> = fields(message.into()).collect();
        let expected = [(4, Field::Number(150)), (1, Field::Bytes("key".into())), (2, Field::Bytes(long.into()))];
        assert_eq!(read, expected);
        assert_eq!(fields(Bytes::from_static(&[0x0a, 5, 1])).count(), 0);
    }
}
