//! Doing what a container wants done right after its start or before its end: a command inside it, an HTTP request to it,
//! or a pause.
//!
//! As with the kubelet, the status of an HTTP answer is not looked at, and `tcpSocket` is a handler that always fails.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as k8s;

use crate::node::Agent;
use crate::rooms::Room;
use crate::{exec, probes};

/// What the container reads in `User-Agent`.
const USER_AGENT: &str = "kube-lifecycle/1.33";

/// Runs a hook to its end, or to the container's. How long it may take is the machine's matter.
///
/// # Errors
/// What went wrong, as the kubelet would say it.
pub(crate) async fn run(
    agent: &Agent,
    room: &Room,
    (container, handler): (&k8s::Container, &k8s::LifecycleHandler),
    address: IpAddr,
) -> Result<(), String> {
    tokio::select! {
        biased;
        () = room.over.cancelled() => Err("the container ended first".to_owned()),
        done = perform(agent, room, container, handler, address) => done,
    }
}

async fn perform(
    agent: &Agent,
    room: &Room,
    container: &k8s::Container,
    handler: &k8s::LifecycleHandler,
    address: IpAddr,
) -> Result<(), String> {
    let name = &container.name;
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let ran = exec::run(agent, room, &command, None).await;
        let shown = command.join(" ");
        return ran.map_err(|why| format!("Exec lifecycle hook ([{shown}]) for Container {name:?} failed: {why}"));
    }
    if let Some(get) = &handler.http_get {
        let asked = probes::get(&agent.config.fabric, container, get, address, USER_AGENT).await;
        return asked.map(drop).map_err(|why| format!("HTTP lifecycle hook for Container {name:?} failed: {why}"));
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("cannot run handler: it is neither exec nor httpGet nor sleep".to_owned())
}
