//! The expressions in a definition's schemas: they compile, and say what they must.
//!
//! Source: `apiextensions-apiserver/pkg/apis/apiextensions/validation` (`ValidateCustomResourceDefinitionOpenAPISchema`,
//! the part about `x-kubernetes-validations`).

use serde_json::{Value, json};

use super::{Report, items, text};
use crate::cel::{self, Program, Type};
use crate::schema::ListType;
use crate::structural::Structural;

const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// Longest `message`, as upstream has it.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Checks the rules of a whole schema.
pub(super) fn check(schema: &Value, path: &str, report: &mut Report) {
    let read = Structural::types_of_objects(schema);
    check_below(schema, &read, path, None, report);
}

/// `lost` is the place below which nothing of the old object is recognised.
fn check_below(schema: &Value, read: &Structural, path: &str, lost: Option<&str>, report: &mut Report) {
    for (index, rule) in items(&schema["x-kubernetes-validations"]).enumerate() {
        check_rule(rule, read, &format!("{path}.x-kubernetes-validations[{index}]"), lost, report);
    }
    for (name, property) in &read.properties {
        // The types of these are the API's own.
        if !(read.embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata")) {
            let path = format!("{path}.properties[{name}]");
            check_below(&schema["properties"][name], property, &path, lost, report);
        }
    }
    if let Some(values) = &read.additional {
        let path = format!("{path}.additionalProperties");
        check_below(&schema["additionalProperties"], values, &path, lost, report);
    }
    if let Some(of_items) = &read.items {
        let lost = lost.or((read.list != ListType::Map).then_some(path));
        check_below(&schema["items"], of_items, &format!("{path}.items"), lost, report);
    }
}

fn check_rule(rule: &Value, read: &Structural, path: &str, lost: Option<&str>, report: &mut Report) {
    let source = text(rule, "rule").trim();
    check_words(rule, source, path, report);
    check_field_path(rule, read, path, report);
    if source.is_empty() {
        report.required(format!("{path}.rule"), "rule is not specified");
        return;
    }
    let Some(of_self) = Type::of(read) else {
        report.invalid(format!("{path}.rule"), &rule["rule"], "rules need a schema that says what the value is");
        return;
    };
    let of_old = match rule["optionalOldSelf"] == true {
        true => Type::optional(of_self.clone()),
        false => of_self.clone(),
    };
    let names = [("self", of_self), ("oldSelf", of_old)];
    let compiled = |field: &str, source: &str, wanted: &str, report: &mut Report| -> Option<Program> {
        let (field, given) = (format!("{path}.{field}"), &rule[field]);
        let program = match Program::parse(source) {
            Ok(program) => program,
            Err(problem) => {
                report.invalid(field, given, &format!("compilation failed: {problem}"));
                return None;
            }
        };
        match cel::check(&program, &names) {
            Err(problem) => report.invalid(field, given, &format!("compilation failed: ERROR: <input>: {problem}")),
            Ok(made) if !made.is(wanted) => {
                report.invalid(
                    field,
                    given,
                    &format!("compilation failed: cel expression must evaluate to a {wanted}"),
                );
            }
            Ok(_) => return Some(program),
        }
        None
    };
    let looks_back = compiled("rule", source, "bool", report).map(|program| program.names("oldSelf"));
    if let (Some(true), Some(place)) = (looks_back, lost) {
        let detail = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {place}");
        report.invalid(format!("{path}.rule"), &rule["rule"], &detail);
    }
    if looks_back == Some(false) && !rule["optionalOldSelf"].is_null() {
        let detail = "optionalOldSelf must not be set when oldSelf is not used in rule";
        report.invalid(format!("{path}.optionalOldSelf"), &rule["optionalOldSelf"], detail);
    }
    let message = text(rule, "messageExpression").trim();
    if !message.is_empty() {
        compiled("messageExpression", message, "string", report);
    }
}

fn check_words(rule: &Value, source: &str, path: &str, report: &mut Report) {
    let (field, message) = (format!("{path}.message"), text(rule, "message"));
    if rule["message"].is_string() && message.trim().is_empty() {
        report.invalid(field, &rule["message"], "message must be non-empty if specified");
    } else if message.trim().contains('\n') {
        report.invalid(field, &rule["message"], "message must not contain line breaks");
    } else if message.len() > MESSAGE_BYTES_MAX {
        report.too_long(field, MESSAGE_BYTES_MAX);
    } else if message.is_empty() && source.contains('\n') && text(rule, "messageExpression").is_empty() {
        report.required(field, "message must be specified if rule contains line breaks");
    }
    if rule["messageExpression"].is_string() && text(rule, "messageExpression").trim().is_empty() {
        let field = format!("{path}.messageExpression");
        report.required(field, "messageExpression must be non-empty if specified");
    }
    report.one_of(format!("{path}.reason"), &rule["reason"], &REASONS);
}

/// A field path goes down from the value, `.a.b` or `['a-b']`, along what the schema names.
fn check_field_path(rule: &Value, read: &Structural, path: &str, report: &mut Report) {
    let given = text(rule, "fieldPath");
    if !rule["fieldPath"].is_string() {
        return;
    }
    let field = format!("{path}.fieldPath");
    if given.trim().is_empty() {
        report.invalid(field, &rule["fieldPath"], "fieldPath must be non-empty if specified");
        return;
    }
    let (mut rest, mut at) = (given, read);
    while !rest.is_empty() {
        let step = if let Some(quoted) = rest.strip_prefix("['") {
            quoted.split_once("']")
        } else {
            rest.strip_prefix('.').map(|plain| plain.split_at(plain.find(['.', '[']).unwrap_or(plain.len())))
        };
        let below = step.and_then(|(name, rest)| Some((at.property(name)?, rest)));
        let Some((next, after)) = below else {
            let detail = format!("fieldPath must be a valid path: {given} does not refer to a valid field");
            report.invalid(field, &json!(given), &detail);
            return;
        };
        (at, rest) = (next, after);
    }
}
