//! What a pod asks of its containers beyond Kubernetes' own fields, in `kogia.dev/…` annotations. Pure.
//!
//! | annotation | value |
//! |---|---|
//! | `kogia.dev/fuel` | instructions one run, or one request, may execute: a quantity, as in `500M` |
//! | `kogia.dev/instance-reuse` | `true`, or `requests=N,instances=N,idle=10s,concurrency=N` |
//! | `kogia.dev/request-timeout` | longest wait for the head of a response: seconds, as in `5s` or `500ms` |
//!
//! A value that cannot be read keeps the container from starting: a limit that was asked for must not silently be none.

use std::collections::BTreeMap;
use std::time::Duration;

use api::quantity::Quantity;
use engine::{Reuse, Terms};

use crate::limits;

const FUEL: &str = "kogia.dev/fuel";
const REUSE: &str = "kogia.dev/instance-reuse";
const REQUEST_TIMEOUT: &str = "kogia.dev/request-timeout";

/// Reads a pod's annotations.
///
/// # Errors
/// A sentence that names the annotation and what it may say.
pub(crate) fn terms(annotations: &BTreeMap<String, String>) -> Result<Terms, String> {
    let read = |name: &str| annotations.get(name).map(|value| value.trim());
    Ok(Terms {
        fuel: read(FUEL).map(fuel).transpose()?,
        reuse: read(REUSE).map(reuse).transpose()?.flatten(),
        request_timeout: read(REQUEST_TIMEOUT).map(request_timeout).transpose()?,
    })
}

fn fuel(value: &str) -> Result<u64, String> {
    let units = Quantity::parse(value).and_then(|quantity| u64::try_from(quantity.bytes()).ok());
    units.filter(|units| *units > 0).ok_or_else(|| wrong(FUEL, value, "a number of instructions, as in 500M"))
}

fn request_timeout(value: &str) -> Result<Duration, String> {
    let asked = duration(value).filter(|asked| !asked.is_zero() && *asked <= limits::REQUEST_TIMEOUT_MAX);
    asked.ok_or_else(|| wrong(REQUEST_TIMEOUT, value, "a time up to an hour, as in 5s or 500ms"))
}

fn reuse(value: &str) -> Result<Option<Reuse>, String> {
    const MEANT: &str = "true, false or a list as in requests=1000,instances=16,idle=10s,concurrency=16";
    match value {
        "true" => return Ok(Some(Reuse::default())),
        "false" => return Ok(None),
        _ => {}
    }
    let mut reuse = Reuse::default();
    for part in value.split(',') {
        let refused = || wrong(REUSE, value, MEANT);
        let (key, setting) = part.trim().split_once('=').ok_or_else(refused)?;
        let number = |most: u32| setting.parse::<u32>().ok().filter(|number| (1..=most).contains(number));
        match key {
            "requests" => reuse.requests = number(u32::MAX).ok_or_else(refused)?,
            "instances" => reuse.instances = number(limits::REUSE_INSTANCES_MAX).ok_or_else(refused)?,
            "concurrency" => reuse.concurrency = number(limits::REUSE_CONCURRENCY_MAX).ok_or_else(refused)?,
            "idle" => {
                let idle = duration(setting).filter(|idle| *idle <= limits::REUSE_IDLE_MAX);
                reuse.idle = idle.ok_or_else(refused)?;
            }
            _ => return Err(refused()),
        }
    }
    Ok(Some(reuse))
}

fn wrong(annotation: &str, value: &str, meant: &str) -> String {
    let value: String = value.chars().take(limits::VALUE_SHOWN_MAX).collect();
    format!("annotation {annotation}: {value:?} is not {meant}")
}

/// `5s`, `500ms`, `2m`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, value: &str) -> Result<Terms, String> {
        terms(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn nothing_asked_is_nothing_set() {
        assert_eq!(terms(&BTreeMap::new()), Ok(Terms::default()));
        assert_eq!(read(REUSE, "false").unwrap().reuse, None);
    }

    #[test]
    fn what_is_asked_is_understood() {
        assert_eq!(read(FUEL, "500M").unwrap().fuel, Some(500_000_000));
        assert_eq!(read(FUEL, " 12 ").unwrap().fuel, Some(12));
        assert_eq!(read(REQUEST_TIMEOUT, "500ms").unwrap().request_timeout, Some(Duration::from_millis(500)));
        assert_eq!(read(REUSE, "true").unwrap().reuse, Some(Reuse::default()));
        let reuse = read(REUSE, "requests=5, idle=2m,instances=3,concurrency=1").unwrap().reuse;
        let expected = Reuse { requests: 5, instances: 3, idle: Duration::from_secs(120), concurrency: 1 };
        assert_eq!(reuse, Some(expected));
    }

    #[test]
    fn what_cannot_be_read_is_refused_in_a_sentence() {
        assert_eq!(
            read(FUEL, "lots").unwrap_err(),
            r#"annotation kogia.dev/fuel: "lots" is not a number of instructions, as in 500M"#
        );
        for (name, value) in [
            (FUEL, "0"),
            (FUEL, "-5"),
            (REQUEST_TIMEOUT, "5"),
            (REQUEST_TIMEOUT, "0s"),
            (REQUEST_TIMEOUT, "2000m"),
            (REUSE, ""),
            (REUSE, "yes"),
            (REUSE, "requests=0"),
            (REUSE, "instances=100000"),
            (REUSE, "requests=1,colour=blue"),
            (REUSE, "idle=10"),
        ] {
            let refusal = read(name, value).unwrap_err();
            assert!(refusal.starts_with(&format!("annotation {name}: ")), "{refusal}");
        }
    }
}
