//! Header blocks (HPACK, RFC 7541): those of requests as any gRPC client writes them, and the status out of answers.

use anyhow::{Context, Result};

/// Entries of the static table come first.
const DYNAMIC: usize = 62;
const METHOD_POST: u8 = 0x80 | 3;
const SCHEME_HTTP: u8 = 0x80 | 6;
const SCHEME_HTTPS: u8 = 0x80 | 7;
/// A literal that the peer adds to its table, with the name at this index of the static table.
const PATH: u8 = 0x40 | 4;
const AUTHORITY: u8 = 0x40 | 1;
const CONTENT_TYPE: u8 = 0x40 | 31;
const NEW_NAME: u8 = 0x40;

/// The peer's dynamic table, as far as this side has filled it: what was sent once is an index afterwards.
pub struct Requests {
    scheme: u8,
    authority: String,
    added: Vec<&'static str>,
}

impl Requests {
    pub fn new(authority: String, tls: bool) -> Self {
        Self { scheme: if tls { SCHEME_HTTPS } else { SCHEME_HTTP }, authority, added: Vec::new() }
    }

    /// The block of a gRPC request.
    pub fn write(&mut self, path: &'static str, out: &mut Vec<u8>) {
        let authority = self.authority.clone();
        out.extend_from_slice(&[METHOD_POST, self.scheme]);
        self.field(path, PATH, &[], path, out);
        self.field("authority", AUTHORITY, &[], &authority, out);
        self.field("content-type", CONTENT_TYPE, &[], "application/grpc", out);
        self.field("te", NEW_NAME, b"\x02te", "trailers", out);
    }

    fn field(&mut self, id: &'static str, literal: u8, name: &[u8], value: &str, out: &mut Vec<u8>) {
        if let Some(position) = self.added.iter().position(|added| *added == id) {
            out.push(0x80 | (DYNAMIC + self.added.len() - 1 - position) as u8);
            return;
        }
        assert!(value.len() < 127 && self.added.len() < 30, "lengths and indexes that fit into one byte");
        out.push(literal);
        out.extend_from_slice(name);
        out.push(value.len() as u8);
        out.extend_from_slice(value.as_bytes());
        self.added.push(id);
    }
}

/// What a block of an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Begins,
    Ends(Result<(), String>),
}

/// Reads blocks of answers. The peer was told to keep no table, so that equal bytes say the same, and most need no decoding.
#[derive(Default)]
pub struct Answers {
    known: Vec<(Vec<u8>, Answer)>,
    next: usize,
}

impl Answers {
    pub fn read(&mut self, block: &[u8]) -> Result<Answer> {
        const REMEMBERED: usize = 8;
        if let Some((_, answer)) = self.known.iter().find(|(known, _)| known == block) {
            return Ok(answer.clone());
        }
        let answer = decode(block)?;
        if self.known.len() < REMEMBERED {
            self.known.push((block.to_vec(), answer.clone()));
        } else {
            self.known[self.next] = (block.to_vec(), answer.clone());
            self.next = (self.next + 1) % REMEMBERED;
        }
        Ok(answer)
    }
}

fn decode(block: &[u8]) -> Result<Answer> {
    let (mut decoder, mut fields) = (httlib_hpack::Decoder::with_dynamic_size(0), Vec::new());
    decoder.decode(&mut block.to_vec(), &mut fields).ok().context("a header block that is not HPACK")?;
    let text = |name: &[u8]| {
        let field = fields.iter().find(|(field, _, _)| field == name);
        field.map(|(_, value, _)| String::from_utf8_lossy(value).into_owned())
    };
    let message = text(b"grpc-message").unwrap_or_default();
    Ok(match (text(b"grpc-status").as_deref(), text(b":status").as_deref()) {
        (Some("0"), _) => Answer::Ends(Ok(())),
        (Some(code), _) => Answer::Ends(Err(format!("gRPC status {code}: {message}"))),
        (None, Some("200")) => Answer::Begins,
        (None, status) => Answer::Ends(Err(format!("HTTP status {}", status.unwrap_or("missing")))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_request_is_all_indexes_and_says_the_same() {
        let mut requests = Requests::new("127.0.0.1:2379".to_owned(), false);
        let mut decoder = httlib_hpack::Decoder::default();
        let mut decoded = Vec::new();
        for (path, length) in [("/a/B", None), ("/c/D", None), ("/a/B", Some(6)), ("/c/D", Some(6))] {
            let mut block = Vec::new();
            requests.write(path, &mut block);
            assert!(length.is_none_or(|length| block.len() == length), "{} bytes", block.len());
            let mut fields = Vec::new();
            decoder.decode(&mut block, &mut fields).expect("HPACK");
            let fields: Vec<_> = fields.into_iter().map(|(name, value, _)| (name, value)).collect();
            assert!(fields.contains(&(b":path".to_vec(), path.as_bytes().to_vec())), "{fields:?}");
            assert!(fields.contains(&(b"te".to_vec(), b"trailers".to_vec())), "{fields:?}");
            assert!(fields.contains(&(b":authority".to_vec(), b"127.0.0.1:2379".to_vec())), "{fields:?}");
            decoded.push(fields);
        }
        assert_eq!((&decoded[0], &decoded[1]), (&decoded[2], &decoded[3]));
    }

    #[test]
    fn blocks_of_a_go_server_are_understood() {
        let mut answers = Answers::default();
        let begins = b" \x88\x0f\x10\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64";
        assert_eq!(answers.read(begins).expect("HPACK"), Answer::Begins);
        let ends = b"\0\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x010\0\x89\x9a\xca\xc8\xb5\x25\x42\x07\x31\x7f\0";
        assert_eq!(answers.read(ends).expect("HPACK"), Answer::Ends(Ok(())));
    }

    #[test]
    fn the_status_ends_an_answer() {
        let block = |fields: &[(&str, &str)]| {
            let (mut encoder, mut block) = (httlib_hpack::Encoder::with_dynamic_size(0), Vec::new());
            for (name, value) in fields {
                encoder.encode((name.as_bytes().to_vec(), value.as_bytes().to_vec(), 0x08), &mut block).expect("HPACK");
            }
            block
        };
        let mut answers = Answers::default();
        let begins = block(&[(":status", "200"), ("content-type", "application/grpc")]);
        assert_eq!(answers.read(&begins).expect("HPACK"), Answer::Begins);
        for _ in 0..2 {
            assert_eq!(answers.read(&block(&[("grpc-status", "0")])).expect("HPACK"), Answer::Ends(Ok(())));
            let refused = answers.read(&block(&[("grpc-status", "8"), ("grpc-message", "no space")])).expect("HPACK");
            assert_eq!(refused, Answer::Ends(Err("gRPC status 8: no space".to_owned())));
        }
    }
}
