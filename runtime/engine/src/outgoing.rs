//! Outgoing HTTP of a guest: over its pod's network, never over the host's. What goes by `https` is encrypted by the node.

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
        [Scheme::HTTP, Scheme::HTTPS].contains(scheme)
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
            let secure = request.uri().scheme() == Some(&Scheme::HTTPS);
            let request = request.map(network::body::boxed);
            let response = async {
                match secure {
                    // Boxed: the state of TLS is large, and most requests have none.
                    true => Box::pin(network.https(&authority, request)).await,
                    false => network.http(&authority, request).await,
                }
            };
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

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        limits::CHUNK_BYTES_MAX
    }
}

/// What a caller on a wire would see: an error where nothing was answered, else the callee's own failure as a response.
fn refused(error: &HttpError) -> Result<http::Response<network::Body>, Error> {
    match error {
        HttpError::ConnectionRefused => Err(Error::ConnectionRefused),
        HttpError::NameNotFound(_) => Err(Error::DnsError { rcode: Some("NXDOMAIN".into()), info_code: None }),
        HttpError::Denied(_) => Err(Error::HttpRequestDenied),
        HttpError::Reset => Err(Error::ConnectionTerminated),
        HttpError::Untrusted(_) => Err(Error::TlsCertificateError),
        HttpError::Tls(_) => Err(Error::TlsProtocolError),
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response, StatusCode};
    use http_body_util::Full;
    use network::{BoxFuture, Config, Fabric, HttpService, PodIdentity};

    /// Answers with the path it was asked for, or not at all.
    struct Callee;

    impl HttpService for Callee {
        fn call(
            self: Arc<Self>,
            request: Request<network::Body>,
            _: std::net::IpAddr,
        ) -> BoxFuture<'static, Result<Response<network::Body>, HttpError>> {
            Box::pin(async move {
                match request.uri().path() {
                    "/broken" => Err(HttpError::Internal("trapped".into())),
                    "/never" => std::future::pending().await,
                    path => Ok(Response::new(network::body::full(path.to_owned()))),
                }
            })
        }
    }

    fn pod(fabric: &Fabric, address: &str) -> PodNet {
        fabric.attach(PodIdentity {
            namespace: "default".into(),
            name: address.into(),
            hostname: "pod".into(),
            addresses: vec![address.parse().unwrap()],
        })
    }

    async fn send(
        outgoing: &mut Outgoing,
        uri: &str,
        options: Option<RequestOptions>,
    ) -> Result<(StatusCode, String), Error> {
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().uri(uri).body(body).unwrap();
        let (response, _) = Pin::from(outgoing.send_request(request, options, Box::new(async { Ok(()) }))).await?;
        let (head, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap();
        Ok((head.status, text))
    }

    #[tokio::test]
    async fn requests_reach_pods_and_nothing_else() {
        let fabric = Fabric::new(Config::default());
        let callee = pod(&fabric, "10.42.0.2");
        let _bound = callee.serve_http(80, Arc::new(Callee)).unwrap();
        let mut outgoing = Outgoing::new(pod(&fabric, "10.42.0.3"), Arc::new(Semaphore::new(1)));

        let answer = send(&mut outgoing, "http://10.42.0.2/some/path", None).await.unwrap();
        assert_eq!(answer, (StatusCode::OK, "/some/path".into()));
        let (status, _) = send(&mut outgoing, "http://10.42.0.2/broken", None).await.unwrap();
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "as a caller on a wire would see it");

        let refused = send(&mut outgoing, "http://10.42.0.2:81/", None).await.unwrap_err();
        assert!(matches!(refused, Error::ConnectionRefused), "{refused:?}");
        let unknown = send(&mut outgoing, "http://nobody.invalid/", None).await.unwrap_err();
        assert!(matches!(unknown, Error::DnsError { .. }), "{unknown:?}");
        assert!(send(&mut outgoing, "http://169.254.169.254/", None).await.is_err());
        // What answers there is no TLS.
        let plain = send(&mut outgoing, "https://10.42.0.2:80/", None).await.unwrap_err();
        assert!(matches!(plain, Error::TlsProtocolError), "{plain:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_waits_as_long_as_it_says_and_holds_so_many_at_once() {
        let fabric = Fabric::new(Config::default());
        let callee = pod(&fabric, "10.42.0.2");
        let _bound = callee.serve_http(80, Arc::new(Callee)).unwrap();
        let mut outgoing = Outgoing::new(pod(&fabric, "10.42.0.3"), Arc::new(Semaphore::new(1)));

        let options =
            RequestOptions { first_byte_timeout: Some(std::time::Duration::from_secs(1)), ..Default::default() };
        let late = send(&mut outgoing, "http://10.42.0.2/never", Some(options)).await.unwrap_err();
        assert!(matches!(late, Error::HttpResponseTimeout), "{late:?}");

        let _all = outgoing.permits.clone().acquire_owned().await.unwrap();
        let many = send(&mut outgoing, "http://10.42.0.2/", None).await.unwrap_err();
        assert!(matches!(many, Error::ConnectionLimitReached), "{many:?}");
    }
}
