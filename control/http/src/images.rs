//! `GET /kogia/nodes/NODE/images/v2/…`: an image that lies on one node, handed to another.
//!
//! Nodes ask for what was built or pushed elsewhere in the cluster; the answer is the reading half of the OCI distribution
//! API, passed on as it is. Who may ask is authorization's business: nodes, and who has been given the path by RBAC.

use api::Status;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Request};
use http_body_util::Full;

use crate::Body;
use crate::reply::{Reply, boxed};
use crate::service::{Call, Inner};
use crate::verbs::until;

/// `path` is what follows `/kogia/nodes/`.
pub(crate) async fn relay(inner: &Inner, call: &Call, path: &str) -> Result<Reply, Status> {
    let (node, path) = path.split_once('/').ok_or_else(Status::no_such_path)?;
    if !path.starts_with("images/v2/") {
        return Err(Status::no_such_path());
    }
    let empty: Body = boxed(Full::default());
    let request = Request::get(format!("http://node/{path}")).body(empty);
    let request = request.map_err(|error| Status::bad_request(error.to_string()))?;
    let unreachable = |why: &str| Status::unavailable(format!("node {node:?} cannot be asked for an image: {why}"));
    let answered = inner.config.node_relay.send(node, request).ok_or_else(|| unreachable("it is not connected"))?;
    let response = answered.await.map_err(|error| unreachable(&error.to_string()))?;
    let (head, body) = response.into_parts();
    let type_ = head.headers.get(CONTENT_TYPE).cloned();
    let type_ = type_.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let mut reply = Reply::stream(type_, until(body, call.stop.clone()));
    reply.code = head.status;
    Ok(match head.headers.get(CONTENT_LENGTH) {
        Some(size) => reply.with(CONTENT_LENGTH, size.clone()),
        None => reply,
    })
}
