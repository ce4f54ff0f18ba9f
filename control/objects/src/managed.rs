//! Who manages which fields: `metadata.managedFields` and the two ways it changes (KEP-555). Pure.
//!
//! A write that sends a whole object or a patch is an *Update*: its manager gains what the write changed and
//! everybody else loses it. An *Apply* says which fields its manager wants: what others manage with another value is
//! a conflict, what the manager no longer wants and nobody else manages goes.

use api::meta;
use serde_json::{Map, Value, json};

use crate::apply::{compare, fields_of, merge, remove};
use crate::fields::FieldSet;
use crate::limits::UPDATE_MANAGERS_MAX;
use crate::shape::Shape;

/// The manager that old `Update` entries are merged into.
const ANCIENT: &str = "ancient-changes";

/// Fields that nobody manages: the server's own.
const UNMANAGED: [&[&str]; 13] = [
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:generateName"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:deletionTimestamp"],
    &["f:metadata", "f:deletionGracePeriodSeconds"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:selfLink"],
];

/// Who writes, through which door.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    /// `fieldManager`.
    pub(crate) manager: &'a str,
    /// `apps/v1`.
    pub(crate) api_version: &'a str,
    /// Empty for the main endpoint.
    pub(crate) subresource: &'a str,
    /// RFC 3339.
    pub(crate) now: &'a str,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    applied: bool,
    api_version: String,
    time: String,
    subresource: String,
    fields: FieldSet,
}

impl Entry {
    fn new(writer: &Writer<'_>, applied: bool, fields: FieldSet) -> Self {
        Self {
            manager: writer.manager.into(),
            applied,
            api_version: writer.api_version.into(),
            time: writer.now.into(),
            subresource: writer.subresource.into(),
            fields,
        }
    }

    fn is_of(&self, writer: &Writer<'_>, applied: bool) -> bool {
        self.manager == writer.manager && self.applied == applied && self.subresource == writer.subresource
    }

    fn decode(value: &Value) -> Option<Self> {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        Some(Self {
            manager: text("manager"),
            applied: value["operation"] == "Apply",
            api_version: text("apiVersion"),
            time: text("time"),
            subresource: text("subresource"),
            fields: FieldSet::decode_root(&value["fieldsV1"])?,
        })
    }

    fn encode(&self) -> Value {
        let mut value = json!({
            "manager": self.manager, "operation": if self.applied { "Apply" } else { "Update" },
            "apiVersion": self.api_version, "time": self.time,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.encode(),
        });
        if !self.subresource.is_empty() {
            value["subresource"] = json!(self.subresource);
        }
        value
    }
}

fn decode(object: &Value) -> Vec<Entry> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten().filter_map(Entry::decode).collect()
}

/// Writes the entries, applied ones first, then the oldest first, as upstream sorts them.
fn encode(mut entries: Vec<Entry>, object: &mut Value) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|a, b| (!a.applied, &a.time, &a.manager).cmp(&(!b.applied, &b.time, &b.manager)));
    let metadata = meta::metadata_mut(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), entries.iter().map(Entry::encode).collect());
    }
}

/// What a write through this door may manage of a set.
fn managed_part(mut set: FieldSet, shape: Shape<'_>, subresource: &str) -> FieldSet {
    set.unmark();
    if set.child("f:metadata").is_some_and(FieldSet::is_member) {
        // Empty metadata is nobody's: giving it up must not take the object's name.
        set.prune(&["f:metadata"]);
    }
    for path in UNMANAGED {
        set.prune(path);
    }
    let has_status = match shape {
        Shape::Struct(message) => message.field("status").is_some() && message.field("spec").is_some(),
        _ => true,
    };
    if subresource.is_empty() && has_status {
        set.prune(&["f:status"]);
    } else if subresource == "status" {
        set.prune(&["f:spec"]);
    }
    set
}

/// Writes into `new` who manages what after an Update from `old`; `old` is `None` for a new object.
///
/// A `managedFields` in `new` counts as the client's wish to change it: `[{}]` forgets every manager, an empty or
/// unreadable one is ignored so that clients who do not know the field cannot lose it.
pub(crate) fn track(shape: Shape<'_>, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let empty = json!({});
    let wish = &new["metadata"]["managedFields"];
    let forget = wish.as_array().is_some_and(|entries| entries.len() == 1 && entries[0] == empty);
    let mut entries = if forget { Vec::new() } else { decode(new) };
    if entries.is_empty() && !forget {
        entries = old.map(decode).unwrap_or_default();
    }
    let difference = compare(shape, old.unwrap_or(&empty), new);
    let changed = managed_part(difference.changed, shape, writer.subresource);
    let lost = difference.removed.union(&changed);
    for entry in &mut entries {
        if !entry.is_of(writer, false) {
            entry.fields = entry.fields.minus(&lost);
        }
    }
    match entries.iter_mut().find(|entry| entry.is_of(writer, false)) {
        Some(mine) => {
            let before = mine.fields.clone();
            mine.fields = before.minus(&lost).union(&changed);
            mine.api_version = writer.api_version.into();
            if !changed.is_empty() || mine.fields != before {
                mine.time = writer.now.into();
            }
        }
        None => entries.push(Entry::new(writer, false, changed)),
    }
    merge_ancient(&mut entries);
    encode(entries, new);
}

/// Keeps the number of `Update` entries bounded: the oldest become one.
fn merge_ancient(entries: &mut Vec<Entry>) {
    let mut updates: Vec<Entry> = entries.extract_if(.., |entry| !entry.applied).collect();
    updates.sort_by(|a, b| a.time.cmp(&b.time));
    if updates.len() > UPDATE_MANAGERS_MAX {
        let count = updates.len() - UPDATE_MANAGERS_MAX + 1;
        let mut old = updates.drain(..count);
        let first = old.next().expect("more entries than the bound, which is above zero");
        let merged = old.fold(first, |merged, entry| Entry { fields: merged.fields.union(&entry.fields), ..entry });
        updates.insert(0, Entry { manager: ANCIENT.into(), subresource: String::new(), ..merged });
    }
    entries.append(&mut updates);
}

/// A field that somebody else manages with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Who, as kubectl shows it: `"ci"` that applied, `"kubectl-edit" using apps/v1` that updated.
    pub(crate) manager: String,
    /// Which field: `.spec.replicas`.
    pub(crate) field: String,
}

/// The object after an Apply, its `managedFields` included; the conflicts instead, unless forced.
///
/// `live` is the stored object, or only its identity when there is none yet.
pub(crate) fn apply(
    shape: Shape<'_>,
    live: &Value,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let mut entries = decode(live);
    let last = entries.extract_if(.., |entry| entry.is_of(writer, true)).next();
    let wanted = managed_part(fields_of(shape, config), shape, writer.subresource);
    let kept = last.as_ref().and_then(|last| {
        let others = entries.iter().fold(FieldSet::default(), |all, entry| all.union(&entry.fields));
        let gone = last.fields.minus(&wanted).minus_kept_by(&others).minus_kept_by(&wanted);
        remove(shape, live, &gone)
    });
    // What goes, goes first: an empty value that is wanted must not vanish with what was in it.
    let mut merged = merge(shape, kept.as_ref().unwrap_or(live), &without_server_fields(config));
    if let Shape::Struct(message) = shape {
        // An applied zero is a wish, but what is stored has none that Go leaves out: two who wish the same must not
        // seem to differ. Both parts fit their type, so the whole does.
        drop(api::check::check(&mut merged, &message.name));
    }
    let difference = compare(shape, live, &merged);
    let changed = managed_part(difference.changed, shape, writer.subresource);
    let conflicts: Vec<Conflict> = entries.iter().flat_map(|entry| conflicts(entry, &changed)).collect();
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    let lost = difference.removed.union(&changed);
    for entry in &mut entries {
        entry.fields = entry.fields.minus(&lost);
    }
    let mut mine = Entry::new(writer, true, wanted);
    if let Some(last) = last.filter(|last| last.fields == mine.fields && changed.is_empty()) {
        mine.time = last.time;
    }
    entries.push(mine);
    encode(entries, &mut merged);
    Ok(merged)
}

fn conflicts(entry: &Entry, changed: &FieldSet) -> Vec<Conflict> {
    let mut who = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        who += &format!(" with subresource {:?}", entry.subresource);
    }
    // An applier is the same one in every version, so none is named.
    if !entry.applied {
        who += &format!(" using {}", entry.api_version);
    }
    let fields = entry.fields.intersection(changed).paths();
    fields.into_iter().map(|field| Conflict { manager: who.clone(), field }).collect()
}

fn without_server_fields(config: &Value) -> Value {
    let Some(fields) = config.as_object() else { return config.clone() };
    let mut kept: Map<String, Value> = fields.clone();
    if let Some(metadata) = kept.get_mut("metadata").and_then(Value::as_object_mut) {
        for path in UNMANAGED.iter().filter(|path| path.len() == 2) {
            let name = path[1].trim_start_matches("f:");
            if !matches!(name, "name" | "namespace") {
                metadata.remove(name);
            }
        }
    }
    Value::Object(kept)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod tests;
