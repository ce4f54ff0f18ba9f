//! HorizontalPodAutoscaler: as many replicas as the use of the pods asks for, within bounds and no faster than told.
//!
//! Every fifteen seconds, Kubernetes' period, each autoscaler looks at what its target's pods use: `metrics` says how
//! many replicas each metric asks for, `behavior` how far of that way may be gone now. The largest answer wins; a
//! metric that cannot be had never scales down. What was recommended and done before is written down in an annotation,
//! so that a controller that starts anew does not forget that it must be patient.

mod behavior;
mod metrics;

use api::selector::LabelSelector;
use api::{Action, Change, Key, Object, Precondition, Severity, View};
use serde_json::{Value, json};

use crate::status::{self, Condition};
use crate::{World, limits};

use behavior::History;
use metrics::{Answer, Pods};

const AUTOSCALERS: &str = "horizontalpodautoscalers.autoscaling";
/// Where the history is kept.
const HISTORY: &str = "autoscaling.kogia.dev/history";

/// Targets that can be scaled: kind, resource.
const TARGETS: [(&str, &str); 4] = [
    ("Deployment", "deployments.apps"),
    ("ReplicaSet", "replicasets.apps"),
    ("StatefulSet", "statefulsets.apps"),
    ("ReplicationController", "replicationcontrollers"),
];

/// An autoscaler wakes with itself; everything else it looks at at its period.
pub(crate) fn keys(change: &Change, _view: &View) -> Vec<Key> {
    let object = &change.object;
    let differs = |old: &std::sync::Arc<Object>| old.field("spec") != object.field("spec");
    let concerned = &*object.key.resource == AUTOSCALERS && change.previous.as_ref().is_none_or(differs);
    if concerned { vec![object.key.clone()] } else { Vec::new() }
}

/// One autoscaler.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(scaler) = world.view.at(key).filter(|scaler| scaler.deletion_timestamp().is_none()) else {
        return Vec::new();
    };
    let mut turn = Turn { world, scaler, conditions: status::conditions(scaler), actions: Vec::new() };
    turn.run();
    turn.actions.push(Action::Again { after_ms: limits::AUTOSCALER_PERIOD_MS });
    turn.actions
}

struct Turn<'a> {
    world: &'a World<'a>,
    scaler: &'a Object,
    conditions: Vec<Value>,
    actions: Vec<Action>,
}

impl Turn<'_> {
    fn run(&mut self) {
        let reference = self.scaler.field("spec.scaleTargetRef");
        let kind = reference["kind"].as_str().unwrap_or_default();
        let name = reference["name"].as_str().unwrap_or_default();
        let resource = TARGETS.iter().find(|(known, _)| *known == kind).map(|(_, resource)| *resource);
        let target = resource.and_then(|resource| self.world.view.get(resource, self.scaler.namespace(), name));
        let Some(target) = target.cloned() else {
            let why = match resource {
                Some(resource) => format!("{resource} \"{name}\" not found"),
                None => format!(
                    "no matches for kind \"{kind}\" in version \"{}\"",
                    reference["apiVersion"].as_str().unwrap_or_default()
                ),
            };
            let message = format!("the HPA controller was unable to get the target's current scale: {why}");
            self.note("AbleToScale", "False", "FailedGetScale", &message);
            self.tell(Severity::Warning, "FailedGetScale", why);
            return self.write(None, &Value::Null);
        };
        self.note(
            "AbleToScale",
            "True",
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let current = target.field("spec.replicas").as_i64().unwrap_or(1);
        let bounds = self.bounds();
        if current == 0 && bounds.0 != 0 {
            self.note(
                "ScalingActive",
                "False",
                "ScalingDisabled",
                "scaling is disabled since the replica count of the target is zero",
            );
            return self.write(Some((current, 0)), &Value::Null);
        }
        self.scale(&target, current, bounds);
    }

    fn bounds(&self) -> (i64, i64) {
        let bound = |field: &str| self.scaler.field(field).as_i64();
        (bound("spec.minReplicas").unwrap_or(1), bound("spec.maxReplicas").unwrap_or(1))
    }

    fn scale(&mut self, target: &Object, current: i64, (least, most): (i64, i64)) {
        let mut history = History::read(self.scaler.annotation(HISTORY), current, self.world.now_ms);
        let (wanted, shown) = if current > most {
            self.note(
                "ScalingLimited",
                "True",
                "TooManyReplicas",
                "the desired replica count is more than the maximum replica count",
            );
            (most, self.scaler.field("status.currentMetrics").clone())
        } else if current < least {
            self.note(
                "ScalingLimited",
                "True",
                "TooFewReplicas",
                "the desired replica count is less than the minimum replica count",
            );
            (least, self.scaler.field("status.currentMetrics").clone())
        } else {
            let Some((proposal, shown)) = self.ask(target, current) else {
                return self.write(Some((current, current)), self.scaler.field("status.currentMetrics"));
            };
            let rules = behavior::Rules::of(self.scaler.field("spec.behavior"));
            let decided =
                behavior::decide(&rules, &mut history, current, proposal.replicas, (least, most), self.world.now_ms);
            self.note("AbleToScale", "True", decided.stability.0, decided.stability.1);
            self.note("ScalingLimited", decided.limit.0, decided.limit.1, decided.limit.2);
            if decided.replicas != current {
                self.rescale(target, current, decided.replicas, &proposal.why, &mut history);
            }
            // While all is as it should be there is nothing to remember.
            if decided.replicas != current || proposal.replicas != current {
                self.remember(&history);
            }
            return self.write(Some((current, decided.replicas)), &shown);
        };
        let why = if wanted < current {
            "Current number of replicas above Spec.MaxReplicas"
        } else {
            "Current number of replicas below Spec.MinReplicas"
        };
        self.rescale(target, current, wanted, why, &mut history);
        self.remember(&history);
        self.write(Some((current, wanted)), &shown);
    }

    /// What the metrics ask for: the largest answer. `None` when they say nothing that may be followed.
    fn ask(&mut self, target: &Object, current: i64) -> Option<(Answer, Value)> {
        let selector = match target.field("spec.selector") {
            plain if &*target.key.resource == "replicationcontrollers" => LabelSelector::from_labels(plain),
            selector => LabelSelector::from_value(selector),
        };
        let pods = Pods::of(self.world, self.scaler.namespace(), &selector);
        let mut best: Option<Answer> = None;
        let mut failure: Option<(&'static str, String)> = None;
        let mut shown = Vec::new();
        let specs = self.scaler.field("spec.metrics").as_array().cloned().unwrap_or_default();
        for spec in &specs {
            match metrics::ask(spec, &pods, current, metrics::Tolerance::of(self.scaler.field("spec.behavior"))) {
                Ok(answer) => {
                    shown.push(answer.shown.clone());
                    if best.as_ref().is_none_or(|best| answer.replicas > best.replicas) {
                        best = Some(answer);
                    }
                }
                Err(why) => failure = failure.or(Some(why)),
            }
        }
        // What is not known might ask for more: it never lets the number fall.
        let usable = best.filter(|best| failure.is_none() || best.replicas > current);
        match (usable, failure) {
            (Some(answer), _) => {
                let message =
                    format!("the HPA was able to successfully calculate a replica count from {}", answer.source);
                self.note("ScalingActive", "True", "ValidMetricFound", &message);
                Some((answer, Value::Array(shown)))
            }
            (None, failure) => {
                let (reason, why) = failure.unwrap_or(("InvalidMetricSourceType", "there are no metrics".to_owned()));
                let message = format!("the HPA was unable to compute the replica count: {why}");
                self.note("ScalingActive", "False", reason, &message);
                self.tell(Severity::Warning, reason, why.clone());
                let message = format!("invalid metrics (1 invalid out of {}), first error is: {why}", specs.len());
                self.tell(Severity::Warning, "FailedComputeMetricsReplicas", message);
                None
            }
        }
    }

    fn rescale(&mut self, target: &Object, current: i64, wanted: i64, why: &str, history: &mut History) {
        history.scaled(current, wanted, self.world.now_ms);
        self.actions.push(Action::Patch {
            key: target.key.clone(),
            subresource: Some("scale"),
            patch: json!({"spec": {"replicas": wanted}}),
            precondition: Precondition::unchanged(target),
        });
        let message = format!("the HPA controller was able to update the target scale to {wanted}");
        self.note("AbleToScale", "True", "SucceededRescale", &message);
        self.tell(Severity::Normal, "SuccessfulRescale", format!("New size: {wanted}; reason: {why}"));
    }

    fn remember(&mut self, history: &History) {
        let text = history.written();
        if self.scaler.annotation(HISTORY) != Some(&text) {
            let patch = json!({"metadata": {"annotations": {HISTORY: text}}});
            let (key, precondition) = (self.scaler.key.clone(), Precondition::same(self.scaler));
            self.actions.push(Action::Patch { key, subresource: None, patch, precondition });
        }
    }

    fn note(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        status::put(&mut self.conditions, &Condition { type_, status, reason, message }, None, self.world.now_ms);
        if let Some(entry) = self.conditions.iter_mut().find(|condition| condition["type"] == type_) {
            entry["message"] = json!(message);
        }
    }

    /// Current and desired replicas, and what was measured.
    fn write(&mut self, replicas: Option<(i64, i64)>, shown: &Value) {
        let (current, desired) = replicas.unwrap_or((0, 0));
        let rescaled =
            self.actions.iter().any(|action| matches!(action, Action::Patch { subresource: Some("scale"), .. }));
        let last = match rescaled {
            true => json!(api::time::rfc3339(self.world.now_ms)),
            false => self.scaler.field("status.lastScaleTime").clone(),
        };
        let mut written = json!({
            "observedGeneration": self.scaler.generation(), "currentReplicas": current, "conditions": self.conditions,
            "currentMetrics": shown, "lastScaleTime": last,
        });
        // Desired is a required field: it is written even when it is zero.
        if let Some(action) = status::set(self.scaler, written.take()) {
            self.actions.push(with_desired(action, desired));
        } else if self.scaler.field("status.desiredReplicas") != desired {
            let patch = json!({"status": {"desiredReplicas": desired}});
            let (key, precondition) = (self.scaler.key.clone(), Precondition::same(self.scaler));
            self.actions.push(Action::Patch { key, subresource: Some("status"), patch, precondition });
        }
    }

    fn tell(&mut self, severity: Severity, reason: &'static str, message: String) {
        let (about, uid) = (self.scaler.key.clone(), self.scaler.uid().to_owned());
        self.actions.push(Action::Tell { about, uid, kind: "HorizontalPodAutoscaler", severity, reason, message });
    }
}

/// The status is written whatever annotation was written just before it.
fn with_desired(action: Action, desired: i64) -> Action {
    match action {
        Action::Patch { key, subresource, mut patch, precondition } => {
            patch["status"]["desiredReplicas"] = json!(desired);
            let precondition = Precondition { revision: None, ..precondition };
            Action::Patch { key, subresource, patch, precondition }
        }
        other => other,
    }
}
