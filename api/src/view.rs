//! The cluster's picture at one revision.
//!
//! A [`View`] is immutable to those who hold it and cheap to clone: its trees share everything that did not change.
//! The scheduler and the controllers decide from a view; lists are answered from one; a continue token keeps one.

use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde_json::Value;

use crate::claims::{self, Claim};
use crate::meta;
use crate::object::{Key, Object};
use crate::selector::{LabelSelector, Operator};

/// What happened to one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It did not exist before.
    Added,
    /// It existed before.
    Modified,
    /// It is gone; the change carries its last state.
    Deleted,
}

/// One write to one object, as the store ordered it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The revision of the write. Several changes of one transaction share it.
    pub revision: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// The object after the write; for a deletion its last state, with the deletion's resourceVersion.
    pub object: Arc<Object>,
    /// The object before the write, when there was one.
    pub previous: Option<Arc<Object>>,
}

impl Change {
    /// The same without the decoded forms of its objects.
    #[must_use]
    pub fn at_rest(&self) -> Self {
        let rest = |object: &Arc<Object>| object.at_rest().map_or_else(|| object.clone(), Arc::new);
        Self { object: rest(&self.object), previous: self.previous.as_ref().map(rest), ..self.clone() }
    }
}

/// The namespace and the name: how objects of one resource are sorted.
type Place = (Arc<str>, Arc<str>);

/// Resources whose objects are looked for by label all the time: by every Service, budget and autoscaler.
const LABELLED: [&str; 2] = ["endpointslices.discovery.k8s.io", "pods"];

/// Services are looked for by what they select, with every change of a pod, and by what they hold.
const SERVICES: &str = "services";

/// A label with its value, of one resource: `pods app=web`; or the first label that a Service wants.
type Term = Arc<str>;

/// Every object of the cluster at one revision.
#[derive(Clone, Default)]
pub struct View {
    revision: u64,
    resources: OrdMap<Arc<str>, OrdMap<Place, Arc<Object>>>,
    /// `metadata.uid` → where the object lives.
    uids: OrdMap<Arc<str>, Key>,
    /// uid of an owner → everything that names it in `ownerReferences`.
    dependents: OrdMap<Arc<str>, OrdSet<Key>>,
    /// `spec.nodeName` → keys of the pods bound there.
    on_node: OrdMap<Arc<str>, OrdSet<Key>>,
    /// One entry per label of each object of [`LABELLED`], and one per Service that selects, sorted as the objects are. One
    /// flat tree: most labels are shared by few objects, and a tree of trees would cost more than the objects.
    labelled: OrdSet<(Term, Place)>,
    /// Who holds what is there once: the addresses and node ports of Services.
    claims: OrdMap<Claim, Place>,
}

impl View {
    /// The revision of the last change this view has seen.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Moves the revision forward without a change (a write that touched no object we know).
    pub fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// One object.
    #[must_use]
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.resources.get(resource)?.get(&(Arc::from(namespace), Arc::from(name)))
    }

    /// One object by key.
    #[must_use]
    pub fn at(&self, key: &Key) -> Option<&Arc<Object>> {
        self.resources.get(&key.resource)?.get(&(key.namespace.clone(), key.name.clone()))
    }

    /// All objects of a resource, sorted by namespace and name.
    pub fn list(&self, resource: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.resources.get(resource).into_iter().flat_map(|objects| objects.values())
    }

    /// The objects of a resource in one namespace, sorted by name.
    pub fn list_in(&self, resource: &str, namespace: &str) -> impl Iterator<Item = &Arc<Object>> {
        let namespace: Arc<str> = namespace.into();
        self.list_from(resource, (namespace.clone(), Arc::from("")))
            .take_while(move |object| object.key.namespace == namespace)
    }

    /// The objects of a resource at or after a place (namespace, name): how a list continues.
    pub fn list_from(&self, resource: &str, from: (Arc<str>, Arc<str>)) -> impl Iterator<Item = &Arc<Object>> {
        self.resources
            .get(resource)
            .into_iter()
            .flat_map(move |objects| objects.range((Bound::Included(from.clone()), Bound::Unbounded)))
            .map(|(_, object)| object)
    }

    /// The objects of a resource that a selector selects, in one namespace, or in all if that is empty; sorted by
    /// namespace and name.
    pub fn select<'a: 's, 's>(
        &'a self,
        resource: &str,
        namespace: &str,
        selector: &'s LabelSelector,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 's> {
        let namespace: Arc<str> = namespace.into();
        let found = self.select_from(resource, (namespace.clone(), Arc::from("")), selector);
        Box::new(found.take_while(move |object| namespace.is_empty() || object.key.namespace == namespace))
    }

    /// The selected objects at or after a place. Where the selector wants one value of a label, and the resource's labels
    /// are indexed, only objects that have it are looked at.
    pub fn select_from<'a: 's, 's>(
        &'a self,
        resource: &str,
        from: (Arc<str>, Arc<str>),
        selector: &'s LabelSelector,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 's> {
        let wanted =
            move |object: &&'a Arc<Object>| selector.is_everything() || selector.matches(meta::labels(&object.value));
        let mut requirements = selector.requirements().iter();
        let exact = requirements.find(|wanted| wanted.operator == Operator::In && wanted.values.len() == 1);
        let Some(objects) = self.resources.get(resource) else { return Box::new(std::iter::empty()) };
        let Some(exact) = exact.filter(|_| LABELLED.contains(&resource)) else {
            let rest = objects.range((Bound::Included(from), Bound::Unbounded));
            return Box::new(rest.map(|(_, object)| object).filter(wanted));
        };
        let term = term(resource, &exact.key, &exact.values[0]);
        let places = self.labelled.range((Bound::Included((term.clone(), from)), Bound::Unbounded));
        let places = places.take_while(move |(other, _)| *other == term);
        Box::new(places.filter_map(|(_, place)| objects.get(place)).filter(wanted))
    }

    /// The Services of a namespace that select an object with these labels (`metadata.labels`); those that select nothing are
    /// not among them.
    pub fn selecting<'a>(&'a self, namespace: &str, labels: &'a Value) -> impl Iterator<Item = &'a Arc<Object>> {
        let namespace: Arc<str> = namespace.into();
        let terms = labels.as_object().into_iter().flatten();
        let terms = terms.filter_map(|(key, value)| Some(term(SERVICES, key, value.as_str()?)));
        let places = terms.flat_map(move |term| {
            let from = (term.clone(), (namespace.clone(), Arc::from("")));
            let namespace = namespace.clone();
            let places = self.labelled.range((Bound::Included(from), Bound::Unbounded));
            places.take_while(move |(other, place)| *other == term && place.0 == namespace).map(|(_, place)| place)
        });
        let services = places.filter_map(|place| self.resources.get(SERVICES)?.get(place));
        services.filter(|service| {
            let wanted = service.field("spec.selector").as_object();
            wanted.is_some_and(|wanted| wanted.iter().all(|(key, value)| labels[key] == *value))
        })
    }

    /// What Services hold, from one claim on, with the namespace and the name of the holder; in order.
    pub fn claims_from(&self, from: Claim) -> impl Iterator<Item = (&Claim, (&str, &str))> {
        let held = self.claims.range((Bound::Included(from), Bound::Unbounded));
        held.map(|(claim, (namespace, name))| (claim, (&**namespace, &**name)))
    }

    /// How many objects of a resource there are.
    #[must_use]
    pub fn count(&self, resource: &str) -> usize {
        self.resources.get(resource).map_or(0, OrdMap::len)
    }

    /// The resources of which there is at least one object.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<str>> {
        self.resources.keys()
    }

    /// The object with this uid.
    #[must_use]
    pub fn find(&self, uid: &str) -> Option<&Arc<Object>> {
        self.at(self.uids.get(uid)?)
    }

    /// Everything that names this uid in its `ownerReferences`.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|key| self.at(key))
    }

    /// What the object with this uid controls (`ownerReferences[].controller`).
    pub fn owned(&self, uid: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.dependents(uid).filter(move |object| object.controller_uid() == Some(uid))
    }

    /// The pods bound to a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.on_node.get(node).into_iter().flatten().filter_map(|key| self.at(key))
    }

    /// Puts one change into the picture and returns the version it replaced.
    ///
    /// Applying a change twice, or one older than what is there, changes nothing.
    pub fn apply(&mut self, kind: ChangeKind, object: &Arc<Object>) -> Option<Arc<Object>> {
        let previous = self.at(&object.key).cloned();
        if previous.as_ref().is_some_and(|old| old.revision >= object.revision) {
            return previous;
        }
        self.advance(object.revision);
        if let Some(old) = &previous {
            self.unindex(old);
        }
        let lives = kind != ChangeKind::Deleted;
        self.relabel(previous.as_deref(), lives.then_some(&**object));
        self.reclaim(previous.as_deref(), lives.then_some(&**object));
        let key = &object.key;
        let place = (key.namespace.clone(), key.name.clone());
        if kind == ChangeKind::Deleted {
            if let Some(objects) = self.resources.get_mut(&key.resource) {
                objects.remove(&place);
                if objects.is_empty() {
                    self.resources.remove(&key.resource);
                }
            }
        } else {
            self.resources.entry(key.resource.clone()).or_default().insert(place, object.clone());
            self.index(object);
        }
        previous
    }

    /// Gives up the decoded forms that nobody has looked at since the last call; returns how many.
    pub fn rest(&mut self) -> usize {
        let all = self.resources.values().flat_map(OrdMap::values);
        let quiet: Vec<Object> = all.filter_map(|object| object.gone_quiet()).collect();
        let count = quiet.len();
        for object in quiet {
            let place = (object.key.namespace.clone(), object.key.name.clone());
            if let Some(objects) = self.resources.get_mut(&object.key.resource) {
                objects.insert(place, Arc::new(object));
            }
        }
        count
    }

    /// Most changes leave an object's labels as they are, and cost nothing here.
    fn relabel(&mut self, old: Option<&Object>, new: Option<&Object>) {
        let Some(one) = new.or(old) else { return };
        let read: fn(&Object) -> &Value = match &*one.key.resource {
            resource if LABELLED.contains(&resource) => |object| meta::labels(&object.value),
            SERVICES => |object| object.field("spec.selector"),
            _ => return,
        };
        let labels = |of: Option<&Object>| of.map_or(&Value::Null, read).clone();
        let (before, after) = (labels(old), labels(new));
        if before == after {
            return;
        }
        let place = (one.key.namespace.clone(), one.key.name.clone());
        // A Service stands under one label that it wants: whatever it selects has that one.
        let most = if &*one.key.resource == SERVICES { 1 } else { usize::MAX };
        let terms = |labels: &Value| -> Vec<Term> {
            let labels = labels.as_object().into_iter().flatten();
            let terms = labels.filter_map(|(key, value)| Some(term(&one.key.resource, key, value.as_str()?)));
            terms.take(most).collect()
        };
        for gone in terms(&before) {
            self.labelled.remove(&(gone, place.clone()));
        }
        for come in terms(&after) {
            self.labelled.insert((come, place.clone()));
        }
    }

    fn reclaim(&mut self, old: Option<&Object>, new: Option<&Object>) {
        let Some(one) = new.or(old).filter(|one| &*one.key.resource == SERVICES) else { return };
        let place = (one.key.namespace.clone(), one.key.name.clone());
        for gone in old.map(|old| claims::of(&old.value)).into_iter().flatten() {
            if self.claims.get(&gone) == Some(&place) {
                self.claims.remove(&gone);
            }
        }
        for held in new.map(|new| claims::of(&new.value)).into_iter().flatten() {
            self.claims.insert(held, place.clone());
        }
    }

    fn index(&mut self, object: &Object) {
        if !object.uid().is_empty() {
            self.uids.insert(object.uid().into(), object.key.clone());
        }
        for owner in object.owner_uids() {
            self.dependents.entry(owner.into()).or_default().insert(object.key.clone());
        }
        if let Some(node) = bound_to(object) {
            self.on_node.entry(node.into()).or_default().insert(object.key.clone());
        }
    }

    fn unindex(&mut self, object: &Object) {
        self.uids.remove(object.uid());
        for owner in object.owner_uids() {
            forget(&mut self.dependents, owner, &object.key);
        }
        if let Some(node) = bound_to(object) {
            forget(&mut self.on_node, node, &object.key);
        }
    }
}

/// Neither a resource nor a label has a space or `=` in it.
fn term(resource: &str, key: &str, value: &str) -> Term {
    format!("{resource} {key}={value}").into()
}

fn bound_to(object: &Object) -> Option<&str> {
    if &*object.key.resource != "pods" {
        return None;
    }
    object.field("spec.nodeName").as_str().filter(|node| !node.is_empty())
}

fn forget(index: &mut OrdMap<Arc<str>, OrdSet<Key>>, entry: &str, key: &Key) {
    let Some(keys) = index.get_mut(entry) else { return };
    keys.remove(key);
    if keys.is_empty() {
        index.remove(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(namespace: &str, name: &str, revision: u64, node: &str, owner: &str) -> Arc<Object> {
        let value = json!({
            "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "ownerReferences":
                [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": owner, "controller": true}]},
            "spec": {"nodeName": node},
        });
        let mut value = value;
        value["metadata"]["labels"] = json!({"app": owner, "name": name});
        Arc::new(Object::new(Key::new("pods", namespace, name), revision, value))
    }

    fn names<'a>(objects: impl Iterator<Item = &'a Arc<Object>>) -> Vec<&'a str> {
        objects.map(|object| object.name()).collect()
    }

    #[test]
    fn a_clone_keeps_its_picture() {
        let mut view = View::default();
        view.apply(ChangeKind::Added, &pod("a", "x", 1, "", "u1"));
        let before = view.clone();
        view.apply(ChangeKind::Modified, &pod("a", "x", 2, "n1", "u1"));
        view.apply(ChangeKind::Added, &pod("b", "y", 3, "n1", "u2"));
        assert_eq!((before.revision(), view.revision()), (1, 3));
        assert_eq!(names(before.pods_on("n1")), [""; 0]);
        assert_eq!(names(view.pods_on("n1")), ["x", "y"]);
        assert_eq!(names(view.owned("u1")), ["x"]);
        assert_eq!(names(view.dependents("u2")), ["y"]);
        assert_eq!(view.find("uid-x").map(|object| object.revision), Some(2));
        assert_eq!(names(view.list_in("pods", "a")), ["x"]);
    }

    #[test]
    fn services_are_found_by_what_they_select() {
        let mut view = View::default();
        let mut revision = 0;
        let mut put = |view: &mut View, namespace: &str, name: &str, selector: Value, kind: ChangeKind| {
            revision += 1;
            let value = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"selector": selector}});
            view.apply(kind, &Arc::new(Object::new(Key::new("services", namespace, name), revision, value)));
        };
        put(&mut view, "a", "web", json!({"app": "web"}), ChangeKind::Added);
        put(&mut view, "a", "both", json!({"app": "web", "tier": "front"}), ChangeKind::Added);
        put(&mut view, "a", "other", json!({"app": "db"}), ChangeKind::Added);
        put(&mut view, "ab", "web", json!({"app": "web"}), ChangeKind::Added);
        put(&mut view, "a", "nobody", json!({}), ChangeKind::Added);
        put(&mut view, "a", "outside", Value::Null, ChangeKind::Added);
        let found = |view: &View, labels: Value| {
            let mut found = names(view.selecting("a", &labels)).into_iter().map(str::to_owned).collect::<Vec<_>>();
            found.sort();
            found
        };
        assert_eq!(found(&view, json!({"app": "web"})), ["web"]);
        assert_eq!(found(&view, json!({"x": "y", "app": "web", "tier": "front"})), ["both", "web"]);
        assert_eq!(found(&view, json!({"tier": "front"})), [""; 0]);
        assert_eq!(found(&view, Value::Null), [""; 0]);
        put(&mut view, "a", "web", json!({"app": "shop"}), ChangeKind::Modified);
        put(&mut view, "a", "both", json!({"app": "web"}), ChangeKind::Modified);
        assert_eq!(found(&view, json!({"app": "web"})), ["both"]);
        put(&mut view, "a", "both", json!({"app": "web"}), ChangeKind::Deleted);
        assert_eq!(found(&view, json!({"app": "web"})), [""; 0]);
        assert_eq!(found(&view, json!({"app": "shop"})), ["web"]);
    }

    #[test]
    fn a_selector_finds_what_looking_at_everything_finds() {
        let mut view = View::default();
        let mut revision = 0;
        let mut put = |view: &mut View, resource: &str, number: usize, app: usize, kind: ChangeKind| {
            revision += 1;
            let (namespace, name) = (["a", "b", "ab"][number % 3], format!("x{number}"));
            let labels = json!({"app": format!("v{app}"), "odd": (number % 2 == 1).to_string()});
            let value = json!({"metadata": {"name": name, "namespace": namespace, "labels": labels}});
            view.apply(kind, &Arc::new(Object::new(Key::new(resource, namespace, name), revision, value)));
        };
        for number in 0..60 {
            for resource in ["pods", "endpointslices.discovery.k8s.io", "configmaps"] {
                put(&mut view, resource, number, number % 4, ChangeKind::Added);
            }
            // Some get another label later, some lose their place altogether.
            if number % 5 == 0 {
                put(&mut view, "pods", number, 9, ChangeKind::Modified);
            }
            if number % 7 == 0 {
                put(&mut view, "pods", number, 9, ChangeKind::Deleted);
            }
        }
        for text in ["app=v1", "app=v9", "app=v1,odd=true", "odd=false,app in (v0,v2)", "app!=v1", "!app", "", "app=v"]
        {
            let selector = LabelSelector::parse(text).unwrap();
            for resource in ["pods", "endpointslices.discovery.k8s.io", "configmaps", "secrets"] {
                for namespace in ["", "a", "b", "ab", "none"] {
                    let all = view.list(resource).filter(|object| {
                        (namespace.is_empty() || object.namespace() == namespace)
                            && selector.matches(meta::labels(&object.value))
                    });
                    let found = names(view.select(resource, namespace, &selector));
                    assert_eq!(found, names(all), "{resource} {namespace} {text}");
                }
            }
            let from: Place = ("ab".into(), "x5".into());
            let all = view.list_from("pods", from.clone());
            let all = all.filter(|object| selector.matches(meta::labels(&object.value)));
            assert_eq!(names(view.select_from("pods", from, &selector)), names(all), "{text}");
        }
    }

    #[test]
    fn deletion_leaves_nothing_behind() {
        let mut view = View::default();
        view.apply(ChangeKind::Added, &pod("a", "x", 1, "n1", "u1"));
        view.apply(ChangeKind::Deleted, &pod("a", "x", 2, "n1", "u1"));
        assert!(
            view.resources.is_empty() && view.uids.is_empty() && view.dependents.is_empty() && view.on_node.is_empty()
        );
        assert!(view.labelled.is_empty());
        assert_eq!(view.revision(), 2);
    }
}
