//! Label and field selectors: which objects a list, a watch or a controller is about.
//!
//! Source: `k8s.io/apimachinery/pkg/labels`, `pkg/fields`. A selector is decided on values, never on typed objects.

use std::fmt;

use serde_json::Value;

use crate::kinds::Resource;
use crate::status::Status;

/// How one requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label is there and its value is one of these.
    In,
    /// The label is absent or its value is none of these.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label is a whole number above this one (node affinity).
    Gt,
    /// The label is a whole number below this one (node affinity).
    Lt,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what; empty for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

impl Requirement {
    /// Reads `{key, operator, values}` of a label selector or of node affinity; `None` when it is malformed.
    #[must_use]
    pub fn from_value(value: &Value) -> Option<Self> {
        let operator = match value["operator"].as_str()? {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => return None,
        };
        let values = value["values"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        let (key, values) = (value["key"].as_str()?.to_owned(), values.collect::<Vec<_>>());
        let fits = match operator {
            Operator::In | Operator::NotIn => !values.is_empty(),
            Operator::Exists | Operator::DoesNotExist => values.is_empty(),
            Operator::Gt | Operator::Lt => values.len() == 1 && values[0].parse::<i64>().is_ok(),
        };
        fits.then_some(Self { key, operator, values })
    }

    /// Whether a label of this value (`None`: absent) satisfies it.
    #[must_use]
    pub fn allows(&self, label: Option<&str>) -> bool {
        let listed = || label.is_some_and(|label| self.values.iter().any(|value| value == label));
        let numbers = || Some((label?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::Gt => numbers().is_some_and(|(label, bound)| label > bound),
            Operator::Lt => numbers().is_some_and(|(label, bound)| label < bound),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, values, .. } = self;
        match (self.operator, values.as_slice()) {
            (Operator::In, [value]) => write!(f, "{key}={value}"),
            (Operator::NotIn, [value]) => write!(f, "{key}!={value}"),
            (Operator::In, values) => write!(f, "{key} in ({})", values.join(",")),
            (Operator::NotIn, values) => write!(f, "{key} notin ({})", values.join(",")),
            (Operator::Exists, _) => f.write_str(key),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::Gt, values) => write!(f, "{key}>{}", values.join(",")),
            (Operator::Lt, values) => write!(f, "{key}<{}", values.join(",")),
        }
    }
}

/// Every requirement must hold; without requirements everything matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { requirements: Vec::new(), nothing: false }
    }

    /// Matches nothing: what an absent `metav1.LabelSelector` means.
    #[must_use]
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k` as it stands in a query.
    ///
    /// # Errors
    /// 400 in the words of the label parser when it is malformed.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let requirements = split(text).into_iter().map(|part| requirement(part.trim())).collect::<Option<Vec<_>>>();
        let malformed =
            || Status::bad_request(format!("unable to parse requirement: {text:?} is not a label selector"));
        Ok(Self { requirements: requirements.ok_or_else(malformed)?, nothing: false })
    }

    /// Reads a `metav1.LabelSelector`, or a plain map of labels as Services have it (`{"app": "web"}` under no key).
    /// Null matches nothing, `{}` matches everything; a malformed one matches nothing.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        if !value.is_object() {
            return Self::nothing();
        }
        let mut selector = Self::from_labels(&value["matchLabels"]);
        for entry in value["matchExpressions"].as_array().into_iter().flatten() {
            match Requirement::from_value(entry) {
                Some(requirement) => selector.requirements.push(requirement),
                None => return Self::nothing(),
            }
        }
        selector
    }

    /// Every label of this map must be equal: a Service's or ReplicationController's `spec.selector`.
    #[must_use]
    pub fn from_labels(labels: &Value) -> Self {
        let labels = labels.as_object().into_iter().flatten();
        let equals = labels.map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        });
        Self { requirements: equals.collect(), nothing: false }
    }

    /// Whether an object with these labels (`metadata.labels`, may be null) is meant.
    #[must_use]
    pub fn matches(&self, labels: &Value) -> bool {
        !self.nothing && self.requirements.iter().all(|one| one.allows(labels.get(&one.key).and_then(Value::as_str)))
    }

    /// Whether it matches everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Its requirements.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

/// The spelling that [`LabelSelector::parse`] reads; how a Scale's `status.selector` is written.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        f.write_str(&parts.join(","))
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, character) in text.char_indices() {
        match character {
            '(' => inside = true,
            ')' => inside = false,
            ',' if !inside => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    if parts.len() == 1 && parts[0].trim().is_empty() { Vec::new() } else { parts }
}

fn requirement(text: &str) -> Option<Requirement> {
    let make = |key: &str, operator, values: Vec<&str>| {
        let fits = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
        let values = values.into_iter().map(|value| value.trim().to_owned()).collect();
        fits.then(|| Requirement { key: key.to_owned(), operator, values })
    };
    if let Some(key) = text.strip_prefix('!') {
        return make(key.trim(), Operator::DoesNotExist, Vec::new());
    }
    if let Some(list) = text.strip_suffix(')') {
        let (head, list) = list.split_once('(')?;
        let (key, word) = head.trim().rsplit_once(char::is_whitespace)?;
        let operator = match word {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            _ => return None,
        };
        return make(key.trim(), operator, list.split(',').collect());
    }
    for (sign, operator) in [("!=", Operator::NotIn), ("==", Operator::In), ("=", Operator::In)] {
        if let Some((key, value)) = text.split_once(sign) {
            let plain = !value.contains(['=', '!', '(', ')']) && !value.trim().contains(char::is_whitespace);
            return plain.then(|| make(key.trim(), operator, vec![value])).flatten();
        }
    }
    for (sign, operator) in [(">", Operator::Gt), ("<", Operator::Lt)] {
        if let Some((key, value)) = text.split_once(sign) {
            value.trim().parse::<i64>().ok()?;
            return make(key.trim(), operator, vec![value]);
        }
    }
    make(text, Operator::Exists, Vec::new())
}

/// Conditions on fields, all of which must hold: `spec.nodeName=n1,status.phase!=Failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

/// What an absent field that is no text counts as.
const ZERO: &[(&str, &str)] = &[
    ("spec.hostNetwork", "false"),
    ("spec.unschedulable", "false"),
    ("status.replicas", "0"),
    ("status.successful", "0"),
];

impl FieldSelector {
    /// Reads a selector as it stands in a query.
    ///
    /// # Errors
    /// 400 when a term has no `=`.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut terms = Vec::new();
        for term in terms_of(text) {
            let cut = term.split_once("!=").map(|(path, value)| (path, false, value));
            let cut = cut.or_else(|| term.split_once("==").map(|(path, value)| (path, true, value)));
            let cut = cut.or_else(|| term.split_once('=').map(|(path, value)| (path, true, value)));
            let (path, equal, value) = cut
                .ok_or_else(|| Status::bad_request(format!("invalid selector: {text:?}; can't understand {term:?}")))?;
            terms.push((path.to_owned(), equal, unescape(value)));
        }
        Ok(Self { terms })
    }

    /// Refuses fields that the resource cannot be selected by.
    ///
    /// # Errors
    /// 400 `field label not supported`.
    pub fn check(&self, resource: &Resource) -> Result<(), Status> {
        for (path, ..) in &self.terms {
            let known = matches!(path.as_str(), "metadata.name" | "metadata.namespace");
            if !known && !resource.selectable_fields.contains(path) {
                return Err(Status::bad_request(format!("field label not supported: {path}")));
            }
        }
        Ok(())
    }

    /// Whether an object is meant.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|(path, equal, value)| (read(object, path) == *value) == *equal)
    }

    /// Whether it matches everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value a field must be equal to, if the selector says so: how `metadata.name=x` becomes a single read.
    #[must_use]
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|(at, equal, _)| at == path && *equal).map(|(.., value)| value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spell =
            |(path, equal, value): &(String, bool, String)| format!("{path}{}{value}", if *equal { "=" } else { "!=" });
        f.write_str(&self.terms.iter().map(spell).collect::<Vec<_>>().join(","))
    }
}

/// Splits at commas that no backslash escapes.
fn terms_of(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        out.push(if character == '\\' { characters.next().unwrap_or('\\') } else { character });
    }
    out
}

/// The text of a selectable field; an Event's `source` is its component, `status.podIPs` the first address.
fn read(object: &Value, path: &str) -> String {
    let value = path.split('.').fold(object, |value, name| &value[name]);
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Object(source) => source.get("component").and_then(Value::as_str).unwrap_or_default().to_owned(),
        Value::Array(items) => items.first().map_or_else(String::new, |item| read(item, "ip")),
        Value::Null => ZERO.iter().find(|(field, _)| *field == path).map_or("", |(_, zero)| zero).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use serde_json::json;

    #[test]
    fn labels() {
        let labels = json!({"app": "web", "tier": "front", "cores": "4"});
        for (text, expected) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (a, web)", true),
            ("app notin (a,b),tier", true),
            ("x notin (a)", true),
            ("x in (a)", false),
            ("cores>3", true),
            ("cores<4", false),
            ("x=", false),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&labels), expected, "{text}");
        }
        for bad in ["=", "a in", "a in b", "a=b=c", "a b", "a,,b", "a like (b)", "cores>x", "a!"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
        assert!(LabelSelector::parse("!a").unwrap().matches(&Value::Null));
    }

    #[test]
    fn label_selectors_as_objects() {
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["back"]}, {"key": "x", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_value(&selector);
        assert_eq!(selector.to_string(), "app=web,tier!=back,!x");
        assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        assert!(selector.matches(&json!({"app": "web"})));
        assert!(!selector.matches(&json!({"app": "web", "tier": "back"})));
        assert!(LabelSelector::from_value(&json!({})).matches(&Value::Null));
        assert!(!LabelSelector::from_value(&Value::Null).matches(&json!({"a": "b"})));
        assert!(
            !LabelSelector::from_value(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]}))
                .matches(&json!({"a": "b"}))
        );
    }

    #[test]
    fn fields() {
        let pod = json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        for (text, expected) in [
            ("", true),
            ("metadata.name=a", true),
            ("spec.nodeName=n1,status.phase!=Succeeded,status.phase!=Failed", true),
            ("status.phase==Running", true),
            ("spec.nodeName=", false),
            ("spec.hostNetwork=false", true),
            ("status.podIP=", true),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(&pod), expected, "{text}");
        }
        assert!(FieldSelector::parse("metadata.name").is_err());
        let event = json!({"source": {"component": "kubelet"}, "reason": "a,b"});
        assert!(FieldSelector::parse(r"source=kubelet,reason=a\,b").unwrap().matches(&event));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let catalog = Catalog::builtin();
        let pods = catalog.by_name("pods").unwrap();
        assert!(FieldSelector::parse("spec.nodeName=x,metadata.name=y").unwrap().check(pods).is_ok());
        let refusal = FieldSelector::parse("spec.foo=x").unwrap().check(pods).unwrap_err();
        assert_eq!(refusal.message, "field label not supported: spec.foo");
    }
}
