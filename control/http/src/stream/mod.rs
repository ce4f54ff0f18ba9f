//! Subresources that are conversations: the HTTP connection is upgraded, and bytes go both ways until one side is done.
//!
//! Kubernetes has three encodings of them, and clients of all three are about: SPDY/3.1 in place of HTTP, SPDY/3.1
//! inside a WebSocket, and numbered channels of a WebSocket. `agreement` decides which one a request means,
//! `transport` makes bytes of it, `spdy` is that protocol, `forward` is `pods/portforward` over any of them, and `exec` is
//! `pods/exec` and `pods/attach`. The
//! pod's node is reached through the [`Relay`](crate::Relay) as by every other request about a pod.

mod agreement;
mod exec;
mod forward;
mod spdy;
mod transport;

use std::sync::Arc;

use api::{Object, Status};
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::Empty;
use hyper::upgrade::{OnUpgrade, Upgraded};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

pub(crate) use exec::exec;
pub(crate) use forward::{Target, connect, forward};

use crate::reply::{Content, Reply, boxed};
use crate::service::Call;
use agreement::Agreement;

/// The connection of a request that both sides agreed to upgrade, and a place among the sessions.
struct Upgrading {
    connection: OnUpgrade,
    place: OwnedSemaphorePermit,
}

impl Upgrading {
    fn new(call: &Call, places: &Arc<Semaphore>) -> Result<Self, Status> {
        let connection = call.upgrade.clone();
        let connection = connection.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
        let place = places.clone().try_acquire_owned();
        let place = place.map_err(|_| Status::too_many_requests("too many streaming sessions are open", 1))?;
        Ok(Self { connection, place })
    }

    /// Begins the conversation once the answer is out; it ends with the server.
    fn begin<F>(self, call: &Call, conversation: impl FnOnce(Upgraded) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let stop = call.stop.clone();
        tokio::spawn(async move {
            let _place = self.place;
            let talk = async {
                match self.connection.await {
                    Ok(upgraded) => conversation(upgraded).await,
                    Err(error) => debug!(%error, "a connection was not upgraded"),
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = talk => {}
            }
        });
    }
}

/// 101 Switching Protocols, as agreed.
fn switching(agreement: &Agreement) -> Reply {
    let headers: Vec<(HeaderName, HeaderValue)> = agreement.headers.clone();
    let body = boxed(Empty::new());
    Reply { code: StatusCode::SWITCHING_PROTOCOLS, headers, content: Content::Stream(body) }
        .with(header::CONNECTION, HeaderValue::from_static("Upgrade"))
}

/// The node a pod runs on.
fn node_of(pod: &Object) -> Result<String, Status> {
    match pod.field("spec.nodeName").as_str() {
        Some(node) if !node.is_empty() => Ok(node.to_owned()),
        _ => Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name()))),
    }
}
