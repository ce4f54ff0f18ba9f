//! What lies on one node, handed to another: images at `GET /kogia/nodes/NODE/images/v2/…`, and machine code at
//! `GET /kogia/code/NAME`.
//!
//! Nodes ask for images that were built or pushed elsewhere in the cluster; the answer is the reading half of the OCI
//! distribution API, passed on as it is. An image proves itself by its digest; machine code does not, and is run as it is:
//! it is taken from nodes of members alone, who can have any node run what they like anyway. Who may ask is authorization's
//! business: nodes, and who has been given the path by RBAC.

use api::Status;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;

use crate::Body;
use crate::limits::CODE_ASKED_MAX;
use crate::reply::{Reply, boxed};
use crate::service::{Call, Inner};
use crate::verbs::until;

/// `path` is what follows `/kogia/nodes/`.
pub(crate) async fn relay(inner: &Inner, call: &Call, path: &str) -> Result<Reply, Status> {
    let (node, path) = path.split_once('/').ok_or_else(Status::no_such_path)?;
    if !path.starts_with("images/v2/") {
        return Err(Status::no_such_path());
    }
    ask(inner, call, node, path).await
}

/// `name` is what follows `/kogia/code/`. A member that does not answer in time is passed over: to compile is no disaster.
pub(crate) async fn code(inner: &Inner, call: &Call, name: &str) -> Result<Reply, Status> {
    let path = format!("code/{name}");
    for node in inner.config.node_relay.members() {
        let asked = ask(inner, call, &node, &path);
        if let Ok(Ok(reply)) = tokio::time::timeout(CODE_ASKED_MAX, asked).await
            && reply.code == StatusCode::OK
        {
            return Ok(reply);
        }
    }
    Err(Status::new(404, "NotFound", "no member has this code"))
}

async fn ask(inner: &Inner, call: &Call, node: &str, path: &str) -> Result<Reply, Status> {
    let empty: Body = boxed(Full::default());
    let request = Request::get(format!("http://node/{path}")).body(empty);
    let request = request.map_err(|error| Status::bad_request(error.to_string()))?;
    let unreachable = |why: &str| Status::unavailable(format!("node {node:?} cannot be asked: {why}"));
    let answered = inner.config.node_relay.send(node, request).ok_or_else(|| unreachable("it is not connected"))?;
    let response = answered.await.map_err(|error| unreachable(&error.to_string()))?;
    let (head, body) = response.into_parts();
    let type_ = head.headers.get(CONTENT_TYPE).cloned();
    let type_ = type_.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let mut reply = Reply::stream(type_, until(body, call.stop.clone()));
    reply.code = head.status;
    for name in [CONTENT_LENGTH, ETAG] {
        if let Some(value) = head.headers.get(&name) {
            reply = reply.with(name, value.clone());
        }
    }
    Ok(reply)
}
