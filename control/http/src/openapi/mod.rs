//! OpenAPI documents, made from the schema table on first use and kept.
//!
//! Version 3 is one document per group and version under hashed URLs (KEP-2896): kubectl reads it for `explain`,
//! for patches and to learn that the server validates. Version 2 is one document for all, in gnostic's protobuf,
//! because kubectl before 1.29 accepts nothing else.

mod custom;
mod gnostic;
mod paths;
mod schemas;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use api::{Catalog, Resource, Status};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use serde_json::{Map, Value, json};

use crate::discovery::{hash, tagged};
use crate::negotiate::essence;
use crate::reply::{JSON, Reply};
use crate::service::{Call, Inner};

/// The media type of version 2 in protobuf.
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How clients before 1.29 ask for it. `@` is no token of RFC 9110, so answers name the type above.
const GNOSTIC_AT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Documents that have been made. Kubernetes' own of version 3 stay as they are; the rest is made anew when other
/// resources are served.
#[derive(Default)]
pub(crate) struct OpenApi {
    v2: Latest<Bytes>,
    builtin: OnceLock<V3>,
    v3: Latest<Arc<V3>>,
}

/// What was made from the latest catalog that was asked about.
type Latest<T> = Mutex<Option<(Arc<Catalog>, T)>>;

fn made<T: Clone>(latest: &Latest<T>, catalog: &Arc<Catalog>) -> Option<T> {
    let latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
    latest.as_ref().filter(|(of, _)| Arc::ptr_eq(of, catalog)).map(|(_, made)| made.clone())
}

fn keep<T: Clone>(latest: &Latest<T>, catalog: Arc<Catalog>, made: T) -> T {
    *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((catalog, made.clone()));
    made
}

/// `api/v1`, `apis/apps/v1` → the document and its hash.
type V3 = HashMap<String, (String, Bytes)>;

/// The dialects that differ: where schemas live and how a reference is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `#/definitions/…`, a reference stands alone.
    V2,
    /// `#/components/schemas/…`, a reference with a default is wrapped in `allOf`.
    V3,
}

/// `io.k8s.api.core.v1.Pod` of `k8s.io/api/core/v1.Pod`.
pub(super) fn definition(message: &str) -> String {
    let (host, rest) = message.split_once('/').unwrap_or(("", message));
    let host: Vec<&str> = host.rsplit('.').filter(|part| !part.is_empty()).collect();
    format!("{}.{}", host.join("."), rest.replace('/', "."))
}

/// `GET /openapi/v3`: which documents there are.
pub(crate) async fn index(inner: &Inner, call: &Call) -> Result<Reply, Status> {
    let documents = documents(inner).await?;
    let entry = |(path, (hash, _)): (&String, &(String, Bytes))| {
        (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))
    };
    let paths: Map<String, Value> = documents.iter().map(entry).collect();
    Ok(tagged(call, JSON, json!({"paths": paths}).to_string()))
}

/// `GET /openapi/v3/apis/apps/v1`.
pub(crate) async fn v3(inner: &Inner, call: &Call, group_version: &str) -> Result<Reply, Status> {
    if essence(&call.accept()).starts_with("application/com.github.proto-openapi") {
        return Err(Status::not_acceptable("only the following media types are accepted: application/json"));
    }
    let documents = documents(inner).await?;
    let (hash, document) = documents.get(group_version).ok_or_else(Status::no_such_path)?;
    let reply = tagged(call, JSON, document.clone());
    // A hashed URL names this content for ever.
    Ok(if call.query.get("hash") == Some(hash.as_str()) {
        reply.with(CACHE_CONTROL, HeaderValue::from_static("public, immutable"))
    } else {
        reply
    })
}

/// `GET /openapi/v2`.
pub(crate) async fn v2(inner: &Inner, call: &Call) -> Result<Reply, Status> {
    let accept = call.accept();
    let accepted = |type_: &str| accept.split(',').any(|media| essence(media) == type_);
    let any = ["", "*/*", "application/json"].into_iter().any(accepted);
    let gnostic = accepted(GNOSTIC) || accepted(GNOSTIC_AT);
    if !any && !gnostic {
        return Err(Status::not_acceptable(format!("only the following media types are accepted: {GNOSTIC}")));
    }
    if gnostic {
        let catalog = inner.objects.catalog();
        let document = match made(&inner.openapi.v2, &catalog) {
            Some(document) => document,
            None => {
                let of = catalog.clone();
                let made = off_thread(move || Bytes::from(gnostic::encode(&swagger(&of)))).await?;
                keep(&inner.openapi.v2, catalog, made)
            }
        };
        return Ok(tagged(call, HeaderValue::from_static(GNOSTIC), document));
    }
    let catalog = inner.objects.catalog();
    let document = off_thread(move || swagger(&catalog).to_string()).await?;
    Ok(Reply::json(StatusCode::OK, document))
}

async fn documents(inner: &Inner) -> Result<Arc<V3>, Status> {
    let catalog = inner.objects.catalog();
    if let Some(documents) = made(&inner.openapi.v3, &catalog) {
        return Ok(documents);
    }
    let mut documents = match inner.openapi.builtin.get() {
        Some(builtin) => builtin.clone(),
        None => {
            let made = off_thread(|| build(&Catalog::builtin(), |_| true)).await?;
            inner.openapi.builtin.get_or_init(|| made).clone()
        }
    };
    let of = catalog.clone();
    documents.extend(off_thread(move || build(&of, |row| row.custom.is_some())).await?);
    Ok(keep(&inner.openapi.v3, catalog, Arc::new(documents)))
}

/// Making a document takes tens of milliseconds: not on a thread that serves others.
async fn off_thread<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(make).await.map_err(Status::internal)
}

/// The documents of version 3 of every group and version that has such a resource.
fn build(catalog: &Catalog, wanted: impl Fn(&Resource) -> bool) -> V3 {
    let mut documents = V3::new();
    for (group, versions) in catalog.groups() {
        for version in versions {
            let mut rows = catalog.iter().filter(|row| row.group == group && row.version == version);
            if !rows.any(|row| wanted(row)) {
                continue;
            }
            let paths = paths::of(catalog, group, version, Dialect::V3);
            let schemas = schemas::reachable(catalog, Some((group, version)), Dialect::V3);
            let document = json!({
                "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": paths,
                "components": {"schemas": schemas},
            });
            let bytes = Bytes::from(document.to_string());
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            documents.insert(path, (hash(&bytes), bytes));
        }
    }
    documents
}

/// The document of version 2.
fn swagger(catalog: &Catalog) -> Value {
    let mut paths = Map::new();
    for (group, versions) in catalog.groups() {
        for version in versions {
            paths.extend(paths::of(catalog, group, version, Dialect::V2));
        }
    }
    json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": paths,
        "definitions": schemas::reachable(catalog, None, Dialect::V2),
    })
}

impl fmt::Debug for OpenApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenApi").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_say_what_kubectl_looks_for() {
        assert_eq!(
            definition("k8s.io/apimachinery/pkg/apis/meta/v1.ObjectMeta"),
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        let documents = build(&Catalog::builtin(), |_| true);
        let document: Value = serde_json::from_slice(&documents["apis/apps/v1"].1).unwrap();
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        let content = patch["requestBody"]["content"].as_object().unwrap();
        assert!(content.contains_key("application/strategic-merge-patch+json") && content.len() == 4);
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"));
        let schemas = &document["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        let gvk = json!([{"group": "apps", "version": "v1", "kind": "Deployment"}]);
        assert_eq!(deployment["x-kubernetes-group-version-kind"], gvk);
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, refs: &mut Vec<String>) {
            match value {
                Value::Object(map) => map.iter().for_each(|(key, value)| match (key.as_str(), value) {
                    ("$ref", Value::String(text)) => refs.push(text.clone()),
                    _ => walk(value, refs),
                }),
                Value::Array(list) => list.iter().for_each(|value| walk(value, refs)),
                _ => {}
            }
        }
        let document = swagger(&Catalog::builtin());
        let mut refs = Vec::new();
        walk(&document, &mut refs);
        assert!(refs.len() > 1000);
        for reference in refs {
            let name = reference.strip_prefix("#/definitions/").unwrap();
            assert!(document["definitions"].get(name).is_some(), "{reference}");
        }
        assert!(gnostic::encode(&document).len() > 500_000);
    }
}
