//! One plain HTTP request, as a browser would send it to the Ingress.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits;

/// An answer.
pub struct Response {
    pub status: u16,
    pub body: Bytes,
}

/// GETs `path` from the server at `address`, with `authority` as the host asked for.
pub async fn get(address: SocketAddr, authority: &str, path: &str) -> anyhow::Result<Response> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().uri(path).header(HOST, authority).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), limits::RESPONSE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the response broke off: {error}"))?.to_bytes();
        connection.abort();
        Ok(Response { status, body })
    };
    timeout(limits::REQUEST_WAIT, exchange).await.with_context(|| format!("{address} did not answer in time"))?
}
