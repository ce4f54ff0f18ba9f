//! YAML in and out. Bodies may be YAML, and people write manifests in it.
//!
//! A document becomes the JSON it stands for: keys become text, aliases are followed (within a bound), tags are refused
//! by the types that follow.

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::json::{Decoded, Seed};
use crate::limits::{YAML_DOCUMENTS_MAX, YAML_FLOW_DEPTH_MAX, YAML_UNFOLDED_BYTES_MAX};
use crate::status::Status;

/// Every document of a stream (`---`), empty ones left out.
///
/// # Errors
/// 400 when a document is malformed, nests too deep, repeats a key, or when there are too many documents.
pub fn documents(bytes: &[u8]) -> Result<Vec<Value>, Status> {
    let mut values = Vec::new();
    for decoded in stream(bytes)? {
        if let Some(path) = decoded.duplicates.first() {
            return Err(Status::bad_request(format!("yaml: key {path:?} already set in map")));
        }
        if !decoded.value.is_null() {
            values.push(decoded.value);
        }
    }
    Ok(values)
}

/// Exactly one document, duplicates reported as in JSON.
///
/// # Errors
/// 400 when the bytes are not exactly one well-formed document.
pub fn decode(bytes: &[u8]) -> Result<Decoded, Status> {
    let mut found = stream(bytes)?.into_iter().filter(|decoded| !decoded.value.is_null());
    match (found.next(), found.next()) {
        (Some(decoded), None) => Ok(decoded),
        (None, _) => Err(malformed("the body is empty")),
        (Some(_), Some(_)) => Err(malformed("the body holds more than one document")),
    }
}

/// Writes one document, without the leading `---`.
///
/// # Errors
/// Never for a value that came from JSON; 500 names the cause otherwise.
pub fn to_string(value: &Value) -> Result<String, Status> {
    serde_norway::to_string(value).map_err(Status::internal)
}

fn stream(bytes: &[u8]) -> Result<Vec<Decoded>, Status> {
    let text = std::str::from_utf8(bytes).map_err(malformed)?;
    if nests_deeper_than(text, YAML_FLOW_DEPTH_MAX) {
        return Err(malformed(format!("exceeded max depth of {YAML_FLOW_DEPTH_MAX}")));
    }
    let mut budget = YAML_UNFOLDED_BYTES_MAX;
    let mut found = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        if found.len() == YAML_DOCUMENTS_MAX {
            return Err(malformed(format!("more than {YAML_DOCUMENTS_MAX} documents")));
        }
        let (mut path, mut duplicates) = (Vec::new(), Vec::new());
        let seed = Seed { path: &mut path, duplicates: &mut duplicates, budget: Some(&mut budget) };
        let value = seed.deserialize(document).map_err(malformed)?;
        found.push(Decoded { value, duplicates });
    }
    Ok(found)
}

/// Whether brackets are opened deeper than that. The scanner looks at every open one for every token, so this is asked
/// before it runs. A bracket counts where a value may begin, outside of quotes; in running text few do.
fn nests_deeper_than(text: &str, max: usize) -> bool {
    let (mut depth, mut begins, mut quote) = (0_usize, true, None);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match (byte, quote) {
            (b'\\', Some(b'"')) => drop(bytes.next()),
            (_, Some(open)) if byte == open => quote = None,
            (_, Some(_)) => {}
            (b'"' | b'\'', None) if begins => (quote, begins) = (Some(byte), false),
            (b'[' | b'{', None) if begins => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            (b']' | b'}', None) => (depth, begins) = (depth.saturating_sub(1), false),
            (b'\n' | b',' | b':' | b'-' | b'?', None) => begins = true,
            (b' ' | b'\t' | b'\r', None) => {}
            (_, None) => begins = false,
        }
    }
    false
}

fn malformed(why: impl std::fmt::Display) -> Status {
    Status::bad_request(format!("error converting YAML to JSON: yaml: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stream_of_documents() {
        let text = "---\n# nothing\n---\na: 1\nb: [x, true, 1.5, null]\n---\n80: y\n\"on\": 'no'\n";
        let expected = [json!({"a": 1, "b": ["x", true, 1.5, null]}), json!({"80": "y", "on": "no"})];
        assert_eq!(documents(text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn aliases_and_block_text() {
        let text = "base: &b {x: 1}\nuse: *b\ntext: |\n  one\n  two\n";
        let expected = json!({"base": {"x": 1}, "use": {"x": 1}, "text": "one\ntwo\n"});
        assert_eq!(decode(text.as_bytes()).unwrap().value, expected);
    }

    #[test]
    fn refusals() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..9 {
            let last = format!("*a{}", n - 1);
            bomb += &format!("a{n}: &a{n} [{}]\n", vec![last; 10].join(","));
        }
        let text = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a,".repeat(200));
        assert!(decode(text.as_bytes()).unwrap_err().message.contains("unfolds to too much"));
        for bad in ["a: b: c", "{", "a: 1\n---\nb: 1", "", "\u{1}", &bomb] {
            assert_eq!(decode(bad.as_bytes()).unwrap_err().code, 400, "{bad}");
        }
        assert_eq!(decode(b"a: {b: 1, b: 2}").unwrap().duplicates, ["a.b"]);
        assert!(documents(b"a: 1\na: 2\n").is_err());
    }

    #[test]
    fn what_is_written_can_be_read() {
        let value = json!({"a": ["1", 1, "true", null, "x: y", "multi\nline\n"], "b": {}});
        assert_eq!(decode(to_string(&value).unwrap().as_bytes()).unwrap().value, value);
    }
}
