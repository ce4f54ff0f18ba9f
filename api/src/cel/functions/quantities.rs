//! Kubernetes' quantity library.

use std::cmp::Ordering;

use super::{Arg, BOOL, Failure, Function, Gives, I, INT, S, Val, fail, global, member, text};
use crate::quantity::{MALFORMED, Quantity};

const Q: Arg = Arg::Is("kubernetes.Quantity");
const QUANTITY: Gives = Gives::Is("kubernetes.Quantity");

pub(super) const ROWS: &[Function] = &[
    global("quantity", &[S], QUANTITY, |_, args| match Quantity::parse(text(args, 0)) {
        Some(amount) => Ok(Val::Quantity(amount)),
        None => fail(MALFORMED),
    }),
    global("isQuantity", &[S], BOOL, |_, args| Ok(Val::Bool(Quantity::parse(text(args, 0)).is_some()))),
    member("isInteger", &[Q], BOOL, |_, args| Ok(Val::Bool(amount(args, 0)?.is_whole()))),
    member("asInteger", &[Q], INT, |_, args| match amount(args, 0)? {
        whole if whole.is_whole() => Ok(Val::Int(whole.bytes())),
        _ => fail("cannot convert value to integer"),
    }),
    member("asApproximateFloat", &[Q], Gives::Is("double"), |_, args| Ok(Val::Double(amount(args, 0)?.as_f64()))),
    member("sign", &[Q], INT, |_, args| Ok(Val::Int(order(amount(args, 0)?.cmp(&Quantity::ZERO))))),
    member("isLessThan", &[Q, Q], BOOL, |_, args| Ok(Val::Bool(amount(args, 0)? < amount(args, 1)?))),
    member("isGreaterThan", &[Q, Q], BOOL, |_, args| Ok(Val::Bool(amount(args, 0)? > amount(args, 1)?))),
    member("compareTo", &[Q, Q], INT, |_, args| Ok(Val::Int(order(amount(args, 0)?.cmp(&amount(args, 1)?))))),
    member("add", &[Q, Q], QUANTITY, |_, args| Ok(Val::Quantity(amount(args, 0)? + amount(args, 1)?))),
    member("add", &[Q, I], QUANTITY, |_, args| Ok(Val::Quantity(amount(args, 0)? + units(args)))),
    member("sub", &[Q, Q], QUANTITY, |_, args| Ok(Val::Quantity(amount(args, 0)? - amount(args, 1)?))),
    member("sub", &[Q, I], QUANTITY, |_, args| Ok(Val::Quantity(amount(args, 0)? - units(args)))),
];

fn units(args: &[Val<'_>]) -> Quantity {
    Quantity::from_units(super::int(args, 1))
}

fn amount(args: &[Val<'_>], at: usize) -> Result<Quantity, Failure> {
    match args.get(at) {
        Some(Val::Quantity(amount)) => Ok(*amount),
        _ => fail("no such overload"),
    }
}

fn order(order: Ordering) -> i64 {
    order as i64
}
