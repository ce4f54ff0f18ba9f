//! Decoding strictly: drops what the schema does not know and says so. Wrong types are left for `values` to tell, as
//! upstream does; only `metadata`, whose type is not the schema's business, is decoded as everywhere.

use serde_json::Value;

use super::Structural;
use crate::limits::{DEPTH_MAX, PROBLEMS_MAX};
use crate::schema::OBJECT_META;
use crate::status::Status;

/// Fits an object to its schema, in place, and returns the paths of the fields it pruned.
///
/// # Errors
/// 400 when it is no object, is nested too deeply, or its `metadata` has a wrong type.
pub fn check(value: &mut Value, schema: &Structural) -> Result<Vec<String>, Status> {
    fit(value, schema, false)
}

/// The same for the partial object of a server-side apply.
///
/// # Errors
/// As [`check`].
pub fn check_applied(value: &mut Value, schema: &Structural) -> Result<Vec<String>, Status> {
    fit(value, schema, true)
}

fn fit(value: &mut Value, schema: &Structural, applied: bool) -> Result<Vec<String>, Status> {
    if !value.is_object() {
        return Err(Status::bad_request("the body is not an object"));
    }
    let mut pruner = Pruner { unknown: Vec::new(), applied };
    pruner.prune(value, schema, &mut String::new(), 0)?;
    Ok(pruner.unknown)
}

struct Pruner {
    unknown: Vec<String>,
    applied: bool,
}

impl Pruner {
    fn prune(&mut self, value: &mut Value, schema: &Structural, path: &mut String, depth: usize) -> Result<(), Status> {
        if depth >= DEPTH_MAX {
            return Err(Status::bad_request(format!("exceeded max depth of {DEPTH_MAX}")));
        }
        let length = path.len();
        match value {
            Value::Object(members) => {
                let names: Vec<String> = members.keys().cloned().collect();
                for name in names {
                    if length > 0 {
                        path.push('.');
                    }
                    path.push_str(&name);
                    let own = schema.embedded && matches!(name.as_str(), "apiVersion" | "kind");
                    if schema.embedded && name == "metadata" {
                        self.metadata(&mut members[&name], path)?;
                    } else if let Some(property) = schema.property(&name) {
                        self.prune(&mut members[&name], property, path, depth + 1)?;
                    } else if !own && !schema.is_open() {
                        members.remove(&name);
                        if self.unknown.len() < PROBLEMS_MAX {
                            self.unknown.push(path.clone());
                        }
                    }
                    path.truncate(length);
                }
            }
            Value::Array(items) => {
                let Some(of_items) = schema.items.as_deref() else { return Ok(()) };
                for (index, item) in items.iter_mut().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    self.prune(item, of_items, path, depth + 1)?;
                    path.truncate(length);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn metadata(&mut self, value: &mut Value, path: &str) -> Result<(), Status> {
        let check = if self.applied { crate::check::check_applied } else { crate::check::check };
        if value.is_null() {
            *value = Value::Object(serde_json::Map::new());
        }
        let unknown = check(value, OBJECT_META)?;
        let room = PROBLEMS_MAX.saturating_sub(self.unknown.len());
        self.unknown.extend(unknown.into_iter().take(room).map(|field| format!("{path}.{field}")));
        Ok(())
    }
}
