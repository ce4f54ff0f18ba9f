//! The values that expressions work on. Objects are looked at where they are, as JSON with the schema beside it; only
//! what an expression makes is new.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::types::{self, unescaped};
use crate::quantity::Quantity;
use crate::schema::ListType;
use crate::structural::{Kind, Structural};
use crate::time;

/// Text, of the object or made.
#[derive(Clone, Debug)]
pub(crate) enum Text<'a> {
    Given(&'a str),
    Made(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Given(text) => text,
            Self::Made(text) => text,
        }
    }
}

/// A network such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub(crate) address: IpAddr,
    pub(crate) length: u8,
}

/// One value.
#[derive(Clone, Debug)]
pub(crate) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Rc<[u8]>),
    /// In nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Rc<Val<'a>>>),
    Type(&'static str),
    Quantity(Quantity),
    Url(Rc<super::functions::Url>),
    Ip(IpAddr),
    Cidr(Cidr),
}

/// A list, with what its schema says about equality and addition.
#[derive(Clone, Debug)]
pub(crate) struct List<'a> {
    items: Items<'a>,
    pub(crate) how: ListType,
    pub(crate) keys: &'a [String],
}

#[derive(Clone, Debug)]
enum Items<'a> {
    Json(&'a [Value], Option<&'a Structural>),
    Made(Rc<[Val<'a>]>),
}

/// A map or an object.
#[derive(Clone, Debug)]
pub(crate) enum Map<'a> {
    Json(&'a serde_json::Map<String, Value>, Option<&'a Structural>),
    Made(Rc<Vec<(Val<'a>, Val<'a>)>>),
}

impl<'a> List<'a> {
    pub(crate) fn made(items: Vec<Val<'a>>) -> Self {
        Self { items: Items::Made(items.into()), how: ListType::Atomic, keys: &[] }
    }

    /// A list of these items that merges and compares as this one does.
    pub(crate) fn alike(&self, items: Vec<Val<'a>>) -> Self {
        Self { items: Items::Made(items.into()), how: self.how, keys: self.keys }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.items {
            Items::Json(items, _) => items.len(),
            Items::Made(items) => items.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<Val<'a>> {
        match &self.items {
            Items::Json(items, schema) => items.get(index).map(|item| Val::of(item, *schema)),
            Items::Made(items) => items.get(index).cloned(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Val<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// What stands for an item in a list of maps: the values of its keys.
    pub(crate) fn identity(&self, item: &Val<'a>) -> Vec<Option<Val<'a>>> {
        match item {
            Val::Map(map) => self.keys.iter().map(|key| map.get(key)).collect(),
            _ => Vec::new(),
        }
    }

    fn same(&self, other: &Self) -> bool {
        if self.len() != other.len() {
            return false;
        }
        if self.how == ListType::Atomic {
            return self.iter().zip(other.iter()).all(|(a, b)| a.equals(&b));
        }
        self.iter().all(|a| other.iter().any(|b| a.equals(&b)))
    }
}

impl<'a> Map<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(members, _) => members.len(),
            Self::Made(entries) => entries.len(),
        }
    }

    /// The member of that name; names that are no identifiers may be written escaped.
    pub(crate) fn get(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Self::Json(members, schema) => {
                let (name, value) = members.get_key_value(name).or_else(|| {
                    if name.starts_with("__") || name.contains("__") {
                        members.get_key_value(&unescaped(name))
                    } else {
                        None
                    }
                })?;
                Some(Val::of(value, schema.and_then(|schema| types::property(schema, name))))
            }
            Self::Made(entries) => {
                let is = |key: &Val<'a>| matches!(key, Val::String(text) if &**text == name);
                entries.iter().find(|(key, _)| is(key)).map(|(_, value)| value.clone())
            }
        }
    }

    /// The member under any key.
    pub(crate) fn at(&self, key: &Val<'a>) -> Option<Val<'a>> {
        match (self, key) {
            (Self::Json(members, schema), Val::String(name)) => {
                let (name, value) = members.get_key_value(&**name)?;
                Some(Val::of(value, schema.and_then(|schema| types::property(schema, name))))
            }
            (Self::Json(..), _) => None,
            (Self::Made(entries), _) => entries.iter().find(|(is, _)| is.equals(key)).map(|(_, value)| value.clone()),
        }
    }

    pub(crate) fn keys(&self) -> Vec<Val<'a>> {
        match self {
            Self::Json(members, _) => members.keys().map(|key| Val::String(Text::Given(key))).collect(),
            Self::Made(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
        }
    }
}

impl<'a> Val<'a> {
    /// What a JSON value is under a schema; without one, what it looks like.
    pub(crate) fn of(value: &'a Value, schema: Option<&'a Structural>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(is) => Self::Bool(*is),
            Value::Number(number) => match (schema.map(|schema| schema.kind), number.as_i64()) {
                (Some(Kind::Number), _) | (_, None) => Self::Double(number.as_f64().unwrap_or_default()),
                (_, Some(number)) => Self::Int(number),
            },
            Value::String(text) => {
                schema.and_then(|schema| formatted(text, schema)).unwrap_or_else(|| Self::text(text))
            }
            Value::Array(items) => Self::List(List {
                items: Items::Json(items, schema.and_then(|schema| schema.items.as_deref())),
                how: schema.map(|schema| schema.list).unwrap_or_default(),
                keys: schema.map(|schema| &schema.keys[..]).unwrap_or_default(),
            }),
            Value::Object(members) => Self::Map(Map::Json(members, schema)),
        }
    }

    pub(crate) fn text(text: &'a str) -> Self {
        Self::String(Text::Given(text))
    }

    pub(crate) fn made(text: impl Into<Rc<str>>) -> Self {
        Self::String(Text::Made(text.into()))
    }

    pub(crate) fn some(value: Self) -> Self {
        Self::Optional(Some(Rc::new(value)))
    }

    /// The type as messages name it.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
        }
    }

    /// How much work it is to look at all of it: bytes of text, items of lists, as deep as they are.
    pub(crate) fn weight(&self) -> u64 {
        match self {
            Self::String(text) => text.len() as u64 / 10,
            Self::Bytes(bytes) => bytes.len() as u64 / 10,
            Self::List(list) => match &list.items {
                Items::Json(items, _) => items.iter().map(weight).sum(),
                Items::Made(items) => items.iter().map(|item| 1 + item.weight()).sum(),
            },
            Self::Map(Map::Json(members, _)) => members.values().map(weight).sum(),
            Self::Map(Map::Made(entries)) => entries.iter().map(|(key, value)| 1 + key.weight() + value.weight()).sum(),
            _ => 0,
        }
    }

    /// CEL's equality: numbers compare by value whatever their type, and values of other types differ.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) | (Self::Optional(None), Self::Optional(None)) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => **a == **b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.same(b),
            (Self::Map(a), Self::Map(b)) => {
                let same = |key: &Val<'a>| a.at(key).zip(b.at(key)).is_some_and(|(a, b)| a.equals(&b));
                a.len() == b.len() && a.keys().iter().all(same)
            }
            (Self::Optional(Some(a)), Self::Optional(Some(b))) => a.equals(b),
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// The order of two values; `None` where CEL has none.
    #[allow(clippy::cast_precision_loss, reason = "numbers of different types compare as doubles, as cel-go does")]
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Uint(b)) => Some(u64::try_from(*a).map_or(Ordering::Less, |a| a.cmp(b))),
            (Self::Uint(_), Self::Int(_)) => other.compare(self).map(Ordering::reverse),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Double(a), Self::Uint(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Int(_) | Self::Uint(_), Self::Double(_)) => other.compare(self).map(Ordering::reverse),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::String(a), Self::String(b)) => Some((**a).cmp(&**b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

fn weight(value: &Value) -> u64 {
    1 + match value {
        Value::String(text) => text.len() as u64 / 10,
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(members) => members.values().map(weight).sum(),
        _ => 0,
    }
}

/// Text that its format makes something else; text that is not of its format stays text.
fn formatted<'a>(text: &str, schema: &Structural) -> Option<Val<'a>> {
    match schema.format() {
        "date-time" => text.parse().ok().map(Val::Timestamp),
        "date" => format!("{text}T00:00:00Z").parse().ok().map(Val::Timestamp),
        "duration" => time::parse_duration(text).map(Val::Duration),
        "byte" => STANDARD.decode(text).ok().map(|bytes| Val::Bytes(bytes.into())),
        _ => None,
    }
}
