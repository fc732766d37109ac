//! Reads single fields out of a protobuf message without decoding all of it.

/// A field's value; of numbers only varints are of interest.
#[derive(Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, up to the first that is none.
pub fn fields(message: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            let tag = varint(&mut rest)?;
            let value = match tag & 7 {
                0 => Value::Number(varint(&mut rest)?),
                2 => {
                    let length = varint(&mut rest)? as usize;
                    Value::Bytes(rest.split_off(..length)?)
                }
                kind @ (1 | 5) => {
                    rest.split_off(..if kind == 1 { 8 } else { 4 })?;
                    continue;
                }
                _ => return None,
            };
            return Some((tag >> 3, value));
        }
    })
}

/// The first field of that number, if it is a number.
pub fn number(message: &[u8], field: u64) -> Option<u64> {
    fields(message).find_map(|found| match found {
        (number, Value::Number(value)) if number == field => Some(value),
        _ => None,
    })
}

/// The first field of that number, if it is bytes or a message.
pub fn bytes(message: &[u8], field: u64) -> Option<&[u8]> {
    fields(message).find_map(|found| match found {
        (number, Value::Bytes(value)) if number == field => Some(value),
        _ => None,
    })
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::wire::proto::etcdserverpb::{ResponseHeader, TxnResponse};

    #[test]
    fn fields_are_what_prost_wrote() {
        let header = Some(ResponseHeader { revision: 1 << 40, ..Default::default() });
        let message = TxnResponse { header, succeeded: true, responses: Vec::new() }.encode_to_vec();
        assert_eq!(bytes(&message, 1).and_then(|header| number(header, 3)), Some(1 << 40));
        assert_eq!(number(&message, 2), Some(1));
        assert_eq!(number(&message, 9), None);
        assert_eq!(fields(&message[..message.len() - 1]).count(), 1, "a message that was cut ends before the cut");
    }
}
