//! The client's half of one HTTP/2 connection with gRPC on it, without the socket: bytes in, bytes out.
//!
//! It takes about a microsecond a call, where general clients take ten: what drives a server on the same cores as the
//! server should not be most of what is measured.

use std::collections::{HashMap, VecDeque};

use anyhow::{Context, Result, bail, ensure};

use super::frame::{self, Head};
use super::headers::{Answer, Answers, Requests};
use super::stream::{Arrivals, Stream};

/// The peer gets new windows after this many bytes.
const REFILL: u32 = 1 << 29;
const READ: usize = 128 << 10;

/// See above.
pub struct Session {
    /// To be written to the socket.
    pub out: Vec<u8>,
    input: Vec<u8>,
    filled: usize,
    requests: Requests,
    answers: Answers,
    streams: HashMap<u32, Stream>,
    next: u32,
    window: i64,
    initial_window: i64,
    max_payload: usize,
    received: u32,
    blocked: VecDeque<u32>,
    block: Vec<u8>,
}

impl Session {
    pub fn new(authority: String, tls: bool) -> Self {
        let mut out = frame::PREFACE.to_vec();
        let settings =
            [(frame::HEADER_TABLE_SIZE, 0), (frame::ENABLE_PUSH, 0), (frame::INITIAL_WINDOW_SIZE, frame::MAX_WINDOW)];
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        frame::write(&mut out, frame::SETTINGS, 0, 0, &settings);
        let more = frame::MAX_WINDOW - frame::INITIAL_WINDOW as u32;
        frame::write(&mut out, frame::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        Self {
            out,
            input: vec![0; READ + frame::MAX_PAYLOAD + frame::HEADER],
            filled: 0,
            requests: Requests::new(authority, tls),
            answers: Answers::default(),
            streams: HashMap::new(),
            next: 1,
            window: frame::INITIAL_WINDOW,
            initial_window: frame::INITIAL_WINDOW,
            max_payload: frame::MAX_PAYLOAD,
            received: 0,
            blocked: VecDeque::new(),
            block: Vec::new(),
        }
    }

    /// Begins a call; `keep` bytes of each answer are handed on with `tag`.
    pub fn open(&mut self, path: &'static str, tag: u32, keep: usize) -> u32 {
        let id = self.next;
        self.next += 2;
        let start = self.out.len();
        self.out.resize(start + frame::HEADER, 0);
        self.requests.write(path, &mut self.out);
        let length = self.out.len() - start - frame::HEADER;
        let head = Head { length, kind: frame::HEADERS, flags: frame::END_HEADERS, stream: id };
        let mut header = Vec::with_capacity(frame::HEADER);
        head.write(&mut header);
        self.out[start..start + frame::HEADER].copy_from_slice(&header);
        self.streams.insert(id, Stream::new(tag, keep, self.initial_window));
        id
    }

    /// Sends a message that `framed` made; after the `last` one the server may answer a unary call.
    pub fn send(&mut self, id: u32, framed: &[u8], last: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.last = last;
        if !stream.unsent.is_empty() {
            stream.unsent.extend_from_slice(framed);
            return;
        }
        let sent = push(&mut self.out, &mut self.window, self.max_payload, id, stream, framed);
        if sent < framed.len() {
            stream.unsent.extend_from_slice(&framed[sent..]);
            self.blocked.push_back(id);
        }
    }

    /// Where to read to.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.input[self.filled..]
    }

    /// Takes what was read.
    ///
    /// # Errors
    /// The server ended the connection, or spoke something else.
    pub fn received(&mut self, bytes: usize, arrivals: &mut impl Arrivals) -> Result<()> {
        let input = std::mem::take(&mut self.input);
        let end = self.filled + bytes;
        let mut at = 0;
        let outcome = loop {
            let Some(head) = Head::read(&input[at..end]) else { break Ok(()) };
            if head.length > frame::MAX_PAYLOAD {
                break Err(anyhow::anyhow!("a frame of {} bytes: not HTTP/2", head.length));
            }
            let Some(payload) = input[at..end].get(frame::HEADER..frame::HEADER + head.length) else { break Ok(()) };
            if let Err(error) = self.frame(&head, payload, arrivals) {
                break Err(error);
            }
            at += frame::HEADER + head.length;
        };
        self.input = input;
        self.input.copy_within(at..end, 0);
        self.filled = end - at;
        outcome
    }

    fn frame(&mut self, head: &Head, payload: &[u8], arrivals: &mut impl Arrivals) -> Result<()> {
        match head.kind {
            frame::DATA => self.data(head, payload, arrivals)?,
            frame::HEADERS | frame::CONTINUATION => {
                self.block.extend_from_slice(frame::content(head, payload).context("bad padding")?);
                if head.flags & frame::END_HEADERS != 0 {
                    let answer = self.answers.read(&self.block)?;
                    self.block.clear();
                    if let Answer::Ends(status) = answer
                        && let Some(stream) = self.streams.remove(&head.stream)
                    {
                        arrivals.end(stream.tag, status);
                    }
                }
            }
            frame::RST_STREAM => {
                if let Some(stream) = self.streams.remove(&head.stream) {
                    arrivals.end(stream.tag, Err(format!("the server reset the stream, code {}", number(payload)?)));
                }
            }
            frame::SETTINGS if head.flags & frame::ACK == 0 => self.settings(payload)?,
            frame::PING if head.flags & frame::ACK == 0 => {
                frame::write(&mut self.out, frame::PING, frame::ACK, 0, payload)
            }
            frame::WINDOW_UPDATE => {
                let more = i64::from(number(payload)?);
                match head.stream {
                    0 => self.window += more,
                    id => self.streams.get_mut(&id).into_iter().for_each(|stream| stream.window += more),
                }
                self.unblock();
            }
            frame::GOAWAY => {
                let reason = String::from_utf8_lossy(payload.get(8..).unwrap_or_default());
                bail!("the server ended the connection: {reason}")
            }
            _ => {}
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) -> Result<()> {
        ensure!(payload.len().is_multiple_of(6), "settings of {} bytes", payload.len());
        for setting in payload.chunks_exact(6) {
            let (id, value) = (u16::from_be_bytes([setting[0], setting[1]]), number(&setting[2..])?);
            match id {
                frame::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - self.initial_window;
                    self.initial_window += change;
                    self.streams.values_mut().for_each(|stream| stream.window += change);
                }
                frame::MAX_FRAME_SIZE => self.max_payload = value as usize,
                _ => {}
            }
        }
        frame::write(&mut self.out, frame::SETTINGS, frame::ACK, 0, &[]);
        self.unblock();
        Ok(())
    }

    fn data(&mut self, head: &Head, payload: &[u8], arrivals: &mut impl Arrivals) -> Result<()> {
        let length = head.length as u32;
        refill(&mut self.out, &mut self.received, length, 0);
        let Some(stream) = self.streams.get_mut(&head.stream) else { return Ok(()) };
        refill(&mut self.out, &mut stream.received, length, head.stream);
        let mut rest = frame::content(head, payload).context("bad padding")?;
        while !rest.is_empty() {
            rest = stream.take(rest, arrivals)?;
        }
        if head.flags & frame::END_STREAM != 0
            && let Some(stream) = self.streams.remove(&head.stream)
        {
            arrivals.end(stream.tag, Err("the call ended without a status".to_owned()));
        }
        Ok(())
    }

    fn unblock(&mut self) {
        for _ in 0..self.blocked.len() {
            let Some(id) = self.blocked.pop_front() else { return };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let unsent = std::mem::take(&mut stream.unsent);
            let sent = push(&mut self.out, &mut self.window, self.max_payload, id, stream, &unsent);
            if sent < unsent.len() {
                stream.unsent = unsent[sent..].to_vec();
                self.blocked.push_back(id);
            }
        }
    }
}

/// Writes `bytes` as far as the windows allow, and says how far.
fn push(out: &mut Vec<u8>, window: &mut i64, max: usize, id: u32, stream: &mut Stream, bytes: &[u8]) -> usize {
    let allowed = usize::try_from(stream.window.min(*window)).unwrap_or(0).min(bytes.len());
    for chunk in bytes[..allowed].chunks(max) {
        frame::write(out, frame::DATA, 0, id, chunk);
    }
    if allowed == bytes.len() && stream.last {
        let length = (allowed - 1) % max + 1;
        let flags = out.len() - length - frame::HEADER + 4;
        out[flags] = frame::END_STREAM;
    }
    stream.window -= allowed as i64;
    *window -= allowed as i64;
    allowed
}

fn refill(out: &mut Vec<u8>, received: &mut u32, length: u32, stream: u32) {
    *received += length;
    if *received > REFILL {
        frame::write(out, frame::WINDOW_UPDATE, 0, stream, &received.to_be_bytes());
        *received = 0;
    }
}

fn number(bytes: &[u8]) -> Result<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).context("a frame that is too short")
}

#[cfg(test)]
mod tests {
    use super::super::stream::framed;
    use super::*;

    #[derive(Default)]
    struct Seen {
        messages: Vec<(u32, Vec<u8>, usize)>,
        ends: Vec<(u32, Result<(), String>)>,
    }

    impl Arrivals for Seen {
        fn message(&mut self, tag: u32, head: &[u8], length: usize) {
            self.messages.push((tag, head.to_vec(), length));
        }

        fn end(&mut self, tag: u32, status: Result<(), String>) {
            self.ends.push((tag, status));
        }
    }

    /// A session with one call under way, and nothing to send.
    fn session(keep: usize) -> (Session, u32) {
        let mut session = Session::new("127.0.0.1:1".to_owned(), false);
        let id = session.open("/a/B", 7, keep);
        session.out.clear();
        (session, id)
    }

    fn message(bytes: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        framed(&mut message, |out| out.extend_from_slice(bytes));
        message
    }

    /// ":status: 200" and "grpc-status: 0".
    const BEGINS: &[u8] = &[0x88];
    const ENDS: &[u8] = b"\x00\x0bgrpc-status\x010";

    fn answer(id: u32, messages: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, frame::HEADERS, frame::END_HEADERS, id, BEGINS);
        let data: Vec<u8> = messages.iter().flat_map(|bytes| message(bytes)).collect();
        for chunk in data.chunks(10) {
            frame::write(&mut bytes, frame::DATA, 0, id, chunk);
        }
        frame::write(&mut bytes, frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, id, ENDS);
        bytes
    }

    fn receive(session: &mut Session, bytes: &[u8], seen: &mut Seen) -> Result<()> {
        session.space()[..bytes.len()].copy_from_slice(bytes);
        session.received(bytes.len(), seen)
    }

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        for step in [1, 3, 1000] {
            let (mut session, id) = session(20);
            let mut seen = Seen::default();
            for bytes in answer(id, &[b"short", &[9; 50], b""]).chunks(step) {
                receive(&mut session, bytes, &mut seen).expect("HTTP/2");
            }
            assert_eq!(seen.messages, [(7, b"short".to_vec(), 5), (7, vec![9; 20], 50), (7, Vec::new(), 0)]);
            assert_eq!(seen.ends, [(7, Ok(()))]);
        }
    }

    #[test]
    fn a_large_message_waits_for_windows() {
        let (mut session, id) = session(20);
        session.send(id, &message(&[1; 100_000]), true);
        assert!(session.out.len() < 66_000, "{} bytes are more than the window", session.out.len());
        let mut more = Vec::new();
        frame::write(&mut more, frame::WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes());
        frame::write(&mut more, frame::WINDOW_UPDATE, 0, id, &100_000_u32.to_be_bytes());
        receive(&mut session, &more, &mut Seen::default()).expect("HTTP/2");
        let (mut at, mut sent, mut last) = (0, 0, 0);
        while let Some(head) = Head::read(&session.out[at..]) {
            assert!((head.kind, head.stream) == (frame::DATA, id) && head.length <= frame::MAX_PAYLOAD);
            assert_eq!(last, 0, "nothing follows the end of the stream");
            (sent, last) = (sent + head.length, head.flags);
            at += frame::HEADER + head.length;
        }
        assert_eq!((sent, last), (100_005, frame::END_STREAM));
    }

    #[test]
    fn pings_and_settings_are_acknowledged_and_the_end_is_told() {
        let (mut session, id) = session(20);
        let mut bytes = Vec::new();
        frame::write(&mut bytes, frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        frame::write(&mut bytes, frame::PING, 0, 0, b"12345678");
        receive(&mut session, &bytes, &mut Seen::default()).expect("HTTP/2");
        let mut expected = Vec::new();
        frame::write(&mut expected, frame::SETTINGS, frame::ACK, 0, &[]);
        frame::write(&mut expected, frame::PING, frame::ACK, 0, b"12345678");
        assert_eq!(session.out, expected);
        session.send(id, &message(b"text"), true);
        assert_eq!(session.out, expected, "the server took its window back");

        let mut seen = Seen::default();
        bytes.clear();
        frame::write(&mut bytes, frame::RST_STREAM, 0, id, &7_u32.to_be_bytes());
        frame::write(&mut bytes, frame::GOAWAY, 0, 0, b"\0\0\0\x01\0\0\0\0bye");
        let error = receive(&mut session, &bytes, &mut seen).expect_err("the end of the connection");
        assert_eq!(seen.ends.len(), 1);
        assert!(error.to_string().contains("bye"), "{error}");
    }
}
