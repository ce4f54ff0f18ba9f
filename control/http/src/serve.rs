//! TLS and connections: accept, learn who is there from the client certificate, hand requests to the service, and end
//! in order.
//!
//! A connection that says nothing, or speaks anything but TLS, costs one bounded task and no answer.

use std::convert::Infallible;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use objects::User;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::limits::{
    ACCEPT_PAUSE, CONNECTIONS_MAX, DRAIN_MAX, HANDSHAKE_MAX, HEAD_BYTES_MAX, HEAD_MAX, HEADERS_MAX, STREAMS_MAX,
};
use crate::reply::boxed;
use crate::service::{ApiService, Stop};
use crate::verbs::now_ms;

/// Serves the API on `listener` until `stop`; then watches end, requests under way get a bounded time, and it returns.
///
/// `tls` decides which client certificates are trusted; one that was accepted names the user (CN) and its groups (O).
/// ALPN should offer `h2` and `http/1.1`: exec and port-forward need the latter.
pub async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, api: ApiService, stop: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let connection = connect(stream, acceptor.clone(), api.clone(), stop.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    connections.close();
    if tokio::time::timeout(DRAIN_MAX * 2, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "connections were still open at the end");
    }
}

/// One connection from its handshake to its end.
async fn connect(stream: TcpStream, acceptor: TlsAcceptor, api: ApiService, stop: CancellationToken) {
    // Watch events are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return debug!("TLS handshake took too long"),
    };
    let known = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(identity);
    let ending = stop.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(boxed);
        // Asked for each request, as kube-apiserver does it: a connection may outlive the certificate it was made with.
        if let Some(known) = known.as_ref().filter(|known| now_ms() < known.ends_ms) {
            request.extensions_mut().insert(known.user.clone());
        }
        request.extensions_mut().insert(Stop(ending.clone()));
        let api = api.clone();
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    let builder = builder();
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_MAX, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "connection ended");
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("the limit is small"))
        .keep_alive_interval(Some(HEAD_MAX));
    builder
}

/// Somebody who has shown a certificate.
struct Known {
    user: User,
    /// When the certificate is over, in milliseconds since 1970.
    ends_ms: i64,
}

/// Who a verified client certificate names: the user is the common name, the groups are the organisations (RFC 5280
/// §4.1.2.6, as kube-apiserver reads them). `None` for a certificate without a common name.
fn identity(certificate: &CertificateDer<'_>) -> Option<Known> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let ends_ms = certificate.validity().not_after.timestamp().saturating_mul(1000);
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".into());
    Some(Known { user: User { name, groups, ..User::default() }, ends_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_user_and_groups() {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let mut subject = rcgen::DistinguishedName::new();
        subject.push(rcgen::DnType::CommonName, "system:node:n1");
        subject.push(rcgen::DnType::OrganizationName, "system:nodes");
        params.distinguished_name = subject;
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let Known { user, ends_ms } = identity(certificate.der()).unwrap();
        assert!(ends_ms > now_ms());
        assert_eq!(user.name, "system:node:n1");
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
        assert!(identity(&CertificateDer::from(vec![1, 2, 3])).is_none());
    }
}
