//! Cron schedules: `minute hour day-of-month month day-of-week`, in UTC.
//!
//! As in crontab(5), a day matches by its number *or* by its weekday when both are restricted.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// How many days ahead or back a match is looked for: the 29th of February comes at least every eight years.
const DAYS_MAX: i32 = 8 * 366;

/// A parsed schedule: one bit for each value that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both day fields are restricted: either may match.
    either_day: bool,
}

impl Schedule {
    /// Reads five fields or one of `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = *fields else { return None };
        let names = |list: &'static str| move |name: &str| position(list, name);
        let restricted = |field: &str| !field.starts_with(['*', '?']);
        let week = field(weekdays, 0, 7, &names("sun mon tue wed thu fri sat"))?;
        Some(Self {
            minutes: field(minutes, 0, 59, &|_| None)?,
            hours: field(hours, 0, 23, &|_| None)?,
            days: field(days, 1, 31, &|_| None)?,
            months: field(months, 1, 12, &names("- jan feb mar apr may jun jul aug sep oct nov dec"))?,
            // Sunday is 0 and 7.
            weekdays: (week | week >> 7) & 0x7f,
            either_day: restricted(days) && restricted(weekdays),
        })
    }

    fn on(&self, day: Date) -> bool {
        let number = self.days >> day.day() & 1 == 1;
        let weekday = self.weekdays >> day.weekday().to_sunday_zero_offset() & 1 == 1;
        let matches = if self.either_day { number || weekday } else { number && weekday };
        matches && self.months >> day.month() & 1 == 1
    }

    /// The times of one day, as minutes since midnight.
    fn times(&self) -> impl DoubleEndedIterator<Item = i64> + use<> {
        let (hours, minutes) = (self.hours, self.minutes);
        (0..24 * 60).filter(move |time| hours >> (time / 60) & 1 == 1 && minutes >> (time % 60) & 1 == 1)
    }

    /// The first match after a moment, in milliseconds since 1970.
    pub(super) fn next(&self, after_ms: i64) -> Option<i64> {
        let first = date(after_ms)?;
        let days = (0..DAYS_MAX).filter_map(|days| first.checked_add(jiff::Span::new().days(days)).ok());
        let matches = days.filter(|day| self.on(*day)).flat_map(|day| {
            let midnight = midnight_ms(day);
            self.times().filter_map(move |time| Some(midnight? + time * 60_000))
        });
        matches.into_iter().find(|at| *at > after_ms)
    }

    /// The last match after `after_ms` and not after `until_ms`.
    pub(super) fn latest(&self, after_ms: i64, until_ms: i64) -> Option<i64> {
        let last = date(until_ms)?;
        let days = (0..DAYS_MAX).filter_map(|days| last.checked_sub(jiff::Span::new().days(days)).ok());
        let days = days.take_while(|day| midnight_ms(*day).is_some_and(|midnight| midnight + 86_400_000 > after_ms));
        let matches = days.filter(|day| self.on(*day)).flat_map(|day| {
            let midnight = midnight_ms(day);
            self.times().rev().filter_map(move |time| Some(midnight? + time * 60_000))
        });
        matches.into_iter().find(|at| *at <= until_ms).filter(|at| *at > after_ms)
    }
}

fn date(ms: i64) -> Option<Date> {
    Some(TimeZone::UTC.to_datetime(Timestamp::from_millisecond(ms).ok()?).date())
}

fn midnight_ms(day: Date) -> Option<i64> {
    let midnight: DateTime = day.at(0, 0, 0, 0);
    Some(TimeZone::UTC.to_timestamp(midnight).ok()?.as_millisecond())
}

fn position(list: &str, name: &str) -> Option<u32> {
    let name = name.to_ascii_lowercase();
    u32::try_from(list.split(' ').position(|entry| entry == name)?).ok()
}

/// `*`, `?`, `3`, `1-5`, `mon-fri`, each perhaps with a step (`*/5`, `10-20/2`, `5/15`), separated by commas.
fn field(text: &str, low: u32, high: u32, name: &dyn Fn(&str) -> Option<u32>) -> Option<u64> {
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<usize>().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let value = |text: &str| text.parse().ok().or_else(|| name(text)).filter(|value| (low..=high).contains(value));
        let (first, last) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (low, high),
            Some((first, last)) => (value(first)?, value(last)?),
            None if part.contains('/') => (value(range)?, high),
            None => (value(range)?, value(range)?),
        };
        if first > last {
            return None;
        }
        bits |= (first..=last).step_by(step).fold(0, |bits, value| bits | 1_u64 << value);
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        api::time::parse(text).expect("a time")
    }

    #[test]
    fn the_next_and_the_latest() {
        // Schedule, moment, next match, latest match up to the moment (of the year before it).
        for (schedule, moment, next, latest) in [
            ("*/15 * * * *", "2026-11-21T04:22:07Z", "2026-11-21T04:30:00Z", "2026-11-21T04:15:00Z"),
            ("0 9 * * mon-fri", "2026-11-21T10:00:00Z", "2026-11-23T09:00:00Z", "2026-11-20T09:00:00Z"),
            ("30 0 1 jan,jul *", "2026-11-21T10:00:00Z", "2027-01-01T00:30:00Z", "2026-07-01T00:30:00Z"),
            ("0 0 13 * 5", "2026-11-21T10:00:00Z", "2026-11-27T00:00:00Z", "2026-11-20T00:00:00Z"),
            ("@hourly", "2026-12-31T23:00:00Z", "2027-01-01T00:00:00Z", "2026-12-31T23:00:00Z"),
            ("5/20 3 * * 7", "2026-11-21T10:00:00Z", "2026-11-22T03:05:00Z", "2026-11-15T03:45:00Z"),
        ] {
            let parsed = Schedule::parse(schedule).expect(schedule);
            assert_eq!(parsed.next(at(moment)), Some(at(next)), "{schedule}");
            assert_eq!(parsed.latest(at(moment) - 365 * 86_400_000, at(moment)), Some(at(latest)), "{schedule}");
        }
        let leap = Schedule::parse("0 0 29 2 *").expect("a leap day");
        assert_eq!(leap.next(at("2097-01-01T00:00:00Z")), Some(at("2104-02-29T00:00:00Z")));
        assert_eq!(leap.latest(at("2026-01-01T00:00:00Z"), at("2026-12-01T00:00:00Z")), None);
    }

    #[test]
    fn what_is_not_a_schedule() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "@often", "a * * * *"] {
            assert_eq!(Schedule::parse(text), None, "{text}");
        }
    }
}
