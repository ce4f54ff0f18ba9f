//! How fast an autoscaler may go: stabilization windows and policies (`spec.behavior`, KEP-853).
//!
//! Downwards the largest recommendation of the window counts, upwards the smallest; then policies bound how many
//! replicas may come or go within a period, counted from what was really done.

use serde_json::{Value, json};

use crate::limits::{AUTOSCALER_HISTORY_MAX, AUTOSCALER_PERIOD_MS, AUTOSCALER_WINDOW_MAX_MS};

/// One direction's rules.
#[derive(Clone, Debug)]
struct Side {
    window_ms: i64,
    /// The policy that allows least counts; `None`: no scaling in this direction.
    least: Option<bool>,
    policies: Vec<Policy>,
}

#[derive(Clone, Debug)]
struct Policy {
    percent: bool,
    value: i64,
    period_ms: i64,
}

/// Both directions.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    up: Side,
    down: Side,
}

impl Rules {
    /// Reads `spec.behavior`; what is left out is Kubernetes' default: up at once, doubling or four pods in fifteen
    /// seconds; down after five minutes, as far as wanted.
    pub(super) fn of(behavior: &Value) -> Self {
        let policy = |percent, value| Policy { percent, value, period_ms: 15_000 };
        let up = Side { window_ms: 0, least: Some(false), policies: vec![policy(true, 100), policy(false, 4)] };
        let down = Side { window_ms: 300_000, least: Some(false), policies: vec![policy(true, 100)] };
        Self { up: read(&behavior["scaleUp"], up), down: read(&behavior["scaleDown"], down) }
    }
}

fn read(side: &Value, default: Side) -> Side {
    let policies = side["policies"].as_array().filter(|list| !list.is_empty()).map(|list| {
        let one = |policy: &Value| Policy {
            percent: policy["type"] == "Percent",
            value: policy["value"].as_i64().unwrap_or(0),
            period_ms: policy["periodSeconds"].as_i64().unwrap_or(15) * 1000,
        };
        list.iter().map(one).collect()
    });
    let least = match side["selectPolicy"].as_str() {
        Some("Disabled") => None,
        Some("Min") => Some(true),
        _ => Some(false),
    };
    let window_ms = side["stabilizationWindowSeconds"].as_i64().map_or(default.window_ms, |seconds| seconds * 1000);
    Side { window_ms: window_ms.min(AUTOSCALER_WINDOW_MAX_MS), least, policies: policies.unwrap_or(default.policies) }
}

/// What was recommended and done before, newest last.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    recommended: Vec<(i64, i64)>,
    /// By how many replicas the target grew or shrank.
    done: Vec<(i64, i64)>,
}

impl History {
    /// Reads what [`History::written`] wrote. Where nothing was written of late, the current number was right.
    pub(super) fn read(text: Option<&str>, current: i64, now_ms: i64) -> Self {
        let value: Value = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let pairs = |field: &str| -> Vec<(i64, i64)> {
            let list = value[field].as_array().into_iter().flatten();
            let pairs = list.filter_map(|pair| Some((pair[0].as_i64()?, pair[1].as_i64()?)));
            pairs.filter(|(at, _)| *at > now_ms - AUTOSCALER_WINDOW_MAX_MS && *at <= now_ms).collect()
        };
        let mut history = Self { recommended: pairs("r"), done: pairs("d") };
        let silence = now_ms - 2 * i64::try_from(AUTOSCALER_PERIOD_MS).unwrap_or(0);
        if history.recommended.last().is_none_or(|(at, _)| *at < silence) {
            push(&mut history.recommended, (now_ms, current));
        }
        history
    }

    pub(super) fn written(&self) -> String {
        let pairs = |list: &[(i64, i64)]| -> Vec<Value> { list.iter().map(|(at, value)| json!([at, value])).collect() };
        json!({"r": pairs(&self.recommended), "d": pairs(&self.done)}).to_string()
    }

    /// The target was given another number of replicas.
    pub(super) fn scaled(&mut self, from: i64, to: i64, now_ms: i64) {
        push(&mut self.done, (now_ms, to - from));
    }

    fn recommend(&mut self, replicas: i64, now_ms: i64) {
        // Equal ones in a row say nothing but that the last of them still stands.
        if let [.., before, last] = &mut self.recommended[..]
            && before.1 == replicas
            && last.1 == replicas
        {
            last.0 = now_ms;
            return;
        }
        push(&mut self.recommended, (now_ms, replicas));
    }

    /// Replicas that came (`sign` 1) or went (−1) within a period.
    fn moved(&self, sign: i64, period_ms: i64, now_ms: i64) -> i64 {
        let recent = self.done.iter().filter(|(at, by)| *at > now_ms - period_ms && by * sign > 0);
        recent.map(|(_, by)| by.abs()).sum()
    }
}

fn push(list: &mut Vec<(i64, i64)>, entry: (i64, i64)) {
    if list.len() >= AUTOSCALER_HISTORY_MAX {
        list.remove(0);
    }
    list.push(entry);
}

/// How many replicas there should be now, with the words for two conditions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) replicas: i64,
    /// `AbleToScale`: reason and message.
    pub(super) stability: (&'static str, &'static str),
    /// `ScalingLimited`: status, reason and message.
    pub(super) limit: (&'static str, &'static str, &'static str),
}

/// Bounds what the metrics ask for.
pub(super) fn decide(
    rules: &Rules,
    history: &mut History,
    current: i64,
    wanted: i64,
    (least, most): (i64, i64),
    now_ms: i64,
) -> Decided {
    history.recommend(wanted, now_ms);
    let within = |window: i64| history.recommended.iter().filter(move |(at, _)| *at > now_ms - window).map(|(_, r)| *r);
    let floor = within(rules.down.window_ms).max().unwrap_or(wanted).max(wanted);
    let ceiling = within(rules.up.window_ms).min().unwrap_or(wanted).min(wanted);
    let mut stable = current;
    if stable < ceiling {
        stable = ceiling;
    }
    if stable > floor {
        stable = floor;
    }
    let stability = match stable.cmp(&wanted) {
        std::cmp::Ordering::Equal => ("ReadyForNewScale", "recommended size matches current size"),
        std::cmp::Ordering::Greater => (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        ),
        std::cmp::Ordering::Less => (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        ),
    };
    let (replicas, limit) = bounded(rules, history, current, stable, (least, most), now_ms);
    Decided { replicas, stability, limit }
}

fn bounded(
    rules: &Rules,
    history: &History,
    current: i64,
    wanted: i64,
    (least, most): (i64, i64),
    now_ms: i64,
) -> (i64, (&'static str, &'static str, &'static str)) {
    if wanted > current {
        let rate = up_limit(&rules.up, history, current, now_ms).max(current);
        if wanted > rate.min(most) {
            return if rate < most {
                (
                    rate,
                    (
                        "True",
                        "ScaleUpLimit",
                        "the desired replica count is increasing faster than the maximum scale rate",
                    ),
                )
            } else {
                (most, ("True", "TooManyReplicas", "the desired replica count is more than the maximum replica count"))
            };
        }
    } else if wanted < current {
        let rate = down_limit(&rules.down, history, current, now_ms).min(current);
        if wanted < rate.max(least) {
            return if rate > least {
                (
                    rate,
                    (
                        "True",
                        "ScaleDownLimit",
                        "the desired replica count is decreasing faster than the maximum scale rate",
                    ),
                )
            } else {
                (least, ("True", "TooFewReplicas", "the desired replica count is less than the minimum replica count"))
            };
        }
    }
    (wanted.clamp(least, most), ("False", "DesiredWithinRange", "the desired count is within the acceptable range"))
}

fn up_limit(side: &Side, history: &History, current: i64, now_ms: i64) -> i64 {
    let limits = side.policies.iter().map(|policy| {
        let start = current - history.moved(1, policy.period_ms, now_ms) + history.moved(-1, policy.period_ms, now_ms);
        // Rounded up, so that a small share of a small number still is a step.
        if policy.percent { (start * (100 + policy.value) + 99) / 100 } else { start + policy.value }
    });
    match side.least {
        None => current,
        Some(true) => limits.min().unwrap_or(current),
        Some(false) => limits.max().unwrap_or(current),
    }
}

fn down_limit(side: &Side, history: &History, current: i64, now_ms: i64) -> i64 {
    let limits = side.policies.iter().map(|policy| {
        let start = current - history.moved(1, policy.period_ms, now_ms) + history.moved(-1, policy.period_ms, now_ms);
        if policy.percent { start * (100 - policy.value) / 100 } else { start - policy.value }
    });
    match side.least {
        None => current,
        Some(true) => limits.max().unwrap_or(current),
        Some(false) => limits.min().unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(behavior: &Value, start: i64, wishes: &[(i64, i64)]) -> Vec<i64> {
        let rules = Rules::of(behavior);
        let mut history = History::read(None, start, 0);
        let mut current = start;
        let steps = wishes.iter().map(|(second, wanted)| {
            let now = second * 1000;
            history = History::read(Some(&history.written()), current, now);
            let decided = decide(&rules, &mut history, current, *wanted, (1, 100), now);
            if decided.replicas != current {
                history.scaled(current, decided.replicas, now);
            }
            current = decided.replicas;
            current
        });
        steps.collect()
    }

    #[test]
    fn defaults_double_up_and_wait_five_minutes_before_going_down() {
        let wishes = [(0, 50), (15, 50), (30, 50), (45, 50), (60, 50), (75, 2), (90, 2), (105, 50), (120, 2), (135, 2)];
        assert_eq!(walk(&Value::Null, 2, &wishes), [6, 12, 24, 48, 50, 50, 50, 50, 50, 50]);
        let wishes: Vec<(i64, i64)> = (0..30).map(|period| (period * 15, if period == 0 { 10 } else { 2 })).collect();
        let walked = walk(&Value::Null, 10, &wishes);
        assert_eq!((walked[19], walked[20]), (10, 2), "five minutes after the last higher recommendation");
    }

    #[test]
    fn policies_bound_each_period_and_may_forbid_a_direction() {
        let down = json!({"scaleDown": {"stabilizationWindowSeconds": 0, "policies":
            [{"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]}});
        assert_eq!(walk(&down, 10, &[(0, 1), (15, 1), (61, 1), (122, 1)]), [8, 8, 6, 4]);
        let mut least = down;
        least["scaleDown"]["selectPolicy"] = json!("Min");
        assert_eq!(walk(&least, 10, &[(0, 1), (61, 1)]), [9, 8]);
        let fixed = json!({"scaleDown": {"selectPolicy": "Disabled"}, "scaleUp": {"stabilizationWindowSeconds": 30}});
        assert_eq!(walk(&fixed, 10, &[(0, 1), (15, 1), (30, 20), (45, 20), (60, 20)]), [10, 10, 10, 20, 20]);
    }

    #[test]
    fn the_bounds_are_named() {
        let rules = Rules::of(&Value::Null);
        let at = |current, wanted, bounds| {
            let mut history = History::default();
            decide(&rules, &mut history, current, wanted, bounds, 1_000_000).limit.1
        };
        assert_eq!(at(3, 10, (1, 5)), "TooManyReplicas");
        assert_eq!(at(3, 50, (1, 100)), "ScaleUpLimit");
        assert_eq!(at(3, 0, (1, 5)), "TooFewReplicas");
        assert_eq!(at(3, 4, (1, 5)), "DesiredWithinRange");
    }
}
