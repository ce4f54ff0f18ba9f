//! GET of one object, and which picture a read is answered from.

use api::{Status, View};
use http::StatusCode;

use super::{Form, Place};
use crate::reply::Reply;
use crate::service::{Call, Inner};

/// GET.
pub(super) async fn get(inner: &Inner, call: &Call, place: &Place) -> Result<Reply, Status> {
    let form = Form::of(call, &place.resource)?;
    let picture = picture(inner, call).await?;
    let object = picture.get(&place.resource.name, &place.namespace, &place.name);
    let object = object.ok_or_else(|| Status::not_found(&place.resource.name, &place.name))?;
    Ok(form.reply(StatusCode::OK, &place.resource, object))
}

/// `resourceVersion` of a read: unset is linearizable, 0 is whatever is here, N is not older than N.
pub(super) async fn picture(inner: &Inner, call: &Call) -> Result<View, Status> {
    match revision(call)? {
        None => inner.objects.fresh_view().await,
        Some(0) => Ok(inner.objects.view()),
        Some(revision) => inner.objects.view_at_least(revision).await,
    }
}

/// The query's `resourceVersion`.
pub(super) fn revision(call: &Call) -> Result<Option<u64>, Status> {
    let Some(text) = call.query.get("resourceVersion") else { return Ok(None) };
    let revision = text.parse().map(Some);
    revision.map_err(|_| Status::bad_request(format!("Invalid value: {text:?}: resourceVersion must be a number")))
}
