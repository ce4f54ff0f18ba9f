//! The way back to this node: a connection dialled to one member, upgraded, on which the member asks and the node
//! answers (HTTP/2 with the roles turned round).

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::SERVER_NAME;
use crate::KubeletService;
use crate::limits::{
    CONNECT_TIME_MAX, MEMBER_ASKED_EVERY, MEMBER_SILENT_MAX, RELAY_LEFT_AFTER, RELAY_RETRY_FIRST, RELAY_RETRY_MAX,
};
use crate::overlay::Identity;

const PROTOCOL: &str = "kogia-relay";

/// Keeps a connection to a member, dialling again when it ends, and beside it when there is a new certificate to show. The
/// caller ends it by dropping the future.
pub(super) async fn keep(
    member: String,
    tls: Arc<ClientConfig>,
    kubelet: KubeletService,
    mut renewed: watch::Receiver<Identity>,
) {
    let mut wait = RELAY_RETRY_FIRST;
    let mut current: Option<Way> = None;
    // The one before, while it still carries something; of several only the last.
    let mut _left: Option<Way> = None;
    loop {
        renewed.mark_unchanged();
        match tokio::time::timeout(CONNECT_TIME_MAX, offer(&member, &tls)).await {
            Ok(Ok(connection)) => {
                wait = RELAY_RETRY_FIRST;
                tracing::debug!(member, "the member can reach this node");
                let before = current.take();
                let way = current.insert(Way::new(connection, kubelet.clone()));
                if let Some(before) = before {
                    before.leave.cancel();
                    _left = Some(before);
                }
                tokio::select! {
                    ended = &mut way.serving => {
                        current = None;
                        let reason = ended.ok().and_then(Result::err).map(tracing::field::display);
                        tracing::debug!(member, reason, "the connection ended");
                    }
                    Ok(()) = renewed.changed() => continue,
                }
            }
            Ok(Err(error)) => tracing::debug!(member, %error, "the member cannot be offered a connection"),
            Err(_) => tracing::debug!(member, "the member does not answer"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RELAY_RETRY_MAX);
    }
}

/// A connection that a member asks on; it ends when it is dropped.
struct Way {
    serving: AbortOnDropHandle<Result<(), hyper::Error>>,
    /// A newer one stands: what is carried ends in its own time, and nothing new is taken after a while.
    leave: CancellationToken,
}

impl Way {
    fn new(connection: Upgraded, kubelet: KubeletService) -> Self {
        let leave = CancellationToken::new();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(connection, kubelet, leave.clone())));
        Self { serving, leave }
    }
}

/// Connects to a member with TLS.
pub(super) async fn connect(member: &str, tls: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(member).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
}

/// Offers a member a connection; the answer is the connection as the member will use it.
async fn offer(member: &str, tls: &ClientConfig) -> io::Result<Upgraded> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = connect(member, tls).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
    let request = Request::get("/kogia/relay")
        .header(HOST, SERVER_NAME)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(io::Error::other(format!("it answered {}", response.status())));
    }
    hyper::upgrade::on(response).await.map_err(io::Error::other)
}

/// Answers a member's requests until the connection ends, or is left and has nothing more to carry.
async fn serve(connection: Upgraded, kubelet: KubeletService, leave: CancellationToken) -> Result<(), hyper::Error> {
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(MEMBER_ASKED_EVERY)
        .keep_alive_timeout(MEMBER_SILENT_MAX)
        .serve_connection(connection, TowerToHyperService::new(kubelet));
    let mut connection = std::pin::pin!(connection);
    let left = async {
        leave.cancelled().await;
        tokio::time::sleep(RELAY_LEFT_AFTER).await;
    };
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = left => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
