//! Kubernetes' protobuf bodies: typed Go clients (`kubectl create`, helm's Secrets) write builtin kinds in this form,
//! whatever the server says it likes. They read JSON, so this only decodes.
//!
//! `protobuf_fields.tsv` has a line for each message of Kubernetes' API: its name, a tab, and its fields, separated by
//! `;`, each with number, JSON name and type. Types: `s` string, `b` bytes, `i` integer, `?` bool, `d` double, `=NAME`
//! message, with `*` before it repeated, `{` before it a map from strings, and `&` before it a value that Go writes in
//! JSON even when it is zero. A name with `~` is embedded: its fields are those of the message around it.

use crate::object::timestamp;
use crate::status::{ApiError, ApiResult};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Buf;
use chrono::{DateTime, SecondsFormat};
use prost::encoding::{WireType, decode_key, decode_varint};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::LazyLock;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
/// Messages nest less deep than this; what nests deeper is refused.
const MAX_DEPTH: usize = 64;

struct Field {
    name: &'static str,
    kind: &'static str,
    /// Zero is a value of its own, not the absence of one.
    keeps_zero: bool,
}

static MESSAGES: LazyLock<HashMap<&'static str, HashMap<u32, Field>>> = LazyLock::new(|| {
    let parse = |field: &'static str| {
        let mut words = field.split(' ');
        let (number, name, kind) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        let pointer = kind.strip_prefix('&');
        Some((number, Field { name, kind: pointer.unwrap_or(kind), keeps_zero: pointer.is_some() }))
    };
    let lines = include_str!("protobuf_fields.tsv").lines().filter_map(|line| line.split_once('\t'));
    lines.map(|(message, fields)| (message, fields.split(';').filter_map(parse).collect())).collect()
});

/// One field as it is on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn truncated() -> ApiError {
    ApiError::bad_request("the protobuf body is truncated or malformed")
}

/// The next field's number and value; None at the end.
fn next<'a>(bytes: &mut &'a [u8]) -> ApiResult<Option<(u32, Wire<'a>)>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (number, wire_type) = decode_key(bytes).map_err(|_| truncated())?;
    let wire = match wire_type {
        WireType::Varint => Wire::Number(decode_varint(bytes).map_err(|_| truncated())?),
        WireType::SixtyFourBit => Wire::Number(bytes.try_get_u64_le().map_err(|_| truncated())?),
        WireType::ThirtyTwoBit => Wire::Number(bytes.try_get_u32_le().map_err(|_| truncated())?.into()),
        WireType::LengthDelimited => {
            let length = decode_varint(bytes).ok().and_then(|length| usize::try_from(length).ok());
            let (head, rest) = length.and_then(|length| bytes.split_at_checked(length)).ok_or_else(truncated)?;
            *bytes = rest;
            Wire::Bytes(head)
        }
        _ => return Err(truncated()),
    };
    Ok(Some((number, wire)))
}

/// The object in a body: an envelope with the type, and the message.
pub fn decode(body: &[u8]) -> ApiResult<Value> {
    let mut envelope = body.strip_prefix(MAGIC).ok_or_else(truncated)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some((number, wire)) = next(&mut envelope)? {
        match (number, wire) {
            (1, Wire::Bytes(mut meta)) => {
                while let Some((number, Wire::Bytes(text))) = next(&mut meta)? {
                    let text = String::from_utf8_lossy(text).into_owned();
                    if number == 1 { api_version = text } else { kind = text }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let group_version = api_version.replace(".k8s.io", "").replace(".authorization", "").replace('/', ".");
    let name = match kind.as_str() {
        "DeleteOptions" => "meta.v1.DeleteOptions".to_owned(),
        _ if api_version == "v1" => format!("core.v1.{kind}"),
        _ => format!("{group_version}.{kind}"),
    };
    if !MESSAGES.contains_key(name.as_str()) {
        let message = format!("{kind} of {api_version} is not understood as {MEDIA_TYPE}; application/json is");
        return Err(ApiError::new(415, "UnsupportedMediaType", message));
    }
    let mut object = message(&name, raw, 0)?;
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    Ok(object)
}

/// A message as JSON. Zeros that Go would leave out of JSON are left out: in protobuf it writes them all.
fn message(name: &str, mut bytes: &[u8], depth: usize) -> ApiResult<Value> {
    if depth > MAX_DEPTH {
        return Err(truncated());
    }
    if let Some(value) = special(name, bytes)? {
        return Ok(value);
    }
    let mut object = Map::new();
    let Some(fields) = MESSAGES.get(name) else {
        return Ok(Value::Null);
    };
    while let Some((number, wire)) = next(&mut bytes)? {
        let Some(field) = fields.get(&number) else {
            continue;
        };
        match (field.kind.as_bytes().first(), wire) {
            (Some(b'*'), wire) => {
                let item = scalar(&field.kind[1..], wire, depth)?;
                if let Value::Array(items) = object.entry(field.name).or_insert_with(|| json!([])) {
                    items.push(item);
                }
            }
            (Some(b'{'), Wire::Bytes(entry)) => {
                let (key, value) = map_entry(&field.kind[1..], entry, depth)?;
                object.entry(field.name).or_insert_with(|| json!({}))[key] = value;
            }
            (_, wire) => match (field.name.strip_prefix('~'), scalar(field.kind, wire, depth)?) {
                (_, Value::Null) => {}
                (_, value) if !field.keeps_zero && is_zero(&value) => {}
                (Some(_), Value::Object(embedded)) => object.extend(embedded),
                (_, value) => {
                    object.insert(field.name.to_owned(), value);
                }
            },
        }
    }
    Ok(Value::Object(object))
}

fn is_zero(value: &Value) -> bool {
    matches!(value, Value::Bool(false)) || *value == json!("") || value.as_f64() == Some(0.0)
}

fn map_entry(kind: &str, mut entry: &[u8], depth: usize) -> ApiResult<(String, Value)> {
    let (mut key, mut value) = (String::new(), json!(""));
    while let Some((number, wire)) = next(&mut entry)? {
        match (number, wire) {
            (1, Wire::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
            (2, wire) => value = scalar(kind, wire, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn scalar(kind: &str, wire: Wire<'_>, depth: usize) -> ApiResult<Value> {
    Ok(match (kind, wire) {
        ("s", Wire::Bytes(text)) => json!(std::str::from_utf8(text).map_err(|_| truncated())?),
        ("b", Wire::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
        ("i", Wire::Number(number)) => json!(number.cast_signed()),
        ("?", Wire::Number(number)) => json!(number != 0),
        ("d", Wire::Number(number)) => json!(f64::from_bits(number)),
        (kind, Wire::Bytes(bytes)) => match kind.strip_prefix('=') {
            Some(name) => message(name, bytes, depth + 1)?,
            None => Value::Null,
        },
        _ => return Err(truncated()),
    })
}

/// Messages whose JSON is not an object of their fields.
fn special(name: &str, mut bytes: &[u8]) -> ApiResult<Option<Value>> {
    let known = [
        "meta.v1.Time",
        "meta.v1.MicroTime",
        "meta.v1.FieldsV1",
        "api.resource.Quantity",
        "util.intstr.IntOrString",
        "runtime.RawExtension",
    ];
    if !known.contains(&name) {
        return Ok(None);
    }
    let empty = bytes.is_empty();
    let (mut numbers, mut text) = ([0u64; 4], &[][..]);
    while let Some((number, wire)) = next(&mut bytes)? {
        match wire {
            Wire::Number(value) => {
                if let Some(slot) = usize::try_from(number).ok().and_then(|n| numbers.get_mut(n)) {
                    *slot = value;
                }
            }
            Wire::Bytes(bytes) => text = bytes,
        }
    }
    let string = || String::from_utf8_lossy(text).into_owned();
    let time = || DateTime::from_timestamp(numbers[1].cast_signed(), u32::try_from(numbers[2]).unwrap_or(0));
    Ok(Some(match name {
        "meta.v1.Time" | "meta.v1.MicroTime" if empty => Value::Null,
        "meta.v1.Time" => time().map_or(Value::Null, |time| json!(timestamp(time))),
        "meta.v1.MicroTime" => {
            time().map_or(Value::Null, |time| json!(time.to_rfc3339_opts(SecondsFormat::Micros, true)))
        }
        "util.intstr.IntOrString" if numbers[1] == 0 => json!(numbers[2].cast_signed()),
        "util.intstr.IntOrString" | "api.resource.Quantity" => json!(string()),
        _ => serde_json::from_slice(text).unwrap_or(Value::Null),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn body(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &meta), &field(2, message), &field(3, b""), &field(4, b"")].concat()
    }

    #[test]
    fn a_secret_decodes() {
        let metadata =
            [field(1, b"s"), field(2, b""), field(8, b""), field(11, &[field(1, b"a"), field(2, b"b")].concat())];
        let data = [field(1, b"key"), field(2, b"value")].concat();
        let message = [field(1, &metadata.concat()), field(2, &data), field(3, b"Opaque")].concat();
        assert_eq!(
            decode(&body("v1", "Secret", &message)).unwrap(),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"a": "b"}},
                "data": {"key": "dmFsdWU="}, "type": "Opaque"})
        );
    }

    #[test]
    fn embedded_messages_numbers_and_special_types_decode() {
        // Deployment: spec.replicas = 0, one volume with an emptyDir (embedded source).
        let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
        let template = field(2, &field(1, &volume));
        let spec = [vec![1 << 3, 0], field(3, &template)].concat();
        let message = field(2, &spec);
        assert_eq!(
            decode(&body("apps/v1", "Deployment", &message)).unwrap()["spec"],
            json!({"replicas": 0, "template": {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}})
        );
        // A Service's port: port 80, and a node port 0 that nobody asked for.
        let service = field(2, &field(1, &[3 << 3, 80, 5 << 3, 0]));
        assert_eq!(decode(&body("v1", "Service", &service)).unwrap()["spec"], json!({"ports": [{"port": 80}]}));
        let lease = field(2, &field(4, &[1 << 3, 1, 2 << 3, 0]));
        assert_eq!(
            decode(&body("coordination.k8s.io/v1", "Lease", &lease)).unwrap()["spec"],
            json!({"renewTime": "1970-01-01T00:00:01.000000Z"})
        );
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for bytes in [&b""[..], b"k8s", b"k8s\0\x0a\xff", b"{}"] {
            let error = decode(bytes).unwrap_err();
            assert!(error.code == 400 || error.code == 415, "{bytes:?}");
        }
        let good = body("v1", "Secret", &field(1, &field(1, b"name")));
        for length in 5..good.len() {
            // Never a panic.
            let _ = decode(&good[..length]);
        }
        assert_eq!(decode(&body("example.com/v1", "Thing", b"")).unwrap_err().code, 415);
    }
}
