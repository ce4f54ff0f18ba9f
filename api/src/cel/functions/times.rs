//! Parts of timestamps and durations. Time zones are `UTC` and fixed offsets (`+02:00`); the names of the time zone
//! database are refused, because Kogia carries none.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use super::{Failure, Function, INT, S, SPAN, TIME, Val, fail, member, text};

macro_rules! parts {
    ($($name:literal => $read:expr),* $(,)?) => {
        &[$(
            member($name, &[TIME], INT, |_, args| Ok(Val::Int($read(civil(args)?)))),
            member($name, &[TIME, S], INT, |_, args| Ok(Val::Int($read(civil(args)?)))),
        )*
            member("getHours", &[SPAN], INT, |_, args| span(args, 3_600_000_000_000)),
            member("getMinutes", &[SPAN], INT, |_, args| span(args, 60_000_000_000)),
            member("getSeconds", &[SPAN], INT, |_, args| span(args, 1_000_000_000)),
            member("getMilliseconds", &[SPAN], INT, |_, args| span(args, 1_000_000)),
        ]
    };
}

pub(super) const ROWS: &[Function] = parts! {
    "getFullYear" => |time: DateTime| i64::from(time.year()),
    "getMonth" => |time: DateTime| i64::from(time.month()) - 1,
    "getDate" => |time: DateTime| i64::from(time.day()),
    "getDayOfMonth" => |time: DateTime| i64::from(time.day()) - 1,
    "getDayOfWeek" => |time: DateTime| i64::from(time.weekday().to_sunday_zero_offset()),
    "getDayOfYear" => |time: DateTime| i64::from(time.day_of_year()) - 1,
    "getHours" => |time: DateTime| i64::from(time.hour()),
    "getMinutes" => |time: DateTime| i64::from(time.minute()),
    "getSeconds" => |time: DateTime| i64::from(time.second()),
    "getMilliseconds" => |time: DateTime| i64::from(time.millisecond()),
};

fn span<'a>(args: &[Val<'a>], unit: i64) -> Result<Val<'a>, Failure> {
    match args.first() {
        // The milliseconds of a duration are those beside its seconds.
        Some(Val::Duration(nanos)) if unit == 1_000_000 => Ok(Val::Int(nanos / unit % 1_000)),
        Some(Val::Duration(nanos)) => Ok(Val::Int(nanos / unit)),
        _ => fail("no such overload"),
    }
}

fn civil(args: &[Val<'_>]) -> Result<DateTime, Failure> {
    let Some(Val::Timestamp(time)) = args.first() else { return fail("no such overload") };
    let offset = if args.len() > 1 { offset(text(args, 1))? } else { Offset::UTC };
    Ok(time.to_zoned(TimeZone::fixed(offset)).datetime())
}

fn offset(zone: &str) -> Result<Offset, Failure> {
    if zone.is_empty() || zone == "UTC" {
        return Ok(Offset::UTC);
    }
    let unsigned = zone.trim_start_matches(['+', '-']);
    let parts = unsigned.split_once(':').and_then(|(h, m)| Some((h.parse::<i32>().ok()?, m.parse::<i32>().ok()?)));
    let Some((hours, minutes)) = parts.filter(|(h, m)| (0..24).contains(h) && (0..60).contains(m)) else {
        return fail(format!("unknown time zone {zone}"));
    };
    let seconds = (hours * 60 + minutes) * 60;
    let seconds = if zone.starts_with('-') { -seconds } else { seconds };
    Offset::from_seconds(seconds).map_or_else(|_| fail(format!("unknown time zone {zone}")), Ok)
}
