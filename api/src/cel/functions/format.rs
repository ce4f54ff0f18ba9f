//! `'%d of %s'.format([…])`, as `cel-go/ext/strings` has it.

use super::conversions::plain;
use super::{Failure, Function, L, Run, S, STRING, Val, fail, items, member, text};

pub(super) const ROWS: &[Function] = &[member("format", &[S, L], STRING, format)];

/// How many digits a number may be asked to have behind its point.
const DIGITS_MAX: usize = 100;

fn format<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let mut given = items(args, 1).into_iter();
    let (mut out, mut rest) = (String::new(), text(args, 0));
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let digits =
            rest.strip_prefix('.').map(|rest| rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len());
        let precision = digits.and_then(|length| rest[1..=length].parse::<usize>().ok());
        rest = &rest[digits.map_or(0, |length| length + 1)..];
        let Some(verb) = rest.chars().next() else { return fail("unexpected end of format string") };
        rest = &rest[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = given.next() else { return fail("index out of range in format") };
        run.charge(1 + value.weight())?;
        let before = out.len();
        write(&mut out, verb, precision.unwrap_or(6).min(DIGITS_MAX), &value)?;
        run.charge((out.len() - before) as u64 / 10)?;
    }
    out.push_str(rest);
    run.charge(out.len() as u64 / 10)?;
    Ok(Val::made(out))
}

fn write(out: &mut String, verb: char, precision: usize, value: &Val<'_>) -> Result<(), Failure> {
    let number = match value {
        Val::Int(number) => Some(i128::from(*number)),
        Val::Uint(number) => Some(i128::from(*number)),
        _ => None,
    };
    let signed = |digits: String| if number.is_some_and(|number| number < 0) { format!("-{digits}") } else { digits };
    let magnitude = number.map(i128::unsigned_abs);
    let text = match (verb, magnitude, value) {
        ('s', ..) => return shown(out, value),
        ('d', Some(number), _) => signed(number.to_string()),
        ('b', Some(number), _) => signed(format!("{number:b}")),
        ('o', Some(number), _) => signed(format!("{number:o}")),
        ('x', Some(number), _) => signed(format!("{number:x}")),
        ('X', Some(number), _) => signed(format!("{number:X}")),
        ('b', _, Val::Bool(is)) => u8::from(*is).to_string(),
        ('x', _, Val::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', _, Val::String(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('f', _, Val::Double(number)) => format!("{number:.precision$}"),
        ('e', _, Val::Double(number)) => exponent(*number, precision),
        ('d' | 'b' | 'o' | 'x' | 'X' | 'f' | 'e', ..) => {
            return fail(format!("error during formatting: no conversion for %{verb} of a {}", value.type_name()));
        }
        _ => return fail(format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\"")),
    };
    out.push_str(&text);
    Ok(())
}

/// `1.052033e+03`, with two digits of exponent at least.
fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
    format!("{mantissa}e{sign}{power:0>2}")
}

fn shown(out: &mut String, value: &Val<'_>) -> Result<(), Failure> {
    match value {
        Val::List(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                shown(out, &item)?;
            }
            out.push(']');
        }
        Val::Map(map) => {
            out.push('{');
            for (index, key) in map.keys().iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                shown(out, key)?;
                out.push_str(": ");
                shown(out, &map.at(key).unwrap_or(Val::Null))?;
            }
            out.push('}');
        }
        Val::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        other => match plain(other) {
            Some(text) => out.push_str(&text),
            None => return fail(format!("no conversion for %s of a {}", other.type_name())),
        },
    }
    Ok(())
}
