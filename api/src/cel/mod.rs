//! The Common Expression Language, as Kubernetes has it: rules in schemas, policies, match conditions.
//!
//! The grammar is the crate `cel`'s; what an expression *may* be ([`checker`]) and what it *is* ([`machine`]) are decided
//! here, because both need what that crate does not know: the schema of what is looked at, and a budget. Every step of an
//! evaluation is paid for, so that no expression that a user writes holds the server up or fills its memory. Numbers are
//! those of kube-apiserver (`k8s.io/apiserver/pkg/apis/cel`); its estimate of costs *before* anything runs is not made.
//!
//! Source: cel-spec, and `k8s.io/apiserver/pkg/cel` for the environment. [`functions`] says what may be called.

mod checker;
mod functions;
mod machine;
mod operators;
mod types;
mod value;

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::limits::{CEL_CALL_COST_MAX, CEL_DEPTH_MAX, CEL_OPERATORS_MAX, CEL_PATTERNS_MAX, CEL_SOURCE_BYTES_MAX};
use crate::structural;

pub(crate) use checker::check;
pub(crate) use types::Type;
pub(crate) use value::Val;

/// An expression whose grammar is right.
#[derive(Clone, Debug)]
pub struct Program {
    expression: cel::IdedExpr,
}

/// Why an evaluation gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// What was wrong, in cel-go's words: `no such key: colour`.
    Error(String),
    /// It cost more than one evaluation may.
    CallCost,
    /// All evaluations of the request together cost more than they may.
    TotalCost,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Error(message) => message,
            Self::CallCost => "operation cancelled: actual cost limit exceeded",
            Self::TotalCost => {
                "validation failed due to running out of cost budget, no further validation rules will be run"
            }
        })
    }
}

/// What evaluations may still cost, and what they have in common.
pub struct Run {
    call: u64,
    total: u64,
    patterns: HashMap<String, Regex>,
}

impl Run {
    /// A run of several evaluations that together may cost so much.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self { call: 0, total, patterns: HashMap::new() }
    }

    fn begin(&mut self) {
        self.call = CEL_CALL_COST_MAX;
    }

    /// Pays for a step.
    pub(crate) fn charge(&mut self, cost: u64) -> Result<(), Failure> {
        let (call, total) = (self.call.checked_sub(cost), self.total.checked_sub(cost));
        (self.call, self.total) = (call.unwrap_or(0), total.unwrap_or(0));
        match (call, total) {
            (Some(_), Some(_)) => Ok(()),
            (_, None) => Err(Failure::TotalCost),
            (None, _) => Err(Failure::CallCost),
        }
    }

    /// A compiled pattern; pays for making it and for running it over a text.
    pub(crate) fn pattern(&mut self, pattern: &str, text: &str) -> Result<&Regex, Failure> {
        self.charge((1 + pattern.len() as u64 / 4).saturating_mul(1 + text.len() as u64 / 10))?;
        if !self.patterns.contains_key(pattern) {
            // Making one costs far more than running it.
            self.charge(50 + 5 * pattern.len() as u64)?;
            if self.patterns.len() >= CEL_PATTERNS_MAX {
                self.patterns.clear();
            }
            let made = structural::pattern(pattern).map_err(Failure::Error)?;
            self.patterns.insert(pattern.to_owned(), made);
        }
        Ok(&self.patterns[pattern])
    }
}

/// What an expression may name.
#[derive(Clone, Default)]
pub struct Scope<'a> {
    names: Vec<(&'a str, Val<'a>)>,
    variables: &'a [(String, Program)],
}

impl<'a> Scope<'a> {
    /// With a name for a JSON value of no known schema.
    #[must_use]
    pub fn with(self, name: &'a str, value: &'a Value) -> Self {
        self.with_val(name, Val::of(value, None))
    }

    pub(crate) fn with_val(mut self, name: &'a str, value: Val<'a>) -> Self {
        self.names.push((name, value));
        self
    }

    /// With `variables.NAME`, evaluated when they are looked at; each may use those before it.
    #[must_use]
    pub fn with_variables(mut self, variables: &'a [(String, Program)]) -> Self {
        self.variables = variables;
        self
    }
}

impl Program {
    /// Reads an expression.
    ///
    /// # Errors
    /// A sentence, in cel-go's form where the grammar is wrong.
    pub fn parse(source: &str) -> Result<Self, String> {
        // Its macros are those of Kubernetes: the standard ones and those of optional values.
        static GRAMMAR: LazyLock<cel::Env> = LazyLock::new(cel::Env::stdlib);
        if source.len() > CEL_SOURCE_BYTES_MAX {
            return Err(format!("expression code point size exceeds limit: {CEL_SOURCE_BYTES_MAX}"));
        }
        // The parser goes into itself for every bracket and operator; a chain of operators is as deep as it is long.
        if source.bytes().filter(|byte| b"([{!?-+*/%&|<>=.".contains(byte)).count() > CEL_OPERATORS_MAX {
            return Err(format!("expression has more than {CEL_OPERATORS_MAX} operators"));
        }
        let expression = GRAMMAR.parser().parse(source).map_err(|errors| errors.to_string())?;
        if machine::is_deeper_than(&expression, CEL_DEPTH_MAX) {
            return Err(format!("expression is nested more than {CEL_DEPTH_MAX} deep"));
        }
        Ok(Self { expression })
    }

    /// Whether the expression looks at a name.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        machine::names(&self.expression, name)
    }

    /// What is wrong with the expression where only these names are known, of any type; `None` when nothing is. `wanted`
    /// is the type that it must make; any, when empty.
    #[must_use]
    pub fn problem(&self, names: &[&str], wanted: &str) -> Option<String> {
        let names: Vec<(&str, Type<'_>)> = names.iter().map(|name| (*name, Type::Dyn)).collect();
        match check(self, &names) {
            Ok(type_) if wanted.is_empty() || type_.is(wanted) => None,
            Ok(_) => Some(format!("must evaluate to {wanted}")),
            Err(problem) => Some(problem),
        }
    }

    pub(crate) fn evaluate<'a>(&'a self, scope: Scope<'a>, run: &mut Run) -> Result<Val<'a>, Failure> {
        run.begin();
        machine::evaluate(&self.expression, scope, run)
    }

    /// Evaluates a condition.
    ///
    /// # Errors
    /// When it fails, or is no condition.
    pub fn holds<'a>(&'a self, scope: Scope<'a>, run: &mut Run) -> Result<bool, Failure> {
        match self.evaluate(scope, run)? {
            Val::Bool(holds) => Ok(holds),
            other => Err(Failure::Error(format!("must evaluate to bool, not {}", other.type_name()))),
        }
    }

    /// Evaluates an expression that makes text.
    ///
    /// # Errors
    /// When it fails, or makes something else.
    pub fn text<'a>(&'a self, scope: Scope<'a>, run: &mut Run) -> Result<String, Failure> {
        match self.evaluate(scope, run)? {
            Val::String(text) => Ok(text.to_string()),
            other => Err(Failure::Error(format!("must evaluate to string, not {}", other.type_name()))),
        }
    }
}

#[cfg(test)]
mod tests;
