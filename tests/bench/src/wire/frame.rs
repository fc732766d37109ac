//! HTTP/2 frames (RFC 9113, section 4 and 6).

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's header.
pub const HEADER: usize = 9;
/// The largest payload that either side may send unless the other said otherwise.
pub const MAX_PAYLOAD: usize = 16_384;
/// A window before anyone said otherwise.
pub const INITIAL_WINDOW: i64 = 65_535;
/// The largest window there is.
pub const MAX_WINDOW: u32 = i32::MAX as u32;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const PRIORITY: u8 = 0x20;

pub const HEADER_TABLE_SIZE: u16 = 1;
pub const ENABLE_PUSH: u16 = 2;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_FRAME_SIZE: u16 = 5;

/// A frame's header.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    /// That of the frame at the start of `bytes`, if all of the header is there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *bytes.first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([0, l2, l1, l0]) as usize;
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([s3, s2, s1, s0]) & MAX_WINDOW })
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.length as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
    }
}

/// A whole frame with a small payload.
pub fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    Head { length: payload.len(), kind, flags, stream }.write(out);
    out.extend_from_slice(payload);
}

/// What `payload` holds besides padding and priority; none if it is too short for them.
pub fn content<'a>(head: &Head, payload: &'a [u8]) -> Option<&'a [u8]> {
    let mut content = payload;
    if head.flags & PADDED != 0 {
        let (padding, rest) = content.split_first()?;
        content = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
    }
    if head.kind == HEADERS && head.flags & PRIORITY != 0 {
        content = content.get(5..)?;
    }
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, HEADERS, END_HEADERS, 0x1234_5677, &[7; 300]);
        let head = Head::read(&bytes).expect("a header");
        assert_eq!(head, Head { length: 300, kind: HEADERS, flags: END_HEADERS, stream: 0x1234_5677 });
        assert_eq!(Head::read(&bytes[..8]), None);
    }

    #[test]
    fn padding_is_no_content() {
        let head = Head { length: 6, kind: DATA, flags: PADDED, stream: 1 };
        assert_eq!(content(&head, &[2, b'a', b'b', b'c', 0, 0]), Some(&b"abc"[..]));
        assert_eq!(content(&head, &[9, b'a']), None);
    }
}
