//! JSON patch, merge patch and strategic merge patch, as pure functions.

use crate::kinds::Kind;
use crate::object;
use crate::schema::Node;
use crate::status::{ApiError, ApiResult};
use serde_json::{Map, Value};

/// The patch formats besides server-side apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' merge patch that merges lists by keys; for builtin kinds only.
    Strategic,
}

/// The object after the patch.
pub fn patched(patch_type: PatchType, kind: &Kind, old: &Value, patch: &Value) -> ApiResult<Value> {
    let mut new = old.clone();
    match patch_type {
        PatchType::Json => {
            let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
            json_patch::patch(&mut new, &operations).map_err(|error| {
                let message = format!("the server rejected our request due to an error in our request: {error}");
                ApiError::new(422, "Invalid", message)
            })?;
        }
        PatchType::Merge => json_patch::merge(&mut new, patch),
        PatchType::Strategic if kind.custom.is_some() => {
            let message = "the body of the request was in an unknown format - accepted media types include: \
                           application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
            return Err(ApiError::new(415, "UnsupportedMediaType", message));
        }
        PatchType::Strategic => {
            let (Value::Object(map), Value::Object(patch)) = (&mut new, patch) else {
                return Err(ApiError::bad_request("a strategic merge patch is an object"));
            };
            merge_map(map, patch, Some(kind.schema.node()));
        }
    }
    if !new.is_object() || !new["metadata"].is_object() {
        return Err(ApiError::bad_request("the patch leaves no object"));
    }
    object::check_type(kind, &mut new)?;
    Ok(new)
}

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_SCALARS: &str = "$deleteFromPrimitiveList/";

fn merge_map(map: &mut Map<String, Value>, patch: &Map<String, Value>, node: Option<Node<'_>>) {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            map.clear();
            map.extend(patch.iter().filter(|(k, _)| *k != DIRECTIVE).map(|(k, v)| (k.clone(), v.clone())));
            return;
        }
        Some("delete") => return map.clear(),
        _ => {}
    }
    if let Some(kept) = patch.get(RETAIN).and_then(Value::as_array) {
        map.retain(|name, _| kept.iter().any(|k| k == name));
    }
    for (field, change) in patch {
        if let Some(list) = field.strip_prefix(DELETE_SCALARS) {
            if let (Some(Value::Array(items)), Some(gone)) = (map.get_mut(list), change.as_array()) {
                items.retain(|item| !gone.contains(item));
            }
        } else if field.starts_with('$') {
            continue;
        } else if change.is_null() || directive(change) == Some("delete") {
            map.remove(field);
        } else {
            let at = map.entry(field).or_insert(Value::Null);
            merge_value(at, change, node.and_then(|n| n.field(field)));
        }
    }
    for (field, order) in patch {
        if let (Some(list), Some(order)) = (field.strip_prefix(ORDER), order.as_array())
            && let Some(Value::Array(items)) = map.get_mut(list)
        {
            let key = node.and_then(|n| n.field(list)).and_then(Node::merge_key);
            reorder(items, order, key);
        }
    }
}

fn merge_value(value: &mut Value, change: &Value, node: Option<Node<'_>>) {
    match change {
        Value::Object(patch) => {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            if let Value::Object(map) = value {
                merge_map(map, patch, node);
            }
        }
        Value::Array(patch) => {
            let items = match value {
                Value::Array(items) => std::mem::take(items),
                _ => Vec::new(),
            };
            *value = Value::Array(merge_list(items, patch, node));
        }
        scalar => *value = scalar.clone(),
    }
}

fn directive(item: &Value) -> Option<&str> {
    item.get(DIRECTIVE).and_then(Value::as_str)
}

fn merge_list(mut items: Vec<Value>, patch: &[Value], node: Option<Node<'_>>) -> Vec<Value> {
    let key = node.and_then(Node::merge_key);
    let replaces = patch.iter().any(|item| directive(item) == Some("replace"));
    if let (Some(key), false) = (key, replaces) {
        for item in patch {
            let position = items.iter().position(|old| old.get(key).is_some() && old.get(key) == item.get(key));
            match (directive(item), position) {
                (Some("delete"), Some(index)) => {
                    items.remove(index);
                }
                (Some("delete"), None) => {}
                (_, Some(index)) => merge_value(&mut items[index], item, node.and_then(Node::items)),
                (_, None) => {
                    let mut added = Value::Null;
                    merge_value(&mut added, item, node.and_then(Node::items));
                    items.push(added);
                }
            }
        }
        return items;
    }
    if node.is_some_and(Node::merges_scalars) && !replaces {
        for item in patch {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        return items;
    }
    patch.iter().filter(|item| directive(item).is_none()).cloned().collect()
}

/// Sorts the items that `order` names among themselves; the others keep their places.
fn reorder(items: &mut [Value], order: &[Value], key: Option<&str>) {
    let rank = |item: &Value| match key {
        Some(key) => order.iter().position(|o| o.get(key).is_some() && o.get(key) == item.get(key)),
        None => order.iter().position(|o| o == item),
    };
    let places: Vec<usize> = (0..items.len()).filter(|&i| rank(&items[i]).is_some()).collect();
    let mut listed: Vec<Value> = places.iter().map(|&i| items[i].clone()).collect();
    listed.sort_by_key(|item| rank(item));
    for (place, item) in places.into_iter().zip(listed) {
        items[place] = item;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use serde_json::json;

    /// Patches a Deployment whose pods have two containers, and returns the pod template's spec.
    fn strategic(pod_patch: Value) -> Value {
        let kind = Registry::new(Vec::new()).find("apps", "v1", "deployments").unwrap();
        let old = json!({"metadata": {"name": "d"}, "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}},
            "template": {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}],
                "tolerations": [{"key": "x"}], "nodeSelector": {"k": "v"},
                "volumes": [{"name": "v", "emptyDir": {}}]}}}});
        let patch = json!({"spec": {"template": {"spec": pod_patch}}});
        patched(PatchType::Strategic, &kind, &old, &patch).unwrap()["spec"]["template"]["spec"].take()
    }

    #[test]
    fn strategic_patches_merge_lists_by_key() {
        for (patch, field, expected) in [
            (
                json!({"containers": [{"name": "b", "image": "2"}]}),
                "containers",
                json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]),
            ),
            (
                json!({"containers": [{"name": "c"}], "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}),
                "containers",
                json!([{"name": "c"}, {"name": "a", "image": "1"}, {"name": "b", "image": "1"}]),
            ),
            (
                json!({"containers": [{"name": "a", "$patch": "delete"}]}),
                "containers",
                json!([{"name": "b", "image": "1"}]),
            ),
            (json!({"containers": [{"name": "z"}, {"$patch": "replace"}]}), "containers", json!([{"name": "z"}])),
            (json!({"tolerations": [{"key": "y"}]}), "tolerations", json!([{"key": "y"}])),
            (json!({"nodeSelector": null}), "nodeSelector", Value::Null),
            (json!({"nodeSelector": {"$patch": "delete"}}), "nodeSelector", Value::Null),
            (json!({"nodeSelector": {"$patch": "replace", "n": "w"}}), "nodeSelector", json!({"n": "w"})),
            (
                json!({"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}),
                "volumes",
                json!([{"name": "v", "secret": {"secretName": "s"}}]),
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}),
                "containers",
                json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}, {"name": "b", "image": "1"}]),
            ),
        ] {
            assert_eq!(strategic(patch.clone())[field], expected, "{patch}");
        }
    }

    #[test]
    fn scalars_merge_where_the_schema_says_so() {
        let kind = Registry::new(Vec::new()).find("", "v1", "configmaps").unwrap();
        let old = json!({"metadata": {"name": "c", "finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}});
        let new = patched(PatchType::Strategic, &kind, &old, &patch).unwrap();
        assert_eq!(new["metadata"]["finalizers"], json!(["b", "c"]));
    }

    #[test]
    fn json_and_merge_patches_do_what_their_rfcs_say() {
        let kind = Registry::new(Vec::new()).find("", "v1", "configmaps").unwrap();
        let old = json!({"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}});
        let merged = patched(PatchType::Merge, &kind, &old, &json!({"data": {"a": null, "c": "3"}})).unwrap();
        assert_eq!(merged["data"], json!({"b": "2", "c": "3"}));
        let operations = json!([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "remove", "path": "/data/a"}]);
        assert_eq!(patched(PatchType::Json, &kind, &old, &operations).unwrap()["data"], json!({"b": "2"}));
        let failed = json!([{"op": "test", "path": "/data/a", "value": "9"}]);
        assert_eq!(patched(PatchType::Json, &kind, &old, &failed).unwrap_err().code, 422);
        assert_eq!(patched(PatchType::Merge, &kind, &old, &json!({"metadata": null})).unwrap_err().code, 400);
    }
}
