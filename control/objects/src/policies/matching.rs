//! Whether a write is one that rules name (`matchConstraints`, `matchResources`).
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy/matching`. With `matchPolicy: Equivalent`, the default, a rule for
//! one version of a resource means all its versions.

use api::meta;
use api::selector::LabelSelector;
use serde_json::Value;

use super::Asked;

impl Asked<'_> {
    /// Whether all of `MatchResources` holds; nothing said is everything.
    pub(super) fn is_matched(&self, rules: &Value, namespace: &Value) -> bool {
        if rules.is_null() {
            return true;
        }
        let (exact, list) = (rules["matchPolicy"] == "Exact", |field: &str| rules[field].as_array());
        let any = |field: &str| list(field).into_iter().flatten().any(|rule| self.is_named(rule, exact));
        self.is_selected(&rules["namespaceSelector"], namespace)
            && self.is_labelled(&rules["objectSelector"])
            && !any("excludeResourceRules")
            && (list("resourceRules").is_none_or(Vec::is_empty) || any("resourceRules"))
    }

    /// `NamedRuleWithOperations`.
    fn is_named(&self, rule: &Value, exact: bool) -> bool {
        let resource = self.request.resource;
        let has = |field: &str, wanted: &str| texts(rule, field).any(|text| text == "*" || text == wanted);
        let scope = match rule["scope"].as_str() {
            Some("Namespaced") => resource.namespaced,
            // A namespace is an object of the cluster.
            Some("Cluster") => !resource.namespaced,
            _ => true,
        };
        let subresource = self.request.subresource.unwrap_or_default();
        let of_resource = texts(rule, "resources").any(|text| {
            let (plural, part) = text.split_once('/').unwrap_or((text, ""));
            (plural == "*" || plural == resource.plural) && (part == subresource || part == "*")
        });
        let names = texts(rule, "resourceNames").count();
        scope
            && of_resource
            && has("operations", self.operation.word())
            && has("apiGroups", &resource.group)
            && (!exact || has("apiVersions", &resource.version))
            && (names == 0 || texts(rule, "resourceNames").any(|name| name == self.name))
    }

    /// The selector looks at the namespace's labels; objects of the cluster are not held back by it.
    fn is_selected(&self, selector: &Value, namespace: &Value) -> bool {
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
    fn is_labelled(&self, selector: &Value) -> bool {
        if is_everything(selector) {
            return true;
        }
        let selector = LabelSelector::from_value(selector);
        [self.object, self.old].into_iter().any(|object| !object.is_null() && selector.matches(meta::labels(object)))
    }
}

fn is_everything(selector: &Value) -> bool {
    selector.as_object().is_none_or(serde_json::Map::is_empty)
}

fn texts<'v>(of: &'v Value, field: &str) -> impl Iterator<Item = &'v str> {
    of[field].as_array().into_iter().flatten().filter_map(Value::as_str)
}
