//! Structural schemas: what a CustomResourceDefinition says about its objects' fields.
//!
//! For custom resources a [`Structural`] is what a message of the field table is for built-in ones: decoding, pruning,
//! defaults and server-side apply walk down it with the value. Unlike the table it also holds rules about values, in
//! `values` and `rules`. It refuses nothing itself: whether a schema is structural is checked when a definition is written
//! ([`crate::validate`]); what is not is read as if it were not there.

mod decode;
mod defaults;
mod rules;
mod values;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::limits::PATTERN_BYTES_MAX;
use crate::schema::ListType;

pub use decode::{check, check_applied};
pub(crate) use defaults::apply;
pub(crate) use rules::broken;
pub(crate) use values::causes;

/// What a value may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Whatever it is.
    #[default]
    Any,
    /// A map, or a struct of named properties.
    Object,
    /// A list.
    Array,
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// A whole number or text (`x-kubernetes-int-or-string`).
    IntOrString,
}

/// One place in a schema, with what stands below it.
#[derive(Clone, Debug, Default)]
pub struct Structural {
    /// What the value may be.
    pub kind: Kind,
    /// Named properties.
    pub properties: BTreeMap<String, Structural>,
    /// What every other property is, of a map.
    pub additional: Option<Box<Structural>>,
    /// What each item of a list is.
    pub items: Option<Box<Structural>>,
    /// Who owns what of a list.
    pub list: ListType,
    /// The keys of a [`ListType::Map`].
    pub keys: Vec<String>,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic: bool,
    /// Whether properties that the schema does not name stay.
    pub preserve: bool,
    /// Whether the value is an object of the API by itself, with `apiVersion`, `kind` and `metadata`. True of the root.
    pub embedded: bool,
    /// Whether null is a value.
    pub nullable: bool,
    /// What an absent property gets.
    pub default: Option<Value>,
    rules: Rules,
    validations: Vec<rules::Rule>,
    /// Whether it or anything below it has validations.
    ruled: bool,
}

/// What a value must be like besides its kind.
#[derive(Clone, Debug, Default)]
struct Rules {
    required: Vec<String>,
    allowed: Vec<Value>,
    format: String,
    pattern: Option<Regex>,
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    length: Bounds,
    items: Bounds,
    properties: Bounds,
    unique: bool,
    all_of: Vec<Structural>,
    any_of: Vec<Structural>,
    one_of: Vec<Structural>,
    not: Option<Box<Structural>>,
}

/// How many of something there may be.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    min: Option<u64>,
    max: Option<u64>,
}

impl Structural {
    /// The schema of whole objects: `spec.versions[].schema.openAPIV3Schema`.
    #[must_use]
    pub fn of_objects(schema: &Value) -> Self {
        Self { embedded: true, ..Self::read(schema) }
    }

    /// The same without its expressions: what those may look at.
    pub(crate) fn types_of_objects(schema: &Value) -> Self {
        Self { embedded: true, ..Self::read_types(schema) }
    }

    /// Reads a schema. Its depth is bounded by that of the definition it stands in.
    #[must_use]
    pub fn read(schema: &Value) -> Self {
        let mut read = Self::read_types(schema);
        read.compile(schema);
        read
    }

    /// Reads the expressions of a schema into what was read of it before.
    fn compile(&mut self, schema: &Value) {
        let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        self.validations = rules.map(rules::Rule::read).collect();
        let mut ruled = !self.validations.is_empty();
        for (name, property) in &mut self.properties {
            property.compile(&schema["properties"][name]);
            ruled |= property.ruled;
        }
        for (below, word) in [(&mut self.additional, "additionalProperties"), (&mut self.items, "items")] {
            if let Some(below) = below {
                below.compile(&schema[word]);
                ruled |= below.ruled;
            }
        }
        self.ruled = ruled;
    }

    /// Reads a schema without its expressions.
    #[must_use]
    pub(crate) fn read_types(schema: &Value) -> Self {
        let flag = |name: &str| schema[name] == true;
        let read_all = |name: &str| schema[name].as_array().into_iter().flatten().map(Self::read_types).collect();
        let properties = schema["properties"].as_object().into_iter().flatten();
        let additional = match &schema["additionalProperties"] {
            Value::Object(_) => Some(Box::new(Self::read_types(&schema["additionalProperties"]))),
            Value::Bool(true) => Some(Box::default()),
            _ => None,
        };
        let preserve = flag("x-kubernetes-preserve-unknown-fields");
        Self {
            kind: kind(schema),
            properties: properties.map(|(name, schema)| (name.clone(), Self::read_types(schema))).collect(),
            additional,
            items: schema["items"].as_object().map(|_| Box::new(Self::read_types(&schema["items"]))),
            list: match schema["x-kubernetes-list-type"].as_str() {
                Some("map") => ListType::Map,
                Some("set") => ListType::Set,
                _ => ListType::Atomic,
            },
            keys: texts(&schema["x-kubernetes-list-map-keys"]),
            atomic: schema["x-kubernetes-map-type"] == "atomic",
            preserve,
            embedded: flag("x-kubernetes-embedded-resource"),
            nullable: flag("nullable"),
            default: schema.get("default").cloned(),
            rules: Rules {
                required: texts(&schema["required"]),
                allowed: schema["enum"].as_array().cloned().unwrap_or_default(),
                format: schema["format"].as_str().unwrap_or_default().to_owned(),
                pattern: schema["pattern"].as_str().and_then(|text| pattern(text).ok()),
                minimum: schema["minimum"].as_f64().map(|bound| (bound, flag("exclusiveMinimum"))),
                maximum: schema["maximum"].as_f64().map(|bound| (bound, flag("exclusiveMaximum"))),
                multiple_of: schema["multipleOf"].as_f64().filter(|step| *step > 0.0),
                length: bounds(schema, "Length"),
                items: bounds(schema, "Items"),
                properties: bounds(schema, "Properties"),
                unique: flag("uniqueItems"),
                all_of: read_all("allOf"),
                any_of: read_all("anyOf"),
                one_of: read_all("oneOf"),
                not: schema["not"].as_object().map(|_| Box::new(Self::read_types(&schema["not"]))),
            },
            validations: Vec::new(),
            ruled: false,
        }
    }

    /// Whether expressions are part of what it asks.
    pub(crate) fn is_ruled(&self) -> bool {
        self.ruled
    }

    /// What the text of a value is: `date-time`, …; empty for plain text.
    pub(crate) fn format(&self) -> &str {
        &self.rules.format
    }

    /// What the schema says of a property; `None` where it says nothing.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// Whether an object may have a property that is none of the named ones.
    fn is_open(&self) -> bool {
        self.preserve || (self.kind == Kind::Any && self.properties.is_empty())
    }
}

/// Compiles a pattern.
///
/// # Errors
/// A sentence when it is no regular expression, or one that is too large.
pub fn pattern(text: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build().map_err(|error| error.to_string())
}

fn kind(schema: &Value) -> Kind {
    if schema["x-kubernetes-int-or-string"] == true {
        return Kind::IntOrString;
    }
    match schema["type"].as_str() {
        Some("object") => Kind::Object,
        Some("array") => Kind::Array,
        Some("string") => Kind::String,
        Some("integer") => Kind::Integer,
        Some("number") => Kind::Number,
        Some("boolean") => Kind::Boolean,
        _ => Kind::Any,
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn bounds(schema: &Value, what: &str) -> Bounds {
    Bounds { min: schema[format!("min{what}")].as_u64(), max: schema[format!("max{what}")].as_u64() }
}

#[cfg(test)]
mod tests;
