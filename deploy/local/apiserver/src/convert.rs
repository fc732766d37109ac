//! Versions of one stored object: the API version is rewritten, and Events change shape between their two groups. All
//! other kinds have one shape (CRDs without conversion webhooks keep theirs).

use crate::kinds::Kind;
use serde_json::{Value, json};

/// Field names of core/v1 Events and what events.k8s.io/v1 calls them.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(value: &mut Value, fields: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    for (from, to) in fields {
        if let Some(field) = map.remove(from) {
            map.insert(to.to_owned(), field);
        }
    }
}

/// From the stored form to that of `kind`.
pub fn from_storage(kind: &Kind, value: &mut Value) {
    if kind.is("events.k8s.io", "Event") {
        rename(value, EVENT_FIELDS.into_iter());
    }
    value["apiVersion"] = json!(kind.api_version());
    value["kind"] = json!(kind.kind);
}

/// From the form of `kind` to the stored one.
pub fn to_storage(kind: &Kind, value: &mut Value) {
    if kind.is("events.k8s.io", "Event") {
        rename(value, EVENT_FIELDS.into_iter().map(|(core, new)| (new, core)));
        value["apiVersion"] = json!("v1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn events_have_two_shapes_of_one_stored_object() {
        let registry = Registry::new(Vec::new());
        let new = registry.find("events.k8s.io", "v1", "events").unwrap();
        let core = registry.find("", "v1", "events").unwrap();
        assert_eq!(new.key(Some("a"), "e"), core.key(Some("a"), "e"));
        let mut event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "hello",
            "regarding": {"name": "pod"}, "reportingController": "me"});
        to_storage(&new, &mut event);
        from_storage(&core, &mut event);
        assert_eq!(
            event,
            json!({"apiVersion": "v1", "kind": "Event", "message": "hello",
                "involvedObject": {"name": "pod"}, "reportingComponent": "me"})
        );
    }
}
