//! ValidatingAdmissionPolicies: what users forbid of any object, as expressions. Pure but for the audit line.
//!
//! Source: KEP-3488 and `k8s.io/apiserver/pkg/admission/plugin/policy/validating`. A binding brings a policy, perhaps a
//! parameter object, and what becomes of a failure: `Deny`, `Warn`, `Audit`. Policies and bindings themselves are never
//! judged. The expressions see `object`, `oldObject`, `request`, `params`, `namespaceObject` and `variables`; there is no
//! `authorizer`.

mod policy;

use api::cel::{Failure, Run, Scope};
use api::limits::CEL_TOTAL_COST_MAX;
use api::selector::LabelSelector;
use api::{Catalog, Cause, Object, Status, View, custom::DEFINITIONS, meta};
use serde_json::Value;

use crate::asked::{Asked, Decided, home};
use crate::door::Decision;
use crate::plan::Request;
use policy::{Policy, Validation};

const POLICIES: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";
const BINDINGS: &str = "validatingadmissionpolicybindings.admissionregistration.k8s.io";

/// Lets a decision pass, or refuses it. `warnings` gets what bindings warn of.
pub(crate) fn judge(
    view: &View,
    request: &Request<'_>,
    deletes: bool,
    decision: &Decision,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    warnings.clear();
    let is_exempt = request.resource.group == "admissionregistration.k8s.io";
    if view.count(BINDINGS) == 0 || is_exempt || matches!(decision, Decision::Keep(_)) {
        return Ok(());
    }
    let decided = Decided::of(decision, deletes);
    let asked = decided.asked(request);
    let told = Told { request: asked.told(request.resource), namespace: home(view, request) };
    for binding in view.list(BINDINGS) {
        asked.bound(view, binding, &told, warnings)?;
    }
    Ok(())
}

/// What every policy is told besides the objects.
struct Told {
    request: Value,
    namespace: Value,
}

/// What came of one validation.
enum Finding<'p> {
    Holds,
    Broken { validation: Option<&'p Validation>, message: String },
}

impl Asked<'_> {
    fn bound(&self, view: &View, binding: &Object, told: &Told, warnings: &mut Vec<String>) -> Result<(), Status> {
        let name = binding.field("spec.policyName").as_str().unwrap_or_default();
        let Some(policy) = view.get(POLICIES, "", name).and_then(|policy| policy.typed::<Policy>()) else {
            return Ok(());
        };
        let matches = |rules: &Value| self.is_matched(rules, &told.namespace);
        if !matches(&policy.constraints) || !matches(binding.field("spec.matchResources")) {
            return Ok(());
        }
        let mut run = Run::new(CEL_TOTAL_COST_MAX);
        let findings = match self.params(view, &policy, binding) {
            Ok(all) => {
                let each = all.iter().flat_map(|params| self.findings(&policy, params, told, &mut run));
                each.collect::<Vec<Finding<'_>>>()
            }
            Err(message) if policy.fails => vec![Finding::Broken { validation: None, message }],
            Err(_) => Vec::new(),
        };
        for finding in findings {
            let Finding::Broken { validation, message } = finding else { continue };
            let actions = binding.field("spec.validationActions").as_array().into_iter().flatten();
            for action in actions.filter_map(Value::as_str) {
                match action {
                    "Deny" => return Err(self.denied(name, binding.name(), validation, &message)),
                    "Warn" => warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{}': {message}",
                        binding.name()
                    )),
                    _ => tracing::info!(
                        target: "audit", policy = name, binding = binding.name(), resource = &*self.request.resource.name,
                        namespace = self.request.namespace, name = self.name, message, "a policy was broken",
                    ),
                }
            }
        }
        Ok(())
    }

    /// The parameter objects that the policy is asked with; one that is null where it takes none.
    fn params(&self, view: &View, policy: &Policy, binding: &Object) -> Result<Vec<Value>, String> {
        let reference = binding.field("spec.paramRef");
        if policy.param_kind.is_null() || reference.is_null() {
            return Ok(vec![Value::Null]);
        }
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let Some((resource, namespaced)) = kind(view, &policy.param_kind) else {
            return Err(format!("failed to find resource referenced by paramKind: '{}'", policy.param_kind));
        };
        let home = match (namespaced, text("namespace")) {
            (false, _) => "",
            (true, "") => self.request.namespace,
            (true, home) => home,
        };
        let selector = LabelSelector::from_value(&reference["selector"]);
        let wanted = |object: &&std::sync::Arc<Object>| match text("name") {
            "" => selector.matches(meta::labels(&object.value)),
            name => object.name() == name,
        };
        let found: Vec<Value> =
            view.list_in(&resource, home).filter(wanted).map(|object| object.value.clone()).collect();
        match (found.is_empty(), text("parameterNotFoundAction")) {
            (true, "Allow") => Ok(Vec::new()),
            (true, _) => Err("no params found for policy binding with `Deny` parameterNotFoundAction".into()),
            _ => Ok(found),
        }
    }

    fn findings<'p>(&self, policy: &'p Policy, params: &Value, told: &Told, run: &mut Run) -> Vec<Finding<'p>> {
        let scope = |told| scope(self, policy, params, told);
        let broken = |message: String| vec![Finding::Broken { validation: None, message }];
        for (name, condition) in &policy.conditions {
            match condition.holds(scope(told), run) {
                Ok(true) => {}
                Ok(false) => return Vec::new(),
                Err(failure) if policy.fails => {
                    return broken(format!("match condition '{name}' resulted in error: {failure}"));
                }
                Err(_) => return Vec::new(),
            }
        }
        let one = |validation: &'p Validation| -> Finding<'p> {
            match validation.program.holds(scope(told), run) {
                Ok(true) => Finding::Holds,
                Ok(false) => {
                    let made = validation.message_program.as_ref().map(|program| program.text(scope(told), run));
                    let message = match made {
                        Some(Ok(message)) if is_sentence(&message) => message.trim().to_owned(),
                        _ if !validation.message.is_empty() => validation.message.clone(),
                        _ => format!("failed expression: {}", validation.source),
                    };
                    Finding::Broken { validation: Some(validation), message }
                }
                Err(failure) if policy.fails => {
                    let message = match failure {
                        Failure::Error(why) => format!("expression '{}' resulted in error: {why}", validation.source),
                        spent => spent.to_string(),
                    };
                    Finding::Broken { validation: Some(validation), message }
                }
                Err(_) => Finding::Holds,
            }
        };
        policy.validations.iter().map(one).collect()
    }

    fn denied(&self, policy: &str, binding: &str, validation: Option<&Validation>, message: &str) -> Status {
        let why = format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}");
        let mut status = Status::forbidden(&self.request.resource.name, self.name, &why);
        (status.code, status.reason) = match validation.map(|validation| &*validation.reason) {
            Some("Unauthorized") => (401, "Unauthorized"),
            Some("Forbidden") => (403, "Forbidden"),
            Some("RequestEntityTooLarge") => (413, "RequestEntityTooLarge"),
            _ => (422, "Invalid"),
        };
        status.causes.push(Cause { reason: "", message: why, field: String::new() });
        status
    }
}

/// Whether an expression's message can be shown.
fn is_sentence(message: &str) -> bool {
    !message.trim().is_empty() && !message.trim().contains('\n')
}

fn scope<'a>(asked: &'a Asked<'a>, policy: &'a Policy, params: &'a Value, told: &'a Told) -> Scope<'a> {
    Scope::default()
        .with("object", asked.object)
        .with("oldObject", asked.old)
        .with("request", &told.request)
        .with("params", params)
        .with("namespaceObject", &told.namespace)
        .with_variables(&policy.variables)
}

/// The resource of a kind of parameters, and whether it lives in namespaces.
fn kind(view: &View, of: &Value) -> Option<(String, bool)> {
    let (api_version, kind) = (of["apiVersion"].as_str()?, of["kind"].as_str()?);
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let catalog = Catalog::builtin();
    if let Some(row) = catalog.iter().find(|row| row.group == group && row.kind == kind) {
        return Some((row.name.to_string(), row.namespaced));
    }
    let is = |definition: &&std::sync::Arc<Object>| {
        definition.field("spec.group") == group && definition.field("spec.names.kind") == kind
    };
    let found = view.list(DEFINITIONS).find(is)?;
    Some((found.name().to_owned(), found.field("spec.scope") == "Namespaced"))
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "tables of literals read better without borrows")]
mod tests;
