//! What the fuzz targets share: the number of cases, damage to valid bytes, and messages of any type.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};

/// As many cases as a run of all tests can afford, or as `PROPTEST_CASES` says.
pub fn cases(usual: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => asked,
        None => ProptestConfig { cases: usual, ..asked },
    }
}

/// What may have happened to bytes on their way.
#[derive(Debug, Clone)]
pub enum Damage {
    /// A byte is another one.
    Flip(Index, u8),
    /// Nothing behind this is left.
    Cut(Index),
    /// These are in between.
    Insert(Index, Vec<u8>),
    /// A part is missing.
    Remove(Index, usize),
    /// A part comes once more elsewhere.
    Copy(Index, usize, Index),
}

impl Damage {
    /// Any.
    pub fn any() -> impl Strategy<Value = Damage> {
        prop_oneof![
            3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Flip(at, byte)),
            1 => any::<Index>().prop_map(Damage::Cut),
            1 => (any::<Index>(), vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
            1 => (any::<Index>(), 1..40usize).prop_map(|(at, length)| Damage::Remove(at, length)),
            1 => (any::<Index>(), 1..40usize, any::<Index>()).prop_map(|(from, length, to)| Damage::Copy(from, length, to)),
        ]
    }

    /// Does it.
    pub fn strike(self, bytes: &mut Vec<u8>) {
        let end = bytes.len();
        let part = |at: Index, length: usize| {
            let start = at.index(end + 1);
            start..(start + length).min(end)
        };
        match self {
            Damage::Flip(at, byte) if end > 0 => *at.get_mut(bytes) = byte,
            Damage::Flip(..) => {}
            Damage::Cut(at) => bytes.truncate(at.index(end + 1)),
            Damage::Insert(at, more) => drop(bytes.splice(part(at, 0), more)),
            Damage::Remove(at, length) => drop(bytes.drain(part(at, length))),
            Damage::Copy(from, length, to) => {
                let copied = bytes[part(from, length)].to_vec();
                drop(bytes.splice(part(to, 0), copied));
            }
        }
    }

    /// Valid bytes with any damage, none at times, and bytes that have nothing of them.
    pub fn to(valid: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let damaged = (valid, vec(Damage::any(), 0..4)).prop_map(|(mut bytes, damages)| {
            damages.into_iter().for_each(|damage| damage.strike(&mut bytes));
            bytes
        });
        prop_oneof![7 => damaged, 1 => vec(any::<u8>(), 0..300)]
    }
}

/// The descriptor of a message.
pub fn descriptor(name: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(crate::proto::DESCRIPTORS).expect("descriptors");
    pool.get_message_by_name(name).expect("a message")
}

/// A message of any type, with the values that break things.
pub fn message(descriptor: MessageDescriptor) -> impl Strategy<Value = DynamicMessage> {
    vec(any::<u8>(), 0..600).prop_map(move |choices| Choices(choices.into_iter()).message(descriptor.clone(), 12))
}

/// A message of a generated type.
pub fn typed<M: prost::Message + Default + std::fmt::Debug>(name: &str) -> impl Strategy<Value = M> {
    message(descriptor(name)).prop_map(|message| message.transcode_to().expect("the same type"))
}

/// What a message is made by. When they are used up, nothing is added any more, so that fewer make a smaller message.
struct Choices(std::vec::IntoIter<u8>);

impl Choices {
    /// One of several; the first when there is no choice.
    fn of(&mut self, several: usize) -> usize {
        usize::from(self.0.next().unwrap_or(0)) % several
    }

    /// A message of a type, whose messages nest so deep at most.
    fn message(&mut self, descriptor: MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            let count = [0, 1, 1, 2, 5][self.of(5)];
            if count == 0 || depth == 0 {
                continue;
            }
            let value = match field.is_list() {
                true => Value::List((0..count).map(|_| self.value(&field, depth)).collect()),
                false => self.value(&field, depth),
            };
            message.set_field(&field, value);
        }
        message
    }

    fn value(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        match field.kind() {
            Kind::Message(descriptor) => Value::Message(self.message(descriptor, depth - 1)),
            Kind::Enum(descriptor) => Value::EnumNumber(self.number_of(&descriptor)),
            Kind::Bytes => Value::Bytes(self.bytes().into()),
            Kind::String => Value::String(String::from_utf8_lossy(&self.bytes()).into_owned()),
            Kind::Bool => Value::Bool(self.of(2) == 1),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.number()),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.number() as u64),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(self.number() as i32),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.number() as u32),
            Kind::Double => Value::F64(self.number() as f64),
            Kind::Float => Value::F32(self.number() as f32),
        }
    }

    fn number(&mut self) -> i64 {
        let few = [0, 1, 2, 3, 7, -1, i64::MIN, i64::MAX, i64::MAX - 1, i64::from(i32::MIN), 9_000_000_001];
        match self.of(16) {
            at if at < few.len() => few[at],
            _ => self.0.by_ref().take(8).fold(0, |number, byte| number << 8 | i64::from(byte)),
        }
    }

    fn number_of(&mut self, descriptor: &EnumDescriptor) -> i32 {
        let known: Vec<_> = descriptor.values().map(|value| value.number()).collect();
        match self.of(6) {
            0 => [-1, i32::MIN, i32::MAX, 99][self.of(4)],
            _ => known[self.of(known.len())],
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let few: [&[u8]; 8] = [b"a", b"", b"b", b"\0", b"a/b", b"\xff\xff", b"ab", "\u{e9}\u{2028}".as_bytes()];
        match self.of(24) {
            at if at < 2 * few.len() => few[at / 2].to_vec(),
            at @ 16..19 => vec![b'k'; [255, 4096, 70_000][at - 16]],
            _ => {
                let length = self.of(20);
                self.0.by_ref().take(length).collect()
            }
        }
    }
}
