//! The paths of a group and version as OpenAPI operations, as far as clients read them: kinds, actions, parameters.

use api::kinds::Subresource;
use api::{Catalog, Resource};
use serde_json::{Map, Value, json};

use super::Dialect;
use super::schemas::list_message;

const STATUS: &str = "k8s.io/apimachinery/pkg/apis/meta/v1.Status";
const DELETE_OPTIONS: &str = "k8s.io/apimachinery/pkg/apis/meta/v1.DeleteOptions";
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const BODY_TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// A query parameter: name, type, what it is for.
type Parameter = (&'static str, &'static str, &'static str);

const READ: &[Parameter] = &[("resourceVersion", "string", "Answer from a state that is not older.")];
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Tell the revision now and then."),
    ("continue", "string", "Go on with an earlier list."),
    ("fieldSelector", "string", "Choose by fields."),
    ("labelSelector", "string", "Choose by labels."),
    ("limit", "integer", "At most this many items."),
    ("resourceVersion", "string", "Which state to list, or after which to watch."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Begin a watch with the present state."),
    ("timeoutSeconds", "integer", "End the request after this long."),
    ("watch", "boolean", "Tell changes instead of listing."),
];
const WRITE: &[Parameter] = &[
    ("dryRun", "string", "All: do everything but store."),
    ("fieldManager", "string", "Who makes this change."),
    ("fieldValidation", "string", "What to do about unknown fields: Ignore, Warn or Strict."),
];
const FORCE: &[Parameter] = &[("force", "boolean", "Take fields that others own when applying.")];
const DELETE: &[Parameter] = &[
    ("dryRun", "string", "All: do everything but store."),
    ("gracePeriodSeconds", "integer", "How long the object may take to end."),
    ("orphanDependents", "boolean", "Older form of propagationPolicy."),
    ("propagationPolicy", "string", "Orphan, Background or Foreground."),
];

/// The paths of one group and version.
pub(super) fn of(catalog: &Catalog, group: &str, version: &str, dialect: Dialect) -> Map<String, Value> {
    let mut paths = Map::new();
    let base = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    for row in catalog.iter().filter(|row| row.group == group && row.version == version) {
        let writer = Writer { row, dialect };
        let collection = if row.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", row.plural)
        } else {
            format!("{base}/{}", row.plural)
        };
        let has = |verb| row.verbs.contains(&verb);
        if row.namespaced && has("list") {
            let list = json!({"get": writer.list()});
            paths.insert(format!("{base}/{}", row.plural), writer.item(list, &[]));
        }
        let place: &[&str] = if row.namespaced { &["namespace"] } else { &[] };
        paths.insert(collection.clone(), writer.item(writer.collection(), place));
        let one: &[&str] = if row.namespaced { &["name", "namespace"] } else { &["name"] };
        if has("get") {
            paths.insert(format!("{collection}/{{name}}"), writer.item(writer.one(), one));
        }
        for sub in &row.subresources {
            paths.insert(format!("{collection}/{{name}}/{}", sub.name), writer.item(writer.subresource(sub), one));
        }
    }
    paths
}

/// Writes the operations of one resource.
struct Writer<'a> {
    row: &'a Resource,
    dialect: Dialect,
}

impl Writer<'_> {
    /// A path with what it carries between its slashes.
    fn item(&self, mut operations: Value, places: &[&str]) -> Value {
        let parameter = |name: &&str| match self.dialect {
            Dialect::V2 => json!({"name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true}),
            Dialect::V3 => json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}),
        };
        if !places.is_empty() {
            operations["parameters"] = places.iter().map(parameter).collect();
        }
        operations
    }

    /// kubectl sends a strategic patch wherever it is offered; custom resources have no strategies.
    fn patch_types(&self) -> &'static [&'static str] {
        if self.row.custom.is_some() { &PATCH_TYPES[..3] } else { &PATCH_TYPES }
    }

    fn collection(&self) -> Value {
        let mut operations = Map::new();
        let has = |verb| self.row.verbs.contains(&verb);
        if has("list") {
            operations.insert("get".into(), self.list());
        }
        if has("create") {
            let create = self.operation("post", &self.row.message, Some((&self.row.message, &BODY_TYPES)), &[WRITE]);
            operations.insert("post".into(), create);
        }
        if has("deletecollection") {
            let body = Some((DELETE_OPTIONS, &BODY_TYPES[..]));
            operations.insert("delete".into(), self.operation("deletecollection", STATUS, body, &[DELETE, LIST]));
        }
        Value::Object(operations)
    }

    fn list(&self) -> Value {
        self.operation("list", &list_message(self.row), None, &[LIST])
    }

    fn one(&self) -> Value {
        let message = self.row.message.as_str();
        let mut operations = Map::new();
        for verb in self.row.verbs {
            let (method, operation) = match *verb {
                "get" => ("get", self.operation("get", message, None, &[READ])),
                "update" => ("put", self.operation("put", message, Some((message, &BODY_TYPES)), &[WRITE])),
                "patch" => {
                    ("patch", self.operation("patch", message, Some((PATCH, self.patch_types())), &[WRITE, FORCE]))
                }
                "delete" => {
                    ("delete", self.operation("delete", STATUS, Some((DELETE_OPTIONS, &BODY_TYPES)), &[DELETE]))
                }
                _ => continue,
            };
            operations.insert(method.into(), operation);
        }
        Value::Object(operations)
    }

    fn subresource(&self, sub: &Subresource) -> Value {
        let mut operations = Map::new();
        let message = sub.message.as_str();
        for verb in sub.verbs {
            let (method, mut operation) = match *verb {
                "get" => ("get", self.operation("get", message, None, &[READ])),
                "create" => ("post", self.operation("post", message, Some((message, &BODY_TYPES)), &[WRITE])),
                "update" => ("put", self.operation("put", message, Some((message, &BODY_TYPES)), &[WRITE])),
                "patch" => {
                    ("patch", self.operation("patch", message, Some((PATCH, self.patch_types())), &[WRITE, FORCE]))
                }
                _ => continue,
            };
            if !sub.kind.is_empty() {
                operation[GVK] = json!({"group": sub.group, "version": sub.version, "kind": sub.kind});
            }
            // Clients look resources up by kind and action; a subresource must not be found in their place.
            operation["operationId"] = json!(format!("{}{}{}", method, self.row.kind, sub.name));
            operations.insert(method.into(), operation);
        }
        Value::Object(operations)
    }

    fn operation(
        &self,
        action: &str,
        answer: &str,
        body: Option<(&str, &[&str])>,
        parameters: &[&[Parameter]],
    ) -> Value {
        let row = self.row;
        let mut seen = Vec::new();
        let mut list: Vec<Value> = Vec::new();
        for &(name, type_, description) in parameters.iter().copied().flatten() {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            list.push(match self.dialect {
                Dialect::V2 => json!({"name": name, "in": "query", "type": type_, "description": description}),
                Dialect::V3 => {
                    json!({"name": name, "in": "query", "description": description, "schema": {"type": type_}})
                }
            });
        }
        let mut operation = json!({
            "operationId": format!("{action}{}{}{}", row.group.replace('.', ""), row.version, row.kind),
            "x-kubernetes-action": action,
        });
        operation[GVK] = json!({"group": row.group, "version": row.version, "kind": row.kind});
        let own = |message: &str| row.custom.is_some() && (message == row.message || message == list_message(row));
        let known = |message: &str| own(message) || api::Schema::builtin().message(message).is_some();
        let schema = |message: &str| {
            if known(message) { self.dialect.schema_of(message) } else { json!({"type": "object"}) }
        };
        match self.dialect {
            Dialect::V2 => {
                if let Some((message, types)) = body {
                    list.push(json!({"name": "body", "in": "body", "required": true, "schema": schema(message)}));
                    operation["consumes"] = json!(types);
                }
                operation["produces"] = json!(["application/json"]);
                operation["responses"] = json!({"200": {"description": "OK", "schema": schema(answer)}});
            }
            Dialect::V3 => {
                if let Some((message, types)) = body {
                    let content: Map<String, Value> =
                        types.iter().map(|type_| ((*type_).to_owned(), json!({"schema": schema(message)}))).collect();
                    operation["requestBody"] = json!({"content": content, "required": true});
                }
                let content = json!({"application/json": {"schema": schema(answer)}});
                operation["responses"] = json!({"200": {"description": "OK", "content": content}});
            }
        }
        operation["parameters"] = Value::Array(list);
        operation
    }
}

pub(super) const GVK: &str = "x-kubernetes-group-version-kind";
/// A patch has no message: it is any object.
const PATCH: &str = "";
