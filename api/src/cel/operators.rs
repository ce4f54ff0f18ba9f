//! What operators make of values. What grows or is looked through is paid for.

use cel::common::ast::operators as op;

use super::functions::plain;
use super::value::{List, Val};
use super::{Failure, Run};
use crate::schema::ListType;

pub(super) type Outcome<'a> = Result<Val<'a>, Failure>;

pub(super) fn fail<'a>(message: impl Into<String>) -> Outcome<'a> {
    Err(Failure::Error(message.into()))
}

pub(super) fn select_field<'a>(operand: Val<'a>, field: &str, test: bool) -> Outcome<'a> {
    match (operand, test) {
        (Val::Map(map), true) => Ok(Val::Bool(map.get(field).is_some())),
        (Val::Map(map), false) => map.get(field).map_or_else(|| fail(format!("no such key: {field}")), Ok),
        (Val::Optional(inside), true) => match inside.as_deref() {
            Some(value) => select_field(value.clone(), field, true),
            None => Ok(Val::Bool(false)),
        },
        (operand @ Val::Optional(_), false) => optional(operand, |value| match value {
            Val::Map(map) => map.get(field),
            _ => None,
        }),
        (other, _) => fail(format!("no such overload: type '{}' does not support field selection", other.type_name())),
    }
}

/// Looks into a value or an optional one; the answer is optional.
pub(super) fn optional<'a>(operand: Val<'a>, look: impl Fn(&Val<'a>) -> Option<Val<'a>>) -> Outcome<'a> {
    Ok(match operand {
        Val::Optional(None) => Val::Optional(None),
        Val::Optional(Some(value)) => look(&value).map_or(Val::Optional(None), Val::some),
        value => look(&value).map_or(Val::Optional(None), Val::some),
    })
}

pub(super) fn index_into<'a>(value: &Val<'a>, index: &Val<'a>) -> Outcome<'a> {
    match (value, index) {
        (Val::List(list), Val::Int(_) | Val::Uint(_) | Val::Double(_)) => {
            let at = match index {
                Val::Int(at) => usize::try_from(*at).ok(),
                Val::Uint(at) => usize::try_from(*at).ok(),
                _ => None,
            };
            let shown = plain(index).unwrap_or_default();
            at.and_then(|at| list.get(at)).map_or_else(|| fail(format!("index out of bounds: {shown}")), Ok)
        }
        (Val::Map(map), key) => {
            let shown = || plain(key).unwrap_or_default();
            map.at(key).map_or_else(|| fail(format!("no such key: {}", shown())), Ok)
        }
        _ => fail("no such overload"),
    }
}

pub(super) fn binary<'a>(run: &mut Run, name: &str, a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match name {
        op::EQUALS | op::NOT_EQUALS => {
            run.charge(sides(a, b))?;
            Ok(Val::Bool(a.equals(b) == (name == op::EQUALS)))
        }
        op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
            run.charge(sides(a, b))?;
            let Some(order) = a.compare(b) else { return fail("no such overload") };
            Ok(Val::Bool(match name {
                op::LESS => order.is_lt(),
                op::LESS_EQUALS => order.is_le(),
                op::GREATER => order.is_gt(),
                _ => order.is_ge(),
            }))
        }
        op::IN => {
            run.charge(b.weight())?;
            match b {
                Val::List(list) => Ok(Val::Bool(list.iter().any(|item| item.equals(a)))),
                Val::Map(map) => Ok(Val::Bool(map.at(a).is_some())),
                _ => fail("no such overload"),
            }
        }
        op::INDEX => match a {
            Val::Optional(_) => optional(a.clone(), |value| index_into(value, b).ok()),
            value => index_into(value, b),
        },
        op::ADD => add(run, a, b),
        _ => arithmetic(name, a, b),
    }
}

/// What comparing costs: sets and maps by key are looked through for every item.
fn sides(a: &Val<'_>, b: &Val<'_>) -> u64 {
    match (a, b) {
        (Val::List(a), Val::List(b)) if a.how != ListType::Atomic => (a.len() as u64).saturating_mul(b.len() as u64),
        (Val::String(_) | Val::Bytes(_), Val::String(_) | Val::Bytes(_)) => a.weight().min(b.weight()),
        // Weighing is work, too.
        _ => a.weight() + b.weight(),
    }
}

/// `+`: also of text, lists, times; lists that are sets or maps by key merge.
pub(super) fn add<'a>(run: &mut Run, a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::String(a), Val::String(b)) => {
            run.charge((a.len() + b.len()) as u64 / 10)?;
            Ok(Val::made([&**a, &**b].concat()))
        }
        (Val::Bytes(a), Val::Bytes(b)) => {
            run.charge((a.len() + b.len()) as u64 / 10)?;
            Ok(Val::Bytes([&**a, &**b].concat().into()))
        }
        (Val::List(a), Val::List(b)) => {
            let looked_at = if a.how == ListType::Atomic { 0 } else { (a.len() as u64).saturating_mul(b.len() as u64) };
            run.charge((a.len() + b.len()) as u64 + looked_at)?;
            Ok(Val::List(a.alike(merged(a, b))))
        }
        (Val::Duration(a), Val::Duration(b)) => {
            a.checked_add(*b).map_or_else(|| fail("duration overflow"), |sum| Ok(Val::Duration(sum)))
        }
        (Val::Timestamp(time), Val::Duration(span)) | (Val::Duration(span), Val::Timestamp(time)) => {
            let sum = time.checked_add(std::time::Duration::from_nanos(span.unsigned_abs())).ok();
            let sum = if *span < 0 {
                time.checked_sub(std::time::Duration::from_nanos(span.unsigned_abs())).ok()
            } else {
                sum
            };
            sum.map_or_else(|| fail("timestamp overflow"), |sum| Ok(Val::Timestamp(sum)))
        }
        _ => arithmetic(op::ADD, a, b),
    }
}

fn merged<'a>(a: &List<'a>, b: &List<'a>) -> Vec<Val<'a>> {
    let mut items: Vec<Val<'a>> = a.iter().collect();
    if a.how == ListType::Atomic {
        items.extend(b.iter());
        return items;
    }
    for item in b.iter() {
        let same = |known: &Val<'a>| match a.how {
            ListType::Atomic | ListType::Set => known.equals(&item),
            ListType::Map => {
                let (x, y) = (a.identity(known), a.identity(&item));
                x.iter().zip(&y).all(|(x, y)| match (x, y) {
                    (Some(x), Some(y)) => x.equals(y),
                    (x, y) => x.is_none() && y.is_none(),
                })
            }
        };
        match items.iter().position(same) {
            Some(at) => items[at] = item,
            None => items.push(item),
        }
    }
    items
}

fn arithmetic<'a>(name: &str, a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) if name == op::DIVIDE => fail("division by zero"),
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) if name == op::MODULO => fail("modulus by zero"),
        (Val::Int(a), Val::Int(b)) => {
            let result = match name {
                op::ADD => a.checked_add(*b),
                op::SUBSTRACT => a.checked_sub(*b),
                op::MULTIPLY => a.checked_mul(*b),
                op::DIVIDE => a.checked_div(*b),
                op::MODULO => a.checked_rem(*b),
                _ => return fail("no such overload"),
            };
            result.map_or_else(|| fail("integer overflow"), |result| Ok(Val::Int(result)))
        }
        (Val::Uint(a), Val::Uint(b)) => {
            let result = match name {
                op::ADD => a.checked_add(*b),
                op::SUBSTRACT => a.checked_sub(*b),
                op::MULTIPLY => a.checked_mul(*b),
                op::DIVIDE => a.checked_div(*b),
                op::MODULO => a.checked_rem(*b),
                _ => return fail("no such overload"),
            };
            result.map_or_else(|| fail("unsigned integer overflow"), |result| Ok(Val::Uint(result)))
        }
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(match name {
            op::ADD => a + b,
            op::SUBSTRACT => a - b,
            op::MULTIPLY => a * b,
            op::DIVIDE => a / b,
            _ => return fail("no such overload"),
        })),
        (Val::Duration(a), Val::Duration(b)) if name == op::SUBSTRACT => {
            a.checked_sub(*b).map_or_else(|| fail("duration overflow"), |rest| Ok(Val::Duration(rest)))
        }
        (Val::Timestamp(a), Val::Timestamp(b)) if name == op::SUBSTRACT => {
            let nanos = i64::try_from(a.as_nanosecond() - b.as_nanosecond());
            nanos.map_or_else(|_| fail("duration overflow"), |nanos| Ok(Val::Duration(nanos)))
        }
        (Val::Timestamp(_), Val::Duration(nanos)) if name == op::SUBSTRACT => {
            let Some(back) = nanos.checked_neg() else { return fail("timestamp overflow") };
            add(&mut Run { call: u64::MAX, ..Run::new(u64::MAX) }, a, &Val::Duration(back))
        }
        _ => fail("no such overload"),
    }
}
