//! Server-side apply: merging configurations and keeping the record of who owns which field.

use crate::fields::{self, FieldSet, display, fields_of, from_fields_v1, remove_at, to_fields_v1, value_at};
use crate::kinds::Kind;
use crate::object::{Part, timestamp};
use crate::schema::{ListKind, Node};
use crate::status::{ApiError, ApiResult};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
struct Owner {
    manager: String,
    operation: &'static str,
    part: Part,
    api_version: String,
    time: Value,
    set: FieldSet,
}

impl Owner {
    fn new(kind: &Kind, part: Part, manager: &str, operation: &'static str) -> Owner {
        let (api_version, set) = (kind.api_version(), FieldSet::new());
        Owner { manager: manager.to_owned(), operation, part, api_version, time: Value::Null, set }
    }

    fn is_same(&self, other: &Owner) -> bool {
        (&self.manager, self.operation, self.part) == (&other.manager, other.operation, other.part)
    }

    fn decode(entry: &Value) -> Option<Owner> {
        Some(Owner {
            manager: entry["manager"].as_str()?.to_owned(),
            operation: if entry["operation"] == "Apply" { "Apply" } else { "Update" },
            part: if entry["subresource"] == "status" { Part::Status } else { Part::Main },
            api_version: entry["apiVersion"].as_str().unwrap_or_default().to_owned(),
            time: entry["time"].clone(),
            set: from_fields_v1(&entry["fieldsV1"]),
        })
    }

    fn encode(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version, "time": self.time,
            "fieldsType": "FieldsV1", "fieldsV1": to_fields_v1(&self.set),
        });
        if self.part == Part::Status {
            entry["subresource"] = json!("status");
        }
        entry
    }
}

fn owners(object: &Value) -> Vec<Owner> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten().filter_map(Owner::decode).collect()
}

fn encode_owners(owners: &[Owner]) -> Value {
    owners.iter().filter(|owner| !owner.set.is_empty()).map(Owner::encode).collect()
}

/// The owner's entry, made when there is none yet.
fn entry<'a>(owners: &'a mut Vec<Owner>, wanted: &Owner) -> &'a mut Owner {
    let index = owners.iter().position(|owner| owner.is_same(wanted)).unwrap_or_else(|| {
        owners.push(wanted.clone());
        owners.len() - 1
    });
    &mut owners[index]
}

/// Metadata that nobody owns: identity, and what the server sets.
const UNOWNED_METADATA: [&str; 11] = [
    "name",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
];

/// The fields of an object that a write of this part may own.
fn ownable(kind: &Kind, part: Part, object: &Value) -> Value {
    let Some(map) = object.as_object() else {
        return json!({});
    };
    if part == Part::Status {
        return map.get("status").map_or_else(|| json!({}), |status| json!({"status": status}));
    }
    let mut kept = map.clone();
    kept.remove("apiVersion");
    kept.remove("kind");
    if kind.has_status() {
        kept.remove("status");
    }
    if let Some(metadata) = kept.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| !UNOWNED_METADATA.contains(&field.as_str()));
    }
    if kept.get("metadata").is_some_and(|m| *m == json!({})) {
        kept.remove("metadata");
    }
    Value::Object(kept)
}

/// Records an update: what `new` changes belongs to `manager` alone, what it removes to nobody.
pub fn track(kind: &Kind, part: Part, old: &Value, new: &mut Value, manager: &str, now: DateTime<Utc>) {
    let node = Some(kind.schema.node());
    let (before, after) = (ownable(kind, part, old), ownable(kind, part, new));
    let (set_before, set_after) = (fields_of(&before, node), fields_of(&after, node));
    let changed: FieldSet = set_after
        .iter()
        .filter(|path| !set_before.contains(*path) || differs(&before, &after, path))
        .cloned()
        .collect();
    let removed: FieldSet = set_before.difference(&set_after).cloned().collect();
    if new["metadata"]["managedFields"].is_null() && old["metadata"]["managedFields"].is_array() {
        new["metadata"]["managedFields"] = old["metadata"]["managedFields"].clone();
    }
    if changed.is_empty() && removed.is_empty() {
        return;
    }
    let mut owners = owners(new);
    let me = Owner::new(kind, part, manager, "Update");
    for owner in &mut owners {
        let mine = owner.is_same(&me);
        owner.set.retain(|path| !removed.contains(path) && (mine || !changed.contains(path) || is_item(path)));
    }
    if !changed.is_empty() {
        let entry = entry(&mut owners, &me);
        entry.set.extend(changed);
        entry.time = json!(timestamp(now));
        entry.api_version = kind.api_version();
    }
    new["metadata"]["managedFields"] = encode_owners(&owners);
}

fn is_item(path: &[String]) -> bool {
    path.last().is_some_and(|step| !step.starts_with("f:"))
}

/// Whether `path` is a key of a list item: it stays as long as the item.
fn is_key(path: &[String]) -> bool {
    let [.., item, field] = path else { return false };
    let keys = item.strip_prefix("k:").and_then(|keys| serde_json::from_str::<Value>(keys).ok());
    keys.zip(field.strip_prefix("f:")).is_some_and(|(keys, name)| keys.get(name).is_some())
}

/// Whether the leaf at `path` has different values; items themselves only exist or do not.
fn differs(a: &Value, b: &Value, path: &[String]) -> bool {
    !is_item(path) && value_at(a, path) != value_at(b, path)
}

/// The `managedFields` of an object that apply creates.
pub fn first_owner(kind: &Kind, config: &Value, manager: &str, now: DateTime<Utc>) -> Value {
    let mut config = ownable(kind, Part::Main, config);
    fill_keys(&mut config, kind.schema.node());
    let mut owner = Owner::new(kind, Part::Main, manager, "Apply");
    owner.set = fields_of(&config, Some(kind.schema.node()));
    owner.time = json!(timestamp(now));
    encode_owners(&[owner])
}

/// The live object with `config` applied by `manager`, and its new `managedFields`. A field of another manager with
/// another value is a conflict, unless forced.
pub fn apply(
    kind: &Kind,
    part: Part,
    live: &Value,
    config: &Value,
    manager: &str,
    force: bool,
    now: DateTime<Utc>,
) -> ApiResult<Value> {
    let node = kind.schema.node();
    let mut wanted = ownable(kind, part, config);
    fill_keys(&mut wanted, node);
    let set = fields_of(&wanted, Some(node));
    let me = Owner::new(kind, part, manager, "Apply");
    let mut owners = owners(live);
    let mut conflicts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for owner in owners.iter_mut().filter(|owner| !owner.is_same(&me)) {
        let disputed: Vec<_> =
            owner.set.intersection(&set).filter(|path| differs(live, &wanted, path)).cloned().collect();
        if !disputed.is_empty() && !force {
            let paths = disputed.iter().map(|path| display(path));
            conflicts.entry(owner_text(owner)).or_default().extend(paths);
        }
        disputed.iter().for_each(|path| {
            owner.set.remove(path);
        });
    }
    if !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    let mut merged = live.clone();
    merge(&mut merged, &wanted, Some(node));
    for field in ["resourceVersion", "uid"] {
        if let Some(given) = config["metadata"][field].as_str() {
            merged["metadata"][field] = json!(given);
        }
    }
    let mine = entry(&mut owners, &me);
    let abandoned: Vec<_> = mine.set.difference(&set).cloned().collect();
    let set_changed = mine.set != set;
    mine.set = set;
    // Whole items first, if nobody else owns anything in them; then what is left of the others.
    for path in &abandoned {
        let owned = owners.iter().any(|owner| owner.set.iter().any(|other| other.starts_with(path)));
        if !owned && !is_key(path) {
            remove_at(&mut merged, path);
        }
    }
    if set_changed || merged != *live {
        entry(&mut owners, &me).time = json!(timestamp(now));
        entry(&mut owners, &me).api_version = kind.api_version();
        merged["metadata"]["managedFields"] = encode_owners(&owners);
    }
    Ok(merged)
}

fn owner_text(owner: &Owner) -> String {
    let mut text = format!("{:?}", owner.manager);
    if owner.part == Part::Status {
        text.push_str(" with subresource \"status\"");
    }
    if owner.operation == "Update" {
        text.push_str(&format!(" using {}", owner.api_version));
    }
    text
}

fn conflict(conflicts: &BTreeMap<String, Vec<String>>) -> ApiError {
    let count: usize = conflicts.values().map(Vec::len).sum();
    let mut causes = Vec::new();
    let mut text = Vec::new();
    for (owner, paths) in conflicts {
        for path in paths {
            causes.push(
                json!({"reason": "FieldManagerConflict", "message": format!("conflict with {owner}"), "field": path}),
            );
        }
        text.push(match paths.as_slice() {
            [one] => format!("conflict with {owner}: {one}"),
            many => format!("conflicts with {owner}:\n- {}", many.join("\n- ")),
        });
    }
    let plural = if count == 1 { "conflict" } else { "conflicts" };
    let message = format!("Apply failed with {count} {plural}: {}", text.join("\n"));
    ApiError { details: json!({"causes": causes}), ..ApiError::new(409, "Conflict", message) }
}

/// Fills in defaults of list keys (a port's protocol), so that items are known by complete keys.
fn fill_keys(value: &mut Value, node: Node<'_>) {
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                if let Some(child_node) = node.field(name) {
                    fill_keys(child, child_node);
                }
            }
        }
        Value::Array(items) => {
            let Some(item_node) = node.items() else {
                return;
            };
            let keys = if let ListKind::Map(keys) = node.list_kind() { keys } else { &[] };
            for item in items {
                for key in keys.iter().filter_map(Value::as_str) {
                    let default = item_node.default_of(key);
                    if let (Some(default), Some(map)) = (default, item.as_object_mut()) {
                        map.entry(key).or_insert_with(|| default.clone());
                    }
                }
                fill_keys(item, item_node);
            }
        }
        _ => {}
    }
}

/// Lays `config` over `value`.
fn merge(value: &mut Value, config: &Value, node: Option<Node<'_>>) {
    match (value, config) {
        (Value::Object(map), Value::Object(wanted)) if !node.is_some_and(Node::is_atomic_map) => {
            for (name, child) in wanted {
                let at = map.entry(name).or_insert(Value::Null);
                merge(at, child, node.and_then(|n| n.field(name)));
            }
        }
        (Value::Array(items), Value::Array(wanted)) => match node.map_or(ListKind::Atomic, Node::list_kind) {
            ListKind::Atomic => items.clone_from(wanted),
            ListKind::Set => {
                let added: Vec<Value> = wanted.iter().filter(|item| !items.contains(item)).cloned().collect();
                items.extend(added);
            }
            ListKind::Map(keys) => {
                for item in wanted {
                    match items.iter_mut().find(|found| fields::same_item(found, item, keys)) {
                        Some(found) => merge(found, item, node.and_then(Node::items)),
                        None => items.push(item.clone()),
                    }
                }
            }
        },
        (value, config) => value.clone_from(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    fn kind() -> std::sync::Arc<Kind> {
        Registry::new(Vec::new()).find("apps", "v1", "deployments").unwrap()
    }

    fn config(replicas: Option<i64>, containers: Value) -> Value {
        let mut spec = json!({"template": {"spec": {"containers": containers}}});
        if let Some(replicas) = replicas {
            spec["replicas"] = json!(replicas);
        }
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
    }

    fn applied(live: &Value, config: &Value, manager: &str, force: bool) -> ApiResult<Value> {
        apply(&kind(), Part::Main, live, config, manager, force, DateTime::UNIX_EPOCH)
    }

    fn created(config: &Value, manager: &str) -> Value {
        let mut live = config.clone();
        live["metadata"]["managedFields"] =
            first_owner(&kind(), config, manager, DateTime::from_timestamp(1, 0).unwrap());
        live
    }

    #[test]
    fn fields_no_longer_applied_go_away() {
        let first =
            config(Some(1), json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]));
        let live = created(&first, "me");
        let new = applied(&live, &config(None, json!([{"name": "a", "image": "1"}])), "me", false).unwrap();
        assert_eq!(new["spec"], json!({"template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}}));
    }

    #[test]
    fn an_item_that_another_manager_has_fields_in_stays() {
        let mut live = created(&config(None, json!([{"name": "a"}, {"name": "b", "tty": true}])), "me");
        let before = live.clone();
        live["spec"]["template"]["spec"]["containers"][1]["image"] = json!("2");
        track(&kind(), Part::Main, &before, &mut live, "kubectl", DateTime::UNIX_EPOCH);
        let new = applied(&live, &config(None, json!([{"name": "a"}])), "me", false).unwrap();
        assert_eq!(new["spec"]["template"]["spec"]["containers"], json!([{"name": "a"}, {"name": "b", "image": "2"}]));
    }

    #[test]
    fn what_was_taken_by_force_stays() {
        let live = created(&config(Some(1), json!([{"name": "a", "image": "1"}])), "first");
        let wish = config(Some(2), json!([{"name": "a", "image": "1"}, {"name": "b"}]));
        let forced = applied(&live, &wish, "second", true).unwrap();
        // The first no longer owns it: it stays when the first stops applying it.
        let after = applied(&forced, &config(None, json!([{"name": "a", "image": "1"}])), "first", false).unwrap();
        assert_eq!(after["spec"]["replicas"], 2);
        assert_eq!(
            after["spec"]["template"]["spec"]["containers"],
            json!([{"name": "a", "image": "1"}, {"name": "b"}])
        );
    }

    #[test]
    fn equal_values_are_shared_and_stay_until_the_last_owner_lets_go() {
        let both = config(Some(1), json!([{"name": "a"}]));
        let live = created(&both, "first");
        let shared = applied(&live, &both, "second", false).unwrap();
        let without = config(None, json!([{"name": "a"}]));
        let one = applied(&shared, &without, "first", false).unwrap();
        assert_eq!(one["spec"]["replicas"], 1);
        let none = applied(&one, &without, "second", false).unwrap();
        assert!(none["spec"].get("replicas").is_none());
    }

    #[test]
    fn an_update_takes_fields_over() {
        let live = created(&config(Some(1), json!([{"name": "a"}])), "me");
        let mut scaled = live.clone();
        scaled["spec"]["replicas"] = json!(5);
        track(&kind(), Part::Main, &live, &mut scaled, "kubectl", DateTime::UNIX_EPOCH);
        let managers = scaled["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(managers.len(), 2);
        assert_eq!(managers[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
        let error = applied(&scaled, &config(Some(1), json!([{"name": "a"}])), "me", false).unwrap_err();
        assert_eq!(
            error.message,
            "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
        );
        // Status is another part: its owner does not own the spec.
        let mut status = scaled.clone();
        status["status"]["replicas"] = json!(1);
        track(&kind(), Part::Status, &scaled, &mut status, "controller", DateTime::UNIX_EPOCH);
        assert_eq!(status["metadata"]["managedFields"][2]["subresource"], "status");
    }

    #[test]
    fn field_sets_survive_their_json_form() {
        let mut value = config(Some(1), json!([{"name": "a", "env": [{"name": "X"}], "command": ["x", "y"]}]));
        value["metadata"]["finalizers"] = json!(["f"]);
        let set = fields_of(&ownable(&kind(), Part::Main, &value), Some(kind().schema.node()));
        assert_eq!(from_fields_v1(&to_fields_v1(&set)), set);
        let json = to_fields_v1(&set);
        assert_eq!(json["f:metadata"], json!({"f:finalizers": {"v:\"f\"": {}}}));
        let container = &json["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"];
        assert_eq!(
            *container,
            json!({".": {}, "f:name": {}, "f:command": {},
            "f:env": {"k:{\"name\":\"X\"}": {".": {}, "f:name": {}}}})
        );
    }
}
