//! What a request makes of an object, decided from one view: the pure half of every write.
//!
//! The order follows kube-apiserver: identity, server-owned metadata, defaults, admission, defaults again, rules,
//! managers of fields.

use std::borrow::Cow;
use std::sync::Arc;

use api::meta;
use api::{Cause, Key, Object, Resource, Status, View, defaults, validate};
use serde_json::{Value, json};

use crate::admission::{Entrant, admit, definition_open, namespace_open, quota};
use crate::allocate;
use crate::door::{Beside, Decision};
use crate::life;
use crate::managed::{self, Conflict, Writer};
use crate::request::{DeleteOptions, User};
use crate::shape::Shape;
use crate::webhooks::{self, Halt, Hearing};

/// What does not change while a request is decided again and again.
pub(crate) struct Request<'a> {
    pub(crate) who: &'a User,
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    pub(crate) manager: &'a str,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) dry_run: bool,
    /// Milliseconds since the epoch.
    pub(crate) now_ms: i64,
}

/// Random parts of a new object.
pub(crate) struct Chance {
    pub(crate) uid: String,
    pub(crate) suffix: [u8; 5],
    /// How many free addresses and ports to leave to others.
    pub(crate) skip: usize,
}

/// What is peculiar to objects on their way in for the first time.
#[derive(Default)]
struct Born {
    /// How many free addresses and ports to leave to others.
    skip: usize,
    /// Whether the name was made up.
    nameless: bool,
}

impl Request<'_> {
    /// The same request about another version of the resource.
    pub(crate) fn about<'b>(&'b self, resource: &'b Resource) -> Request<'b> {
        let Self { who, namespace, manager, subresource, dry_run, now_ms, .. } = *self;
        Request { who, resource, namespace, manager, subresource, dry_run, now_ms }
    }

    fn now(&self) -> String {
        api::time::rfc3339(self.now_ms)
    }

    fn shape(&self) -> Shape<'_> {
        Shape::of_resource(self.resource)
    }

    fn writer<'a>(&'a self, api_version: &'a str, now: &'a str) -> Writer<'a> {
        Writer { manager: self.manager, api_version, subresource: self.subresource.unwrap_or_default(), now }
    }

    fn key(&self, name: &str) -> Key {
        Key::new(self.resource.name.clone(), self.namespace, name)
    }

    /// The stored object.
    pub(crate) fn find<'v>(&self, view: &'v View, name: &str) -> Result<&'v Arc<Object>, Status> {
        let found = view.get(&self.resource.name, self.namespace, name);
        found.ok_or_else(|| Status::not_found(&self.resource.name, name))
    }

    fn invalid(&self, name: &str, causes: Vec<Cause>) -> Status {
        Status::invalid(&self.resource.group, &self.resource.kind, name, causes)
    }

    /// Makes the body say what the URL says; 400 where they contradict each other. `name` is empty for a POST.
    pub(crate) fn identify(&self, body: &mut Value, name: &str) -> Result<(), Status> {
        let resource = self.resource;
        if !body.is_object() {
            return Err(Status::bad_request(format!("the body is not a {}", resource.kind)));
        }
        let expected = [("apiVersion", resource.api_version(), "API version"), ("kind", resource.kind.clone(), "kind")];
        for (field, expected, word) in expected {
            match body[field].as_str() {
                None | Some("") => body[field] = json!(expected),
                Some(given) if given == expected => {}
                Some(given) => {
                    let message =
                        format!("the {word} in the data ({given}) does not match the expected {word} ({expected})");
                    return Err(Status::bad_request(message));
                }
            }
        }
        let metadata = meta::metadata_mut(body);
        match metadata.get("namespace").and_then(Value::as_str).unwrap_or_default() {
            given if given.is_empty() || given == self.namespace => {}
            _ => {
                let message = "the namespace of the provided object does not match the namespace sent on the request";
                return Err(Status::bad_request(message));
            }
        }
        if self.namespace.is_empty() {
            metadata.remove("namespace");
        } else {
            metadata.insert("namespace".into(), json!(self.namespace));
        }
        match metadata.get("name").and_then(Value::as_str).unwrap_or_default() {
            given if name.is_empty() || given == name => {}
            "" => {
                metadata.insert("name".into(), json!(name));
            }
            given => {
                let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                return Err(Status::bad_request(message));
            }
        }
        Ok(())
    }

    /// POST: a new object. `managed` is its `managedFields` where an Apply has decided them.
    pub(crate) fn create(
        &self,
        view: &View,
        hearing: &Hearing,
        mut value: Value,
        chance: &Chance,
        managed: Option<Value>,
    ) -> Result<Decision, Halt> {
        let resource = self.resource;
        let base = meta::text(&value, "generateName").to_owned();
        let nameless = meta::name(&value).is_empty();
        if nameless {
            if base.is_empty() {
                let cause = Cause::required("metadata.name", "name or generateName is required");
                return Err(self.invalid("", vec![cause]).into());
            }
            let name = meta::generate_name(&base, chance.suffix);
            meta::metadata_mut(&mut value).insert("name".into(), json!(name));
        }
        let name = meta::name(&value).to_owned();
        if !meta::text(&value, "resourceVersion").is_empty() {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created").into());
        }
        namespace_open(view, resource, self.namespace, &name)?;
        definition_open(view, resource, &name)?;
        if view.get(&resource.name, self.namespace, &name).is_some() {
            return Err(Status::already_exists(&resource.name, &name).into());
        }
        let now = self.now();
        life::give_birth(resource, &mut value, &chance.uid, &now);
        self.let_in(view, hearing, (None, &Value::Null), &mut value, &Born { skip: chance.skip, nameless })?;
        let causes = validate::create(resource, &value);
        if !causes.is_empty() {
            return Err(self.invalid(&name, causes).into());
        }
        match managed {
            Some(managed) => {
                meta::metadata_mut(&mut value).insert("managedFields".into(), managed);
            }
            None => {
                let api_version = resource.api_version();
                managed::track(self.shape(), None, &mut value, &self.writer(&api_version, &now));
            }
        }
        let beside = self.charge(view, &name, None, &value)?;
        Ok(Decision::Put { key: self.key(&name), base: None, value, beside })
    }

    /// Everything that may still change the object: defaults, the cluster, webhooks. What webhooks put in has defaults
    /// too and is looked at by the cluster again; addresses are given out when all have had their say.
    fn let_in(
        &self,
        view: &View,
        hearing: &Hearing,
        (old, before): (Option<&Object>, &Value),
        value: &mut Value,
        born: &Born,
    ) -> Result<(), Halt> {
        let entrant =
            Entrant { who: self.who, resource: self.resource, namespace: self.namespace, old, skip: born.skip };
        let fill = |value: &mut Value, admits: bool| -> Result<(), Status> {
            defaults::apply(self.resource, value);
            if admits {
                admit(view, &entrant, value)?;
                // What admission put in has defaults too (`roundTrip` of kube-apiserver's mutating phase).
                defaults::apply(self.resource, value);
            }
            Ok(())
        };
        let claims = allocate::may_claim(&self.resource.name);
        fill(value, !claims)?;
        // Of a new object no webhook writes the status.
        let status = if old.is_none() { value.get("status").cloned() } else { None };
        let changed = webhooks::mutate(view, hearing, self, before, value, born.nameless)?;
        if changed {
            match old {
                Some(_) => {
                    self.narrow(before, value);
                    life::carry_over(self.resource, before, value, self.subresource);
                }
                None if self.resource.has_status => life::replace(value, "status", status),
                None => {}
            }
        }
        if changed || claims {
            fill(value, true)?;
        }
        life::store_version(self.resource, value);
        Ok(())
    }

    /// PUT: a new version of `old`. The body has been identified. 409 when it was made from another version.
    pub(crate) fn replace(
        &self,
        view: &View,
        hearing: &Hearing,
        old: &Arc<Object>,
        new: Value,
    ) -> Result<Decision, Halt> {
        let uid = meta::uid(&new);
        if !uid.is_empty() && uid != old.uid() {
            let same = api::Precondition { uid: Some(uid.to_owned()), revision: None };
            life::check_preconditions(old, &same)?;
        }
        let revision = meta::text(&new, "resourceVersion");
        if !revision.is_empty() && revision != old.revision.to_string() {
            return Err(Status::modified(&self.resource.name, old.name()).into());
        }
        self.change(view, hearing, old, new, None)
    }

    /// Any change of a stored object to `new`, in which `managed` is already decided by an Apply, or not.
    pub(crate) fn change(
        &self,
        view: &View,
        hearing: &Hearing,
        old: &Arc<Object>,
        mut new: Value,
        managed: Option<Value>,
    ) -> Result<Decision, Halt> {
        let resource = self.resource;
        let before = old.whole();
        self.narrow(&before, &mut new);
        life::carry_over(resource, &before, &mut new, self.subresource);
        self.let_in(view, hearing, (Some(old), &before), &mut new, &Born::default())?;
        life::count_generation(resource, &before, &mut new);
        let mut causes: Vec<Cause> = life::check_finalizers(&before, &new).into_iter().collect();
        causes.extend(match self.subresource {
            Some(part) => validate::update_part(resource, part, &before, &new),
            None => validate::update(resource, &before, &new),
        });
        if !causes.is_empty() {
            return Err(self.invalid(old.name(), causes).into());
        }
        match managed {
            Some(managed) => {
                meta::metadata_mut(&mut new).insert("managedFields".into(), managed);
            }
            None => {
                let (now, api_version) = (self.now(), resource.api_version());
                managed::track(self.shape(), Some(&before), &mut new, &self.writer(&api_version, &now));
            }
        }
        if life::may_go(resource, &new) {
            return Ok(Decision::Remove { base: old.clone(), last: new });
        }
        if life::is_same(&before, &new) {
            return Ok(Decision::Keep(old.clone()));
        }
        let beside = self.charge(view, old.name(), Some(&before), &new)?;
        Ok(Decision::Put { key: old.key.clone(), base: Some(old.clone()), value: new, beside })
    }

    /// The quotas that a write counts in. It is the last word of admission, as upstream has it.
    fn charge(&self, view: &View, name: &str, old: Option<&Value>, new: &Value) -> Result<Vec<Beside>, Status> {
        if !quota::may_count(self.resource, old.is_none(), self.subresource) {
            return Ok(Vec::new());
        }
        quota::charge(view, self.resource, self.namespace, name, old, new)
    }

    /// Leaves of `new` only the part that the subresource may change.
    fn narrow(&self, old: &Value, new: &mut Value) {
        let path: &[&str] = match self.subresource {
            Some("finalize") => &["spec", "finalizers"],
            Some("ephemeralcontainers") => &["spec", "ephemeralContainers"],
            Some("approval") => &["status", "conditions"],
            Some("resize") => &["spec", "containers"],
            None if &*self.resource.name == "namespaces" => {
                // Only /finalize may take a namespace's finalizers.
                let kept = old["spec"].clone();
                new["spec"] = kept;
                return;
            }
            _ => return,
        };
        let mut narrowed = old.clone();
        let wanted = new[path[0]][path[1]].clone();
        if wanted.is_null() {
            meta::object_mut(&mut narrowed, path[0]).remove(path[1]);
        } else {
            meta::object_mut(&mut narrowed, path[0]).insert(path[1].into(), wanted);
        }
        *new = narrowed;
    }

    /// Server-side apply on a stored object, or on none.
    pub(crate) fn apply(
        &self,
        view: &View,
        hearing: &Hearing,
        name: &str,
        (config, force): (&Value, bool),
        chance: &Chance,
    ) -> Result<Decision, Halt> {
        let (now, api_version) = (self.now(), self.resource.api_version());
        let writer = self.writer(&api_version, &now);
        let old = view.get(&self.resource.name, self.namespace, name);
        if old.is_none() && self.subresource.is_some() {
            return Err(Status::not_found(&self.resource.name, name).into());
        }
        let identity = json!({"apiVersion": api_version, "kind": self.resource.kind, "metadata": {"name": name}});
        let live = old.map_or(Cow::Borrowed(&identity), |old| old.whole());
        let revision = meta::text(config, "resourceVersion");
        if !revision.is_empty() && old.is_none_or(|old| revision != old.revision.to_string()) {
            return Err(Status::modified(&self.resource.name, name).into());
        }
        let applied = managed::apply(self.shape(), &live, config, &writer, force);
        let mut merged = applied.map_err(|conflicts| conflict(&conflicts))?;
        let managed = meta::metadata_mut(&mut merged).remove("managedFields").unwrap_or_default();
        match old {
            Some(old) => self.change(view, hearing, old, merged, Some(managed)),
            None => self.create(view, hearing, merged, chance, Some(managed)),
        }
    }

    /// DELETE.
    pub(crate) fn delete(&self, old: &Arc<Object>, options: &DeleteOptions) -> Result<Decision, Status> {
        life::check_preconditions(old, &options.preconditions)?;
        Ok(match life::fate(self.resource, old, options, self.now_ms)? {
            life::Fate::Goes => Decision::Remove { base: old.clone(), last: old.whole().into_owned() },
            life::Fate::AsBefore => Decision::Keep(old.clone()),
            life::Fate::Waits(value) => {
                Decision::Put { key: old.key.clone(), base: Some(old.clone()), value, beside: Vec::new() }
            }
        })
    }
}

/// 409 with one cause per field, which kubectl explains at length.
fn conflict(conflicts: &[Conflict]) -> Status {
    let (first, count) = (&conflicts[0], conflicts.len());
    let message = if conflicts.iter().all(|conflict| conflict.manager == first.manager) {
        let fields: String = conflicts.iter().map(|conflict| format!("\n- {}", conflict.field)).collect();
        match count {
            1 => format!("Apply failed with 1 conflict: conflict with {}: {}", first.manager, first.field),
            _ => format!("Apply failed with {count} conflicts: conflicts with {}:{fields}", first.manager),
        }
    } else {
        let list: String = conflicts
            .iter()
            .map(|conflict| format!("\nconflict with {}: {}", conflict.manager, conflict.field))
            .collect();
        format!("Apply failed with {count} conflicts:{list}")
    };
    let mut status = Status::new(409, "Conflict", message);
    status.causes = conflicts
        .iter()
        .map(|conflict| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {}", conflict.manager),
            field: conflict.field.clone(),
        })
        .collect();
    status
}
