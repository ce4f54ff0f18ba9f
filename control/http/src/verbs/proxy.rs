//! `pods/proxy`, `services/proxy`, `nodes/proxy`: a plain HTTP request passed on to a port of a pod, or to a node.
//!
//! A name may be `web`, `web:8080` or `http:web:8080`. A pod without a port is asked at the first port it names, a Service
//! at one of its ready endpoints. The connection is the one that `port-forward` makes. Neither upgrades nor TLS behind the
//! proxy are served.

use api::selector::LabelSelector;
use api::{Object, Status, View};
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Place, read};
use crate::Body;
use crate::limits::{STREAM_PIECE_BYTES, STREAM_PIECES_MAX};
use crate::relay::Relay;
use crate::reply::{Content, Reply, boxed};
use crate::service::{Call, Inner};
use crate::stream::{Target, connect};

/// What belongs to one connection (RFC 9110 §7.6.1), and what belongs to the API server.
const OWN: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::AUTHORIZATION,
];

/// What is asked of whom.
#[derive(Debug, PartialEq, Eq)]
struct Named<'n> {
    scheme: &'n str,
    name: &'n str,
    port: &'n str,
}

/// `[scheme:]name[:port]`.
fn named(text: &str) -> Result<Named<'_>, Status> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [name] => Ok(Named { scheme: "", name, port: "" }),
        [name, port] => Ok(Named { scheme: "", name, port }),
        [scheme @ ("" | "http" | "https"), name, port] => Ok(Named { scheme, name, port }),
        _ => Err(Status::bad_request(format!("invalid proxy request {text:?}"))),
    }
}

/// The name of the object in the name of what is asked.
pub(super) fn object(text: &str) -> Result<&str, Status> {
    Ok(named(text)?.name)
}

/// Any method of `NAME/proxy/PATH`.
pub(super) async fn proxy(inner: &Inner, call: &Call, body: Body, place: &Place, path: &str) -> Result<Reply, Status> {
    let picture = read::picture(inner, call).await?;
    let named = named(&place.name)?;
    if named.scheme == "https" {
        return Err(Status::new(501, "NotImplemented", "TLS behind the proxy is not served"));
    }
    let session = inner.sessions.clone().try_acquire_owned();
    let session = session.map_err(|_| Status::too_many_requests("too many streaming sessions are open", 1))?;
    if &*place.resource.name == "nodes" {
        let request = request(call, body, path, "node")?;
        let answer = inner.config.node_relay.send(named.name, request);
        let answer = answer.ok_or_else(|| missing_node(&picture, named.name))?;
        return Ok(answered(
            answer.await.map_err(unreachable)?,
            call.stop.clone(),
            Held { _session: session, _connection: None },
        ));
    }
    let (pod, port) = match &*place.resource.name {
        "services" => endpoint(&picture, &place.namespace, &named)?,
        _ => pod_port(&picture, &place.namespace, &named)?,
    };
    let authority = format!("{}:{port}", pod.field("status.podIP").as_str().unwrap_or("pod"));
    let target = target(&inner.config.node_relay, pod)?;
    let near = open(&target, port).await.map_err(Status::unavailable)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(near)).await.map_err(unreachable)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // How it ended is what the request hears.
        let _ = connection.await;
    }));
    let response = sender.send_request(request(call, body, path, &authority)?).await.map_err(unreachable)?;
    Ok(answered(response.map(boxed), call.stop.clone(), Held { _session: session, _connection: Some(connection) }))
}

/// The way to a pod through its node.
fn target(relay: &Relay, pod: &Object) -> Result<Target, Status> {
    let node = pod.field("spec.nodeName").as_str().filter(|node| !node.is_empty());
    let node = node.ok_or_else(|| Status::unavailable(format!("pod {} has no node", pod.name())))?.to_owned();
    Ok(Target { relay: relay.clone(), node, namespace: pod.namespace().to_owned(), pod: pod.name().to_owned() })
}

/// The way to a pod behind a Service.
pub(crate) struct Reached {
    target: Target,
    port: u16,
    /// Whether the Service's port says that it speaks plain HTTP (`appProtocol: http`).
    pub(crate) is_plain: bool,
}

impl Reached {
    /// A connection to the pod's port.
    pub(crate) async fn open(self) -> Result<DuplexStream, String> {
        open(&self.target, self.port).await
    }
}

/// A ready pod behind a port of a Service.
pub(crate) fn reach(view: &View, relay: &Relay, namespace: &str, name: &str, port: u16) -> Result<Reached, Status> {
    let port = port.to_string();
    let named = Named { scheme: "", name, port: &port };
    let is_plain = service_port(view, namespace, &named)?["appProtocol"] == "http";
    let (pod, port) = endpoint(view, namespace, &named)?;
    Ok(Reached { target: target(relay, pod)?, port, is_plain })
}

fn unreachable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("error trying to reach service: {error}"))
}

fn missing_node(view: &View, name: &str) -> Status {
    match view.get("nodes", "", name) {
        Some(_) => Status::unavailable(format!("node {name:?} is not connected")),
        None => Status::not_found("nodes", name),
    }
}

/// The pod, and the port: the one that is named, or the first that it has.
fn pod_port<'v>(view: &'v View, namespace: &str, named: &Named<'_>) -> Result<(&'v Object, u16), Status> {
    let pod = view.get("pods", namespace, named.name).ok_or_else(|| Status::not_found("pods", named.name))?;
    let ports = pod.field("spec.containers").as_array().into_iter().flatten();
    let mut ports = ports.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let given = match named.port {
        "" => ports.next().and_then(|port| port["containerPort"].as_u64()).unwrap_or(80),
        text => text.parse().map_err(|_| Status::bad_request(format!("invalid port {text:?}")))?,
    };
    let port = u16::try_from(given).map_err(|_| Status::bad_request(format!("invalid port {given}")))?;
    Ok((pod, port))
}

/// The port of the Service that is meant, which is its first one where none is named.
fn service_port<'v>(view: &'v View, namespace: &str, named: &Named<'_>) -> Result<&'v serde_json::Value, Status> {
    let name = named.name;
    let service = view.get("services", namespace, name).ok_or_else(|| Status::not_found("services", name))?;
    let mut ports = service.field("spec.ports").as_array().into_iter().flatten();
    let is_meant = |port: &&serde_json::Value| {
        named.port.is_empty() || port["name"] == named.port || port["port"].as_u64() == named.port.parse().ok()
    };
    let missing = || Status::unavailable(format!("no service port {:?} found for service {name:?}", named.port));
    ports.find(is_meant).ok_or_else(missing)
}

/// A ready endpoint of the Service behind one of its ports.
fn endpoint<'v>(view: &'v View, namespace: &str, named: &Named<'_>) -> Result<(&'v Object, u16), Status> {
    let name = named.name;
    let none = || Status::unavailable(format!("no endpoints available for service {name:?}"));
    let port = service_port(view, namespace, named)?;
    let port_name = port["name"].as_str().unwrap_or_default();
    let mut ready = Vec::new();
    let of_service = LabelSelector::from_labels(&json!({"kubernetes.io/service-name": name}));
    for slice in view.select("endpointslices.discovery.k8s.io", namespace, &of_service) {
        let mut ports = slice.field("ports").as_array().into_iter().flatten();
        let port = ports.find(|port| port["name"].as_str().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok()) else { continue };
        for endpoint in slice.field("endpoints").as_array().into_iter().flatten() {
            let pod = endpoint["targetRef"]["name"].as_str().and_then(|pod| view.get("pods", namespace, pod));
            if let (Some(pod), true) = (pod, endpoint["conditions"]["ready"] != false) {
                ready.push((&**pod, port));
            }
        }
    }
    // Any of them; which one need not be fair.
    let turn = usize::try_from(super::now_ms()).unwrap_or(0);
    if ready.is_empty() { Err(none()) } else { Ok(ready[turn % ready.len()]) }
}

/// The client's request as the other side gets it.
fn request(call: &Call, body: Body, path: &str, authority: &str) -> Result<Request<Body>, Status> {
    let mut uri = String::from("/");
    for piece in path.split_inclusive('/') {
        let (segment, slash) = piece.strip_suffix('/').map_or((piece, ""), |segment| (segment, "/"));
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                uri.push_str(&format!("%{byte:02X}"));
            }
        }
        uri.push_str(slash);
    }
    if let Some(query) = call.query.encoded() {
        uri.push('?');
        uri.push_str(&query);
    }
    let mut request = Request::builder().method(call.method.clone()).uri(uri);
    if let Some(headers) = request.headers_mut() {
        *headers = passed_on(&call.headers);
        if let Ok(host) = authority.parse() {
            headers.insert(header::HOST, host);
        }
    }
    request.body(body).map_err(|error| Status::bad_request(error.to_string()))
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    OWN.iter().for_each(|name| drop(kept.remove(name)));
    let impersonation: Vec<HeaderName> =
        kept.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    impersonation.iter().for_each(|name| drop(kept.remove(name)));
    kept
}

/// A connection to a pod's port.
async fn open(target: &Target, port: u16) -> Result<DuplexStream, String> {
    let (near, far) = tokio::io::duplex(STREAM_PIECE_BYTES);
    let (mut reader, mut writer) = tokio::io::split(far);
    let (to_pod, from_client) = mpsc::channel(STREAM_PIECES_MAX);
    let mut answer = connect(target, port, from_client).await?.into_body();
    // Both end when `near` is dropped or the pod closes its side.
    tokio::spawn(async move {
        let mut piece = vec![0; STREAM_PIECE_BYTES];
        while let Ok(length @ 1..) = reader.read(&mut piece).await {
            if to_pod.send(Bytes::copy_from_slice(&piece[..length])).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(frame)) = answer.frame().await {
            if let Ok(bytes) = frame.into_data()
                && writer.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
    Ok(near)
}

/// What lives as long as the answer does.
struct Held {
    _session: OwnedSemaphorePermit,
    _connection: Option<AbortOnDropHandle<()>>,
}

/// The answer, passed on until it ends or the server stops.
fn answered(response: Response<Body>, stop: CancellationToken, held: Held) -> Reply {
    let (head, body) = response.into_parts();
    let frames = futures::stream::unfold((body, stop, held), |(mut body, stop, held)| async {
        tokio::select! {
            () = stop.cancelled() => None,
            frame = body.frame() => frame.map(|frame| (frame, (body, stop, held))),
        }
    });
    let headers = passed_on(&head.headers);
    let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Reply { code: head.status, headers, content: Content::Stream(boxed(StreamBody::new(frames))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_asked() {
        let told = |text: &str| named(text).map(|is| format!("{}|{}|{}", is.scheme, is.name, is.port)).ok();
        for (text, expected) in [
            ("web", Some("|web|")),
            ("web:http", Some("|web|http")),
            ("http:web:80", Some("http|web|80")),
            (":web:", Some("|web|")),
            ("ftp:web:80", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(told(text).as_deref(), expected, "{text}");
        }
    }
}
