//! Times and durations as Kubernetes spells them. Nothing here reads a clock.

use jiff::Timestamp;

/// `metav1.Time`: RFC 3339 in UTC with whole seconds, from milliseconds since the epoch.
#[must_use]
pub fn rfc3339(millis: i64) -> String {
    seconds(millis.div_euclid(1000))
}

/// `metav1.MicroTime`: RFC 3339 in UTC with six digits, from milliseconds since the epoch.
#[must_use]
pub fn micro(millis: i64) -> String {
    from_micros(millis.saturating_mul(1000))
}

/// `metav1.MicroTime` from microseconds since the epoch.
#[must_use]
pub fn from_micros(micros: i64) -> String {
    let text = seconds(micros.div_euclid(1_000_000));
    format!("{}.{:06}Z", text.trim_end_matches('Z'), micros.rem_euclid(1_000_000))
}

/// `metav1.Time` from seconds since the epoch; out of range is brought to the nearest end of the calendar.
#[must_use]
pub fn seconds(seconds: i64) -> String {
    let bounded = seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(bounded).unwrap_or_default().to_string()
}

/// RFC 3339 in any offset and precision to microseconds since the epoch; `None` for anything else.
#[must_use]
pub fn parse_micros(text: &str) -> Option<i64> {
    // jiff also reads friendlier spellings; Go's decoder does not.
    let shaped = text.len() >= 20 && text.as_bytes()[10] == b'T' && text.is_ascii() && !text.contains(['[', ' ', ',']);
    shaped.then(|| text.parse::<Timestamp>().ok()).flatten().map(|time| time.as_microsecond())
}

/// RFC 3339 to milliseconds since the epoch; `None` for anything else.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    parse_micros(text).map(|micros| micros.div_euclid(1000))
}

/// Go's spelling of a duration, such as `1h0m0s`, `1.5s`, `300ms`, from nanoseconds.
#[must_use]
pub fn duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let rest = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64| {
        let text = format!("{}.{:0width$}", value / unit, value % unit, width = unit.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match rest {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{rest}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(rest, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(rest, 1_000_000)),
        _ => {
            let (minutes, seconds) = (rest / 60_000_000_000, fraction(rest % 60_000_000_000, 1_000_000_000));
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// Go's spelling of a duration to nanoseconds; `None` when Go would refuse it or it does not fit.
#[must_use]
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || whole.len() > 18 {
            return None;
        }
        let fraction = &fraction[..fraction.len().min(15)];
        let parsed = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        total = total.checked_add(parsed(whole)? * unit + parsed(fraction)? * unit / scale)?;
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(rfc3339(1_700_000_000_999), "2023-11-14T22:13:20Z");
        assert_eq!(micro(1_700_000_000_123), "2023-11-14T22:13:20.123000Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
        assert_eq!(parse("2023-11-14T22:13:20Z"), Some(1_700_000_000_000));
        assert_eq!(parse("2023-11-15T00:13:20.5+02:00"), Some(1_700_000_000_500));
        for bad in ["", "2023-11-14", "2023-11-14 22:13:20Z", "2023-11-14T22:13:20", "yesterday at five o'clock"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_survive_go() {
        for (text, nanos) in [
            ("0s", 0),
            ("1ns", 1),
            ("1.5µs", 1_500),
            ("300ms", 300_000_000),
            ("1.5s", 1_500_000_000),
            ("1m0s", 60_000_000_000),
            ("1h0m0s", 3_600_000_000_000),
            ("-2h3m4.5s", -7_384_500_000_000),
        ] {
            assert_eq!(duration(nanos), text);
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
        }
        assert_eq!(parse_duration("1h15m30.918s"), Some(4_530_918_000_000));
        for bad in ["", "1", "s", "1x", "-", ".s", "9999999999h"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
