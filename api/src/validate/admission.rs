//! The rules of ValidatingAdmissionPolicies and their bindings, and of webhooks: what they match, whom they ask, and that
//! their expressions compile.
//!
//! Source: `pkg/apis/admissionregistration/validation`.

use serde_json::{Value, json};

use super::{Report, items, names, text};
use crate::cel::Program;
use crate::status::Cause;

/// As upstream bounds them.
const CONDITIONS_MAX: usize = 64;

const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

pub(super) fn check(name: &str, object: &Value, report: &mut Report) {
    let spec = &object["spec"];
    match name {
        "validatingadmissionpolicies.admissionregistration.k8s.io" => policy(spec, report),
        "validatingadmissionpolicybindings.admissionregistration.k8s.io" => binding(spec, report),
        "mutatingwebhookconfigurations.admissionregistration.k8s.io"
        | "validatingwebhookconfigurations.admissionregistration.k8s.io" => webhooks(&object["webhooks"], report),
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
    conditions(spec, "spec", &known, report);
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

fn conditions(of: &Value, field: &str, known: &[&str], report: &mut Report) {
    let list = format!("{field}.matchConditions");
    for (index, condition) in items(&of["matchConditions"]).enumerate() {
        let field = format!("{list}[{index}]");
        report.present(format!("{field}.name"), &condition["name"]);
        report.named_if(&format!("{field}.name"), &condition["name"], names::qualified);
        expression(condition, &format!("{field}.expression"), known, "bool", report);
    }
    if items(&of["matchConditions"]).count() > CONDITIONS_MAX {
        report.0.push(Cause {
            reason: "FieldValueTooMany",
            message: format!("Too many: must have at most {CONDITIONS_MAX} items"),
            field: list.clone(),
        });
    }
    report.unique(&list, &of["matchConditions"], "name");
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
            one_rule(rule, &format!("{field}.{list}[{index}]"), report);
        }
    }
    report.one_of(format!("{field}.matchPolicy"), &of["matchPolicy"], &["Equivalent", "Exact"]);
    for selector in ["namespaceSelector", "objectSelector"] {
        report.selector(&format!("{field}.{selector}"), &of[selector]);
    }
}

/// `RuleWithOperations`.
fn one_rule(rule: &Value, field: &str, report: &mut Report) {
    for part in ["apiGroups", "apiVersions", "operations", "resources"] {
        if items(&rule[part]).next().is_none() {
            report.required(format!("{field}.{part}"), "");
        }
    }
    for (at, operation) in items(&rule["operations"]).enumerate() {
        let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        report.one_of(format!("{field}.operations[{at}]"), operation, &known);
    }
    for (part, word) in [("apiGroups", "API groups"), ("apiVersions", "API versions"), ("operations", "operations")] {
        if items(&rule[part]).any(|one| one == "*") && items(&rule[part]).count() > 1 {
            let detail = format!("if '*' is present, must not specify other {word}");
            report.invalid(format!("{field}.{part}"), &rule[part], &detail);
        }
    }
    report.one_of(format!("{field}.scope"), &rule["scope"], &["*", "Cluster", "Namespaced"]);
}

/// The list of a Mutating- or a ValidatingWebhookConfiguration.
fn webhooks(list: &Value, report: &mut Report) {
    for (index, hook) in items(list).enumerate() {
        let field = format!("webhooks[{index}]");
        let name = text(hook, "name");
        report.present(format!("{field}.name"), &hook["name"]);
        report.named_if(&format!("{field}.name"), &hook["name"], names::subdomain);
        if !name.is_empty() && name.split('.').count() < 3 {
            let detail = "should be a domain with at least three segments separated by dots";
            report.invalid(format!("{field}.name"), &hook["name"], detail);
        }
        for (index, rule) in items(&hook["rules"]).enumerate() {
            one_rule(rule, &format!("{field}.rules[{index}]"), report);
        }
        report.one_of(format!("{field}.failurePolicy"), &hook["failurePolicy"], &["Fail", "Ignore"]);
        report.one_of(format!("{field}.matchPolicy"), &hook["matchPolicy"], &["Equivalent", "Exact"]);
        report.one_of(format!("{field}.reinvocationPolicy"), &hook["reinvocationPolicy"], &["IfNeeded", "Never"]);
        if hook["sideEffects"].is_null() {
            report.required(format!("{field}.sideEffects"), "must specify one of None, NoneOnDryRun");
        }
        report.one_of(format!("{field}.sideEffects"), &hook["sideEffects"], &["None", "NoneOnDryRun"]);
        if hook["timeoutSeconds"].as_i64().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
            let detail = "the timeout value must be between 1 and 30 seconds";
            report.invalid(format!("{field}.timeoutSeconds"), &hook["timeoutSeconds"], detail);
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            report.selector(&format!("{field}.{selector}"), &hook[selector]);
        }
        let versions = &hook["admissionReviewVersions"];
        if items(versions).next().is_none() {
            report.required(format!("{field}.admissionReviewVersions"), "must specify one of v1, v1beta1");
        } else if !items(versions).any(|version| version == "v1" || version == "v1beta1") {
            let detail = "must include at least one of v1, v1beta1";
            report.invalid(format!("{field}.admissionReviewVersions"), versions, detail);
        }
        conditions(hook, &field, &["object", "oldObject", "request"], report);
        client(&hook["clientConfig"], &format!("{field}.clientConfig"), report);
    }
    report.unique("webhooks", list, "name");
}

/// `WebhookClientConfig`.
fn client(config: &Value, field: &str, report: &mut Report) {
    let service = &config["service"];
    match (config["url"].as_str(), service.is_object()) {
        (Some(url), false) => url_of(url, &format!("{field}.url"), report),
        (None, true) => {
            for part in ["name", "namespace"] {
                if text(service, part).is_empty() {
                    report.required(format!("{field}.service.{part}"), &format!("service {part} is required"));
                }
            }
            if !service["port"].is_null() {
                report.port(format!("{field}.service.port"), &service["port"]);
            }
            let path = text(service, "path");
            if !path.is_empty() && (!path.starts_with('/') || path.contains(['?', '#'])) {
                report.invalid(format!("{field}.service.path"), &service["path"], "must start with a '/'");
            }
        }
        _ => report.required(field, "exactly one of url or service is required"),
    }
}

fn url_of(url: &str, field: &str, report: &mut Report) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut wrong = |why: &str| report.invalid(field, &json!(url), &format!("{why}{FORM}"));
    let Some(rest) = url.strip_prefix("https://") else {
        wrong("'https' is the only allowed URL scheme");
        return;
    };
    let (host, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    if host.is_empty() {
        wrong("host must be specified");
    }
    if host.contains('@') {
        wrong("user information is not permitted in the URL");
    }
    if path.contains('#') {
        wrong("fragments are not permitted in the URL");
    }
    if path.contains('?') {
        wrong("query parameters are not permitted in the URL");
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

    /// What is said of a webhook with one field set to something else.
    fn webhook(field: &str, value: Value) -> String {
        let mut hook = json!({
            "name": "labels.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://hooks.example.com/labels"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        });
        hook[field] = value;
        let mut report = Report::default();
        check("mutatingwebhookconfigurations.admissionregistration.k8s.io", &json!({"webhooks": [hook]}), &mut report);
        let told = report.0.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message));
        told.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_webhook_says_whom_to_ask_about_what() {
        assert_eq!(webhook("name", json!("labels.example.com")), "");
        for (field, value, expected) in [
            (
                "name",
                json!("labels"),
                "webhooks[0].name: Invalid value: \"labels\": should be a domain with at least three \
                segments separated by dots",
            ),
            (
                "sideEffects",
                Value::Null,
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ),
            (
                "sideEffects",
                json!("Some"),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \
                \"None\", \"NoneOnDryRun\"",
            ),
            (
                "timeoutSeconds",
                json!(31),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between \
                1 and 30 seconds",
            ),
            (
                "admissionReviewVersions",
                json!(["v2"]),
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must \
                include at least one of v1, v1beta1",
            ),
            (
                "clientConfig",
                json!({}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                "clientConfig",
                json!({"url": "http://x"}),
                "webhooks[0].clientConfig.url: Invalid value: \"http://x\": 'https' \
                is the only allowed URL scheme; desired format: https://host[/path]",
            ),
            (
                "clientConfig",
                json!({"service": {"name": "x"}}),
                "webhooks[0].clientConfig.service.namespace: Required value: \
                service namespace is required",
            ),
            (
                "matchConditions",
                json!([{"name": "x", "expression": "1"}]),
                "webhooks[0].matchConditions[0].expression: \
                Invalid value: \"1\": compilation failed: ERROR: <input>: must evaluate to bool",
            ),
            (
                "rules",
                json!([{"apiGroups": ["*", "apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["x"]}]),
                "webhooks[0].rules[0].apiGroups: Invalid value: [\"*\",\"apps\"]: if '*' is present, must not specify other \
                API groups",
            ),
        ] {
            assert_eq!(webhook(field, value), expected);
        }
    }
}
