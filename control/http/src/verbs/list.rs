//! LIST: one page of one picture, as bytes.

use std::sync::Arc;

use api::{Object, Resource, Status, View};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::page::{Filter, Start, Token, Which};
use super::read::revision;
use super::{Form, Place};
use crate::limits::PAGE_ITEMS_MAX;
use crate::query::Query;
use crate::reply::Reply;
use crate::service::{Call, Inner};
use crate::table::partial;

/// One page and what follows it.
pub(super) struct Page {
    pub(super) items: Vec<Arc<Object>>,
    /// The first object that did not fit.
    next: Option<Start>,
    /// How many did not fit; unknown when a selector chooses.
    remaining: Option<usize>,
}

impl Page {
    /// Takes up to `limit` wanted objects.
    pub(super) fn take(picture: &View, filter: &Filter, start: &Start, limit: Option<usize>) -> Self {
        let mut objects = filter.select(picture, start);
        let items: Vec<_> = objects.by_ref().take(limit.unwrap_or(PAGE_ITEMS_MAX)).cloned().collect();
        let following = objects.next();
        let next = following.map(|o| Start { namespace: o.namespace().into(), name: o.name().into() });
        let remaining = (next.is_some() && filter.is_everything()).then(|| 1 + objects.count());
        Self { items, next, remaining }
    }

    /// The list's `metadata`.
    fn metadata(&self, revision: u64) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".into(), json!(revision.to_string()));
        if let Some(start) = &self.next {
            let token = Token { revision: Some(revision), start: start.clone() };
            metadata.insert("continue".into(), json!(token.encode()));
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount".into(), json!(remaining));
        }
        Value::Object(metadata)
    }
}

/// GET of a collection.
pub(super) async fn list(inner: &Inner, call: &Call, place: &Place) -> Result<Reply, Status> {
    let form = Form::of(call, &place.resource)?;
    let filter = Filter::of(&call.query, place)?;
    let limit = limit(&call.query)?;
    let which = Which::of(&call.query, revision(call)?, limit)?;
    let (picture, start) = picture(inner, which).await?;
    let page = Page::take(&picture, &filter, &start, limit);
    if page.next.is_some() {
        inner.objects.retain(&picture);
    }
    let metadata = page.metadata(picture.revision());
    Ok(match form {
        Form::Object => Reply::parts(encode(&place.resource, &metadata, &page.items)),
        Form::Metadata(version) => {
            let head = head("PartialObjectMetadataList", version.api_version(), &metadata);
            Reply::parts(join(head, &page.items, |before, object, parts| {
                parts.extend([Bytes::from_static(before.as_bytes()), partial(object, version).into()]);
            }))
        }
        Form::Table(table) => {
            let objects = page.items.iter().map(|object| &**object);
            Reply::parts(vec![table.encode(&metadata, true, objects).into()])
        }
    })
}

/// `limit`; 0 and absent mean all.
fn limit(query: &Query) -> Result<Option<usize>, Status> {
    match query.number("limit")? {
        None | Some(0) => Ok(None),
        Some(limit) => usize::try_from(limit)
            .map(|limit| Some(limit.min(PAGE_ITEMS_MAX)))
            .map_err(|_| Status::bad_request("limit must not be negative")),
    }
}

/// The picture to list from and where to begin.
async fn picture(inner: &Inner, which: Which) -> Result<(View, Start), Status> {
    let objects = &inner.objects;
    let beginning = Start::default();
    Ok(match which {
        Which::Newest => (objects.fresh_view().await?, beginning),
        Which::Any => (objects.view(), beginning),
        Which::NotOlderThan(revision) => (objects.view_at_least(revision).await?, beginning),
        Which::Exact(revision) => (exact(inner, revision).await?, beginning),
        Which::Continue(Token { revision: None, start }) => (objects.fresh_view().await?, start),
        Which::Continue(Token { revision: Some(revision), start }) => match objects.view_at(revision) {
            Ok(picture) => (picture, start),
            Err(mut status) => {
                if status.code == 410 {
                    "The provided continue parameter is too old to display a consistent list result. Start a new list \
                     without it, or go on with the token in this response, which gives an inconsistent list."
                        .clone_into(&mut status.message);
                    status.continue_token = Some(Token { revision: None, start }.encode());
                }
                return Err(status);
            }
        },
    })
}

/// The picture at exactly that revision: kept, or still the newest.
async fn exact(inner: &Inner, revision: u64) -> Result<View, Status> {
    let newest = inner.objects.view_at_least(revision).await?;
    if newest.revision() == revision { Ok(newest) } else { inner.objects.view_at(revision) }
}

/// A list of whole objects: a head, the stored bytes, a tail.
pub(super) fn encode(resource: &Resource, metadata: &Value, items: &[Arc<Object>]) -> Vec<Bytes> {
    let head = head(&resource.list_kind, &resource.api_version(), metadata);
    join(head, items, |before, object, parts| resource.encoded(object).append(before, parts))
}

fn head(kind: &str, api_version: &str, metadata: &Value) -> Bytes {
    format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},"items":["#).into()
}

fn join(head: Bytes, items: &[Arc<Object>], append: impl Fn(&'static str, &Object, &mut Vec<Bytes>)) -> Vec<Bytes> {
    let mut parts = Vec::with_capacity(items.len() * 2 + 2);
    parts.push(head);
    for (index, item) in items.iter().enumerate() {
        append(if index > 0 { "," } else { "" }, item, &mut parts);
    }
    parts.push(Bytes::from_static(b"]}"));
    parts
}
