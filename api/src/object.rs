//! One stored version of one object: encoded once, decoded when somebody looks, shared by everybody who does.
//!
//! An [`Object`] never changes. A new version is a new `Object` with a higher [`Object::revision`]; lists and
//! watches copy [`Object::json`] and never encode again.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::decoded::{Decoded, MANAGED_FIELDS, METADATA, Parts, RESOURCE_VERSION};
use crate::encoded::Encoded;

/// Where an object lives: resource, namespace, name.
///
/// The resource is Kubernetes' `GroupResource` spelling: `pods` for the core group, `deployments.apps` otherwise.
/// The namespace is empty for cluster-scoped objects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `pods`, `deployments.apps`.
    pub resource: Arc<str>,
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

/// What every key in the store begins with; the rest is `resource/namespace/name`.
pub const STORE_PREFIX: &str = "/registry/";

impl Key {
    /// Builds a key; `namespace` is empty for cluster-scoped objects.
    pub fn new(resource: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    /// The key's bytes in the store. `/` never occurs in a resource, a namespace or a name, so this is unambiguous.
    #[must_use]
    pub fn store_key(&self) -> Vec<u8> {
        format!("{STORE_PREFIX}{}/{}/{}", self.resource, self.namespace, self.name).into_bytes()
    }

    /// The inverse of [`Key::store_key`]; `None` for bytes that no key has.
    #[must_use]
    pub fn from_store_key(bytes: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(bytes).ok()?.strip_prefix(STORE_PREFIX)?.splitn(3, '/');
        let (resource, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        (!resource.is_empty() && !name.is_empty()).then(|| Self::new(resource, namespace, name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.resource, self.name)
        } else {
            write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `metadata.ownerReferences[]`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// `apps/v1`.
    pub api_version: String,
    /// `ReplicaSet`.
    pub kind: String,
    /// `metadata.name` of the owner, in the same namespace or cluster-scoped.
    pub name: String,
    /// `metadata.uid` of the owner.
    pub uid: String,
    /// True for the one owner that manages this object.
    #[serde(default)]
    pub controller: bool,
    /// True when foreground deletion of the owner waits for this object.
    #[serde(default)]
    pub block_owner_deletion: bool,
}

/// One immutable version of one object.
pub struct Object {
    /// Where it lives.
    pub key: Key,
    /// The store revision of the write that made this version; equal to `metadata.resourceVersion`.
    pub revision: u64,
    /// The decoded object, `metadata.resourceVersion` included and `metadata.managedFields` left out; [`Object::whole`] has
    /// them.
    pub value: Decoded,
    /// Whether the encoded object says who manages which field.
    managed: bool,
    marks: Marks,
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// What is asked of every object that changes, so that nothing needs to be decoded for it.
#[derive(Clone)]
struct Marks {
    uid: Box<str>,
    created: Box<str>,
    deleted: Option<Box<str>>,
    /// The uids in `ownerReferences`.
    owners: Box<[Box<str>]>,
}

impl Marks {
    /// `field` gives a field of the metadata.
    fn of<'a>(field: impl Fn(&str) -> Option<Cow<'a, Value>>) -> Self {
        let text = |name| field(name).and_then(|value| Some(Box::from(value.as_str()?)));
        let owners = field("ownerReferences").unwrap_or_default();
        let owners = owners.as_array().into_iter().flatten().filter_map(|owner| owner["uid"].as_str());
        Self {
            uid: text("uid").unwrap_or_default(),
            created: text("creationTimestamp").unwrap_or_default(),
            deleted: text("deletionTimestamp"),
            owners: owners.map(Box::from).collect(),
        }
    }
}

impl Object {
    /// Takes a decoded object, writes `metadata.resourceVersion` into it and encodes it.
    #[must_use]
    pub fn new(key: Key, revision: u64, mut value: Value) -> Self {
        if let Some(metadata) = value.get_mut(METADATA).and_then(Value::as_object_mut) {
            metadata.remove(RESOURCE_VERSION);
        }
        let stored = Bytes::from(value.to_string());
        let json = metadata_of(&stored).and_then(|(text, metadata)| {
            // As it would be if it came from the store.
            Encoded::stored(stored.clone(), text, metadata.len(), revision)
        });
        let mut managed = false;
        if let Some(metadata) = value.get_mut(METADATA).and_then(Value::as_object_mut) {
            metadata.insert(RESOURCE_VERSION.into(), Value::String(revision.to_string()));
            managed = metadata.remove(MANAGED_FIELDS).is_some();
        }
        let marks = Marks::of(|name| value[METADATA].get(name).map(Cow::Borrowed));
        let value = Decoded::now(json.unwrap_or_else(|| Encoded::whole(stored)), value);
        Self { key, revision, value, managed, marks, typed: OnceLock::new() }
    }

    /// [`Object::new`] of an encoded object, whose bytes it shares; nothing but its metadata is looked into. `None` for
    /// what is no JSON object with metadata.
    #[must_use]
    pub fn from_json(key: Key, revision: u64, encoded: &Bytes) -> Option<Self> {
        let (text, metadata) = metadata_of(encoded)?;
        if metadata.contains_key(RESOURCE_VERSION) {
            // Nothing is stored with a version, since nobody knows it before.
            return Some(Self::new(key, revision, serde_json::from_slice(encoded).ok()?));
        }
        let managed = metadata.contains_key(MANAGED_FIELDS);
        let marks = Marks::of(|name| serde_json::from_str(metadata.get(name)?.get()).map(Cow::Owned).ok());
        let json = Encoded::stored(encoded.clone(), text, metadata.len(), revision)?;
        Some(Self { key, revision, value: Decoded::later(json), managed, marks, typed: OnceLock::new() })
    }

    /// The same object as of another revision: what a deletion shows, and one that somebody no longer sees.
    #[must_use]
    pub fn moved(&self, revision: u64) -> Self {
        let (key, managed, marks) = (self.key.clone(), self.managed, self.marks.clone());
        let value = Decoded::later(self.json().moved(revision));
        Self { key, revision, value, managed, marks, typed: OnceLock::new() }
    }

    /// All of the object as JSON.
    #[must_use]
    pub fn json(&self) -> &Encoded {
        self.value.json()
    }

    /// [`Object::at_rest`], unless somebody has looked at the decoded form since this was last asked.
    #[must_use]
    pub fn gone_quiet(&self) -> Option<Self> {
        if self.value.was_looked_at() { None } else { self.at_rest() }
    }

    /// The same without its decoded form, if it has one.
    #[must_use]
    pub fn at_rest(&self) -> Option<Self> {
        let is_decoded = self.value.is_decoded() && self.typed.get().is_none();
        is_decoded.then(|| Self {
            key: self.key.clone(),
            revision: self.revision,
            value: Decoded::later(self.json().clone()),
            managed: self.managed,
            marks: self.marks.clone(),
            typed: OnceLock::new(),
        })
    }

    /// The decoded object with its `managedFields`, for who writes it again.
    #[must_use]
    pub fn whole(&self) -> Cow<'_, Value> {
        match self.managed {
            false => Cow::Borrowed(&self.value),
            // What was encoded here can be decoded.
            true => self.json().decode().map_or(Cow::Borrowed(&self.value), Cow::Owned),
        }
    }

    /// `metadata` as JSON, all of it.
    #[must_use]
    pub fn metadata_json(&self) -> String {
        self.json().metadata()
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// `metadata.namespace`; empty for cluster-scoped objects.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.marks.uid
    }

    /// `metadata.generation`, 0 when absent.
    #[must_use]
    pub fn generation(&self) -> i64 {
        self.value["metadata"]["generation"].as_i64().unwrap_or(0)
    }

    /// `metadata.creationTimestamp`, RFC 3339.
    #[must_use]
    pub fn creation_timestamp(&self) -> &str {
        &self.marks.created
    }

    /// `metadata.deletionTimestamp`, when the object is being deleted.
    #[must_use]
    pub fn deletion_timestamp(&self) -> Option<&str> {
        self.marks.deleted.as_deref()
    }

    /// The value of one label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.value["metadata"]["labels"].get(name)?.as_str()
    }

    /// The value of one annotation.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.value["metadata"]["annotations"].get(name)?.as_str()
    }

    /// `metadata.ownerReferences`; entries that cannot be read are left out.
    #[must_use]
    pub fn owner_references(&self) -> Vec<OwnerReference> {
        let Some(list) = self.value["metadata"]["ownerReferences"].as_array() else { return Vec::new() };
        list.iter().filter_map(|entry| serde::Deserialize::deserialize(entry).ok()).collect()
    }

    /// The uids in `metadata.ownerReferences`.
    pub fn owner_uids(&self) -> impl Iterator<Item = &str> {
        self.marks.owners.iter().map(|uid| &**uid)
    }

    /// The uid of the owner marked `controller: true`.
    #[must_use]
    pub fn controller_uid(&self) -> Option<&str> {
        let owners = self.value["metadata"]["ownerReferences"].as_array()?;
        owners.iter().find(|owner| owner["controller"] == true)?["uid"].as_str()
    }

    /// The owner reference marked `controller: true`.
    #[must_use]
    pub fn controller(&self) -> Option<OwnerReference> {
        self.owner_references().into_iter().find(|owner| owner.controller)
    }

    /// `metadata.finalizers`.
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.value["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    /// The field at a dotted path such as `spec.nodeName`; `Null` when absent. Lists are not entered.
    #[must_use]
    pub fn field(&self, path: &str) -> &Value {
        path.split('.').fold(&self.value, |value, name| &value[name])
    }

    /// The typed view, decoded on first use and shared afterwards; `None` when the value does not fit the type.
    ///
    /// Ask for one type per object: the first type asked for is the one that is remembered.
    #[must_use]
    pub fn typed<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        if let Some(typed) = self.typed.get() {
            return Arc::clone(typed).downcast::<T>().ok();
        }
        let typed = Arc::new(T::deserialize(&*self.value).ok()?);
        // Two threads may race to decode; both results are equal, so the loser's is as good.
        let _ = self.typed.set(typed.clone());
        Some(typed)
    }
}

/// The metadata of an encoded object: as it stands there, and its fields.
fn metadata_of(encoded: &[u8]) -> Option<(&str, Parts<'_>)> {
    let parts: Parts<'_> = serde_json::from_slice(encoded).ok()?;
    let text = parts.get(METADATA)?.get();
    Some((text, serde_json::from_str(text).ok()?))
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_the_store() {
        for key in [Key::new("pods", "default", "web-1"), Key::new("nodes", "", "n1"), Key::new("a.b.c", "x", "y:z")] {
            assert_eq!(Key::from_store_key(&key.store_key()), Some(key));
        }
        for bytes in [&b"/registry/pods/default"[..], b"/other/pods/default/x", b"/registry//a/b", b"\xff"] {
            assert_eq!(Key::from_store_key(bytes), None);
        }
    }

    #[test]
    fn the_encoded_form_carries_the_revision() {
        let value = serde_json::json!({"metadata": {"name": "a", "labels": {"app": "web"}}});
        let object = Object::new(Key::new("pods", "default", "a"), 42, value);
        assert_eq!(object.label("app"), Some("web"));
        assert!(std::str::from_utf8(&object.json().to_bytes()).unwrap().contains(r#""resourceVersion":"42""#));
    }

    #[test]
    fn what_nobody_looks_at_is_given_up() {
        let value = serde_json::json!({"metadata": {"name": "a", "uid": "u", "ownerReferences": [{"uid": "o"}, {}]}});
        let key = Key::new("pods", "default", "a");
        let object = Object::new(key.clone(), 1, value);
        assert!(object.gone_quiet().is_none(), "it was made just now");
        let resting = object.gone_quiet().unwrap();
        assert!(resting.gone_quiet().is_none(), "there is nothing to give up");
        assert_eq!((resting.uid(), resting.owner_uids().collect::<Vec<_>>()), ("u", vec!["o"]));
        assert!(resting.gone_quiet().is_none(), "which does not need to be decoded");
        assert_eq!(*resting.value, *object.value);
        assert!(resting.gone_quiet().is_none(), "somebody has looked");
        assert!(resting.gone_quiet().is_some());
        let loaded = Object::from_json(key, 1, &object.json().to_bytes()).unwrap();
        assert_eq!((loaded.uid(), loaded.owner_uids().collect::<Vec<_>>()), ("u", vec!["o"]));
        assert_eq!(*loaded.value, *object.value);
    }

    #[test]
    fn who_manages_which_field_is_told_to_writers_alone() {
        let value =
            serde_json::json!({"kind": "Pod", "metadata": {"name": "a", "managedFields": [{"manager": "m\"\u{e9}"}]}});
        let key = Key::new("pods", "default", "a");
        let object = Object::new(key.clone(), 1, value.clone());
        let stored = Bytes::from(value.to_string());
        let again = Object::from_json(key.clone(), 1, &stored).unwrap();
        assert_eq!((again.json().decode(), &*again.value), (object.json().decode(), &*object.value));
        for object in [&object, &again] {
            assert_eq!(
                object.value,
                serde_json::json!({"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "1"}})
            );
            assert_eq!(object.whole()["metadata"]["managedFields"], value["metadata"]["managedFields"]);
            assert_eq!(serde_json::from_str::<Value>(&object.metadata_json()).unwrap(), object.whole()["metadata"]);
        }
        for moved in
            [Object::from_json(key.clone(), 7, &object.json().to_bytes()).unwrap(), again.moved(7), object.moved(7)]
        {
            assert_eq!((moved.revision, &moved.whole()["metadata"]["resourceVersion"]), (7, &Value::from("7")));
        }
        for no_object in ["", "[]", "{}", "{\"metadata\": 1}", "{\"metadata\": {}", "{\"metadata\": {}, \"a\": }"] {
            assert!(
                Object::from_json(key.clone(), 1, &Bytes::from_static(no_object.as_bytes())).is_none(),
                "{no_object}"
            );
        }
    }
}
