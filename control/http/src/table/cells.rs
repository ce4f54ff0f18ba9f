//! What several sheets say in the same words: ages, label selectors, container names, counts.

use std::fmt::Write as _;

use api::Object;
use serde_json::Value;

/// Shown where there is nothing to show.
pub(super) const NONE: &str = "<none>";
/// Shown where a time is missing or a reference cannot be read.
pub(super) const UNKNOWN: &str = "<unknown>";
/// Shown where a field is not set.
pub(super) const UNSET: &str = "<unset>";

/// Time since creation.
pub(super) fn age(object: &Object, now_ms: i64) -> Value {
    since(object.creation_timestamp(), now_ms).into()
}

/// Time since an RFC 3339 time, in kubectl's short form.
pub(super) fn since(time: &str, now_ms: i64) -> String {
    api::time::parse(time).map_or_else(|| UNKNOWN.into(), |then_ms| short_duration(now_ms - then_ms))
}

/// `3m20s`, `5h`, `12d`: two figures where they matter, as `k8s.io/apimachinery/pkg/util/duration` rounds.
pub(super) fn short_duration(ms: i64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |a: i64, unit_a: char, b: i64, unit_b: char| match b {
        0 => format!("{a}{unit_a}"),
        _ => format!("{a}{unit_a}{b}{unit_b}"),
    };
    match seconds {
        ..-1 => "<invalid>".into(),
        -1..1 => "0s".into(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, 'd', hours % 24, 'h'),
        _ if days < 2 * 365 => format!("{days}d"),
        _ if days < 8 * 365 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// The text at a path; empty when absent.
pub(super) fn str_at<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The whole number at a path; 0 when absent.
pub(super) fn int_at(value: &Value, path: &str) -> i64 {
    at(value, path).as_i64().unwrap_or(0)
}

/// The value at a dotted path; `Null` when absent.
pub(super) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, name| &value[name])
}

/// The elements of the list at a path.
pub(super) fn list_at<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// The text, or `<none>`.
pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// A scalar as text: numbers without quotes, absent ones as `otherwise`.
pub(super) fn scalar(value: &Value, otherwise: &str) -> String {
    match value {
        Value::Null => otherwise.into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Elements joined by commas, or `<none>`.
pub(super) fn joined<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let text = items.into_iter().fold(String::new(), |mut text, item| {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(item.as_ref());
        text
    });
    if text.is_empty() { NONE.into() } else { text }
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(map: &Value) -> String {
    let map = map.as_object().into_iter().flatten();
    joined(map.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())))
}

/// A `metav1.LabelSelector` in the syntax of `-l`.
pub(super) fn selector(selector: &Value) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in list_at(selector, "matchExpressions") {
        let key = str_at(expression, "key");
        let values: Vec<_> = list_at(expression, "values").iter().filter_map(Value::as_str).collect();
        let values = values.join(",");
        parts.push(match str_at(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    joined(parts)
}

/// The names and the images of a pod template's containers.
pub(super) fn containers(pod_spec: &Value) -> [Value; 2] {
    let column = |field| -> String {
        let names: Vec<_> = list_at(pod_spec, "containers").iter().map(|c| str_at(c, field)).collect();
        names.join(",")
    };
    [column("name").into(), column("image").into()]
}

/// How many keys the maps at these paths have together.
pub(super) fn count(object: &Object, paths: &[&str]) -> Value {
    paths.iter().map(|path| at(&object.value, path).as_object().map_or(0, serde_json::Map::len)).sum::<usize>().into()
}

/// A list of which at most `max` are shown: `a,b + 2 more...`.
pub(super) fn first_few(items: &[String], max: usize) -> String {
    let mut text = joined(items.iter().take(max));
    if items.len() > max {
        let _ = write!(text, " + {} more...", items.len() - max);
    }
    text
}

/// Whether a condition of that type has that status.
pub(super) fn has_condition(value: &Value, type_: &str, status: &str) -> bool {
    let mut conditions = list_at(value, "status.conditions").iter();
    conditions.any(|condition| condition["type"] == type_ && condition["status"] == status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_rounded_as_kubectl_does() {
        let (second, minute, hour, day) = (1_000, 60_000, 3_600_000, 86_400_000);
        let cases = [
            (-5 * second, "<invalid>"),
            (-1, "0s"),
            (999, "0s"),
            (90 * second, "90s"),
            (2 * minute, "2m"),
            (2 * minute + 5 * second, "2m5s"),
            (12 * minute + 5 * second, "12m"),
            (179 * minute, "179m"),
            (3 * hour, "3h"),
            (7 * hour + 59 * minute, "7h59m"),
            (47 * hour, "47h"),
            (2 * day, "2d"),
            (3 * day + 4 * hour, "3d4h"),
            (100 * day, "100d"),
            (800 * day, "2y70d"),
            (4000 * day, "10y"),
        ];
        for (ms, expected) in cases {
            assert_eq!(short_duration(ms), expected, "{ms}");
        }
    }

    #[test]
    fn selectors_read_like_the_command_line() {
        let value = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&value), "app=web,tier in (a,b),!old");
        assert_eq!(selector(&Value::Null), NONE);
        assert_eq!(first_few(&["a".into(), "b".into(), "c".into()], 2), "a,b + 1 more...");
    }
}
