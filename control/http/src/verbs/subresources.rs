//! What stands behind an object's name: `status`, `scale`, `log`, and the commands that are posted there.

use api::json::Decoded;
use api::{Object, Status};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Form, Place, now_ms, output, proxy, read, write};
use crate::reply::Reply;
use crate::service::{Call, Inner};
use crate::{Body, body, stream};

/// Answers a request about `NAME/subresource`.
pub(super) async fn dispatch(
    inner: &Inner,
    call: &Call,
    body: Body,
    place: &Place,
    verb: &str,
    subresource: &str,
    rest: &str,
) -> Result<Reply, Status> {
    let row = place.resource.subresource(subresource).ok_or_else(Status::no_such_path)?;
    if place.resource.namespaced && place.namespace.is_empty() {
        return Err(Status::no_such_path());
    }
    if !row.verbs.contains(&verb) {
        return Err(Status::method_not_allowed());
    }
    let name = row.name;
    let warnings = match connection(call, name, &row.kind, rest) {
        Some(options) => {
            let (objects, who, resource) = (&inner.objects, &call.user, &place.resource);
            // `http:web:8080` is a way to say `web`.
            let object = if name == "proxy" { proxy::object(&place.name)? } else { &place.name };
            objects.connect(who, resource, &place.namespace, object, name, &options).await?
        }
        None => Vec::new(),
    };
    let reply = answer(inner, call, body, place, (name, verb), rest).await?;
    Ok(reply.warn(&warnings))
}

/// The options of a conversation, as webhooks are shown them; `None` for what is none.
fn connection(call: &Call, subresource: &str, kind: &str, rest: &str) -> Option<Value> {
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    match subresource {
        "exec" | "attach" => {
            for stream in ["stdin", "stdout", "stderr", "tty"] {
                if matches!(call.query.flag(stream), Ok(true)) {
                    options[stream] = json!(true);
                }
            }
            if let Some(container) = call.query.get("container") {
                options["container"] = json!(container);
            }
            let command: Vec<&str> = call.query.all("command").collect();
            if !command.is_empty() {
                options["command"] = json!(command);
            }
        }
        "portforward" => {
            let ports = call.query.all("ports").flat_map(|list| list.split(','));
            options["ports"] = ports.filter_map(|port| port.trim().parse::<u16>().ok()).collect();
        }
        "proxy" => options["path"] = json!(format!("/{rest}")),
        _ => return None,
    }
    Some(options)
}

async fn answer(
    inner: &Inner,
    call: &Call,
    body: Body,
    place: &Place,
    (name, verb): (&str, &str),
    rest: &str,
) -> Result<Reply, Status> {
    match (name, verb) {
        ("log", "get") => output::output(inner, call, place).await,
        ("portforward", _) => {
            let picture = read::picture(inner, call).await?;
            let pod = picture.get("pods", &place.namespace, &place.name);
            stream::forward(inner, call, pod.ok_or_else(|| Status::not_found("pods", &place.name))?)
        }
        ("proxy", _) => proxy::proxy(inner, call, body, place, rest).await,
        ("exec" | "attach", _) => {
            let picture = read::picture(inner, call).await?;
            let pod = picture.get("pods", &place.namespace, &place.name);
            stream::exec(inner, call, pod.ok_or_else(|| Status::not_found("pods", &place.name))?, name).await
        }
        ("binding", "create") => bind(inner, call, body, place).await,
        ("eviction", "create") => evict(inner, call, body, place).await,
        ("token", "create") => token(inner, call, body, place).await,
        ("scale", "get") => scale(inner, call, place).await,
        (_, "get") => read::get(inner, call, place).await,
        (_, "update") => write::update(inner, call, body, place, Some(name)).await,
        (_, "patch") => write::patch(inner, call, body, place, Some(name)).await,
        _ => Err(absent(name, &place.resource.name)),
    }
}

/// 501: Kubernetes has it, this server has not.
fn absent(subresource: &str, resource: &str) -> Status {
    let message = format!("the server does not serve the subresource {subresource:?} of {resource}");
    Status::new(501, "NotImplemented", message).about(resource, "")
}

async fn scale(inner: &Inner, call: &Call, place: &Place) -> Result<Reply, Status> {
    let form = Form::of_scale(call)?;
    let picture = read::picture(inner, call).await?;
    let object = picture.get(&place.resource.name, &place.namespace, &place.name);
    let object = object.ok_or_else(|| Status::not_found(&place.resource.name, &place.name))?;
    let scale = objects::scale_of(&place.resource, object);
    Ok(match form {
        Form::Object => Reply::value(StatusCode::OK, &scale),
        // Columns and metadata are the Scale's own; the row is its object's.
        other => {
            let scale = Object::new(object.key.clone(), object.revision, scale);
            other.reply(StatusCode::OK, &place.resource, &scale)
        }
    })
}

/// POST of a Binding: gives a pod to a node.
async fn bind(inner: &Inner, call: &Call, body: Body, place: &Place) -> Result<Reply, Status> {
    let options = write::options(call, "CreateOptions")?;
    let binding = command(call, body, "Binding").await?;
    inner.objects.bind_pod(&call.user, &place.namespace, &place.name, &binding.value, &options).await?;
    Ok(done())
}

/// POST of an Eviction: deletes a pod if no budget forbids it.
async fn evict(inner: &Inner, call: &Call, body: Body, place: &Place) -> Result<Reply, Status> {
    let eviction = command(call, body, "Eviction").await?;
    let mut options = eviction.value["deleteOptions"].clone();
    if let Some(options) = options.as_object_mut() {
        // Nested options need not say what they are.
        options.remove("kind");
    }
    let options = write::delete_options(&call.query, &options)?;
    inner.objects.evict(&call.user, &place.namespace, &place.name, &options).await?;
    Ok(done())
}

/// POST of a TokenRequest: a token that speaks for a service account.
async fn token(inner: &Inner, call: &Call, body: Body, place: &Place) -> Result<Reply, Status> {
    let Some(tokens) = &inner.config.service_accounts else {
        return Err(absent("token", &place.resource.name));
    };
    let mut request = command(call, body, "TokenRequest").await?;
    api::check::check(&mut request.value, "k8s.io/api/authentication/v1.TokenRequest")?;
    let view = inner.objects.fresh_view().await?;
    let account = view.get(&place.resource.name, &place.namespace, &place.name);
    let account = account.ok_or_else(|| Status::not_found(&place.resource.name, &place.name))?;
    let answer = tokens.issue(&view, account, &request.value, now_ms())?;
    Ok(Reply::value(StatusCode::CREATED, &answer))
}

/// Reads a command; 400 when it is something else.
async fn command(call: &Call, body: Body, kind: &str) -> Result<Decoded, Status> {
    let decoded = body::object(&call.headers, body).await?;
    match decoded.value["kind"].as_str() {
        None | Some("") => Ok(decoded),
        Some(given) if given == kind => Ok(decoded),
        Some(given) => Err(Status::bad_request(format!("the body must be {kind}, not {given}"))),
    }
}

/// The answer to a command that was carried out.
pub(super) fn done() -> Reply {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Reply::value(StatusCode::CREATED, &status)
}
