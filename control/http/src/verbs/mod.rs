//! The verbs of Kubernetes over any resource: a row of the catalog, a namespace, a name.

mod list;
mod output;
mod page;
mod precaution;
mod proxy;
mod read;
mod subresources;
mod watch;
mod write;

pub(crate) use output::until;
pub(crate) use page::{Filter, Start};
pub(crate) use proxy::reach;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use api::path::{self, Target};
use api::{Object, Resource, Status};
use http::StatusCode;
use serde_json::json;

use crate::Body;
use crate::negotiate::{self, Shape};
use crate::reply::Reply;
use crate::service::{Call, Inner};
use crate::table::{self, IncludeObject, Layout, Table};

/// What a request is about, with the row that says what it is.
pub(crate) struct Place {
    pub(crate) resource: Arc<Resource>,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
}

/// Answers a request about a resource; authorization has happened.
pub(crate) async fn dispatch(inner: &Inner, call: &Call, body: Body, target: Target) -> Result<Reply, Status> {
    let catalog = inner.objects.catalog();
    let row = catalog.find(&target.group, &target.version, &target.plural).cloned();
    let resource = row.ok_or_else(Status::no_such_path)?;
    // Only a proxied path goes on behind its subresource.
    let trailing = !target.rest.is_empty() && target.subresource != "proxy";
    if trailing || (!resource.namespaced && !target.namespace.is_empty()) {
        return Err(Status::no_such_path());
    }
    let watch = call.query.flag("watch")?;
    let verb = path::verb(call.method.as_str(), &target, watch).ok_or_else(Status::method_not_allowed)?;
    let place = Place { resource, namespace: target.namespace, name: target.name };
    if !target.subresource.is_empty() {
        return subresources::dispatch(inner, call, body, &place, verb, &target.subresource, &target.rest).await;
    }
    // A collection over all namespaces can be read, but what is written stands in one.
    let nowhere = place.resource.namespaced && place.namespace.is_empty();
    let collective = matches!(verb, "list" | "watch" | "deletecollection");
    let fits = match verb {
        "create" => place.name.is_empty(),
        "update" | "patch" => !place.name.is_empty(),
        _ => true,
    };
    if !fits || !place.resource.verbs.contains(&verb) || (nowhere && !collective) {
        return Err(Status::method_not_allowed());
    }
    match verb {
        "get" => read::get(inner, call, &place).await,
        "list" => list::list(inner, call, &place).await,
        "watch" => watch::watch(inner, call, &place).await,
        "create" => write::create(inner, call, body, &place).await,
        "update" => write::update(inner, call, body, &place, None).await,
        "patch" => write::patch(inner, call, body, &place, None).await,
        "delete" => write::delete(inner, call, body, &place).await,
        "deletecollection" => write::delete_collection(inner, call, body, &place).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// How this client wants objects of this resource.
pub(crate) enum Form {
    Object,
    Table(Table),
    Metadata(negotiate::MetaVersion),
}

impl Form {
    /// Reads `Accept` and `includeObject`.
    pub(crate) fn of(call: &Call, resource: &Arc<Resource>) -> Result<Self, Status> {
        Self::laid_out(call, || table::sheet(resource))
    }

    /// [`Form::of`] for the Scale of whatever has one.
    pub(crate) fn of_scale(call: &Call) -> Result<Self, Status> {
        Self::laid_out(call, table::scales)
    }

    fn laid_out(call: &Call, layout: impl FnOnce() -> Layout) -> Result<Self, Status> {
        Ok(match negotiate::shape(&call.accept())? {
            Shape::Object => Self::Object,
            Shape::Metadata(version) => Self::Metadata(version),
            Shape::Table(version) => Self::Table(Table {
                sheet: layout(),
                version,
                include: IncludeObject::of(&call.query)?,
                now_ms: now_ms(),
            }),
        })
    }

    /// One object of the resource as an answer.
    pub(crate) fn reply(&self, code: StatusCode, resource: &Resource, object: &Object) -> Reply {
        match self {
            Self::Object => Reply::json(code, resource.encoded(object).to_bytes()),
            Self::Metadata(version) => Reply::json(code, table::partial(object, *version)),
            Self::Table(table) => {
                let metadata = json!({"resourceVersion": object.revision.to_string()});
                Reply::json(code, table.encode(&metadata, true, [object]))
            }
        }
    }
}

/// Milliseconds since 1970: the only clock of this crate, for ages in tables.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
