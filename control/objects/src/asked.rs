//! One write as those see it who are asked about writes: policies and webhooks. Which rules name it, and how it is told.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook/predicates` and `…/policy/matching`. With `matchPolicy:
//! Equivalent`, the default, a rule for one version of a resource means all its versions.

use std::borrow::Cow;

use api::meta;
use api::selector::LabelSelector;
use api::{Object, Resource, View};
use serde_json::{Value, json};

use crate::door::Decision;
use crate::plan::Request;

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// A conversation with it: `exec`, `attach`, `portforward`, `proxy`.
    Connect,
}

impl Operation {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A decision with all that those are shown who are asked about it.
pub(crate) struct Decided<'d> {
    operation: Operation,
    object: Cow<'d, Value>,
    old: Cow<'d, Value>,
}

impl<'d> Decided<'d> {
    /// `deletes` says that the request was a deletion, whatever comes of it.
    pub(crate) fn of(decision: &'d Decision, deletes: bool) -> Self {
        let (object, base) = match decision {
            Decision::Keep(object) => (object.whole(), Some(&**object)),
            Decision::Put { base, value, .. } => (Cow::Borrowed(value), base.as_deref()),
            Decision::Remove { base, last } => (Cow::Borrowed(last), Some(&**base)),
        };
        let operation = match base {
            None => Operation::Create,
            Some(_) if deletes => Operation::Delete,
            Some(_) => Operation::Update,
        };
        Self { operation, object, old: base.map_or(Cow::Owned(Value::Null), Object::whole) }
    }

    /// The write that it is.
    pub(crate) fn asked<'a>(&'a self, request: &'a Request<'a>) -> Asked<'a> {
        let (operation, name) = (self.operation, meta::name(&self.object));
        let object = if operation == Operation::Delete { &Value::Null } else { &*self.object };
        Asked { request, operation, name, object, old: &self.old }
    }
}

/// The object of the namespace that a write is in; null for objects of the cluster.
pub(crate) fn home(view: &View, request: &Request<'_>) -> Value {
    view.get("namespaces", "", request.namespace).map_or(Value::Null, |home| home.value.clone())
}

/// One write.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) request: &'a Request<'a>,
    pub(crate) operation: Operation,
    pub(crate) name: &'a str,
    /// Null for a deletion.
    pub(crate) object: &'a Value,
    /// Null for a creation.
    pub(crate) old: &'a Value,
}

impl Asked<'_> {
    /// `resourceRules`, `excludeResourceRules` and both selectors of `MatchResources`; nothing said is everything.
    pub(crate) fn is_matched(&self, rules: &Value, namespace: &Value) -> bool {
        if rules.is_null() {
            return true;
        }
        let (row, exact) = (self.request.resource, rules["matchPolicy"] == "Exact");
        let version = exact.then_some(&*row.version);
        let list = |field: &str| rules[field].as_array();
        let any = |field: &str| list(field).into_iter().flatten().any(|rule| self.is_named(rule, row, version));
        self.is_selected(&rules["namespaceSelector"], namespace)
            && self.is_labelled(&rules["objectSelector"])
            && !any("excludeResourceRules")
            && (list("resourceRules").is_none_or(Vec::is_empty) || any("resourceRules"))
    }

    /// `RuleWithOperations`, with names or without, about a row of the resource; in any version without `version`.
    pub(crate) fn is_named(&self, rule: &Value, row: &Resource, version: Option<&str>) -> bool {
        let has = |field: &str, wanted: &str| texts(rule, field).any(|text| text == "*" || text == wanted);
        let scope = match rule["scope"].as_str() {
            Some("Namespaced") => row.namespaced,
            // A namespace is an object of the cluster.
            Some("Cluster") => !row.namespaced,
            _ => true,
        };
        let subresource = self.request.subresource.unwrap_or_default();
        let of_resource = texts(rule, "resources").any(|text| {
            let (plural, part) = text.split_once('/').unwrap_or((text, ""));
            (plural == "*" || plural == row.plural) && (part == subresource || part == "*")
        });
        let names = texts(rule, "resourceNames").count();
        scope
            && of_resource
            && has("operations", self.operation.word())
            && has("apiGroups", &row.group)
            && version.is_none_or(|version| has("apiVersions", version))
            && (names == 0 || texts(rule, "resourceNames").any(|name| name == self.name))
    }

    /// The selector looks at the namespace's labels; objects of the cluster are not held back by it.
    pub(crate) fn is_selected(&self, selector: &Value, namespace: &Value) -> bool {
        if is_everything(selector) {
            return true;
        }
        let selector = LabelSelector::from_value(selector);
        match &*self.request.resource.name {
            "namespaces" => selector.matches(meta::labels(if self.object.is_null() { self.old } else { self.object })),
            _ => !self.request.resource.namespaced || selector.matches(meta::labels(namespace)),
        }
    }

    /// The selector looks at the new labels and at the old ones: either may match.
    pub(crate) fn is_labelled(&self, selector: &Value) -> bool {
        if is_everything(selector) {
            return true;
        }
        let selector = LabelSelector::from_value(selector);
        [self.object, self.old].into_iter().any(|object| !object.is_null() && selector.matches(meta::labels(object)))
    }

    /// `AdmissionRequest` but for its uid, its objects and its options, as a row of the resource tells it.
    pub(crate) fn told(&self, row: &Resource) -> Value {
        let Request { who, resource, namespace, subresource, dry_run, .. } = *self.request;
        let part = subresource.and_then(|name| resource.subresource(name));
        let kind = |row: &Resource| match part {
            // A Scale, a Binding or an Eviction is of a kind of its own.
            Some(part) if !part.kind.is_empty() && part.kind != row.kind => {
                json!({"group": part.group, "version": part.version, "kind": part.kind})
            }
            _ => json!({"group": row.group, "version": row.version, "kind": row.kind}),
        };
        let plural = |row: &Resource| json!({"group": row.group, "version": row.version, "resource": row.plural});
        let namespace = if &*resource.name == "namespaces" { self.name } else { namespace };
        let part = subresource.unwrap_or_default();
        json!({
            "kind": kind(row), "resource": plural(row), "subResource": part,
            "requestKind": kind(resource), "requestResource": plural(resource), "requestSubResource": part,
            "name": self.name, "namespace": namespace, "operation": self.operation.word(), "dryRun": dry_run,
            "userInfo": {"username": who.name, "uid": who.uid, "groups": who.groups, "extra": who.extra},
        })
    }
}

fn is_everything(selector: &Value) -> bool {
    selector.as_object().is_none_or(serde_json::Map::is_empty)
}

fn texts<'v>(of: &'v Value, field: &str) -> impl Iterator<Item = &'v str> {
    of[field].as_array().into_iter().flatten().filter_map(Value::as_str)
}
