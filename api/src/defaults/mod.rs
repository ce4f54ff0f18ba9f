//! What Kubernetes fills in when nobody said it.
//!
//! Source: `pkg/apis/*/v1/defaults.go` and the `+default` markers of the types. A walk over the object and its schema
//! meets every message once; [`ROWS`] gives the constant defaults by message and field, [`rules`] those that depend on
//! other fields, the schema the markers. Applying them again changes nothing. What needs the clock, randomness or other
//! objects (uids, cluster addresses, admission) is not here.

mod rules;

use serde_json::{Map, Value};

use crate::kinds::Resource;
use crate::schema::{Message, Schema, Shape};
use crate::structural;

/// A JSON constant; `Empty` is `{}`.
#[derive(Clone, Copy)]
enum Constant {
    Text(&'static str),
    Number(i64),
    Flag(bool),
    Empty,
}

use Constant::{Empty, Flag, Number, Text};

impl Constant {
    fn value(self) -> Value {
        match self {
            Text(text) => text.into(),
            Number(number) => number.into(),
            Flag(flag) => flag.into(),
            Empty => Value::Object(Map::new()),
        }
    }
}

/// A message without its `k8s.io/api/`, and its fields with the value they get when absent.
type Row = (&'static str, &'static [(&'static str, Constant)]);

const ROWS: &[Row] = &[
    ("core/v1.Pod", &[("status", Empty)]),
    ("core/v1.PodStatus", &[("phase", Text("Pending"))]),
    (
        "core/v1.PodSpec",
        &[
            ("dnsPolicy", Text("ClusterFirst")),
            ("restartPolicy", Text("Always")),
            ("schedulerName", Text("default-scheduler")),
            ("securityContext", Empty),
            ("terminationGracePeriodSeconds", Number(30)),
        ],
    ),
    ("core/v1.Container", CONTAINER),
    ("core/v1.EphemeralContainer", CONTAINER),
    (
        "core/v1.Probe",
        &[
            ("timeoutSeconds", Number(1)),
            ("periodSeconds", Number(10)),
            ("successThreshold", Number(1)),
            ("failureThreshold", Number(3)),
        ],
    ),
    ("core/v1.HTTPGetAction", &[("path", Text("/")), ("scheme", Text("HTTP"))]),
    ("core/v1.SecretVolumeSource", &[("defaultMode", Number(0o644))]),
    ("core/v1.ConfigMapVolumeSource", &[("defaultMode", Number(0o644))]),
    ("core/v1.DownwardAPIVolumeSource", &[("defaultMode", Number(0o644))]),
    ("core/v1.ProjectedVolumeSource", &[("defaultMode", Number(0o644))]),
    ("core/v1.ServiceAccountTokenProjection", &[("expirationSeconds", Number(3600))]),
    ("core/v1.HostPathVolumeSource", &[("type", Text(""))]),
    ("core/v1.ObjectFieldSelector", &[("apiVersion", Text("v1"))]),
    ("core/v1.ServiceSpec", &[("sessionAffinity", Text("None")), ("type", Text("ClusterIP"))]),
    ("core/v1.EndpointPort", &[("protocol", Text("TCP"))]),
    ("core/v1.Secret", &[("type", Text("Opaque"))]),
    ("core/v1.Namespace", &[("status", Empty)]),
    ("core/v1.NamespaceStatus", &[("phase", Text("Active"))]),
    ("core/v1.PersistentVolume", &[("status", Empty)]),
    ("core/v1.PersistentVolumeStatus", &[("phase", Text("Pending"))]),
    (
        "core/v1.PersistentVolumeSpec",
        &[("persistentVolumeReclaimPolicy", Text("Retain")), ("volumeMode", Text("Filesystem"))],
    ),
    ("core/v1.PersistentVolumeClaim", &[("status", Empty)]),
    ("core/v1.PersistentVolumeClaimStatus", &[("phase", Text("Pending"))]),
    ("core/v1.PersistentVolumeClaimSpec", &[("volumeMode", Text("Filesystem"))]),
    (
        "apps/v1.DeploymentSpec",
        &[
            ("replicas", Number(1)),
            ("strategy", Empty),
            ("revisionHistoryLimit", Number(10)),
            ("progressDeadlineSeconds", Number(600)),
        ],
    ),
    ("apps/v1.DeploymentStrategy", &[("type", Text("RollingUpdate"))]),
    ("apps/v1.RollingUpdateDeployment", &[("maxUnavailable", Text("25%")), ("maxSurge", Text("25%"))]),
    ("apps/v1.ReplicaSetSpec", &[("replicas", Number(1))]),
    ("apps/v1.DaemonSetSpec", &[("updateStrategy", Empty), ("revisionHistoryLimit", Number(10))]),
    ("apps/v1.DaemonSetUpdateStrategy", &[("type", Text("RollingUpdate"))]),
    ("apps/v1.RollingUpdateDaemonSet", &[("maxUnavailable", Number(1)), ("maxSurge", Number(0))]),
    (
        "apps/v1.StatefulSetSpec",
        &[
            ("replicas", Number(1)),
            ("podManagementPolicy", Text("OrderedReady")),
            ("updateStrategy", Empty),
            ("persistentVolumeClaimRetentionPolicy", Empty),
            ("revisionHistoryLimit", Number(10)),
        ],
    ),
    ("apps/v1.StatefulSetUpdateStrategy", &[("type", Text("RollingUpdate"))]),
    ("apps/v1.RollingUpdateStatefulSetStrategy", &[("partition", Number(0))]),
    (
        "apps/v1.StatefulSetPersistentVolumeClaimRetentionPolicy",
        &[("whenDeleted", Text("Retain")), ("whenScaled", Text("Retain"))],
    ),
    (
        "batch/v1.JobSpec",
        &[
            ("completionMode", Text("NonIndexed")),
            ("suspend", Flag(false)),
            ("podReplacementPolicy", Text("TerminatingOrFailed")),
        ],
    ),
    (
        "batch/v1.CronJobSpec",
        &[
            ("concurrencyPolicy", Text("Allow")),
            ("suspend", Flag(false)),
            ("successfulJobsHistoryLimit", Number(3)),
            ("failedJobsHistoryLimit", Number(1)),
        ],
    ),
    ("autoscaling/v2.HorizontalPodAutoscalerSpec", &[("minReplicas", Number(1))]),
    ("networking/v1.NetworkPolicyPort", &[("protocol", Text("TCP"))]),
    ("networking/v1.IngressClassParametersReference", &[("scope", Text("Cluster"))]),
    ("rbac/v1.RoleRef", &[("apiGroup", Text("rbac.authorization.k8s.io"))]),
    ("discovery/v1.EndpointPort", &[("name", Text("")), ("protocol", Text("TCP"))]),
    ("storage/v1.StorageClass", &[("reclaimPolicy", Text("Delete")), ("volumeBindingMode", Text("Immediate"))]),
    (
        "storage/v1.CSIDriverSpec",
        &[
            ("attachRequired", Flag(true)),
            ("podInfoOnMount", Flag(false)),
            ("storageCapacity", Flag(false)),
            ("fsGroupPolicy", Text("ReadWriteOnceWithFSType")),
            ("requiresRepublish", Flag(false)),
            ("seLinuxMount", Flag(false)),
        ],
    ),
    ("scheduling/v1.PriorityClass", &[("preemptionPolicy", Text("PreemptLowerPriority"))]),
    ("authentication/v1.TokenRequestSpec", &[("expirationSeconds", Number(3600))]),
    ("admissionregistration/v1.ValidatingWebhook", WEBHOOK),
    ("admissionregistration/v1.MutatingWebhook", WEBHOOK),
    ("admissionregistration/v1.ServiceReference", &[("port", Number(443))]),
    ("admissionregistration/v1.RuleWithOperations", &[("scope", Text("*"))]),
    ("admissionregistration/v1.NamedRuleWithOperations", &[("scope", Text("*"))]),
    ("admissionregistration/v1.ValidatingAdmissionPolicySpec", &[("failurePolicy", Text("Fail"))]),
    (
        "admissionregistration/v1.MatchResources",
        &[("matchPolicy", Text("Equivalent")), ("namespaceSelector", Empty), ("objectSelector", Empty)],
    ),
    ("flowcontrol/v1.FlowSchemaSpec", &[("matchingPrecedence", Number(1000))]),
    (
        "flowcontrol/v1.LimitedPriorityLevelConfiguration",
        &[("nominalConcurrencyShares", Number(30)), ("lendablePercent", Number(0))],
    ),
    (
        "flowcontrol/v1.ExemptPriorityLevelConfiguration",
        &[("nominalConcurrencyShares", Number(0)), ("lendablePercent", Number(0))],
    ),
    (
        "flowcontrol/v1.QueuingConfiguration",
        &[("queues", Number(64)), ("handSize", Number(8)), ("queueLengthLimit", Number(50))],
    ),
];

const CONTAINER: &[(&str, Constant)] = &[
    ("resources", Empty),
    ("terminationMessagePath", Text("/dev/termination-log")),
    ("terminationMessagePolicy", Text("File")),
];

const WEBHOOK: &[(&str, Constant)] = &[
    ("failurePolicy", Text("Fail")),
    ("matchPolicy", Text("Equivalent")),
    ("namespaceSelector", Empty),
    ("objectSelector", Empty),
    ("timeoutSeconds", Number(10)),
];

/// Fills in the defaults of an object and of everything inside it, pod templates included. The object has been
/// [checked](crate::check) before; `status` must be the one that is meant to stay.
pub fn apply(resource: &Resource, object: &mut Value) {
    if let Some(schema) = resource.schema() {
        structural::apply(object, schema);
        return;
    }
    let Some(map) = object.as_object_mut() else { return };
    if let Some(message) = Schema::builtin().message(&resource.message) {
        rules::of_object(&resource.name, map);
        fill(map, message);
    }
}

/// Depth is bounded by the value's own, which decoding bounds.
fn fill(map: &mut Map<String, Value>, message: &Message) {
    let name = message.name.strip_prefix("k8s.io/api/").unwrap_or(&message.name);
    let constants = ROWS.iter().find(|(row, _)| *row == name).map_or(&[][..], |(_, constants)| constants);
    for &(field, constant) in constants {
        set(map, field, || constant.value());
    }
    for field in message.fields.iter().filter(|field| field.default.is_some()) {
        let default = field.default.clone().unwrap_or_default();
        // Go's JSON would leave an empty default out again.
        if field.pointer || !field.omit_empty || !matches!(&default, Value::String(text) if text.is_empty()) {
            set(map, &field.json, || default);
        }
    }
    rules::of_message(name, map);
    for (name, value) in map.iter_mut() {
        let Some(field) = message.field(name) else { continue };
        let Some(nested) = field.message().and_then(|name| Schema::builtin().message(name)) else { continue };
        match (field.shape, value) {
            (Shape::One, Value::Object(map)) => fill(map, nested),
            (Shape::List, Value::Array(items)) => {
                items.iter_mut().filter_map(Value::as_object_mut).for_each(|map| fill(map, nested));
            }
            (Shape::Map, Value::Object(members)) => {
                members.values_mut().filter_map(Value::as_object_mut).for_each(|map| fill(map, nested));
            }
            _ => {}
        }
    }
}

/// Sets a field that is absent.
fn set(map: &mut Map<String, Value>, field: &str, value: impl FnOnce() -> Value) {
    if !map.contains_key(field) {
        map.insert(field.to_owned(), value());
    }
}

#[cfg(test)]
mod tests;
