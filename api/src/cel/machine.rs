//! Evaluates an expression. Every node costs one, whatever looks at text or lists costs by their size, and results that
//! grow are paid for before they are made.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators as op};

use super::functions;
use super::operators::{Outcome, binary, fail, index_into, optional, select_field};
use super::value::{List, Map, Val};
use super::{Failure, Program, Run, Scope};

pub(super) fn evaluate<'a>(expression: &'a IdedExpr, scope: Scope<'a>, run: &mut Run) -> Outcome<'a> {
    let known = scope.variables.iter().map(|_| None).collect();
    Machine { names: scope.names, variables: scope.variables, known, run }.value(expression)
}

/// The names of types, which are values, too.
pub(super) fn type_named(name: &str) -> Option<&'static str> {
    let known = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];
    known.into_iter().find(|known| *known == name)
}

struct Machine<'a, 'r> {
    /// Innermost last.
    names: Vec<(&'a str, Val<'a>)>,
    variables: &'a [(String, Program)],
    /// The variables that were looked at already.
    known: Vec<Option<Outcome<'a>>>,
    run: &'r mut Run,
}

impl<'a> Machine<'a, '_> {
    fn value(&mut self, expression: &'a IdedExpr) -> Outcome<'a> {
        self.run.charge(1)?;
        match &expression.expr {
            Expr::Literal(literal) => Ok(literal_value(literal)),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                if let (Expr::Ident(name), false) = (&select.operand.expr, self.variables.is_empty())
                    && name == "variables"
                {
                    return self.variable(&select.field, select.test);
                }
                let operand = self.value(&select.operand)?;
                select_field(operand, &select.field, select.test)
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                for (index, element) in list.elements.iter().enumerate() {
                    match (self.value(element)?, list.optional_indices.contains(&index)) {
                        (Val::Optional(None), true) => {}
                        (Val::Optional(Some(item)), true) => items.push((*item).clone()),
                        (item, _) => items.push(item),
                    }
                }
                self.run.charge(items.len() as u64)?;
                Ok(Val::List(List::made(items)))
            }
            Expr::Map(map) => self.map(&map.entries),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(_) | Expr::Unspecified => fail("no such overload"),
        }
    }

    fn name(&mut self, name: &'a str) -> Outcome<'a> {
        let plain = name.trim_start_matches('.');
        let found = self.names.iter().rev().find(|(known, _)| *known == plain);
        match found.map(|(_, value)| value.clone()).or_else(|| type_named(plain).map(Val::Type)) {
            Some(value) => Ok(value),
            None => fail(format!("no such attribute(s): {name}")),
        }
    }

    /// `variables.NAME`.
    fn variable(&mut self, name: &str, test: bool) -> Outcome<'a> {
        let Some(at) = self.variables.iter().position(|(known, _)| known == name) else {
            return if test { Ok(Val::Bool(false)) } else { fail(format!("no such key: {name}")) };
        };
        if test {
            return Ok(Val::Bool(true));
        }
        if let Some(known) = &self.known[at] {
            return known.clone();
        }
        // A variable sees those before it, and nothing of the expression that asks for it.
        let names = self.names.clone();
        let variables = self.variables;
        self.variables = &variables[..at];
        let found = self.value(&variables[at].1.expression);
        (self.names, self.variables) = (names, variables);
        self.known[at] = Some(found.clone());
        found
    }

    fn map(&mut self, entries: &'a [cel::common::ast::IdedEntryExpr]) -> Outcome<'a> {
        let mut made: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { return fail("no such overload") };
            let (key, value) = (self.value(&entry.key)?, self.value(&entry.value)?);
            self.run.charge(1 + made.len() as u64 / 10)?;
            if made.iter().any(|(known, _)| known.equals(&key)) {
                return fail("Failed with repeated key");
            }
            match (value, entry.optional) {
                (Val::Optional(None), true) => {}
                (Val::Optional(Some(value)), true) => made.push((key, (*value).clone())),
                (value, _) => made.push((key, value)),
            }
        }
        Ok(Val::Map(Map::Made(made.into())))
    }

    fn call(&mut self, call: &'a CallExpr) -> Outcome<'a> {
        match (call.func_name.as_str(), &call.args[..]) {
            (op::CONDITIONAL, [condition, yes, no]) => match self.value(condition)? {
                Val::Bool(true) => self.value(yes),
                Val::Bool(false) => self.value(no),
                _ => fail("no such overload"),
            },
            (op::LOGICAL_AND, [a, b]) => self.logical(a, b, false),
            (op::LOGICAL_OR, [a, b]) => self.logical(a, b, true),
            (op::LOGICAL_NOT, [a]) => match self.value(a)? {
                Val::Bool(is) => Ok(Val::Bool(!is)),
                _ => fail("no such overload"),
            },
            (op::NOT_STRICTLY_FALSE, [a]) => match self.value(a) {
                Ok(Val::Bool(is)) => Ok(Val::Bool(is)),
                Ok(_) | Err(Failure::Error(_)) => Ok(Val::Bool(true)),
                Err(cost) => Err(cost),
            },
            (op::NEGATE, [a]) => match self.value(a)? {
                Val::Int(number) => number.checked_neg().map_or_else(|| fail("integer overflow"), |n| Ok(Val::Int(n))),
                Val::Double(number) => Ok(Val::Double(-number)),
                Val::Duration(nanos) => {
                    nanos.checked_neg().map_or_else(|| fail("duration overflow"), |n| Ok(Val::Duration(n)))
                }
                _ => fail("no such overload"),
            },
            (op::OPT_SELECT, [operand, field]) => {
                let (operand, field) = (self.value(operand)?, self.value(field)?);
                optional(operand, |value| match (&value, &field) {
                    (Val::Map(map), Val::String(name)) => map.get(name),
                    _ => None,
                })
            }
            (op::OPT_INDEX, [operand, index]) => {
                let (operand, index) = (self.value(operand)?, self.value(index)?);
                optional(operand, |value| index_into(value, &index).ok())
            }
            (name, [a, b]) if call.target.is_none() && !name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                let (a, b) = (self.value(a)?, self.value(b)?);
                binary(self.run, name, &a, &b)
            }
            _ => self.function(call),
        }
    }

    /// `&&` and `||`: one operand that decides makes the other's failure forgotten.
    fn logical(&mut self, a: &'a IdedExpr, b: &'a IdedExpr, deciding: bool) -> Outcome<'a> {
        let a = match self.value(a) {
            Ok(Val::Bool(is)) if is == deciding => return Ok(Val::Bool(is)),
            Ok(Val::Bool(_)) => Ok(()),
            Ok(_) => Err(Failure::Error("no such overload".into())),
            Err(failure @ Failure::Error(_)) => Err(failure),
            Err(cost) => return Err(cost),
        };
        match (self.value(b), a) {
            (Ok(Val::Bool(is)), _) if is == deciding => Ok(Val::Bool(is)),
            (_, Err(failure)) | (Err(failure), _) => Err(failure),
            (Ok(Val::Bool(is)), Ok(())) => Ok(Val::Bool(is)),
            (Ok(_), Ok(())) => fail("no such overload"),
        }
    }

    fn function(&mut self, call: &'a CallExpr) -> Outcome<'a> {
        let mut args = Vec::with_capacity(call.args.len() + 1);
        let (mut name, mut member) = (call.func_name.clone(), false);
        match &call.target {
            None => {}
            Some(target) => match &target.expr {
                // `sets.contains(a, b)` is the function of that name, unless somebody is called `sets`.
                Expr::Ident(space) if !self.names.iter().any(|(known, _)| known == space) => {
                    name = format!("{space}.{name}");
                }
                _ => {
                    args.push(self.value(target)?);
                    member = true;
                }
            },
        }
        for arg in &call.args {
            args.push(self.value(arg)?);
        }
        let fits = |row: &&&functions::Function| {
            row.member == member
                && row.args.len() == args.len()
                && row.args.iter().zip(&args).all(|(kind, arg)| kind.takes(arg))
        };
        let Some(row) = functions::named(&name).iter().find(fits) else {
            return fail(format!("no such overload: {name}"));
        };
        // Most functions look at all of a text.
        self.run.charge(args.iter().map(|arg| if matches!(arg, Val::String(_)) { arg.weight() } else { 0 }).sum())?;
        (row.call)(self.run, &args)
    }

    fn comprehension(&mut self, comprehension: &'a ComprehensionExpr) -> Outcome<'a> {
        let items = match self.value(&comprehension.iter_range)? {
            Val::List(list) => list,
            Val::Map(map) => {
                self.run.charge(map.len() as u64)?;
                List::made(map.keys())
            }
            _ => return fail("no such overload"),
        };
        if let Some((predicate, deciding)) = quantifier(comprehension) {
            return self.quantified(&items, &comprehension.iter_var, predicate, deciding);
        }
        if let Some((condition, item)) = collector(comprehension) {
            return self.collected(&items, &comprehension.iter_var, condition, item);
        }
        let mut accumulator = self.value(&comprehension.accu_init)?;
        for item in items.iter() {
            self.names.push((&comprehension.accu_var, accumulator));
            self.names.push((&comprehension.iter_var, item));
            let goes_on = self.value(&comprehension.loop_cond);
            let step = self.value(&comprehension.loop_step);
            self.names.pop();
            accumulator = self.names.pop().map_or(Val::Null, |(_, value)| value);
            if !matches!(goes_on?, Val::Bool(true)) {
                break;
            }
            accumulator = step?;
        }
        self.names.push((&comprehension.accu_var, accumulator));
        let result = self.value(&comprehension.result);
        self.names.pop();
        result
    }

    fn with(&mut self, name: &'a str, item: Val<'a>, expression: &'a IdedExpr) -> Outcome<'a> {
        self.names.push((name, item));
        let value = self.value(expression);
        self.names.pop();
        value
    }

    /// `all` and `exists`: the first item that decides ends it, and an item that failed counts only if none does.
    fn quantified(&mut self, items: &List<'a>, name: &'a str, of: &'a IdedExpr, deciding: bool) -> Outcome<'a> {
        let mut failure = None;
        for item in items.iter() {
            match self.with(name, item, of) {
                Ok(Val::Bool(is)) if is == deciding => return Ok(Val::Bool(is)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => failure = Some(Failure::Error("no such overload".into())),
                Err(error @ Failure::Error(_)) => failure = Some(error),
                Err(cost) => return Err(cost),
            }
        }
        failure.map_or(Ok(Val::Bool(!deciding)), Err)
    }

    /// `map` and `filter`.
    fn collected(
        &mut self,
        items: &List<'a>,
        name: &'a str,
        condition: Option<&'a IdedExpr>,
        of: &'a IdedExpr,
    ) -> Outcome<'a> {
        let mut made = Vec::new();
        for item in items.iter() {
            if let Some(condition) = condition {
                match self.with(name, item.clone(), condition)? {
                    Val::Bool(true) => {}
                    Val::Bool(false) => continue,
                    _ => return fail("no such overload"),
                }
            }
            made.push(self.with(name, item, of)?);
        }
        Ok(Val::List(List::made(made)))
    }
}

/// What `all` and `exists` ask of every item, and which answer decides.
fn quantifier(comprehension: &ComprehensionExpr) -> Option<(&IdedExpr, bool)> {
    let Expr::Call(step) = &comprehension.loop_step.expr else { return None };
    let ([accumulated, predicate], Expr::Literal(LiteralValue::Boolean(_))) =
        (&step.args[..], &comprehension.accu_init.expr)
    else {
        return None;
    };
    let deciding = match step.func_name.as_str() {
        op::LOGICAL_AND => false,
        op::LOGICAL_OR => true,
        _ => return None,
    };
    is_name(accumulated, &comprehension.accu_var).then_some((predicate, deciding))
}

/// The condition and the item of `map` and `filter`, which put items into a list one after the other.
pub(super) fn collector(comprehension: &ComprehensionExpr) -> Option<(Option<&IdedExpr>, &IdedExpr)> {
    let Expr::List(start) = &comprehension.accu_init.expr else { return None };
    if !start.elements.is_empty() {
        return None;
    }
    match &comprehension.loop_step.expr {
        Expr::Call(call) if call.func_name == op::CONDITIONAL => match &call.args[..] {
            [condition, yes, no] if is_name(no, &comprehension.accu_var) => {
                Some((Some(condition), one_more(yes, &comprehension.accu_var)?))
            }
            _ => None,
        },
        _ => Some((None, one_more(&comprehension.loop_step, &comprehension.accu_var)?)),
    }
}

/// The item of `accumulator + [item]`.
fn one_more<'e>(step: &'e IdedExpr, accumulator: &str) -> Option<&'e IdedExpr> {
    let Expr::Call(call) = &step.expr else { return None };
    let ([list, item], op::ADD) = (&call.args[..], call.func_name.as_str()) else { return None };
    let Expr::List(one) = &item.expr else { return None };
    let plain = one.elements.len() == 1 && one.optional_indices.is_empty();
    (plain && is_name(list, accumulator)).then(|| &one.elements[0])
}

fn is_name(expression: &IdedExpr, name: &str) -> bool {
    matches!(&expression.expr, Expr::Ident(is) if is == name)
}

fn literal_value(literal: &LiteralValue) -> Val<'_> {
    match literal {
        LiteralValue::Boolean(is) => Val::Bool(*is.inner()),
        LiteralValue::Bytes(bytes) => Val::Bytes(bytes.inner().into()),
        LiteralValue::Double(number) => Val::Double(*number.inner()),
        LiteralValue::Int(number) => Val::Int(*number.inner()),
        LiteralValue::Null => Val::Null,
        LiteralValue::String(text) => Val::text(text.inner()),
        LiteralValue::UInt(number) => Val::Uint(*number.inner()),
    }
}

/// The expressions right below one.
pub(super) fn below(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(all) => {
            vec![&all.iter_range, &all.accu_init, &all.loop_cond, &all.loop_step, &all.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Struct(made) => made.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

pub(super) fn is_deeper_than(expression: &IdedExpr, depth: usize) -> bool {
    depth == 0 || below(expression).into_iter().any(|part| is_deeper_than(part, depth - 1))
}

pub(super) fn names(expression: &IdedExpr, name: &str) -> bool {
    is_name(expression, name) || below(expression).into_iter().any(|part| names(part, name))
}
