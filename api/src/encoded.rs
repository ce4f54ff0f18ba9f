//! An object as JSON: the bytes that the store has, and the `resourceVersion` that it has not.
//!
//! An object is stored without its version, which is the revision of the very write. It is put in while the object is
//! written out, so that whoever holds an object shares its bytes with the store.

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use crate::decoded::{METADATA, Parts, RESOURCE_VERSION};

/// What comes before the version is copied together with it, unless it is longer than this.
const HEAD_BYTES_MAX: usize = 512;

/// An encoded object. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    stored: Bytes,
    version: Option<Version>,
}

/// Where in an object its version goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    revision: u64,
    /// Behind the brace that opens the metadata.
    at: usize,
    /// It has no other fields.
    alone: bool,
}

impl Encoded {
    /// An object as it is to be shown.
    pub(crate) fn whole(json: Bytes) -> Self {
        Self { stored: json, version: None }
    }

    /// An object without its version: its `metadata` as it stands in those very bytes, and how many fields that has.
    pub(crate) fn stored(stored: Bytes, metadata: &str, fields: usize, revision: u64) -> Option<Self> {
        let brace = (metadata.as_ptr() as usize).checked_sub(stored.as_ptr() as usize)?;
        let version = Version { revision, at: brace + 1, alone: fields == 0 };
        (stored.get(brace) == Some(&b'{')).then_some(Self { stored, version: Some(version) })
    }

    /// The same object as of another revision.
    pub(crate) fn moved(&self, revision: u64) -> Self {
        Self { stored: self.stored.clone(), version: self.version.map(|version| Version { revision, ..version }) }
    }

    /// The fields of the object, as the store has them.
    pub(crate) fn parts(&self) -> Option<Parts<'_>> {
        serde_json::from_slice(&self.stored).ok()
    }

    /// The version, where the bytes lack it.
    pub(crate) fn version(&self) -> Option<String> {
        self.version.map(|version| version.revision.to_string())
    }

    /// How many bytes the store has of it: a few less than are written out.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no object is empty")]
    pub fn len(&self) -> usize {
        self.stored.len()
    }

    /// Gives the JSON piece by piece.
    pub fn write(&self, mut out: impl FnMut(&[u8])) {
        match self.version {
            None => out(&self.stored),
            Some(version) => {
                out(&self.stored[..version.at]);
                out(version.text().as_bytes());
                out(&self.stored[version.at..]);
            }
        }
    }

    /// The JSON in one piece.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        if self.version.is_none() {
            return self.stored.clone();
        }
        let mut out = BytesMut::with_capacity(self.stored.len() + VERSION_BYTES);
        self.write(|piece| out.extend_from_slice(piece));
        out.freeze()
    }

    /// Appends something and then the JSON, most of it without a copy.
    pub fn append(&self, before: &'static str, parts: &mut Vec<Bytes>) {
        match self.version {
            Some(version) if version.at <= HEAD_BYTES_MAX => {
                let text = version.text();
                let mut head = BytesMut::with_capacity(before.len() + version.at + text.len());
                for piece in [before.as_bytes(), &self.stored[..version.at], text.as_bytes()] {
                    head.extend_from_slice(piece);
                }
                parts.extend([head.freeze(), self.stored.slice(version.at..)]);
            }
            _ => {
                parts.push(Bytes::from_static(before.as_bytes()));
                match self.version {
                    None => parts.push(self.stored.clone()),
                    Some(version) => {
                        let (head, rest) = (self.stored.slice(..version.at), self.stored.slice(version.at..));
                        parts.extend([head, version.text().into(), rest]);
                    }
                }
            }
        }
    }

    /// `metadata` as JSON; `{}` where there is none.
    pub(crate) fn metadata(&self) -> String {
        let parts = self.parts();
        let metadata = parts.as_ref().and_then(|parts| Some(parts.get(METADATA)?.get())).unwrap_or("{}");
        match self.version {
            None => metadata.to_owned(),
            Some(version) => format!("{{{}{}", version.text(), &metadata[1..]),
        }
    }

    /// All of the object, decoded; nothing where it is no JSON.
    pub(crate) fn decode(&self) -> Option<Value> {
        let mut value: Value = serde_json::from_slice(&self.stored).ok()?;
        let metadata = value.get_mut(METADATA).and_then(Value::as_object_mut);
        if let (Some(version), Some(metadata)) = (self.version(), metadata) {
            metadata.insert(RESOURCE_VERSION.into(), Value::String(version));
        }
        Some(value)
    }
}

/// What the version may add to an object.
const VERSION_BYTES: usize = 48;

impl Version {
    fn text(&self) -> String {
        let Version { revision, alone, .. } = self;
        let comma = if *alone { "" } else { "," };
        format!("\"{RESOURCE_VERSION}\":\"{revision}\"{comma}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(stored: &str) -> Encoded {
        let stored = Bytes::from(stored.to_owned());
        let parts: Parts<'_> = serde_json::from_slice(&stored).unwrap();
        let metadata = parts[METADATA].get();
        let fields = serde_json::from_str::<Parts<'_>>(metadata).unwrap().len();
        Encoded::stored(stored.clone(), metadata, fields, 7).unwrap()
    }

    #[test]
    fn the_version_stands_in_the_metadata_however_it_is_written_out() {
        let long = format!(r#"{{"data":{{"a":"{}"}},"metadata": {{ "name":"x"}}}}"#, "b".repeat(HEAD_BYTES_MAX));
        for stored in [r#"{"kind":"Pod","metadata":{"name":"x"},"spec":{}}"#, r#"{"metadata":{ }}"#, &long] {
            let encoded = encoded(stored);
            let text = String::from_utf8(encoded.to_bytes().to_vec()).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value[METADATA][RESOURCE_VERSION], "7", "{text}");
            assert_eq!(encoded.decode(), Some(value.clone()));
            assert_eq!(serde_json::from_str::<Value>(&encoded.metadata()).unwrap(), value[METADATA]);
            let mut parts = Vec::new();
            encoded.append(",", &mut parts);
            assert_eq!(parts.concat(), format!(",{text}").into_bytes());
            assert_eq!(encoded.moved(8).decode().unwrap()[METADATA][RESOURCE_VERSION], "8");
        }
    }

    #[test]
    fn what_is_whole_stays_as_it_is() {
        let encoded = Encoded::whole(Bytes::from_static(b"{\"spec\":{}}"));
        let mut parts = Vec::new();
        encoded.append("", &mut parts);
        assert_eq!((encoded.to_bytes(), parts.concat()), (Bytes::from_static(b"{\"spec\":{}}"), parts[1].to_vec()));
        assert_eq!((encoded.metadata(), encoded.decode().unwrap()[METADATA].clone()), ("{}".to_owned(), Value::Null));
    }
}
