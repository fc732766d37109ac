//! OpenAPI v3: one document for each group and version, for `kubectl apply`, `explain` and generated clients.

use crate::kinds::{Kind, Registry};
use crate::schema;
use crate::status::{ApiError, ApiResult};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// `/openapi/v3`, `/openapi/v3/api/v1` and `/openapi/v3/apis/GROUP/VERSION`.
pub fn document(registry: &Registry, segments: &[&str]) -> ApiResult<Value> {
    match segments {
        ["v3"] => Ok(index(registry)),
        ["v3", "api", version] => group_version(registry, "", version),
        ["v3", "apis", group, version] => group_version(registry, group, version),
        _ => Err(ApiError::no_such_path()),
    }
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, version) in registry.group_versions() {
        let path = path_of(&group, &version);
        let document = group_document(registry, &group, &version).to_string();
        let hash = Sha256::digest(document.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect::<String>();
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
    }
    json!({"paths": paths})
}

fn group_version(registry: &Registry, group: &str, version: &str) -> ApiResult<Value> {
    if !registry.group_versions().iter().any(|(g, v)| g == group && v == version) {
        return Err(ApiError::no_such_path());
    }
    Ok(group_document(registry, group, version))
}

/// The name of a custom kind's definition: the group's parts reversed, as Kubernetes names them.
fn definition_name(kind: &Kind) -> String {
    let reference = kind.schema.value().get("$ref").and_then(Value::as_str);
    match reference.and_then(|r| r.rsplit('/').next()) {
        Some(name) => name.to_owned(),
        None => {
            let reversed: Vec<&str> = kind.group.rsplit('.').collect();
            format!("{}.{}.{}", reversed.join("."), kind.version, kind.kind)
        }
    }
}

fn group_document(registry: &Registry, group: &str, version: &str) -> Value {
    let kinds: Vec<_> = registry.kinds().iter().filter(|k| k.group == group && k.version == version).collect();
    let roots: Vec<Value> = kinds.iter().map(|kind| kind.schema.value().clone()).collect();
    let mut schemas = schema::reachable(&roots);
    let mut paths = Map::new();
    for kind in &kinds {
        let name = definition_name(kind);
        let definition = schemas.entry(name.clone()).or_insert_with(|| kind.schema.value().clone());
        let identity = json!({"group": group, "version": version, "kind": kind.kind});
        definition["x-kubernetes-group-version-kind"] = json!([identity]);
        let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{}{scope}/{}", path_of(group, version), kind.plural);
        paths.insert(collection.clone(), operations(&name, &identity, &["get", "post"]));
        paths
            .insert(format!("{collection}/{{name}}"), operations(&name, &identity, &["get", "put", "patch", "delete"]));
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.37.0"}, "paths": paths,
        "components": {"schemas": schemas}})
}

/// The operations of a path, with the parameters that clients look for before they use them.
fn operations(definition: &str, identity: &Value, methods: &[&str]) -> Value {
    let content =
        json!({"application/json": {"schema": {"$ref": format!("#{}/{definition}", schema::DEFINITIONS_PATH)}}});
    let parameter =
        |name: &&str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let mut path = Map::new();
    for method in methods {
        let action = if *method == "get" { "list" } else { *method };
        let mut operation = json!({
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": identity,
            "responses": {"200": {"description": "OK", "content": content}},
        });
        if ["post", "put", "patch"].contains(method) {
            let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"].iter().map(parameter).collect();
            operation["parameters"] = json!(parameters);
            operation["requestBody"] = json!({"content": content});
        }
        path.insert((*method).to_owned(), operation);
    }
    Value::Object(path)
}
