//! Which resources are served: Kubernetes' own, and what the established CustomResourceDefinitions of a picture say.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::catalog::Catalog;
use api::custom::{self, DEFINITIONS};
use api::{Change, ChangeKind, Object, Resource, View};

/// The rows of every definition. A definition is read once per change of its own.
#[derive(Default)]
pub(crate) struct Definitions {
    rows: BTreeMap<(String, Arc<str>), Vec<Arc<Resource>>>,
}

impl Definitions {
    /// The definitions of a whole picture.
    pub(crate) fn of(view: &View) -> Self {
        let mut definitions = Self::default();
        view.list(DEFINITIONS).for_each(|object| definitions.put(object));
        definitions
    }

    /// Takes a change in; answers whether other resources are served now.
    pub(crate) fn take(&mut self, change: &Change) -> bool {
        if &*change.object.key.resource != DEFINITIONS {
            return false;
        }
        let before = self.rows.remove(&place(&change.object)).is_some_and(|rows| !rows.is_empty());
        if change.kind != ChangeKind::Deleted {
            self.put(&change.object);
        }
        before || self.rows.get(&place(&change.object)).is_some_and(|rows| !rows.is_empty())
    }

    fn put(&mut self, object: &Object) {
        self.rows.insert(place(object), custom::rows(&object.value));
    }

    /// The catalog that they make.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::new(Catalog::with(self.rows.values().flatten().cloned()))
    }
}

/// By group, so that a group's rows stand together.
fn place(object: &Object) -> (String, Arc<str>) {
    (object.value["spec"]["group"].as_str().unwrap_or_default().to_owned(), object.key.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Key;
    use serde_json::json;

    fn change(kind: ChangeKind, established: &str) -> Change {
        let value = json!({
            "metadata": {"name": "tabs.example.com"},
            "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "tabs", "kind": "Tab"},
                     "versions": [{"name": "v1", "served": true, "storage": true,
                                   "schema": {"openAPIV3Schema": {"type": "object"}}}]},
            "status": {"conditions": [{"type": "Established", "status": established}]},
        });
        let object = Arc::new(Object::new(Key::new(DEFINITIONS, "", "tabs.example.com"), 1, value));
        Change { revision: 1, kind, object, previous: None }
    }

    #[test]
    fn a_resource_is_served_from_establishment_to_deletion() {
        let mut definitions = Definitions::default();
        let served = |definitions: &Definitions| definitions.catalog().by_name("tabs.example.com").is_some();
        assert!(!definitions.take(&change(ChangeKind::Added, "False")) && !served(&definitions));
        assert!(definitions.take(&change(ChangeKind::Modified, "True")) && served(&definitions));
        assert!(definitions.catalog().by_name("pods").is_some());
        assert!(definitions.take(&change(ChangeKind::Deleted, "True")) && !served(&definitions));
    }
}
