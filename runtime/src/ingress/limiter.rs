//! How many requests one client may send: a token bucket per rule and address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use network::routes::options::Rate;

use super::limits::LIMITED_CLIENTS_MAX;

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    /// When it is as good as forgotten.
    full_after: Duration,
}

/// The buckets of all rules with a rate.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    buckets: Mutex<HashMap<(Arc<str>, IpAddr), Bucket>>,
}

impl Limiter {
    /// Whether one more request may come in now.
    pub(super) fn admits(&self, rule: &Arc<str>, client: IpAddr, rate: Rate, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (rule.clone(), client);
        if buckets.len() >= LIMITED_CLIENTS_MAX && !buckets.contains_key(&key) {
            // Full buckets say nothing. When all are in use, those that are known are served before a new one.
            buckets.retain(|_, bucket| now.duration_since(bucket.filled) < bucket.full_after);
            if buckets.len() >= LIMITED_CLIENTS_MAX {
                return false;
            }
        }
        let full_after = Duration::from_secs_f64((rate.burst / rate.per_second).min(86_400.0));
        let bucket = buckets.entry(key).or_insert(Bucket { tokens: rate.burst, filled: now, full_after });
        let earned = now.duration_since(bucket.filled).as_secs_f64() * rate.per_second;
        bucket.tokens = (bucket.tokens + earned).min(rate.burst);
        (bucket.filled, bucket.full_after) = (now, full_after);
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_spends_what_it_has_and_earns_it_again() {
        let limiter = Limiter::default();
        let rate = Rate { per_second: 2.0, burst: 4.0 };
        let (rule, start): (Arc<str>, _) = ("a".into(), Instant::now());
        let admitted = |last: u8, after_ms: u64, count: usize| {
            let now = start + Duration::from_millis(after_ms);
            (0..count).filter(|_| limiter.admits(&rule, IpAddr::from([10, 0, 0, last]), rate, now)).count()
        };
        assert_eq!(admitted(1, 0, 10), 4);
        assert_eq!(admitted(2, 0, 10), 4, "another client has its own");
        assert_eq!(admitted(1, 499, 10), 0);
        assert_eq!(admitted(1, 1000, 10), 2);
        assert_eq!(admitted(1, 60_000, 10), 4);
    }

    #[test]
    fn the_number_of_clients_is_bounded() {
        let limiter = Limiter::default();
        let rate = Rate { per_second: 1.0, burst: 1.0 };
        let (rule, start): (Arc<str>, _) = ("a".into(), Instant::now());
        let client = |number: u32| IpAddr::from(number.to_be_bytes());
        let all = u32::try_from(LIMITED_CLIENTS_MAX).unwrap();
        assert!((0..all).all(|number| limiter.admits(&rule, client(number), rate, start)));
        assert!(!limiter.admits(&rule, client(all), rate, start));
        assert!(limiter.admits(&rule, client(all), rate, start + Duration::from_secs(2)), "the others are forgotten");
    }
}
