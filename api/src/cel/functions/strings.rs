//! Text: the standard functions, `cel-go/ext/strings` (version 2, which Kubernetes has) and `find`, `findAll`.
//! Positions count characters.

use super::{BOOL, Function, Gives, I, INT, L, S, STRING, Val, Y, count, fail, global, int, items, member, text};
use crate::cel::{Failure, Run};

pub(super) const ROWS: &[Function] = &[
    global("size", &[S], INT, |_, args| Ok(count(text(args, 0).chars().count()))),
    member("size", &[S], INT, |_, args| Ok(count(text(args, 0).chars().count()))),
    global("size", &[Y], INT, byte_count),
    member("size", &[Y], INT, byte_count),
    member("contains", &[S, S], BOOL, |_, args| Ok(Val::Bool(text(args, 0).contains(text(args, 1))))),
    member("startsWith", &[S, S], BOOL, |_, args| Ok(Val::Bool(text(args, 0).starts_with(text(args, 1))))),
    member("endsWith", &[S, S], BOOL, |_, args| Ok(Val::Bool(text(args, 0).ends_with(text(args, 1))))),
    member("matches", &[S, S], BOOL, matches),
    global("matches", &[S, S], BOOL, matches),
    member("find", &[S, S], STRING, find),
    member("findAll", &[S, S], Gives::ListOf("string"), find_all),
    member("findAll", &[S, S, I], Gives::ListOf("string"), find_all),
    member("charAt", &[S, I], STRING, char_at),
    member("indexOf", &[S, S], INT, index_of),
    member("indexOf", &[S, S, I], INT, index_of),
    member("lastIndexOf", &[S, S], INT, last_index_of),
    member("lastIndexOf", &[S, S, I], INT, last_index_of),
    member("lowerAscii", &[S], STRING, |_, args| Ok(Val::made(text(args, 0).to_ascii_lowercase()))),
    member("upperAscii", &[S], STRING, |_, args| Ok(Val::made(text(args, 0).to_ascii_uppercase()))),
    member("trim", &[S], STRING, |_, args| Ok(Val::made(text(args, 0).trim()))),
    member("replace", &[S, S, S], STRING, replace),
    member("replace", &[S, S, S, I], STRING, replace),
    member("split", &[S, S], Gives::ListOf("string"), split),
    member("split", &[S, S, I], Gives::ListOf("string"), split),
    member("substring", &[S, I], STRING, substring),
    member("substring", &[S, I, I], STRING, substring),
    member("join", &[L], STRING, join),
    member("join", &[L, S], STRING, join),
    global("strings.quote", &[S], STRING, |_, args| Ok(Val::made(format!("{:?}", text(args, 0))))),
];

fn byte_count<'a>(_: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let Some(Val::Bytes(bytes)) = args.first() else { return fail("no such overload") };
    Ok(count(bytes.len()))
}

fn matches<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    Ok(Val::Bool(run.pattern(text(args, 1), text(args, 0))?.is_match(text(args, 0))))
}

fn find<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let found = run.pattern(text(args, 1), text(args, 0))?.find(text(args, 0)).map_or("", |found| found.as_str());
    Ok(Val::made(found))
}

/// At most so many as the third argument says; all when it is negative or absent.
fn find_all<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let limit = if args.len() > 2 { usize::try_from(int(args, 2)).unwrap_or(usize::MAX) } else { usize::MAX };
    let found = run.pattern(text(args, 1), text(args, 0))?.find_iter(text(args, 0)).take(limit);
    let found: Vec<Val<'a>> = found.map(|found| Val::made(found.as_str())).collect();
    run.charge(found.len() as u64)?;
    Ok(Val::List(super::List::made(found)))
}

/// A position within `0..=length`, or CEL's refusal.
fn position(at: i64, length: usize) -> Result<usize, Failure> {
    match usize::try_from(at) {
        Ok(position) if position <= length => Ok(position),
        _ => fail(format!("index out of range: {at}")),
    }
}

fn char_at<'a>(_: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let text = text(args, 0);
    let at = position(int(args, 1), text.chars().count())?;
    Ok(Val::made(text.chars().nth(at).map(String::from).unwrap_or_default()))
}

fn index_of<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let (whole, wanted) = (text(args, 0), text(args, 1));
    let length = whole.chars().count();
    run.charge(1 + (whole.len() as u64 / 10).saturating_mul(1 + wanted.len() as u64 / 10))?;
    let from = if args.len() > 2 { position(int(args, 2), length)? } else { 0 };
    let start = whole.char_indices().nth(from).map_or(whole.len(), |(at, _)| at);
    Ok(whole[start..].find(wanted).map_or(Val::Int(-1), |at| count(whole[..start + at].chars().count())))
}

fn last_index_of<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let (whole, wanted) = (text(args, 0), text(args, 1));
    let length = whole.chars().count();
    run.charge(1 + (whole.len() as u64 / 10).saturating_mul(1 + wanted.len() as u64 / 10))?;
    let last = if args.len() > 2 { position(int(args, 2), length)? } else { length };
    // The match may begin at `last`, so what is looked at ends where such a match would.
    let end = whole.char_indices().nth(last + wanted.chars().count()).map_or(whole.len(), |(at, _)| at);
    Ok(whole[..end].rfind(wanted).map_or(Val::Int(-1), |at| count(whole[..at].chars().count())))
}

fn replace<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let (whole, from, to) = (text(args, 0), text(args, 1), text(args, 2));
    let limit = if args.len() > 3 { usize::try_from(int(args, 3)).unwrap_or(usize::MAX) } else { usize::MAX };
    // The most that can come of it, before anything is made.
    let times = (whole.len() / from.len().max(1) + 1).min(limit);
    run.charge((whole.len() + times.saturating_mul(to.len())) as u64 / 10)?;
    Ok(Val::made(whole.replacen(from, to, limit)))
}

fn split<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let (whole, by) = (text(args, 0), text(args, 1));
    let limit = if args.len() > 2 { int(args, 2) } else { -1 };
    run.charge(1 + whole.len() as u64 / if by.is_empty() { 1 } else { 10 })?;
    let parts: Vec<Val<'a>> = match usize::try_from(limit) {
        Ok(0) => Vec::new(),
        Ok(limit) if by.is_empty() => {
            let head: Vec<char> = whole.chars().take(limit - 1).collect();
            let rest: String = whole.chars().skip(limit - 1).collect();
            let head = head.into_iter().map(|one| Val::made(one.to_string()));
            head.chain((!rest.is_empty()).then(|| Val::made(rest))).collect()
        }
        Ok(limit) => whole.splitn(limit, by).map(Val::made).collect(),
        Err(_) if by.is_empty() => whole.chars().map(|one| Val::made(one.to_string())).collect(),
        Err(_) => whole.split(by).map(Val::made).collect(),
    };
    run.charge(parts.len() as u64)?;
    Ok(Val::List(super::List::made(parts)))
}

fn substring<'a>(_: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let whole = text(args, 0);
    let length = whole.chars().count();
    let start = position(int(args, 1), length)?;
    let end = if args.len() > 2 { position(int(args, 2), length)? } else { length };
    if start > end {
        return fail(format!("invalid substring range. start: {start}, end: {end}"));
    }
    Ok(Val::made(whole.chars().skip(start).take(end - start).collect::<String>()))
}

fn join<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let by = if args.len() > 1 { text(args, 1) } else { "" };
    let mut out = String::new();
    for (index, item) in items(args, 0).iter().enumerate() {
        let Val::String(part) = item else { return fail("no such overload: join") };
        run.charge(1 + (part.len() + by.len()) as u64 / 10)?;
        if index > 0 {
            out.push_str(by);
        }
        out.push_str(part);
    }
    Ok(Val::made(out))
}
