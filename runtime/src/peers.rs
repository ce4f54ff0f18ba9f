//! Images that other nodes of the cluster have: asked for through the API, which reaches every node.
//!
//! Only what no registry is asked for comes this way: an image named by its digest, which proves itself, and one under a
//! plain or local name, which was built or pushed on some node. Nodes that list the image in their status are asked first.

use bytes::Bytes;
use futures::Stream;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use image::{Answer, BoxError, Images, PullError, Pulled, Reference, Source};
use k8s_openapi::api::core::v1 as k8s;
use kube::Client;
use kube::api::{Api, ListParams};
use tokio::time::timeout;

use crate::limits::{PEER_SILENCE_MAX, PEERS_ASKED_MAX, REQUEST_TIME_MAX};

/// Fetches an image from whichever other node has it; `None` when none does, or it is not to be had this way.
pub(crate) async fn pull(client: &Client, node: &str, images: &Images, reference: &str) -> Option<Pulled> {
    let named = Reference::parse(reference).ok()?;
    let (name, by_digest) = match &named {
        Reference::Named { name, digest, .. } => (name.as_str(), digest.is_some()),
        Reference::File { .. } => return None,
    };
    let local = ["docker.io/library/", "localhost/", "localhost:", "127.0.0.1:"].iter().any(|at| name.starts_with(at));
    if !by_digest && !local {
        return None;
    }
    let nodes = timeout(REQUEST_TIME_MAX, Api::<k8s::Node>::all(client.clone()).list(&ListParams::default())).await;
    let mut others: Vec<k8s::Node> = nodes.ok()?.ok()?.items;
    others.retain(|other| other.metadata.name.as_deref() != Some(node));
    let full = named.to_string();
    others.sort_by_key(|other| !lists(other, &full));
    for other in others.into_iter().take(PEERS_ASKED_MAX) {
        let mut peer = Peer::new(client.clone(), other.metadata.name.unwrap_or_default(), name);
        match images.pull(reference, &mut peer).await {
            Ok(pulled) => return Some(pulled),
            Err(PullError::Denied(why)) => tracing::debug!(peer = peer.node, why, "a node does not give an image"),
            Err(PullError::Failed(error)) => tracing::debug!(peer = peer.node, %error, "a node does not give an image"),
        }
    }
    None
}

fn lists(node: &k8s::Node, name: &str) -> bool {
    let images = node.status.iter().flat_map(|status| status.images.iter().flatten());
    images.flat_map(|image| image.names.iter().flatten()).any(|listed| listed == name)
}

/// Another node as a source of images.
struct Peer {
    client: Client,
    node: String,
    said: String,
    base: String,
}

impl Peer {
    fn new(client: Client, node: String, image: &str) -> Self {
        let (said, base) = (format!("node {node:?}"), format!("/kogia/nodes/{node}/images/v2/{image}"));
        Self { client, node, said, base }
    }
}

impl Source for Peer {
    fn name(&self) -> &str {
        &self.said
    }

    async fn get(&mut self, path: &str) -> Result<Answer, BoxError> {
        let request = Request::get(format!("{}{path}", self.base)).body(kube::client::Body::empty())?;
        let response = timeout(REQUEST_TIME_MAX, self.client.send(request)).await??;
        let (status, body) = (response.status(), response.into_body());
        let pieces = pieces(body);
        let status = StatusCode::from_u16(status.as_u16())?;
        Ok(Answer { status, pieces: Box::pin(pieces) })
    }
}

/// What another node sends, until its end; one that falls silent in the middle is an error.
pub(crate) fn pieces(body: kube::client::Body) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    futures::stream::unfold(body, |mut body| async move {
        loop {
            let frame = match timeout(PEER_SILENCE_MAX, body.frame()).await {
                Ok(frame) => frame?,
                Err(silent) => return Some((Err(BoxError::from(silent)), body)),
            };
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(piece)) => return Some((Ok(piece), body)),
                // Trailers say nothing of what was sent.
                Ok(Err(_)) => {}
                Err(error) => return Some((Err(BoxError::from(error)), body)),
            }
        }
    })
}
