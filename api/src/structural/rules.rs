//! `x-kubernetes-validations`: rules about values that no keyword of a schema can say, as expressions.
//!
//! Source: KEP-2876 and `apiextensions-apiserver/pkg/apiserver/schema/cel`. A rule sees the value it stands at as `self`
//! and, where the old object has a value that is recognisably the same, `oldSelf`. A rule about a value that does not
//! change is not asked again (KEP-4008).

use serde_json::{Value, json};

use super::Structural;
use crate::cel::{Failure, Program, Run, Scope, Val};
use crate::limits::{CEL_MESSAGE_BYTES_MAX, CEL_TOTAL_COST_MAX};
use crate::schema::ListType;
use crate::status::Cause;

/// One rule. A definition whose expressions do not compile is refused, so none is without a program but by force.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    source: String,
    program: Option<Program>,
    message: String,
    message_program: Option<Program>,
    reason: String,
    /// Below the value it stands at: `.replicas`.
    field_path: String,
    /// Whether it looks at the old value, so that it means nothing without one.
    transition: bool,
    optional_old: bool,
}

impl Rule {
    pub(super) fn read(rule: &Value) -> Self {
        let text = |field: &str| rule[field].as_str().unwrap_or_default().trim().to_owned();
        let program = |source: &str| Program::parse(source).ok();
        let (source, message) = (text("rule"), text("messageExpression"));
        let compiled = program(&source);
        Self {
            transition: compiled.as_ref().is_some_and(|program| program.names("oldSelf")),
            program: compiled,
            message: text("message"),
            message_program: if message.is_empty() { None } else { program(&message) },
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old: rule["optionalOldSelf"] == true,
            source,
        }
    }

    /// What the rule is called where it fails.
    fn title(&self) -> &str {
        if self.message.is_empty() { &self.source } else { &self.message }
    }
}

/// Which rules an object breaks; `old` is the object that it replaces.
pub(crate) fn broken(object: &Value, old: Option<&Value>, schema: &Structural) -> Vec<Cause> {
    let mut judge = Judge { run: Run::new(CEL_TOTAL_COST_MAX), causes: Vec::new() };
    // What is over budget has said so already.
    let _ = judge.value(object, old, schema, "");
    judge.causes
}

struct Judge {
    run: Run,
    causes: Vec<Cause>,
}

/// Nothing more can be paid for.
struct Spent;

impl Judge {
    fn value(&mut self, value: &Value, old: Option<&Value>, schema: &Structural, path: &str) -> Result<(), Spent> {
        if !schema.ruled || value.is_null() {
            return Ok(());
        }
        for rule in &schema.validations {
            self.rule(rule, value, old, schema, path)?;
        }
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let own = schema.embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                    if let (false, Some(property)) = (own, schema.property(name)) {
                        let old = old.and_then(|old| old.get(name));
                        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        self.value(member, old, property, &path)?;
                    }
                }
            }
            Value::Array(items) => {
                let Some(of_items) = schema.items.as_deref() else { return Ok(()) };
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|old| before(item, old, schema));
                    self.value(item, old, of_items, &format!("{path}[{index}]"))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rule(
        &mut self,
        rule: &Rule,
        value: &Value,
        old: Option<&Value>,
        schema: &Structural,
        path: &str,
    ) -> Result<(), Spent> {
        let Some(program) = &rule.program else { return Ok(()) };
        let scope = Scope::default().with_val("self", Val::of(value, Some(schema)));
        let scope = match (rule.transition, old) {
            (true, old) if rule.optional_old => {
                let old = old.map_or(Val::Optional(None), |old| Val::some(Val::of(old, Some(schema))));
                scope.with_val("oldSelf", old)
            }
            (true, None) => return Ok(()),
            (true, Some(old)) => scope.with_val("oldSelf", Val::of(old, Some(schema))),
            (false, Some(old)) if old == value => return Ok(()),
            (false, _) => scope,
        };
        let failure = match program.holds(scope.clone(), &mut self.run) {
            Ok(true) => return Ok(()),
            Ok(false) => {
                let cause = self.told(rule, scope, schema, path);
                self.causes.push(cause);
                return Ok(());
            }
            Err(failure) => failure,
        };
        let title = rule.title();
        let detail = match &failure {
            Failure::TotalCost => failure.to_string(),
            Failure::CallCost => {
                format!(
                    "'call cost exceeds limit': no further validation rules will be run due to call cost exceeds limit for rule: {title}"
                )
            }
            Failure::Error(message) if message.starts_with("no such overload") => format!(
                "'{message}': call arguments did not match a supported operator, function or macro signature for rule: \
                 {title}"
            ),
            Failure::Error(message) => format!("{message} evaluating rule: {title}"),
        };
        self.causes.push(Cause::invalid(place(path), &json!(word(schema)), &detail));
        if matches!(failure, Failure::Error(_)) { Ok(()) } else { Err(Spent) }
    }

    /// What a broken rule says.
    fn told<'a>(&mut self, rule: &'a Rule, scope: Scope<'a>, schema: &Structural, path: &str) -> Cause {
        let made = rule.message_program.as_ref().and_then(|program| program.text(scope, &mut self.run).ok());
        let made = made.map(|text| text.trim().to_owned());
        let made = made.filter(|text| !text.is_empty() && !text.contains('\n') && text.len() <= CEL_MESSAGE_BYTES_MAX);
        let detail = made.unwrap_or_else(|| match rule.message.as_str() {
            "" => format!("failed rule: {}", rule.source),
            message => message.to_owned(),
        });
        let field = match (path, rule.field_path.strip_prefix('.')) {
            ("", Some(below)) => below.to_owned(),
            ("", None) if rule.field_path.is_empty() => place(path).to_owned(),
            _ => format!("{path}{}", rule.field_path),
        };
        match rule.reason.as_str() {
            "FieldValueRequired" => Cause::required(field, &detail),
            "FieldValueForbidden" => Cause::forbidden(field, &detail),
            "FieldValueDuplicate" => {
                let message = format!("Duplicate value: {:?}", word(schema));
                Cause { reason: "FieldValueDuplicate", message, field }
            }
            _ => Cause::invalid(field, &json!(word(schema)), &detail),
        }
    }
}

fn place(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

/// The schema's word for the kind of value, which upstream shows instead of the value.
fn word(schema: &Structural) -> &'static str {
    use super::Kind;
    match schema.kind {
        Kind::Any | Kind::IntOrString => "",
        Kind::Object => "object",
        Kind::Array => "array",
        Kind::String => "string",
        Kind::Integer => "integer",
        Kind::Number => "number",
        Kind::Boolean => "boolean",
    }
}

/// The item of an old list that is the same: only lists with keys tell.
fn before<'v>(item: &Value, old: &'v Value, schema: &Structural) -> Option<&'v Value> {
    if schema.list != ListType::Map {
        return None;
    }
    let same = |other: &&Value| schema.keys.iter().all(|key| other.get(key) == item.get(key));
    old.as_array()?.iter().find(same)
}
