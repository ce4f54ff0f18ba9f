//! Machine code from the members of the cluster: what one of them has compiled, another machine need not.
//!
//! Only members are asked, through the API, and the API asks only them: machine code is run as it is, so whoever gives it
//! could do anything here. Members can have any node run what they like anyway; other nodes cannot, and must not be able to.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use engine::{CodeSource, Engine, KeptCode};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::Client;
use network::{Body, BoxError};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use crate::limits::{CODE_ASKED_MAX, CODE_BYTES_MAX, CODE_FETCH_MAX, FORWARD_PIECE_BYTES};
use crate::peers;

/// The members of the cluster as a source of machine code.
#[derive(Clone)]
pub struct MembersCode {
    client: Client,
}

impl MembersCode {
    /// Asked through this client of the API, as a node.
    #[must_use]
    pub fn new(client: Client) -> Arc<Self> {
        Arc::new(Self { client })
    }

    async fn write(&self, name: &str, to: &Path) -> Result<Option<String>, BoxError> {
        let request = Request::get(format!("/kogia/code/{name}")).body(kube::client::Body::empty())?;
        let answer = timeout(CODE_ASKED_MAX, self.client.send(request)).await??;
        if answer.status().as_u16() == StatusCode::NOT_FOUND.as_u16() {
            return Ok(None);
        }
        let sum =
            answer.headers().get(ETAG.as_str()).and_then(|tag| tag.to_str().ok()).map(|tag| tag.trim_matches('"'));
        let sum = sum.filter(|_| answer.status().is_success()).map(str::to_owned);
        let sum = sum.ok_or_else(|| format!("it is answered with {}", answer.status()))?;
        let (mut pieces, mut left) = (pin!(peers::pieces(answer.into_body())), CODE_BYTES_MAX);
        let mut file = tokio::fs::File::create(to).await?;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            left = left.checked_sub(piece.len()).ok_or_else(|| format!("it has more than {CODE_BYTES_MAX} bytes"))?;
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        Ok(Some(sum))
    }
}

impl std::fmt::Debug for MembersCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MembersCode").finish_non_exhaustive()
    }
}

impl CodeSource for MembersCode {
    fn fetch<'a>(&'a self, name: &'a str, to: &'a Path) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            let written = timeout(CODE_FETCH_MAX, self.write(name, to)).await.map_err(BoxError::from).flatten();
            match written {
                Ok(Some(sum)) => return Some(sum),
                Ok(None) => return None,
                Err(error) => tracing::debug!(name, %error, "machine code could not be fetched"),
            }
            // It may never have been made.
            let _ = tokio::fs::remove_file(to).await;
            None
        })
    }
}

/// The node's own code for another node: `GET /code/NAME`. `None` when it is not here.
pub(crate) async fn answer(engine: &Engine, name: &str) -> io::Result<Option<Response<Body>>> {
    let (engine, name) = (engine.clone(), name.to_owned());
    let kept = tokio::task::spawn_blocking(move || engine.kept_code(&name)).await.map_err(io::Error::other)??;
    let Some(KeptCode { file, size, sum }) = kept else { return Ok(None) };
    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), FORWARD_PIECE_BYTES);
    let frames = pieces.map_ok(Frame::data);
    let mut response = Response::new(network::body::boxed(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, size.into());
    headers.insert(ETAG, HeaderValue::try_from(format!("\"{sum}\"")).map_err(io::Error::other)?);
    Ok(Some(response))
}

/// How the node came to its machine code, in Prometheus' text format.
pub(crate) fn metrics(engine: &Engine) -> String {
    let counts = engine.code_counts();
    format!(
        "# HELP kogia_components_total Components loaded for the first time, by where their machine code came from.\n\
         # TYPE kogia_components_total counter\n\
         kogia_components_total{{from=\"compiler\"}} {}\n\
         kogia_components_total{{from=\"member\"}} {}\n",
        counts.compiled, counts.fetched
    )
}
