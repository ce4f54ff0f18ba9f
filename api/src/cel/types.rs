//! What is known about a value before there is one: the types of CEL, read off a schema.
//!
//! Source: `k8s.io/apiserver/pkg/cel/common.SchemaDeclType` and `cel/escaping.go`.

use std::fmt;
use std::sync::LazyLock;

use serde_json::json;

use crate::structural::{Kind, Structural};

/// A static type.
#[derive(Clone, Debug)]
pub(crate) enum Type<'s> {
    /// Anything: checked when it is there.
    Dyn,
    /// A type without parts, by the name that messages use.
    Plain(&'static str),
    List(Box<Type<'s>>),
    Map(Box<Type<'s>>, Box<Type<'s>>),
    /// An object of known fields.
    Object(&'s Structural),
    Optional(Box<Type<'s>>),
}

pub(crate) const NULL: Type<'static> = Type::Plain("null_type");
pub(crate) const BOOL: Type<'static> = Type::Plain("bool");
pub(crate) const INT: Type<'static> = Type::Plain("int");
pub(crate) const UINT: Type<'static> = Type::Plain("uint");
pub(crate) const DOUBLE: Type<'static> = Type::Plain("double");
pub(crate) const STRING: Type<'static> = Type::Plain("string");
pub(crate) const BYTES: Type<'static> = Type::Plain("bytes");
pub(crate) const DURATION: Type<'static> = Type::Plain("google.protobuf.Duration");
pub(crate) const TIMESTAMP: Type<'static> = Type::Plain("google.protobuf.Timestamp");

/// The part of `metadata` that rules may look at.
static METADATA: LazyLock<Structural> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    Structural::read(&json!({"type": "object", "properties": {"name": text, "generateName": text}}))
});
static TEXT: LazyLock<Structural> = LazyLock::new(|| Structural::read(&json!({"type": "string"})));

/// The schema of a property; an object of the API has its own.
pub(crate) fn property<'s>(schema: &'s Structural, name: &str) -> Option<&'s Structural> {
    match name {
        "apiVersion" | "kind" if schema.embedded => Some(&*TEXT),
        "metadata" if schema.embedded => Some(&*METADATA),
        _ => schema.property(name),
    }
}

impl<'s> Type<'s> {
    /// The type of what a schema describes; `None` for what rules cannot look at.
    pub(crate) fn of(schema: &'s Structural) -> Option<Self> {
        Some(match schema.kind {
            Kind::Any => return None,
            Kind::IntOrString => Self::Dyn,
            Kind::Object => match &schema.additional {
                Some(values) => Self::Map(Box::new(STRING), Box::new(Self::of(values)?)),
                None => Self::Object(schema),
            },
            Kind::Array => Self::List(Box::new(Self::of(schema.items.as_deref()?)?)),
            Kind::String => match schema.format() {
                "date-time" | "date" => TIMESTAMP,
                "duration" => DURATION,
                "byte" => BYTES,
                _ => STRING,
            },
            Kind::Integer => INT,
            Kind::Number => DOUBLE,
            Kind::Boolean => BOOL,
        })
    }

    pub(crate) fn list(items: Self) -> Self {
        Self::List(Box::new(items))
    }

    pub(crate) fn optional(value: Self) -> Self {
        Self::Optional(Box::new(value))
    }

    pub(crate) fn is(&self, plain: &str) -> bool {
        matches!(self, Self::Dyn) || matches!(self, Self::Plain(name) if *name == plain)
    }

    pub(crate) fn is_number(&self) -> bool {
        ["int", "uint", "double"].iter().any(|name| self.is(name))
    }

    /// Whether a value may be of both types.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) | (Self::Object(_), Self::Object(_)) => true,
            (Self::Plain("null_type"), other) | (other, Self::Plain("null_type")) => match other {
                Self::Plain(name) => name.contains('.') || *name == "null_type",
                _ => true,
            },
            (Self::Plain(a), Self::Plain(b)) => a == b,
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a.meets(b),
            (Self::Map(a, c), Self::Map(b, d)) => a.meets(b) && c.meets(d),
            // A literal map may stand for an object.
            (Self::Map(keys, _), Self::Object(_)) | (Self::Object(_), Self::Map(keys, _)) => keys.is("string"),
            _ => false,
        }
    }

    /// The type of one of two values.
    pub(crate) fn either(self, other: Self) -> Self {
        match (self, other) {
            (Self::List(a), Self::List(b)) => Self::list(a.either(*b)),
            (Self::Optional(a), Self::Optional(b)) => Self::optional(a.either(*b)),
            (Self::Plain(a), Self::Plain(b)) if a == b => Self::Plain(a),
            (Self::Object(a), Self::Object(b)) if std::ptr::eq(a, b) => Self::Object(a),
            (Self::Map(a, c), Self::Map(b, d)) => Self::Map(Box::new(a.either(*b)), Box::new(c.either(*d))),
            _ => Self::Dyn,
        }
    }
}

impl fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Plain(name) => f.write_str(name),
            Self::List(items) => write!(f, "list({items})"),
            Self::Map(keys, values) => write!(f, "map({keys}, {values})"),
            Self::Object(_) => f.write_str("object"),
            Self::Optional(value) => write!(f, "optional_type({value})"),
        }
    }
}

/// Words of the language that a property may be called, too; it is then written `__namespace__`.
const RESERVED: [&str; 22] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
    "optional",
];

/// The property that an identifier of an expression means: `__dash__` is `-`, and so on.
pub(crate) fn unescaped(name: &str) -> String {
    if let Some(word) = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return word.to_owned();
    }
    let parts = [("__dot__", "."), ("__dash__", "-"), ("__slash__", "/"), ("__underscores__", "__")];
    let (mut out, mut rest) = (String::new(), name);
    'next: while !rest.is_empty() {
        for (escaped, plain) in parts {
            if let Some(after) = rest.strip_prefix(escaped) {
                out.push_str(plain);
                rest = after;
                continue 'next;
            }
        }
        let end = rest.chars().next().map_or(0, char::len_utf8);
        out.push_str(&rest[..end]);
        rest = &rest[end..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_identifiers_are_escaped() {
        for (escaped, name) in [
            ("replicas", "replicas"),
            ("__namespace__", "namespace"),
            ("x__dash__y__dot__z", "x-y.z"),
            ("a__slash__b", "a/b"),
            ("__underscores__x", "__x"),
            ("__other__", "__other__"),
        ] {
            assert_eq!(unescaped(escaped), name);
        }
    }
}
