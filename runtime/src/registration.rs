//! The node as the cluster sees it: its Node object and its Lease.

use std::collections::BTreeMap;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::wait::await_condition;
use kube::runtime::watcher::{self, watcher};
use serde_json::json;

use crate::addresses::Addresses;
use crate::events::now;
use crate::host::{Capacity, disk_bytes};
use crate::limits::{CONTRADICT_EVERY, IMAGES_LISTED_MAX, LEASE_RENEW, LEASE_SECONDS, NODE_STATUS_RENEW};
use crate::node::NodeConfig;
use crate::retry::until_ok;

/// The Kubernetes version whose kubelet this agent behaves like; tools compare it with the API server's.
const KUBELET_VERSION: &str = concat!("v1.33.0+kogia.", env!("CARGO_PKG_VERSION"));
const RUNTIME_VERSION: &str = "wasmtime://48.0.8";
/// The label of nodes whose process is a member of the cluster: kubectl shows their role by it.
pub(crate) const MEMBER_ROLE: &str = "node-role.kubernetes.io/control-plane";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// How many pods the node will take: the cluster gives it a pod CIDR of that size.
const PODS_MAX: &str = "kogia.dev/pods-max";

/// Makes the Node object true, and waits until the cluster has given the node its pod CIDRs. Returns its uid and them.
pub(crate) async fn register(client: &Client, config: &NodeConfig, capacity: Capacity) -> (String, Vec<String>) {
    let nodes: Api<k8s::Node> = Api::all(client.clone());
    let node = until_ok("register the node", || async {
        match nodes.get_opt(&config.name).await? {
            Some(_) => {
                let labels = json!({"metadata": {"labels": labels(config)}});
                nodes.patch(&config.name, &PatchParams::default(), &Patch::Merge(labels)).await
            }
            None => nodes.create(&PostParams::default(), &object(config)).await,
        }
    })
    .await;
    // The status comes first: a cluster may want to see a living node before it gives it addresses. How many pods fit
    // is known after, and written with the first heartbeat.
    write_status(&nodes, config, capacity).await;
    let has_cidr = |node: Option<&k8s::Node>| node.is_some_and(|node| !pod_cidrs(node).is_empty());
    let node = if has_cidr(Some(&node)) {
        node
    } else {
        loop {
            match await_condition(nodes.clone(), &config.name, has_cidr).await {
                Ok(Some(node)) => break node,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "waiting for a pod CIDR");
                    tokio::time::sleep(crate::limits::RETRY_MAX).await;
                }
            }
        }
    };
    let cidrs = pod_cidrs(&node);
    (node.metadata.uid.unwrap_or_default(), cidrs)
}

/// `spec.podCIDRs`, or where only it is set `spec.podCIDR`.
fn pod_cidrs(node: &k8s::Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let several = spec.pod_cidrs.clone().filter(|cidrs| !cidrs.is_empty());
    several.unwrap_or_else(|| spec.pod_cidr.iter().filter(|cidr| !cidr.is_empty()).cloned().collect())
}

/// Renews the Lease and, more rarely, the status; at once when somebody took the node for lost. The caller ends it by
/// dropping the future.
pub(crate) async fn keep_alive(client: Client, config: &NodeConfig, uid: &str, capacity: Capacity) {
    let nodes: Api<k8s::Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, LEASE_NAMESPACE);
    let mut renew = tokio::time::interval(LEASE_RENEW);
    let mut status = tokio::time::interval(NODE_STATUS_RENEW);
    let own = watcher::Config::default().fields(&format!("metadata.name={}", config.name));
    let mut seen = watcher(nodes.clone(), own).default_backoff().applied_objects().boxed();
    loop {
        tokio::select! {
            Some(node) = seen.next() => if node.is_ok_and(|node| is_overruled(&node)) {
                write_status(&nodes, config, capacity).await;
                // Whoever believes it lost may have a reason that lasts; there is no haste in contradicting again.
                tokio::time::sleep(CONTRADICT_EVERY).await;
            },
            _ = renew.tick() => until_ok("renew the lease", || renew_lease(&leases, config, uid)).await,
            _ = status.tick() => write_status(&nodes, config, capacity).await,
        }
    }
}

/// Whether somebody said in this node's name that it is not ready.
fn is_overruled(node: &k8s::Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status != "True")
}

async fn renew_lease(leases: &Api<Lease>, config: &NodeConfig, uid: &str) -> Result<(), kube::Error> {
    let patch = json!({"spec": {"renewTime": MicroTime(Timestamp::now()), "holderIdentity": config.name}});
    match leases.patch(&config.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        renewed => return renewed.map(drop),
    }
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: config.name.clone(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(config.name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    leases.create(&PostParams::default(), &lease).await.map(drop)
}

async fn write_status(nodes: &Api<k8s::Node>, config: &NodeConfig, capacity: Capacity) {
    until_ok("write the node's status", || async {
        let node = nodes.get(&config.name).await?;
        let room = Addresses::parse(&pod_cidrs(&node)).map_or(u32::MAX, |addresses| addresses.capacity());
        let known = node.status.unwrap_or_default();
        let mut status = status(config, capacity, room.min(config.pods_max), &known, &now());
        status.images = Some(images(config).await);
        let patch = json!({"status": status});
        nodes.patch_status(&config.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    })
    .await;
}

/// What other nodes may ask this one for, and what the scheduler need not send elsewhere.
async fn images(config: &NodeConfig) -> Vec<k8s::ContainerImage> {
    let images = config.images.clone();
    let listed = tokio::task::spawn_blocking(move || images.list()).await;
    let listed = listed.ok().and_then(Result::ok).unwrap_or_default().into_iter().take(IMAGES_LISTED_MAX);
    let told = listed.map(|image| k8s::ContainerImage {
        names: Some(vec![image.reference]),
        size_bytes: i64::try_from(image.size).ok(),
    });
    told.collect()
}

fn object(config: &NodeConfig) -> k8s::Node {
    // How large a part of the pod network it needs.
    let annotations = BTreeMap::from([(PODS_MAX.to_owned(), config.pods_max.to_string())]);
    k8s::Node {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            labels: Some(labels(config)),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        ..k8s::Node::default()
    }
}

fn labels(config: &NodeConfig) -> BTreeMap<String, String> {
    let own = [
        ("kubernetes.io/os", "wasi"),
        ("kubernetes.io/arch", "wasm32"),
        ("kubernetes.io/hostname", &config.name),
        ("kogia.dev/runtime", "wasmtime"),
    ];
    let role = config.member.then_some((MEMBER_ROLE, "true"));
    let own = own.into_iter().chain(role).map(|(name, value)| (name.to_owned(), value.to_owned()));
    config.labels.clone().into_iter().chain(own).collect()
}

/// The Node's status. Conditions keep the time of their last change.
fn status(config: &NodeConfig, capacity: Capacity, pods: u32, known: &k8s::NodeStatus, now: &Time) -> k8s::NodeStatus {
    let amounts = BTreeMap::from([
        ("cpu".to_owned(), Quantity(capacity.cpus.to_string())),
        ("memory".to_owned(), Quantity(format!("{}Ki", capacity.memory_bytes >> 10))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", disk_bytes(&config.data_dir) >> 10))),
        ("pods".to_owned(), Quantity(pods.to_string())),
    ]);
    let addresses = config.addresses.iter().map(|address| ("InternalIP", address.to_string()));
    let addresses = addresses.chain([("Hostname", config.name.clone())]);
    let text = |text: &str| text.to_owned();
    k8s::NodeStatus {
        capacity: Some(amounts.clone()),
        allocatable: Some(amounts),
        addresses: Some(addresses.map(|(type_, address)| k8s::NodeAddress { type_: text(type_), address }).collect()),
        conditions: Some(conditions(known, now)),
        node_info: Some(k8s::NodeSystemInfo {
            architecture: text("wasm32"),
            operating_system: text("wasi"),
            os_image: text("Kogia"),
            kernel_version: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            container_runtime_version: text(RUNTIME_VERSION),
            kubelet_version: text(KUBELET_VERSION),
            machine_id: config.name.clone(),
            system_uuid: config.name.clone(),
            ..k8s::NodeSystemInfo::default()
        }),
        ..k8s::NodeStatus::default()
    }
}

fn conditions(known: &k8s::NodeStatus, now: &Time) -> Vec<k8s::NodeCondition> {
    let ours = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kogia is posting ready status"),
    ];
    let known: Vec<&k8s::NodeCondition> = known.conditions.iter().flatten().collect();
    let condition = |(type_, status, reason, message): (&str, &str, &str, &str)| {
        let unchanged = known.iter().find(|old| old.type_ == type_ && old.status == status);
        let since = unchanged.and_then(|old| old.last_transition_time.clone());
        k8s::NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: since.or_else(|| Some(now.clone())),
        }
    };
    let theirs = known.iter().filter(|old| ours.iter().all(|(type_, ..)| old.type_ != *type_));
    ours.into_iter().map(condition).chain(theirs.map(|old| (*old).clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_the_time_of_its_last_change_and_strangers_are_kept() {
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let old = |type_: &str, status: &str| k8s::NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            last_transition_time: Some(at(1)),
            ..k8s::NodeCondition::default()
        };
        let conditions_known = vec![old("Ready", "Unknown"), old("DiskPressure", "False"), old("Custom", "True")];
        let known = k8s::NodeStatus { conditions: Some(conditions_known), ..k8s::NodeStatus::default() };
        let found: Vec<String> = conditions(&known, &at(9))
            .into_iter()
            .map(|c| format!("{}={} since {}", c.type_, c.status, c.last_transition_time.unwrap().0.as_second()))
            .collect();
        let expected = [
            "MemoryPressure=False since 9",
            "DiskPressure=False since 1",
            "PIDPressure=False since 9",
            "Ready=True since 9",
            "Custom=True since 1",
        ];
        assert_eq!(found, expected);
    }
}
