//! What of an answer cannot be compared, since it depends on the clock, the disk or chance, in one form for both servers.

use serde_json::{Value as Json, json};

use super::json;
use super::step::{Names, Step};

/// Seconds that a lease may have run since it was granted.
const SECONDS: i64 = 60;

/// Fields of a member's own business: its version, its files, the length of its log.
const STATUS: &[&str] = &[
    "version",
    "storageVersion",
    "dbSize",
    "dbSizeInUse",
    "dbSizeQuota",
    "raftIndex",
    "raftAppliedIndex",
    "downgradeInfo",
];

/// Brings an answer into the form that is compared.
pub fn answer(step: &Step, answer: &mut Json) {
    match &*step.name() {
        "KV/RangeStream" => chunks(answer),
        _ if answer.get("answer").is_none() && answer.get("answers").is_none() => {}
        "Lease/LeaseGrant" if json::of(&step.request, &Names::default())["ID"].is_null() => {
            // Each server's own choice, that it made one is compared.
            if let Some(id) = answer["answer"].get_mut("ID") {
                *id = json!("chosen");
            }
        }
        "Auth/Authenticate" => token(&mut answer["answer"]["token"]),
        "Lease/LeaseTimeToLive" => time_to_live(&mut answer["answer"]),
        "Lease/LeaseLeases" => sort(answer["answer"].get_mut("leases")),
        // In the order of a hash map.
        "Maintenance/Alarm" => sort(answer["answer"].get_mut("alarms")),
        "Maintenance/Hash" => {
            // Over the database file.
            answer["answer"]["hash"] = json!("a hash");
        }
        "Maintenance/Status" => {
            for field in STATUS {
                if let Some(fields) = answer["answer"].as_object_mut() {
                    fields.remove(*field);
                }
            }
            sort(answer["answer"].get_mut("errors"));
        }
        _ => {}
    }
    header(answer);
}

/// A leader's term of office is any but 0.
pub fn header(answer: &mut Json) {
    match answer {
        Json::Array(values) => values.iter_mut().for_each(header),
        Json::Object(fields) => {
            for (name, value) in fields {
                match &**name {
                    "raft_term" | "raftTerm" => *value = json!("a term"),
                    _ => header(value),
                }
            }
        }
        _ => {}
    }
}

/// The chunks of a range put together.
fn chunks(answer: &mut Json) {
    let Some(chunks) = answer["answers"].as_array() else {
        return;
    };
    let mut whole = json!({});
    let mut kvs = Vec::new();
    for chunk in chunks {
        for (name, value) in chunk["range_response"].as_object().into_iter().flatten() {
            match &**name {
                "kvs" => kvs.extend(value.as_array().into_iter().flatten().cloned()),
                _ => whole[name] = value.clone(),
            }
        }
    }
    if !kvs.is_empty() {
        whole["kvs"] = Json::Array(kvs);
    }
    *answer = json!({ "answer": whole });
}

/// What is left of a lease depends on the clock, the order of its keys on chance.
fn time_to_live(answer: &mut Json) {
    let (left, granted) = (answer["TTL"].as_i64(), answer["grantedTTL"].as_i64());
    if let (Some(left), Some(granted)) = (left, granted)
        && (granted - SECONDS..=granted).contains(&left)
    {
        answer["TTL"] = json!("about all of it");
    }
    sort(answer.get_mut("keys"));
}

/// Letters by chance, and the index of the entry in the log.
fn token(token: &mut Json) {
    let parts = token.as_str().and_then(|token| token.split_once('.'));
    if parts.is_some_and(|(letters, index)| letters.len() == 16 && index.parse::<u64>().is_ok()) {
        *token = json!("a token");
    }
}

fn sort(values: Option<&mut Json>) {
    if let Some(values) = values.and_then(Json::as_array_mut) {
        values.sort_by_key(Json::to_string);
    }
}
