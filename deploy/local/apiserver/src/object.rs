//! What the server itself decides about an object's metadata, as pure functions of the old and the new object.

use crate::kinds::Kind;
use crate::status::{ApiError, ApiResult, FieldError};
use chrono::{DateTime, SecondsFormat, Utc};
use rand::Rng;
use serde_json::{Value, json};

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but status, where status has its own subresource.
    Main,
    /// Only status.
    Status,
}

/// A text field of the metadata, or "".
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The object's name.
pub fn name(object: &Value) -> &str {
    meta(object, "name")
}

/// The object's namespace, if it has one.
pub fn namespace(object: &Value) -> Option<&str> {
    object["metadata"]["namespace"].as_str()
}

/// Whether a deletion has begun.
pub fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// The finalizers, in order.
pub fn finalizers(object: &Value) -> Vec<String> {
    let listed = object["metadata"]["finalizers"].as_array();
    listed.into_iter().flatten().filter_map(|f| f.as_str().map(str::to_owned)).collect()
}

/// Replaces the finalizers; none removes the field.
pub fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    if finalizers.is_empty() {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("finalizers");
        }
    } else {
        object["metadata"]["finalizers"] = json!(finalizers);
    }
}

/// A point in time as Kubernetes writes it: seconds, UTC.
pub fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Letters that never spell words, as Kubernetes uses them for generated names.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Five random characters for a generated name.
pub fn name_suffix() -> String {
    let mut random = rand::rng();
    (0..5).map(|_| char::from(NAME_LETTERS[random.random_range(0..NAME_LETTERS.len())])).collect()
}

/// A random UUID.
pub fn new_uid() -> String {
    let bits = (rand::rng().random::<u128>() & !(0xf000_c000u128 << 48)) | (0x4000_8000u128 << 48);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Checks that the body is of the kind that the path names, and fills in what it leaves out.
pub fn check_type(kind: &Kind, object: &mut Value) -> ApiResult<()> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the body is not an object"));
    }
    let wanted = kind.api_version();
    for (field, wanted) in [("apiVersion", wanted.as_str()), ("kind", kind.kind.as_str())] {
        match object[field].as_str() {
            None | Some("") => object[field] = json!(wanted),
            Some(given) if given == wanted => {}
            Some(given) => {
                return Err(ApiError::bad_request(format!(
                    "{field} of the provided object ({given}) does not match {wanted} of the request"
                )));
            }
        }
    }
    match object.get("metadata") {
        None | Some(Value::Null) => object["metadata"] = json!({}),
        Some(Value::Object(_)) => {}
        Some(_) => return Err(ApiError::bad_request("metadata is not an object")),
    }
    Ok(())
}

/// Fills in the namespace of the path, or refuses another one.
pub fn check_namespace(kind: &Kind, namespace: Option<&str>, object: &mut Value) -> ApiResult<()> {
    if !kind.namespaced {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("namespace");
        }
        return Ok(());
    }
    let wanted = namespace.ok_or_else(|| ApiError::bad_request("an empty namespace may not be set during creation"))?;
    match meta(object, "namespace") {
        "" => object["metadata"]["namespace"] = json!(wanted),
        given if given == wanted => {}
        given => {
            return Err(ApiError::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request ({given} != {wanted})"
            )));
        }
    }
    Ok(())
}

/// Makes a new object's metadata: name, uid, creation time, generation; removes what only the server sets.
pub fn prepare_create(kind: &Kind, object: &mut Value, now: DateTime<Utc>) -> ApiResult<()> {
    let prefix = meta(object, "generateName").to_owned();
    if name(object).is_empty() {
        if prefix.is_empty() {
            let cause = FieldError {
                message: "Required value: name or generateName is required".into(),
                ..FieldError::required("metadata.name")
            };
            return Err(ApiError::invalid(&kind.group, &kind.kind, "", vec![cause]));
        }
        object["metadata"]["name"] = json!(format!("{prefix}{}", name_suffix()));
    }
    check_name(kind, object)?;
    if kind.has_status() && !kind.is("", "Node") {
        remove(object, "status");
    }
    let has_generation = kind.has_generation();
    let Some(metadata) = object["metadata"].as_object_mut() else {
        return Ok(());
    };
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "selfLink", "generation"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), json!(new_uid()));
    metadata.insert("creationTimestamp".into(), json!(timestamp(now)));
    if has_generation {
        metadata.insert("generation".into(), json!(1));
    }
    Ok(())
}

fn check_name(kind: &Kind, object: &Value) -> ApiResult<()> {
    let name = name(object);
    let rbac = kind.group == "rbac.authorization.k8s.io";
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let ok = if rbac {
        !name.contains(['/', '%']) && name != "." && name != ".."
    } else {
        name.len() <= 253 && name.chars().all(legal) && ends(name.chars().next()) && ends(name.chars().last())
    };
    if ok {
        return Ok(());
    }
    let detail = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                  start and end with an alphanumeric character";
    let cause = FieldError::invalid("metadata.name", &json!(name), detail);
    Err(ApiError::invalid(&kind.group, &kind.kind, name, vec![cause]))
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    match (from.get(field), to.as_object_mut()) {
        (Some(value), Some(map)) => {
            map.insert(field.to_owned(), value.clone());
        }
        (None, Some(map)) => {
            map.remove(field);
        }
        _ => {}
    }
}

/// The object to keep when `new` replaces `old`: checks the preconditions in its metadata and keeps what the client may
/// not change.
pub fn prepare_update(kind: &Kind, part: Part, old: &Value, mut new: Value) -> ApiResult<Value> {
    let (group, plural, name) = (&kind.group, &kind.plural, name(old));
    let given = meta(&new, "resourceVersion");
    if !given.is_empty() && given != meta(old, "resourceVersion") {
        return Err(ApiError::stale(group, plural, name));
    }
    let uid = meta(&new, "uid");
    if !uid.is_empty() && uid != meta(old, "uid") {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta(old, "uid"));
        return Err(ApiError::conflict(group, plural, name, &why));
    }
    if self::name(&new) != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            self::name(&new)
        )));
    }
    if part == Part::Status {
        let managed = new["metadata"]["managedFields"].clone();
        let mut kept = old.clone();
        copy(&new, &mut kept, "status");
        if managed.is_array() {
            kept["metadata"]["managedFields"] = managed;
        }
        return Ok(kept);
    }
    if kind.has_status() {
        copy(old, &mut new, "status");
    }
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
        "namespace",
    ] {
        let from = old["metadata"].clone();
        copy(&from, &mut new["metadata"], field);
    }
    remove(&mut new["metadata"], "selfLink");
    let before = finalizers(old);
    if is_deleting(old)
        && let Some(added) = finalizers(&new).into_iter().find(|f| !before.contains(f))
    {
        let cause = FieldError {
            field: "metadata.finalizers".into(),
            reason: "FieldValueForbidden",
            message: format!("Forbidden: no new finalizers can be added if the object is being deleted, found {added}"),
        };
        return Err(ApiError::invalid(group, &kind.kind, name, vec![cause]));
    }
    Ok(new)
}

/// Counts a new generation if anything but metadata and status changed. To be called with the object as it is kept:
/// after defaults.
pub fn count_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if kind.has_generation() && specification(kind, old) != specification(kind, new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = json!(generation + 1);
    }
}

/// What counts for the generation: all but metadata and a status that has its own subresource.
fn specification<'a>(kind: &Kind, object: &'a Value) -> Vec<(&'a String, &'a Value)> {
    let status = kind.has_status();
    let fields = object.as_object().into_iter().flatten();
    fields.filter(|(field, _)| *field != "metadata" && (*field != "status" || !status)).collect()
}

/// Whether the store should drop the object now: its deletion has begun and nothing holds it any more.
pub fn is_finished(kind: &Kind, object: &Value) -> bool {
    is_deleting(object)
        && finalizers(object).is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !(kind.is("", "Namespace") && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    fn kind(group: &str, plural: &str) -> std::sync::Arc<Kind> {
        Registry::new(Vec::new()).find(group, "v1", plural).unwrap()
    }

    #[test]
    fn a_new_object_gets_identity_and_loses_what_only_the_server_sets() {
        let mut object = json!({"metadata": {"generateName": "web-", "resourceVersion": "7", "uid": "mine",
            "deletionTimestamp": "x"}, "spec": {}, "status": {"replicas": 9}});
        prepare_create(&kind("apps", "deployments"), &mut object, DateTime::UNIX_EPOCH).unwrap();
        assert!(name(&object).starts_with("web-") && name(&object).len() == 9);
        assert_eq!(object["metadata"]["creationTimestamp"], "1970-01-01T00:00:00Z");
        assert_eq!(object["metadata"]["generation"], 1);
        assert!(meta(&object, "uid").len() == 36 && meta(&object, "uid").as_bytes()[14] == b'4');
        for field in ["resourceVersion", "deletionTimestamp"] {
            assert!(object["metadata"].get(field).is_none(), "{field}");
        }
        assert!(object.get("status").is_none());
        let error = prepare_create(&kind("", "configmaps"), &mut json!({"metadata": {}}), DateTime::UNIX_EPOCH);
        assert_eq!(
            error.unwrap_err().message,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"
        );
        let bad =
            prepare_create(&kind("", "configmaps"), &mut json!({"metadata": {"name": "A/b"}}), DateTime::UNIX_EPOCH);
        assert!(
            bad.unwrap_err().message.starts_with("ConfigMap \"A/b\" is invalid: metadata.name: Invalid value: \"A/b\"")
        );
    }

    #[test]
    fn updates_keep_what_the_client_may_not_change() {
        let kind = kind("apps", "deployments");
        let old = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "5", "generation": 2,
            "creationTimestamp": "t"}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let new = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"replicas": 2}, "status": {"replicas": 7}});
        let mut main = prepare_update(&kind, Part::Main, &old, new.clone()).unwrap();
        count_generation(&kind, &old, &mut main);
        assert_eq!(main["status"], old["status"]);
        assert_eq!((&main["metadata"]["generation"], &main["metadata"]["uid"]), (&json!(3), &json!("u")));
        let mut status = prepare_update(&kind, Part::Status, &old, new).unwrap();
        count_generation(&kind, &old, &mut status);
        assert_eq!((&status["status"]["replicas"], &status["spec"]), (&json!(7), &old["spec"]));
        assert_eq!(status["metadata"]["generation"], 2);
        let stale = json!({"metadata": {"name": "a", "resourceVersion": "4"}});
        assert_eq!(prepare_update(&kind, Part::Main, &old, stale).unwrap_err().reason, "Conflict");
        let other = json!({"metadata": {"name": "a", "uid": "other"}});
        assert_eq!(prepare_update(&kind, Part::Main, &old, other).unwrap_err().code, 409);
    }

    #[test]
    fn finalizers_hold_a_deleted_object_and_cannot_be_added() {
        let kind = kind("", "configmaps");
        let old = json!({"metadata": {"name": "a", "deletionTimestamp": "t", "finalizers": ["x"]}});
        assert!(!is_finished(&kind, &old));
        let freed = prepare_update(&kind, Part::Main, &old, json!({"metadata": {"name": "a"}})).unwrap();
        assert!(is_finished(&kind, &freed));
        let more = json!({"metadata": {"name": "a", "finalizers": ["x", "y"]}});
        let error = prepare_update(&kind, Part::Main, &old, more).unwrap_err();
        assert!(error.message.contains("metadata.finalizers: Forbidden: no new finalizers"), "{}", error.message);
    }
}
