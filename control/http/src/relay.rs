//! The way back to a pod's node: requests about a running container are answered by the node that runs it.
//!
//! A node attaches one service that speaks the kubelet's paths. The relay keeps it under the node's name and hands it
//! out; it refuses to know how the node is reached (in this process, or through the connection the node dialled).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::BoxFuture;
use http::{Request, Response};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::{Body, BoxError};

/// What a node answers: `GET /containerLogs/{namespace}/{pod}/{container}` with the query of `pods/log`, and
/// `POST /portForward/{namespace}/{pod}/{port}`, whose bodies are the two directions of a connection.
pub type NodeService = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// A node's answer to come.
type Answer = BoxFuture<'static, Result<Response<Body>, BoxError>>;

/// The attached nodes. Clones share them.
#[derive(Clone, Default)]
pub struct Relay {
    nodes: Arc<RwLock<HashMap<String, NodeService>>>,
}

impl Relay {
    /// Makes a node reachable; a service attached earlier under the name is replaced.
    pub fn attach(&self, node: impl Into<String>, service: NodeService) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).insert(node.into(), service);
    }

    /// Forgets a node.
    pub fn detach(&self, node: &str) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// Sends a request to a node; `None` when no such node is attached.
    pub(crate) fn send(&self, node: &str, request: Request<Body>) -> Option<Answer> {
        let service = self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(node).cloned()?;
        Some(Box::pin(service.oneshot(request)))
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(nodes.keys()).finish()
    }
}
