//! Outgoing HTTP of a guest: over its pod's network, never over the host's.
//!
//! Refused: `https`, since certificates belong to what is outside the cluster and the pod network has no way there.

use crate::limits;
use bytes::Bytes;
use http::uri::Scheme;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use network::{HttpError, PodNet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

/// One instance's way out; the permits are its container's.
pub(crate) struct Outgoing {
    network: PodNet,
    permits: Arc<Semaphore>,
}

impl Outgoing {
    pub(crate) fn new(network: PodNet, permits: Arc<Semaphore>) -> Outgoing {
        Outgoing { network, permits }
    }
}

impl WasiHttpHooks for Outgoing {
    fn is_supported_scheme(&mut self, scheme: &Scheme) -> bool {
        *scheme == Scheme::HTTP
    }

    /// wasi:http leaves the default to the host; inside a cluster it is plain HTTP.
    fn default_scheme(&mut self) -> Option<Scheme> {
        Some(Scheme::HTTP)
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _response_processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let network = self.network.clone();
        let permit = self.permits.clone().try_acquire_owned();
        Box::new(async move {
            let permit = permit.map_err(|_| Error::ConnectionLimitReached)?;
            let authority = request.uri().authority().ok_or(Error::HttpRequestUriInvalid)?.as_str().to_owned();
            let response = network.http(&authority, request.map(network::body::boxed));
            let response = tokio::time::timeout(patience(options), response).await;
            let response = match response.map_err(|_| Error::HttpResponseTimeout)? {
                Ok(response) => response,
                Err(error) => refused(&error)?,
            };
            let response = response.map(|body| {
                Held { body: body.map_err(|_| Error::HttpResponseIncomplete).boxed_unsync(), _permit: permit }
                    .boxed_unsync()
            });
            let done: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(std::future::ready(Ok(())));
            Ok((response, done))
        })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        limits::BODY_CHUNKS_MAX - 1
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        limits::CHUNK_BYTES_MAX
    }
}

/// What a caller on a wire would see: an error where nothing was answered, else the callee's own failure as a response.
fn refused(error: &HttpError) -> Result<http::Response<network::Body>, Error> {
    match error {
        HttpError::ConnectionRefused => Err(Error::ConnectionRefused),
        HttpError::NameNotFound(_) => Err(Error::DnsError { rcode: Some("NXDOMAIN".into()), info_code: None }),
        HttpError::Reset => Err(Error::ConnectionTerminated),
        HttpError::Timeout | HttpError::Overloaded { .. } | HttpError::Internal(_) => Ok(error.response()),
    }
}

/// How long to wait for the response's head.
fn patience(options: Option<RequestOptions>) -> std::time::Duration {
    let asked = options.and_then(|options| match (options.connect_timeout, options.first_byte_timeout) {
        (Some(connect), Some(first)) => Some(connect.saturating_add(first)),
        (one, other) => one.or(other),
    });
    asked.unwrap_or(limits::OUTGOING_TIMEOUT)
}

/// A response's body that counts as in flight until it has been read or dropped.
struct Held {
    body: WasiBody,
    _permit: OwnedSemaphorePermit,
}

impl Body for Held {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
