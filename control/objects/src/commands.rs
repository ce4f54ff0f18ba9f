//! Subresources that are commands (binding, eviction), and the way drivers act.

use std::sync::Arc;

use api::selector::LabelSelector;
use api::{Action, Cause, Key, Object, Precondition, Resource, Status, View, meta};
use serde_json::{Value, json};

use crate::admission::namespace_open;
use crate::asked::Operation;
use crate::door::{Decision, Queue};
use crate::events::{self, Told};
use crate::limits::BUDGET_RETRY_SECONDS;
use crate::managed::{self, Writer};
use crate::plan::Request;
use crate::request::{DeleteOptions, Patch, User, WriteOptions};
use crate::shape::Shape;
use crate::webhooks::{self, Halt, Hearing};
use crate::{Objects, now_ms};

impl Objects {
    /// POST `pods/NAME/binding`: gives a pod to a node. The body is a core/v1 Binding.
    ///
    /// # Errors
    /// 400 without a target, 404, 409 when the pod is going, has a node already or is another one than the body's
    /// uid says.
    pub async fn bind_pod(
        &self,
        who: &User,
        namespace: &str,
        name: &str,
        body: &Value,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        let pods = self.resource("pods")?;
        let manager = manager_of(who, options);
        let request = Request {
            who,
            resource: &pods,
            namespace,
            manager: &manager,
            subresource: Some("binding"),
            dry_run: options.dry_run,
            now_ms: now_ms(),
        };
        let decide = |view: &View, hearing: &Hearing| {
            let body = webhooks::command(view, hearing, &request, (Operation::Create, name), body)?;
            let old = view.get(&pods.name, namespace, name).ok_or_else(|| Status::not_found(&pods.name, name))?;
            let value = bound(old, &body, &manager)?;
            Ok::<_, Halt>(Decision::Put { key: old.key.clone(), base: Some(old.clone()), value, beside: Vec::new() })
        };
        self.door.transact(options.dry_run, Queue::default(), decide).await.map(|_| ())
    }

    /// Asks webhooks about a conversation with an object (`exec`, `attach`, `portforward`, `proxy`) before it begins;
    /// answers what they warn of. The options are those of the subresource, such as a v1 `PodExecOptions`.
    ///
    /// # Errors
    /// 404, and what a webhook refuses it with.
    pub async fn connect(
        &self,
        who: &User,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        options: &Value,
    ) -> Result<Vec<String>, Status> {
        if !webhooks::are_there(&self.view()) {
            return Ok(Vec::new());
        }
        let request = Request {
            who,
            resource,
            namespace,
            manager: "",
            subresource: Some(subresource),
            dry_run: false,
            now_ms: now_ms(),
        };
        self.consult(&request, (Operation::Connect, name), options).await
    }

    /// Asks webhooks about a command that is not a write of its own.
    async fn consult(
        &self,
        request: &Request<'_>,
        (operation, name): (Operation, &str),
        body: &Value,
    ) -> Result<Vec<String>, Status> {
        let decide = |view: &View, hearing: &Hearing| {
            let object = request.find(view, name)?;
            webhooks::command(view, hearing, request, (operation, name), body)?;
            Ok::<_, Halt>(Decision::Keep(object.clone()))
        };
        Ok(self.door.transact(request.dry_run, Queue::default(), decide).await?.warnings)
    }

    /// POST `pods/NAME/eviction`: deletes a pod unless a PodDisruptionBudget forbids it. The body is a policy/v1
    /// Eviction.
    ///
    /// # Errors
    /// 404, 409, and 429 with the cause `DisruptionBudget` when too few pods would be left.
    pub async fn evict(&self, who: &User, namespace: &str, name: &str, options: &DeleteOptions) -> Result<(), Status> {
        let pods = self.resource("pods")?;
        let view = self.view();
        let view = if view.get(&pods.name, namespace, name).is_some() { view } else { self.fresh_view().await? };
        let pod = view.get(&pods.name, namespace, name).ok_or_else(|| Status::not_found(&pods.name, name))?;
        if webhooks::are_there(&view) {
            let request = Request {
                who,
                resource: &pods,
                namespace,
                manager: "",
                subresource: Some("eviction"),
                dry_run: options.dry_run,
                now_ms: now_ms(),
            };
            let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": name, "namespace": namespace}});
            self.consult(&request, (Operation::Create, name), &body).await?;
        }
        if counts_for_budgets(pod) {
            self.door.transact(options.dry_run, Queue::default(), |view, _| spend_budget(view, pod)).await?;
        }
        let same = Precondition { uid: Some(pod.uid().to_owned()), ..options.preconditions.clone() };
        let options = DeleteOptions { preconditions: same, ..options.clone() };
        self.delete(who, &pods, namespace, name, &options).await.map(|_| ())
    }

    /// Does what a driver's core asks for; answers whether it was done. What no longer applies (the object is gone,
    /// has changed, exists already, is bound already) is dropped: the driver lets its core look at the new world.
    ///
    /// # Errors
    /// 400, 403 and 422 when the action breaks rules, which is a mistake of the core; 503 and 504 when the store
    /// cannot answer.
    pub async fn perform(&self, who: &User, action: Action) -> Result<bool, Status> {
        let options = WriteOptions::manager(who.name.trim_start_matches("system:"));
        let done = match action {
            Action::Create { key, body } => {
                let resource = self.resource(&key.resource)?;
                self.create(who, &resource, &key.namespace, body, &options).await.map(|_| ())
            }
            Action::Patch { key, subresource, patch, precondition } => {
                let resource = self.resource(&key.resource)?;
                let request = Request {
                    who,
                    resource: &resource,
                    namespace: &key.namespace,
                    manager: &options.field_manager,
                    subresource,
                    dry_run: false,
                    now_ms: now_ms(),
                };
                self.patch_if(&request, &key.name, Patch::Merge(patch), &options, &precondition).await.map(|_| ())
            }
            Action::Delete { key, precondition, grace_seconds } => {
                let resource = self.resource(&key.resource)?;
                let options = DeleteOptions {
                    grace_period_seconds: grace_seconds,
                    preconditions: precondition,
                    ..DeleteOptions::default()
                };
                self.delete(who, &resource, &key.namespace, &key.name, &options).await.map(|_| ())
            }
            Action::Bind { pod, uid, node } => {
                let body =
                    json!({"metadata": {"name": pod.name, "uid": uid}, "target": {"kind": "Node", "name": node}});
                self.bind_pod(who, &pod.namespace, &pod.name, &body, &options).await
            }
            Action::Tell { about, uid, kind, severity, reason, message } => {
                let api_version = self.resource(&about.resource)?.api_version();
                let component = &options.field_manager;
                let api_version = &api_version;
                let (uid, message) = (&uid, &message);
                self.tell(&Told { about: &about, uid, kind, api_version, severity, reason, message, component }).await
            }
            Action::Again { .. } => Ok(()),
        };
        match done {
            Ok(()) => Ok(true),
            Err(refusal) if is_passed(&refusal) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    async fn tell(&self, told: &Told<'_>) -> Result<(), Status> {
        let uid = uuid::Uuid::new_v4().to_string();
        let events = self.resource(events::EVENTS)?;
        let decide = |view: &View, _: &Hearing| {
            namespace_open(view, &events, told.namespace(), "")?;
            Ok::<_, Status>(told.decide(view, &uid, now_ms()))
        };
        self.door.transact(false, Queue::default(), decide).await.map(|_| ())
    }

    fn resource(&self, name: &str) -> Result<Arc<Resource>, Status> {
        self.catalog().by_name(name).cloned().ok_or_else(Status::no_such_path)
    }
}

/// Whether a refusal only says that the world has moved on.
fn is_passed(refusal: &Status) -> bool {
    matches!(refusal.code, 404 | 409) || refusal.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}

fn manager_of(who: &User, options: &WriteOptions) -> String {
    if options.field_manager.is_empty() { who.name.clone() } else { options.field_manager.clone() }
}

/// The pod with a node (`BindingREST.setPodHostAndAnnotations`).
fn bound(pod: &Object, binding: &Value, manager: &str) -> Result<Value, Status> {
    let node = binding["target"]["name"].as_str().filter(|node| !node.is_empty());
    let missing = || Status::invalid("", "Binding", pod.name(), vec![Cause::required("target.name", "")]);
    let node = node.ok_or_else(missing)?;
    let conflict = |why: String| Status::conflict("pods/binding", pod.name(), &why);
    if binding["metadata"]["uid"].as_str().is_some_and(|uid| !uid.is_empty() && uid != pod.uid()) {
        return Err(conflict("the pod is another one than the binding means".into()));
    }
    if pod.deletion_timestamp().is_some() {
        return Err(conflict(format!("pod {} is being deleted, cannot be assigned to a host", pod.name())));
    }
    if let Some(other) = pod.field("spec.nodeName").as_str().filter(|node| !node.is_empty()) {
        return Err(conflict(format!("pod {} is already assigned to node {other:?}", pod.name())));
    }
    if pod.field("spec.schedulingGates").as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", pod.name())));
    }
    let now = api::time::rfc3339(now_ms());
    let before = pod.whole();
    let mut value = before.clone().into_owned();
    value["spec"]["nodeName"] = json!(node);
    for (name, text) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
        meta::metadata_map_mut(&mut value, "annotations").insert(name.clone(), text.clone());
    }
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    meta::object_mut(&mut value, "status");
    match value["status"]["conditions"].as_array_mut() {
        Some(conditions) => {
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(scheduled);
        }
        None => value["status"]["conditions"] = json!([scheduled]),
    }
    let writer = Writer { manager, api_version: "v1", subresource: "binding", now: &now };
    managed::track(Shape::of_message("k8s.io/api/core/v1.Pod"), Some(&before), &mut value, &writer);
    Ok(value)
}

/// A pod that has ended, has not begun, or is going already disrupts nothing when it is evicted.
fn counts_for_budgets(pod: &Object) -> bool {
    let phase = pod.field("status.phase").as_str().unwrap_or_default();
    pod.deletion_timestamp().is_none() && !matches!(phase, "Succeeded" | "Failed" | "Pending")
}

/// Takes one disruption from the pod's budget (`EvictionREST.checkAndDecrement`); keeps the pod when it has none.
fn spend_budget(view: &View, pod: &Arc<Object>) -> Result<Decision, Status> {
    let matching = |budget: &&Arc<Object>| {
        let selector = budget.field("spec.selector");
        !selector.is_null() && LabelSelector::from_value(selector).matches(meta::labels(&pod.value))
    };
    let mut budgets = view.list_in("poddisruptionbudgets.policy", pod.namespace()).filter(matching);
    let Some(budget) = budgets.next() else { return Ok(Decision::Keep(pod.clone())) };
    if budgets.next().is_some() {
        let message =
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status::internal(message));
    }
    let status = |field: &str| budget.value["status"][field].as_i64().unwrap_or(0);
    let (allowed, healthy, desired) =
        (status("disruptionsAllowed"), status("currentHealthy"), status("desiredHealthy"));
    let ready = meta::is_true(&pod.value, "Ready");
    let may_go_unready =
        budget.field("spec.unhealthyPodEvictionPolicy") == "AlwaysAllow" || healthy >= desired && desired > 0;
    if !ready && may_go_unready {
        return Ok(Decision::Keep(pod.clone()));
    }
    let behind = status("observedGeneration") < budget.generation();
    if behind || allowed <= 0 {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut refusal = Status::too_many_requests(message, if behind { BUDGET_RETRY_SECONDS } else { 0 });
        let name = budget.name();
        refusal.causes.push(Cause {
            reason: "DisruptionBudget",
            message: if behind {
                format!("The disruption budget {name} is still being processed by the server.")
            } else {
                format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
            },
            field: String::new(),
        });
        return Err(refusal);
    }
    let mut value = budget.whole().into_owned();
    value["status"]["disruptionsAllowed"] = json!(allowed - 1);
    let disrupted = meta::object_mut(&mut value["status"], "disruptedPods");
    disrupted.insert(pod.name().to_owned(), json!(api::time::rfc3339(now_ms())));
    let key: Key = budget.key.clone();
    Ok(Decision::Put { key, base: Some(budget.clone()), value, beside: Vec::new() })
}
