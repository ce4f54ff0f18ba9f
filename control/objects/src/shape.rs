//! Where a value stands in the schema: what server-side apply owns as a whole and what piece by piece.
//!
//! A value of which the table says nothing (a custom resource without a schema) is granular in its objects and
//! atomic in its lists, as structured-merge-diff deduces it.

use std::collections::{BTreeMap, HashSet};

use api::Resource;
use api::schema::{Field, ListType, Message, OBJECT_META, Schema, Shape as Count, Type};
use api::structural::{Kind, Structural};
use serde_json::Value;

/// Structs marked `+structType=atomic`: one value, one owner.
const ATOMIC_STRUCTS: [&str; 16] = [
    "k8s.io/api/core/v1.ConfigMapKeySelector",
    "k8s.io/api/core/v1.FileKeySelector",
    "k8s.io/api/core/v1.LocalObjectReference",
    "k8s.io/api/core/v1.NodeSelector",
    "k8s.io/api/core/v1.NodeSelectorTerm",
    "k8s.io/api/core/v1.ObjectFieldSelector",
    "k8s.io/api/core/v1.ObjectReference",
    "k8s.io/api/core/v1.ResourceFieldSelector",
    "k8s.io/api/core/v1.ScopeSelector",
    "k8s.io/api/core/v1.ScopedResourceSelectorRequirement",
    "k8s.io/api/core/v1.SecretKeySelector",
    "k8s.io/api/core/v1.SecretReference",
    "k8s.io/api/core/v1.TopologySelectorTerm",
    "k8s.io/api/core/v1.TypedLocalObjectReference",
    "k8s.io/apimachinery/pkg/apis/meta/v1.LabelSelector",
    "k8s.io/apimachinery/pkg/apis/meta/v1.OwnerReference",
];

/// Maps marked `+mapType=atomic`: the message that declares them and their name.
const ATOMIC_MAPS: [(&str, &str); 3] = [
    ("k8s.io/api/core/v1.PodSpec", "nodeSelector"),
    ("k8s.io/api/core/v1.ServiceSpec", "selector"),
    ("k8s.io/api/core/v1.ReplicationControllerSpec", "selector"),
];

/// A place in the schema.
#[derive(Clone, Copy)]
pub(crate) enum Shape<'s> {
    /// Owned as a whole.
    Leaf,
    /// Owned field by field.
    Struct(&'s Message),
    /// A map with text keys; each entry is owned by itself.
    Map(&'s Field),
    /// A list whose items are found by their keys.
    Items(&'s Field),
    /// A list of scalars, each owned by itself.
    Scalars,
    /// What the schema of a custom resource says.
    Custom(&'s Structural),
    /// Nothing is known.
    Untyped,
}

impl<'s> Shape<'s> {
    /// The shape of a whole object of a resource.
    pub(crate) fn of_resource(resource: &'s Resource) -> Self {
        resource.schema().map_or_else(|| Self::of_message(&resource.message), Self::Custom)
    }

    /// The shape of a whole object of the message; untyped when the table has no such message.
    pub(crate) fn of_message(message: &str) -> Self {
        Schema::builtin().message(message).map_or(Self::Untyped, Self::Struct)
    }

    /// The shape of a named part of an object.
    pub(crate) fn field(self, name: &str) -> Self {
        match self {
            Self::Struct(message) => match message.field(name) {
                Some(field) => Self::of_field(message, field),
                None => Self::Leaf,
            },
            Self::Map(field) => Self::of_value(&field.kind),
            Self::Custom(schema) if schema.embedded && name == "metadata" => Self::of_message(OBJECT_META),
            Self::Custom(schema) => match schema.property(name) {
                Some(property) => Self::of_schema(property),
                None if schema.preserve => Self::Untyped,
                None => Self::Leaf,
            },
            Self::Untyped => Self::Untyped,
            Self::Leaf | Self::Items(_) | Self::Scalars => Self::Leaf,
        }
    }

    fn of_field(message: &Message, field: &'s Field) -> Self {
        match (field.shape, field.list) {
            (Count::One, _) => Self::of_value(&field.kind),
            (Count::List, ListType::Set) => Self::Scalars,
            (Count::List, ListType::Map) => Self::Items(field),
            (Count::Map, _) if !ATOMIC_MAPS.contains(&(&*message.name, &*field.json)) => Self::Map(field),
            _ => Self::Leaf,
        }
    }

    fn of_schema(schema: &'s Structural) -> Self {
        match schema.kind {
            _ if schema.atomic => Self::Leaf,
            Kind::Object => Self::Custom(schema),
            Kind::Array if schema.list != ListType::Atomic => Self::Custom(schema),
            Kind::Any if !schema.properties.is_empty() => Self::Custom(schema),
            Kind::Any => Self::Untyped,
            _ => Self::Leaf,
        }
    }

    fn of_value(kind: &Type) -> Self {
        match kind {
            Type::Message(name) if !ATOMIC_STRUCTS.contains(&&**name) => Self::of_message(name),
            _ => Self::Leaf,
        }
    }

    /// The shape of one item of a list with keys.
    pub(crate) fn item(self) -> Self {
        match self {
            Self::Items(field) => Self::of_value(&field.kind),
            Self::Custom(schema) => schema.items.as_deref().map_or(Self::Leaf, Self::of_schema),
            _ => Self::Leaf,
        }
    }

    /// Whether an object is owned field by field.
    pub(crate) fn has_fields(self) -> bool {
        matches!(self, Self::Struct(_) | Self::Map(_) | Self::Untyped)
            || matches!(self, Self::Custom(schema) if schema.kind != Kind::Array)
    }

    /// Whether a list is owned item by item.
    pub(crate) fn has_items(self) -> bool {
        matches!(self, Self::Items(_) | Self::Scalars)
            || matches!(self, Self::Custom(schema) if schema.kind == Kind::Array)
    }

    /// Whether each part is owned by itself, not only what stands in it: entries and items, but not fields.
    pub(crate) fn owns_parts(self) -> bool {
        matches!(self, Self::Map(_))
            || self.has_items()
            || matches!(self, Self::Custom(schema) if schema.additional.is_some())
    }

    /// The parts that are owned one by one, each with its FieldsV1 edge; `None` for what is owned as a whole.
    ///
    /// Of two items with the same keys the first counts: such a list is not valid, but may be stored.
    pub(crate) fn parts(self, value: &Value) -> Option<Vec<(String, Self, &Value)>> {
        match value {
            Value::Object(fields) if self.has_fields() => {
                Some(fields.iter().map(|(name, value)| (format!("f:{name}"), self.field(name), value)).collect())
            }
            Value::Array(items) if self.has_items() => {
                let mut seen = HashSet::new();
                let mut parts = Vec::with_capacity(items.len());
                for item in items {
                    let edge = self.edge(item)?;
                    if seen.insert(edge.clone()) {
                        parts.push((edge, self.item(), item));
                    }
                }
                Some(parts)
            }
            _ => None,
        }
    }

    /// The edge to a list's item: `k:{"containerPort":80,"protocol":"TCP"}`, `v:"x"`. A key that is left out has
    /// its default. `None` for an item that has none of its keys.
    pub(crate) fn edge(self, item: &Value) -> Option<String> {
        match self {
            Self::Items(field) => {
                let message = field.message().and_then(|name| Schema::builtin().message(name));
                keyed(item, field.keys.iter().map(|key| &**key), |key| message?.field(key)?.default.as_ref())
            }
            Self::Custom(schema) if schema.list == ListType::Map => {
                let of_items = schema.items.as_deref();
                let default = |key: &str| of_items?.properties.get(key)?.default.as_ref();
                keyed(item, schema.keys.iter().map(String::as_str), default)
            }
            Self::Scalars | Self::Custom(_) => Some(format!("v:{item}")),
            _ => None,
        }
    }

    /// Whether a field is one of the keys of this list's items.
    pub(crate) fn is_key(self, name: &str) -> bool {
        match self {
            Self::Items(field) => field.keys.iter().any(|key| &**key == name),
            Self::Custom(schema) => schema.keys.iter().any(|key| key == name),
            _ => false,
        }
    }
}

/// The edge of an item by its keys.
fn keyed<'a>(
    item: &'a Value,
    keys: impl Iterator<Item = &'a str>,
    default: impl Fn(&str) -> Option<&'a Value>,
) -> Option<String> {
    let given = |key: &'a str| Some((key, item.get(key).or_else(|| default(key))?));
    let keys: BTreeMap<&str, &Value> = keys.filter_map(given).collect();
    let text = serde_json::to_string(&keys).ok()?;
    (!keys.is_empty()).then(|| format!("k:{text}"))
}
