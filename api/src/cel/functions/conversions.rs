//! From one type to another: `int()`, `string()`, `type()` and their like.

use super::{ANY, B, D, Failure, Function, Gives, I, INT, Run, S, SPAN, STRING, TIME, U, Val, Y, fail, global, text};
use crate::time;

const UINT: Gives = Gives::Is("uint");
const DOUBLE: Gives = Gives::Is("double");

pub(super) const ROWS: &[Function] = &[
    global("dyn", &[ANY], Gives::Dyn, |_, args| Ok(args[0].clone())),
    global("type", &[ANY], Gives::Is("type"), |_, args| Ok(Val::Type(args[0].type_name()))),
    global("bool", &[B], Gives::Is("bool"), |_, args| Ok(args[0].clone())),
    global("bool", &[S], Gives::Is("bool"), |_, args| match text(args, 0) {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
        _ => fail("type conversion error from 'string' to 'bool'"),
    }),
    global("int", &[I], INT, whole),
    global("int", &[U], INT, whole),
    global("int", &[D], INT, whole),
    global("int", &[S], INT, whole),
    global("int", &[TIME], INT, whole),
    global("int", &[SPAN], INT, whole),
    global("uint", &[I], UINT, unsigned),
    global("uint", &[U], UINT, unsigned),
    global("uint", &[D], UINT, unsigned),
    global("uint", &[S], UINT, unsigned),
    global("double", &[I], DOUBLE, double),
    global("double", &[U], DOUBLE, double),
    global("double", &[D], DOUBLE, double),
    global("double", &[S], DOUBLE, double),
    global("string", &[ANY], STRING, string),
    global("bytes", &[S], Gives::Is("bytes"), |run, args| {
        run.charge(text(args, 0).len() as u64 / 10)?;
        Ok(Val::Bytes(text(args, 0).as_bytes().into()))
    }),
    global("bytes", &[Y], Gives::Is("bytes"), |_, args| Ok(args[0].clone())),
    global("duration", &[S], Gives::Is("google.protobuf.Duration"), |_, args| {
        let nanos = time::parse_duration(text(args, 0));
        nanos.map_or_else(
            || fail("type conversion error from 'string' to 'google.protobuf.Duration'"),
            |nanos| Ok(Val::Duration(nanos)),
        )
    }),
    global("duration", &[SPAN], Gives::Is("google.protobuf.Duration"), |_, args| Ok(args[0].clone())),
    global("timestamp", &[S], Gives::Is("google.protobuf.Timestamp"), |_, args| {
        let shaped = time::parse_micros(text(args, 0)).and_then(|_| text(args, 0).parse().ok());
        shaped.map_or_else(
            || fail("type conversion error from 'string' to 'google.protobuf.Timestamp'"),
            |time| Ok(Val::Timestamp(time)),
        )
    }),
    global("timestamp", &[I], Gives::Is("google.protobuf.Timestamp"), |_, args| {
        let time = jiff::Timestamp::from_second(super::int(args, 0));
        time.map_or_else(|_| fail("timestamp out of range"), |time| Ok(Val::Timestamp(time)))
    }),
    global("timestamp", &[TIME], Gives::Is("google.protobuf.Timestamp"), |_, args| Ok(args[0].clone())),
];

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the range is checked first")]
fn whole<'a>(_: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let number = match &args[0] {
        Val::Int(number) => Some(*number),
        Val::Uint(number) => i64::try_from(*number).ok(),
        Val::Double(number) => (number.abs() < i64::MAX as f64).then_some(*number as i64),
        Val::String(text) => text.parse().ok(),
        Val::Timestamp(time) => Some(time.as_second()),
        Val::Duration(nanos) => Some(*nanos),
        _ => None,
    };
    number.map_or_else(|| fail("integer overflow"), |number| Ok(Val::Int(number)))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "as above")]
fn unsigned<'a>(_: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let number = match &args[0] {
        Val::Int(number) => u64::try_from(*number).ok(),
        Val::Uint(number) => Some(*number),
        Val::Double(number) => (*number >= 0.0 && *number < u64::MAX as f64).then_some(*number as u64),
        Val::String(text) => text.parse().ok(),
        _ => None,
    };
    number.map_or_else(|| fail("unsigned integer overflow"), |number| Ok(Val::Uint(number)))
}

#[allow(clippy::cast_precision_loss, reason = "that is what the conversion is")]
fn double<'a>(_: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let number = match &args[0] {
        Val::Int(number) => Some(*number as f64),
        Val::Uint(number) => Some(*number as f64),
        Val::Double(number) => Some(*number),
        Val::String(text) => text.parse().ok(),
        _ => None,
    };
    number.map_or_else(|| fail("type conversion error from 'string' to 'double'"), |number| Ok(Val::Double(number)))
}

fn string<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    run.charge(args[0].weight())?;
    Ok(match &args[0] {
        Val::String(_) => args[0].clone(),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Val::made(text),
            Err(_) => return fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        other => match plain(other) {
            Some(text) => Val::made(text),
            None => return fail(format!("no such overload: string({})", other.type_name())),
        },
    })
}

/// The text of a value without parts.
pub(in crate::cel) fn plain(value: &Val<'_>) -> Option<String> {
    Some(match value {
        Val::Null => "null".into(),
        Val::Bool(is) => is.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        Val::Double(number) => number.to_string(),
        Val::String(text) => text.to_string(),
        Val::Duration(nanos) => seconds(*nanos),
        Val::Timestamp(time) => time.to_string(),
        Val::Type(name) => (*name).into(),
        Val::Ip(address) => address.to_string(),
        Val::Cidr(network) => format!("{}/{}", network.address, network.length),
        Val::Quantity(amount) => amount.to_string(),
        Val::Url(url) => url.text().to_owned(),
        Val::Bytes(_) | Val::List(_) | Val::Map(_) | Val::Optional(_) => return None,
    })
}

/// A duration in protobuf's JSON: `90s`, `1.5s`.
fn seconds(nanos: i64) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let text = format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}
