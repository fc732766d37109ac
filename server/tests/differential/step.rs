//! One request of a program, and the numbers in it that only a run can know.

use std::fmt;

use prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};

use super::caller::Caller;
use super::json;
use super::wire::method;

/// The store's revision at the time of the step; small numbers may be added.
pub const NOW: i64 = 1 << 40;
/// The compacted revision at the time of the step, likewise.
pub const COMPACTED: i64 = 1 << 41;
/// The id of the first lease that got its id from the server; the second's is one more, and so on.
pub const LEASE: i64 = 1 << 42;
/// The member's id.
pub const MEMBER: u64 = 1 << 43;
/// The cluster's id.
pub const CLUSTER: u64 = (1 << 43) + 1;
/// The create revision of a key that leads an election, as its candidate was told.
pub const ELECTED: i64 = 1 << 44;
/// The member's URL for clients.
pub const CLIENT_URL: &str = "client-url";
/// The member's URL for peers.
pub const PEER_URL: &str = "peer-url";

/// How far from the name of a revision a number still means it.
const NEAR: i64 = 1 << 20;

/// One request.
#[derive(Clone)]
pub struct Step {
    pub method: MethodDescriptor,
    /// Which of the client's streams it goes to; 0 for calls without.
    pub stream: usize,
    pub caller: Caller,
    pub request: DynamicMessage,
}

impl Step {
    /// A request of the method `package.Service/Method`.
    pub fn new(name: &str, request: &impl Message) -> Self {
        let method = method(name);
        let mut dynamic = DynamicMessage::new(method.input());
        dynamic.transcode_from(request).expect("a request of the method's type");
        Self { method, stream: 0, caller: Caller::Nobody, request: dynamic }
    }

    /// The same for one of several streams.
    pub fn on_stream(self, stream: usize) -> Self {
        Self { stream, ..self }
    }

    /// The same from somebody.
    pub fn by(self, caller: Caller) -> Self {
        Self { caller, ..self }
    }

    /// The method's name without the package.
    pub fn name(&self) -> String {
        format!("{}/{}", self.method.parent_service().name(), self.method.name())
    }

    /// Simpler forms of the step: from nobody, or with a request without a field or an element, or with a shorter or smaller
    /// one.
    pub fn simpler(&self) -> Vec<Self> {
        let from_nobody = (self.caller != Caller::Nobody).then(|| self.clone().by(Caller::Nobody));
        let simpler = simpler(&self.request).into_iter();
        from_nobody.into_iter().chain(simpler.map(|request| Self { request, ..self.clone() })).collect()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = if self.method.is_client_streaming() { format!("#{}", self.stream) } else { String::new() };
        let request = json::of(&self.request, &Names::default());
        write!(f, "{}{}{stream} {}", self.caller, self.name(), json::brief(&request))
    }
}

fn simpler(message: &DynamicMessage) -> Vec<DynamicMessage> {
    let mut found = Vec::new();
    for (field, value) in message.fields() {
        let mut without = message.clone();
        without.clear_field(&field);
        found.push(without);
        let values = match value {
            Value::List(list) => shorter_lists(list),
            single => simpler_values(single),
        };
        for value in values {
            let mut with = message.clone();
            with.set_field(&field, value);
            found.push(with);
        }
    }
    found
}

fn shorter_lists(list: &[Value]) -> Vec<Value> {
    let mut found = Vec::new();
    for at in 0..list.len() {
        let mut without = list.to_vec();
        without.remove(at);
        found.push(Value::List(without));
        for value in simpler_values(&list[at]) {
            let mut with = list.to_vec();
            with[at] = value;
            found.push(Value::List(with));
        }
    }
    found
}

fn simpler_values(value: &Value) -> Vec<Value> {
    match value {
        Value::Message(message) => simpler(message).into_iter().map(Value::Message).collect(),
        Value::Bytes(bytes) if bytes.len() > 1 => vec![Value::Bytes(bytes.slice(..1))],
        _ => Vec::new(),
    }
}

/// What a run gives names to: ids and URLs that differ between the servers.
#[derive(Debug, Clone, Default)]
pub struct Names {
    numbers: Vec<(u64, u64)>,
    texts: Vec<(&'static str, String)>,
}

impl Names {
    /// The number stands for the server's one.
    pub fn number(&mut self, name: u64, actual: u64) {
        self.numbers.push((name, actual));
    }

    /// The text stands for the server's one.
    pub fn text(&mut self, name: &'static str, actual: String) {
        self.texts.push((name, actual));
    }

    /// The name of a server's number, or the number.
    pub fn of_number(&self, actual: u64) -> u64 {
        self.numbers.iter().find(|(_, known)| *known == actual).map_or(actual, |(name, _)| *name)
    }

    /// A server's text, with the names of texts and numbers in it.
    pub fn of_text(&self, actual: &str) -> String {
        let texts = self.texts.iter().map(|(name, actual)| ((*name).to_owned(), actual.clone()));
        let numbers = self.numbers.iter().map(|(name, actual)| (name.to_string(), actual.to_string()));
        texts.chain(numbers).fold(actual.to_owned(), |text, (name, actual)| text.replace(&actual, &name))
    }

    /// Puts the server's numbers and texts in the place of names.
    pub fn resolve(&self, message: &mut DynamicMessage) {
        let number =
            |name: u64| self.numbers.iter().find(|(known, _)| *known == name).map_or(name, |(_, actual)| *actual);
        each_value(message, &mut |value| match value {
            Value::I64(name) => *name = number(*name as u64) as i64,
            Value::U64(name) => *name = number(*name),
            Value::String(name) => {
                if let Some((_, actual)) = self.texts.iter().find(|(known, _)| known == name) {
                    *name = actual.clone();
                }
            }
            _ => {}
        });
    }
}

/// Puts revisions in the place of names, and of the numbers near them.
pub fn resolve_revisions(message: &mut DynamicMessage, revisions: &[(i64, i64)]) {
    each_value(message, &mut |value| {
        if let Value::I64(number) = value {
            for &(name, revision) in revisions {
                if number.abs_diff(name) < NEAR as u64 {
                    *number = *number - name + revision;
                }
            }
        }
    });
}

/// Shows every single value, however deep.
fn each_value(message: &mut DynamicMessage, see: &mut impl FnMut(&mut Value)) {
    for (_, value) in message.fields_mut() {
        match value {
            Value::List(list) => list.iter_mut().for_each(|value| each_within(value, see)),
            single => each_within(single, see),
        }
    }
}

fn each_within(value: &mut Value, see: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Message(message) => each_value(message, see),
        other => see(other),
    }
}
