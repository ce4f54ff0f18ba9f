//! Create, update, patch, delete: each request is read once, decided over the view and written.

use std::borrow::Cow;
use std::sync::Arc;

use api::{Catalog, Object, Precondition, Resource, Status, View, check, meta, patch, versions};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use crate::admission::quota;
use crate::door::{Decision, Done, Effect, Queue};
use crate::life::check_preconditions;
use crate::limits::{ALLOCATION_SPREAD, DELETIONS_AT_ONCE};
use crate::plan::{Chance, Request};
use crate::policies;
use crate::request::{DeleteOptions, Deleted, Patch, User, WriteOptions, Written};
use crate::scale::{applied_scale, scale_of, scaled};
use crate::webhooks::{self, Halt, Hearing};
use crate::{Objects, now_ms};

/// Resources that a PUT may create (`AllowCreateOnUpdate` of their strategies).
const CREATED_BY_PUT: [&str; 14] = [
    "clusterrolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "endpoints",
    "endpointslices.discovery.k8s.io",
    "events",
    "leases.coordination.k8s.io",
    "limitranges",
    "persistentvolumes",
    "podtemplates",
    "resourcequotas",
    "rolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "runtimeclasses.node.k8s.io",
    "services",
];

/// Where the random parts of an object that may be made come from. What webhooks are shown stays the same however often
/// the object is decided, or they would be asked again for nothing.
struct Dice {
    uid: String,
    /// The second is for a name that was taken.
    suffixes: [[u8; 5]; 2],
    /// One per attempt.
    skips: Vec<usize>,
}

impl Dice {
    fn new() -> Self {
        let uid = uuid::Uuid::new_v4().to_string();
        Self { uid, suffixes: [rand::random(), rand::random()], skips: Vec::new() }
    }

    /// Only the first attempt takes the first free address: whoever decides again may have lost it to another member,
    /// and would again if both went on along the same line.
    fn throw(&mut self, attempt: usize, again: bool) -> Chance {
        while self.skips.len() <= attempt {
            let spread = self.skips.len() * ALLOCATION_SPREAD;
            self.skips.push(if spread == 0 { 0 } else { rand::random_range(0..spread) });
        }
        Chance { uid: self.uid.clone(), suffix: self.suffixes[usize::from(again)], skip: self.skips[attempt] }
    }
}

fn request<'a>(
    who: &'a User,
    resource: &'a Resource,
    namespace: &'a str,
    subresource: Option<&'a str>,
    options: &'a WriteOptions,
) -> Request<'a> {
    let manager = if options.field_manager.is_empty() { "unknown" } else { &options.field_manager };
    Request { who, resource, namespace, manager, subresource, dry_run: options.dry_run, now_ms: now_ms() }
}

/// Fits a body to its type, which is the resource's or a subresource's own; what nobody knows is dropped, told or
/// refused. 400.
fn fit(
    body: &mut Value,
    resource: &Resource,
    subresource: Option<&str>,
    options: &WriteOptions,
) -> Result<Vec<String>, Status> {
    let unknown = match subresource.and_then(|name| resource.subresource(name)) {
        Some(part) if part.message.is_empty() => Vec::new(),
        Some(part) if part.message != resource.message => check::check(body, &part.message)?,
        _ => check::check_object(body, resource, false)?,
    };
    let mut warnings = check::judge(options.field_validation, body, &options.duplicates, &unknown)?;
    warnings.extend(resource.custom.iter().filter_map(|custom| custom.deprecation.clone()));
    Ok(warnings)
}

/// 404 for a subresource that the resource does not have.
fn known(resource: &Resource, subresource: Option<&str>) -> Result<(), Status> {
    match subresource {
        Some(name) if resource.subresource(name).is_none() => Err(Status::no_such_path()),
        _ => Ok(()),
    }
}

/// The version that objects of a resource are stored in, where that is another row than the one asked for.
fn stored_row(resource: &Resource) -> Option<Arc<Resource>> {
    if versions::is_converted(resource) { Catalog::builtin().by_name(&resource.name).cloned() } else { None }
}

fn written(done: Done, mut warnings: Vec<String>) -> Written {
    warnings.extend(done.warnings);
    Written { object: done.object, created: done.effect == Effect::Created, warnings }
}

impl Objects {
    /// POST: makes a new object. An empty name with `generateName` gets five random characters.
    ///
    /// # Errors
    /// 400 for a body that does not fit its type, 403 where admission or a terminating namespace refuses it, 404
    /// for a namespace that is not there, 409 AlreadyExists, 413, 422, and 503 or 504 when the store cannot answer.
    pub async fn create(
        &self,
        who: &User,
        resource: &Arc<Resource>,
        namespace: &str,
        mut body: Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let request = request(who, resource, namespace, None, options);
        let mut warnings = fit(&mut body, resource, None, options)?;
        request.identify(&mut body, "")?;
        let body = resource.stored(body);
        let row = stored_row(resource);
        let request = request.about(row.as_deref().unwrap_or(resource));
        let counts = quota::may_count(resource, true, None);
        let mut dice = Dice::new();
        let named = !meta::name(&body).is_empty();
        let mut made = |view: &View, hearing: &Hearing, again: bool| {
            request.create(view, hearing, body.clone(), &dice.throw(hearing.attempt, again), None)
        };
        let mut told = Vec::new();
        let decide = |view: &View, hearing: &Hearing| {
            let decision = match made(view, hearing, false) {
                // A generated name that is taken already is no refusal of the request.
                Err(Halt::Refused(taken)) if !named && taken.reason == "AlreadyExists" => made(view, hearing, true),
                decision => decision,
            };
            judged(view, hearing, &request, false, decision?, &mut told)
        };
        let queue = Queue::of(resource, namespace, counts);
        let done = self.door.transact(options.dry_run, queue, decide).await?;
        warnings.append(&mut told);
        Ok(written(done, warnings))
    }

    /// PUT: a new version of a stored object, or of one of its parts: `status`, `finalize`, `approval`,
    /// `ephemeralcontainers`, `resize`, `scale`. For `scale` the body is a Scale and so should the answer be
    /// ([`scale_of`]).
    ///
    /// # Errors
    /// As [`Objects::create`]; 404 when there is no such object, 409 when the body's `resourceVersion` or uid is not
    /// the stored object's. A body without `resourceVersion` wins whatever is stored.
    #[allow(clippy::too_many_arguments)]
    pub async fn update(
        &self,
        who: &User,
        resource: &Arc<Resource>,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        mut body: Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        known(resource, subresource)?;
        let request = request(who, resource, namespace, subresource, options);
        let mut warnings = fit(&mut body, resource, subresource, options)?;
        let is_scale = subresource == Some("scale");
        if !is_scale {
            request.identify(&mut body, name)?;
            body = resource.stored(body);
        }
        let row = stored_row(resource);
        let request = request.about(row.as_deref().unwrap_or(resource));
        let may_create = subresource.is_none() && CREATED_BY_PUT.contains(&&*resource.name);
        let counts = quota::may_count(resource, may_create, subresource);
        let mut dice = Dice::new();
        let mut changed = |view: &View, hearing: &Hearing| match request.find(view, name) {
            Ok(old) if is_scale => request.change(view, hearing, old, scaled(resource, old, &body)?, None),
            Ok(old) => request.replace(view, hearing, old, body.clone()),
            Err(_) if may_create && meta::uid(&body).is_empty() => {
                request.create(view, hearing, body.clone(), &dice.throw(hearing.attempt, false), None)
            }
            Err(missing) => Err(missing.into()),
        };
        let mut told = Vec::new();
        let decide =
            |view: &View, hearing: &Hearing| judged(view, hearing, &request, false, changed(view, hearing)?, &mut told);
        let queue = Queue::of(resource, namespace, counts);
        let done = self.door.transact(options.dry_run, queue, decide).await?;
        warnings.append(&mut told);
        Ok(written(done, warnings))
    }

    /// PATCH, in any of its four languages. A patch that names no `resourceVersion` is made again when somebody else
    /// writes first.
    ///
    /// # Errors
    /// As [`Objects::update`]; 409 with causes `FieldManagerConflict` for an apply that others stand in the way of,
    /// 415 for a strategic patch of a resource without a message, 422 for an apply without a field manager.
    #[allow(clippy::too_many_arguments)]
    pub async fn patch(
        &self,
        who: &User,
        resource: &Arc<Resource>,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let request = request(who, resource, namespace, subresource, options);
        self.patch_if(&request, name, patch, options, &Precondition::default()).await
    }

    /// [`Objects::patch`], refused with 409 unless the precondition holds.
    pub(crate) async fn patch_if(
        &self,
        request: &Request<'_>,
        name: &str,
        patch: Patch,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<Written, Status> {
        let resource = request.resource;
        known(resource, request.subresource)?;
        let mut warnings = Vec::new();
        let patch = match patch {
            Patch::Apply { body, force } => {
                let (body, found) = applied_body(request, name, body, options)?;
                warnings = found;
                Patch::Apply { body, force }
            }
            other => other,
        };
        let row = stored_row(resource);
        let stored = request.about(row.as_deref().unwrap_or(resource));
        let creating = matches!(patch, Patch::Apply { .. }) && request.subresource.is_none();
        let counts = quota::may_count(resource, creating, request.subresource);
        let mut dice = Dice::new();
        let mut changed = |view: &View, hearing: &Hearing| {
            if let Patch::Apply { body, force } = &patch {
                return stored.apply(view, hearing, name, (body, *force), &dice.throw(hearing.attempt, false));
            }
            let old = request.find(view, name)?;
            check_preconditions(old, precondition)?;
            let (new, found) = patched(request, old, &patch, options)?;
            warnings = found;
            if request.subresource == Some("scale") {
                return request.change(view, hearing, old, scaled(resource, old, &new)?, None);
            }
            stored.replace(view, hearing, old, new)
        };
        let mut told = Vec::new();
        let decide =
            |view: &View, hearing: &Hearing| judged(view, hearing, &stored, false, changed(view, hearing)?, &mut told);
        let queue = Queue::of(resource, request.namespace, counts);
        let done = self.door.transact(options.dry_run, queue, decide).await?;
        warnings.append(&mut told);
        Ok(written(done, warnings))
    }

    /// DELETE: ends an object, or marks it when it has finalizers, a grace period or content.
    ///
    /// # Errors
    /// 403 for namespaces that cannot be deleted, 404, 409 when a precondition does not hold, 503 and 504.
    pub async fn delete(
        &self,
        who: &User,
        resource: &Arc<Resource>,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let write = WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() };
        let request = request(who, resource, namespace, None, &write);
        let mut told = Vec::new();
        let decide = |view: &View, hearing: &Hearing| {
            let decision = request.delete(request.find(view, name)?, options)?;
            judged(view, hearing, &request, true, decision, &mut told)
        };
        let done = self.door.transact(options.dry_run, Queue::default(), decide).await?;
        Ok(match done.effect {
            Effect::Removed => Deleted::Gone(done.object),
            _ => Deleted::Pending(done.object),
        })
    }

    /// DELETE of a collection: every object of the resource (in the namespace, unless that is empty) that is
    /// `selected` in a picture taken now. Objects that go meanwhile are no error.
    ///
    /// # Errors
    /// The first refusal; what was deleted before it stays deleted.
    pub async fn delete_collection(
        &self,
        who: &User,
        resource: &Arc<Resource>,
        namespace: &str,
        selected: impl Fn(&Object) -> bool,
        options: &DeleteOptions,
    ) -> Result<Vec<Deleted>, Status> {
        let view = self.fresh_view().await?;
        let mut objects: Vec<Arc<Object>> = view.list(&resource.name).cloned().collect();
        objects.retain(|object| (namespace.is_empty() || object.namespace() == namespace) && selected(object));
        let deletions = objects.into_iter().map(|object| async move {
            match self.delete(who, resource, object.namespace(), object.name(), options).await {
                Ok(deleted) => Ok(Some(deleted)),
                Err(status) if status.code == 404 => Ok(None),
                Err(status) => Err(status),
            }
        });
        let deleted: Vec<Option<Deleted>> =
            futures::stream::iter(deletions).buffered(DELETIONS_AT_ONCE).try_collect().await?;
        Ok(deleted.into_iter().flatten().collect())
    }
}

/// What others make of a decision: policies, then validating webhooks.
fn judged(
    view: &View,
    hearing: &Hearing,
    request: &Request<'_>,
    deletes: bool,
    decision: Decision,
    told: &mut Vec<String>,
) -> Result<Decision, Halt> {
    policies::judge(view, request, deletes, &decision, told)?;
    webhooks::judge(view, hearing, request, deletes, &decision)?;
    Ok(decision)
}

/// The object after a patch that is not an apply, fitted to its type.
fn patched(
    request: &Request<'_>,
    old: &Object,
    patch: &Patch,
    options: &WriteOptions,
) -> Result<(Value, Vec<String>), Status> {
    let subresource = request.subresource.and_then(|name| request.resource.subresource(name));
    let is_scale = request.subresource == Some("scale");
    let whole = old.whole();
    let shown = match is_scale {
        true => Cow::Owned(scale_of(request.resource, old)),
        false => request.resource.in_version(&whole),
    };
    let target = &*shown;
    let message = subresource.map_or(&request.resource.message, |subresource| &subresource.message);
    let mut new = match patch {
        Patch::Json(operations) => patch::json(target, operations)?,
        Patch::Merge(patch) => patch::merge(target, patch)?,
        Patch::Strategic(patch) if is_scale || request.resource.custom.is_none() => {
            patch::strategic(target, patch, message)?
        }
        Patch::Strategic(_) | Patch::Apply { .. } => {
            let accepted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
            let message =
                format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
            return Err(Status::unsupported_media_type(message));
        }
    };
    let warnings = fit(&mut new, request.resource, request.subresource, options)?;
    if !is_scale {
        request.identify(&mut new, old.name())?;
        new = request.resource.stored(new);
    }
    Ok((new, warnings))
}

/// The partial object of an apply, fitted to its type; a Scale becomes the part of the object that it shows.
fn applied_body(
    request: &Request<'_>,
    name: &str,
    mut body: Value,
    options: &WriteOptions,
) -> Result<(Value, Vec<String>), Status> {
    if options.field_manager.is_empty() {
        let cause = api::Cause::required("fieldManager", "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    if body["metadata"]["managedFields"].as_array().is_some_and(|entries| !entries.is_empty()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    if request.subresource == Some("scale") {
        body = applied_scale(request.resource, &body);
    }
    // An applied zero is a wish and stays.
    let unknown = check::check_object(&mut body, request.resource, true)?;
    let warnings = check::judge(options.field_validation, &body, &options.duplicates, &unknown)?;
    request.identify(&mut body, name)?;
    Ok((request.resource.stored(body), warnings))
}
