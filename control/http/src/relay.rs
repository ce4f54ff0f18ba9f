//! The way back to a pod's node: requests about a running container are answered by the node that runs it.
//!
//! A node of this process attaches one service that speaks the kubelet's paths. Any other node dials out: it sends
//! `GET /kogia/relay` with `Upgrade: kogia-relay`, and from then on this side is the client of HTTP/2 (RFC 9113) on the
//! same connection and the node its server. Nodes therefore need no open port, and a stream of either direction is
//! carried as it is. A connection that ends is also the quickest news there is of a process that died; the relay
//! remembers when that was.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use api::Status;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header, uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::watch;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tracing::{debug, info};

use crate::limits::{RELAY_LOST_MAX, relay_patience};
use crate::reply::{Content, Reply, boxed};
use crate::service::{Call, Inner};
use crate::verbs::now_ms;
use crate::{Body, BoxError};

/// What a node answers: `GET /containerLogs/{namespace}/{pod}/{container}` with the query of `pods/log`;
/// `GET /stats/summary`, what it and its pods use;
/// `POST /portForward/{namespace}/{pod}/{port}`, whose bodies are the two directions of a connection; and
/// `POST /exec/{namespace}/{pod}/{container}` and `POST /attach/…` with the query of `pods/exec`, whose bodies are
/// frames of [`api::channels`].
pub type NodeService = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// When nodes were lost: the last connection of each ended then, in milliseconds since 1970. Nodes that are connected,
/// or never were, are not in it.
pub type Lost = Arc<BTreeMap<String, i64>>;

/// The protocol's name in `Upgrade`.
const PROTOCOL: &str = "kogia-relay";

/// A node's answer to come.
type Answer = BoxFuture<'static, Result<Response<Body>, BoxError>>;

/// The group of the nodes whose processes are members of the cluster. Only a member can give a certificate for it.
pub const MEMBERS: &str = "system:kogia-members";

/// What a node is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its process is this one.
    Own,
    /// Its process is another member.
    Member,
    /// Any other.
    Worker,
}

/// One way to a node.
struct Way {
    service: NodeService,
    standing: Standing,
    /// Which attachment this is, so that the end of an older one does not take it away.
    number: u64,
}

#[derive(Default)]
struct Attached {
    last: u64,
    nodes: HashMap<String, Way>,
}

/// The attached nodes. Clones share them.
#[derive(Clone, Default)]
pub struct Relay {
    attached: Arc<RwLock<Attached>>,
    lost: Arc<watch::Sender<Lost>>,
}

impl Relay {
    /// Makes a node reachable; a service attached earlier under the name is replaced. The number is for
    /// [`Relay::detach`].
    pub fn attach(&self, node: &str, standing: Standing, service: NodeService) -> u64 {
        let mut attached = self.attached.write().unwrap_or_else(PoisonError::into_inner);
        attached.last += 1;
        let number = attached.last;
        attached.nodes.insert(node.to_owned(), Way { service, standing, number });
        self.lost.send_if_modified(|lost| {
            let known = lost.contains_key(node);
            if known {
                Arc::make_mut(lost).remove(node);
            }
            known
        });
        number
    }

    /// Forgets a node, unless it was attached anew since.
    pub fn detach(&self, node: &str, number: u64) {
        let mut attached = self.attached.write().unwrap_or_else(PoisonError::into_inner);
        if attached.nodes.get(node).is_none_or(|way| way.number != number) {
            return;
        }
        attached.nodes.remove(node);
        self.lost.send_modify(|lost| {
            let lost = Arc::make_mut(lost);
            lost.insert(node.to_owned(), now_ms());
            if lost.len() > RELAY_LOST_MAX
                && let Some(oldest) = lost.iter().min_by_key(|(_, since)| **since).map(|(node, _)| node.clone())
            {
                lost.remove(&oldest);
            }
        });
    }

    /// When nodes were lost, and every change of it.
    #[must_use]
    pub fn lost(&self) -> watch::Receiver<Lost> {
        self.lost.subscribe()
    }

    /// How many nodes are attached.
    fn count(&self) -> usize {
        self.attached.read().unwrap_or_else(PoisonError::into_inner).nodes.len()
    }

    /// The names of the attached nodes.
    pub(crate) fn nodes(&self) -> Vec<String> {
        self.attached.read().unwrap_or_else(PoisonError::into_inner).nodes.keys().cloned().collect()
    }

    /// The names of the attached nodes that belong to members, this process' own first.
    pub(crate) fn members(&self) -> Vec<String> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        let members = attached.nodes.iter().filter(|(_, way)| way.standing != Standing::Worker);
        let mut members: Vec<_> = members.map(|(name, way)| (way.standing, name.clone())).collect();
        members.sort_unstable();
        members.into_iter().map(|(_, name)| name).collect()
    }

    /// Sends a request to a node; `None` when no such node is attached.
    pub(crate) fn send(&self, node: &str, request: Request<Body>) -> Option<Answer> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        let service = attached.nodes.get(node)?.service.clone();
        Some(Box::pin(service.oneshot(request)))
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(attached.nodes.keys()).finish()
    }
}

/// `GET /kogia/relay`: a node offers its connection as the way back to it.
pub(crate) fn offered(inner: &Inner, call: &Call) -> Result<Reply, Status> {
    let Some(node) = crate::auth::node_name(&call.user) else {
        return Err(Status::new(403, "Forbidden", "only a node can be relayed to"));
    };
    if !call.header(header::UPGRADE).eq_ignore_ascii_case(PROTOCOL) {
        return Err(Status::bad_request(format!("the request must have the header Upgrade: {PROTOCOL}")));
    }
    let connection = call.upgrade.clone();
    let connection = connection.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let standing = if call.user.is_in(MEMBERS) { Standing::Member } else { Standing::Worker };
    let (relay, node, stop) = (inner.config.node_relay.clone(), node.to_owned(), call.stop.clone());
    tokio::spawn(async move {
        let talk = async {
            match connection.await {
                Ok(upgraded) => keep(&relay, &node, standing, upgraded).await,
                Err(error) => debug!(node, %error, "a node's connection was not upgraded"),
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = talk => {}
        }
    });
    let headers = vec![(header::UPGRADE, HeaderValue::from_static(PROTOCOL))];
    let reply = Reply { code: StatusCode::SWITCHING_PROTOCOLS, headers, content: Content::Stream(boxed(Empty::new())) };
    Ok(reply.with(header::CONNECTION, HeaderValue::from_static("Upgrade")))
}

/// Relays over a connection until it ends.
async fn keep(relay: &Relay, node: &str, standing: Standing, upgraded: Upgraded) {
    let (every, patience) = relay_patience(relay.count());
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(every)
        .keep_alive_timeout(patience)
        .keep_alive_while_idle(true)
        .handshake::<_, Body>(upgraded)
        .await;
    let (sender, connection) = match handshake {
        Ok(parts) => parts,
        Err(error) => return debug!(node, %error, "a node does not speak HTTP/2 on its relay"),
    };
    let service = tower::service_fn(move |request| ask(sender.clone(), request).boxed());
    let number = relay.attach(node, standing, BoxCloneSyncService::new(service));
    info!(node, "the node can be reached");
    let ended = connection.await;
    relay.detach(node, number);
    info!(node, reason = ended.err().map(tracing::field::display), "the node cannot be reached any more");
}

async fn ask(mut sender: http2::SendRequest<Body>, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
    // HTTP/2 requests name scheme and authority; to a node they mean nothing.
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = Some(uri::Authority::from_static("node"));
    *request.uri_mut() = http::Uri::from_parts(parts)?;
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> NodeService {
        let answer = |_: Request<Body>| async { Ok::<_, BoxError>(Response::new(boxed(Empty::new()))) };
        BoxCloneSyncService::new(tower::service_fn(answer))
    }

    #[test]
    fn the_end_of_an_older_connection_says_nothing() {
        let relay = Relay::default();
        let lost = relay.lost();
        let first = relay.attach("n1", Standing::Worker, service());
        let second = relay.attach("n1", Standing::Worker, service());
        relay.detach("n1", first);
        assert!(relay.count() == 1 && lost.borrow().is_empty(), "it came back before the old connection ended");
        relay.detach("n1", second);
        assert!(relay.count() == 0 && lost.borrow().contains_key("n1"));
        relay.attach("n1", Standing::Worker, service());
        assert!(lost.borrow().is_empty());
    }

    #[test]
    fn members_are_told_from_workers() {
        let relay = Relay::default();
        for (name, standing) in
            [("w1", Standing::Worker), ("b", Standing::Member), ("own", Standing::Own), ("a", Standing::Member)]
        {
            relay.attach(name, standing, service());
        }
        assert_eq!(relay.members(), ["own", "a", "b"]);
    }

    #[test]
    fn what_is_remembered_of_lost_nodes_has_a_bound() {
        let relay = Relay::default();
        for node in 0..RELAY_LOST_MAX + 10 {
            let number = relay.attach(&format!("n{node}"), Standing::Worker, service());
            relay.detach(&format!("n{node}"), number);
        }
        assert_eq!(relay.lost().borrow().len(), RELAY_LOST_MAX);
    }
}
