//! The way to webhooks: an AdmissionReview is posted to a URL, or to a pod behind a Service.
//!
//! A Service's pods are reached as by `pods/proxy`, through their nodes. They speak TLS, as in Kubernetes, and are known
//! by `NAME.NAMESPACE.svc`; a port with `appProtocol: http` is spoken to in plain HTTP, which is how components of
//! `wasi:http` answer: what passes between members and nodes is encrypted already. Redirects are not followed, and every
//! call has a connection of its own.

use std::sync::Arc;

use api::View;
use bytes::Bytes;
use futures::FutureExt;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use objects::{WebhookCall, WebhookCaller, WebhookPlace};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::limits::{WEBHOOK_ANSWER_BYTES_MAX, WEBHOOK_CALLS_MAX};
use crate::relay::Relay;
use crate::verbs::reach;

/// A connection, whatever carries it.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Everything that a call needs besides itself.
struct Way {
    relay: Relay,
    places: Semaphore,
}

/// Calls webhooks through the nodes of a relay.
pub(crate) fn caller(relay: Relay) -> WebhookCaller {
    let way = Arc::new(Way { relay, places: Semaphore::new(WEBHOOK_CALLS_MAX) });
    Arc::new(move |view, call| {
        let way = way.clone();
        async move { way.call(&view, call).await }.boxed()
    })
}

impl Way {
    async fn call(&self, view: &View, call: WebhookCall) -> Result<Bytes, String> {
        let seconds = call.timeout.as_secs();
        let url = match &call.place {
            WebhookPlace::Url(url) => url.clone(),
            WebhookPlace::Service { namespace, name, port, path } => {
                format!("https://{name}.{namespace}.svc:{port}{path}")
            }
        };
        let shown = format!("{url}?timeout={seconds}s");
        let timeout = call.timeout;
        let answer = tokio::time::timeout(timeout, self.answer(view, &url, seconds, call)).await;
        answer
            .unwrap_or_else(|_| Err("context deadline exceeded".into()))
            .map_err(|why| format!("Post {shown:?}: {why}"))
    }

    async fn answer(&self, view: &View, url: &str, seconds: u64, call: WebhookCall) -> Result<Bytes, String> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        let host = uri.host().ok_or("no Host in request URL")?.to_owned();
        let stream: Box<dyn Stream> = match &call.place {
            WebhookPlace::Url(_) => {
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let port = uri.port_u16().unwrap_or(443);
                let stream = TcpStream::connect((bare, port))
                    .await
                    .map_err(|error| format!("dial tcp {host}:{port}: {error}"))?;
                // Small questions must not wait for more of them.
                let _ = stream.set_nodelay(true);
                secured(&call.roots_pem, &host, stream).await?
            }
            WebhookPlace::Service { namespace, name, port, .. } => {
                let way = reach(view, &self.relay, namespace, name, *port).map_err(|status| status.message.clone())?;
                let plain = way.is_plain;
                let stream = way.open().await?;
                // The name of the certificate is the Service's, whichever pod answers.
                if plain { Box::new(stream) } else { secured(&call.roots_pem, &host, stream).await? }
            }
        };
        post(stream, &uri, seconds, call.review).await
    }
}

/// TLS to a host that has a certificate of its name from one of these roots, or from one that the machine trusts.
async fn secured(roots_pem: &[u8], host: &str, stream: impl Stream + 'static) -> Result<Box<dyn Stream>, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(tls_client(roots_pem)?)).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| format!("tls: {error}"))?))
}

/// How TLS is spoken with servers outside the cluster: with whom these roots vouch for (PEM), or without any with whom the
/// machine trusts.
///
/// # Errors
/// A sentence, when the roots cannot be read or the machine's cannot be used.
pub fn tls_client(roots_pem: &[u8]) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    if roots_pem.is_empty() {
        return Ok(builder.with_platform_verifier().map_err(|error| error.to_string())?.with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots_pem) {
        let certificate = certificate.map_err(|error| format!("unable to load root certificates: {error}"))?;
        roots.add(certificate).map_err(|error| format!("unable to load root certificates: {error}"))?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The review goes out as one request, and what comes back has a bound.
async fn post(stream: Box<dyn Stream>, uri: &Uri, seconds: u64, review: Bytes) -> Result<Bytes, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // How it ended is what the request hears.
        let _ = connection.await;
    }));
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let request = Request::post(format!("{}?timeout={seconds}s", uri.path()))
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, concat!("kogia/", env!("CARGO_PKG_VERSION"), " admission"))
        .body(Full::new(review))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("the server answered {}", response.status()));
    }
    let body = Limited::new(response.into_body(), WEBHOOK_ANSWER_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| error.to_string())?.to_bytes())
}
