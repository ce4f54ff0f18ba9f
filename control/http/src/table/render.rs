//! Sheets as bytes: a `Table` of one page of a list, or of one object of a watch.

use api::{Object, Status};
use serde_json::{Value, json};

use super::{Column, Layout, custom};
use crate::negotiate::MetaVersion;
use crate::query::Query;

/// `includeObject`: what each row carries besides its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// Nothing.
    None,
    /// `metadata`, which is what kubectl needs for names and namespaces.
    #[default]
    Metadata,
    /// All of it, for `--sort-by`.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter.
    pub(crate) fn of(query: &Query) -> Result<Self, Status> {
        match query.get("includeObject") {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// How a client wants its tables.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) sheet: Layout,
    pub(crate) version: MetaVersion,
    pub(crate) include: IncludeObject,
    /// Milliseconds since 1970, for ages.
    pub(crate) now_ms: i64,
}

impl Table {
    /// Encodes rows with the list's `metadata`; a watch leaves the headings out after its first event.
    pub(crate) fn encode<'a>(
        &self,
        metadata: &Value,
        headings: bool,
        objects: impl IntoIterator<Item = &'a Object>,
    ) -> Vec<u8> {
        let columns: Value = if headings { self.columns() } else { Value::Null };
        let version = self.version.api_version();
        let mut out = format!(
            r#"{{"kind":"Table","apiVersion":"{version}","metadata":{metadata},"columnDefinitions":{columns},"rows":["#
        )
        .into_bytes();
        for (index, object) in objects.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.row(object, &mut out);
        }
        out.extend_from_slice(b"]}");
        out
    }

    fn columns(&self) -> Value {
        match &self.sheet {
            Layout::Own(sheet) => sheet.columns.iter().map(column).collect(),
            Layout::Custom(resource) => custom::columns(resource),
        }
    }

    fn row(&self, object: &Object, out: &mut Vec<u8>) {
        let cells = Value::Array(match &self.sheet {
            Layout::Own(sheet) => (sheet.row)(object, self.now_ms),
            Layout::Custom(resource) => custom::row(resource, object, self.now_ms),
        });
        out.extend_from_slice(format!(r#"{{"cells":{cells},"object":"#).as_bytes());
        match self.include {
            IncludeObject::None => out.extend_from_slice(b"null"),
            IncludeObject::Metadata => out.extend_from_slice(&partial(object, self.version)),
            IncludeObject::Object => object.json().write(|piece| out.extend_from_slice(piece)),
        }
        out.push(b'}');
    }
}

fn column(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.type_, "format": column.format, "description": "",
        "priority": column.priority,
    })
}

/// An object reduced to its metadata.
pub(crate) fn partial(object: &Object, version: MetaVersion) -> Vec<u8> {
    let (version, metadata) = (version.api_version(), object.metadata_json());
    format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{version}","metadata":{metadata}}}"#).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Key;

    #[test]
    fn a_table_carries_what_was_asked_for() {
        let object =
            Object::new(Key::new("configmaps", "d", "c"), 7, json!({"metadata": {"name": "c"}, "data": {"a": "b"}}));
        let table = |include| Table {
            sheet: Layout::Own(super::super::own("configmaps")),
            version: MetaVersion::V1,
            include,
            now_ms: 0,
        };
        let decode = |include, headings| -> Value {
            let bytes = table(include).encode(&json!({"resourceVersion": "7"}), headings, [&object]);
            serde_json::from_slice(&bytes).unwrap()
        };
        let whole = decode(IncludeObject::Object, true);
        assert_eq!(whole["rows"][0]["object"]["data"]["a"], "b");
        assert_eq!(whole["columnDefinitions"][1]["name"], "Data");
        assert_eq!(whole["rows"][0]["cells"][1], 1);
        let partial = decode(IncludeObject::Metadata, false);
        assert_eq!(partial["rows"][0]["object"]["metadata"]["resourceVersion"], "7");
        assert!(partial["columnDefinitions"].is_null());
        assert!(decode(IncludeObject::None, true)["rows"][0]["object"].is_null());
    }
}
