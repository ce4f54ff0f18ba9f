//! Puts Deployments to sleep that nobody has called for as long as their annotation `kogia.dev/scale-to-zero` says.
//!
//! Asleep means `spec.replicas: 0`; how many there were is kept in `kogia.dev/awake-replicas`, and the nodes wake it by
//! its `scale` when a call to one of its Services finds nobody. What is known of calls is a Lease beside the
//! Deployment: nodes move `renewTime` on while they see traffic, `acquireTime` is when it was last woken, by whomever.

use api::{Action, Change, ChangeKind, Key, Object, Precondition, Severity, View};
use serde_json::{Value, json};

use crate::deployment::KIND;
use crate::{World, limits, moment, owner, status};

const ANNOTATION: &str = "kogia.dev/scale-to-zero";
const AWAKE: &str = "kogia.dev/awake-replicas";
const LEASES: &str = "leases.coordination.k8s.io";
const LEASE_PREFIX: &str = "kogia-traffic-";

/// A Deployment wakes with itself, and with its Lease when that comes or goes. A renewed one only puts the next look
/// off, which the turn at the old time finds out.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    let key = &object.key;
    let deployment = match &*key.resource {
        LEASES if change.kind != ChangeKind::Modified => {
            key.name.strip_prefix(LEASE_PREFIX).and_then(|name| view.get(KIND.resource, &key.namespace, name))
        }
        resource if resource == KIND.resource => Some(object),
        _ => None,
    };
    let sleeps = deployment.filter(|deployment| deployment.annotation(ANNOTATION).is_some());
    sleeps.map(|deployment| deployment.key.clone()).into_iter().collect()
}

/// One Deployment.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let deployment = world.view.at(key).filter(|deployment| deployment.deletion_timestamp().is_none());
    let Some((deployment, asked)) = deployment.and_then(|one| Some((one, one.annotation(ANNOTATION)?))) else {
        return Vec::new();
    };
    let Some(idle_ms) = idle_ms(asked) else {
        let message = format!(
            "The annotation {ANNOTATION} is {asked:?}; it takes a duration from {} to {}, such as 60s",
            spelled(limits::IDLE_MIN_MS),
            spelled(limits::IDLE_MAX_MS)
        );
        return vec![tell(deployment, Severity::Warning, "InvalidScaleToZero", message)];
    };
    let name = format!("{LEASE_PREFIX}{}", deployment.name());
    let lease = world.view.get(LEASES, deployment.namespace(), &name);
    let Some(lease) = lease else { return vec![create_lease(world, deployment, &name)] };
    let time = |field: &str| moment::ms(lease.field(field));
    let (woken, called) = (time("spec.acquireTime"), time("spec.renewTime"));
    let replicas = deployment.field("spec.replicas").as_i64().unwrap_or(1);
    match woken {
        None if replicas == 0 => Vec::new(),
        Some(_) if replicas == 0 => vec![mark(lease, &Value::Null)],
        None => vec![mark(lease, &json!(api::time::micro(world.now_ms))), look_at(world.now_ms + late(idle_ms), world)],
        Some(woken) => {
            let due = woken.max(called.unwrap_or(woken)) + late(idle_ms);
            if due > world.now_ms {
                return vec![look_at(due, world)];
            }
            let message = format!("Scaled to zero from {replicas}: no calls for {}", spelled(idle_ms));
            vec![
                // First, so that whoever wakes it in this moment starts a new time.
                mark(lease, &Value::Null),
                status::patch(
                    deployment,
                    json!({
                        "spec": {"replicas": 0},
                        "metadata": {"annotations": {AWAKE: replicas.to_string()}},
                    }),
                ),
                tell(deployment, Severity::Normal, "ScaledToZero", message),
            ]
        }
    }
}

/// How long after the last report nobody can have called: a report may be late.
fn late(idle_ms: i64) -> i64 {
    idle_ms + idle_ms / 4 + limits::TRAFFIC_DELAY_MS
}

fn idle_ms(text: &str) -> Option<i64> {
    let millis = api::time::parse_duration(text)? / 1_000_000;
    (limits::IDLE_MIN_MS..=limits::IDLE_MAX_MS).contains(&millis).then_some(millis)
}

fn spelled(millis: i64) -> String {
    api::time::duration(millis.saturating_mul(1_000_000))
}

fn look_at(due_ms: i64, world: &World<'_>) -> Action {
    Action::Again { after_ms: moment::until(due_ms, world.now_ms) }
}

fn mark(lease: &Object, woken: &Value) -> Action {
    Action::Patch {
        key: lease.key.clone(),
        subresource: None,
        patch: json!({"spec": {"acquireTime": woken}}),
        precondition: Precondition::same(lease),
    }
}

fn create_lease(world: &World<'_>, deployment: &Object, name: &str) -> Action {
    let now = api::time::micro(world.now_ms);
    let body = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": name, "namespace": deployment.namespace(),
            "ownerReferences": [owner::reference(deployment, &KIND)],
        },
        "spec": {"renewTime": now},
    });
    Action::Create { key: Key::new(LEASES, deployment.key.namespace.clone(), name), body }
}

fn tell(deployment: &Object, severity: Severity, reason: &'static str, message: String) -> Action {
    Action::Tell {
        about: deployment.key.clone(),
        uid: deployment.uid().to_owned(),
        kind: KIND.kind,
        severity,
        reason,
        message,
    }
}
