//! JSON in and out, by the rules of protobuf's JSON mapping as etcd sets it: proto field names, 64-bit integers as strings,
//! bytes in base64, enums by name, zero values left out, unknown fields ignored.

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use http_body_util::BodyExt;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::de::IgnoredAny;

/// Why a text is not a message.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// It ends within a value. The words are Go's.
    #[error("unexpected EOF")]
    Incomplete,
    /// It is not JSON, or does not fit the message.
    #[error("{0}")]
    Invalid(serde_json::Error),
    /// A value is larger than a message may be.
    #[error("a value of more than {0} bytes")]
    TooLarge(usize),
    /// The connection broke.
    #[error("the body cannot be read")]
    Body,
}

/// The first JSON value of a text, without what follows; `None` if there is nothing but white space.
pub fn first(text: &[u8]) -> Result<Option<&[u8]>, JsonError> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    match values.next() {
        None => Ok(None),
        Some(Ok(_)) => Ok(Some(&text[..values.byte_offset()])),
        Some(Err(error)) if error.is_eof() => Err(JsonError::Incomplete),
        Some(Err(error)) => Err(JsonError::Invalid(error)),
    }
}

/// The JSON values of a body, each as soon as it is complete. An error is the last item.
pub fn values<B>(body: B, max_bytes: usize) -> impl Stream<Item = Result<Bytes, JsonError>> + Send + 'static
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
{
    let incoming = Some((Box::pin(body), BytesMut::new()));
    stream::unfold(incoming, move |incoming| async move {
        let (mut body, mut buffered) = incoming?;
        loop {
            match first(&buffered).map(|value| value.map(<[u8]>::len)) {
                Ok(Some(length)) => {
                    let value = buffered.split_to(length).freeze();
                    return Some((Ok(value), Some((body, buffered))));
                }
                Ok(None) => buffered.clear(),
                Err(JsonError::Incomplete) if buffered.len() <= max_bytes => {}
                Err(JsonError::Incomplete) => return Some((Err(JsonError::TooLarge(max_bytes)), None)),
                Err(error) => return Some((Err(error), None)),
            }
            match body.frame().await {
                Some(Ok(frame)) => buffered.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(_)) => return Some((Err(JsonError::Body), None)),
                None if buffered.is_empty() => return None,
                None => return Some((Err(JsonError::Incomplete), None)),
            }
        }
    })
}

/// The message that a JSON value stands for.
pub fn parse(descriptor: MessageDescriptor, value: &[u8]) -> Result<DynamicMessage, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_slice(value);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(descriptor, &mut deserializer, &options).map_err(JsonError::Invalid)
}

/// A message as compact JSON.
pub fn text(message: &DynamicMessage) -> String {
    let options =
        SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true).stringify_64_bit_integers(true);
    let mut serializer = serde_json::Serializer::new(Vec::new());
    match message.serialize_with_options(&mut serializer, &options) {
        Ok(()) => String::from_utf8(serializer.into_inner()).unwrap_or_default(),
        Err(error) => {
            tracing::error!(%error, "a message has no JSON");
            "{}".to_owned()
        }
    }
}

/// The same JSON as Go writes it inside other JSON: without what HTML could take for markup.
pub fn without_markup(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text += &format!("\\u{:04x}", u32::from(letter)),
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use prost_reflect::{DescriptorPool, ReflectMessage};

    use super::*;

    fn descriptor(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(crate::proto::DESCRIPTORS).expect("descriptors");
        pool.get_message_by_name(&format!("etcdserverpb.{name}")).expect("a message")
    }

    /// What is read and written again.
    fn again(name: &str, json: &str) -> Result<String, String> {
        let value = first(json.as_bytes()).map_err(|error| error.to_string())?.expect("a value");
        let message = parse(descriptor(name), value).map_err(|error| error.to_string())?;
        assert_eq!(message.descriptor().name(), name);
        Ok(text(&message))
    }

    #[test]
    fn messages_are_read_and_written_as_etcds() {
        for (name, json, expected) in [
            ("RangeRequest", r#"{"key":"YQ==","limit":"5"}"#, r#"{"key":"YQ==","limit":"5"}"#),
            ("RangeRequest", r#"{"key":"YQ","limit":5}"#, r#"{"key":"YQ==","limit":"5"}"#),
            ("RangeRequest", r#"{"rangeEnd":"_-8=","limit":5.0}"#, r#"{"range_end":"/+8=","limit":"5"}"#),
            ("RangeRequest", r#"{"sort_order":"DESCEND"}"#, r#"{"sort_order":"DESCEND"}"#),
            ("RangeRequest", r#"{"sort_order":1,"limit":0}"#, r#"{"sort_order":"ASCEND"}"#),
            ("RangeRequest", r#"{"sort_order":9}"#, r#"{"sort_order":9}"#),
            ("RangeRequest", r#"{"other":[{}],"sort_order":"NEW","key":null}"#, "{}"),
            ("LeaseGrantRequest", r#"{"TTL":"-3","ID":7}"#, r#"{"TTL":"-3","ID":"7"}"#),
            ("Compare", r#"{"version":"0","key":""}"#, r#"{"version":"0"}"#),
            ("HashKVResponse", r#"{"header":{},"hash":7}"#, r#"{"header":{},"hash":7}"#),
            ("PutRequest", r#"{"prev_kv":true} and more"#, r#"{"prev_kv":true}"#),
        ] {
            assert_eq!(again(name, json).as_deref(), Ok(expected), "{json}");
        }
        for (name, json) in [
            ("RangeRequest", "[]"),
            ("RangeRequest", "null"),
            ("RangeRequest", r#"{"key":5}"#),
            ("RangeRequest", r#"{"key":"%"}"#),
            ("RangeRequest", r#"{"limit":1.5}"#),
            ("RangeRequest", r#"{"limit":"99999999999999999999"}"#),
            ("Compare", r#"{"version":1,"mod_revision":1}"#),
            ("PutRequest", r#"{"prev_kv":"true"}"#),
            ("PutRequest", r#"{"key":"YQ=="]"#),
        ] {
            assert!(again(name, json).is_err(), "{json}");
        }
        assert_eq!(again("RangeRequest", r#"{"key":"#), Err("unexpected EOF".into()));
        assert!(first(b" \n").expect("white space").is_none());
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(without_markup("{\"a\":\"<b>&\u{2028}\"}"), r#"{"a":"\u003cb\u003e\u0026\u2028"}"#);
    }

    #[tokio::test]
    async fn values_come_as_they_are_complete() {
        let values_of = |chunks: &'static [&'static str]| {
            let chunks = chunks.iter().map(|chunk| Ok::<_, std::convert::Infallible>(Bytes::from(*chunk)));
            let body = axum::body::Body::from_stream(stream::iter(chunks));
            values(body, 16).map(|value| match value {
                Ok(value) => String::from_utf8_lossy(value.trim_ascii()).into_owned(),
                Err(error) => format!("! {error}"),
            })
        };
        let all = async |chunks| values_of(chunks).collect::<Vec<_>>().await;
        assert_eq!(all(&["{\"a\":", "1}{", "}\n", " "]).await, ["{\"a\":1}", "{}"]);
        assert_eq!(all(&[]).await, [""; 0]);
        assert_eq!(all(&["{} {\"a"]).await, ["{}", "! unexpected EOF"]);
        assert_eq!(all(&["{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaa"]).await, ["! a value of more than 16 bytes"]);
        assert_eq!(all(&["{}", "]", "{}"]).await.len(), 2);
    }
}
