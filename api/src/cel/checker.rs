//! What an expression makes, before anything is evaluated; and what is wrong with it, in cel-go's words.
//!
//! Where nothing is known of a value its type is `dyn` and everything goes; the machine finds out later.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr, operators as op};

use super::types::{BOOL, BYTES, DOUBLE, DURATION, INT, NULL, STRING, TIMESTAMP, Type, UINT, property, unescaped};
use super::{Program, functions, machine};

/// The type of an expression over these names.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check<'s>(program: &'s Program, names: &[(&'s str, Type<'s>)]) -> Result<Type<'s>, String> {
    Checker { names: names.to_vec() }.of(&program.expression)
}

struct Checker<'s> {
    /// Innermost last.
    names: Vec<(&'s str, Type<'s>)>,
}

type Found<'s> = Result<Type<'s>, String>;

impl<'s> Checker<'s> {
    fn of(&mut self, expression: &'s IdedExpr) -> Found<'s> {
        match &expression.expr {
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(_) => BOOL,
                LiteralValue::Bytes(_) => BYTES,
                LiteralValue::Double(_) => DOUBLE,
                LiteralValue::Int(_) => INT,
                LiteralValue::Null => NULL,
                LiteralValue::String(_) => STRING,
                LiteralValue::UInt(_) => UINT,
            }),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                let mut items: Option<Type<'s>> = None;
                for (index, element) in list.elements.iter().enumerate() {
                    let item = match (self.of(element)?, list.optional_indices.contains(&index)) {
                        (Type::Optional(item), true) => *item,
                        (item, _) => item,
                    };
                    items = Some(items.map_or_else(|| item.clone(), |known| known.either(item.clone())));
                }
                Ok(Type::list(items.unwrap_or(Type::Dyn)))
            }
            Expr::Map(map) => {
                let mut types: Option<(Type<'s>, Type<'s>)> = None;
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    let (key, value) = (self.of(&entry.key)?, self.of(&entry.value)?);
                    types = Some(match types {
                        Some((keys, values)) => (keys.either(key), values.either(value)),
                        None => (key, value),
                    });
                }
                let (keys, values) = types.unwrap_or((Type::Dyn, Type::Dyn));
                Ok(Type::Map(Box::new(keys), Box::new(values)))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(made) => Err(format!("undeclared reference to '{}' (in container '')", made.type_name)),
            Expr::Unspecified => Err("an expression is missing".into()),
        }
    }

    fn name(&self, name: &str) -> Found<'s> {
        let plain = name.trim_start_matches('.');
        let found = self.names.iter().rev().find(|(known, _)| *known == plain).map(|(_, type_)| type_.clone());
        let found = found.or_else(|| machine::type_named(plain).map(|_| Type::Plain("type")));
        found.ok_or_else(|| undeclared(name))
    }

    fn select(&mut self, select: &'s SelectExpr) -> Found<'s> {
        let operand = self.of(&select.operand)?;
        let found = field(&operand, &select.field)?;
        Ok(if select.test { BOOL } else { found })
    }

    fn call(&mut self, call: &'s CallExpr) -> Found<'s> {
        if let (op::CONDITIONAL, [condition, yes, no]) = (call.func_name.as_str(), &call.args[..]) {
            let types = [self.of(condition)?, self.of(yes)?, self.of(no)?];
            if !types[0].is("bool") || !types[1].meets(&types[2]) {
                return Err(mismatch(op::CONDITIONAL, &types, false));
            }
            let [_, yes, no] = types;
            return Ok(yes.either(no));
        }
        if let (op::OPT_SELECT, [operand, name]) = (call.func_name.as_str(), &call.args[..]) {
            let Expr::Literal(LiteralValue::String(name)) = &name.expr else { return Ok(Type::Dyn) };
            let found = match self.of(operand)? {
                Type::Optional(inside) => field(&inside, name.inner())?,
                operand => field(&operand, name.inner())?,
            };
            return Ok(match found {
                already @ Type::Optional(_) => already,
                found => Type::optional(found),
            });
        }
        let mut args = Vec::with_capacity(call.args.len() + 1);
        let (mut name, mut member) = (call.func_name.clone(), false);
        match call.target.as_deref().map(|target| (target, &target.expr)) {
            None => {}
            Some((_, Expr::Ident(space))) if !self.names.iter().any(|(known, _)| known == space) => {
                name = format!("{space}.{name}");
            }
            Some((target, _)) => {
                args.push(self.of(target)?);
                member = true;
            }
        }
        for arg in &call.args {
            args.push(self.of(arg)?);
        }
        if let Some(found) = operator(&name, &args) {
            return found.ok_or_else(|| mismatch(&name, &args, false));
        }
        let rows = functions::named(&name);
        if rows.is_empty() {
            return Err(match (call.target.as_deref().map(|target| &target.expr), member) {
                // `hosts.size()` of nobody called `hosts`.
                (Some(Expr::Ident(space)), false) if functions::named(&call.func_name).iter().any(|row| row.member) => {
                    undeclared(space)
                }
                _ => undeclared(&call.func_name),
            });
        }
        let mut fitting = rows.iter().filter(|row| {
            row.member == member
                && row.args.len() == args.len()
                && row.args.iter().zip(&args).all(|(kind, arg)| kind.may_take(arg))
        });
        let Some(first) = fitting.next() else { return Err(mismatch(&name, &args, member)) };
        let gives = first.gives.type_of(&args);
        Ok(if fitting.all(|other| other.gives == first.gives) { gives } else { Type::Dyn })
    }

    fn comprehension(&mut self, comprehension: &'s ComprehensionExpr) -> Found<'s> {
        let item = match self.of(&comprehension.iter_range)? {
            Type::List(item) => *item,
            Type::Map(keys, _) => *keys,
            Type::Dyn => Type::Dyn,
            other => {
                return Err(format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                ));
            }
        };
        let depth = self.names.len();
        if let Some((condition, made)) = machine::collector(comprehension) {
            self.names.push((&comprehension.iter_var, item));
            let condition = condition.map_or(Ok(BOOL), |condition| self.of(condition));
            let result = condition.and_then(|condition| match condition.is("bool") {
                true => self.of(made).map(Type::list),
                false => Err(mismatch(op::CONDITIONAL, &[condition], false)),
            });
            self.names.truncate(depth);
            return result;
        }
        let start = self.of(&comprehension.accu_init)?;
        self.names.push((&comprehension.accu_var, start.clone()));
        self.names.push((&comprehension.iter_var, item));
        let result =
            self.of(&comprehension.loop_cond).and_then(|_| self.of(&comprehension.loop_step)).and_then(|step| {
                if !step.meets(&start) {
                    return Err(mismatch(op::CONDITIONAL, &[step, start.clone()], false));
                }
                self.of(&comprehension.result)
            });
        self.names.truncate(depth);
        result
    }
}

fn undeclared(name: &str) -> String {
    format!("undeclared reference to '{name}' (in container '')")
}

fn mismatch(name: &str, args: &[Type<'_>], member: bool) -> String {
    let names: Vec<String> = args.iter().map(ToString::to_string).collect();
    let applied = match (member, names.split_first()) {
        (true, Some((target, rest))) => format!("{target}.({})", rest.join(", ")),
        _ => format!("({})", names.join(", ")),
    };
    format!("found no matching overload for '{name}' applied to '{applied}'")
}

fn field<'s>(operand: &Type<'s>, name: &str) -> Found<'s> {
    match operand {
        Type::Dyn => Ok(Type::Dyn),
        Type::Map(_, values) => Ok((**values).clone()),
        Type::Optional(inside) => Ok(Type::optional(field(inside, name)?)),
        Type::Object(schema) => {
            let found = property(schema, name).or_else(|| property(schema, &unescaped(name)));
            found.and_then(Type::of).ok_or_else(|| format!("undefined field '{name}'"))
        }
        other => Err(format!("type '{other}' does not support field selection")),
    }
}

/// The type an operator makes; the inner `None` is a mismatch, the outer one no operator.
fn operator<'s>(name: &str, args: &[Type<'s>]) -> Option<Option<Type<'s>>> {
    let fits = |holds: bool, gives: Type<'s>| Some(holds.then_some(gives));
    match (name, args) {
        (op::LOGICAL_AND | op::LOGICAL_OR, [a, b]) => fits(a.is("bool") && b.is("bool"), BOOL),
        (op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, [a]) => fits(a.is("bool"), BOOL),
        (op::NEGATE, [a]) => fits(a.is("int") || a.is("double") || a.is("google.protobuf.Duration"), a.clone()),
        (op::EQUALS | op::NOT_EQUALS, [a, b]) => fits(a.meets(b), BOOL),
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
            let ordered = ["bool", "string", "bytes", "google.protobuf.Duration", "google.protobuf.Timestamp"];
            let same = ordered.iter().any(|name| a.is(name) && b.is(name));
            fits(same || a.is_number() && b.is_number(), BOOL)
        }
        (op::IN, [a, Type::List(items)]) => fits(a.meets(items), BOOL),
        (op::IN, [a, Type::Map(keys, _)]) => fits(a.meets(keys), BOOL),
        (op::IN, [_, b]) => fits(matches!(b, Type::Dyn), BOOL),
        (op::INDEX, [a, b]) => Some(indexed(a, b)),
        (op::OPT_INDEX, [Type::Optional(a), b]) => Some(indexed(a, b).map(Type::optional)),
        (op::OPT_INDEX, [a, b]) => Some(indexed(a, b).map(Type::optional)),
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [a, b]) => Some(arithmetic(name, a, b)),
        _ => None,
    }
}

fn indexed<'s>(a: &Type<'s>, b: &Type<'s>) -> Option<Type<'s>> {
    match a {
        Type::Dyn => Some(Type::Dyn),
        Type::List(items) => b.is_number().then(|| (**items).clone()),
        Type::Map(keys, values) => b.meets(keys).then(|| (**values).clone()),
        Type::Optional(inside) => indexed(inside, b).map(Type::optional),
        _ => None,
    }
}

fn arithmetic<'s>(name: &str, a: &Type<'s>, b: &Type<'s>) -> Option<Type<'s>> {
    let (span, time) = ("google.protobuf.Duration", "google.protobuf.Timestamp");
    if matches!((a, b), (Type::Dyn, Type::Dyn)) {
        return Some(Type::Dyn);
    }
    let numbers = if name == op::MODULO { &["int", "uint"][..] } else { &["int", "uint", "double"] };
    if let Some(&number) = numbers.iter().find(|number| a.is(number) && b.is(number)) {
        // With one side unknown the other says what comes of it, unless it may be a time.
        return Some(Type::Plain(number));
    }
    match (name, a, b) {
        (op::ADD, Type::List(_), Type::List(_)) if a.meets(b) => Some(a.clone().either(b.clone())),
        (op::ADD, Type::List(_), Type::Dyn) => Some(a.clone()),
        (op::ADD, Type::Dyn, Type::List(_)) => Some(b.clone()),
        (op::ADD, ..) if a.is("string") && b.is("string") => Some(STRING),
        (op::ADD, ..) if a.is("bytes") && b.is("bytes") => Some(BYTES),
        (op::ADD | op::SUBSTRACT, Type::Dyn, other) | (op::ADD, other, Type::Dyn) if other.is(span) => Some(Type::Dyn),
        (op::ADD | op::SUBSTRACT, ..) if a.is(span) && b.is(span) => Some(DURATION),
        (op::ADD, ..) if a.is(time) && b.is(span) || a.is(span) && b.is(time) => Some(TIMESTAMP),
        (op::SUBSTRACT, Type::Plain(_), Type::Dyn) if a.is(time) => Some(Type::Dyn),
        (op::SUBSTRACT, ..) if a.is(time) && b.is(span) => Some(TIMESTAMP),
        (op::SUBSTRACT, ..) if a.is(time) && b.is(time) => Some(DURATION),
        _ => None,
    }
}
