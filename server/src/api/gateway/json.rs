//! JSON in and out, by the rules of protobuf's JSON mapping as etcd sets it: proto field names, 64-bit integers as strings,
//! bytes in base64, enums by name, zero values left out, unknown fields ignored.

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, stream};
use http_body_util::BodyExt;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::de::IgnoredAny;

use crate::api::messages::STEP_BYTES;
use crate::budget::Share;

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
    /// The memory for requests is taken.
    #[error("too many requests")]
    NoMemory,
    /// The connection broke.
    #[error("the body cannot be read")]
    Body,
}

/// The first JSON value of a text, without what follows; `None` if there is nothing but white space.
fn first(text: &[u8]) -> Result<Option<&[u8]>, JsonError> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    match values.next() {
        None => Ok(None),
        Some(Ok(_)) => Ok(Some(&text[..values.byte_offset()])),
        Some(Err(error)) if error.is_eof() => Err(JsonError::Incomplete),
        Some(Err(error)) => Err(JsonError::Invalid(error)),
    }
}

/// The JSON values of a body, each as soon as it is complete. An error is the last item. What arrives is counted by `share`,
/// until it is a value.
pub fn values<B>(
    body: B,
    max_bytes: usize,
    share: Share,
) -> impl Stream<Item = Result<Bytes, JsonError>> + Send + 'static
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
{
    let incoming = Some((Box::pin(body), Arrived::default(), share));
    stream::unfold(incoming, move |incoming| async move {
        let (mut body, mut arrived, mut share) = incoming?;
        loop {
            match arrived.value() {
                Ok(Some(value)) => {
                    let share = share.budget().share(STEP_BYTES);
                    return Some((Ok(value), Some((body, arrived, share))));
                }
                Ok(None) if arrived.text.len() <= max_bytes => {}
                Ok(None) => return Some((Err(JsonError::TooLarge(max_bytes)), None)),
                Err(error) => return Some((Err(error), None)),
            }
            match body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    if !share.grow(data.len()) {
                        return Some((Err(JsonError::NoMemory), None));
                    }
                    arrived.text.extend_from_slice(&data);
                }
                Some(Err(_)) => return Some((Err(JsonError::Body), None)),
                None if arrived.text.is_empty() => return None,
                None => return Some((Err(JsonError::Incomplete), None)),
            }
        }
    })
}

/// What has arrived behind the last value. Each byte is looked at once for the value's end, and parsed at most about three
/// times, however small the pieces are that it comes in.
#[derive(Default)]
struct Arrived {
    text: BytesMut,
    /// Up to here the end was looked for.
    scanned: usize,
    /// Brackets of either kind that are open there.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// How much of the text was parsed last. What is no JSON is found when twice as much is there.
    parsed: usize,
}

impl Arrived {
    /// Takes the value, if all of it is there.
    fn value(&mut self) -> Result<Option<Bytes>, JsonError> {
        if self.scanned == 0 {
            let space = self.text.len() - self.text.trim_ascii_start().len();
            self.text.advance(space);
        }
        if self.text.is_empty() {
            return Ok(None);
        }
        if !self.text.starts_with(b"{") {
            return Err(JsonError::Invalid(serde::de::Error::custom("a message is an object")));
        }
        let end = self.end();
        if end.is_none() && self.text.len() < 2 * self.parsed {
            return Ok(None);
        }
        self.parsed = end.unwrap_or(self.text.len());
        let text = match end {
            Some(end) => &self.text[..end],
            None => without_last_number(&self.text),
        };
        match (first(text), end) {
            (Ok(_), Some(end)) => {
                let value = self.text.split_to(end).freeze();
                *self = Arrived { text: std::mem::take(&mut self.text), ..Arrived::default() };
                Ok(Some(value))
            }
            (Ok(_) | Err(JsonError::Incomplete), None) => Ok(None),
            (Err(error), _) => Err(error),
        }
    }

    /// Where the first value ends, if it does: where its last bracket is closed.
    fn end(&mut self) -> Option<usize> {
        for letter in &self.text[self.scanned..] {
            self.scanned += 1;
            match letter {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth == 1 => return Some(self.scanned),
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
        }
        None
    }
}

/// A beginning of a value, less the number that it may end in: of one without its digits the parser says that it is none.
fn without_last_number(text: &[u8]) -> &[u8] {
    let in_number = |letter: &u8| letter.is_ascii_digit() || b"+-.eE".contains(letter);
    let number = text.iter().rev().take_while(|letter| in_number(letter)).count();
    &text[..text.len() - number]
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
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost_reflect::{DescriptorPool, ReflectMessage};

    use super::*;
    use crate::budget::Budget;

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
            values(body, 16, Budget::new(1024).share(STEP_BYTES)).map(|value| match value {
                Ok(value) => String::from_utf8_lossy(value.trim_ascii()).into_owned(),
                Err(error) => format!("! {error}"),
            })
        };
        let all = async |chunks| values_of(chunks).collect::<Vec<_>>().await;
        assert_eq!(all(&["{\"a\":", "1}{", "}\n", " "]).await, ["{\"a\":1}", "{}"]);
        assert_eq!(all(&[]).await, [""; 0]);
        assert_eq!(all(&["{\"a\":-", "1e", "2}"]).await, ["{\"a\":-1e2}"]);
        assert_eq!(all(&["{} {\"a"]).await, ["{}", "! unexpected EOF"]);
        assert_eq!(all(&["{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaa"]).await, ["! a value of more than 16 bytes"]);
        assert_eq!(all(&["{}", "]", "{}"]).await.len(), 2);
    }

    /// The values of a text that arrives in pieces of these sizes, over and over; and how often something was parsed.
    fn in_pieces(text: &[u8], sizes: &[usize]) -> (Vec<Result<Bytes, String>>, usize) {
        let (mut arrived, mut found, mut parses) = (Arrived::default(), Vec::new(), 0);
        let (mut rest, mut sizes) = (text, sizes.iter().cycle());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((*sizes.next().expect("endless")).clamp(1, rest.len()));
            rest = behind;
            arrived.text.extend_from_slice(piece);
            loop {
                let before = arrived.parsed;
                let value = arrived.value();
                parses += usize::from(arrived.parsed != before);
                match value {
                    Ok(None) => break,
                    Ok(Some(value)) => found.push(Ok(value)),
                    Err(error) => {
                        found.push(Err(error.to_string()));
                        return (found, parses);
                    }
                }
            }
        }
        (found, parses)
    }

    #[test]
    fn a_value_in_small_pieces_is_not_parsed_with_each() {
        let text = format!(r#"{{"key":"{}"}}"#, "QUJD".repeat(8 << 10));
        let (values, parses) = in_pieces(text.as_bytes(), &[1]);
        assert_eq!(values, [Ok(Bytes::from(text))]);
        assert!(parses <= 18, "{parses} parses of 32 KiB");
        // What can be no value is not waited for until it is too large.
        let (values, parses) = in_pieces(format!("{{\"key\" {}", " x".repeat(8 << 10)).as_bytes(), &[1]);
        assert!(matches!(&values[..], [Err(_)]), "{values:?}");
        assert!(parses <= 5, "{parses} parses");
    }

    proptest! {
        /// Pieces of any size give what the whole text gives.
        #[test]
        fn values_are_the_same_in_any_pieces(text in texts(), sizes in vec(1..40usize, 1..8)) {
            let (whole, _) = in_pieces(&text, &[text.len()]);
            let (pieces, _) = in_pieces(&text, &sizes);
            let values = |found: &[Result<Bytes, String>]| found.iter().filter_map(|one| one.clone().ok()).collect::<Vec<_>>();
            prop_assert_eq!(values(&whole), values(&pieces));
            for value in values(&whole) {
                prop_assert_eq!(first(&value).ok().flatten(), Some(&value[..]));
            }
        }

        /// Whatever the text is: a message or an error, and a message can be written and read again.
        #[test]
        fn any_text_is_a_message_or_an_error(text in texts(), at in any::<prop::sample::Index>()) {
            let pool = DescriptorPool::decode(crate::proto::DESCRIPTORS).expect("descriptors");
            let messages: Vec<_> = pool.all_messages().filter(|message| message.package_name() == "etcdserverpb").collect();
            let descriptor = at.get(&messages).clone();
            if let Ok(Some(value)) = first(&text) && let Ok(message) = parse(descriptor.clone(), value) {
                let json = super::text(&message);
                let again = parse(descriptor, json.as_bytes());
                prop_assert_eq!(again.map_err(|error| error.to_string()), Ok(message), "{}", json);
            }
        }
    }

    /// Texts of requests with a few bytes changed, deep nesting, and what has nothing of JSON.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let valid = prop::sample::select(vec![
            r#"{"key":"YQ==","limit":"5","sort_order":"DESCEND"} {"rangeEnd":"_-8=","limit":5.0}"#,
            r#"{"compare":[{"target":"VALUE","key":"YQ==","value":"Yg=="}],"success":[{"request_txn":{}}]}{"a":"\\\"}{"}"#,
            r#"{"TTL":"-3","ID":9223372036854775807}{"version":-9223372036854775808}{"x":1e999}{"y":[[{"z":"\u0000"}]]}"#,
            r#"{"create_request":{"key":"YQ==","filters":["NOPUT",1,7],"start_revision":"1"}}"#,
        ]);
        let changes = vec(
            (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), prop::sample::select(&br#"{}[]",:\ e-"#[..])]),
            0..6,
        );
        let changed = (valid, changes, any::<bool>()).prop_map(|(text, changes, insert)| {
            let mut text = text.as_bytes().to_vec();
            for (at, byte) in changes {
                match insert {
                    true => text.insert(at.index(text.len()), byte),
                    false => *at.get_mut(&mut text) = byte,
                }
            }
            text
        });
        let deep = (1..3000usize).prop_map(|depth| {
            let open = r#"{"success":[{"request_txn":"#.repeat(depth);
            (open + "{}" + &"}]}".repeat(depth)).into_bytes()
        });
        prop_oneof![6 => changed, 1 => deep, 1 => vec(any::<u8>(), 0..200)]
    }
}
