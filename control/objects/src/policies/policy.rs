//! A policy with its expressions compiled: once per version of it.

use api::cel::Program;
use serde::Deserialize;
use serde_json::Value;

/// See [`super`].
#[derive(Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Policy {
    pub(super) param_kind: Value,
    pub(super) constraints: Value,
    /// `failurePolicy: Fail`: an expression that cannot be evaluated counts as broken.
    pub(super) fails: bool,
    pub(super) variables: Vec<(String, Program)>,
    /// By name.
    pub(super) conditions: Vec<(String, Program)>,
    pub(super) validations: Vec<Validation>,
}

/// One expression that must hold.
pub(super) struct Validation {
    pub(super) source: String,
    pub(super) program: Program,
    pub(super) message: String,
    pub(super) message_program: Option<Program>,
    pub(super) reason: String,
}

/// Fails when an expression does not compile, which is refused when a policy is written.
impl TryFrom<Value> for Policy {
    type Error = String;

    fn try_from(object: Value) -> Result<Self, String> {
        let spec = &object["spec"];
        let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
        let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().trim().to_owned();
        let named = |field: &str| -> Result<Vec<(String, Program)>, String> {
            list(field).iter().map(|one| Ok((text(one, "name"), Program::parse(&text(one, "expression"))?))).collect()
        };
        let validation = |one: &Value| -> Result<Validation, String> {
            let (source, message) = (text(one, "expression"), text(one, "messageExpression"));
            Ok(Validation {
                program: Program::parse(&source)?,
                source,
                message: text(one, "message"),
                message_program: if message.is_empty() { None } else { Some(Program::parse(&message)?) },
                reason: text(one, "reason"),
            })
        };
        Ok(Self {
            param_kind: spec["paramKind"].clone(),
            constraints: spec["matchConstraints"].clone(),
            fails: spec["failurePolicy"] != "Ignore",
            variables: named("variables")?,
            conditions: named("matchConditions")?,
            validations: list("validations").iter().map(validation).collect::<Result<_, _>>()?,
        })
    }
}
