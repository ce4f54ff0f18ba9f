//! Lists, maps, sets and optionals: `size`, Kubernetes' list library, `sets.*`, `optional.*`.

use std::cmp::Ordering;

use super::{ANY, Arg, BOOL, Failure, Function, Gives, INT, L, Run, Val, count, fail, global, items, list, member};
use crate::cel::operators::add;

const O: Arg = Arg::Optional;

pub(super) const ROWS: &[Function] = &[
    global("size", &[L], INT, |_, args| Ok(count(list(args, 0).map_or(0, super::List::len)))),
    member("size", &[L], INT, |_, args| Ok(count(list(args, 0).map_or(0, super::List::len)))),
    global("size", &[Arg::Map], INT, map_size),
    member("size", &[Arg::Map], INT, map_size),
    member("isSorted", &[L], BOOL, is_sorted),
    member("sum", &[L], Gives::Inside, sum),
    member("min", &[L], Gives::Inside, |run, args| extreme(run, args, Ordering::Less)),
    member("max", &[L], Gives::Inside, |run, args| extreme(run, args, Ordering::Greater)),
    member("indexOf", &[L, ANY], INT, |run, args| index(run, args, false)),
    member("lastIndexOf", &[L, ANY], INT, |run, args| index(run, args, true)),
    global("sets.contains", &[L, L], BOOL, |run, args| Ok(Val::Bool(covers(run, args, 0, 1)?))),
    global("sets.equivalent", &[L, L], BOOL, |run, args| {
        Ok(Val::Bool(covers(run, args, 0, 1)? && covers(run, args, 1, 0)?))
    }),
    global("sets.intersects", &[L, L], BOOL, |run, args| {
        let (a, b) = (items(args, 0), items(args, 1));
        run.charge((a.len() * b.len()) as u64)?;
        Ok(Val::Bool(a.iter().any(|a| b.iter().any(|b| a.equals(b)))))
    }),
    global("optional.none", &[], Gives::Dyn, |_, _| Ok(Val::Optional(None))),
    global("optional.of", &[ANY], Gives::Wrapped, |_, args| Ok(Val::some(args[0].clone()))),
    global("optional.ofNonZeroValue", &[ANY], Gives::Wrapped, |_, args| {
        Ok(if is_zero(&args[0]) { Val::Optional(None) } else { Val::some(args[0].clone()) })
    }),
    member("hasValue", &[O], BOOL, |_, args| Ok(Val::Bool(matches!(args[0], Val::Optional(Some(_)))))),
    member("value", &[O], Gives::Inside, |_, args| match &args[0] {
        Val::Optional(Some(value)) => Ok((**value).clone()),
        _ => fail("optional.none() dereference"),
    }),
    member("orValue", &[O, ANY], Gives::Inside, |_, args| {
        Ok(match &args[0] {
            Val::Optional(Some(value)) => (**value).clone(),
            _ => args[1].clone(),
        })
    }),
    member("or", &[O, O], Gives::First, |_, args| {
        Ok(if matches!(args[0], Val::Optional(Some(_))) { args[0].clone() } else { args[1].clone() })
    }),
];

fn map_size<'a>(_: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let Some(Val::Map(map)) = args.first() else { return fail("no such overload") };
    Ok(count(map.len()))
}

fn order<'a>(a: &Val<'a>, b: &Val<'a>) -> Result<Ordering, Failure> {
    a.compare(b).map_or_else(|| fail("no such overload"), Ok)
}

fn is_sorted<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let items = items(args, 0);
    run.charge(args[0].weight())?;
    for pair in items.windows(2) {
        if order(&pair[0], &pair[1])? == Ordering::Greater {
            return Ok(Val::Bool(false));
        }
    }
    Ok(Val::Bool(true))
}

fn sum<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let items = items(args, 0);
    run.charge(items.len() as u64)?;
    let mut items = items.into_iter();
    let Some(mut total) = items.next() else { return Ok(Val::Int(0)) };
    for item in items {
        total = add(run, &total, &item)?;
    }
    Ok(total)
}

fn extreme<'a>(run: &mut Run, args: &[Val<'a>], wanted: Ordering) -> Result<Val<'a>, Failure> {
    run.charge(args[0].weight())?;
    let mut best: Option<Val<'a>> = None;
    for item in items(args, 0) {
        match &best {
            Some(kept) if order(&item, kept)? != wanted => {}
            _ => best = Some(item),
        }
    }
    best.map_or_else(
        || fail(if wanted == Ordering::Less { "min called on empty list" } else { "max called on empty list" }),
        Ok,
    )
}

fn index<'a>(run: &mut Run, args: &[Val<'a>], last: bool) -> Result<Val<'a>, Failure> {
    run.charge(args[0].weight())?;
    let items = items(args, 0);
    let mut found = items.iter().enumerate().filter(|(_, item)| item.equals(&args[1])).map(|(at, _)| at);
    let found = if last { found.next_back() } else { found.next() };
    Ok(found.map_or(Val::Int(-1), count))
}

/// Whether the list at `whole` has all of the list at `part`.
fn covers(run: &mut Run, args: &[Val<'_>], whole: usize, part: usize) -> Result<bool, Failure> {
    let (whole, part) = (items(args, whole), items(args, part));
    run.charge((whole.len() * part.len()) as u64)?;
    Ok(part.iter().all(|wanted| whole.iter().any(|item| item.equals(wanted))))
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null | Val::Optional(None) | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Duration(0) => true,
        Val::Double(number) => *number == 0.0,
        Val::String(text) => text.is_empty(),
        Val::Bytes(bytes) => bytes.is_empty(),
        Val::List(list) => list.len() == 0,
        Val::Map(map) => map.len() == 0,
        _ => false,
    }
}
