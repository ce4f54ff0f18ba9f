//! Reading Kubernetes' protobuf: what kubectl 1.32 and later sends for typed commands.
//!
//! Source: `k8s.io/apimachinery/pkg/runtime/serializer/protobuf`. A body is four magic bytes and a `runtime.Unknown`
//! around the message. Decoding is driven by the field table and yields the JSON that Go would have sent instead. The
//! wire type is believed, not the table's, because some tags upstream are wrong. Nothing is ever encoded: every client
//! that sends protobuf also accepts JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::json;
use crate::limits::DEPTH_MAX;
use crate::schema::{Field, Message, Schema, Shape, Type};
use crate::status::Status;
use crate::time;

/// What every body begins with.
pub const MAGIC: &[u8] = b"k8s\0";

/// Reads a body into the JSON it stands for, with `apiVersion` and `kind`.
///
/// # Errors
/// 400 when the bytes are malformed or of a kind that the table does not have.
pub fn decode(bytes: &[u8]) -> Result<Value, Status> {
    envelope(bytes, 0).map_err(|why| Status::bad_request(format!("unable to decode the protobuf body: {why}")))
}

type Outcome<T> = Result<T, &'static str>;

/// One field as it stands on the wire.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Outcome<&'a [u8]> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err("a number stands where text or a message belongs"),
        }
    }

    fn text(self) -> Outcome<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "text is not UTF-8")
    }

    /// A signed number: protobuf sends negative ones as their 64-bit complement.
    fn number(self) -> Outcome<i64> {
        match self {
            Wire::Varint(bits) | Wire::Fixed64(bits) => Ok(bits.cast_signed()),
            Wire::Fixed32(bits) => Ok(bits.cast_signed().into()),
            Wire::Bytes(_) => Err("text or a message stands where a number belongs"),
        }
    }
}

/// Walks the fields of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Outcome<Option<(u32, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| "a field number is too large")?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| "a length is too large")?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err("unknown wire type"),
        };
        Ok(Some((number, wire)))
    }

    fn varint(&mut self) -> Outcome<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is longer than ten bytes")
    }

    fn take(&mut self, length: usize) -> Outcome<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length).ok_or("the body ends in the middle of a field")?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| "the body ends in the middle of a field")
    }
}

/// `runtime.Unknown`: 1 typeMeta {1 apiVersion, 2 kind}, 2 raw, 4 contentType.
fn envelope(bytes: &[u8], depth: usize) -> Outcome<Value> {
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or("it does not begin with the magic bytes")?);
    let (mut api_version, mut kind, mut raw, mut content_type) = ("", "", &[][..], "");
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => {
                let mut reader = Reader(wire.bytes()?);
                while let Some((number, wire)) = reader.next()? {
                    match number {
                        1 => api_version = wire.text()?,
                        2 => kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = wire.bytes()?,
            4 => content_type = wire.text()?,
            _ => {}
        }
    }
    if content_type.contains("json") {
        return json::decode(raw).map(|decoded| decoded.value).map_err(|_| "the enveloped JSON is malformed");
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if group == "apiextensions.k8s.io" {
        // The table says what a structural schema may hold in JSON; protobuf wraps some of it once more.
        return Err("definitions of custom resources are read as JSON and YAML");
    }
    let message = Schema::builtin().message_of(group, version, kind).ok_or("no such apiVersion and kind")?;
    let mut map = Map::new();
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), kind.into());
    fields(raw, message, &mut map, depth + 1)?;
    Ok(Value::Object(map))
}

/// Adds a message's fields to `map`.
fn fields(bytes: &[u8], message: &Message, map: &mut Map<String, Value>, depth: usize) -> Outcome<()> {
    if depth >= DEPTH_MAX {
        return Err("it nests too deep");
    }
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let Some(field) = message.field_number(number) {
            add(field, wire, map, depth)?;
        } else if let Some(inlined) = message.inlined.iter().find(|inlined| inlined.number == number) {
            let nested = Schema::builtin().message(&inlined.message).ok_or("the table lacks an inlined message")?;
            fields(wire.bytes()?, nested, map, depth + 1)?;
        }
    }
    Ok(())
}

fn add(field: &Field, wire: Wire<'_>, map: &mut Map<String, Value>, depth: usize) -> Outcome<()> {
    let name = &*field.json;
    match field.shape {
        Shape::One => {
            let value = one(&field.kind, wire, depth)?;
            // Go sends every scalar, and its JSON leaves the zero ones out.
            if (field.pointer || !field.omit_empty || !is_zero(&value)) && !value.is_null() {
                map.insert(name.into(), value);
            }
        }
        Shape::List => {
            let slot = map.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let items = slot.as_array_mut().ok_or("a field is sent in two shapes")?;
            match (&field.kind, wire) {
                (Type::Int32 | Type::Int64 | Type::Bool, Wire::Bytes(packed)) => {
                    let mut reader = Reader(packed);
                    while !reader.0.is_empty() {
                        items.push(one(&field.kind, Wire::Varint(reader.varint()?), depth)?);
                    }
                }
                _ => items.push(one(&field.kind, wire, depth)?),
            }
        }
        Shape::Map | Shape::MapOfLists => {
            let (mut key, mut value) = ("", None);
            let mut reader = Reader(wire.bytes()?);
            while let Some((number, wire)) = reader.next()? {
                match number {
                    1 => key = wire.text()?,
                    2 if field.shape == Shape::Map => value = Some(one(&field.kind, wire, depth)?),
                    2 => value = Some(list_of_text(wire.bytes()?)?),
                    _ => {}
                }
            }
            let empty = || one(&field.kind, Wire::Bytes(&[]), depth).unwrap_or_default();
            let slot = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let members = slot.as_object_mut().ok_or("a field is sent in two shapes")?;
            members.insert(key.into(), value.unwrap_or_else(empty));
        }
    }
    Ok(())
}

/// `authentication.ExtraValue` and its like: 1 items.
fn list_of_text(bytes: &[u8]) -> Outcome<Value> {
    let mut items = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            items.push(wire.text()?.into());
        }
    }
    Ok(Value::Array(items))
}

fn one(kind: &Type, wire: Wire<'_>, depth: usize) -> Outcome<Value> {
    Ok(match kind {
        Type::String => wire.text()?.into(),
        Type::Bool => (wire.number()? != 0).into(),
        Type::Int32 | Type::Int64 => wire.number()?.into(),
        Type::Double => match wire {
            Wire::Fixed64(bits) => f64::from_bits(bits).into(),
            _ => return Err("a floating point number has the wrong wire type"),
        },
        Type::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Type::Quantity => text_at(wire, 1)?.into(),
        Type::IntOrString => int_or_string(wire)?,
        Type::Time => instant(wire)?.map_or(Value::Null, |(seconds, _)| time::seconds(seconds).into()),
        Type::MicroTime => instant(wire)?.map_or(Value::Null, |(seconds, nanos)| {
            time::from_micros(seconds.saturating_mul(1_000_000).saturating_add(nanos / 1000)).into()
        }),
        Type::Duration => time::duration(number_at(wire, 1)?).into(),
        Type::Raw => raw(wire, depth)?,
        Type::Message(name) => {
            let message = Schema::builtin().message(name).ok_or("the table lacks a message")?;
            let mut map = Map::new();
            fields(wire.bytes()?, message, &mut map, depth + 1)?;
            Value::Object(map)
        }
    })
}

/// `intstr.IntOrString`: 1 type (0 number, 1 text), 2 intVal, 3 strVal.
fn int_or_string(wire: Wire<'_>) -> Outcome<Value> {
    if number_at(wire, 1)? == 1 { Ok(text_at(wire, 3)?.into()) } else { Ok(number_at(wire, 2)?.into()) }
}

/// `Timestamp`: 1 seconds, 2 nanos. The zero time is sent without fields.
fn instant(wire: Wire<'_>) -> Outcome<Option<(i64, i64)>> {
    if wire.bytes()?.is_empty() {
        return Ok(None);
    }
    Ok(Some((number_at(wire, 1)?, number_at(wire, 2)?)))
}

/// `RawExtension`, `FieldsV1`: 1 bytes, which are JSON or another envelope.
fn raw(wire: Wire<'_>, depth: usize) -> Outcome<Value> {
    let mut reader = Reader(wire.bytes()?);
    let mut inner = &[][..];
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            inner = wire.bytes()?;
        }
    }
    if inner.is_empty() {
        return Ok(Value::Null);
    }
    if inner.starts_with(MAGIC) {
        return if depth < DEPTH_MAX { envelope(inner, depth + 1) } else { Err("it nests too deep") };
    }
    json::decode(inner).map(|decoded| decoded.value).map_err(|_| "embedded JSON is malformed")
}

fn text_at(wire: Wire<'_>, wanted: u32) -> Outcome<&str> {
    let mut reader = Reader(wire.bytes()?);
    let mut text = "";
    while let Some((number, wire)) = reader.next()? {
        if number == wanted {
            text = wire.text()?;
        }
    }
    Ok(text)
}

fn number_at(wire: Wire<'_>, wanted: u32) -> Outcome<i64> {
    let mut reader = Reader(wire.bytes()?);
    let mut value = 0;
    while let Some((number, wire)) = reader.next()? {
        if number == wanted {
            value = wire.number()?;
        }
    }
    Ok(value)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
