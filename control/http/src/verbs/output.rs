//! `pods/log`: what a container wrote, streamed from the pod's node.
//!
//! The options are checked here, in kubelet's words where kubelet would refuse; the node sees a plain request.

use api::{Cause, Object, Status};
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Place, read};
use crate::Body;
use crate::body;
use crate::container;
use crate::query::Query;
use crate::reply::{Reply, TEXT, boxed};
use crate::service::{Call, Inner};

/// What a client wants of a container's output.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    container: String,
    previous: bool,
    /// The query for the node.
    query: String,
}

/// GET `pods/NAME/log`.
pub(super) async fn output(inner: &Inner, call: &Call, place: &Place) -> Result<Reply, Status> {
    let picture = read::picture(inner, call).await?;
    let pod = picture.get("pods", &place.namespace, &place.name);
    let pod = pod.ok_or_else(|| Status::not_found("pods", &place.name))?;
    let wanted = wanted(pod, &call.query)?;
    ready(pod, &wanted)?;
    let node = pod.field("spec.nodeName").as_str().unwrap_or_default();
    let path = format!("/containerLogs/{}/{}/{}", place.namespace, place.name, wanted.container);
    let uri = format!("http://node{path}?{}", wanted.query);
    let empty: Body = boxed(Full::default());
    let request = Request::get(uri).body(empty).map_err(|error| Status::bad_request(error.to_string()))?;
    let answered = inner.config.node_relay.send(node, request);
    let answered = answered.ok_or_else(|| unreachable_node(node, "it is not connected"))?.await;
    let response = answered.map_err(|error| unreachable_node(node, &error.to_string()))?;
    answer(response, call.stop.clone()).await
}

fn unreachable_node(node: &str, why: &str) -> Status {
    Status::internal(format!("the output cannot be read from node {node:?}: {why}"))
}

/// Passes a node's answer on; what it refuses becomes a `Status`.
async fn answer(response: Response<Body>, stop: CancellationToken) -> Result<Reply, Status> {
    let (head, node_body) = response.into_parts();
    if head.status == StatusCode::OK {
        let type_ = head.headers.get(CONTENT_TYPE).cloned().unwrap_or(TEXT);
        return Ok(Reply::stream(type_, until(node_body, stop)));
    }
    let text = body::read(node_body).await?;
    let text = String::from_utf8_lossy(&text);
    // A node may speak in Status itself; else its words are the message.
    let message =
        serde_json::from_str::<Value>(&text).ok().and_then(|value| value["message"].as_str().map(str::to_owned));
    let message = message.unwrap_or_else(|| text.trim().to_owned());
    Err(match head.status {
        StatusCode::NOT_FOUND => Status::new(404, "NotFound", message),
        status if status.is_client_error() => Status::bad_request(message),
        _ => Status::internal(message),
    })
}

/// The body until `stop`.
pub(crate) fn until(body: Body, stop: CancellationToken) -> Body {
    let frames = futures::stream::unfold((body, stop), |(mut body, stop)| async {
        tokio::select! {
            () = stop.cancelled() => None,
            frame = body.frame() => frame.map(|frame| (frame, (body, stop))),
        }
    });
    boxed(http_body_util::StreamBody::new(frames))
}

/// Checks the options against the pod.
fn wanted(pod: &Object, query: &Query) -> Result<Wanted, Status> {
    let container = container::choose(pod, query)?;
    let previous = query.flag("previous")?;
    Ok(Wanted { container, previous, query: options(query, pod.name())? })
}

/// The options that the node reads, checked and spelled again.
fn options(query: &Query, pod: &str) -> Result<String, Status> {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag)? {
            text.append_pair(flag, "true");
        }
    }
    let mut causes = Vec::new();
    for (field, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        let Some(number) = query.number(field)? else { continue };
        if number < least {
            let detail = format!("must be greater than or equal to {least}");
            causes.push(Cause::invalid(field, &json!(number), &detail));
        }
        text.append_pair(field, &number.to_string());
    }
    if let Some(time) = query.get("sinceTime") {
        if api::time::parse(time).is_none() {
            causes.push(Cause::invalid("sinceTime", &json!(time), "must be an RFC 3339 time"));
        }
        if query.get("sinceSeconds").is_some() {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            causes.push(Cause::forbidden("sinceSeconds", detail));
        }
        text.append_pair("sinceTime", time);
    }
    if causes.is_empty() { Ok(text.finish()) } else { Err(Status::invalid("", "PodLogOptions", pod, causes)) }
}

/// 400 in kubelet's words when there is nothing to read yet.
fn ready(pod: &Object, wanted: &Wanted) -> Result<(), Status> {
    let (name, container) = (pod.name(), &wanted.container);
    let waiting = |reason: &str| {
        let message = format!("container {container:?} in pod {name:?} is waiting to start: {reason}");
        Err(Status::bad_request(message))
    };
    if pod.field("spec.nodeName").as_str().unwrap_or_default().is_empty() {
        return waiting("the pod is not scheduled yet");
    }
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let statuses = lists.iter().filter_map(|list| pod.value["status"][*list].as_array()).flatten();
    let Some(status) = statuses.into_iter().find(|status| status["name"] == container.as_str()) else {
        // The node may have started it already; if not, it says so itself.
        return Ok(());
    };
    let ended_before = status["lastState"]["terminated"].is_object();
    if wanted.previous && !ended_before {
        let message = format!("previous terminated container {container:?} in pod {name:?} not found");
        return Err(Status::bad_request(message));
    }
    if wanted.previous || ended_before || !status["state"]["waiting"].is_object() {
        return Ok(());
    }
    waiting(match status["state"]["waiting"]["reason"].as_str() {
        Some("ErrImagePull") => "trying and failing to pull image",
        Some("ImagePullBackOff") => "image can't be pulled",
        Some(reason) if !reason.is_empty() => reason,
        _ => "ContainerCreating",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Key;

    fn pod(spec: &Value, status: &Value) -> Object {
        Object::new(Key::new("pods", "d", "web"), 1, json!({"spec": spec, "status": status}))
    }

    #[test]
    fn the_container_is_chosen_or_asked_for() {
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
        let two = pod(&two, &Value::Null);
        let asked = |query: &str| wanted(&two, &Query::parse(query));
        let message = "a container name must be specified for pod web, choose one of: [a b] \
                       or one of the init containers: [i]";
        assert_eq!(asked("").unwrap_err().message, message);
        assert_eq!(asked("container=c").unwrap_err().message, "container c is not valid for pod web");
        let wanted_i = asked("container=i&follow=true&tailLines=5&previous=1").unwrap();
        assert_eq!((wanted_i.container.as_str(), wanted_i.previous), ("i", true));
        assert_eq!(wanted_i.query, "follow=true&previous=true&tailLines=5");
        let one = pod(&json!({"containers": [{"name": "a"}]}), &Value::Null);
        assert_eq!(wanted(&one, &Query::default()).unwrap().container, "a");
        for bad in
            ["tailLines=-1", "sinceSeconds=0", "sinceTime=yesterday", "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z"]
        {
            assert_eq!(wanted(&one, &Query::parse(bad)).unwrap_err().code, 422, "{bad}");
        }
    }

    #[test]
    fn nothing_to_read_yet_is_said() {
        let refusal = |spec: &Value, state: Value, previous| {
            let status = json!({"containerStatuses": [{"name": "a", "state": state}]});
            let wanted = Wanted { container: "a".into(), previous, query: String::new() };
            ready(&pod(spec, &status), &wanted).err().map(|status| status.message.clone())
        };
        let bound = json!({"nodeName": "n1"});
        let starts = |why: &str| Some(format!("container \"a\" in pod \"web\" is waiting to start: {why}"));
        assert_eq!(refusal(&json!({}), json!({}), false), starts("the pod is not scheduled yet"));
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        assert_eq!(refusal(&bound, waiting("ContainerCreating"), false), starts("ContainerCreating"));
        assert_eq!(refusal(&bound, waiting("ImagePullBackOff"), false), starts("image can't be pulled"));
        assert_eq!(refusal(&bound, json!({"running": {}}), false), None);
        assert!(refusal(&bound, json!({"running": {}}), true).unwrap().starts_with("previous terminated container"));
    }
}
