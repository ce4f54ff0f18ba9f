//! What the Ingress has seen, per route, in Prometheus' text format.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::limits::ROUTES_MEASURED_MAX;

/// Upper bounds of the histogram's buckets, in microseconds: from a call in this process to a slow database.
const BOUNDS_MICROS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000];

/// Requests that no route took, or that came when too many routes were known.
const OTHER: &str = "";

#[derive(Debug, Default)]
struct Route {
    codes: Mutex<BTreeMap<u16, u64>>,
    buckets: [AtomicU64; BOUNDS_MICROS.len()],
    count: AtomicU64,
    sum_micros: AtomicU64,
}

/// Counters of all routes. They begin with the process and end with it.
#[derive(Debug, Default)]
pub struct Metrics {
    routes: RwLock<HashMap<Arc<str>, Arc<Route>>>,
}

impl Metrics {
    pub(super) fn count(&self, route: Option<&Arc<str>>, status: u16, took: Duration) {
        let route = self.route(route);
        *route.codes.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_insert(0) += 1;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = BOUNDS_MICROS.iter().position(|bound| micros <= *bound) {
            route.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        route.count.fetch_add(1, Ordering::Relaxed);
        route.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn route(&self, name: Option<&Arc<str>>) -> Arc<Route> {
        let key = name.map_or(OTHER, |name| &**name);
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = known.get(key) {
            return route.clone();
        }
        let full = known.len() >= ROUTES_MEASURED_MAX;
        drop(known);
        let key = name.filter(|_| !full).cloned().unwrap_or_else(|| OTHER.into());
        self.routes.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    /// How many requests each route has answered.
    pub(crate) fn counts(&self) -> Vec<(Arc<str>, u64)> {
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(name, route)| (name.clone(), route.count.load(Ordering::Relaxed))).collect()
    }

    /// All of it as text.
    #[must_use]
    pub fn text(&self) -> String {
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let routes: BTreeMap<&str, &Arc<Route>> = known.iter().map(|(name, route)| (&**name, route)).collect();
        let mut text = String::new();
        text.push_str("# HELP kogia_ingress_requests_total Requests answered, by route and status code.\n");
        text.push_str("# TYPE kogia_ingress_requests_total counter\n");
        for (name, route) in &routes {
            for (code, count) in route.codes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let _ = writeln!(text, "kogia_ingress_requests_total{{route=\"{name}\",code=\"{code}\"}} {count}");
            }
        }
        text.push_str("# HELP kogia_ingress_request_seconds From a request's head to the head of its answer.\n");
        text.push_str("# TYPE kogia_ingress_request_seconds histogram\n");
        for (name, route) in &routes {
            let mut below = 0;
            for (bound, bucket) in BOUNDS_MICROS.iter().zip(&route.buckets) {
                below += bucket.load(Ordering::Relaxed);
                let le = Duration::from_micros(*bound).as_secs_f64();
                let _ = writeln!(text, "kogia_ingress_request_seconds_bucket{{route=\"{name}\",le=\"{le}\"}} {below}");
            }
            let count = route.count.load(Ordering::Relaxed);
            let sum = Duration::from_micros(route.sum_micros.load(Ordering::Relaxed)).as_secs_f64();
            let _ = writeln!(text, "kogia_ingress_request_seconds_bucket{{route=\"{name}\",le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "kogia_ingress_request_seconds_sum{{route=\"{name}\"}} {sum}");
            let _ = writeln!(text, "kogia_ingress_request_seconds_count{{route=\"{name}\"}} {count}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route() {
        let metrics = Metrics::default();
        let web: Arc<str> = "ingress/default/web".into();
        for (status, micros) in [(200, 90), (200, 300), (503, 20_000_000)] {
            metrics.count(Some(&web), status, Duration::from_micros(micros));
        }
        metrics.count(None, 404, Duration::from_micros(1));
        assert!(metrics.counts().contains(&(web, 3)));
        let text = metrics.text();
        for line in [
            "kogia_ingress_requests_total{route=\"\",code=\"404\"} 1",
            "kogia_ingress_requests_total{route=\"ingress/default/web\",code=\"200\"} 2",
            "kogia_ingress_request_seconds_bucket{route=\"ingress/default/web\",le=\"0.0001\"} 1",
            "kogia_ingress_request_seconds_bucket{route=\"ingress/default/web\",le=\"0.0005\"} 2",
            "kogia_ingress_request_seconds_bucket{route=\"ingress/default/web\",le=\"10\"} 2",
            "kogia_ingress_request_seconds_bucket{route=\"ingress/default/web\",le=\"+Inf\"} 3",
            "kogia_ingress_request_seconds_count{route=\"ingress/default/web\"} 3",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line}\n{text}");
        }
    }

    #[test]
    fn too_many_routes_are_counted_together() {
        let metrics = Metrics::default();
        for number in 0..ROUTES_MEASURED_MAX + 10 {
            metrics.count(Some(&format!("r{number}").into()), 200, Duration::ZERO);
        }
        assert_eq!(metrics.routes.read().unwrap().len(), ROUTES_MEASURED_MAX + 1);
    }
}
