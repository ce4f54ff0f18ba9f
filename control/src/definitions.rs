//! The custom resources that every cluster serves from its first moment, made from tables of their fields.
//!
//! A table has one block per kind: a line of names, columns of `kubectl get`, then fields by indentation. `name!` is
//! required, `name[]` a list; then a type (`string`, `integer`, `boolean`, `date`, `map`, `any`, `condition`; none is an
//! object), a default after `=`, choices between `|`, a range with `..`.
//!
//! Definitions that exist are left as they are, since whoever brings the upstream ones keeps them; but for fields that ours
//! have gained since, where nobody else has written them (see `bootstrap`).

use std::iter::Peekable;

use api::Status;
use objects::Objects;
use serde_json::{Map, Value, json};

use crate::bootstrap;

const TABLES: [&str; 2] = [include_str!("definitions/gateway.txt"), include_str!("definitions/certificates.txt")];

/// Creates the definitions that are not there, and the objects of them that every cluster begins with.
pub(crate) async fn install(objects: Objects) {
    for body in TABLES.into_iter().flat_map(definitions).chain([gateway_class()]) {
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if let Err(status) = create(&objects, body).await
            && !["AlreadyExists", "Conflict"].contains(&status.reason)
        {
            tracing::warn!(name, status = %status.message, "a definition that comes with the program is not there");
        }
    }
}

async fn create(objects: &Objects, body: Value) -> Result<(), Status> {
    let (who, options) = bootstrap::writer();
    let resource = served(objects, &body).await?;
    let name = body["metadata"]["name"].as_str().unwrap_or_default();
    let Some(kept) = objects.view().get(&resource.name, "", name).cloned() else {
        return objects.create(&who, &resource, "", body, &options).await.map(drop);
    };
    let mut more = kept.whole().into_owned();
    if !resource.name.starts_with("customresourcedefinitions.") || !bootstrap::is_behind(&more, &body) {
        return Ok(());
    }
    more["spec"] = body["spec"].clone();
    tracing::info!(name, "completed a definition that an earlier version made");
    objects.update(&who, &resource, "", name, None, more, &options).await.map(drop)
}

/// The resource of an object, once it is served: a definition of this moment becomes one when its controller has
/// accepted it.
pub(crate) async fn served(objects: &Objects, body: &Value) -> Result<std::sync::Arc<api::Resource>, Status> {
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    loop {
        let view = objects.view();
        if let Some(resource) = objects.catalog().by_kind(group, version, &kind) {
            return Ok(resource.clone());
        }
        let closed = || Status::internal(format!("no resource for {kind}"));
        let mut changes = objects.changes(view.revision()).map_err(|_| closed())?;
        changes.next().await.map_err(|_| closed())?;
    }
}

/// The GatewayClass that is ours, as the IngressClass is.
fn gateway_class() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "kogia"}, "spec": {"controllerName": "kogia.dev/gateway"},
    })
}

/// The definitions of a table.
fn definitions(table: &str) -> Vec<Value> {
    let lines = table.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let mut lines = lines.peekable();
    let mut all = Vec::new();
    while let Some(head) = lines.next() {
        let mut columns = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("column ")) {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            columns.push(json!({"name": words[1], "type": words[2], "jsonPath": words[3]}));
        }
        // A kind begins with a capital, a field does not.
        let mut root = fields(&mut lines, 0);
        root["properties"]["apiVersion"] = json!({"type": "string"});
        root["properties"]["kind"] = json!({"type": "string"});
        root["properties"]["metadata"] = json!({"type": "object"});
        all.push(definition(head, &columns, &root));
    }
    all
}

fn definition(head: &str, columns: &[Value], schema: &Value) -> Value {
    let words: Vec<&str> = head.split(' ').collect();
    let [kind, plural, singular, group, version, scope] = words[..6] else { panic!("{head}: six words and more") };
    let short: Vec<&str> = words
        .get(6)
        .and_then(|word| word.strip_prefix("short="))
        .map(|names| names.split(',').collect())
        .unwrap_or_default();
    let mut metadata = json!({"name": format!("{plural}.{group}")});
    if group.ends_with(".k8s.io") {
        // Groups of the project itself are protected: they name where they were agreed on.
        let agreed = "https://github.com/kubernetes-sigs/gateway-api";
        metadata["annotations"] = json!({"api-approved.kubernetes.io": agreed});
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
        "spec": {
            "group": group, "scope": scope,
            "names": {
                "kind": kind, "plural": plural, "singular": singular, "listKind": format!("{kind}List"),
                "shortNames": short,
            },
            "versions": [{
                "name": version, "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": columns, "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

/// An object's fields: the lines with this indentation, and those under them.
fn fields<'a>(lines: &mut Peekable<impl Iterator<Item = &'a str>>, indent: usize) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    let is_field = |line: &&str| {
        line.len() - line.trim_start().len() == indent
            && !line.trim_start().starts_with(|c: char| c.is_ascii_uppercase())
    };
    while let Some(line) = lines.next_if(is_field) {
        let mut words = line.trim_start().split(' ');
        let name = words.next().unwrap_or_default();
        let list = name.ends_with("[]");
        let name = name.trim_end_matches("[]");
        let bare = name.trim_end_matches('!');
        if bare.len() < name.len() {
            required.push(json!(bare));
        }
        let mut schema = match words.next() {
            Some(type_) => leaf(type_, words),
            None => fields(lines, indent + 2),
        };
        if list {
            schema = json!({"type": "array", "items": schema});
        }
        properties.insert(bare.to_owned(), schema);
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn leaf<'a>(type_: &str, options: impl Iterator<Item = &'a str>) -> Value {
    let mut schema = match type_ {
        "map" => return json!({"type": "object", "additionalProperties": {"type": "string"}}),
        "any" => return json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        "date" => return json!({"type": "string", "format": "date-time"}),
        "condition" => return condition(),
        "bytes" => return json!({"type": "string", "format": "byte"}),
        other => json!({"type": other}),
    };
    let typed = |text: &str| match type_ {
        "string" => json!(text),
        // A table is part of the program; its tests read every line.
        _ => serde_json::from_str(text).unwrap_or_else(|_| panic!("{text} is no {type_}")),
    };
    for option in options {
        if let Some(default) = option.strip_prefix('=') {
            schema["default"] = typed(default);
        } else if let Some((least, most)) = option.split_once("..") {
            (schema["minimum"], schema["maximum"]) = (typed(least), typed(most));
        } else {
            schema["enum"] = option.split('|').map(typed).collect();
        }
    }
    schema
}

/// `metav1.Condition`.
fn condition() -> Value {
    json!({
        "type": "object", "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "reason": {"type": "string"},
            "message": {"type": "string"},
        },
    })
}

#[cfg(test)]
mod tests {
    use objects::{User, WriteOptions};

    use super::*;
    use crate::house::{house, put, status_of};

    #[test]
    fn tables_become_definitions() {
        let all: Vec<Value> = TABLES.into_iter().flat_map(definitions).collect();
        let names: Vec<&str> = all.iter().filter_map(|one| one["metadata"]["name"].as_str()).collect();
        assert!(names.contains(&"httproutes.gateway.networking.k8s.io"), "{names:?}");
        let route = all.iter().find(|one| one["spec"]["names"]["kind"] == "HTTPRoute").unwrap();
        let schema = &route["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let spec = &schema["properties"]["spec"]["properties"];
        assert_eq!(spec["hostnames"], json!({"type": "array", "items": {"type": "string"}}));
        let backend = &spec["rules"]["items"]["properties"]["backendRefs"]["items"];
        assert_eq!(backend["required"], json!(["name"]));
        let weight = &backend["properties"]["weight"];
        assert_eq!(*weight, json!({"type": "integer", "default": 1, "minimum": 0, "maximum": 1_000_000}));
        assert_eq!(backend["properties"]["group"]["default"], "");
        assert_eq!(schema["required"], json!(["spec"]));
    }

    #[tokio::test]
    async fn definitions_of_an_earlier_version_gain_fields_unless_somebody_else_wrote_them() {
        let (objects, _directory, _stop) = house().await;
        let served = "orders.acme.cert-manager.io";
        let resource =
            objects.catalog().by_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap().clone();
        let spec = || objects.view().get(&resource.name, "", served).unwrap().field("spec").clone();
        let whole = spec();
        let fields = "/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        // As it was before it knew of that field.
        let forget = async |manager: &str| {
            let mut before = objects.view().get(&resource.name, "", served).unwrap().whole().into_owned();
            before["spec"].pointer_mut(fields).unwrap().as_object_mut().unwrap().remove("dnsNames").unwrap();
            let (who, options) = (User::system("somebody"), WriteOptions::manager(manager));
            objects.update(&who, &resource, "", served, None, before, &options).await.unwrap();
        };
        forget(&bootstrap::writer().1.field_manager).await;
        install(objects.clone()).await;
        assert_eq!(spec(), whole);
        forget("kubectl").await;
        install(objects.clone()).await;
        assert!(spec().pointer(fields).unwrap().get("dnsNames").is_none());
    }

    fn reasons(conditions: &Value) -> Vec<String> {
        let reason = |one: &Value| {
            let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("type"), text("status"), text("reason"))
        };
        conditions.as_array().into_iter().flatten().map(reason).collect()
    }

    const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: kogia
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: '*.test'}
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: missing}]}}
  - {name: tcp, port: 9000, protocol: TCP}
";

    const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge, sectionName: http}, {name: edge, sectionName: none}, {name: theirs}]
  hostnames: [a.test]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: elsewhere}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [a.other]
  rules: [{backendRefs: [{name: web, namespace: shop, port: 80}]}]
";

    #[tokio::test]
    async fn gateways_and_routes_say_what_became_of_them() {
        let (objects, _directory, _stop) = house().await;
        let class = "gatewayclasses.gateway.networking.k8s.io";
        status_of(&objects, class, "kogia", |status| status["conditions"][0]["reason"] == "Accepted").await;
        put(&objects, GATEWAY).await;
        put(&objects, ROUTES).await;
        let attached = |status: &Value| status["listeners"][0]["attachedRoutes"] == 1;
        let gateway = status_of(&objects, "gateways.gateway.networking.k8s.io", "edge", attached).await;
        assert_eq!(reasons(&gateway["conditions"]), ["Accepted True ListenersNotValid", "Programmed True Programmed"]);
        let listeners: Vec<_> = (0..3).map(|at| reasons(&gateway["listeners"][at]["conditions"])).collect();
        let good = [
            "Accepted True Accepted",
            "Conflicted False NoConflicts",
            "ResolvedRefs True ResolvedRefs",
            "Programmed True Programmed",
        ];
        assert_eq!(listeners[0], good);
        assert!(listeners[1].contains(&"ResolvedRefs False InvalidCertificateRef".to_owned()), "{listeners:?}");
        assert!(listeners[2].contains(&"Accepted False UnsupportedProtocol".to_owned()), "{listeners:?}");

        let routes = "httproutes.gateway.networking.k8s.io";
        let missing = |status: &Value| reasons(&status["parents"][0]["conditions"]).len() == 2;
        let web = status_of(&objects, routes, "web", missing).await;
        assert_eq!(web["parents"].as_array().unwrap().len(), 2, "the third is nobody's");
        assert_eq!(
            reasons(&web["parents"][0]["conditions"]),
            ["Accepted True Accepted", "ResolvedRefs False BackendNotFound"]
        );
        assert_eq!(reasons(&web["parents"][1]["conditions"])[0], "Accepted False NoMatchingParent");
        let elsewhere = status_of(&objects, routes, "elsewhere", missing).await;
        assert_eq!(
            reasons(&elsewhere["parents"][0]["conditions"]),
            ["Accepted False NoMatchingListenerHostname", "ResolvedRefs False RefNotPermitted"]
        );
        put(&objects, "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}").await;
        let found = |status: &Value| {
            reasons(&status["parents"][0]["conditions"]).contains(&"ResolvedRefs True ResolvedRefs".to_owned())
        };
        status_of(&objects, routes, "web", found).await;
    }
}
