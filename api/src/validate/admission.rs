//! The rules of ValidatingAdmissionPolicies and their bindings: what they match, and that their expressions compile.
//!
//! Source: `pkg/apis/admissionregistration/validation`.

use serde_json::Value;

use super::{Report, items, names, text};
use crate::cel::Program;

const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

pub(super) fn check(name: &str, object: &Value, report: &mut Report) {
    let spec = &object["spec"];
    match name {
        "validatingadmissionpolicies.admissionregistration.k8s.io" => policy(spec, report),
        "validatingadmissionpolicybindings.admissionregistration.k8s.io" => binding(spec, report),
        _ => {}
    }
}

fn policy(spec: &Value, report: &mut Report) {
    let mut known = vec!["object", "oldObject", "request", "namespaceObject"];
    if spec["paramKind"].is_object() {
        known.push("params");
        report.present("spec.paramKind.apiVersion", &spec["paramKind"]["apiVersion"]);
        report.present("spec.paramKind.kind", &spec["paramKind"]["kind"]);
    }
    report.one_of("spec.failurePolicy", &spec["failurePolicy"], &["Fail", "Ignore"]);
    if spec["matchConstraints"].is_null() {
        report.required("spec.matchConstraints", "");
    } else if items(&spec["matchConstraints"]["resourceRules"]).next().is_none() {
        report.required("spec.matchConstraints.resourceRules", "");
    }
    rules(&spec["matchConstraints"], "spec.matchConstraints", report);
    for (index, condition) in items(&spec["matchConditions"]).enumerate() {
        let field = format!("spec.matchConditions[{index}]");
        report.present(format!("{field}.name"), &condition["name"]);
        report.named_if(&format!("{field}.name"), &condition["name"], names::qualified);
        expression(condition, &format!("{field}.expression"), &known, "bool", report);
    }
    report.unique("spec.matchConditions", &spec["matchConditions"], "name");
    known.push("variables");
    for (index, variable) in items(&spec["variables"]).enumerate() {
        let field = format!("spec.variables[{index}]");
        let name = text(variable, "name");
        if name.is_empty() {
            report.required(format!("{field}.name"), "name is not specified");
        } else if !name
            .bytes()
            .enumerate()
            .all(|(at, byte)| byte == b'_' || byte.is_ascii_alphabetic() || at > 0 && byte.is_ascii_digit())
        {
            report.invalid(format!("{field}.name"), &variable["name"], "name is not a valid CEL identifier");
        }
        expression(variable, &format!("{field}.expression"), &known, "", report);
    }
    report.unique("spec.variables", &spec["variables"], "name");
    let audited = items(&spec["auditAnnotations"]).next().is_some();
    if items(&spec["validations"]).next().is_none() && !audited {
        report.required("spec.validations", "validations or auditAnnotations must contain at least one item");
    }
    for (index, validation) in items(&spec["validations"]).enumerate() {
        let field = format!("spec.validations[{index}]");
        expression(validation, &format!("{field}.expression"), &known, "bool", report);
        report.one_of(format!("{field}.reason"), &validation["reason"], &REASONS);
        if text(validation, "message").trim().contains('\n') {
            report.invalid(format!("{field}.message"), &validation["message"], "message must not contain line breaks");
        }
        let made = format!("{field}.messageExpression");
        if !text(validation, "messageExpression").is_empty() {
            let source = &validation["messageExpression"];
            compiled(source, &made, &known, "string", report);
        }
    }
}

fn expression(of: &Value, field: &str, known: &[&str], wanted: &str, report: &mut Report) {
    if text(of, "expression").trim().is_empty() {
        report.required(field, "expression is not specified");
    } else {
        compiled(&of["expression"], field, known, wanted, report);
    }
}

fn compiled(source: &Value, field: &str, known: &[&str], wanted: &str, report: &mut Report) {
    let problem = match Program::parse(source.as_str().unwrap_or_default().trim()) {
        Ok(program) => program.problem(known, wanted).map(|problem| format!("ERROR: <input>: {problem}")),
        Err(problem) => Some(problem),
    };
    if let Some(problem) = problem {
        report.invalid(field, source, &format!("compilation failed: {problem}"));
    }
}

/// `NamedRuleWithOperations`, in both lists.
fn rules(of: &Value, field: &str, report: &mut Report) {
    for list in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in items(&of[list]).enumerate() {
            let field = format!("{field}.{list}[{index}]");
            for part in ["apiGroups", "apiVersions", "operations", "resources"] {
                if items(&rule[part]).next().is_none() {
                    report.required(format!("{field}.{part}"), "");
                }
            }
            for (at, operation) in items(&rule["operations"]).enumerate() {
                let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
                report.one_of(format!("{field}.operations[{at}]"), operation, &known);
            }
            report.one_of(format!("{field}.scope"), &rule["scope"], &["*", "Cluster", "Namespaced"]);
        }
    }
    report.one_of(format!("{field}.matchPolicy"), &of["matchPolicy"], &["Equivalent", "Exact"]);
    for selector in ["namespaceSelector", "objectSelector"] {
        report.selector(&format!("{field}.{selector}"), &of[selector]);
    }
}

fn binding(spec: &Value, report: &mut Report) {
    report.present("spec.policyName", &spec["policyName"]);
    report.named_if("spec.policyName", &spec["policyName"], names::subdomain);
    rules(&spec["matchResources"], "spec.matchResources", report);
    let actions: Vec<&Value> = items(&spec["validationActions"]).collect();
    if actions.is_empty() {
        report.required("spec.validationActions", "at least one validation action is required");
    }
    for (index, action) in actions.iter().enumerate() {
        report.one_of(format!("spec.validationActions[{index}]"), action, &["Audit", "Deny", "Warn"]);
        if actions[..index].contains(action) {
            report.duplicate(format!("spec.validationActions[{index}]"), action);
        }
    }
    if actions.iter().any(|action| **action == "Deny") && actions.iter().any(|action| **action == "Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the \
                      API response and headers serves no purpose)";
        report.invalid("spec.validationActions", &spec["validationActions"], detail);
    }
    let reference = &spec["paramRef"];
    if reference.is_object() {
        match (text(reference, "name").is_empty(), reference["selector"].is_null()) {
            (true, true) => report.required("spec.paramRef", "one of name or selector must be specified"),
            (false, false) => report.forbidden("spec.paramRef.name", "name and selector are mutually exclusive"),
            _ => {}
        }
        let action = &reference["parameterNotFoundAction"];
        report.present("spec.paramRef.parameterNotFoundAction", action);
        report.one_of("spec.paramRef.parameterNotFoundAction", action, &["Allow", "Deny"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(name: &str, spec: &Value) -> Vec<String> {
        let mut report = Report::default();
        check(&format!("{name}.admissionregistration.k8s.io"), &json!({"spec": spec}), &mut report);
        report.0.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn a_policy_must_compile() {
        let policy = |expression: &str| {
            told(
                "validatingadmissionpolicies",
                &json!({
                    "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
                        "operations": ["CREATE"], "resources": ["deployments"]}]},
                    "validations": [{"expression": expression}],
                }),
            )
        };
        assert_eq!(policy("object.spec.replicas <= 5 && request.operation == 'CREATE'"), [""; 0]);
        let field = "spec.validations[0].expression: Invalid value:";
        assert_eq!(
            policy("params.x == 1"),
            [format!(
                "{field} \"params.x == 1\": compilation failed: ERROR: <input>: undeclared reference to 'params' (in container '')"
            )]
        );
        assert_eq!(
            policy("1 + 1"),
            [format!("{field} \"1 + 1\": compilation failed: ERROR: <input>: must evaluate to bool")]
        );
        assert!(policy("object.spec.")[0].contains("Syntax error"), "{:?}", policy("object.spec."));
        let empty = told("validatingadmissionpolicies", &json!({}));
        assert!(empty.iter().any(|told| told.starts_with("spec.validations: Required value")), "{empty:?}");
    }

    #[test]
    fn a_binding_says_what_becomes_of_failures() {
        let binding = |actions: Value| {
            told("validatingadmissionpolicybindings", &json!({"policyName": "p", "validationActions": actions}))
        };
        assert_eq!(binding(json!(["Deny", "Audit"])), [""; 0]);
        assert!(binding(json!(["Deny", "Warn"]))[0].contains("must not contain both Deny and Warn"));
        assert!(binding(json!(["Shout"]))[0].contains("Unsupported value"));
        assert_eq!(
            binding(json!([])),
            ["spec.validationActions: Required value: at least one validation action is required"]
        );
    }
}
