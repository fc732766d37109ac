//! Discovery: which groups, versions and resources there are.

use crate::kinds::{Kind, Registry};
use crate::status::{ApiError, ApiResult};
use serde_json::{Value, json};

/// `/version`.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "37", "gitVersion": "v1.37.0+keelson-local", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// The document at `/api`, `/apis`, `/api/v1` or `/apis/GROUP[/VERSION]`.
pub fn document(registry: &Registry, segments: &[&str]) -> ApiResult<Value> {
    Ok(match segments {
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}]}),
        ["apis"] => {
            let groups: Vec<Value> =
                groups(registry).iter().filter(|g| !g.is_empty()).map(|g| api_group(registry, g)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", group] if groups(registry).iter().any(|g| g == group) => {
            let mut document = api_group(registry, group);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        ["api", version] => resource_list(registry, "", version)?,
        ["apis", group, version] => resource_list(registry, group, version)?,
        [] => json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]}),
        _ => return Err(ApiError::no_such_path()),
    })
}

fn groups(registry: &Registry) -> Vec<String> {
    let mut groups: Vec<String> = registry.group_versions().into_iter().map(|(group, _)| group).collect();
    groups.dedup();
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|group| seen.insert(group.clone()));
    groups
}

fn versions(registry: &Registry, group: &str) -> Vec<String> {
    registry.group_versions().into_iter().filter(|(g, _)| g == group).map(|(_, version)| version).collect()
}

fn api_group(registry: &Registry, group: &str) -> Value {
    let versions: Vec<Value> = versions(registry, group)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions[0]})
}

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A subresource's verbs and the kind of its bodies: `(group, version, kind)`.
fn subresource<'a>(kind: &'a Kind, name: &str) -> (&'static [&'static str], (&'a str, &'a str, &'a str)) {
    let own = (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str());
    match name {
        "scale" => (&["get", "patch", "update"], ("autoscaling", "v1", "Scale")),
        "log" => (&["get"], own),
        "exec" => (&["create", "get"], ("", "v1", "PodExecOptions")),
        "eviction" => (&["create"], ("policy", "v1", "Eviction")),
        "binding" => (&["create"], ("", "v1", "Binding")),
        "finalize" => (&["update"], own),
        _ => (&["get", "patch", "update"], own),
    }
}

/// Whether a request may do this to objects, or to one of their subresources.
pub fn allows(kind: &Kind, name: Option<&str>, verb: &str) -> bool {
    name.map_or(&VERBS[..], |name| subresource(kind, name).0).contains(&verb)
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> ApiResult<Value> {
    let mut resources = Vec::new();
    for kind in registry.kinds().iter().filter(|k| k.group == group && k.version == version) {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": VERBS,
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        resources.push(entry);
        for name in kind.subresources() {
            let (verbs, (body_group, body_version, body_kind)) = subresource(kind, name);
            let mut entry = json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": body_kind, "verbs": verbs,
            });
            if (body_group, body_version) != (group, version) {
                entry["group"] = json!(body_group);
                entry["version"] = json!(body_version);
            }
            resources.push(entry);
        }
    }
    if resources.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}
