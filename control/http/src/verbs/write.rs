//! CREATE, UPDATE, PATCH, DELETE: bodies and options from the wire to the door of the state.

use std::sync::Arc;

use api::{Cause, Object, Resource, Status};
use http::StatusCode;
use http::header::USER_AGENT;
use objects::{DeleteOptions, Deleted, Patch, Propagation, Validation, WriteOptions, Written};
use serde_json::{Map, Value, json};

use super::list::encode;
use super::page::Filter;
use super::precaution::Precaution;
use super::subresources::done;
use super::{Form, Place};
use crate::Body;
use crate::auth::{node_may_create, reviews};
use crate::body as bodies;
use crate::negotiate::PatchType;
use crate::query::Query;
use crate::reply::Reply;
use crate::service::{Call, Inner};

/// Longest name of a field manager, as upstream validates it.
const MANAGER_BYTES_MAX: usize = 128;

/// POST to a collection.
pub(super) async fn create(inner: &Inner, call: &Call, body: Body, place: &Place) -> Result<Reply, Status> {
    let mut options = options(call, "CreateOptions")?;
    let form = Form::of(call, &place.resource)?;
    let decoded = bodies::object(&call.headers, body).await?;
    let view = inner.objects.view();
    let review = reviews::answer(&view, &inner.config, &call.user, &place.resource, &place.namespace, &decoded.value);
    if let Some(answer) = review {
        if !matches!(form, Form::Object) {
            return Err(Status::not_acceptable("only application/json is served for this resource"));
        }
        return Ok(Reply::value(StatusCode::CREATED, &answer?));
    }
    if &*place.resource.name == "bindings" {
        // The older way to say `pods/NAME/binding`; never stored.
        let (binding, name) = (&decoded.value, api::meta::name(&decoded.value));
        inner.objects.bind_pod(&call.user, &place.namespace, name, binding, &options).await?;
        return Ok(done());
    }
    node_may_create(&call.user, &place.resource.name, &decoded.value)?;
    options.duplicates = decoded.duplicates;
    let (objects, who, resource) = (&inner.objects, &call.user, &place.resource);
    let precaution = Precaution::of_creation(inner, who, place);
    if let Some(rehearsal) = precaution.rehearsal(&options) {
        let body = decoded.value.clone();
        precaution.check(&objects.create(who, resource, &place.namespace, body, &rehearsal).await?)?;
    }
    let written = objects.create(who, resource, &place.namespace, decoded.value, &options).await?;
    Ok(reply(&form, place, None, &written))
}

/// PUT of an object or one of its subresources.
pub(super) async fn update(
    inner: &Inner,
    call: &Call,
    body: Body,
    place: &Place,
    subresource: Option<&str>,
) -> Result<Reply, Status> {
    let mut options = options(call, "UpdateOptions")?;
    let form = Form::of(call, &place.resource)?;
    let decoded = bodies::object(&call.headers, body).await?;
    options.duplicates = decoded.duplicates;
    let (objects, who, resource) = (&inner.objects, &call.user, &place.resource);
    let (namespace, name) = (&place.namespace, &place.name);
    let precaution = Precaution::of_change(inner, who, place);
    if let Some(rehearsal) = precaution.rehearsal(&options) {
        let body = decoded.value.clone();
        precaution.check(&objects.update(who, resource, namespace, name, subresource, body, &rehearsal).await?)?;
    }
    let written = objects.update(who, resource, namespace, name, subresource, decoded.value, &options).await?;
    Ok(reply(&form, place, subresource, &written))
}

/// PATCH of an object or one of its subresources.
pub(super) async fn patch(
    inner: &Inner,
    call: &Call,
    body: Body,
    place: &Place,
    subresource: Option<&str>,
) -> Result<Reply, Status> {
    let mut options = options(call, "PatchOptions")?;
    let form = Form::of(call, &place.resource)?;
    let (type_, decoded) = bodies::patch(&call.headers, body).await?;
    options.duplicates = decoded.duplicates;
    let patch = in_language(type_, decoded.value, &call.query)?;
    let (objects, who, resource) = (&inner.objects, &call.user, &place.resource);
    let (namespace, name) = (&place.namespace, &place.name);
    let precaution = Precaution::of_change(inner, who, place);
    if let Some(rehearsal) = precaution.rehearsal(&options) {
        let patch = patch.clone();
        precaution.check(&objects.patch(who, resource, namespace, name, subresource, patch, &rehearsal).await?)?;
    }
    let written = objects.patch(who, resource, namespace, name, subresource, patch, &options).await?;
    Ok(reply(&form, place, subresource, &written))
}

/// The patch in the language of its media type; 422 for options that do not go with it.
fn in_language(type_: PatchType, body: Value, query: &Query) -> Result<Patch, Status> {
    let named = query.get("fieldManager").is_some();
    Ok(match (type_, query.optional_flag("force")?) {
        (PatchType::Apply, _) if !named => {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(invalid("PatchOptions", cause));
        }
        (PatchType::Apply, force) => Patch::Apply { body, force: force.unwrap_or(false) },
        (_, Some(_)) => {
            let cause = Cause::forbidden("force", "may not be specified for non-apply patch");
            return Err(invalid("PatchOptions", cause));
        }
        (PatchType::Json, _) => Patch::Json(body),
        (PatchType::Merge, _) => Patch::Merge(body),
        (PatchType::Strategic, _) => Patch::Strategic(body),
    })
}

/// DELETE of one object.
pub(super) async fn delete(inner: &Inner, call: &Call, body: Body, place: &Place) -> Result<Reply, Status> {
    let form = Form::of(call, &place.resource)?;
    let options = delete_options(&call.query, &bodies::options(&call.headers, body).await?)?;
    let (who, resource) = (&call.user, &place.resource);
    let deleted = inner.objects.delete(who, resource, &place.namespace, &place.name, &options).await?;
    Ok(match deleted {
        Deleted::Pending(object) => form.reply(StatusCode::OK, &place.resource, &object),
        Deleted::Gone(object) => Reply::value(StatusCode::OK, &gone(resource, &object)),
    })
}

/// The `Status` of a deletion that is done. The uid lets a client that waits tell a namesake from its object.
fn gone(resource: &Resource, object: &Object) -> Value {
    let mut details = json!({"name": object.name(), "kind": resource.plural, "uid": object.uid()});
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// DELETE of what the selectors choose.
pub(super) async fn delete_collection(inner: &Inner, call: &Call, body: Body, place: &Place) -> Result<Reply, Status> {
    let filter = Filter::of(&call.query, place)?;
    let options = delete_options(&call.query, &bodies::options(&call.headers, body).await?)?;
    let (who, resource) = (&call.user, &place.resource);
    let selected = |object: &Object| filter.wants(object);
    let deleted = inner.objects.delete_collection(who, resource, &place.namespace, selected, &options).await?;
    let deleted: Vec<Arc<Object>> = deleted.iter().map(|deleted| deleted.object().clone()).collect();
    let metadata = json!({"resourceVersion": inner.objects.view().revision().to_string()});
    Ok(Reply::parts(encode(&place.resource, &metadata, &deleted)))
}

fn reply(form: &Form, place: &Place, subresource: Option<&str>, written: &Written) -> Reply {
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let reply = match subresource {
        Some("scale") => Reply::value(code, &objects::scale_of(&place.resource, &written.object)),
        _ => form.reply(code, &place.resource, &written.object),
    };
    reply.warn(&written.warnings)
}

fn invalid(kind: &str, cause: Cause) -> Status {
    Status::invalid("meta.k8s.io", kind, "", vec![cause])
}

/// `dryRun`, `fieldManager` and `fieldValidation`; `kind` names the options in a refusal.
pub(super) fn options(call: &Call, kind: &str) -> Result<WriteOptions, Status> {
    let dry_run = dry_run(call.query.all("dryRun"), kind)?;
    let field_validation = match call.query.get("fieldValidation") {
        None | Some("Warn") => Validation::Warn,
        Some("Ignore") => Validation::Ignore,
        Some("Strict") => Validation::Strict,
        Some(other) => {
            let allowed = ["Ignore", "Warn", "Strict"];
            return Err(invalid(kind, Cause::not_supported("fieldValidation", &json!(other), &allowed)));
        }
    };
    // Without a name of its own a client is known by its program's.
    let program = || call.header(USER_AGENT).split('/').next().unwrap_or_default();
    let manager = call.query.get("fieldManager").unwrap_or_else(program);
    if manager.len() > MANAGER_BYTES_MAX || manager.chars().any(char::is_control) {
        let detail = format!("must be printable and at most {MANAGER_BYTES_MAX} bytes");
        return Err(invalid(kind, Cause::invalid("fieldManager", &json!(manager), &detail)));
    }
    Ok(WriteOptions { dry_run, field_manager: manager.to_owned(), field_validation, duplicates: Vec::new() })
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, kind: &str) -> Result<bool, Status> {
    let mut dry_run = false;
    for value in values {
        match value {
            "All" => dry_run = true,
            "" => {}
            other => return Err(invalid(kind, Cause::not_supported("dryRun", &json!(other), &["All"]))),
        }
    }
    Ok(dry_run)
}

/// `DeleteOptions` from the body, where there is one, and else from the query.
pub(super) fn delete_options(query: &Query, body: &Value) -> Result<DeleteOptions, Status> {
    let empty = Map::new();
    let body = body.as_object().unwrap_or(&empty);
    let kind = body.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
    if kind != "DeleteOptions" {
        return Err(Status::bad_request(format!("the body of a DELETE must be DeleteOptions, not {kind}")));
    }
    let text = |field: &str| body.get(field).and_then(Value::as_str).or_else(|| query.get(field));
    let grace = match body.get("gracePeriodSeconds").and_then(Value::as_i64) {
        Some(seconds) => Some(seconds),
        None => query.number("gracePeriodSeconds")?,
    };
    let grace = grace.map(u32::try_from).transpose().map_err(|_| {
        invalid(
            "DeleteOptions",
            Cause::invalid("gracePeriodSeconds", &json!(grace), "must be between 0 and 4294967295"),
        )
    })?;
    let orphan = match body.get("orphanDependents").and_then(Value::as_bool) {
        Some(orphan) => Some(orphan),
        None => query.optional_flag("orphanDependents")?,
    };
    let propagation = match (text("propagationPolicy"), orphan) {
        (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
        (None, None) => None,
        (Some(_), Some(_)) => {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            return Err(invalid("DeleteOptions", Cause::forbidden("propagationPolicy", detail)));
        }
        (Some(other), None) => {
            let allowed = ["Foreground", "Background", "Orphan"];
            return Err(invalid("DeleteOptions", Cause::not_supported("propagationPolicy", &json!(other), &allowed)));
        }
    };
    let listed = body.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let dry_run = dry_run(listed.chain(query.all("dryRun")), "DeleteOptions")?;
    let preconditions = body.get("preconditions").unwrap_or(&Value::Null);
    let revision = preconditions["resourceVersion"].as_str().map(str::parse).transpose();
    let revision = revision.map_err(|_| Status::bad_request("preconditions.resourceVersion must be a number"))?;
    let uid = preconditions["uid"].as_str().map(str::to_owned);
    let preconditions = api::Precondition { uid, revision };
    Ok(DeleteOptions { grace_period_seconds: grace, preconditions, propagation, dry_run })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delete_options_come_from_body_or_query() {
        let read = |query: &str, body: Value| delete_options(&Query::parse(query), &body).map_err(|status| status.code);
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan", "dryRun": ["All"],
            "gracePeriodSeconds": 0, "preconditions": {"uid": "u", "resourceVersion": "7"}});
        let options = read("", body).unwrap();
        assert_eq!((options.grace_period_seconds, options.dry_run), (Some(0), true));
        assert_eq!(options.propagation, Some(Propagation::Orphan));
        assert_eq!((options.preconditions.uid.as_deref(), options.preconditions.revision), (Some("u"), Some(7)));
        let options = read("gracePeriodSeconds=5&propagationPolicy=Foreground", Value::Null).unwrap();
        assert_eq!((options.grace_period_seconds, options.propagation), (Some(5), Some(Propagation::Foreground)));
        assert_eq!(read("propagationPolicy=Sideways", Value::Null).unwrap_err(), 422);
        assert_eq!(read("dryRun=Some", Value::Null).unwrap_err(), 422);
        assert_eq!(read("", json!({"kind": "Pod"})).unwrap_err(), 400);
    }
}
