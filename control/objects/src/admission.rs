//! What the cluster itself decides about a new or changed object: the built-in mutating admission of kube-apiserver,
//! as pure functions over a view. Refusals are 403, as upstream gives them.

use std::sync::Arc;

use api::custom::DEFINITIONS;
use api::meta;
use api::{Object, Resource, Status, View};
use serde_json::{Value, json};

use crate::allocate;
use crate::request::User;

mod limit_range;
pub(crate) mod quota;
mod storage;
mod token;

/// How long a pod stays on a node that is not ready or unreachable (`DefaultTolerationSeconds`), where the cluster says
/// nothing else.
const TOLERATION_SECONDS: u64 = 300;
/// The ConfigMap in `kube-system` in which a cluster says what holds for all its members.
pub const CLUSTER: &str = "kogia-cluster";

/// One object on its way in.
pub(crate) struct Entrant<'a> {
    pub(crate) who: &'a User,
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    /// The stored object that it replaces.
    pub(crate) old: Option<&'a Object>,
    /// How many free addresses and ports to leave to others.
    pub(crate) skip: usize,
}

/// Refuses objects of namespaces that are not there or are going (`NamespaceLifecycle`).
pub(crate) fn namespace_open(view: &View, resource: &Resource, namespace: &str, name: &str) -> Result<(), Status> {
    if !resource.namespaced {
        return Ok(());
    }
    let home = view.get("namespaces", "", namespace).ok_or_else(|| Status::not_found("namespaces", namespace))?;
    if home.deletion_timestamp().is_none() && home.field("status.phase") != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = Status::forbidden(&resource.name, name, &why);
    status.causes.push(api::Cause {
        reason: "NamespaceTerminating",
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".into(),
    });
    Err(status)
}

/// Refuses new objects of a resource whose definition is going.
pub(crate) fn definition_open(view: &View, resource: &Resource, name: &str) -> Result<(), Status> {
    let going = resource.custom.is_some()
        && view.get(DEFINITIONS, "", &resource.name).is_none_or(|found| found.deletion_timestamp().is_some());
    if going {
        let message = "create not allowed while custom resource definition is terminating";
        return Err(Status::new(405, "MethodNotAllowed", message).about(&resource.name, name));
    }
    Ok(())
}

/// Lets an object in, filled up with what the cluster decides.
pub(crate) fn admit(view: &View, entrant: &Entrant<'_>, value: &mut Value) -> Result<(), Status> {
    let creating = entrant.old.is_none();
    match &*entrant.resource.name {
        "pods" if creating => pod(view, entrant, value),
        "services" => allocate::service(view, entrant.old, value, entrant.skip)
            .map_err(|causes| Status::invalid("", "Service", meta::name(value), causes)),
        "namespaces" => {
            namespace(value, creating);
            Ok(())
        }
        "jobs.batch" if creating => {
            job(value);
            Ok(())
        }
        "persistentvolumeclaims" => storage::claim(view, entrant, value),
        "persistentvolumes" if creating => {
            storage::volume(value);
            Ok(())
        }
        "certificatesigningrequests.certificates.k8s.io" if creating => {
            requester(entrant.who, value);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn refuse(name: &str, why: &str) -> Status {
    Status::forbidden("pods", name, why)
}

fn pod(view: &View, entrant: &Entrant<'_>, value: &mut Value) -> Result<(), Status> {
    let name = meta::name(value).to_owned();
    if !value["spec"].is_object() {
        return Ok(());
    }
    let uid = meta::uid(value).to_owned();
    service_account(view, entrant.namespace, (&name, &uid), &mut value["spec"])?;
    tolerations(toleration_seconds(view), &mut value["spec"]);
    priority(view, &name, &mut value["spec"])?;
    runtime_class(view, &name, &mut value["spec"])?;
    limit_range::pod(view, entrant.namespace, value).map_err(|why| refuse(&name, &why))
}

/// `ServiceAccount`: every pod has one; its pull secrets are the pod's unless the pod names its own, and its token is mounted.
fn service_account(view: &View, namespace: &str, (pod, uid): (&str, &str), spec: &mut Value) -> Result<(), Status> {
    let account = match spec["serviceAccountName"].as_str().or(spec["serviceAccount"].as_str()) {
        Some(account) if !account.is_empty() => account.to_owned(),
        _ => "default".to_owned(),
    };
    let found = view.get("serviceaccounts", namespace, &account);
    match found {
        Some(found) => {
            let secrets = found.field("imagePullSecrets");
            if spec["imagePullSecrets"].is_null() && secrets.as_array().is_some_and(|list| !list.is_empty()) {
                spec["imagePullSecrets"] = secrets.clone();
            }
        }
        // The account `default` of a new namespace comes a moment after it; its pods need not wait for that.
        None if account == "default" => {}
        None => {
            let missing = Status::not_found("serviceaccount", &account).message.clone();
            return Err(refuse(pod, &format!("error looking up service account {namespace}/{account}: {missing}")));
        }
    }
    spec["serviceAccountName"] = json!(account);
    spec["serviceAccount"] = json!(account);
    token::mount(found.map(|found| &**found), uid, spec);
    Ok(())
}

/// What kube-apiserver has flags for: the same on all members, because it stands in the cluster itself.
fn toleration_seconds(view: &View) -> u64 {
    let cluster = view.get("configmaps", "kube-system", CLUSTER);
    let said = cluster.and_then(|cluster| cluster.value["data"]["tolerationSeconds"].as_str()?.parse().ok());
    said.unwrap_or(TOLERATION_SECONDS)
}

/// `DefaultTolerationSeconds`.
fn tolerations(seconds: u64, spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = spec["tolerations"].as_array().into_iter().flatten().any(|toleration| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            [key, ""].contains(&text("key")) && ["NoExecute", ""].contains(&text("effect"))
        });
        if !tolerated {
            let toleration = json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
            });
            match spec["tolerations"].as_array_mut() {
                Some(list) => list.push(toleration),
                None => spec["tolerations"] = json!([toleration]),
            }
        }
    }
}

/// `Priority`.
fn priority(view: &View, pod: &str, spec: &mut Value) -> Result<(), Status> {
    const CLASSES: &str = "priorityclasses.scheduling.k8s.io";
    let wanted = spec["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class: Option<&Arc<Object>> = if wanted.is_empty() {
        let defaults = view.list(CLASSES).filter(|class| class.field("globalDefault") == true);
        defaults.min_by_key(|class| class.field("value").as_i64())
    } else {
        view.get(CLASSES, "", &wanted)
    };
    let value = match (&*wanted, class) {
        (_, Some(class)) => class.field("value").as_i64().unwrap_or(0),
        ("", None) => 0,
        ("system-cluster-critical", None) => 2_000_000_000,
        ("system-node-critical", None) => 2_000_001_000,
        (_, None) => return Err(refuse(pod, &format!("no PriorityClass with name {wanted} was found"))),
    };
    if spec["priority"].as_i64().is_some_and(|given| given != value) {
        let given = &spec["priority"];
        return Err(refuse(
            pod,
            &format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {value} from the given PriorityClass name"
            ),
        ));
    }
    let policy = class.and_then(|class| class.field("preemptionPolicy").as_str()).unwrap_or("PreemptLowerPriority");
    if spec["preemptionPolicy"].as_str().is_some_and(|given| given != policy) {
        let given = &spec["preemptionPolicy"];
        return Err(refuse(
            pod,
            &format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority \
                 admission controller computed {policy} from the given PriorityClass name"
            ),
        ));
    }
    spec["priority"] = json!(value);
    spec["preemptionPolicy"] = json!(policy);
    if let (true, Some(class)) = (wanted.is_empty(), class) {
        spec["priorityClassName"] = json!(class.name());
    }
    Ok(())
}

/// `RuntimeClass`: it must exist; its overhead and scheduling become the pod's.
fn runtime_class(view: &View, pod: &str, spec: &mut Value) -> Result<(), Status> {
    let Some(name) = spec["runtimeClassName"].as_str().filter(|name| !name.is_empty()) else { return Ok(()) };
    let Some(class) = view.get("runtimeclasses.node.k8s.io", "", name) else {
        return Err(refuse(pod, &format!("pod rejected: RuntimeClass {name:?} not found")));
    };
    let overhead = class.field("overhead.podFixed");
    if overhead.is_object() && spec["overhead"].is_null() {
        spec["overhead"] = overhead.clone();
    }
    for (label, wanted) in class.field("scheduling.nodeSelector").as_object().into_iter().flatten() {
        let selector = meta::object_mut(spec, "nodeSelector");
        if selector.get(label).is_some_and(|value| value != wanted) {
            let why =
                format!("conflict: runtimeClass.scheduling.nodeSelector[{label}] = {wanted}; pod wants another value");
            return Err(refuse(pod, &why));
        }
        selector.insert(label.clone(), wanted.clone());
    }
    if let Some(more) = class.field("scheduling.tolerations").as_array()
        && let Some(list) = spec["tolerations"].as_array_mut()
    {
        let fresh: Vec<Value> = more.iter().filter(|toleration| !list.contains(toleration)).cloned().collect();
        list.extend(fresh);
    }
    Ok(())
}

/// `namespaceStrategy`: the finalizer that lets content go first, and the label that selectors use.
fn namespace(value: &mut Value, creating: bool) {
    let name = meta::name(value).to_owned();
    meta::metadata_map_mut(value, "labels").insert("kubernetes.io/metadata.name".into(), json!(name));
    if creating {
        meta::object_mut(value, "spec").insert("finalizers".into(), json!(["kubernetes"]));
        meta::object_mut(value, "status").insert("phase".into(), json!("Active"));
    }
}

/// `jobStrategy.generateSelector`: a job finds its pods by its own uid.
fn job(value: &mut Value) {
    if value["spec"]["manualSelector"] == true || !value["spec"].is_object() {
        return;
    }
    let (name, uid) = (meta::name(value).to_owned(), meta::uid(value).to_owned());
    let template = &mut value["spec"]["template"];
    let labels = meta::metadata_map_mut(template, "labels");
    for (label, text) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels.insert(label.into(), json!(text));
    }
    let spec = &mut value["spec"];
    meta::object_mut(meta_slot(spec, "selector"), "matchLabels")
        .insert("batch.kubernetes.io/controller-uid".into(), json!(uid));
}

fn meta_slot<'a>(parent: &'a mut Value, field: &str) -> &'a mut Value {
    meta::object_mut(parent, field);
    &mut parent[field]
}

/// `csrStrategy`: a request says who made it, whatever its body claims.
fn requester(who: &User, value: &mut Value) {
    let spec = meta::object_mut(value, "spec");
    spec.insert("username".into(), json!(who.name));
    spec.insert("groups".into(), json!(who.groups));
    spec.remove("uid");
    spec.remove("extra");
    if !who.uid.is_empty() {
        spec.insert("uid".into(), json!(who.uid));
    }
    if !who.extra.is_empty() {
        spec.insert("extra".into(), json!(who.extra));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key, catalog::Catalog};

    fn view(objects: &[(&str, &str, &str, Value)]) -> View {
        let mut view = View::default();
        for (resource, namespace, name, value) in objects {
            let mut value = value.clone();
            meta::metadata_mut(&mut value).insert("name".into(), json!(name));
            let object = Object::new(Key::new(*resource, *namespace, *name), view.revision() + 1, value);
            view.apply(ChangeKind::Added, &Arc::new(object));
        }
        view
    }

    fn admitted(view: &View, spec: &Value) -> Result<Value, String> {
        let catalog = Catalog::builtin();
        let entrant = Entrant {
            who: &User::system("system:admin"),
            resource: catalog.by_name("pods").unwrap(),
            namespace: "shop",
            old: None,
            skip: 0,
        };
        let mut value = json!({"metadata": {"name": "web"}, "spec": spec});
        admit(view, &entrant, &mut value).map_err(|refusal| refusal.message.clone())?;
        Ok(value["spec"].take())
    }

    #[test]
    fn a_pod_gets_an_account_tolerations_and_a_priority() {
        let spec = admitted(&View::default(), &json!({"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}));
        let spec = spec.unwrap();
        assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
        assert_eq!(spec["preemptionPolicy"], json!("PreemptLowerPriority"));
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), 1, "it tolerates everything already");
        let plain = admitted(&View::default(), &json!({})).unwrap();
        assert_eq!(plain["tolerations"][1]["key"], json!("node.kubernetes.io/unreachable"));
        let refused = admitted(&View::default(), &json!({"serviceAccountName": "robot"})).unwrap_err();
        assert_eq!(
            refused,
            "pods \"web\" is forbidden: error looking up service account shop/robot: serviceaccount \"robot\" not found"
        );
    }

    #[test]
    fn priority_comes_from_a_class() {
        let classes = "priorityclasses.scheduling.k8s.io";
        let view = view(&[
            (classes, "", "high", json!({"value": 100, "preemptionPolicy": "Never"})),
            (classes, "", "usual", json!({"value": 5, "globalDefault": true})),
        ]);
        let high = admitted(&view, &json!({"priorityClassName": "high"})).unwrap();
        assert_eq!((&high["priority"], &high["preemptionPolicy"]), (&json!(100), &json!("Never")));
        let usual = admitted(&view, &json!({})).unwrap();
        assert_eq!((&usual["priority"], &usual["priorityClassName"]), (&json!(5), &json!("usual")));
        let critical = admitted(&view, &json!({"priorityClassName": "system-node-critical"})).unwrap();
        assert_eq!(critical["priority"], json!(2_000_001_000));
        assert!(admitted(&view, &json!({"priorityClassName": "no"})).unwrap_err().contains("no PriorityClass"));
        assert!(admitted(&view, &json!({"priority": 7})).unwrap_err().contains("computed 5"));
    }

    #[test]
    fn a_runtime_class_must_exist_and_gives_its_overhead() {
        let class = json!({"handler": "wasm", "overhead": {"podFixed": {"memory": "1Mi"}},
            "scheduling": {"nodeSelector": {"wasm": "yes"}}});
        let view = view(&[("runtimeclasses.node.k8s.io", "", "wasm", class)]);
        let spec = admitted(&view, &json!({"runtimeClassName": "wasm"})).unwrap();
        assert_eq!(spec["overhead"], json!({"memory": "1Mi"}));
        assert_eq!(spec["nodeSelector"], json!({"wasm": "yes"}));
        assert!(admitted(&view, &json!({"runtimeClassName": "gvisor"})).unwrap_err().ends_with("not found"));
    }
}
