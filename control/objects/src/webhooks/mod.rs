//! Admission webhooks: servers of users that are asked about writes, and may change what is written. Pure: a decision that
//! needs an answer says what it would ask ([`Halt::Ask`]); whoever drives it asks, without holding anything, and lets it
//! decide again with the answers ([`Hearing`]). An answer holds for exactly the question that was asked, so a decision
//! made anew from another version of the object asks anew, and one made from the same version asks nothing twice.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook`. Mutating webhooks are asked one after the other, in the order
//! of their configurations' names; one with `reinvocationPolicy: IfNeeded` is asked once more when a later one changed
//! the object. Validating ones are asked together, when the object is what it will be. The configurations themselves are
//! never asked about.

mod hook;
mod review;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use api::cel::{Run, Scope};
use api::limits::CEL_TOTAL_COST_MAX;
use api::{Catalog, Object, Resource, Status, View, check, meta, patch};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::asked::{Asked, Decided, Operation, home};
use crate::door::Decision;
use crate::plan::Request;
use crate::scale;
use hook::{Hook, Hooks};
use review::Answer;

const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";
/// Metadata that a webhook neither sees of an object to be made nor changes of any.
const UNBORN: [&str; 3] = ["uid", "creationTimestamp", "generation"];
const OWN: [&str; 8] = [
    "name",
    "namespace",
    "generateName",
    "uid",
    "creationTimestamp",
    "generation",
    "resourceVersion",
    "deletionTimestamp",
];

/// Where a webhook listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `https://HOST[:PORT]/PATH`.
    Url(String),
    /// A port of a Service, and the path there.
    Service {
        /// The Service's namespace.
        namespace: String,
        /// The Service.
        name: String,
        /// One of its ports.
        port: u16,
        /// Begins with a slash.
        path: String,
    },
}

/// One call of a webhook.
#[derive(Clone, Debug)]
pub struct Call {
    /// Where.
    pub place: Place,
    /// Whom to trust: certificates in PEM; empty for the machine's own roots.
    pub roots_pem: Vec<u8>,
    /// After this the answer counts for nothing.
    pub timeout: Duration,
    /// The AdmissionReview to be posted.
    pub review: Bytes,
}

/// The way to webhooks, which may be pods of the picture: posts a review and gives back what came, or says in Kubernetes'
/// words why nothing did.
pub type Caller = Arc<dyn Fn(View, Call) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// Why a decision is none yet.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It is refused.
    Refused(Status),
    /// It waits for these answers.
    Ask(Vec<Question>),
}

impl From<Status> for Halt {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// What a webhook is to be asked.
#[derive(Clone)]
pub(crate) struct Question {
    hook: Arc<Hook>,
    /// `AdmissionRequest` without its uid.
    request: Value,
    /// Whether the answer may change the object.
    patches: bool,
    /// Whether it is asked for the second time about one write.
    second: bool,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("hook", &self.hook.id).field("request", &self.request).finish_non_exhaustive()
    }
}

impl Question {
    /// The call that asks it under an identity.
    pub(crate) fn call(&self, uid: &str) -> Call {
        Call {
            place: self.hook.place.clone(),
            roots_pem: self.hook.roots_pem.clone(),
            timeout: self.hook.timeout,
            review: review::review(self.hook.review, uid, &self.request).into(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.hook.id == other.hook.id
            && (self.patches, self.second) == (other.patches, other.second)
            && self.request == other.request
    }
}

/// What webhooks have answered about one request so far.
pub(crate) struct Hearing {
    /// How often the request was decided from a new picture.
    pub(crate) attempt: usize,
    catalog: Arc<Catalog>,
    heard: Vec<(Question, Result<Answer, String>)>,
}

impl Hearing {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Self {
        Self { attempt: 0, catalog, heard: Vec::new() }
    }

    /// How many questions were asked.
    pub(crate) fn count(&self) -> usize {
        self.heard.len()
    }

    /// Takes in what came of a call that asked a question under an identity.
    pub(crate) fn hear(&mut self, question: Question, uid: &str, came: Result<Bytes, String>) {
        let Hook { name, review, fails, .. } = &*question.hook;
        let answer = match came {
            Ok(bytes) => review::read(review, uid, question.patches, &bytes)
                .map_err(|why| format!("received invalid webhook response: {why}")),
            Err(why) => Err(format!("failed to call webhook: {why}")),
        };
        match &answer {
            Ok(answer) if !answer.annotations.is_empty() => {
                let request = &question.request;
                tracing::info!(
                    target: "audit", webhook = name, resource = %request["resource"]["resource"],
                    namespace = %request["namespace"], name = %request["name"],
                    annotations = answer.annotations.join(" "), "a webhook annotated a request",
                );
            }
            Err(why) if !fails => tracing::warn!(webhook = name, why, "a webhook was not heard; the write goes on"),
            _ => {}
        }
        self.heard.push((question, answer));
    }

    /// What webhooks warn of, each thing once.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = Vec::new();
        for warning in self.heard.iter().filter_map(|(_, answer)| answer.as_ref().ok()).flat_map(|is| &is.warnings) {
            if !warnings.contains(warning) {
                warnings.push(warning.clone());
            }
        }
        warnings
    }

    /// The answer to a question: `None` where nobody answered and that does not matter.
    fn answer(&self, question: Question) -> Result<Option<&Answer>, Halt> {
        let heard = self.heard.iter().find(|(asked, _)| asked.is(&question));
        let Some((_, answer)) = heard else { return Err(Halt::Ask(vec![question])) };
        let Hook { name, fails, .. } = &*question.hook;
        match answer {
            Ok(answer) if answer.allowed => Ok(Some(answer)),
            Ok(answer) => Err(review::refusal(name, &answer.status).into()),
            Err(why) if *fails => Err(Status::internal(format!("failed calling webhook {name:?}: {why}")).into()),
            Err(_) => Ok(None),
        }
    }
}

/// The webhooks of all configurations of a resource, in the order in which they are asked.
fn hooks(view: &View, configurations: &str) -> Vec<Arc<Hook>> {
    let read = |configuration: &Arc<Object>| configuration.typed::<Hooks>();
    view.list(configurations).filter_map(read).flat_map(|hooks| hooks.0.clone()).collect()
}

/// Whether there are any.
pub(crate) fn are_there(view: &View) -> bool {
    view.count(MUTATING) + view.count(VALIDATING) > 0
}

/// Whether nobody is asked about a resource: webhooks must not keep themselves from being removed.
fn is_exempt(resource: &Resource) -> bool {
    [MUTATING, VALIDATING].contains(&&*resource.name)
        || resource.name.starts_with("validatingadmissionpolic")
        || resource.name.starts_with("mutatingadmissionpolic")
}

/// An object as a row shows it, or as its subresource does.
fn shown(request: &Request<'_>, row: &Resource, object: &Value) -> Value {
    if object.is_null() {
        return Value::Null;
    }
    match request.subresource {
        Some("scale") => scale::shown(request.resource, object),
        Some("binding" | "eviction") => object.clone(),
        _ => row.in_version(object).into_owned(),
    }
}

impl Asked<'_> {
    /// The question for a webhook; `None` when it wants to hear nothing of this write.
    fn question(
        &self,
        hearing: &Hearing,
        hook: &Arc<Hook>,
        home: &Value,
        second: bool,
        run: &mut Run,
    ) -> Result<Option<(Question, Arc<Resource>)>, Halt> {
        let Some(row) = self.row(hearing, hook) else { return Ok(None) };
        if !self.is_selected(&hook.namespaces, home) || !self.is_labelled(&hook.objects) {
            return Ok(None);
        }
        let mut told = self.told(&row);
        let (object, old) = (shown(self.request, &row, self.object), shown(self.request, &row, self.old));
        for (name, condition) in &hook.conditions {
            let scope = Scope::default().with("object", &object).with("oldObject", &old).with("request", &told);
            match condition.holds(scope, run) {
                Ok(true) => {}
                Err(failure) if hook.fails => {
                    let why =
                        format!("match condition '{name}' of webhook '{}' resulted in error: {failure}", hook.name);
                    return Err(Status::forbidden(&self.request.resource.name, self.name, &why).into());
                }
                Ok(false) | Err(_) => return Ok(None),
            }
        }
        if self.request.dry_run && hook.has_effects {
            let message = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Status::bad_request(message).into());
        }
        told["object"] = object;
        told["oldObject"] = old;
        told["options"] = self.options();
        Ok(Some((Question { hook: hook.clone(), request: told, patches: false, second }, row)))
    }

    /// The row of the resource whose version the webhook's rules name: the one that was asked for, or another.
    fn row(&self, hearing: &Hearing, hook: &Hook) -> Option<Arc<Resource>> {
        let resource = self.request.resource;
        let named = |row: &Resource| hook.rules.iter().any(|rule| self.is_named(rule, row, Some(&row.version)));
        if named(resource) {
            return Some(Arc::new(resource.clone()));
        }
        let others = hearing.catalog.iter().filter(|row| row.name == resource.name && !hook.exact);
        others.into_iter().find(|row| named(row)).cloned()
    }

    fn options(&self) -> Value {
        let Request { dry_run, manager, .. } = *self.request;
        let kind = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if self.operation != Operation::Delete {
            options["fieldManager"] = json!(manager);
        }
        options
    }
}

/// Lets mutating webhooks change a value that is to be stored; answers whether one did. `old` is null for a creation, and
/// `nameless` says that the name of the new object was made up.
pub(crate) fn mutate(
    view: &View,
    hearing: &Hearing,
    request: &Request<'_>,
    old: &Value,
    value: &mut Value,
    nameless: bool,
) -> Result<bool, Halt> {
    if view.count(MUTATING) == 0 || is_exempt(request.resource) {
        return Ok(false);
    }
    let operation = if old.is_null() { Operation::Create } else { Operation::Update };
    let mut shape = value.clone();
    if old.is_null() {
        let hidden = UNBORN.iter().copied().chain(nameless.then_some("name"));
        hidden.for_each(|field| drop(meta::metadata_mut(&mut shape).remove(field)));
    }
    let name = meta::name(&shape).to_owned();
    let changed = each(view, hearing, request, (operation, &name), old, &mut shape)?;
    if changed {
        for field in OWN {
            match value["metadata"].get(field) {
                Some(own) => meta::metadata_mut(&mut shape).insert(field.into(), own.clone()),
                None => meta::metadata_mut(&mut shape).remove(field),
            };
        }
        *value = shape;
    }
    Ok(changed)
}

/// Asks one mutating webhook after the other, and some of them twice.
fn each(
    view: &View,
    hearing: &Hearing,
    request: &Request<'_>,
    (operation, name): (Operation, &str),
    old: &Value,
    value: &mut Value,
) -> Result<bool, Halt> {
    let (hooks, home) = (hooks(view, MUTATING), home(view, request));
    let (mut changed, mut run) = (false, Run::new(CEL_TOTAL_COST_MAX));
    // Who was asked about something that has changed since.
    let mut stale = vec![false; hooks.len()];
    for second in [false, true] {
        for (index, hook) in hooks.iter().enumerate() {
            if second && !(hook.again && stale[index]) {
                continue;
            }
            let object = value.clone();
            let asked = Asked { request, operation, name, object: &object, old };
            let Some((question, row)) = asked.question(hearing, hook, &home, second, &mut run)? else { continue };
            let before = question.request["object"].clone();
            let answer = hearing.answer(Question { patches: true, ..question })?;
            let Some(operations) = answer.and_then(|answer| answer.patch.as_ref()) else { continue };
            let patched = patched(request, &row, &before, operations)
                .map_err(|why| Status::internal(format!("admission webhook {:?}: {why}", hook.name)))?;
            if patched == before {
                continue;
            }
            take(request, &row, patched, value);
            changed = true;
            if !second {
                stale[..index].fill(true);
            }
        }
    }
    Ok(changed)
}

/// What a webhook's patch makes of what it was shown; it must still be of its type.
fn patched(request: &Request<'_>, row: &Resource, before: &Value, operations: &Value) -> Result<Value, String> {
    if before.is_null() {
        return Err("there is nothing that a patch could change".into());
    }
    let mut after = patch::json(before, operations).map_err(|status| status.message.clone())?;
    let part = request.subresource.and_then(|name| request.resource.subresource(name));
    let checked = match part {
        Some(part) if part.kind != row.kind && !part.message.is_empty() => check::check(&mut after, &part.message),
        _ => check::check_object(&mut after, row, false),
    };
    checked.map_err(|status| status.message.clone())?;
    Ok(after)
}

/// Puts what a webhook made into the value that is to be stored.
fn take(request: &Request<'_>, row: &Resource, patched: Value, value: &mut Value) {
    if request.subresource == Some("scale") {
        scale::set_replicas(request.resource, value, patched["spec"]["replicas"].clone());
        return;
    }
    let kept: Vec<(&str, Value)> = ["apiVersion", "kind"].map(|field| (field, value[field].clone())).into();
    *value = row.stored(patched);
    kept.into_iter().for_each(|(field, text)| value[field] = text);
}

/// Lets a decision pass, or refuses it, as validating webhooks will; deletions are everybody's to refuse.
pub(crate) fn judge(
    view: &View,
    hearing: &Hearing,
    request: &Request<'_>,
    deletes: bool,
    decision: &Decision,
) -> Result<(), Halt> {
    // Most clusters have none; nothing is decoded for them.
    if !are_there(view) || is_exempt(request.resource) {
        return Ok(());
    }
    let decided = Decided::of(decision, deletes);
    let asked = decided.asked(request);
    if asked.operation == Operation::Delete && view.count(MUTATING) > 0 {
        each(view, hearing, request, (asked.operation, asked.name), asked.old, &mut Value::Null)?;
    }
    validate(view, hearing, &asked)
}

/// A command that is posted to an object (a Binding, an Eviction), or a conversation with it: what mutating webhooks make
/// of its body, if validating ones let it pass.
pub(crate) fn command(
    view: &View,
    hearing: &Hearing,
    request: &Request<'_>,
    (operation, name): (Operation, &str),
    body: &Value,
) -> Result<Value, Halt> {
    let mut body = body.clone();
    if view.count(MUTATING) > 0 {
        each(view, hearing, request, (operation, name), &Value::Null, &mut body)?;
    }
    validate(view, hearing, &Asked { request, operation, name, object: &body, old: &Value::Null })?;
    Ok(body)
}

fn validate(view: &View, hearing: &Hearing, asked: &Asked<'_>) -> Result<(), Halt> {
    if view.count(VALIDATING) == 0 || is_exempt(asked.request.resource) {
        return Ok(());
    }
    let (home, mut run) = (home(view, asked.request), Run::new(CEL_TOTAL_COST_MAX));
    let mut open = Vec::new();
    for hook in hooks(view, VALIDATING) {
        let Some((question, _)) = asked.question(hearing, &hook, &home, false, &mut run)? else { continue };
        match hearing.answer(question) {
            Ok(_) => {}
            Err(Halt::Ask(questions)) => open.extend(questions),
            Err(refused) => return Err(refused),
        }
    }
    if open.is_empty() { Ok(()) } else { Err(Halt::Ask(open)) }
}
