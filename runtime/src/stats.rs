//! What the node and its containers use: the part of kubelet's `GET /stats/summary` that anybody reads.
//!
//! CPU time is cumulative since the start that stands beside it; whoever asks twice has a rate. A container's is what its
//! account was charged, commands run in it included; the node's is this process', guests and all. What its Ingress has
//! answered since the node started, by route, is told beside it, as no kubelet does.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::host;
use crate::node::Agent;
use crate::roster::Tenant;

/// The document.
pub(crate) fn summary(agent: &Agent) -> Value {
    let now = Timestamp::now();
    let pods: Vec<Value> = agent.roster.tenants().iter().map(|tenant| pod(tenant, now)).collect();
    let guests = pods.iter().flat_map(|pod| pod["containers"].as_array().into_iter().flatten());
    let guests: u64 = guests.filter_map(|container| container["memory"]["workingSetBytes"].as_u64()).sum();
    let (cpu_nanos, memory_bytes) = host::process_usage();
    let mut node = figures(agent.started, now, cpu_nanos, memory_bytes.unwrap_or(guests));
    node["nodeName"] = agent.config.name.clone().into();
    let routes = agent.config.metrics.counts().into_iter().filter(|(name, _)| !name.is_empty());
    let routes: Vec<Value> = routes.map(|(name, requests)| json!({"name": *name, "requests": requests})).collect();
    json!({"node": node, "pods": pods, "routes": routes})
}

fn pod(tenant: &Tenant, now: Timestamp) -> Value {
    let pod = &tenant.pod;
    let containers = tenant.rooms.usage().into_iter().map(|(name, started, usage)| {
        let mut container = figures(started, now, usage.cpu_nanos, usage.memory_bytes);
        container["name"] = name.into();
        container
    });
    let containers: Vec<Value> = containers.collect();
    json!({"podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}, "containers": containers})
}

fn figures(started: Timestamp, now: Timestamp, cpu_nanos: u64, memory_bytes: u64) -> Value {
    let now = format!("{now:.3}");
    json!({
        "startTime": format!("{started:.3}"),
        "cpu": {"time": now, "usageCoreNanoSeconds": cpu_nanos},
        "memory": {"time": now, "workingSetBytes": memory_bytes, "usageBytes": memory_bytes},
    })
}
