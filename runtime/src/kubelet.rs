//! What the API asks a node about its containers, on the kubelet's paths.
//!
//! `GET /containerLogs/NAMESPACE/POD/CONTAINER` with the query of `pods/log`, `GET /pods`, `GET /healthz`. Who may ask
//! was decided before: this service is reachable only through the API server.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as k8s;
use network::{Body, BoxError};
use serde_json::json;

use crate::output::{Reader, Wanted};
use crate::roster::{Roster, Tenant};

/// The node's endpoints as a service: give it to whoever carries requests to this node.
#[derive(Clone, Debug)]
pub struct KubeletService {
    roster: Roster,
}

impl KubeletService {
    pub(crate) fn new(roster: Roster) -> Self {
        Self { roster }
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
                let tenant = self.roster.get(namespace, pod);
                let absent = || Refusal(StatusCode::NOT_FOUND, format!("pod \"{pod}\" is not on this node"));
                logs(&tenant.ok_or_else(absent)?, container, query.unwrap_or_default())
            }
            _ => Err(Refusal(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))),
        }
    }
}

impl<B: Send + 'static> tower::Service<Request<B>> for KubeletService {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        let (head, _) = request.into_parts();
        Box::pin(async move {
            // Finding the files takes a few system calls.
            let answer = move || service.answer(&head.method, head.uri.path(), head.uri.query());
            let answer = tokio::task::spawn_blocking(answer).await?;
            Ok(answer.unwrap_or_else(Refusal::into_response))
        })
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
