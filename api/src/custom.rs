//! Resources that users define: a CustomResourceDefinition as rows of the catalog, and which of its names are free.
//!
//! A definition gives one row per served version. Its objects are stored once, in the storage version, and read in any
//! other by changing `apiVersion` (conversion strategy `None`); converting webhooks are refused when a definition is
//! written.

use std::sync::Arc;

use serde_json::Value;

use crate::catalog::{ALL_VERBS, CHANGE};
use crate::jsonpath::JsonPath;
use crate::kinds::{Column, Resource, Subresource};
use crate::schema::Schema;
use crate::structural::Structural;
use crate::{meta, view::View};

/// Where definitions live.
pub const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// The finalizer of a definition whose objects are still there.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What a row has that no built-in one has.
#[derive(Clone, Debug)]
pub struct Custom {
    /// What its objects look like.
    pub schema: Structural,
    /// The schema as its author wrote it, for OpenAPI.
    pub openapi: Value,
    /// The version that objects are stored in.
    pub storage_version: String,
    /// The columns between name and age of `kubectl get`, with what they show; empty for name and age alone.
    pub columns: Vec<(Column, JsonPath)>,
    /// Where the Scale reads and writes.
    pub scale: Option<ScalePaths>,
    /// What clients of this version are warned of.
    pub deprecation: Option<String>,
}

/// The paths of a scale subresource, as names from the object down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// The wanted number of replicas.
    pub spec_replicas: Vec<String>,
    /// The counted number of replicas.
    pub status_replicas: Vec<String>,
    /// A label selector as text; empty when there is none.
    pub selector: Vec<String>,
}

/// The rows of an established definition, preferred version first; none before that.
#[must_use]
pub fn rows(definition: &Value) -> Vec<Arc<Resource>> {
    if !meta::is_true(definition, "Established") {
        return Vec::new();
    }
    let served = versions(definition).filter(|version| version["served"] == true);
    let mut rows: Vec<Arc<Resource>> = served.map(|version| Arc::new(row(definition, version))).collect();
    rows.sort_by(|a, b| priority(&b.version).cmp(&priority(&a.version)).then_with(|| a.version.cmp(&b.version)));
    rows
}

/// The version that is stored; empty when none is.
#[must_use]
pub fn storage_version(definition: &Value) -> &str {
    let stored = versions(definition).find(|version| version["storage"] == true);
    stored.and_then(|version| version["name"].as_str()).unwrap_or_default()
}

/// The first of a definition's names that another established one of its group has: whose field, and what.
#[must_use]
pub fn taken_name(view: &View, definition: &Value) -> Option<(&'static str, String)> {
    let others: Vec<&Value> = view
        .list(DEFINITIONS)
        .map(|other| &*other.value)
        .filter(|other| {
            meta::name(other) != meta::name(definition)
                && other["spec"]["group"] == definition["spec"]["group"]
                && meta::is_true(other, "NamesAccepted")
        })
        .collect();
    let names = &definition["spec"]["names"];
    let is_taken = |name: &&Value, fields: &[&str]| {
        others.iter().any(|other| {
            let accepted = &other["status"]["acceptedNames"];
            let short = accepted["shortNames"].as_array().into_iter().flatten();
            fields.iter().any(|field| accepted[*field] == **name)
                || fields.len() > 1 && short.into_iter().any(|other| other == *name)
        })
    };
    for (field, among) in [("singular", &["plural", "singular"][..]), ("kind", &["kind"]), ("listKind", &["listKind"])]
    {
        if names[field].is_string() && is_taken(&&names[field], among) {
            return Some((field, names[field].as_str().unwrap_or_default().to_owned()));
        }
    }
    let mut short = names["shortNames"].as_array().into_iter().flatten();
    let name = short.find(|name| is_taken(name, &["plural", "singular"]))?;
    Some(("shortNames", name.as_str().unwrap_or_default().to_owned()))
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["spec"]["versions"].as_array().into_iter().flatten()
}

/// How versions are preferred: `v2` before `v1` before `v1beta1` before `v1alpha1` before all others.
fn priority(version: &str) -> (u8, u64, u64) {
    let Some((major, rest)) = version.strip_prefix('v').and_then(number) else { return (0, 0, 0) };
    let (stage, rest) = match (rest, rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        ("", ..) => return (3, major, 0),
        (_, Some(rest), _) => (2, rest),
        (.., Some(rest)) => (1, rest),
        _ => return (0, 0, 0),
    };
    match number(rest) {
        Some((minor, "")) => (stage, major, minor),
        _ => (0, 0, 0),
    }
}

fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

fn row(definition: &Value, version: &Value) -> Resource {
    let (spec, accepted) = (&definition["spec"], &definition["status"]["acceptedNames"]);
    let names = if accepted["kind"].as_str().is_none_or(str::is_empty) { &spec["names"] } else { accepted };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<String>>();
    let (group, kind, plural) = (text(&spec["group"]), text(&names["kind"]), text(&names["plural"]));
    let name = text(&version["name"]);
    let message = format!("{group}/{name}.{kind}");
    let openapi = version["schema"]["openAPIV3Schema"].clone();
    let mut subresources = Vec::new();
    let scale = scale(&version["subresources"]["scale"]);
    if scale.is_some() {
        let message =
            Schema::builtin().message_of("autoscaling", "v1", "Scale").map(|message| message.name.to_string());
        subresources.push(Subresource {
            name: "scale",
            kind: "Scale".into(),
            group: "autoscaling".into(),
            version: "v1".into(),
            message: message.unwrap_or_default(),
            verbs: CHANGE,
        });
    }
    let has_status = version["subresources"]["status"].is_object();
    if has_status {
        subresources.push(Subresource {
            name: "status",
            kind: kind.clone(),
            group: group.clone(),
            version: name.clone(),
            message: message.clone(),
            verbs: CHANGE,
        });
    }
    let selectable = version["selectableFields"].as_array().into_iter().flatten();
    Resource {
        name: format!("{plural}.{group}").into(),
        singular: names["singular"].as_str().map_or_else(|| kind.to_lowercase(), str::to_owned),
        list_kind: names["listKind"].as_str().map_or_else(|| format!("{kind}List"), str::to_owned),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        verbs: ALL_VERBS,
        subresources,
        selectable_fields: selectable
            .filter_map(|field| Some(field["jsonPath"].as_str()?.trim_start_matches('.').to_owned()))
            .collect(),
        has_generation: true,
        has_status,
        custom: Some(Arc::new(Custom {
            schema: Structural::of_objects(&openapi),
            openapi,
            storage_version: storage_version(definition).to_owned(),
            columns: columns(version),
            scale,
            deprecation: deprecation(version, &group, &kind),
        })),
        group,
        version: name,
        kind,
        plural,
        message,
    }
}

fn deprecation(version: &Value, group: &str, kind: &str) -> Option<String> {
    let own = version["deprecationWarning"].as_str().map(str::to_owned);
    let name = version["name"].as_str().unwrap_or_default();
    (version["deprecated"] == true).then(|| own.unwrap_or_else(|| format!("{group}/{name} {kind} is deprecated")))
}

fn scale(paths: &Value) -> Option<ScalePaths> {
    let names = |field: &str| -> Option<Vec<String>> {
        let path = JsonPath::parse(paths[field].as_str()?)?;
        Some(path.names()?.into_iter().map(str::to_owned).collect())
    };
    Some(ScalePaths {
        spec_replicas: names("specReplicasPath")?,
        status_replicas: names("statusReplicasPath")?,
        selector: names("labelSelectorPath").unwrap_or_default(),
    })
}

fn columns(version: &Value) -> Vec<(Column, JsonPath)> {
    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten();
    let column = |column: &Value| {
        let text = |field: &str| column[field].as_str().unwrap_or_default().to_owned();
        let priority = column["priority"].as_i64().and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0);
        let (name, type_, format, description) = (text("name"), text("type"), text("format"), text("description"));
        Some((Column { name, type_, format, priority, description }, JsonPath::parse(column["jsonPath"].as_str()?)?))
    };
    columns.filter_map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions_are_preferred_as_kubernetes_does() {
        let mut versions = ["foo10", "v1alpha1", "v10", "v2", "v1beta2", "v1", "v11beta2", "v1beta1", "foo1"];
        versions.sort_by(|a, b| priority(b).cmp(&priority(a)).then_with(|| a.cmp(b)));
        assert_eq!(versions, ["v10", "v2", "v1", "v11beta2", "v1beta2", "v1beta1", "v1alpha1", "foo1", "foo10"]);
    }

    #[test]
    fn an_established_definition_is_a_row_per_served_version() {
        let version = |name: &str, served: bool, storage: bool| {
            json!({
                "name": name, "served": served, "storage": storage,
                "schema": {"openAPIV3Schema": {"type": "object"}},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "additionalPrinterColumns": [{"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"}],
                "selectableFields": [{"jsonPath": ".spec.colour"}],
            })
        };
        let mut definition = json!({
            "metadata": {"name": "crontabs.stable.example.com"},
            "spec": {
                "group": "stable.example.com", "scope": "Namespaced",
                "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"]},
                "versions": [version("v1beta1", true, false), version("v1", true, true), version("v0", false, false)],
            },
        });
        assert!(rows(&definition).is_empty());
        definition["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        let rows = rows(&definition);
        assert_eq!(rows.iter().map(|row| row.version.as_str()).collect::<Vec<_>>(), ["v1", "v1beta1"]);
        let row = &rows[0];
        assert_eq!(
            (&*row.name, &*row.singular, &*row.list_kind),
            ("crontabs.stable.example.com", "crontab", "CronTabList")
        );
        assert_eq!(row.message, "stable.example.com/v1.CronTab");
        assert_eq!(row.selectable_fields, ["spec.colour"]);
        let custom = row.custom.as_ref().unwrap();
        assert_eq!(custom.scale.as_ref().unwrap().spec_replicas, ["spec", "replicas"]);
        assert_eq!((custom.columns.len(), &*custom.storage_version), (1, "v1"));
    }
}
