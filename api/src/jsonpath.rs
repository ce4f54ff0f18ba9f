//! The simple JSONPaths of printer columns, scale subresources and selectable fields: names, list positions, `[*]` and
//! the one filter that conditions are looked up with (`[?(@.type=="Ready")]`). Nothing else of the language.

use serde_json::Value;

/// One step down.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(usize),
    Every,
    Where(Vec<String>, Value),
}

/// A path such as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Reads a path; `None` when it is none or uses more of the language than this.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim().trim_start_matches('$');
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let (step, after) = bracket(after)?;
                steps.push(step);
                rest = after;
            } else {
                let (name, after) = word(rest.strip_prefix('.')?);
                if !name.is_empty() {
                    steps.push(if name == "*" { Step::Every } else { Step::Field(name) });
                } else if !after.starts_with('[') {
                    return None;
                }
                rest = after;
            }
        }
        (!steps.is_empty()).then_some(Self(steps))
    }

    /// The names of a path that is nothing but names: `["spec", "replicas"]`.
    #[must_use]
    pub fn names(&self) -> Option<Vec<&str>> {
        let mut names = Vec::with_capacity(self.0.len());
        for step in &self.0 {
            let Step::Field(name) = step else { return None };
            names.push(name.as_str());
        }
        Some(names)
    }

    /// Everything the path leads to, in order.
    #[must_use]
    pub fn all<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| below(value, step)).collect();
        }
        found
    }

    /// The first thing the path leads to.
    #[must_use]
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.all(value).first().copied()
    }
}

fn below<'v>(value: &'v Value, step: &Step) -> Vec<&'v Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => value.get(index).into_iter().collect(),
        Step::Every => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(members) => members.values().collect(),
            _ => Vec::new(),
        },
        Step::Where(path, wanted) => {
            let holds = |item: &&Value| path.iter().try_fold(*item, |item, name| item.get(name)) == Some(wanted);
            value.as_array().into_iter().flatten().filter(holds).collect()
        }
    }
}

/// A name up to the next `.` or `[`; a backslash makes the next character part of it.
fn word(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, character)) = chars.next() {
        match character {
            '\\' => name.extend(chars.next().map(|(_, next)| next)),
            '.' | '[' => return (name, &text[at..]),
            _ => name.push(character),
        }
    }
    (name, "")
}

/// What stands between brackets, and what follows.
fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(filter) = text.strip_prefix("?(@.") {
        let (condition, after) = filter.split_once(")]")?;
        let (path, wanted) = condition.split_once("==")?;
        let path = path.trim().split('.').map(str::to_owned).collect();
        return Some((Step::Where(path, literal(wanted.trim())?), after));
    }
    if let Some(quote) = text.chars().next().filter(|quote| matches!(quote, '\'' | '"')) {
        let (name, after) = text[1..].split_once(quote)?;
        return Some((Step::Field(name.replace('\\', "")), after.strip_prefix(']')?));
    }
    let (inside, after) = text.split_once(']')?;
    let step = if inside == "*" { Step::Every } else { Step::Index(inside.parse().ok()?) };
    Some((step, after))
}

fn literal(text: &str) -> Option<Value> {
    let quoted = |quote| text.strip_prefix(quote).and_then(|text: &str| text.strip_suffix(quote));
    match quoted('"').or_else(|| quoted('\'')) {
        Some(inside) => Some(Value::String(inside.to_owned())),
        None => serde_json::from_str(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_leads_somewhere() {
        let value = json!({
            "spec": {"replicas": 3, "ports": [{"port": 80}, {"port": 443}]},
            "metadata": {"labels": {"app.io/name": "web"}},
            "status": {"conditions": [{"type": "Old", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let cases = [
            (".spec.replicas", json!([3])),
            ("$.spec.replicas", json!([3])),
            (".spec.ports[1].port", json!([443])),
            (".spec.ports[*].port", json!([80, 443])),
            (r".metadata.labels.app\.io/name", json!(["web"])),
            (".metadata.labels['app.io/name']", json!(["web"])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type == 'Gone')].status", json!([])),
            (".spec.nothing.at.all", json!([])),
        ];
        for (path, expected) in cases {
            let found = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(json!(found.all(&value)), expected, "{path}");
        }
        for path in ["", "spec", ".spec[", ".spec[x]", "..", ".a[?(@.b)]"] {
            assert_eq!(JsonPath::parse(path), None, "{path}");
        }
        assert_eq!(JsonPath::parse(".a.b").unwrap().names(), Some(vec!["a", "b"]));
        assert_eq!(JsonPath::parse(".a[0]").unwrap().names(), None);
    }
}
