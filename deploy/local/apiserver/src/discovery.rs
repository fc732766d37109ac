//! Discovery: which groups, versions and resources there are, in the old form and in the aggregated one.

use crate::kinds::{Kind, Registry};
use crate::status::{ApiError, ApiResult};
use serde_json::{Value, json};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `/version`.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "37", "gitVersion": "v1.37.0+keelson-local", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// The document at `/api`, `/apis`, `/api/v1` or `/apis/GROUP[/VERSION]`, with its media type.
pub fn document(registry: &Registry, segments: &[&str], accept: &str) -> ApiResult<(&'static str, Value)> {
    let aggregated =
        accept.split(',').any(|media| media.contains("as=APIGroupDiscoveryList") && media.contains("v=v2;"))
            || accept.split(',').any(|media| media.contains("as=APIGroupDiscoveryList") && media.ends_with("v=v2"));
    let plain = |value| Ok(("application/json", value));
    match segments {
        ["api"] if aggregated => Ok((AGGREGATED, aggregated_list(registry, |group| group.is_empty()))),
        ["apis"] if aggregated => Ok((AGGREGATED, aggregated_list(registry, |group| !group.is_empty()))),
        ["api"] => plain(json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}]})),
        ["apis"] => {
            let groups: Vec<Value> =
                groups(registry).iter().filter(|g| !g.is_empty()).map(|g| api_group(registry, g)).collect();
            plain(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", group] if groups(registry).iter().any(|g| g == group) && !group.is_empty() => {
            let mut document = api_group(registry, group);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            plain(document)
        }
        ["api", version] => plain(resource_list(registry, "", version)?),
        ["apis", group, version] => plain(resource_list(registry, group, version)?),
        [] => plain(
            json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        ),
        _ => Err(ApiError::no_such_path()),
    }
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

fn verbs(kind: &Kind) -> Value {
    if kind.ephemeral {
        return json!(["create"]);
    }
    json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])
}

/// A subresource's verbs and the kind of its bodies: `(group, version, kind)`.
fn subresource(kind: &Kind, name: &str) -> (Value, (String, String, String)) {
    let of = |group: &str, version: &str, kind: &str| (group.to_owned(), version.to_owned(), kind.to_owned());
    let own = (kind.group.clone(), kind.version.clone(), kind.kind.clone());
    match name {
        "scale" => (json!(["get", "patch", "update"]), of("autoscaling", "v1", "Scale")),
        "log" => (json!(["get"]), own),
        "exec" => (json!(["create", "get"]), of("", "v1", "PodExecOptions")),
        "eviction" => (json!(["create"]), of("policy", "v1", "Eviction")),
        "binding" => (json!(["create"]), of("", "v1", "Binding")),
        "token" => (json!(["create"]), of("authentication.k8s.io", "v1", "TokenRequest")),
        "finalize" => (json!(["update"]), own),
        _ => (json!(["get", "patch", "update"]), own),
    }
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> ApiResult<Value> {
    let mut resources = Vec::new();
    for kind in registry.kinds().iter().filter(|k| k.group == group && k.version == version) {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": verbs(kind),
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
            if (body_group.as_str(), body_version.as_str()) != (group, version) {
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

fn aggregated_list(registry: &Registry, wanted: impl Fn(&str) -> bool) -> Value {
    let groups = groups(registry).into_iter().filter(|group| wanted(group));
    let items: Vec<Value> = groups
        .map(|group| {
            let versions: Vec<Value> = versions(registry, &group)
                .into_iter()
                .map(|version| {
                    let kinds = registry.kinds().iter().filter(|k| k.group == group && k.version == version);
                    let resources: Vec<Value> = kinds.map(|kind| aggregated_resource(kind)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let body =
        |(group, version, kind): (String, String, String)| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": kind.plural, "singularResource": kind.singular, "verbs": verbs(kind),
        "responseKind": body((kind.group.clone(), kind.version.clone(), kind.kind.clone())),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    let subresources: Vec<Value> = kind
        .subresources()
        .into_iter()
        .map(|name| {
            let (verbs, response) = subresource(kind, name);
            json!({"subresource": name, "verbs": verbs, "responseKind": body(response)})
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = json!(subresources);
    }
    entry
}
