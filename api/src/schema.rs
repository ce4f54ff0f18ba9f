//! The field table: what Kubernetes' types say about their fields, as data.
//!
//! One table drives protobuf decoding, strict decoding, defaults, patches, server-side apply and OpenAPI. It is read
//! once, on first use. See `schema/README.md` for where it comes from. It holds no validation rules and no prose.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde_json::Value;

const TABLE: &[u8] = include_bytes!("../schema/kubernetes-1.33-fields.json.z");
/// The types of CustomResourceDefinitions, which upstream keeps in a module of their own.
const EXTENSIONS: &str = include_str!("../schema/apiextensions-fields.json");

/// `metav1.ObjectMeta`.
pub const OBJECT_META: &str = "k8s.io/apimachinery/pkg/apis/meta/v1.ObjectMeta";
const META: &str = "k8s.io/apimachinery/pkg/apis/meta/v1.";

/// What one value of a field is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text, or a named type that is text.
    String,
    /// True or false.
    Bool,
    /// A signed number of 32 bits.
    Int32,
    /// A signed number of 64 bits.
    Int64,
    /// A floating point number.
    Double,
    /// Bytes; base64 in JSON.
    Bytes,
    /// `resource.Quantity`: text such as `100m`.
    Quantity,
    /// `intstr.IntOrString`: `80` or `"25%"`.
    IntOrString,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Go's spelling of a duration: `1h0m0s`.
    Duration,
    /// Any JSON: `runtime.RawExtension`, `metav1.FieldsV1`.
    Raw,
    /// Another message of the table, by name.
    Message(Arc<str>),
}

/// How many values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// A list.
    List,
    /// A map with text keys.
    Map,
    /// A map of lists of text (`userInfo.extra`).
    MapOfLists,
}

/// Who owns what of a list when several write to it (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value. Also what an unmarked list is.
    #[default]
    Atomic,
    /// Each scalar is owned by itself.
    Set,
    /// Each element is owned by its keys.
    Map,
}

/// One field as JSON sees it; the fields of inlined structs stand among their parent's.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in JSON.
    pub json: Arc<str>,
    /// Its protobuf number in the message that declares it.
    pub number: u32,
    /// True when it comes from an inlined struct, which protobuf nests.
    pub inlined: bool,
    /// What one value is.
    pub kind: Type,
    /// How many values there are.
    pub shape: Shape,
    /// True when Go has a pointer here: zero is then a value of its own and is kept.
    pub pointer: bool,
    /// True when Go leaves the zero value out of JSON.
    pub omit_empty: bool,
    /// How a list merges under server-side apply.
    pub list: ListType,
    /// The keys of a [`ListType::Map`].
    pub keys: Vec<Arc<str>>,
    /// Strategic merge patch: merge instead of replace.
    pub merge: bool,
    /// Strategic merge patch: a struct is replaced as a whole instead of merged.
    pub replace: bool,
    /// Strategic merge patch: the key of list elements.
    pub merge_key: Option<Arc<str>>,
    /// Strategic merge patch: fields the patch does not name are dropped (unions such as a volume's source).
    pub retain_keys: bool,
    /// The `+default` marker.
    pub default: Option<Value>,
}

impl Field {
    /// OpenAPI's `required`: Go neither has a pointer here nor leaves zero out.
    #[must_use]
    pub fn required(&self) -> bool {
        !self.pointer && !self.omit_empty
    }

    /// The name of the message that its values are, if they are messages.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match &self.kind {
            Type::Message(name) => Some(name),
            _ => None,
        }
    }
}

/// An inlined struct: in protobuf a nested message, in JSON nothing.
#[derive(Clone, Debug)]
pub struct Inlined {
    /// Its protobuf number.
    pub number: u32,
    /// Which message it is.
    pub message: Arc<str>,
}

/// One struct type.
#[derive(Clone, Debug)]
pub struct Message {
    /// `k8s.io/api/core/v1.Pod`.
    pub name: Arc<str>,
    /// Its fields as JSON sees them, in Go's order. `apiVersion` and `kind` are not among them; see [`Message::typed`].
    pub fields: Vec<Field>,
    /// The structs inlined into it.
    pub inlined: Vec<Inlined>,
    /// True when its JSON may carry `apiVersion` and `kind` wherever it stands.
    pub typed: bool,
    by_json: HashMap<Arc<str>, usize>,
}

impl Message {
    /// The field of that JSON name.
    #[must_use]
    pub fn field(&self, json: &str) -> Option<&Field> {
        self.by_json.get(json).map(|&index| &self.fields[index])
    }

    /// The field with that protobuf number; inlined fields have none here.
    #[must_use]
    pub fn field_number(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number && !field.inlined)
    }

    /// The type's own name: `Pod`.
    #[must_use]
    pub fn short_name(&self) -> &str {
        short_name(&self.name)
    }
}

/// `Pod` of `k8s.io/api/core/v1.Pod`.
#[must_use]
pub fn short_name(message: &str) -> &str {
    message.rsplit_once('.').map_or(message, |(_, name)| name)
}

/// `v1.Pod` of `k8s.io/api/core/v1.Pod`: how Go's error messages name a type.
#[must_use]
pub fn go_name(message: &str) -> &str {
    message.rsplit_once('/').map_or(message, |(_, name)| name)
}

/// All messages.
pub struct Schema {
    messages: HashMap<Arc<str>, Message>,
}

#[derive(Deserialize)]
struct Row<'a> {
    n: u32,
    #[serde(borrow)]
    j: &'a str,
    p: &'a str,
    t: &'a str,
    #[serde(default)]
    o: u8,
    #[serde(default)]
    inl: u8,
    d: Option<Value>,
    lt: Option<&'a str>,
    #[serde(default)]
    lk: Vec<&'a str>,
    #[serde(default)]
    ps: &'a str,
    pk: Option<&'a str>,
}

impl Schema {
    /// The types of Kubernetes 1.33.
    #[must_use]
    pub fn builtin() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            let mut json = Vec::with_capacity(200 * 1024);
            let inflated = flate2::read::ZlibDecoder::new(TABLE).read_to_end(&mut json);
            inflated.expect("the table in the binary is whole");
            let mut rows: HashMap<&str, Vec<Row<'_>>> =
                serde_json::from_slice(&json).expect("the table in the binary is well-formed");
            let more: HashMap<&str, Vec<Row<'_>>> =
                serde_json::from_str(EXTENSIONS).expect("the table of extensions is well-formed");
            rows.extend(more);
            Self::build(&rows)
        })
    }

    fn build(rows: &HashMap<&str, Vec<Row<'_>>>) -> Self {
        let build = |(&name, fields): (&&str, &Vec<Row<'_>>)| (Arc::from(name), message(name, fields, rows));
        Self { messages: rows.iter().map(build).collect() }
    }

    /// The message of that name, such as `k8s.io/api/core/v1.Pod`.
    #[must_use]
    pub fn message(&self, name: &str) -> Option<&Message> {
        self.messages.get(name)
    }

    /// The message that `apiVersion` and `kind` of a body mean. Options such as `DeleteOptions` may carry any group.
    ///
    /// Go's package is the group's first word (`rbac` of `rbac.authorization.k8s.io`), `core` for the core group.
    #[must_use]
    pub fn message_of(&self, group: &str, version: &str, kind: &str) -> Option<&Message> {
        let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
        let home = if package == "apiextensions" { "apiextensions-apiserver/pkg/apis" } else { "api" };
        self.message(&format!("k8s.io/{home}/{package}/{version}.{kind}")).or_else(|| {
            let shared =
                kind.ends_with("Options") || matches!(kind, "Status" | "List" | "APIResourceList" | "APIGroupList");
            self.message(&format!("{META}{kind}")).filter(|_| shared)
        })
    }

    /// Every message, in no order.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.values()
    }
}

fn message(name: &str, rows: &[Row<'_>], table: &HashMap<&str, Vec<Row<'_>>>) -> Message {
    let mut inlined = Vec::new();
    let mut fields = Vec::with_capacity(rows.len());
    for row in rows {
        if row.inl == 0 {
            fields.push(field(row));
            continue;
        }
        inlined.push(Inlined { number: row.n, message: row.t.into() });
        let nested = table.get(row.t).map_or(&[][..], Vec::as_slice);
        let nested = message(row.t, nested, table).fields;
        fields.extend(nested.into_iter().map(|field| Field { inlined: true, ..field }));
    }
    let by_json = fields.iter().enumerate().map(|(index, field)| (field.json.clone(), index)).collect();
    let kind = short_name(name);
    let template = kind.ends_with("Template") || kind.ends_with("TemplateSpec");
    let typed = fields.iter().any(|field| &*field.json == "metadata") && !template || kind == "DeleteOptions";
    Message { name: name.into(), fields, inlined, typed, by_json }
}

fn field(row: &Row<'_>) -> Field {
    let (shape, pointer) = match row.p {
        "" => (Shape::One, false),
        "*" => (Shape::One, true),
        "[]" if row.t == "byte" => (Shape::One, false),
        "[]" => (Shape::List, false),
        map if map.ends_with("[]") && row.t != "byte" => (Shape::MapOfLists, false),
        _ => (Shape::Map, false),
    };
    let strategy = |wanted| row.ps.split(',').any(|word| word == wanted);
    let list = match row.lt {
        Some("map") => ListType::Map,
        Some("set") => ListType::Set,
        _ => ListType::Atomic,
    };
    Field {
        json: row.j.into(),
        number: row.n,
        inlined: false,
        kind: kind(row.t),
        shape,
        pointer,
        omit_empty: row.o != 0,
        list,
        keys: row.lk.iter().map(|&key| key.into()).collect(),
        merge: strategy("merge"),
        replace: strategy("replace"),
        merge_key: row.pk.map(Arc::from),
        retain_keys: strategy("retainKeys"),
        default: row.d.clone(),
    }
}

fn kind(go: &str) -> Type {
    match go {
        "string" | "k8s.io/apimachinery/pkg/types.UID" => Type::String,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "float64" => Type::Double,
        "byte" => Type::Bytes,
        "resource.Quantity" | "k8s.io/apimachinery/pkg/api/resource.Quantity" => Type::Quantity,
        "k8s.io/apimachinery/pkg/util/intstr.IntOrString" => Type::IntOrString,
        "k8s.io/apimachinery/pkg/runtime.RawExtension" => Type::Raw,
        _ => match go.strip_prefix(META) {
            Some("Time") => Type::Time,
            Some("MicroTime") => Type::MicroTime,
            Some("Duration") => Type::Duration,
            Some("FieldsV1") => Type::Raw,
            _ => Type::Message(go.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_that_a_field_names_exists() {
        let schema = Schema::builtin();
        for message in schema.messages() {
            for field in &message.fields {
                if let Some(name) = field.message() {
                    assert!(schema.message(name).is_some(), "{}.{} is a {name}", message.name, field.json);
                }
            }
        }
        assert!(schema.messages().count() > 500);
    }

    #[test]
    fn inlined_structs_are_flat_in_json_and_nested_in_protobuf() {
        let volume = Schema::builtin().message("k8s.io/api/core/v1.Volume").unwrap();
        let source = volume.field("emptyDir").unwrap();
        assert!(source.inlined && volume.field_number(source.number).is_none_or(|field| !field.inlined));
        assert_eq!(volume.inlined[0].number, 2);
    }

    #[test]
    fn merging_is_read_from_the_table() {
        let spec = Schema::builtin().message("k8s.io/api/core/v1.ServiceSpec").unwrap();
        let ports = spec.field("ports").unwrap();
        assert_eq!((ports.merge, ports.merge_key.as_deref(), ports.list), (true, Some("port"), ListType::Map));
        assert_eq!(ports.keys.iter().map(|key| &**key).collect::<Vec<_>>(), ["port", "protocol"]);
    }

    #[test]
    fn a_body_finds_its_message() {
        let schema = Schema::builtin();
        let name = |group, kind| schema.message_of(group, "v1", kind).map(|message| &*message.name);
        assert_eq!(name("", "Pod"), Some("k8s.io/api/core/v1.Pod"));
        assert_eq!(name("rbac.authorization.k8s.io", "Role"), Some("k8s.io/api/rbac/v1.Role"));
        assert_eq!(name("policy", "DeleteOptions"), Some("k8s.io/apimachinery/pkg/apis/meta/v1.DeleteOptions"));
        assert_eq!(name("apps", "Pod"), None);
    }
}
