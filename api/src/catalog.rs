//! Every resource the API serves, as one table.
//!
//! What differs between resources is a row or a word here, never a handler of its own.

use std::sync::{Arc, OnceLock};

use crate::kinds::{Resource, Subresource};
use crate::schema::Schema;

pub(crate) const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces are deleted one by one.
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
pub(crate) const CHANGE: &[&str] = &["get", "patch", "update"];

/// Lives in a namespace.
const N: u8 = 1;
/// Has `status` and a subresource for it.
const S: u8 = 2;
/// Counts changes of its specification in `metadata.generation`.
const G: u8 = 4;
/// Is part of `kubectl get all`.
const A: u8 = 8;
/// Has a `scale` subresource.
const R: u8 = 16;
/// Is a question: it can be created, and is answered instead of stored.
const Q: u8 = 32;

/// plural, kind, short names, traits.
type Row = (&'static str, &'static str, &'static str, u8);

/// Group and version with their rows, in discovery's order.
const TABLE: &[(&str, &str, &[Row])] = &[
    (
        "",
        "v1",
        &[
            ("bindings", "Binding", "", N | Q),
            ("configmaps", "ConfigMap", "cm", N),
            ("endpoints", "Endpoints", "ep", N),
            ("events", "Event", "ev", N),
            ("limitranges", "LimitRange", "limits", N),
            ("namespaces", "Namespace", "ns", S),
            ("nodes", "Node", "no", S),
            ("persistentvolumeclaims", "PersistentVolumeClaim", "pvc", N | S),
            ("persistentvolumes", "PersistentVolume", "pv", S),
            ("pods", "Pod", "po", N | S | A),
            ("podtemplates", "PodTemplate", "", N | G),
            ("replicationcontrollers", "ReplicationController", "rc", N | S | G | A | R),
            ("resourcequotas", "ResourceQuota", "quota", N | S),
            ("secrets", "Secret", "", N),
            ("serviceaccounts", "ServiceAccount", "sa", N),
            ("services", "Service", "svc", N | S | A),
        ],
    ),
    (
        "apps",
        "v1",
        &[
            ("controllerrevisions", "ControllerRevision", "", N),
            ("daemonsets", "DaemonSet", "ds", N | S | G | A),
            ("deployments", "Deployment", "deploy", N | S | G | A | R),
            ("replicasets", "ReplicaSet", "rs", N | S | G | A | R),
            ("statefulsets", "StatefulSet", "sts", N | S | G | A | R),
        ],
    ),
    ("events.k8s.io", "v1", &[("events", "Event", "ev", N)]),
    (
        "authentication.k8s.io",
        "v1",
        &[("selfsubjectreviews", "SelfSubjectReview", "", Q), ("tokenreviews", "TokenReview", "", Q)],
    ),
    (
        "authorization.k8s.io",
        "v1",
        &[
            ("localsubjectaccessreviews", "LocalSubjectAccessReview", "", N | Q),
            ("selfsubjectaccessreviews", "SelfSubjectAccessReview", "", Q),
            ("selfsubjectrulesreviews", "SelfSubjectRulesReview", "", Q),
            ("subjectaccessreviews", "SubjectAccessReview", "", Q),
        ],
    ),
    ("autoscaling", "v2", &[("horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", N | S | A)]),
    ("autoscaling", "v1", &[("horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", N | S | A)]),
    ("batch", "v1", &[("cronjobs", "CronJob", "cj", N | S | G | A), ("jobs", "Job", "", N | S | G | A)]),
    ("certificates.k8s.io", "v1", &[("certificatesigningrequests", "CertificateSigningRequest", "csr", S)]),
    (
        "networking.k8s.io",
        "v1",
        &[
            ("ingressclasses", "IngressClass", "", G),
            ("ingresses", "Ingress", "ing", N | S | G),
            ("ipaddresses", "IPAddress", "ip", 0),
            ("networkpolicies", "NetworkPolicy", "netpol", N | G),
            ("servicecidrs", "ServiceCIDR", "", S),
        ],
    ),
    ("policy", "v1", &[("poddisruptionbudgets", "PodDisruptionBudget", "pdb", N | S | G)]),
    (
        "rbac.authorization.k8s.io",
        "v1",
        &[
            ("clusterrolebindings", "ClusterRoleBinding", "", 0),
            ("clusterroles", "ClusterRole", "", 0),
            ("rolebindings", "RoleBinding", "", N),
            ("roles", "Role", "", N),
        ],
    ),
    (
        "storage.k8s.io",
        "v1",
        &[
            ("csidrivers", "CSIDriver", "", G),
            ("csinodes", "CSINode", "", 0),
            ("csistoragecapacities", "CSIStorageCapacity", "", N),
            ("storageclasses", "StorageClass", "sc", 0),
            ("volumeattachments", "VolumeAttachment", "", S),
        ],
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        &[
            ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", "", G),
            ("validatingadmissionpolicies", "ValidatingAdmissionPolicy", "", S | G),
            ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", "", G),
            ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", "", G),
        ],
    ),
    ("apiextensions.k8s.io", "v1", &[("customresourcedefinitions", "CustomResourceDefinition", "crd crds", S | G)]),
    ("scheduling.k8s.io", "v1", &[("priorityclasses", "PriorityClass", "pc", G)]),
    ("coordination.k8s.io", "v1", &[("leases", "Lease", "", N)]),
    ("node.k8s.io", "v1", &[("runtimeclasses", "RuntimeClass", "", 0)]),
    ("discovery.k8s.io", "v1", &[("endpointslices", "EndpointSlice", "", N | G)]),
    (
        "flowcontrol.apiserver.k8s.io",
        "v1",
        &[
            ("flowschemas", "FlowSchema", "", S | G),
            ("prioritylevelconfigurations", "PriorityLevelConfiguration", "", S | G),
        ],
    ),
];

/// resource, subresource, kind with its group and version (empty: the resource's own), verbs.
const SUBRESOURCES: &[(&str, &str, &str, &str, &[&str])] = &[
    ("certificatesigningrequests.certificates.k8s.io", "approval", "", "", CHANGE),
    ("namespaces", "finalize", "", "", &["update"]),
    ("nodes", "proxy", "NodeProxyOptions", "v1", &["create", "delete", "get", "patch", "update"]),
    ("pods", "attach", "PodAttachOptions", "v1", &["create", "get"]),
    ("pods", "binding", "Binding", "v1", CREATE),
    ("pods", "ephemeralcontainers", "", "", CHANGE),
    ("pods", "eviction", "Eviction", "policy/v1", CREATE),
    ("pods", "exec", "PodExecOptions", "v1", &["create", "get"]),
    ("pods", "log", "", "", &["get"]),
    ("pods", "portforward", "PodPortForwardOptions", "v1", &["create", "get"]),
    ("pods", "proxy", "PodProxyOptions", "v1", &["create", "delete", "get", "patch", "update"]),
    ("pods", "resize", "", "", CHANGE),
    ("serviceaccounts", "token", "TokenRequest", "authentication.k8s.io/v1", CREATE),
    ("services", "proxy", "ServiceProxyOptions", "v1", &["create", "delete", "get", "patch", "update"]),
];

/// resource, the paths that field selectors may use (upstream's field label conversions).
const SELECTABLE: &[(&str, &[&str])] = &[
    ("certificatesigningrequests.certificates.k8s.io", &["spec.signerName"]),
    (
        "events",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    ),
    ("jobs.batch", &["status.successful"]),
    ("namespaces", &["status.phase"]),
    ("nodes", &["spec.unschedulable"]),
    (
        "pods",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
    ),
    ("replicasets.apps", &["status.replicas"]),
    ("replicationcontrollers", &["status.replicas"]),
    ("secrets", &["type"]),
    ("services", &["spec.clusterIP", "spec.type"]),
];

/// The resources that are served.
#[derive(Clone, Debug)]
pub struct Catalog {
    rows: Arc<[Arc<Resource>]>,
}

impl Catalog {
    /// Kubernetes' own resources.
    #[must_use]
    pub fn builtin() -> Self {
        static CATALOG: OnceLock<Catalog> = OnceLock::new();
        let build = |&(group, version, rows): &(&str, &str, &'static [Row])| {
            let (group, version) = (group.to_owned(), version.to_owned());
            rows.iter().map(move |row| Arc::new(resource(&group, &version, row)))
        };
        CATALOG.get_or_init(|| Self { rows: TABLE.iter().flat_map(build).collect() }).clone()
    }

    /// Kubernetes' own resources and the ones that users defined, which must be grouped as [`Catalog::iter`] says.
    #[must_use]
    pub fn with(custom: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        Self { rows: Self::builtin().rows.iter().cloned().chain(custom).collect() }
    }

    /// The resource behind a URL. The group is empty for the core group.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.iter().find(|row| row.plural == plural && row.group == group && row.version == version)
    }

    /// The resource of a kind, as bodies and owner references name it.
    #[must_use]
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.iter().find(|row| row.kind == kind && row.group == group && row.version == version)
    }

    /// The resource that keys name: `pods`, `deployments.apps`. Of several versions the preferred one, and of
    /// several groups the core group: what Kubernetes' own resources are stored as.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<Resource>> {
        self.iter().find(|row| &*row.name == name)
    }

    /// Every resource: by group in discovery's order, preferred version first, then by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.rows.iter()
    }

    /// The groups in discovery's order, the core group (`""`) first, each with its versions, preferred first.
    #[must_use]
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for row in self.iter() {
            let index = groups.iter().position(|(group, _)| *group == row.group).unwrap_or_else(|| {
                groups.push((&row.group, Vec::new()));
                groups.len() - 1
            });
            if !groups[index].1.contains(&row.version.as_str()) {
                groups[index].1.push(&row.version);
            }
        }
        groups
    }
}

fn resource(group: &str, version: &str, &(plural, kind, short, traits): &Row) -> Resource {
    let has = |flag| traits & flag != 0;
    // Events of both groups are the same objects, so they have one name.
    let bare = group.is_empty() || group == "events.k8s.io";
    let name: Arc<str> = if bare { plural.into() } else { format!("{plural}.{group}").into() };
    let message = message(group, version, kind);
    let fields = SELECTABLE.iter().find(|(resource, _)| *resource == &*name).map_or(&[][..], |(_, fields)| fields);
    let verbs = match plural {
        _ if has(Q) => CREATE,
        "namespaces" => NAMESPACE_VERBS,
        _ => ALL_VERBS,
    };
    let own = |name, verbs| subresource(name, (group, version, kind), verbs);
    let mut subresources = Vec::new();
    for &(_, name, kind, api_version, verbs) in SUBRESOURCES.iter().filter(|(resource, ..)| *resource == &*name) {
        subresources.push(match api_version.rsplit_once('/').unwrap_or(("", api_version)) {
            (_, "") => own(name, verbs),
            (group, version) => subresource(name, (group, version, kind), verbs),
        });
    }
    if has(R) {
        subresources.push(subresource("scale", ("autoscaling", "v1", "Scale"), CHANGE));
    }
    if has(S) {
        subresources.push(own("status", CHANGE));
    }
    Resource {
        name: name.clone(),
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        short_names: short.split(' ').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        categories: if has(A) { vec!["all".to_owned()] } else { Vec::new() },
        namespaced: has(N),
        message,
        verbs,
        subresources,
        selectable_fields: fields.iter().map(|&field| field.to_owned()).collect(),
        has_generation: has(G),
        has_status: has(S),
        custom: None,
    }
}

fn subresource(
    name: &'static str,
    (group, version, kind): (&str, &str, &str),
    verbs: &'static [&'static str],
) -> Subresource {
    let message = message(group, version, kind);
    Subresource { name, kind: kind.into(), group: group.into(), version: version.into(), message, verbs }
}

fn message(group: &str, version: &str, kind: &str) -> String {
    let message = Schema::builtin().message_of(group, version, kind);
    message.expect("every row names a message of the table").name.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole() {
        let catalog = Catalog::builtin();
        let mut names: Vec<_> = catalog.iter().map(|row| (&*row.name, &*row.group, &*row.version)).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "no row twice");
        let names: Vec<&str> = catalog.iter().map(|row| &*row.name).collect();
        for (name, ..) in SUBRESOURCES {
            assert!(names.contains(name), "{name}");
        }
        for (name, _) in SELECTABLE {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn a_resource_is_found_by_url_by_kind_and_by_name() {
        let catalog = Catalog::builtin();
        let deployments = catalog.find("apps", "v1", "deployments").unwrap();
        assert_eq!((&*deployments.name, deployments.api_version()), ("deployments.apps", "apps/v1".into()));
        assert_eq!(deployments.message, "k8s.io/api/apps/v1.Deployment");
        assert!(Arc::ptr_eq(deployments, catalog.by_kind("apps", "v1", "Deployment").unwrap()));
        assert!(Arc::ptr_eq(deployments, catalog.by_name("deployments.apps").unwrap()));
        assert!(catalog.find("", "v1", "deployments").is_none());
    }

    /// kubectl drain deletes instead of evicting when the entry does not say `policy/v1`.
    #[test]
    fn eviction_is_policys() {
        let catalog = Catalog::builtin();
        let eviction = catalog.by_name("pods").unwrap().subresource("eviction").unwrap().clone();
        assert_eq!(
            (eviction.group.as_str(), eviction.version.as_str(), eviction.kind.as_str()),
            ("policy", "v1", "Eviction")
        );
    }

    #[test]
    fn groups_come_in_discoverys_order() {
        let catalog = Catalog::builtin();
        let groups = catalog.groups();
        assert_eq!(groups[0], ("", vec!["v1"]));
        assert_eq!(groups[1], ("apps", vec!["v1"]));
    }
}
