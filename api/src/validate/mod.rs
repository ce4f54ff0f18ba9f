//! Do the values make sense? The rules that Kubernetes checks after decoding and defaulting, in its words.
//!
//! Source: `pkg/apis/*/validation`. Rules that protect the cluster's own machinery (names, selectors, immutable fields,
//! pods, Services) are here for every kind; rules that only concern volume plug-ins and operating systems that no Wasm
//! pod meets are not. The object has been [checked](crate::check) and [defaulted](crate::defaults) before.

mod admission;
mod definition;
mod expressions;
mod metadata;
pub mod names;
mod network;
mod pod;
mod policy;
mod storage;
mod workload;

use serde_json::{Value, json};

use crate::custom::DEFINITIONS;
use crate::kinds::Resource;
use crate::quantity::{self, Quantity};
use crate::status::Cause;
use crate::structural;

/// What keeps an object from being created; empty when nothing does.
#[must_use]
pub fn create(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut report = Report::default();
    metadata::check(resource, object, &mut report);
    rules(resource, object, &mut report);
    expressions(resource, None, object, &mut report);
    if &*resource.name == "pods" {
        pod::check_new(object, &mut report);
    }
    report.0
}

/// What keeps an object from being changed through its main endpoint; empty when nothing does. Both versions carry the
/// metadata that the server owns, so only what the client may change can differ.
#[must_use]
pub fn update(resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let mut report = Report::default();
    metadata::check(resource, new, &mut report);
    metadata::check_update(old, new, &mut report);
    rules(resource, new, &mut report);
    if let Some(schema) = resource.schema() {
        // What was wrong already and is not touched does not stand in the way (KEP-4008).
        let before = structural::causes(old, schema);
        report.0.retain(|cause| !before.contains(cause));
    }
    expressions(resource, Some(old), new, &mut report);
    match &*resource.name {
        DEFINITIONS => definition::check_update(old, new, &mut report),
        "pods" => pod::check_update(old, new, &mut report),
        "services" => network::check_service_update(old, new, &mut report),
        "configmaps" | "secrets" => storage::check_data_update(old, new, &mut report),
        "persistentvolumeclaims" => storage::check_claim_update(old, new, &mut report),
        _ => {
            workload::check_update(&resource.name, old, new, &mut report);
            policy::check_update(&resource.name, old, new, &mut report);
        }
    }
    report.0
}

/// What keeps an object from being changed through a subresource: each may change what the main endpoint may not, and
/// nothing else of the specification differs.
#[must_use]
pub fn update_part(resource: &Resource, subresource: &str, old: &Value, new: &Value) -> Vec<Cause> {
    let check = match subresource {
        "ephemeralcontainers" => pod::check_guests,
        "resize" => pod::check_resize,
        _ => return update(resource, old, new),
    };
    let mut report = Report::default();
    rules(resource, new, &mut report);
    check(old, new, &mut report);
    report.0
}

/// The rules that hold of an object whatever it was before.
fn rules(resource: &Resource, object: &Value, report: &mut Report) {
    if let Some(schema) = resource.schema() {
        report.0.extend(structural::causes(object, schema));
        return;
    }
    let spec = &object["spec"];
    match &*resource.name {
        DEFINITIONS => definition::check(object, report),
        "pods" => pod::check_spec(spec, "spec", report),
        "podtemplates" => pod::check_template(&object["template"], "template", report),
        "services" => network::check_service(spec, report),
        "endpoints" => network::check_endpoints(object, report),
        "ingresses.networking.k8s.io" => network::check_ingress(spec, report),
        "networkpolicies.networking.k8s.io" => network::check_policy(spec, report),
        "endpointslices.discovery.k8s.io" => network::check_slice(object, report),
        "configmaps" | "secrets" => storage::check_data(object, report),
        "persistentvolumeclaims" => storage::check_claim(spec, "spec", report),
        "persistentvolumes" => storage::check_volume(spec, report),
        "storageclasses.storage.k8s.io" => storage::check_class(object, report),
        name => {
            workload::check(name, object, report);
            policy::check(name, object, report);
            admission::check(name, object, report);
        }
    }
}

/// The rules of a schema that are expressions: only asked of an object that is otherwise shaped as they expect.
fn expressions(resource: &Resource, old: Option<&Value>, object: &Value, report: &mut Report) {
    let Some(schema) = resource.schema() else { return };
    let blocking = ["FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid"];
    if report.0.iter().any(|cause| blocking.contains(&cause.reason)) {
        if schema.is_ruled() {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing \
                          errors to complete validation";
            report.invalid("<nil>", &Value::Null, detail);
        }
        return;
    }
    report.0.extend(structural::broken(object, old, schema));
}

/// The causes found so far.
#[derive(Default)]
struct Report(Vec<Cause>);

impl Report {
    fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.0.push(Cause::required(field, detail));
    }

    fn invalid(&mut self, field: impl Into<String>, value: &Value, detail: &str) {
        self.0.push(Cause::invalid(field, value, detail));
    }

    fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.0.push(Cause::forbidden(field, detail));
    }

    fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        let message = format!("Duplicate value: {value}");
        self.0.push(Cause { reason: "FieldValueDuplicate", message, field: field.into() });
    }

    fn not_found(&mut self, field: impl Into<String>, value: &Value) {
        let message = format!("Not found: {value}");
        self.0.push(Cause { reason: "FieldValueNotFound", message, field: field.into() });
    }

    fn too_long(&mut self, field: impl Into<String>, max_bytes: usize) {
        let message = format!("Too long: may not be more than {max_bytes} bytes");
        self.0.push(Cause { reason: "FieldValueTooLong", message, field: field.into() });
    }

    /// The value, when present, must be one of these.
    fn one_of(&mut self, field: impl Into<String>, value: &Value, allowed: &[&str]) {
        if !value.is_null() && !value.as_str().is_some_and(|text| allowed.contains(&text)) {
            self.0.push(Cause::not_supported(field, value, allowed));
        }
    }

    /// The text must be there and not empty.
    fn present(&mut self, field: impl Into<String>, value: &Value) {
        if value.as_str().unwrap_or_default().is_empty() {
            self.required(field, "");
        }
    }

    /// Every complaint of a naming rule becomes a cause.
    fn named(&mut self, field: &str, value: &str, rule: impl Fn(&str) -> Vec<String>) {
        for complaint in rule(value) {
            self.invalid(field, &json!(value), &complaint);
        }
    }

    /// The text, when present, must follow a naming rule.
    fn named_if(&mut self, field: &str, value: &Value, rule: impl Fn(&str) -> Vec<String>) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.named(field, text, rule);
        }
    }

    /// The number, when present, must be at least this.
    fn at_least(&mut self, field: impl Into<String>, value: &Value, least: i64) {
        if value.as_i64().is_some_and(|number| number < least) {
            self.invalid(field, value, &format!("must be greater than or equal to {least}"));
        }
    }

    /// The number, when present, must lie within these bounds.
    fn between(&mut self, field: impl Into<String>, value: &Value, least: i64, most: i64) {
        if value.as_i64().is_some_and(|number| !(least..=most).contains(&number)) {
            self.invalid(field, value, &format!("must be between {least} and {most}, inclusive"));
        }
    }

    /// A port number that must be there.
    fn port(&mut self, field: impl Into<String>, value: &Value) {
        let number = value.as_i64().unwrap_or(0);
        if !(1..=65535).contains(&number) {
            self.invalid(field, &json!(number), "must be between 1 and 65535, inclusive");
        }
    }

    /// The field may not change.
    fn immutable(&mut self, field: &str, old: &Value, new: &Value) {
        if old != new {
            self.invalid(field, new, "field is immutable");
        }
    }

    /// A map of quantities, none below zero.
    fn quantities(&mut self, field: &str, amounts: &Value) {
        for (name, amount) in members(amounts) {
            let field = format!("{field}[{name}]");
            match amount.as_str().and_then(Quantity::parse) {
                None => self.invalid(field, amount, quantity::MALFORMED),
                Some(parsed) if parsed.is_negative() => {
                    self.invalid(field, amount, "must be greater than or equal to 0");
                }
                Some(_) => {}
            }
        }
    }

    /// A `metav1.LabelSelector`.
    fn selector(&mut self, field: &str, selector: &Value) {
        self.labels(&format!("{field}.matchLabels"), &selector["matchLabels"]);
        for (index, entry) in items(&selector["matchExpressions"]).enumerate() {
            let field = format!("{field}.matchExpressions[{index}]");
            let some = items(&entry["values"]).next().is_some();
            match entry["operator"].as_str().unwrap_or_default() {
                "In" | "NotIn" if !some => {
                    self.required(format!("{field}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if some => {
                    let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    self.forbidden(format!("{field}.values"), detail);
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => self.invalid(format!("{field}.operator"), &entry["operator"], "not a valid selector operator"),
            }
            self.named(&format!("{field}.key"), text(entry, "key"), names::qualified);
        }
    }

    /// Labels, or a map of labels to be matched.
    fn labels(&mut self, field: &str, labels: &Value) {
        for (name, value) in members(labels) {
            self.named(field, name, names::qualified);
            self.named(field, value.as_str().unwrap_or_default(), names::label_value);
        }
    }

    /// Names that must differ within a list; `field` gets `[index].key` appended.
    fn unique(&mut self, field: &str, list: &Value, key: &str) {
        let mut seen = std::collections::HashSet::new();
        for (index, item) in items(list).enumerate() {
            if item[key].is_string() && !seen.insert(item[key].as_str()) {
                self.duplicate(format!("{field}[{index}].{key}"), &item[key]);
            }
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn members(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    map.as_object().into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "tables of literals read better without borrows")]
mod tests;
