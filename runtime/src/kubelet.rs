//! What the API asks a node about its containers, on the kubelet's paths.
//!
//! `GET /containerLogs/NAMESPACE/POD/CONTAINER` with the query of `pods/log`, `GET /pods`, `GET /healthz`, and
//! `GET /images/v2/…` (the reading half of the OCI distribution API, images under their full names), and
//! `POST /portForward/NAMESPACE/POD/PORT`: a connection to a pod, its two directions the bodies of request and answer.
//! Who may ask was decided before: this service is reachable only through the API server.

use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use image::{Images, Registry};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as k8s;
use network::{Body, BoxError, Fabric};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use tokio_util::task::AbortOnDropHandle;

use crate::limits::FORWARD_PIECE_BYTES;
use crate::output::{Reader, Wanted};
use crate::roster::{Roster, Tenant};

/// The node's endpoints as a service: give it to whoever carries requests to this node.
#[derive(Clone)]
pub struct KubeletService {
    roster: Roster,
    fabric: Fabric,
    registry: Registry,
}

impl KubeletService {
    pub(crate) fn new(roster: Roster, fabric: Fabric, images: Images) -> Self {
        Self { roster, fabric, registry: Registry::new(images) }
    }

    fn answer(&self, method: &Method, path: &str, query: Option<&str>) -> Result<Response<Body>, Refusal> {
        if method != Method::GET {
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here".to_owned()));
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            ["healthz"] => Ok(reply("text/plain; charset=utf-8", network::body::full("ok"))),
            ["pods"] => {
                let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.roster.pods()});
                Ok(reply("application/json", network::body::full(list.to_string())))
            }
            ["containerLogs", namespace, pod, container] => {
                logs(&self.tenant(namespace, pod)?, container, query.unwrap_or_default())
            }
            _ => Err(Refusal(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))),
        }
    }

    fn tenant(&self, namespace: &str, pod: &str) -> Result<Tenant, Refusal> {
        let absent = || Refusal(StatusCode::NOT_FOUND, format!("pod \"{pod}\" is not on this node"));
        self.roster.get(namespace, pod).ok_or_else(absent)
    }

    /// Connects to a port of a pod, as the node. The connection ends with the answer's body.
    fn forward(&self, namespace: &str, pod: &str, port: &str, from_client: Body) -> Result<Response<Body>, Refusal> {
        let port: u16 = port.parse().map_err(|_| Refusal::bad(format!("{port:?} is not a port")))?;
        let tenant = self.tenant(namespace, pod)?;
        let address = tenant.pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok());
        let address = address.ok_or_else(|| Refusal::bad("the pod has no address".to_owned()))?;
        let connection = self.fabric.connect(SocketAddr::new(address, port));
        let connection = connection.map_err(|error| Refusal(StatusCode::BAD_GATEWAY, error.to_string()))?;
        let (reader, mut writer) = connection.into_split();
        let copying = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut pieces = from_client.into_data_stream();
            while let Some(Ok(piece)) = pieces.next().await {
                if writer.write_all(&piece).await.is_err() {
                    return;
                }
            }
            // The pod sees the end when the writer goes.
        }));
        let pieces = ReaderStream::with_capacity(reader, FORWARD_PIECE_BYTES);
        let frames = pieces.map_ok(move |piece| {
            // Whoever lets go of the answer lets go of the whole connection.
            let _ = &copying;
            Frame::data(piece)
        });
        Ok(reply("application/octet-stream", network::body::boxed(StreamBody::new(frames))))
    }
}

impl<B> tower::Service<Request<B>> for KubeletService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        let (head, body) = request.into_parts();
        let body = network::body::boxed(body);
        Box::pin(async move {
            let path = head.uri.path().trim_matches('/');
            if let (&Method::POST, Some(connection)) = (&head.method, path.strip_prefix("portForward/")) {
                let mut parts = connection.splitn(3, '/');
                let mut part = || parts.next().unwrap_or_default();
                let answer = service.forward(part(), part(), part(), body);
                return Ok(answer.unwrap_or_else(Refusal::into_response));
            }
            if let Some(path) = head.uri.path().strip_prefix("/images") {
                return Ok(service.registry.answer_node(&head.method, path).await);
            }
            // Finding the files takes a few system calls.
            let answer = move || service.answer(&head.method, head.uri.path(), head.uri.query());
            let answer = tokio::task::spawn_blocking(answer).await?;
            Ok(answer.unwrap_or_else(Refusal::into_response))
        })
    }
}

impl std::fmt::Debug for KubeletService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeletService").field("roster", &self.roster).finish_non_exhaustive()
    }
}

/// A request that cannot be answered: status and sentence.
struct Refusal(StatusCode, String);

impl Refusal {
    fn into_response(self) -> Response<Body> {
        let mut response = reply("text/plain; charset=utf-8", network::body::full(self.1));
        *response.status_mut() = self.0;
        response
    }

    fn bad(message: String) -> Self {
        Self(StatusCode::BAD_REQUEST, message)
    }
}

fn logs(tenant: &Tenant, container: &str, query: &str) -> Result<Response<Body>, Refusal> {
    let pod = tenant.pod.metadata.name.as_deref().unwrap_or_default();
    let (previous, wanted) = parse(query, Timestamp::now())?;
    let output = tenant.outputs.get(container);
    let output = output.ok_or_else(|| Refusal::bad(format!("container {container} is not valid for pod {pod}")))?;
    let read = output.reader(previous, &wanted);
    let reader = read.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    match reader {
        Some(reader) => Ok(reply("text/plain; charset=utf-8", body(reader))),
        None if previous => {
            let message = format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
            Err(Refusal::bad(message))
        }
        None => {
            let reason = waiting_reason(&tenant.pod, container);
            let message = format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}");
            Err(Refusal::bad(message))
        }
    }
}

fn waiting_reason(pod: &k8s::Pod, container: &str) -> String {
    let status = pod.status.iter();
    let all =
        status.flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
    let found =
        all.filter(|status| status.name == container).find_map(|status| status.state.as_ref()?.waiting.as_ref());
    found.and_then(|waiting| waiting.reason.clone()).unwrap_or_else(|| "ContainerCreating".to_owned())
}

/// Reads the query of `pods/log`: whether the previous attempt is meant, and what of it.
fn parse(query: &str, now: Timestamp) -> Result<(bool, Wanted), Refusal> {
    let (mut previous, mut wanted) = (false, Wanted::default());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let invalid = || Refusal::bad(format!("{name}={value:?} cannot be understood"));
        let flag = || match &*value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(invalid()),
        };
        let number = || value.parse::<u64>().map_err(|_| invalid());
        match &*name {
            "previous" => previous = flag()?,
            "follow" => wanted.follow = flag()?,
            "timestamps" => wanted.timestamps = flag()?,
            "tailLines" => wanted.tail_lines = Some(number()?),
            "limitBytes" => wanted.limit_bytes = Some(number()?),
            "sinceSeconds" => {
                let seconds = i64::try_from(number()?).map_err(|_| invalid())?;
                wanted.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
            }
            "sinceTime" => wanted.since = Some(value.parse().map_err(|_| invalid())?),
            // Whoever sends something else means something we do not offer; it takes nothing away to ignore it.
            _ => {}
        }
    }
    Ok((previous, wanted))
}

fn body(reader: Reader) -> Body {
    let frames = stream::unfold(Some(reader), |reader| async move {
        match reader?.next().await {
            Ok(Some((chunk, reader))) => Some((Ok::<_, BoxError>(Frame::data(chunk)), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error.into()), None)),
        }
    });
    network::body::boxed(StreamBody::new(frames))
}

fn reply(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_kubectl_logs() {
        let now: Timestamp = "2030-01-01T00:00:10Z".parse().unwrap();
        let read = |query: &str| parse(query, now).map_err(|Refusal(_, message)| message);
        let since = |text: &str| Wanted { since: Some(text.parse().unwrap()), ..Wanted::default() };
        let table = [
            ("", (false, Wanted::default())),
            ("follow=true&container=x", (false, Wanted { follow: true, ..Wanted::default() })),
            ("previous=true&timestamps=true", (true, Wanted { timestamps: true, ..Wanted::default() })),
            ("tailLines=5", (false, Wanted { tail_lines: Some(5), ..Wanted::default() })),
            ("limitBytes=9", (false, Wanted { limit_bytes: Some(9), ..Wanted::default() })),
            ("sinceSeconds=7", (false, since("2030-01-01T00:00:03Z"))),
            ("sinceTime=2029-12-31T23%3A00%3A00%2B01%3A00", (false, since("2029-12-31T22:00:00Z"))),
        ];
        for (query, expected) in table {
            assert_eq!(read(query).unwrap(), expected, "{query}");
        }
        for query in ["follow=maybe", "tailLines=-1", "sinceTime=yesterday"] {
            assert!(read(query).unwrap_err().contains("cannot be understood"), "{query}");
        }
    }
}
