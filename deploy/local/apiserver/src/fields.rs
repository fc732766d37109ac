//! Sets of fields: who owns what in an object. A set is kept as `fieldsV1` in `metadata.managedFields` and here as the
//! set of the paths of its leaves.

use crate::schema::{ListKind, Node};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Steps from the root: `f:NAME` a field, `k:{KEYS}` the list item with these keys, `v:VALUE` the item of a set.
pub type Path = Vec<String>;
/// Paths of leaves, and of list items themselves.
pub type FieldSet = BTreeSet<Path>;

/// The set of all fields of a value.
pub fn fields_of(value: &Value, node: Option<Node<'_>>) -> FieldSet {
    let mut set = FieldSet::new();
    collect(value, node, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, node: Option<Node<'_>>, path: &mut Path, set: &mut FieldSet) {
    match value {
        Value::Object(map) if !map.is_empty() && !node.is_some_and(Node::is_atomic_map) => {
            for (name, child) in map {
                path.push(format!("f:{name}"));
                collect(child, node.and_then(|n| n.field(name)), path, set);
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => match node.map_or(ListKind::Atomic, Node::list_kind) {
            ListKind::Atomic => {
                set.insert(path.clone());
            }
            ListKind::Set => set.extend(items.iter().map(|item| [path.as_slice(), &[format!("v:{item}")]].concat())),
            ListKind::Map(keys) => {
                for item in items {
                    path.push(item_step(item, keys));
                    set.insert(path.clone());
                    if item.as_object().is_some_and(|o| !o.is_empty()) {
                        collect(item, node.and_then(Node::items), path, set);
                    }
                    path.pop();
                }
            }
        },
        _ => {
            if !path.is_empty() {
                set.insert(path.clone());
            }
        }
    }
}

/// The step to a list item.
fn item_step(item: &Value, keys: &[Value]) -> String {
    format!("k:{}", Value::Object(item_keys(item, keys)))
}

/// The key fields that an item has.
fn item_keys(item: &Value, keys: &[Value]) -> Map<String, Value> {
    let named = keys.iter().filter_map(Value::as_str);
    named.filter_map(|key| item.get(key).map(|value| (key.to_owned(), value.clone()))).collect()
}

/// Whether two items of a list have the same keys.
pub fn same_item(a: &Value, b: &Value, keys: &[Value]) -> bool {
    item_keys(a, keys) == item_keys(b, keys)
}

fn position(items: &[Value], step: &str) -> Option<usize> {
    if let Some(keys) = step.strip_prefix("k:") {
        let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
        return items.iter().position(|item| keys.iter().all(|(key, value)| item.get(key) == Some(value)));
    }
    let wanted: Value = serde_json::from_str(step.strip_prefix("v:")?).ok()?;
    items.iter().position(|item| *item == wanted)
}

/// The value at a path.
pub fn value_at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match (step.strip_prefix("f:"), value) {
        (Some(name), _) => value.get(name),
        (None, Value::Array(items)) => position(items, step).map(|index| &items[index]),
        _ => None,
    })
}

/// Removes what is at a path, and the parents that it leaves empty.
pub fn remove_at(value: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    match (step.strip_prefix("f:"), value) {
        (Some(name), Value::Object(map)) => {
            if let (false, Some(child)) = (rest.is_empty(), map.get_mut(name)) {
                remove_at(child, rest);
            }
            if rest.is_empty() || map.get(name).is_some_and(is_empty) {
                map.remove(name);
            }
        }
        (None, Value::Array(items)) => {
            if let Some(index) = position(items, step) {
                if rest.is_empty() {
                    items.remove(index);
                } else {
                    remove_at(&mut items[index], rest);
                }
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// The nested form that `managedFields` holds.
pub fn to_fields_v1(set: &FieldSet) -> Value {
    let mut root = json!({});
    for path in set {
        let mut at = &mut root;
        for step in path {
            at = &mut at[step.as_str()];
            if at.is_null() {
                *at = json!({});
            }
        }
    }
    // A path that is a member and has members below it says so by a dot.
    for path in set {
        let Some(at) = path.iter().try_fold(&mut root, |at, step| at.get_mut(step.as_str())) else {
            continue;
        };
        if at.as_object().is_some_and(|o| !o.is_empty()) {
            at["."] = json!({});
        }
    }
    root
}

/// The set of a nested form; what does not look like one is empty.
pub fn from_fields_v1(fields: &Value) -> FieldSet {
    fn walk(fields: &Value, path: &mut Path, set: &mut FieldSet) {
        for (step, child) in fields.as_object().into_iter().flatten() {
            if step == "." {
                set.insert(path.clone());
                continue;
            }
            path.push(step.clone());
            if child.as_object().is_none_or(Map::is_empty) {
                set.insert(path.clone());
            } else {
                walk(child, path, set);
            }
            path.pop();
        }
    }
    let mut set = FieldSet::new();
    walk(fields, &mut Vec::new(), &mut set);
    set
}

/// A path as conflicts show it: `.spec.template.spec.containers[name="a"].image`.
pub fn display(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        if let Some(name) = step.strip_prefix("f:") {
            text.push('.');
            text.push_str(name);
        } else if let Some(keys) = step.strip_prefix("k:") {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let listed: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            text.push_str(&format!("[{}]", listed.join(",")));
        } else if let Some(value) = step.strip_prefix("v:") {
            text.push_str(&format!("[={value}]"));
        }
    }
    text
}
