//! Messages as JSON, for comparing field by field and for people to read.

use prost_reflect::{DynamicMessage, Kind, Value};
use serde_json::{Map, Value as Json, json};

use super::step::Names;

/// Texts longer than this are cut for people.
const BRIEF_CHARACTERS: usize = 60;

/// A message as JSON, with names instead of what only one server knows. Fields that are not set are left out.
pub fn of(message: &DynamicMessage, names: &Names) -> Json {
    let mut object = Map::new();
    for (field, value) in message.fields() {
        let value = match value {
            Value::List(list) => Json::Array(list.iter().map(|value| single(value, &field.kind(), names)).collect()),
            value => single(value, &field.kind(), names),
        };
        object.insert(field.name().to_owned(), value);
    }
    for field in message.unknown_fields() {
        object.insert(format!("unknown field {}", field.number()), json!(true));
    }
    Json::Object(object)
}

fn single(value: &Value, kind: &Kind, names: &Names) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::I32(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::I64(value) => json!(names.of_number(*value as u64) as i64),
        Value::U64(value) => json!(names.of_number(*value)),
        Value::String(value) => json!(names.of_text(value)),
        Value::Bytes(value) => json!(value.escape_ascii().to_string()),
        Value::Message(value) => of(value, names),
        Value::EnumNumber(number) => {
            let known = kind.as_enum().and_then(|kind| kind.get_value(*number).map(|value| value.name().to_owned()));
            known.map_or(json!(number), |name| json!(name))
        }
        other => panic!("no field of the API has such a value: {other:?}"),
    }
}

/// Where two values differ: the path, the first's and the second's value there.
pub fn differences(first: &Json, second: &Json) -> Vec<String> {
    let mut found = Vec::new();
    compare("", first, second, &mut found);
    found
}

fn compare(path: &str, first: &Json, second: &Json, found: &mut Vec<String>) {
    match (first, second) {
        (Json::Object(a), Json::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
            for name in names {
                let (a, b) = (a.get(name).unwrap_or(&Json::Null), b.get(name).unwrap_or(&Json::Null));
                compare(&format!("{path}.{name}"), a, b, found);
            }
        }
        (Json::Array(a), Json::Array(b)) => {
            for at in 0..a.len().max(b.len()) {
                let (a, b) = (a.get(at).unwrap_or(&Json::Null), b.get(at).unwrap_or(&Json::Null));
                compare(&format!("{path}[{at}]"), a, b, found);
            }
        }
        _ if first == second => {}
        _ => found.push(format!("{}: ours {}, etcd's {}", path.trim_start_matches('.'), brief(first), brief(second))),
    }
}

/// For people: on one line, without quotes around names, long texts cut, nothing where there is none.
pub fn brief(value: &Json) -> String {
    match value {
        Json::Null => "none".to_owned(),
        Json::String(text) if text.chars().count() > BRIEF_CHARACTERS => {
            let start: String = text.chars().take(BRIEF_CHARACTERS / 2).collect();
            format!("\"{start}...\" ({} characters)", text.chars().count())
        }
        Json::Array(values) => format!("[{}]", values.iter().map(brief).collect::<Vec<_>>().join(", ")),
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name}: {}", brief(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        single => single.to_string(),
    }
}
