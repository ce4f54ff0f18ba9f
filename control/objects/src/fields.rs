//! Sets of field paths, as `managedFields[].fieldsV1` writes them.
//!
//! A set is a trie. An edge is spelled as in FieldsV1: `f:replicas` for a field, `k:{"name":"web"}` for an item of a
//! list with keys, `v:"x"` for an item of a set, `i:0` for a position. A node may be a member itself (`.`) and have
//! children; a node without children is always a member.
//!
//! Example: `{"f:spec":{"f:replicas":{},"f:ports":{"k:{\"port\":80}":{".":{},"f:name":{}}}}}` has three members:
//! `spec.replicas`, the item `ports[port=80]`, and that item's `name`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

/// A set of field paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// The set whose only member is the path it stands at.
    pub(crate) fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    /// Whether nothing is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Whether the path that this node stands at is in the set.
    pub(crate) fn is_member(&self) -> bool {
        self.member
    }

    /// Makes the path that this node stands at a member.
    pub(crate) fn mark(&mut self) {
        self.member = true;
    }

    /// Takes the path that this node stands at out, but nothing below it.
    pub(crate) fn unmark(&mut self) {
        self.member = false;
    }

    /// The set below an edge.
    pub(crate) fn child(&self, edge: &str) -> Option<&Self> {
        self.children.get(edge)
    }

    /// Hangs a set below an edge; an empty one leaves no trace.
    pub(crate) fn put(&mut self, edge: String, child: Self) {
        if child.is_empty() {
            return;
        }
        match self.children.entry(edge) {
            Entry::Vacant(place) => {
                place.insert(child);
            }
            Entry::Occupied(mut place) => place.get_mut().add(&child),
        }
    }

    /// Takes a path and everything below it out.
    pub(crate) fn prune(&mut self, path: &[&str]) {
        let Some((edge, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            self.children.remove(*edge);
        } else if let Some(child) = self.children.get_mut(*edge) {
            child.prune(rest);
            if child.is_empty() {
                self.children.remove(*edge);
            }
        }
    }

    /// Members of either.
    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    /// Puts the members of the other in.
    fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (edge, theirs) in &other.children {
            match self.children.get_mut(edge) {
                Some(mine) => mine.add(theirs),
                None => drop(self.children.insert(edge.clone(), theirs.clone())),
            }
        }
    }

    /// Members of both.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut set = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (edge, mine) in &self.children {
            if let Some(theirs) = other.children.get(edge) {
                set.put(edge.clone(), mine.intersection(theirs));
            }
        }
        set
    }

    /// Members of this that are not members of the other.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.without(other, |theirs| theirs.member)
    }

    /// Members of this under which the other has nothing at all: an item that somebody still owns a field of stays.
    pub(crate) fn minus_kept_by(&self, other: &Self) -> Self {
        self.without(other, |theirs| !theirs.is_empty())
    }

    fn without(&self, other: &Self, covers: fn(&Self) -> bool) -> Self {
        let mut set = self.clone();
        set.take_out(other, covers);
        set
    }

    fn take_out(&mut self, other: &Self, covers: fn(&Self) -> bool) {
        self.member &= !covers(other);
        for (edge, theirs) in &other.children {
            if let Some(mine) = self.children.get_mut(edge) {
                mine.take_out(theirs, covers);
                if mine.is_empty() {
                    self.children.remove(edge);
                }
            }
        }
    }

    /// Every member as a person writes paths: `.spec.containers[name="web"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, at: &mut String, paths: &mut Vec<String>) {
        if self.member {
            paths.push(at.clone());
        }
        for (edge, child) in &self.children {
            let length = at.len();
            at.push_str(&step(edge));
            child.collect(at, paths);
            at.truncate(length);
        }
    }

    /// Reads FieldsV1; `None` for what is not a trie of objects.
    pub(crate) fn decode(value: &Value) -> Option<Self> {
        let children = value.as_object()?;
        let mut set = Self { member: children.is_empty(), children: BTreeMap::new() };
        for (edge, child) in children {
            if edge == "." {
                set.member = true;
            } else {
                set.children.insert(edge.clone(), Self::decode(child)?);
            }
        }
        Some(set)
    }

    /// Reads FieldsV1 where the root, as always, is no member.
    pub(crate) fn decode_root(value: &Value) -> Option<Self> {
        Self::decode(value).map(|set| Self { member: false, ..set })
    }

    /// Writes FieldsV1.
    pub(crate) fn encode(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (edge, child) in &self.children {
            map.insert(edge.clone(), child.encode());
        }
        Value::Object(map)
    }
}

fn step(edge: &str) -> String {
    match edge.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("k:", keys)) => match serde_json::from_str::<Map<String, Value>>(keys) {
            Ok(keys) => {
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
            Err(_) => format!("[{keys}]"),
        },
        Some(("v:", value)) => format!("[={value}]"),
        Some(("i:", index)) => format!("[{index}]"),
        _ => format!(".{edge}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: &Value) -> FieldSet {
        FieldSet::decode_root(value).unwrap()
    }

    #[test]
    fn the_written_form_is_fields_v1() {
        let written = json!({"f:spec": {"f:replicas": {}, "f:ports": {"k:{\"port\":80}": {".": {}, "f:name": {}}}}});
        let ports = set(&written);
        assert_eq!(ports.encode(), written);
        assert_eq!(ports.paths(), [".spec.ports[port=80]", ".spec.ports[port=80].name", ".spec.replicas"]);
        assert!(set(&json!({})).is_empty() && FieldSet::decode(&json!({"f:a": 1})).is_none());
    }

    #[test]
    fn algebra() {
        let a = set(&json!({"f:x": {}, "f:list": {"k:{\"n\":1}": {".": {}, "f:n": {}, "f:v": {}}}}));
        let b = set(&json!({"f:y": {}, "f:list": {"k:{\"n\":1}": {"f:v": {}}}}));
        assert_eq!(a.intersection(&b).encode(), json!({"f:list": {"k:{\"n\":1}": {"f:v": {}}}}));
        assert_eq!(
            a.minus(&b).encode(),
            json!({"f:x": {}, "f:list": {"k:{\"n\":1}": {".": {}, "f:n": {}}}}),
            "the item itself is a member of its own"
        );
        assert_eq!(
            a.minus_kept_by(&b).encode(),
            json!({"f:x": {}, "f:list": {"k:{\"n\":1}": {"f:n": {}}}}),
            "somebody owns a field of the item, so the item stays"
        );
        assert_eq!(a.clone().union(&b).minus(&a).encode(), json!({"f:y": {}}));
        assert!(a.minus(&a).is_empty());
    }
}
