//! The frame of the benches; what they measure is nobody's assertion.

use std::process::Command;

use serde_json::Value;

use crate::harness::{guests, root, run};

#[test]
fn bench_up_prints_one_object_per_metric() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
    command.args(["bench", "up", "--json", "--rounds", "1", "--busy-is-fine", "--app"]);
    command.arg(root().join("examples/hello-http")).env("CARGO_TARGET_DIR", guests());
    let lines = run(&mut command).ok();
    let metrics: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for name in ["up.api_ready_ms", "up.first_response_ms"] {
        let metric = metrics.iter().find(|metric| metric["metric"] == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} in {lines}"));
        assert_eq!((&metric["bench"], &metric["unit"]), (&"up".into(), &"ms".into()));
        assert!(metric["value"].as_f64().is_some_and(|value| value > 0.0), "{metric}");
    }
}

#[test]
fn bench_api_prints_loads_lists_and_watches() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
    command.arg("--data-dir").arg(dir.path().join("data"));
    command.args(["bench", "api", "--json", "--rounds", "1", "--millis", "100", "--pods", "200", "--watchers", "20"]);
    let lines = run(command.arg("--busy-is-fine")).ok();
    let metrics: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for name in ["api.create_1c", "api.create_32c", "api.get_1c", "api.watch_events", "api.list_ms", "api.rss_mib"] {
        let metric = metrics.iter().find(|metric| metric["metric"] == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} in {lines}"));
        assert!(metric["bench"] == "api" && metric["value"].as_f64().is_some_and(|value| value > 0.0), "{metric}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the bench left something behind");
}

#[test]
fn bench_store_prints_the_metrics_of_one_and_three_members() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
    command.arg("--data-dir").arg(dir.path().join("data"));
    command.args(["bench", "store", "--json", "--rounds", "1", "--millis", "100", "--busy-is-fine"]);
    let lines = run(&mut command).ok();
    let metrics: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in
        ["store.put_1m_1c", "store.put_3m_256c", "store.get_1m_32c", "store.watch_fanout", "store.next_write_ms"]
    {
        let metric = metrics.iter().find(|metric| metric["metric"] == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} in {lines}"));
        assert!(metric["bench"] == "store" && metric["value"].as_f64().is_some_and(|value| value > 0.0), "{metric}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the bench left something behind");
}

#[test]
fn bench_failover_kills_a_leader_and_loses_nothing() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
    command.args(["bench", "failover", "--json", "--rounds", "1", "--busy-is-fine", "--app"]);
    command.arg(root().join("examples/hello-http")).env("CARGO_TARGET_DIR", guests());
    let lines = run(&mut command).ok();
    let metrics: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let value = |name: &str| {
        let metric = metrics.iter().find(|metric| metric["metric"] == format!("failover.{name}"));
        metric.and_then(|metric| metric["value"].as_f64()).unwrap_or_else(|| panic!("{name} in {lines}"))
    };
    for name in ["three_nodes_ready_ms", "next_write_p99_ms", "node_replaced_p99_ms"] {
        assert!(value(name) > 0.0, "{lines}");
    }
    assert!(value("traffic_off_p99_ms") >= 0.0 && value("requests_failed") >= 0.0, "{lines}");
    assert_eq!(value("acked_lost"), 0.0, "{lines}");
}

#[test]
fn bench_scheduler_prints_a_rate_for_each_workload() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
    command.args(["bench", "scheduler", "--json", "--rounds", "1", "--nodes", "60", "--busy-is-fine"]);
    let lines = run(&mut command).ok();
    let metrics: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = metrics.iter().filter_map(|metric| metric["metric"].as_str()).collect();
    let expected = ["basic", "anti_affinity", "affinity", "spread", "preemption"];
    assert_eq!(names, expected.map(|name| format!("scheduler.{name}_per_s")));
    assert!(metrics.iter().all(|metric| metric["value"].as_f64().is_some_and(|value| value > 0.0)), "{lines}");
}

#[test]
fn bench_net_prints_round_trips_proxies_and_first_bytes() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
    command.args(["bench", "net", "--json", "--rounds", "1", "--millis", "50", "--services", "100", "--busy-is-fine"]);
    command.arg("--app").arg(root().join("examples/hello-http")).env("CARGO_TARGET_DIR", guests());
    let lines = run(&mut command).ok();
    let metrics: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for name in [
        "net.local_rtt_us",
        "net.overlay_rtt_us",
        "net.overlay_mb_s",
        "net.ingress_rps",
        "net.from_zero_p50_us",
        "net.from_zero_p99_us",
        "net.woken_p50_ms",
    ] {
        let metric = metrics.iter().find(|metric| metric["metric"] == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} in {lines}"));
        assert!(metric["bench"] == "net" && metric["value"].as_f64().is_some_and(|value| value > 0.0), "{metric}");
    }
    let beside = metrics.iter().find(|metric| metric["metric"] == "net.ingress_rps" && metric["peer"] == "hyper");
    assert!(beside.is_some_and(|metric| metric["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0)), "{lines}");
}
