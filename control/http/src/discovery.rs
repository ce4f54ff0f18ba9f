//! What exists: discovery documents, version and health, all made from the catalog's rows.
//!
//! Aggregated discovery (KEP-3352) is one document for all groups, legacy discovery one per group and version. Both
//! carry an `ETag`, so that clients with a cache ask without being answered twice.

use api::kinds::{Resource, Subresource};
use api::path::Discovery;
use api::{Catalog, Status};
use http::header::{ETAG, HOST, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::auth::{KEYS_PATH, ServiceAccountTokens};
use crate::reply::{Reply, TEXT};
use crate::service::{Call, Inner};
use crate::{Body, body, images, negotiate, relay, usage};

/// Answers `/api`, `/apis` and what lies under them but is not a resource.
pub(crate) fn dispatch(inner: &Inner, call: &Call, which: &Discovery) -> Result<Reply, Status> {
    only_get(call)?;
    let catalog = inner.objects.catalog();
    let wanted = negotiate::discovery(&call.accept());
    if let (negotiate::Discovery::Aggregated(version), Discovery::Core | Discovery::Groups) = (wanted, which) {
        let core = *which == Discovery::Core;
        let groups = catalog.groups();
        let mut items: Vec<Value> = groups
            .iter()
            .filter(|(group, _)| group.is_empty() == core)
            .map(|(group, versions)| aggregated_group(&catalog, group, versions))
            .collect();
        items.extend((!core).then(aggregated_usage));
        let api_version = format!("apidiscovery.k8s.io/{version}");
        let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items});
        let type_ = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let type_ = HeaderValue::from_str(&type_).expect("a version is plain text");
        return Ok(tagged(call, type_, list.to_string()));
    }
    let document = match which {
        Discovery::Core => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": call.header(HOST)}],
        }),
        Discovery::Groups => {
            let groups = catalog.groups();
            let named = groups.iter().filter(|(group, _)| !group.is_empty());
            let mut groups: Vec<Value> = named.map(|(group, versions)| legacy_group(group, versions)).collect();
            groups.push(legacy_group(usage::GROUP, &[usage::VERSION]));
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        Discovery::Group(name) if name == usage::GROUP => {
            let mut document = legacy_group(usage::GROUP, &[usage::VERSION]);
            (document["kind"], document["apiVersion"]) = ("APIGroup".into(), "v1".into());
            document
        }
        Discovery::Resources { group, version } if (&**group, &**version) == (usage::GROUP, usage::VERSION) => {
            legacy_usage()
        }
        Discovery::Group(name) => {
            let groups = catalog.groups();
            let (group, versions) = groups.iter().find(|(group, _)| group == name).ok_or_else(Status::no_such_path)?;
            let mut document = legacy_group(group, versions);
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            document
        }
        Discovery::Resources { group, version } => legacy_resources(&catalog, group, version)?,
    };
    Ok(tagged(call, crate::reply::JSON, document.to_string()))
}

fn only_get(call: &Call) -> Result<(), Status> {
    if matches!(call.method, Method::GET | Method::HEAD) { Ok(()) } else { Err(Status::method_not_allowed()) }
}

/// With an `ETag` of its content; 304 when the client has it.
pub(crate) fn tagged(call: &Call, type_: HeaderValue, content: impl Into<bytes::Bytes>) -> Reply {
    let content = content.into();
    let tag = format!("\"{}\"", hash(&content));
    let known = call.header(IF_NONE_MATCH).split(',').any(|known| known.trim() == tag);
    let reply = if known {
        Reply::bytes(StatusCode::NOT_MODIFIED, type_, bytes::Bytes::new())
    } else {
        Reply::bytes(StatusCode::OK, type_, content)
    };
    let tag = HeaderValue::from_str(&tag).expect("hexadecimal is plain text");
    reply.with(ETAG, tag).with(VARY, HeaderValue::from_static("Accept"))
}

/// Hexadecimal SHA-256, upper case as in upstream's URLs.
pub(crate) fn hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02X}")).collect()
}

fn of<'a>(catalog: &'a Catalog, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
    catalog.iter().map(|row| &**row).filter(move |row| row.group == group && row.version == version)
}

fn aggregated_group(catalog: &Catalog, group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> = of(catalog, group, version).map(aggregated_resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
}

fn aggregated_resource(row: &Resource) -> Value {
    let mut value = json!({
        "resource": row.plural,
        "responseKind": {"group": row.group, "version": row.version, "kind": row.kind},
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        value["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        value["categories"] = json!(row.categories);
    }
    if !row.subresources.is_empty() {
        let subresources = row.subresources.iter().map(|sub| {
            let (group, version, kind) = kind_of(row, sub);
            let kind = json!({"group": group, "version": version, "kind": kind});
            json!({"subresource": sub.name, "responseKind": kind, "verbs": sub.verbs})
        });
        value["subresources"] = subresources.collect();
    }
    value
}

const USAGE_VERBS: [&str; 2] = ["get", "list"];

/// `metrics.k8s.io`, whose objects are measured instead of stored and therefore have no rows.
fn aggregated_usage() -> Value {
    let resources = usage::RESOURCES.iter().map(|(plural, kind, namespaced)| {
        let kind = json!({"group": usage::GROUP, "version": usage::VERSION, "kind": kind});
        let scope = if *namespaced { "Namespaced" } else { "Cluster" };
        json!({"resource": plural, "responseKind": kind, "scope": scope, "singularResource": "", "verbs": USAGE_VERBS})
    });
    let resources: Vec<Value> = resources.collect();
    let version = json!({"version": usage::VERSION, "resources": resources, "freshness": "Current"});
    json!({"metadata": {"name": usage::GROUP, "creationTimestamp": null}, "versions": [version]})
}

fn legacy_usage() -> Value {
    let resources = usage::RESOURCES.iter().map(|(plural, kind, namespaced)| {
        json!({"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": USAGE_VERBS})
    });
    let resources: Vec<Value> = resources.collect();
    let group_version = format!("{}/{}", usage::GROUP, usage::VERSION);
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

/// Group, version and kind of a subresource's body; the resource's own where the row names none.
fn kind_of<'a>(row: &'a Resource, sub: &'a Subresource) -> (&'a str, &'a str, &'a str) {
    if sub.kind.is_empty() || sub.kind == row.kind {
        (&row.group, &row.version, &row.kind)
    } else {
        (&sub.group, &sub.version, &sub.kind)
    }
}

fn legacy_group(group: &str, versions: &[&str]) -> Value {
    let entry = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<Value> = versions.iter().map(entry).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

fn legacy_resources(catalog: &Catalog, group: &str, version: &str) -> Result<Value, Status> {
    let mut entries = Vec::new();
    for row in of(catalog, group, version) {
        let mut entry = json!({
            "name": row.plural, "singularName": row.singular, "namespaced": row.namespaced, "kind": row.kind,
            "verbs": row.verbs, "storageVersionHash": "",
        });
        if !row.short_names.is_empty() {
            entry["shortNames"] = json!(row.short_names);
        }
        if !row.categories.is_empty() {
            entry["categories"] = json!(row.categories);
        }
        entries.push(entry);
        for sub in &row.subresources {
            let (sub_group, sub_version, kind) = kind_of(row, sub);
            let mut entry = json!({
                "name": format!("{}/{}", row.plural, sub.name), "singularName": "", "namespaced": row.namespaced,
                "kind": kind, "verbs": sub.verbs,
            });
            // kubectl drain evicts only if it reads here that `pods/eviction` speaks policy/v1.
            if (sub_group, sub_version) != (&row.group, &row.version) {
                entry["group"] = sub_group.into();
                entry["version"] = sub_version.into();
            }
            entries.push(entry);
        }
    }
    if entries.is_empty() {
        return Err(Status::no_such_path());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}))
}

/// Answers `/version`, health and OpenAPI.
pub(crate) async fn non_resource(inner: &Inner, call: &Call, body: Body, path: &str) -> Result<Reply, Status> {
    if path == "/kogia/join" {
        return join(inner, call, body).await;
    }
    only_get(call)?;
    match path {
        "/version" => Ok(Reply::value(StatusCode::OK, &version(&inner.config.server_version))),
        "/livez" | "/livez/ping" => Ok(health(call, "livez", &[("ping", Ok(()))])),
        "/readyz" | "/healthz" | "/readyz/ping" | "/healthz/ping" => {
            // A read that every acknowledged write precedes: the store has a leader and this member follows it.
            let store = inner.objects.fresh_view().await.map(drop);
            let name = if path.starts_with("/readyz") { "readyz" } else { "healthz" };
            Ok(health(call, name, &[("ping", Ok(())), ("store", store)]))
        }
        "/.well-known/openid-configuration" if inner.config.service_accounts.is_some() => {
            Ok(Reply::value(StatusCode::OK, &ServiceAccountTokens::configuration()))
        }
        KEYS_PATH => match &inner.config.service_accounts {
            Some(tokens) => {
                let type_ = HeaderValue::from_static("application/jwk-set+json");
                Ok(Reply::bytes(StatusCode::OK, type_, tokens.keys().to_string()))
            }
            None => Err(Status::no_such_path()),
        },
        "/kogia/relay" => relay::offered(inner, call),
        "/kogia/status" => Ok(Reply::value(StatusCode::OK, &(inner.config.status)())),
        "/kogia/snapshot" => {
            let body = (inner.config.snapshot)().await?;
            Ok(Reply::stream(HeaderValue::from_static("application/octet-stream"), body))
        }
        "/openapi/v2" => crate::openapi::v2(inner, call).await,
        "/openapi/v3" => crate::openapi::index(inner, call).await,
        "/" => {
            let groups = inner.objects.catalog();
            let groups = groups.groups();
            let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
            for (group, versions) in groups.iter().filter(|(group, _)| !group.is_empty()) {
                paths.push(format!("/apis/{group}"));
                paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
            }
            paths.extend(["/.well-known/openid-configuration", "/healthz", "/livez", "/openapi/v2"].map(String::from));
            paths.extend(["/openapi/v3", KEYS_PATH, "/readyz", "/version"].map(String::from));
            Ok(Reply::value(StatusCode::OK, &json!({"paths": paths})))
        }
        _ => {
            if let Some(group_version) = path.strip_prefix("/openapi/v3/") {
                crate::openapi::v3(inner, call, group_version).await
            } else if let Some(node_path) = path.strip_prefix("/kogia/nodes/") {
                images::relay(inner, call, node_path).await
            } else if let Some(name) = path.strip_prefix("/kogia/code/") {
                images::code(inner, call, name).await
            } else {
                Err(Status::no_such_path())
            }
        }
    }
}

/// `POST /kogia/join`: a new member asks for its number and the cluster's keys.
async fn join(inner: &Inner, call: &Call, body: Body) -> Result<Reply, Status> {
    if call.method != Method::POST {
        return Err(Status::method_not_allowed());
    }
    let request = body::object(&call.headers, body).await?;
    Ok(Reply::value(StatusCode::OK, &(inner.config.join)(request.value).await?))
}

/// What `kubectl version` reads. Clients compare `major` and `minor`, so they name the Kubernetes version we follow.
fn version(own: &str) -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": format!("v1.33.0+kogia.{own}"), "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// This machine's architecture as Go spells it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn health(call: &Call, name: &str, checks: &[(&str, Result<(), Status>)]) -> Reply {
    let failed = checks.iter().any(|(_, result)| result.is_err());
    if !failed && call.query.all("verbose").next().is_none() {
        return Reply::bytes(StatusCode::OK, TEXT, "ok");
    }
    let mut text = String::new();
    for (check, result) in checks {
        match result {
            Ok(()) => text.push_str(&format!("[+]{check} ok\n")),
            Err(status) => text.push_str(&format!("[-]{check} failed: {status}\n")),
        }
    }
    let (code, word) = if failed { (StatusCode::INTERNAL_SERVER_ERROR, "failed") } else { (StatusCode::OK, "passed") };
    Reply::bytes(code, TEXT, format!("{text}{name} check {word}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_says_which_group_it_speaks() {
        let catalog = Catalog::builtin();
        let list = legacy_resources(&catalog, "", "v1").unwrap();
        let find = |name: &str| list["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap();
        assert_eq!(
            (&find("pods/eviction")["group"], &find("pods/eviction")["kind"]),
            (&json!("policy"), &json!("Eviction"))
        );
        assert_eq!(find("pods/status")["kind"], "Pod");
        assert!(find("pods/status").get("group").is_none());
        assert_eq!(legacy_resources(&catalog, "apps", "v9").unwrap_err().code, 404);
    }

    #[test]
    fn aggregated_documents_hold_every_resource() {
        let catalog = Catalog::builtin();
        let group = aggregated_group(&catalog, "apps", &["v1"]);
        let resources = group["versions"][0]["resources"].as_array().unwrap();
        let deployments = resources.iter().find(|row| row["resource"] == "deployments").unwrap();
        assert_eq!(deployments["responseKind"]["kind"], "Deployment");
        assert_eq!(deployments["shortNames"], json!(["deploy"]));
        let scale = deployments["subresources"].as_array().unwrap().iter().find(|sub| sub["subresource"] == "scale");
        assert_eq!(scale.unwrap()["responseKind"]["kind"], "Scale");
    }
}
