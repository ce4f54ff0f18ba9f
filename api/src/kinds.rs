//! The resources the API serves: one row each, built in or defined by a user; the rest of the house reads rows.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::custom::Custom;
use crate::encoded::Encoded;
use crate::object::Object;
use crate::structural::Structural;
use crate::versions;

/// A subresource as discovery shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `log`, …
    pub name: &'static str,
    /// The kind of its body: `Scale`, `Eviction`, or the resource's own.
    pub kind: String,
    /// Group of that kind, where it differs from the resource's (`policy` for `pods/eviction`).
    pub group: String,
    /// Version of that kind.
    pub version: String,
    /// Message of that kind in the schema table.
    pub message: String,
    /// `get`, `patch`, `update`, `create`.
    pub verbs: &'static [&'static str],
}

/// One column of `kubectl get`.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The heading, such as `READY`, as Kubernetes spells it in a Table (`Ready`).
    pub name: String,
    /// OpenAPI type: `string`, `integer`, `date`.
    pub type_: String,
    /// OpenAPI format: `name` for the first column, else mostly empty.
    pub format: String,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
    /// What `kubectl` never shows but dashboards do.
    pub description: String,
}

/// One resource.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Kubernetes' GroupResource spelling: `pods`, `deployments.apps`. What keys carry.
    pub name: Arc<str>,
    /// `""` for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `Pod`.
    pub kind: String,
    /// `PodList`.
    pub list_kind: String,
    /// `pods`.
    pub plural: String,
    /// `pod`.
    pub singular: String,
    /// `po`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// False for cluster-scoped resources.
    pub namespaced: bool,
    /// The message in the schema table, such as `k8s.io/api/core/v1.Pod`; of a custom resource the name that its schema
    /// has in OpenAPI, `stable.example.com/v1.CronTab`.
    pub message: String,
    /// The verbs of the resource itself.
    pub verbs: &'static [&'static str],
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// Dotted paths that field selectors may use besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<String>,
    /// Whether `metadata.generation` counts changes of the specification.
    pub has_generation: bool,
    /// Whether writes to the main endpoint keep the stored `status`.
    pub has_status: bool,
    /// What a CustomResourceDefinition says of it; `None` for Kubernetes' own resources.
    pub custom: Option<Arc<Custom>>,
}

impl Resource {
    /// `apps/v1`, or `v1` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The schema of a custom resource.
    #[must_use]
    pub fn schema(&self) -> Option<&Structural> {
        self.custom.as_deref().map(|custom| &custom.schema)
    }

    /// An object as this version of the resource shows it: custom objects are stored in one version and read in any,
    /// and so are a few of Kubernetes' own ([`versions`]).
    #[must_use]
    pub fn in_version<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        if versions::is_converted(self) {
            return Cow::Owned(versions::shown(self, object));
        }
        if self.shows_as_stored(|| object) {
            return Cow::Borrowed(object);
        }
        let mut shown = object.clone();
        shown["apiVersion"] = Value::String(self.api_version());
        Cow::Owned(shown)
    }

    /// Whether this version of the resource shows an object as it is stored. Only a custom one is looked at for that.
    fn shows_as_stored<'a>(&self, object: impl FnOnce() -> &'a Value) -> bool {
        !versions::is_converted(self) && (self.custom.is_none() || object()["apiVersion"] == *self.api_version())
    }

    /// An object that was written in this version as it is stored, where that is another kind of object.
    #[must_use]
    pub fn stored(&self, object: Value) -> Value {
        if versions::is_converted(self) { versions::stored(self, object) } else { object }
    }

    /// [`Resource::in_version`] as JSON; without a copy where the stored version is the one asked for.
    #[must_use]
    pub fn encoded(&self, object: &Object) -> Encoded {
        match self.shows_as_stored(|| &object.value) {
            true => object.json().clone(),
            false => Encoded::whole(self.in_version(&object.whole()).to_string().into()),
        }
    }

    /// The subresource of that name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }
}
