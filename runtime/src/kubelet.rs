//! What the API asks a node about its containers, on the kubelet's paths.
//!
//! `GET /containerLogs/NAMESPACE/POD/CONTAINER` with the query of `pods/log`, `GET /stats/summary`, `GET /pods`,
//! `GET /metrics`, `GET /healthz`, `GET /images/v2/…` (the reading half of the OCI distribution API, images under their full
//! names), `GET /code/…` (machine code, for other nodes), and the conversations, whose two directions are the bodies of request and answer: `POST /portForward/NAMESPACE/POD/PORT`,
//! a connection to a pod; `POST /exec/NAMESPACE/POD/CONTAINER` and `POST /attach/…`, with the query of `pods/exec` and
//! frames of [`api::channels`] in both. Who may ask was decided before: this service is reachable only through the API
//! server.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use image::Registry;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as k8s;
use network::{Body, BoxError};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use tokio_util::task::AbortOnDropHandle;

use crate::limits::{EXECS_MAX, FORWARD_PIECE_BYTES};
use crate::node::Agent;
use crate::output::{Reader, Wanted};
use crate::rooms::Room;
use crate::roster::Tenant;
use crate::{code, exec, stats};

/// The node's endpoints as a service: give it to whoever carries requests to this node.
#[derive(Clone)]
pub struct KubeletService {
    agent: Arc<Agent>,
    registry: Registry,
}

impl KubeletService {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        let registry = Registry::new(agent.config.images.clone());
        Self { agent, registry }
    }

    fn answer(&self, method: &Method, path: &str, query: Option<&str>) -> Result<Response<Body>, Refusal> {
        if method != Method::GET {
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here".to_owned()));
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            ["healthz"] => Ok(reply("text/plain; charset=utf-8", network::body::full("ok"))),
            // Prometheus' text format, as the kubelet's own.
            ["metrics"] => {
                let text = self.agent.config.metrics.text() + &code::metrics(&self.agent.config.engine);
                Ok(reply("text/plain; version=0.0.4", network::body::full(text)))
            }
            ["pods"] => {
                let list =
                    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.agent.roster.pods()});
                Ok(reply("application/json", network::body::full(list.to_string())))
            }
            ["stats", "summary"] => {
                Ok(reply("application/json", network::body::full(stats::summary(&self.agent).to_string())))
            }
            ["containerLogs", namespace, pod, container] => {
                logs(&self.tenant(namespace, pod)?, container, query.unwrap_or_default())
            }
            _ => Err(Refusal(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))),
        }
    }

    fn tenant(&self, namespace: &str, pod: &str) -> Result<Tenant, Refusal> {
        let absent = || Refusal(StatusCode::NOT_FOUND, format!("pod \"{pod}\" is not on this node"));
        self.agent.roster.get(namespace, pod).ok_or_else(absent)
    }

    /// Connects to a port of a pod, as the node. The connection ends with the answer's body.
    fn forward(&self, namespace: &str, pod: &str, port: &str, from_client: Body) -> Result<Response<Body>, Refusal> {
        let port: u16 = port.parse().map_err(|_| Refusal::bad(format!("{port:?} is not a port")))?;
        let tenant = self.tenant(namespace, pod)?;
        let address =
            tenant.pod.pod().status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok());
        let address = address.ok_or_else(|| Refusal::bad("the pod has no address".to_owned()))?;
        let connection = self.agent.config.fabric.connect(SocketAddr::new(address, port));
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

    /// Everything that is a conversation, by the first part of its path; `None` for what is none.
    async fn converse(&self, path: &str, query: &str, from_client: Body) -> Option<Result<Response<Body>, Refusal>> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        Some(match parts[..] {
            ["portForward", namespace, pod, port] => self.forward(namespace, pod, port, from_client),
            ["exec", namespace, pod, container] => self.exec(namespace, pod, container, query, from_client).await,
            ["attach", namespace, pod, container] => self.attach(namespace, pod, container, query, from_client),
            _ => return None,
        })
    }

    fn room(&self, namespace: &str, pod: &str, container: &str) -> Result<Room, Refusal> {
        let room = self.tenant(namespace, pod)?.rooms.get(container);
        room.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))
    }

    async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &str,
        from_client: Body,
    ) -> Result<Response<Body>, Refusal> {
        let room = self.room(namespace, pod, container)?;
        let full = || format!("{EXECS_MAX} commands run in container \"{container}\" already");
        let seat = room.seats.clone().try_acquire_owned();
        let seat = seat.map_err(|_| Refusal(StatusCode::TOO_MANY_REQUESTS, full()))?;
        let wanted = exec::Wanted::parse(query);
        let body = exec::exec(self.agent.clone(), room, wanted, from_client).await;
        let body = body.map_frame(move |frame| {
            // The seat is free when the conversation is over.
            let _ = &seat;
            frame
        });
        Ok(reply("application/octet-stream", network::body::boxed(body)))
    }

    fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &str,
        from_client: Body,
    ) -> Result<Response<Body>, Refusal> {
        let room = self.room(namespace, pod, container)?;
        let body = exec::attach(&room, &exec::Wanted::parse(query), from_client);
        let body = body.map_err(|why| Refusal(StatusCode::TOO_MANY_REQUESTS, why))?;
        Ok(reply("application/octet-stream", body))
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
            if head.method == Method::POST {
                let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
                let answer = service.converse(path, query, body).await;
                let absent = || Err(Refusal(StatusCode::NOT_FOUND, format!("there is nothing at {path}")));
                return Ok(answer.unwrap_or_else(absent).unwrap_or_else(Refusal::into_response));
            }
            if let Some(path) = head.uri.path().strip_prefix("/images") {
                return Ok(service.registry.answer_node(&head.method, path).await);
            }
            if let Some(name) = head.uri.path().strip_prefix("/code/") {
                let absent = || Refusal(StatusCode::NOT_FOUND, format!("there is no {name} here")).into_response();
                return Ok(code::answer(&service.agent.config.engine, name).await?.unwrap_or_else(absent));
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
        f.debug_struct("KubeletService").field("roster", &self.agent.roster).finish_non_exhaustive()
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
    let pod = &tenant.pod.name;
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
            let reason = waiting_reason(&tenant.pod.pod(), container);
            let message = format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}");
            Err(Refusal::bad(message))
        }
    }
}

fn waiting_reason(pod: &k8s::Pod, container: &str) -> String {
    let status = pod.status.iter();
    let all = status.flat_map(|status| {
        let guests = &status.ephemeral_container_statuses;
        status.init_container_statuses.iter().chain(&status.container_statuses).chain(guests).flatten()
    });
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
