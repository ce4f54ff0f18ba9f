//! Commands about words, the clock and the pod itself.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Done, Failure, Streams, options};

pub(crate) fn succeed(_args: &[String], _streams: &mut Streams<'_>) -> Done {
    Ok(())
}

pub(crate) fn fail(_args: &[String], _streams: &mut Streams<'_>) -> Done {
    Err(Failure::Silent)
}

/// `echo [-n] WORD…`
pub(crate) fn echo(args: &[String], streams: &mut Streams<'_>) -> Done {
    let (words, end) = match args.split_first() {
        Some((first, rest)) if first == "-n" => (rest, ""),
        _ => (args, "\n"),
    };
    Ok(write!(streams.stdout, "{}{end}", words.join(" "))?)
}

/// `env`, `printenv [NAME…]`
pub(crate) fn environment(args: &[String], streams: &mut Streams<'_>) -> Done {
    if args.is_empty() {
        for (name, value) in std::env::vars() {
            writeln!(streams.stdout, "{name}={value}")?;
        }
        return Ok(());
    }
    for name in args {
        match std::env::var(name) {
            Ok(value) => writeln!(streams.stdout, "{value}")?,
            Err(_) => return Err(Failure::Silent),
        }
    }
    Ok(())
}

/// `hostname`
pub(crate) fn hostname(_args: &[String], streams: &mut Streams<'_>) -> Done {
    Ok(writeln!(streams.stdout, "{}", std::env::var("HOSTNAME").unwrap_or_default())?)
}

/// `pwd`
pub(crate) fn folder(_args: &[String], streams: &mut Streams<'_>) -> Done {
    Ok(writeln!(streams.stdout, "{}", std::env::current_dir()?.display())?)
}

/// `whoami`: WASI has no users.
pub(crate) fn whoami(_args: &[String], streams: &mut Streams<'_>) -> Done {
    Ok(writeln!(streams.stdout, "wasi")?)
}

/// `id`
pub(crate) fn id(_args: &[String], streams: &mut Streams<'_>) -> Done {
    Ok(writeln!(streams.stdout, "uid=0(wasi) gid=0(wasi)")?)
}

/// `uname [-a]`
pub(crate) fn uname(args: &[String], streams: &mut Streams<'_>) -> Done {
    let (all, _) = options(args, "asmnr")?;
    let host = std::env::var("HOSTNAME").unwrap_or_default();
    let text = if all.contains('a') { format!("wasi {host} 0.2 kogia wasm32") } else { "wasi".to_owned() };
    Ok(writeln!(streams.stdout, "{text}")?)
}

/// `basename PATH [SUFFIX]`
pub(crate) fn basename(args: &[String], streams: &mut Streams<'_>) -> Done {
    let path = args.first().ok_or("which path?")?;
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = args.get(1).and_then(|suffix| name.strip_suffix(suffix.as_str())).unwrap_or(name);
    Ok(writeln!(streams.stdout, "{}", if name.is_empty() { "/" } else { name })?)
}

/// `dirname PATH`
pub(crate) fn dirname(args: &[String], streams: &mut Streams<'_>) -> Done {
    let path = args.first().ok_or("which path?")?;
    let parent = Path::new(path).parent().map(|parent| parent.to_string_lossy().into_owned());
    let parent = parent.unwrap_or_else(|| "/".to_owned());
    Ok(writeln!(streams.stdout, "{}", if parent.is_empty() { "." } else { &parent })?)
}

/// `sleep SECONDS`, `sleep 1.5s`, `sleep 2m`, `sleep infinity`
pub(crate) fn sleep(args: &[String], _streams: &mut Streams<'_>) -> Done {
    let mut total = Duration::ZERO;
    for arg in args {
        total = total.saturating_add(duration(arg).ok_or_else(|| format!("invalid time interval {arg:?}"))?);
    }
    if args.is_empty() {
        return Err("how long?".into());
    }
    std::thread::sleep(total);
    Ok(())
}

pub(crate) fn duration(text: &str) -> Option<Duration> {
    if text == "infinity" {
        // Longer than any pod; the clock of WASI counts nanoseconds in 64 bits.
        return Some(Duration::from_secs(100 * 365 * 24 * 3600));
    }
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    let unit = match unit {
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => 1.0,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

/// `date [+%s]`: UTC, as RFC 3339, or seconds since 1970.
pub(crate) fn date(args: &[String], streams: &mut Streams<'_>) -> Done {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let text = match args.first().map(String::as_str) {
        None | Some("-u") => moment(seconds),
        Some("+%s") => seconds.to_string(),
        Some(other) => return Err(format!("only +%s is known, not {other}").into()),
    };
    Ok(writeln!(streams.stdout, "{text}")?)
}

/// `2026-11-25T22:41:00Z` of seconds since 1970: Howard Hinnant's `civil_from_days`.
pub(crate) fn moment(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// `test -e PATH`, `-f -d -s -r -w -x`, `-n TEXT`, `-z TEXT`, `A = B`, `A != B`, each with `!` before it.
pub(crate) fn test(args: &[String], _streams: &mut Streams<'_>) -> Done {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (negated, words) = match words.split_first() {
        Some((&"!", rest)) => (true, rest),
        _ => (false, &words[..]),
    };
    let holds = match words {
        [] => false,
        ["-e" | "-r" | "-w" | "-x", path] => Path::new(path).exists(),
        ["-f", path] => Path::new(path).is_file(),
        ["-d", path] => Path::new(path).is_dir(),
        ["-s", path] => std::fs::metadata(path).is_ok_and(|found| found.len() > 0),
        ["-n", text] | [text] => !text.is_empty(),
        ["-z", text] => text.is_empty(),
        [a, "=" | "==", b] => a == b,
        [a, "!=", b] => a != b,
        other => return Err(format!("cannot judge {:?}", other.join(" ")).into()),
    };
    if holds == negated { Err(Failure::Silent) } else { Ok(()) }
}
